//! Every key of the file: its type, default, range, reload class and meaning, in the order they are documented.

use std::fmt;
use std::time::Duration;

use super::units::show_duration;

/// What a reload has to do about a changed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// In force at once; every link and connection stays.
    Live,
    /// Holds from the next dial of a link.
    NextDial,
    /// The listeners named by the key are bound anew; connections stay.
    Rebind,
    /// Holds from the next start of the process.
    Restart,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::NextDial => "next dial",
            Self::Rebind => "rebind",
            Self::Restart => "restart",
        })
    }
}

/// One key.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// `*` stands for the name of an upstream: `upstreams.*.heartbeat.interval`.
    pub path: &'static str,
    pub kind: Kind,
    pub default: DefaultValue,
    pub class: Class,
    /// One line.
    pub doc: &'static str,
}

/// What may be written for a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Text,
    /// Text that becomes bytes: `\r \n \t \\ \xNN`, or `hex:0a0b`.
    Bytes,
    /// A path.
    File,
    Bool,
    Choice(&'static [&'static str]),
    /// A whole number, or the word.
    Count {
        min: u64,
        max: u64,
        word: Option<&'static str>,
    },
    /// A number, or one of the words.
    Ratio {
        min: f64,
        max: f64,
        words: &'static [&'static str],
    },
    /// A duration with its unit, or "off".
    Time {
        min: Duration,
        max: Duration,
        off: bool,
    },
    /// One address to listen at or a list of them, or "off".
    Listeners {
        off: bool,
    },
    /// Addresses to dial: texts, or tables with `address` and `priority`.
    Endpoints,
    /// A list of texts.
    Texts,
}

/// What holds if a key is not written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DefaultValue {
    /// It must be written.
    Required,
    /// Nothing.
    Unset,
    Off,
    Time(Duration),
    Count(u64),
    Ratio(f64),
    Word(&'static str),
    Bool(bool),
    Empty,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Bytes => "text with escapes, or hex:…",
            Self::File => "path",
            Self::Bool => "true or false",
            Self::Choice(_) => "word",
            Self::Count { .. } => "whole number",
            Self::Ratio { .. } => "number",
            Self::Time { .. } => "duration",
            Self::Listeners { .. } => "address or list",
            Self::Endpoints => "list of addresses",
            Self::Texts => "list of texts",
        })
    }
}

impl Key {
    /// The part after `upstreams.*.`, or the whole path of any other key.
    pub fn name(&self) -> &'static str {
        self.path.strip_prefix(UPSTREAM).unwrap_or(self.path)
    }

    pub fn is_of_upstream(&self) -> bool {
        self.path.starts_with(UPSTREAM)
    }

    /// Whether `[defaults]` may hold the key.
    pub fn has_defaults(&self) -> bool {
        self.is_of_upstream() && self.name().contains('.')
    }

    /// What values are taken: "200ms to 1h", "1 to 100", "direct, tunnel". Empty if the type says it all.
    pub fn range(&self) -> String {
        match &self.kind {
            Kind::Choice(words) => words.join(", "),
            Kind::Count { min, max, word } => with_words(format!("{min} to {max}"), word.as_slice()),
            Kind::Ratio { min, max, words } => with_words(format!("{min} to {max}"), words),
            Kind::Time { min, max, off } => {
                let range = format!("{} to {}", show_duration(*min), show_duration(*max));
                with_words(range, if *off { &["off"] } else { &[] })
            }
            Kind::Listeners { off: true } => "addresses, or \"off\"".to_owned(),
            _ => String::new(),
        }
    }
}

fn with_words(range: String, words: &[&str]) -> String {
    words.iter().fold(range, |range, word| format!("{range}, or \"{word}\""))
}

impl fmt::Display for DefaultValue {
    /// As it would be written in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required | Self::Unset => Ok(()),
            Self::Off => f.write_str("\"off\""),
            Self::Time(time) => write!(f, "\"{}\"", show_duration(*time)),
            Self::Count(count) => count.fmt(f),
            Self::Ratio(ratio) => write!(f, "{ratio:?}"),
            Self::Word(word) => write!(f, "\"{word}\""),
            Self::Bool(value) => value.fmt(f),
            Self::Empty => f.write_str("[]"),
        }
    }
}

const UPSTREAM: &str = "upstreams.*.";

/// Counts end here: more of anything is a slip of the pen.
const MANY: u64 = 1_000_000;
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn time(min: Duration, max: Duration) -> Kind {
    Kind::Time { min, max, off: false }
}

const fn time_or_off(min: Duration, max: Duration) -> Kind {
    Kind::Time { min, max, off: true }
}

const fn count(max: u64) -> Kind {
    Kind::Count { min: 1, max, word: None }
}

const fn key(path: &'static str, kind: Kind, default: DefaultValue, class: Class, doc: &'static str) -> Key {
    Key { path, kind, default, class, doc }
}

use Class::{Live, NextDial, Rebind, Restart};

static KEYS: &[Key] = &[
    key(
        "http.listen",
        Kind::Listeners { off: true },
        DefaultValue::Word("127.0.0.1:9900"),
        Rebind,
        "Where metrics, health and status are served; an address, a list or \"off\".",
    ),
    key(
        "http.public_status",
        Kind::Bool,
        DefaultValue::Bool(false),
        Live,
        "Serve / and /status on addresses that are not loopback, too.",
    ),
    key("admin.socket", Kind::File, DefaultValue::Unset, Rebind, "A unix socket for commands that change state."),
    key(
        "log.level",
        Kind::Text,
        DefaultValue::Word("info"),
        Live,
        "error, warn, info, debug, trace, or a tracing filter such as \"info,everlink::direct=debug\".",
    ),
    key(
        "log.format",
        Kind::Choice(&["auto", "text", "json"]),
        DefaultValue::Word("auto"),
        Live,
        "auto: text on a terminal, JSON otherwise.",
    ),
    key(
        "drain.timeout",
        time(ms(100), ms(86_400_000)),
        DefaultValue::Time(ms(8000)),
        Live,
        "The latest end of a drain.",
    ),
    key(
        "drain.quiet",
        time_or_off(ms(100), ms(86_400_000)),
        DefaultValue::Time(ms(2000)),
        Live,
        "Leave once no client has been open for so long.",
    ),
    key("drain.minimum", time_or_off(ms(100), ms(86_400_000)), DefaultValue::Off, Live, "But not before this."),
    key(
        "upstreams.*.mode",
        Kind::Choice(&["direct"]),
        DefaultValue::Word("direct"),
        Restart,
        "direct: the endpoints are any TCP servers.",
    ),
    key(
        "upstreams.*.listen",
        Kind::Listeners { off: false },
        DefaultValue::Required,
        Rebind,
        "Where local clients arrive: 127.0.0.1:7000, [::1]:7000 or unix:/path; one or a list. Port 0: any free one.",
    ),
    key(
        "upstreams.*.insecure_listen",
        Kind::Bool,
        DefaultValue::Bool(false),
        Rebind,
        "Let the upstream listen where other machines can reach it.",
    ),
    key(
        "upstreams.*.endpoints",
        Kind::Endpoints,
        DefaultValue::Required,
        NextDial,
        "1 to 16 servers: host:port, [v6]:port, unix:/path, or { address = …, priority = 2 }; priority 1 is best.",
    ),
    key(
        "upstreams.*.balance",
        Kind::Choice(&["priority", "round-robin", "least-connections"]),
        DefaultValue::Word("priority"),
        Live,
        "priority: all links at the best endpoint that answers.",
    ),
    key("upstreams.*.required", Kind::Bool, DefaultValue::Bool(false), Live, "/readyz waits for this upstream."),
    key(
        "upstreams.*.heartbeat.interval",
        time(ms(200), HOUR),
        DefaultValue::Time(ms(5000)),
        Live,
        "Silence after which a beat is sent.",
    ),
    key(
        "upstreams.*.heartbeat.timeout",
        time(ms(50), ms(60_000)),
        DefaultValue::Time(ms(3000)),
        Live,
        "How long an answer may take.",
    ),
    key(
        "upstreams.*.heartbeat.misses",
        count(100),
        DefaultValue::Count(3),
        Live,
        "Unanswered beats in a row that make a link dead. Budget: interval + misses × timeout.",
    ),
    key(
        "upstreams.*.heartbeat.send",
        Kind::Bytes,
        DefaultValue::Unset,
        Live,
        "What a beat says, 1 to 1024 bytes; needs expect.",
    ),
    key(
        "upstreams.*.heartbeat.expect",
        Kind::Bytes,
        DefaultValue::Unset,
        Live,
        "How the answer begins, 1 to 1024 bytes, or a pattern: \"re:…\"; needs send.",
    ),
    key(
        "upstreams.*.heartbeat.preset",
        Kind::Choice(&["none", "redis", "memcached", "smtp"]),
        DefaultValue::Word("none"),
        Live,
        "A known question instead of send and expect.",
    ),
    key(
        "upstreams.*.heartbeat.in_use",
        Kind::Choice(&["off", "line"]),
        DefaultValue::Word("off"),
        Live,
        "line: beat between the lines of a text protocol while a client uses the connection.",
    ),
    key(
        "upstreams.*.retry.initial",
        time(ms(10), HOUR),
        DefaultValue::Time(ms(500)),
        Live,
        "The first wait before a redial; at most retry.max.",
    ),
    key("upstreams.*.retry.max", time(ms(10), HOUR), DefaultValue::Time(ms(30_000)), Live, "The longest wait."),
    key(
        "upstreams.*.retry.multiplier",
        Kind::Ratio { min: 1.0, max: 10.0, words: &[] },
        DefaultValue::Ratio(2.0),
        Live,
        "How much longer each wait is than the one before.",
    ),
    key(
        "upstreams.*.retry.jitter",
        Kind::Ratio { min: 0.05, max: 1.0, words: &["full", "off"] },
        DefaultValue::Word("full"),
        Live,
        "How waits are spread: full, off, or the share by which a wait may be shortened.",
    ),
    key(
        "upstreams.*.retry.attempts",
        Kind::Count { min: 1, max: MANY, word: Some("unlimited") },
        DefaultValue::Word("unlimited"),
        Live,
        "Dials before a link is given up.",
    ),
    key(
        "upstreams.*.retry.stable_after",
        time(ms(100), HOUR),
        DefaultValue::Time(ms(10_000)),
        Live,
        "Only a link up this long earns a fresh backoff.",
    ),
    key(
        "upstreams.*.retry.connect_timeout",
        time(ms(50), ms(300_000)),
        DefaultValue::Time(ms(5000)),
        NextDial,
        "Resolve, TCP and TLS together.",
    ),
    key("upstreams.*.pool.size", count(MANY), DefaultValue::Count(2), Live, "Warm links kept."),
    key(
        "upstreams.*.pool.max_age",
        time_or_off(ms(1000), WEEK),
        DefaultValue::Off,
        Live,
        "Recycle an idle warm link of this age, shortened by up to a tenth.",
    ),
    key("upstreams.*.limits.connections", count(MANY), DefaultValue::Count(1024), Live, "Clients carried at once."),
    key(
        "upstreams.*.limits.wait",
        time_or_off(ms(10), HOUR),
        DefaultValue::Time(ms(5000)),
        Live,
        "How long a client may wait for a link that is down.",
    ),
    key("upstreams.*.limits.waiting", count(MANY), DefaultValue::Count(256), Live, "How many may wait."),
    key(
        "upstreams.*.limits.idle_timeout",
        time_or_off(ms(1000), WEEK),
        DefaultValue::Off,
        Live,
        "Close a carried connection that moved no byte for so long.",
    ),
    key(
        "upstreams.*.tls.ca_file",
        Kind::File,
        DefaultValue::Unset,
        NextDial,
        "Who may have signed the endpoint's certificate; the system's roots if not set.",
    ),
    key("upstreams.*.tls.cert_file", Kind::File, DefaultValue::Unset, NextDial, "The client's certificate."),
    key("upstreams.*.tls.key_file", Kind::File, DefaultValue::Unset, NextDial, "The client's key."),
    key(
        "upstreams.*.tls.server_name",
        Kind::Text,
        DefaultValue::Unset,
        NextDial,
        "The name the certificate must hold; the endpoint's host if not set.",
    ),
    key("upstreams.*.tls.alpn", Kind::Texts, DefaultValue::Empty, NextDial, "Protocols offered, the best first."),
];

/// Every key of this build, in the order of the documentation. The tables `tls` and `[defaults]` have no row of their
/// own: `tls` is on when written (and "off" undoes `[defaults.tls]`), `[defaults]` mirrors an upstream's tables.
pub fn keys() -> &'static [Key] {
    KEYS
}

/// Where a key is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Top,
    Upstream,
    Defaults,
}

impl Scope {
    pub fn keys(self) -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(move |key| match self {
            Self::Top => !key.is_of_upstream(),
            Self::Upstream => key.is_of_upstream(),
            Self::Defaults => key.has_defaults(),
        })
    }

    /// The key with this name below the scope's table.
    pub fn key(self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name() == name)
    }

    pub fn is_table(self, name: &str) -> bool {
        self.keys().any(|key| key.name().strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Names that may stand directly in this table, tables included. `table` is empty or ends in a dot.
    pub fn names_in(self, table: &str) -> Vec<&'static str> {
        let mut names: Vec<_> = self
            .keys()
            .filter_map(|key| key.name().strip_prefix(table))
            .filter_map(|rest| rest.split('.').next())
            .collect();
        if self == Self::Top && table.is_empty() {
            names.extend(["defaults", "upstreams"]);
        }
        names.dedup();
        names
    }

    /// Keys that are known, but belong to what this build does not have.
    pub fn is_of_tunnel(self, name: &str) -> bool {
        let of_upstream =
            ["token_file", "resume", "forwards", "limits.windows", "insecure_plaintext", "accept_proxy_protocol"];
        match self {
            Self::Top => name == "gateway",
            Self::Upstream => of_upstream.contains(&name),
            Self::Defaults => matches!(name, "resume" | "limits.windows"),
        }
    }
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
                (Kind::Bool, DefaultValue::Bool(_)) | (Kind::Texts, DefaultValue::Empty) => true,
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
        assert_eq!(range("balance"), "priority, round-robin, least-connections");
    }

    #[test]
    fn tables_and_their_names_follow_from_the_keys() {
        assert!(Scope::Upstream.is_table("tls") && Scope::Top.is_table("http") && !Scope::Top.is_table("htt"));
        assert!(!Scope::Defaults.names_in("").contains(&"listen"));
        assert_eq!(Scope::Upstream.names_in("pool."), ["size", "max_age"]);
    }
}
