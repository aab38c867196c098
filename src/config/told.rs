//! Changes as lines for people. What many upstreams have in common is one line: a default may be that of a thousand.

use std::collections::HashMap;
use std::time::Duration;

use super::diff::Change;
use super::units::show_duration;

/// Up to so many upstreams with the same change have a line each.
const LINES: usize = 3;
/// So many of more are named.
const NAMED: usize = 3;

/// What a change has met in a running program.
#[derive(Debug, Clone, Copy, Default)]
pub struct Met {
    /// Links that stay as they are; `None`: no word about links.
    pub kept: Option<usize>,
    /// Clients of something that goes.
    pub clients: usize,
}

/// A line for each change, or for each that many upstreams share, in their order. `stay`: how long clients of what goes may.
pub fn lines(changes: &[Change], met: impl Fn(&Change) -> Met, stay: Duration) -> Vec<String> {
    let mut shared: HashMap<String, Vec<&Change>> = HashMap::new();
    for change in changes.iter().filter(|change| change.upstream.is_some()) {
        shared.entry(change.of_any()).or_default().push(change);
    }
    let mut lines = Vec::new();
    for change in changes {
        let told = |same: &[&Change], what: String| {
            let all: Vec<Met> = same.iter().map(|change| met(change)).collect();
            let kept = all.iter().filter_map(|met| met.kept).reduce(|a, b| a + b);
            let clients = all.iter().map(|met| met.clients).sum();
            what + &count(kept, "link", " kept") + &count(Some(clients).filter(|n| *n > 0), "client", &may_stay(stay))
        };
        let Some(same) = change.upstream.as_ref().and_then(|_| shared.get_mut(&change.of_any())) else {
            lines.push(told(&[change], change.to_string()));
            continue;
        };
        if same.len() > LINES {
            let named: Vec<_> = same.iter().take(NAMED).filter_map(|change| change.upstream.as_deref()).collect();
            let (all, more, named) = (same.len(), same.len() - named.len(), named.join(", "));
            lines.push(told(same, format!("{all} upstreams ({named} and {more} more): {}", change.of_any())));
            same.clear();
        } else if !same.is_empty() {
            lines.push(told(&[change], change.to_string()));
        }
    }
    lines
}

fn may_stay(stay: Duration) -> String {
    format!(" may stay {}", show_duration(stay))
}

/// `, 2 links kept`.
fn count(number: Option<usize>, what: &str, then: &str) -> String {
    match number {
        None => String::new(),
        Some(1) => format!(", 1 {what}{then}"),
        Some(number) => format!(", {number} {what}s{then}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, diff, parse};

    fn config(interval: &str, names: &[&str]) -> Config {
        let all =
            names.iter().map(|name| format!("[upstreams.{name}]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"a:1\"]\n"));
        let text = format!("[defaults.heartbeat]\ninterval = \"{interval}\"\n{}", all.collect::<String>());
        parse("c", text, &|_| None).map(|loaded| loaded.config).unwrap()
    }

    fn told(old: &Config, new: &Config) -> Vec<String> {
        let met = |change: &Change| match change.is_removed() {
            true => Met { kept: None, clients: 1 },
            false => Met { kept: Some(2), clients: 0 },
        };
        lines(&diff(old, new), met, Duration::from_secs(8))
    }

    #[test]
    fn what_a_few_share_is_told_for_each_and_what_many_share_once() {
        let (few, many) = (["a", "b", "c"], ["a", "b", "c", "d", "e"]);
        assert_eq!(
            told(&config("5s", &few), &config("3s", &few)),
            ["a", "b", "c"].map(|name| format!("{name}: heartbeat.interval 5s → 3s, live, 2 links kept"))
        );
        assert_eq!(
            told(&config("5s", &many), &config("3s", &many)),
            ["5 upstreams (a, b, c and 2 more): heartbeat.interval 5s → 3s, live, 10 links kept"]
        );
    }

    #[test]
    fn the_clients_of_what_goes_are_told_with_their_time() {
        let one = config("5s", &["a"]);
        assert_eq!(told(&config("5s", &["a", "b"]), &one), ["b: removed, 1 client may stay 8s"]);
        assert_eq!(
            told(&config("5s", &["a", "b", "c", "d", "e"]), &one),
            ["4 upstreams (b, c, d and 1 more): removed, 4 clients may stay 8s"]
        );
    }
}
