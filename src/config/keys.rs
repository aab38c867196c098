//! Every key of the file: its type, default, range, reload class and meaning, in the order they are documented.

use std::fmt;
use std::time::Duration;

use super::units::{show_duration, show_size};

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
    /// A number of bytes with its unit.
    Size {
        min: u64,
        max: u64,
    },
    /// One address to dial.
    Address,
    /// One address to listen at or a list of them, or "off".
    Listeners {
        off: bool,
    },
    /// Addresses to dial: texts, or tables with `address` and `priority`.
    Endpoints,
    /// A list of texts.
    Texts,
    /// A list of networks: an address, a slash, and how many bits of it count.
    Networks,
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
    Size(u64),
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
            Self::Size { .. } => "size",
            Self::Address => "address",
            Self::Networks => "list of networks",
        })
    }
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
        match &self.kind {
            Kind::Choice(words) => words.join(", "),
            Kind::Count { min, max, word } => with_words(format!("{min} to {max}"), word.as_slice()),
            Kind::Ratio { min, max, words } => with_words(format!("{min} to {max}"), words),
            Kind::Time { min, max, off } => {
                let range = format!("{} to {}", show_duration(*min), show_duration(*max));
                with_words(range, if *off { &["off"] } else { &[] })
            }
            Kind::Size { min, max } => format!("{} to {}", show_size(*min), show_size(*max)),
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
            Self::Size(bytes) => write!(f, "\"{}\"", show_size(*bytes)),
            Self::Count(count) => count.fmt(f),
            Self::Ratio(ratio) => write!(f, "{ratio:?}"),
            Self::Word(word) => write!(f, "\"{word}\""),
            Self::Bool(value) => value.fmt(f),
            Self::Empty => f.write_str("[]"),
        }
    }
}

const UPSTREAM: &str = "upstreams.*.";
const FORWARD: &str = "upstreams.*.forwards.";
const SERVICE: &str = "gateway.services.*.";

/// Counts end here: more of anything is a slip of the pen.
const MANY: u64 = 1_000_000;
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// How long a session may outlive its connection. Below a second no redial is sure to be in time; after an hour
/// nobody waits for those streams any more.
const DEADLINE: Kind = time(ms(1000), HOUR);
/// What is kept for replay: not less than one frame of 256 KiB, not more than a link of 10 Gbit/s has under way in 0.8 s.
const BUFFER: Kind = size(256 << 10, GIB);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn time(min: Duration, max: Duration) -> Kind {
    Kind::Time { min, max, off: false }
}

const fn time_or_off(min: Duration, max: Duration) -> Kind {
    Kind::Time { min, max, off: true }
}

const fn size(min: u64, max: u64) -> Kind {
    Kind::Size { min, max }
}

const fn count(max: u64) -> Kind {
    Kind::Count { min: 1, max, word: None }
}

const fn key(path: &'static str, kind: Kind, default: DefaultValue, class: Class, doc: &'static str) -> Key {
    Key { path, kind, default, class, doc }
}

use Class::{Live, NextDial, Rebind, Replace};

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
        Kind::Choice(&["direct", "tunnel"]),
        DefaultValue::Word("direct"),
        Replace,
        "direct: the endpoints are any TCP servers. tunnel: they are gateways, and streams outlive connections.",
    ),
    key(
        "upstreams.*.listen",
        Kind::Listeners { off: false },
        DefaultValue::Required,
        Rebind,
        "Direct: where local clients arrive: 127.0.0.1:7000, [::1]:7000 or unix:/path; one or a list. Port 0: any free one.",
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
        "1 to 16 servers: host:port, [v6]:port, unix:/path (direct), or { address = …, priority = 2 }; priority 1 is best.",
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
        "upstreams.*.token_file",
        Kind::File,
        DefaultValue::Unset,
        NextDial,
        "Tunnel: the secret shared with the gateway, at least 16 bytes; needed without tls, and with it unless there is \
         a client certificate.",
    ),
    key(
        "upstreams.*.insecure_plaintext",
        Kind::Bool,
        DefaultValue::Bool(false),
        NextDial,
        "Tunnel: let the link to a gateway that is not on loopback run without tls.",
    ),
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
        "Direct: what a beat says, 1 to 1024 bytes; needs expect.",
    ),
    key(
        "upstreams.*.heartbeat.expect",
        Kind::Bytes,
        DefaultValue::Unset,
        Live,
        "Direct: how the answer begins, 1 to 1024 bytes, or a pattern: \"re:…\"; needs send.",
    ),
    key(
        "upstreams.*.heartbeat.preset",
        Kind::Choice(&["none", "redis", "memcached", "smtp"]),
        DefaultValue::Word("none"),
        Live,
        "Direct: a known question instead of send and expect.",
    ),
    key(
        "upstreams.*.heartbeat.in_use",
        Kind::Choice(&["off", "line"]),
        DefaultValue::Word("off"),
        Live,
        "Direct, line: beat between the lines of a text protocol while a client uses the connection.",
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
        "Resolve, TCP, TLS and hello together.",
    ),
    key(
        "upstreams.*.pool.size",
        count(MANY),
        DefaultValue::Count(2),
        Live,
        "Direct: warm links kept. Tunnel: links that share the streams, 1 by default.",
    ),
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
        "upstreams.*.limits.windows",
        size(MIB, 4 * GIB),
        DefaultValue::Size(64 * MIB),
        Live,
        "Tunnel: memory for the stream windows of one session; at least 16KiB for each of limits.connections.",
    ),
    key(
        "upstreams.*.resume.deadline",
        DEADLINE,
        DefaultValue::Time(ms(60_000)),
        Live,
        "Tunnel: how long a session outlives its connection; the smaller of both ends holds.",
    ),
    key(
        "upstreams.*.resume.buffer",
        BUFFER,
        DefaultValue::Size(16 * MIB),
        Live,
        "Tunnel: unacknowledged bytes kept a session; when full, clients are no longer read.",
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
    key(
        "upstreams.*.tls.alpn",
        Kind::Texts,
        DefaultValue::Empty,
        NextDial,
        "Direct: protocols offered, the best first.",
    ),
    key(
        "upstreams.*.forwards.listen",
        Kind::Listeners { off: false },
        DefaultValue::Required,
        Rebind,
        "Tunnel: where clients of one service arrive; one address or a list, as in an upstream's own listen.",
    ),
    key(
        "upstreams.*.forwards.service",
        Kind::Text,
        DefaultValue::Required,
        Live,
        "Tunnel: the service's name at the gateway; a-z, 0-9, _ . -, 1 to 255 bytes. Holds for new clients.",
    ),
    key(
        "upstreams.*.forwards.accept_proxy_protocol",
        Kind::Networks,
        DefaultValue::Empty,
        Live,
        "Tunnel: networks whose clients begin with a PROXY protocol header, as in [\"10.0.0.0/8\"].",
    ),
    key(
        "gateway.listen",
        Kind::Listeners { off: false },
        DefaultValue::Required,
        Rebind,
        "Where tunnels arrive; an address or a list.",
    ),
    key("gateway.name", Kind::Text, DefaultValue::Unset, Live, "Told to dialers; the host's name if not set."),
    key(
        "gateway.advertise",
        Kind::Address,
        DefaultValue::Unset,
        Live,
        "Where this very instance is reached, when others share the address of listen; used under TLS only.",
    ),
    key(
        "gateway.token_file",
        Kind::File,
        DefaultValue::Unset,
        NextDial,
        "What dialers must prove to know, at least 16 bytes; needed unless there is tls.client_ca_file.",
    ),
    key(
        "gateway.insecure_plaintext",
        Kind::Bool,
        DefaultValue::Bool(false),
        NextDial,
        "Let tunnels arrive without tls where other machines can reach the gateway.",
    ),
    key(
        "gateway.heartbeat.interval",
        time(ms(200), HOUR),
        DefaultValue::Time(ms(5000)),
        Live,
        "As an upstream's. Without the table [gateway.heartbeat] each dialer's own numbers hold for its session.",
    ),
    key("gateway.heartbeat.timeout", time(ms(50), ms(60_000)), DefaultValue::Time(ms(3000)), Live, "As an upstream's."),
    key("gateway.heartbeat.misses", count(100), DefaultValue::Count(3), Live, "As an upstream's."),
    key(
        "gateway.tls.cert_file",
        Kind::File,
        DefaultValue::Required,
        NextDial,
        "The gateway's certificate; required in [gateway.tls].",
    ),
    key(
        "gateway.tls.key_file",
        Kind::File,
        DefaultValue::Required,
        NextDial,
        "The gateway's key; required in [gateway.tls].",
    ),
    key(
        "gateway.tls.client_ca_file",
        Kind::File,
        DefaultValue::Unset,
        NextDial,
        "Who must have signed the certificate that each dialer shows; none is asked for if not set.",
    ),
    key("gateway.limits.sessions", count(MANY), DefaultValue::Count(1024), Live, "Sessions at once."),
    key(
        "gateway.limits.sessions_per_identity",
        count(MANY),
        DefaultValue::Count(64),
        Live,
        "The share of one identity in them. Dialers with a token alone have none: they are bound by limits.sessions \
         only.",
    ),
    key("gateway.limits.streams", count(MANY), DefaultValue::Count(1024), Live, "Streams of one session."),
    key(
        "gateway.limits.memory",
        size(16 * MIB, 1024 * GIB),
        DefaultValue::Size(GIB),
        Live,
        "Retention and windows of all sessions; past it new ones hear busy, and those that stand grow to no more \
         than 256KiB and 16KiB for each of their streams. At least what one session may need: resume.buffer and 16KiB \
         for each of its streams.",
    ),
    key(
        "gateway.limits.pending",
        count(MANY),
        DefaultValue::Count(256),
        Live,
        "Connections that have not proven themselves yet.",
    ),
    key(
        "gateway.limits.pending_per_address",
        count(MANY),
        DefaultValue::Count(64),
        Live,
        "The share of one address in them.",
    ),
    key(
        "gateway.resume.deadline",
        DEADLINE,
        DefaultValue::Time(ms(60_000)),
        Live,
        "How long a session waits for its next connection; the smaller of both ends holds.",
    ),
    key(
        "gateway.resume.buffer",
        BUFFER,
        DefaultValue::Size(16 * MIB),
        Live,
        "Unacknowledged bytes kept a session; when full, services are no longer read.",
    ),
    key(
        "gateway.services.*.address",
        Kind::Address,
        DefaultValue::Required,
        Live,
        "Where the service is: host:port, [v6]:port or unix:/path. NAME = \"address\" is short for it.",
    ),
    key(
        "gateway.services.*.allow",
        Kind::Texts,
        DefaultValue::Unset,
        Live,
        "Identities from client certificates that may use it; every proven dialer if not set.",
    ),
    key(
        "gateway.services.*.proxy_protocol",
        Kind::Choice(&["off", "v2"]),
        DefaultValue::Word("off"),
        Live,
        "v2: tell the service who the client is, by a PROXY protocol header.",
    ),
];

/// Every key of this build, in the order of the documentation. The tables `tls` and `[defaults]` have no row of their
/// own: `tls` is on when written (and "off" undoes `[defaults.tls]`), `[defaults]` mirrors an upstream's tables.
pub fn keys() -> &'static [Key] {
    KEYS
}

/// How an upstream reaches its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Direct,
    Tunnel,
}

/// Where a key is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Top,
    Upstream,
    Defaults,
    /// One of an upstream's `[[forwards]]`.
    Forward,
    /// One of `[gateway.services]`.
    Service,
}

impl Scope {
    pub fn keys(self) -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(move |key| match self {
            Self::Defaults => key.has_defaults(),
            scope => key.scope() == scope,
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
        match (self, table) {
            (Self::Top, "") => names.extend(["defaults", "upstreams"]),
            (Self::Top, "gateway.") => names.push("services"),
            (Self::Upstream, "") => names.push("forwards"),
            _ => {}
        }
        names.dedup();
        names
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
