//! What `everlink check` says about a configuration that can be used.

use std::time::Duration;

use crate::config::{
    Address, Beats, Config, Gateway, GatewayLimits, Tunnel, Upstream, descriptors_needed, show_duration, show_size,
};
use crate::metrics::{Metrics, Mode};

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

/// The budget, the memory and the hints of each upstream and of the gateway, then what the
/// whole will cost.
pub fn lines(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let mut series = 0;
    for upstream in config.upstreams.values() {
        lines.extend(of_upstream(upstream));
        let token = upstream.tunnel.as_ref().is_some_and(|tunnel| tunnel.token_file.is_some());
        let (mode, tls) = (Mode::of(upstream), upstream.tls.is_some());
        series += Metrics::series_of(mode, upstream.endpoints.len(), tls, token);
    }
    if let Some(gateway) = &config.gateway {
        lines.extend(of_gateway(gateway));
    }
    let upstreams = config.upstreams.len();
    let plural = if upstreams == 1 { "" } else { "s" };
    if upstreams > 0 {
        lines.push(format!("metrics: at most {series} series for {upstreams} upstream{plural}"));
    }
    let needed = descriptors_needed(config);
    lines.push(format!("descriptors: the limits need {needed}"));
    lines
}

fn of_upstream(upstream: &Upstream) -> Vec<String> {
    let name = &upstream.name;
    let beat = &upstream.heartbeat;
    let mut lines = vec![format!("{name}: {}", budget(&Beats::from(beat)))];
    if let Some(tunnel) = &upstream.tunnel {
        lines.push(format!("{name}: {}", memory(tunnel, upstream.pool.size)));
    }
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
    if upstream.tls.is_some() && upstream.tunnel.is_none() {
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

fn of_gateway(gateway: &Gateway) -> Vec<String> {
    let budget = match &gateway.heartbeat {
        Some(beats) => budget(beats),
        None => "a dead link is noticed within the budget of its dialer: no [gateway.heartbeat]".to_owned(),
    };
    let GatewayLimits { sessions, memory, .. } = gateway.limits;
    let each = memory / u64::try_from(sessions).unwrap_or(u64::MAX).max(1);
    vec![
        format!("gateway: {budget}"),
        format!(
            "gateway: its sessions hold about {} together (limits.memory), so {} each if all {sessions} hold the same; \
             past that each may still come to 256KiB and 16KiB for each open stream; one alone keeps at most {} for \
             replay (resume.buffer)",
            show_size(memory),
            show_about(each),
            show_size(gateway.resume.buffer),
        ),
    ]
}

fn budget(beats: &Beats) -> String {
    format!(
        "a dead link is noticed within {} (interval {} + {} × timeout {})",
        show_duration(beats.budget()),
        show_duration(beats.interval),
        beats.misses,
        show_duration(beats.timeout),
    )
}

/// The most that all links of a tunnel hold on our side; the gateway has limits of its own.
fn memory(tunnel: &Tunnel, links: usize) -> String {
    let session = tunnel.resume.buffer.saturating_add(tunnel.windows);
    let parts =
        format!("resume.buffer {} + limits.windows {}", show_size(tunnel.resume.buffer), show_size(tunnel.windows));
    match links {
        1 => format!("its session holds at most {} here ({parts})", show_size(session)),
        _ => {
            let all = session.saturating_mul(u64::try_from(links).unwrap_or(u64::MAX));
            format!("its {links} sessions hold at most {} here, {} each ({parts})", show_size(all), show_size(session))
        }
    }
}

/// Rounded down to a unit that people can read.
fn show_about(bytes: u64) -> String {
    let unit = [1 << 40, 1 << 30, 1 << 20, 1 << 10].into_iter().find(|unit| bytes / unit >= 10).unwrap_or(1);
    show_size(bytes / unit * unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Loaded, parse};

    fn loaded(lines: &str) -> Loaded {
        let text = format!("[upstreams.db]\nlisten = \"127.0.0.1:7000\"\nendpoints = [\"db:5432\"]\n{lines}\n");
        parse("config.toml", text, &|_| None).unwrap()
    }

    #[test]
    fn a_summary_tells_budget_series_and_descriptors() {
        // 15 single series, 31 of closed lists, 36 of histograms and 3 of the endpoint.
        let series = Metrics::series_of(Mode::Direct, 1, false, false);
        assert_eq!(series, 15 + 31 + 36 + 3);
        assert_eq!(
            lines(&loaded("").config),
            [
                "db: a dead link is noticed within 14s (interval 5s + 3 × timeout 3s)".to_owned(),
                format!("metrics: at most {series} series for 1 upstream"),
                // 64 kept, HTTP, a listener, a pool of 2, 256 waiting, 1024 pairs, 128 pipes.
                format!("descriptors: the limits need {}", 64 + 1 + 1 + 2 + 256 + 2 * 1024 + 2 * 128),
            ]
        );
    }

    #[test]
    fn a_tunnel_and_a_gateway_tell_their_memory_and_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "0123456789abcdef").unwrap();
        let text = format!(
            "http.listen = \"off\"\n[upstreams.site]\nmode = \"tunnel\"\nendpoints = [\"127.0.0.1:3306\"]\n\
             token_file = {token:?}\npool.size = 3\nlimits = {{ connections = 100, waiting = 10 }}\n\
             forwards = [{{ listen = [\"127.0.0.1:1\", \"unix:/a\"], service = \"a\" }}]\n\
             [gateway]\nlisten = \"127.0.0.1:7443\"\ntoken_file = {token:?}\n\
             limits = {{ sessions = 6, streams = 7, pending = 5 }}\nservices = {{ a = \"a:1\" }}\n"
        );
        let loaded = parse("config.toml", text, &|_| None).unwrap_or_else(|report| panic!("{report}"));
        // 64 kept; 2 doors, 3 links, 10 waiting, 100 connections; a listener, 6 sessions, 7 streams, 5 unproven.
        let needed = 64 + 2 + 3 + 10 + 100 + 1 + 6 + 7 + 5;
        assert_eq!(descriptors_needed(&loaded.config), needed);
        assert_eq!(
            lines(&loaded.config),
            [
                "site: a dead link is noticed within 14s (interval 5s + 3 × timeout 3s)".to_owned(),
                "site: its 3 sessions hold at most 240MiB here, 80MiB each (resume.buffer 16MiB + limits.windows 64MiB)"
                    .to_owned(),
                "gateway: a dead link is noticed within the budget of its dialer: no [gateway.heartbeat]".to_owned(),
                "gateway: its sessions hold about 1GiB together (limits.memory), so 170MiB each if all 6 hold the \
                 same; past that each may still come to 256KiB and 16KiB for each open stream; one alone keeps at most \
                 16MiB for replay (resume.buffer)"
                    .to_owned(),
                format!("metrics: at most {} series for 1 upstream", Metrics::series_of(Mode::Tunnel, 1, false, true)),
                format!("descriptors: the limits need {needed}"),
            ]
        );
        let beats = "name = \"x\"\nheartbeat = { misses = 1 }\n";
        let text = format!("{}{beats}services = {{ a = \"a:1\" }}", {
            format!("[gateway]\nlisten = \"127.0.0.1:7443\"\ntoken_file = {token:?}\n")
        });
        let loaded = parse("config.toml", text, &|_| None).unwrap_or_else(|report| panic!("{report}"));
        let lines = lines(&loaded.config);
        assert_eq!(lines[0], "gateway: a dead link is noticed within 8s (interval 5s + 1 × timeout 3s)");
        assert!(!lines.iter().any(|line| line.starts_with("metrics: ")), "{lines:?}");
    }

    #[test]
    fn an_interval_that_networks_outlast_is_told() {
        let cuts = |interval: &str| {
            let summary = lines(&loaded(&format!("heartbeat.interval = \"{interval}\"")).config);
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
            lines(&loaded("tls = {}").config)
                .iter()
                .any(|line| line.contains("which PostgreSQL before 17 (port 5432)"))
        );
        assert!(!lines(&loaded("").config).iter().any(|line| line.contains("hint")));
    }
}
