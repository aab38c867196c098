//! What `everlink check` says about a configuration that can be used.

use std::time::Duration;

use super::load::Loaded;
use super::units::show_duration;
use super::{Address, Config, Upstream};
use crate::metrics::{Metrics, Mode};

/// Kept for links, HTTP and files.
const DESCRIPTORS_KEPT: u64 = 64;
/// An unprivileged user gets so many pipes of full size; no more are made.
const PIPES_MAX: u64 = 128;

/// After this much silence well-known middleboxes forget a connection, some without a word to either end.
const IDLE_CUTS: &[(Duration, &str)] = &[
    (Duration::from_secs(60), "AWS classic ELB"),
    (Duration::from_secs(240), "Azure load balancers, silently"),
    (Duration::from_secs(350), "AWS NLB"),
    (Duration::from_secs(600), "Google Cloud networks"),
];

/// Protocols whose own TLS starts after a greeting, by the port of their servers.
const STARTTLS: &[(u16, &str)] = &[
    (25, "SMTP"),
    (110, "POP3"),
    (143, "IMAP"),
    (587, "SMTP submission"),
    (3306, "MySQL"),
    (5432, "PostgreSQL before 17"),
];

/// How many file descriptors everlink needs when every limit is reached: the warm pool, two for each connection, one
/// for each waiting client, listeners, two for each pipe, and what is kept for everything else.
pub fn descriptors_needed(config: &Config) -> u64 {
    let many = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let mut needed = DESCRIPTORS_KEPT + many(config.http.listen.len()) + u64::from(config.admin.is_some());
    let mut connections = 0u64;
    for upstream in config.upstreams.values() {
        connections = connections.saturating_add(many(upstream.limits.connections));
        for count in [upstream.pool.size, upstream.limits.waiting, upstream.listen.len()] {
            needed = needed.saturating_add(many(count));
        }
    }
    // Each direction of a connection may hold a pipe, each pipe has two ends.
    let pipes = connections.saturating_mul(2).min(PIPES_MAX);
    needed.saturating_add(connections.saturating_mul(2)).saturating_add(2 * pipes)
}

impl Loaded {
    /// Lines for `everlink check`: each upstream's budget and hints, then what the whole will cost.
    pub fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut series = 0;
        for upstream in self.config.upstreams.values() {
            lines.extend(of_upstream(upstream));
            series += Metrics::series_of(Mode::of(upstream), upstream.endpoints.len(), upstream.tls.is_some());
        }
        let upstreams = self.config.upstreams.len();
        let plural = if upstreams == 1 { "" } else { "s" };
        lines.push(format!("metrics: at most {series} series for {upstreams} upstream{plural}"));
        let needed = descriptors_needed(&self.config);
        lines.push(format!("descriptors: the limits need {needed}"));
        lines
    }
}

fn of_upstream(upstream: &Upstream) -> Vec<String> {
    let name = &upstream.name;
    let beat = &upstream.heartbeat;
    let mut lines = vec![format!(
        "{name}: a dead link is noticed within {} (interval {} + {} × timeout {})",
        show_duration(upstream.detection_budget()),
        show_duration(beat.interval),
        beat.misses,
        show_duration(beat.timeout),
    )];
    // Beats come up to a tenth sooner than the interval says, and never later.
    let cuts: Vec<_> = IDLE_CUTS.iter().filter(|(cut, _)| beat.interval >= *cut).collect();
    if !cuts.is_empty() {
        let told: Vec<_> = cuts.iter().map(|(cut, who)| format!("{} ({who})", show_duration(*cut))).collect();
        let interval = show_duration(beat.interval);
        lines.push(format!(
            "{name}: warning: heartbeat.interval {interval} is too long for networks that forget a silent \
             connection after {}; 3s to 10s suit most",
            told.join(", ")
        ));
    }
    if upstream.tls.is_some() {
        for endpoint in &upstream.endpoints {
            let port = match &endpoint.address {
                Address::Ip(address) => address.port(),
                Address::Host { port, .. } => *port,
                Address::Unix(_) => continue,
            };
            if let Some((_, protocol)) = STARTTLS.iter().find(|(known, _)| *known == port) {
                lines.push(format!(
                    "{name}: hint: `tls` speaks TLS from the first byte, which {protocol} (port {port}) does not: leave \
                     `tls` out and let the client speak its own TLS through everlink"
                ));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn loaded(lines: &str) -> Loaded {
        let text = format!("[upstreams.db]\nlisten = \"127.0.0.1:7000\"\nendpoints = [\"db:5432\"]\n{lines}\n");
        parse("config.toml", text, &|_| None).unwrap()
    }

    #[test]
    fn a_summary_tells_budget_series_and_descriptors() {
        // 13 single series, 33 of closed lists, 36 of histograms and 2 of the endpoint.
        let series = Metrics::series_of(Mode::Direct, 1, false);
        assert_eq!(
            loaded("").summary(),
            [
                "db: a dead link is noticed within 14s (interval 5s + 3 × timeout 3s)".to_owned(),
                format!("metrics: at most {series} series for 1 upstream"),
                // 64 kept, HTTP, a listener, a pool of 2, 256 waiting, 1024 pairs, 128 pipes.
                format!("descriptors: the limits need {}", 64 + 1 + 1 + 2 + 256 + 2 * 1024 + 2 * 128),
            ]
        );
    }

    #[test]
    fn few_connections_need_few_pipes() {
        let needed = descriptors_needed(&loaded("limits = { connections = 3, waiting = 1 }").config);
        assert_eq!(needed, 64 + 1 + 1 + 2 + 1 + 2 * 3 + 2 * 6);
    }

    #[test]
    fn an_interval_that_networks_outlast_is_told() {
        let cuts = |interval: &str| {
            let summary = loaded(&format!("heartbeat.interval = \"{interval}\"")).summary();
            summary
                .iter()
                .filter(|line| line.contains("too long"))
                .map(|line| line.matches(" (").count())
                .sum::<usize>()
        };
        assert_eq!([cuts("59s"), cuts("60s"), cuts("4m"), cuts("1h")], [0, 1, 2, 4]);
    }

    #[test]
    fn tls_where_a_server_wants_a_greeting_first_is_told() {
        assert!(
            loaded("tls = {}").summary().iter().any(|line| line.contains("which PostgreSQL before 17 (port 5432)"))
        );
        assert!(!loaded("").summary().iter().any(|line| line.contains("hint")));
    }
}
