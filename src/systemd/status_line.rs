//! The one line that `systemctl status` shows.

use std::time::SystemTime;

use crate::clock;
use crate::log;
use crate::metrics::{Label, LinkState};
use crate::status::Status;

/// Upstreams that are down and named; the others are counted.
const NAMED: usize = 3;

/// How the links fare and what became of the last reload:
/// `2 of 3 upstreams up (down: cache), 5 of 6 links; reload applied 2026-11-26T01:02:03Z`.
///
/// Links that clients have for themselves are not among the links: they come and go with the clients.
pub fn how_it_fares(status: &Status) -> String {
    let mut parts = Vec::new();
    let upstreams = status.upstreams();
    if !upstreams.is_empty() {
        let down: Vec<_> = upstreams.values().filter(|one| one.metrics.up.get() != 1).map(|one| &*one.name).collect();
        let links = |state: LinkState| -> i64 {
            upstreams.values().filter_map(|one| one.metrics.links.get(state.index())).map(|gauge| gauge.get()).sum()
        };
        let up = links(LinkState::Up);
        let kept = [LinkState::Connecting, LinkState::Suspect, LinkState::Waiting, LinkState::Failed];
        let all = up + kept.into_iter().map(links).sum::<i64>();
        let named = match down.len() {
            0 => String::new(),
            1..=NAMED => format!(" (down: {})", down.join(", ")),
            more => format!(" (down: {} and {} more)", down[..NAMED].join(", "), more - NAMED),
        };
        let (count, total) = (upstreams.len() - down.len(), upstreams.len());
        let noun = if total == 1 { "upstream" } else { "upstreams" };
        parts.push(format!("{count} of {total} {noun} up{named}, {up} of {all} links"));
    }
    if let Some(gateway) = status.gateway() {
        let sessions = gateway.sessions().len();
        parts.push(format!("gateway with {sessions} session{}", if sessions == 1 { "" } else { "s" }));
    }
    if let Some(reload) = &status.config.load().last_reload {
        let why = match reload.lines.first().filter(|_| reload.outcome == "rejected") {
            Some(line) => format!(": {}", log::printable(line)),
            None => String::new(),
        };
        parts.push(format!("reload {} {}{why}", reload.outcome, seconds(reload.at)));
    }
    parts.join("; ")
}

/// What a drain waits for.
pub fn what_it_waits_for(clients: usize) -> String {
    match clients {
        1 => "draining: 1 client is open".to_owned(),
        clients => format!("draining: {clients} clients are open"),
    }
}

/// RFC 3339 without the part of a second.
fn seconds(time: SystemTime) -> String {
    let mut text = clock::rfc3339(time);
    if let Some(point) = text.find('.') {
        text.replace_range(point.., "Z");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::http::example;
    use crate::status::{ConfigStatus, ReloadStatus};

    #[test]
    fn it_counts_links_names_what_is_down_and_tells_the_last_reload() {
        let status = example::busy_status();
        let mut config = ConfigStatus::clone(&status.config.load());
        config.last_reload = Some(ReloadStatus {
            at: UNIX_EPOCH + Duration::from_millis(1_500),
            outcome: "applied",
            lines: vec!["chat: something".to_owned()],
        });
        status.config.store(Arc::new(config.clone()));
        assert_eq!(how_it_fares(&status), "1 of 1 upstream up, 1 of 2 links; reload applied 1970-01-01T00:00:01Z");
        status.add_upstream(&Arc::new(example::upstream("cache")));
        config.last_reload = Some(ReloadStatus {
            at: UNIX_EPOCH,
            outcome: "rejected",
            lines: vec!["config.toml:3:1: what\nREADY=1".to_owned()],
        });
        status.config.store(Arc::new(config));
        assert_eq!(
            how_it_fares(&status),
            "1 of 2 upstreams up (down: cache), 1 of 2 links; \
             reload rejected 1970-01-01T00:00:00Z: config.toml:3:1: what\\nREADY=1"
        );
        for name in ["d", "e", "f", "g"] {
            status.add_upstream(&Arc::new(example::upstream(name)));
        }
        assert!(how_it_fares(&status).starts_with("1 of 6 upstreams up (down: cache, d, e and 2 more), "));
    }

    #[test]
    fn a_gateway_alone_tells_its_sessions() {
        let status = example::status();
        assert_eq!(how_it_fares(&status), "");
        status.add_gateway(&Arc::new(example::gateway()));
        assert_eq!(how_it_fares(&status), "gateway with 0 sessions");
    }
}
