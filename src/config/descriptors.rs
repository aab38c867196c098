//! How many file descriptors a configuration asks for.

use super::{Config, GatewayLimits};

/// Kept for links, HTTP and files.
const DESCRIPTORS_KEPT: u64 = 64;
/// An unprivileged user gets so many pipes of full size; no more are made.
const PIPES_MAX: u64 = 128;

/// How many file descriptors everlink needs when every limit is reached. An upstream's: its links, two for each
/// connection in direct mode and one in tunnel mode, one for each waiting client, listeners, two for each pipe. A
/// gateway's: listeners, one for each session, one for each stream of one session at its limit, one for each connection not
/// yet proven; that all sessions are full at once no host provides for, and what is too many is refused. And what is kept for
/// everything else.
pub fn descriptors_needed(config: &Config) -> u64 {
    let many = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let mut needed = DESCRIPTORS_KEPT + many(config.http.listen.len()) + u64::from(config.admin.is_some());
    // Those whose bytes move from socket to socket.
    let mut carried = 0u64;
    for upstream in config.upstreams.values() {
        let connections = many(upstream.limits.connections);
        let doors = match &upstream.tunnel {
            None => {
                carried = carried.saturating_add(connections);
                needed = needed.saturating_add(connections.saturating_mul(2));
                upstream.listen.len()
            }
            Some(tunnel) => {
                needed = needed.saturating_add(connections);
                tunnel.forwards.iter().map(|forward| forward.listen.len()).sum()
            }
        };
        for count in [upstream.pool.size, upstream.limits.waiting, doors] {
            needed = needed.saturating_add(many(count));
        }
    }
    if let Some(gateway) = &config.gateway {
        let GatewayLimits { sessions, streams, pending, .. } = gateway.limits;
        for count in [many(gateway.listen.len()), many(sessions), many(streams), many(pending)] {
            needed = needed.saturating_add(count);
        }
    }
    // Each direction of a connection may hold a pipe, each pipe has two ends.
    let pipes = carried.saturating_mul(2).min(PIPES_MAX);
    needed.saturating_add(2 * pipes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn few_connections_need_few_pipes() {
        let text = "[upstreams.db]\nlisten = \"127.0.0.1:7000\"\nendpoints = [\"db:5432\"]\n\
                    limits = { connections = 3, waiting = 1 }\n";
        let loaded = parse("config.toml", text, &|_| None).unwrap();
        let needed = descriptors_needed(&loaded.config);
        assert_eq!(needed, 64 + 1 + 1 + 2 + 1 + 2 * 3 + 2 * 6);
    }
}
