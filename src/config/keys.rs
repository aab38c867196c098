//! Every key of the file: its type, default, range, reload class and meaning, in the order they are documented.

mod forwards;
mod gateway;
mod heartbeat;
mod kind;
mod limits;
mod process;
mod retry;
mod scope;
mod tls;
mod upstream;

use std::fmt;
use std::sync::LazyLock;

pub use kind::{DefaultValue, Kind};
pub(super) use scope::Scope;

/// What a reload has to do about a changed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// In force at once; every link and connection stays.
    Live,
    /// Holds from the next dial of a link; at a gateway, from the next connection that arrives.
    NextDial,
    /// The listeners named by the key are bound anew; connections stay.
    Rebind,
    /// The upstream is removed and added again under its name: its links are new, the connections of its clients end
    /// as a removed upstream's do.
    Replace,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::NextDial => "next dial",
            Self::Rebind => "rebind",
            Self::Replace => "replace",
        })
    }
}

/// One key.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// `*` stands for the name of an upstream or a service: `upstreams.*.heartbeat.interval`.
    pub path: &'static str,
    pub kind: Kind,
    pub default: DefaultValue,
    pub class: Class,
    /// One line.
    pub doc: &'static str,
}

impl Key {
    /// The part after `upstreams.*.` (and `forwards.`) or `gateway.services.*.`, or the whole path of any other key.
    pub fn name(&self) -> &'static str {
        [FORWARD, UPSTREAM, SERVICE].iter().find_map(|prefix| self.path.strip_prefix(prefix)).unwrap_or(self.path)
    }

    fn scope(&self) -> Scope {
        if self.path.starts_with(FORWARD) {
            Scope::Forward
        } else if self.path.starts_with(UPSTREAM) {
            Scope::Upstream
        } else if self.path.starts_with(SERVICE) {
            Scope::Service
        } else {
            Scope::Top
        }
    }

    /// Whether `[defaults]` may hold the key.
    pub fn has_defaults(&self) -> bool {
        self.scope() == Scope::Upstream && self.name().contains('.')
    }

    /// The one mode of an upstream in which the key means something; `None`: it is not an upstream's, or fits both.
    pub(super) fn mode(&self) -> Option<Mode> {
        if self.scope() != Scope::Upstream {
            return None;
        }
        match self.name() {
            "listen" | "heartbeat.send" | "heartbeat.expect" | "heartbeat.preset" | "heartbeat.in_use" | "tls.alpn" => {
                Some(Mode::Direct)
            }
            "token_file" | "insecure_plaintext" | "resume.deadline" | "resume.buffer" | "limits.windows" => {
                Some(Mode::Tunnel)
            }
            _ => None,
        }
    }

    /// What values are taken: "200ms to 1h", "1 to 100", "direct, tunnel". Empty if the type says it all.
    pub fn range(&self) -> String {
        self.kind.range()
    }
}

const UPSTREAM: &str = "upstreams.*.";
const FORWARD: &str = "upstreams.*.forwards.";
const SERVICE: &str = "gateway.services.*.";

const fn key(path: &'static str, kind: Kind, default: DefaultValue, class: Class, doc: &'static str) -> Key {
    Key { path, kind, default, class, doc }
}

static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let topics = [
        process::KEYS,
        upstream::KEYS,
        heartbeat::KEYS,
        retry::KEYS,
        limits::KEYS,
        tls::KEYS,
        forwards::KEYS,
        gateway::KEYS,
    ];
    topics.concat()
});

/// Every key of this build, in the order of the documentation. The tables `tls` and `[defaults]` have no row of their
/// own: `tls` is on when written (and "off" undoes `[defaults.tls]`), `[defaults]` mirrors an upstream's tables.
pub fn keys() -> &'static [Key] {
    &KEYS
}

/// How an upstream reaches its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Direct,
    Tunnel,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_default_is_within_its_own_range() {
        for key in keys() {
            let fits = match (&key.kind, key.default) {
                (_, DefaultValue::Required | DefaultValue::Unset) => true,
                (Kind::Time { min, max, .. }, DefaultValue::Time(time)) => (*min..=*max).contains(&time),
                (Kind::Time { off, .. }, DefaultValue::Off) => *off,
                (Kind::Count { min, max, .. }, DefaultValue::Count(count)) => (*min..=*max).contains(&count),
                (Kind::Count { word, .. }, DefaultValue::Word(default)) => *word == Some(default),
                (Kind::Ratio { min, max, .. }, DefaultValue::Ratio(ratio)) => (*min..=*max).contains(&ratio),
                (Kind::Ratio { words, .. }, DefaultValue::Word(word)) => words.contains(&word),
                (Kind::Choice(words), DefaultValue::Word(word)) => words.contains(&word),
                (Kind::Size { min, max }, DefaultValue::Size(size)) => (*min..=*max).contains(&size),
                (Kind::Bool, DefaultValue::Bool(_)) | (Kind::Texts | Kind::Networks, DefaultValue::Empty) => true,
                (Kind::Text | Kind::Listeners { .. }, DefaultValue::Word(_)) => true,
                _ => false,
            };
            assert!(fits, "{key:?}");
        }
    }

    #[test]
    fn every_key_is_listed_once_and_documented_in_one_line() {
        let paths: BTreeSet<_> = keys().iter().map(|key| key.path).collect();
        assert_eq!(paths.len(), keys().len());
        assert!(keys().iter().all(|key| key.doc.ends_with('.') && !key.doc.contains('\n')));
    }

    #[test]
    fn ranges_read_as_people_write_them() {
        let range = |name| Scope::Upstream.key(name).map(Key::range).unwrap_or_default();
        assert_eq!(range("heartbeat.interval"), "200ms to 1h");
        assert_eq!(range("limits.wait"), "10ms to 1h, or \"off\"");
        assert_eq!(range("retry.jitter"), "0.05 to 1, or \"full\", or \"off\"");
        assert_eq!(range("retry.attempts"), "1 to 1000000, or \"unlimited\"");
        assert_eq!(range("limits.windows"), "1MiB to 4GiB");
        assert_eq!(range("balance"), "priority, round-robin, least-connections");
    }

    #[test]
    fn tables_and_their_names_follow_from_the_keys() {
        assert!(Scope::Upstream.is_table("tls") && Scope::Top.is_table("http") && !Scope::Top.is_table("htt"));
        assert!(!Scope::Defaults.names_in("").contains(&"listen"));
        assert_eq!(Scope::Upstream.names_in("pool."), ["size", "max_age"]);
        assert_eq!(Scope::Forward.names_in(""), ["listen", "service", "accept_proxy_protocol"]);
        assert_eq!(Scope::Service.names_in(""), ["address", "allow", "proxy_protocol"]);
        assert!(Scope::Upstream.names_in("").contains(&"forwards") && !Scope::Upstream.is_table("forwards"));
        assert!(Scope::Top.names_in("gateway.").contains(&"services") && !Scope::Top.is_table("gateway.services"));
        assert!(Scope::Defaults.is_table("resume") && Scope::Defaults.key("forwards.listen").is_none());
    }
}
