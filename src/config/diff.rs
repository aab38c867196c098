//! What changed between two configurations, and what a reload has to do about it.

use std::collections::BTreeSet;
use std::fmt;

use super::keys::{Class, Scope};
use super::values::{Values, of_top, of_upstream};
use super::{Config, Upstream};

/// One key with another value, or an upstream that came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `None`: not an upstream's.
    pub upstream: Option<String>,
    /// `heartbeat.interval`, `http.listen`; `upstream` for one that came or went.
    pub key: String,
    /// For people; what a beat says shows as `***`.
    pub old: String,
    pub new: String,
    pub class: Class,
}

/// The key of a change that is a whole upstream.
const WHOLE: &str = "upstream";
const ABSENT: &str = "absent";
const PRESENT: &str = "present";

impl Change {
    pub fn is_added(&self) -> bool {
        self.key == WHOLE && self.new == PRESENT
    }

    pub fn is_removed(&self) -> bool {
        self.key == WHOLE && self.new == ABSENT
    }
}

impl fmt::Display for Change {
    /// `chat: heartbeat.interval 5s → 3s, live`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(upstream) = &self.upstream {
            write!(f, "{upstream}: ")?;
        }
        match (self.is_added(), self.is_removed()) {
            (true, _) => f.write_str("added"),
            (_, true) => f.write_str("removed"),
            _ => write!(f, "{} {} → {}, {}", self.key, self.old, self.new, self.class),
        }
    }
}

/// Every change, top tables first, then upstreams by name. Empty exactly if the two are equal.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = of_values(None, Scope::Top, &of_top(old), &of_top(new));
    let names: BTreeSet<&String> = old.upstreams.keys().chain(new.upstreams.keys()).collect();
    for name in names {
        match (old.upstreams.get(name), new.upstreams.get(name)) {
            (Some(old), Some(new)) => changes.extend(of_one(name, old, new)),
            (before, _) => {
                let (old, new) = if before.is_some() { (PRESENT, ABSENT) } else { (ABSENT, PRESENT) };
                changes.push(Change {
                    upstream: Some(name.clone()),
                    key: WHOLE.to_owned(),
                    old: old.to_owned(),
                    new: new.to_owned(),
                    class: Class::Live,
                });
            }
        }
    }
    changes
}

fn of_one(name: &str, old: &Upstream, new: &Upstream) -> Vec<Change> {
    if old == new {
        return Vec::new();
    }
    let mut changes = of_values(Some(name), Scope::Upstream, &of_upstream(old), &of_upstream(new));
    // It follows from the listeners, which are told.
    changes.retain(|change| change.key != "insecure_listen");
    // Switched on or off as a whole: its keys are no news of their own.
    if old.tls.is_some() != new.tls.is_some() {
        changes.retain(|change| !change.key.starts_with("tls."));
    }
    changes
}

fn of_values(upstream: Option<&str>, scope: Scope, old: &Values, new: &Values) -> Vec<Change> {
    let value =
        |values: &Values, key| values.iter().find(|(name, _)| *name == key).and_then(|(_, value)| value.clone());
    let keys: Vec<_> =
        old.iter().chain(new.iter().filter(|(key, _)| old.iter().all(|(name, _)| name != key))).collect();
    keys.into_iter()
        .filter_map(|(key, _)| {
            let (before, after) = (value(old, *key), value(new, *key));
            let words = |value: &Option<super::values::Value>| value.as_ref().map_or("unset".to_owned(), |v| v.words());
            (before != after).then(|| Change {
                upstream: upstream.map(str::to_owned),
                key: (*key).to_owned(),
                old: words(&before),
                new: words(&after),
                // `tls` as a whole has no row; it is read when dialling, like its keys.
                class: scope.key(key).map_or(Class::NextDial, |key| key.class),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn config(text: &str) -> Config {
        parse("config.toml", text, &|_| None).map(|loaded| loaded.config).unwrap()
    }

    fn told(old: &str, new: &str) -> Vec<String> {
        let upstream = "[upstreams.chat]\nlisten = \"127.0.0.1:7000\"\nendpoints = [\"chat:1\"]\n";
        let chat = |lines: &str| {
            if lines.contains("[upstreams.chat]") { lines.to_owned() } else { format!("{upstream}{lines}") }
        };
        diff(&config(&chat(old)), &config(&chat(new))).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_change_tells_its_key_its_values_and_what_it_takes() {
        assert_eq!(told("", "heartbeat.interval = \"3s\""), ["chat: heartbeat.interval 5s → 3s, live"]);
        assert_eq!(told("retry.connect_timeout = \"1s\"", ""), ["chat: retry.connect_timeout 1s → 5s, next dial"]);
        assert_eq!(told("", "[log]\nformat = \"json\""), ["log.format auto → json, live"]);
        assert_eq!(told("", "[http]\nlisten = \"off\""), ["http.listen 127.0.0.1:9900 → off, rebind"]);
        assert_eq!(told("", "[admin]\nsocket = \"/a\""), ["admin.socket unset → /a, rebind"]);
        assert_eq!(
            told(
                "[upstreams.chat]\nlisten = \"127.0.0.1:7000\"\nendpoints = [\"a:1\"]",
                "[upstreams.chat]\nlisten = [\"127.0.0.1:7000\", \"unix:/a\"]\nendpoints = [\"a:1\", { address = \"b:1\", priority = 2 }]",
            ),
            [
                "chat: listen 127.0.0.1:7000 → 127.0.0.1:7000, unix:/a, rebind",
                "chat: endpoints a:1 → a:1, b:1 (priority 2), next dial"
            ]
        );
    }

    #[test]
    fn what_a_beat_says_is_not_told() {
        assert_eq!(
            told(
                "heartbeat = { send = \"AUTH a\", expect = \"ok\" }",
                "heartbeat = { send = \"AUTH b\", expect = \"ok\" }"
            ),
            ["chat: heartbeat.send *** → ***, live"]
        );
    }

    #[test]
    fn tls_comes_and_goes_as_a_whole() {
        assert_eq!(told("", "tls = { server_name = \"a\" }"), ["chat: tls off → on, next dial"]);
        assert_eq!(
            told("tls = { alpn = [\"a\"] }", "tls = { server_name = \"a\" }"),
            ["chat: tls.server_name unset → a, next dial", "chat: tls.alpn a → none, next dial"]
        );
    }

    #[test]
    fn upstreams_come_and_go() {
        let other = "[upstreams.a]\nlisten = \"unix:/a\"\nendpoints = [\"a:1\"]";
        assert_eq!(told("", other), ["a: added"]);
        assert_eq!(told(other, ""), ["a: removed"]);
    }

    #[test]
    fn a_default_that_is_overridden_changes_nothing() {
        let own = "heartbeat.interval = \"3s\"\n";
        assert!(told(own, &format!("{own}[defaults.heartbeat]\ninterval = \"9s\"")).is_empty());
    }
}
