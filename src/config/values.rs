//! Every value in force by its key: the one list behind `show` and `diff`.

use std::fmt::Write;

use super::bytes;
use super::units::show_duration;
use super::variables::protect;
use super::{Balance, Beat, Config, Endpoint, Expect, InUse, Jitter, ListenAddress, LogFormat, Tls, Upstream};

/// A value, to be written as TOML or told in a line of a log.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    /// A number or a truth.
    Plain(String),
    List(Vec<Value>),
    Endpoint {
        address: String,
        priority: u32,
    },
    /// What a beat says may hold a password: compared, written, never told.
    Bytes(String),
}

impl Value {
    pub fn toml(&self) -> String {
        match self {
            Self::Text(text) => quote(&protect(text)),
            // Variables in it are already kept from being ones.
            Self::Bytes(text) => quote(text),
            Self::Plain(text) => text.clone(),
            Self::List(values) => format!("[{}]", values.iter().map(Self::toml).collect::<Vec<_>>().join(", ")),
            Self::Endpoint { address, priority: 1 } => quote(&protect(address)),
            Self::Endpoint { address, priority } => {
                format!("{{ address = {}, priority = {priority} }}", quote(&protect(address)))
            }
        }
    }

    pub fn words(&self) -> String {
        match self {
            Self::Text(text) | Self::Plain(text) => text.clone(),
            Self::Bytes(_) => "***".to_owned(),
            Self::List(values) if values.is_empty() => "none".to_owned(),
            Self::List(values) => values.iter().map(Self::words).collect::<Vec<_>>().join(", "),
            Self::Endpoint { address, priority: 1 } => address.clone(),
            Self::Endpoint { address, priority } => format!("{address} (priority {priority})"),
        }
    }
}

/// A basic string of TOML.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted += "\\\"",
            '\\' => quoted += "\\\\",
            '\n' => quoted += "\\n",
            '\r' => quoted += "\\r",
            '\t' => quoted += "\\t",
            c if super::source::printable(c) != c => {
                let _ = write!(quoted, "\\U{:08X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

fn text(text: impl Into<String>) -> Option<Value> {
    Some(Value::Text(text.into()))
}

fn plain(value: impl ToString) -> Option<Value> {
    Some(Value::Plain(value.to_string()))
}

fn time(time: std::time::Duration) -> Option<Value> {
    text(show_duration(time))
}

fn time_or_off(time: Option<std::time::Duration>) -> Option<Value> {
    text(time.filter(|time| !time.is_zero()).map_or("off".to_owned(), show_duration))
}

fn path(path: &std::path::Path) -> Option<Value> {
    text(path.to_string_lossy())
}

/// `None`: not set.
pub(super) type Values = Vec<(&'static str, Option<Value>)>;

/// Everything that is not an upstream's, in the order of the keys.
pub(super) fn of_top(config: &Config) -> Values {
    let http = match &config.http.listen[..] {
        [] => text("off"),
        [one] => text(one.to_string()),
        list => Some(Value::List(list.iter().map(|address| Value::Text(address.to_string())).collect())),
    };
    vec![
        ("http.listen", http),
        ("http.public_status", plain(config.http.public_status)),
        ("admin.socket", config.admin.as_ref().and_then(|admin| path(&admin.socket))),
        ("log.level", text(&config.log.level)),
        (
            "log.format",
            text(match config.log.format {
                LogFormat::Auto => "auto",
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            }),
        ),
        ("drain.timeout", time(config.drain.timeout)),
        ("drain.quiet", time_or_off(config.drain.quiet)),
        ("drain.minimum", time_or_off(Some(config.drain.minimum))),
    ]
}

/// Everything of one upstream, in the order of the keys. `tls` itself is "on" or "off".
pub(super) fn of_upstream(upstream: &Upstream) -> Values {
    let Upstream { heartbeat, retry, pool, limits, .. } = upstream;
    let (preset, send, expect) = beat(&heartbeat.beat);
    let mut values = vec![
        ("mode", text("direct")),
        ("listen", Some(listen(&upstream.listen))),
        ("insecure_listen", plain(upstream.listen.iter().any(is_open))),
        ("endpoints", Some(Value::List(upstream.endpoints.iter().map(endpoint).collect()))),
        (
            "balance",
            text(match upstream.balance {
                Balance::Priority => "priority",
                Balance::RoundRobin => "round-robin",
                Balance::LeastConnections => "least-connections",
            }),
        ),
        ("required", plain(upstream.required)),
        ("heartbeat.interval", time(heartbeat.interval)),
        ("heartbeat.timeout", time(heartbeat.timeout)),
        ("heartbeat.misses", plain(heartbeat.misses)),
        ("heartbeat.send", send),
        ("heartbeat.expect", expect),
        ("heartbeat.preset", text(preset)),
        (
            "heartbeat.in_use",
            text(match heartbeat.in_use {
                InUse::Off => "off",
                InUse::Line => "line",
            }),
        ),
        ("retry.initial", time(retry.initial)),
        ("retry.max", time(retry.max)),
        ("retry.multiplier", plain(format!("{:?}", retry.multiplier))),
        (
            "retry.jitter",
            match retry.jitter {
                Jitter::Full => text("full"),
                Jitter::Off => text("off"),
                Jitter::Share(share) => plain(format!("{share:?}")),
            },
        ),
        ("retry.attempts", retry.attempts.map_or_else(|| text("unlimited"), plain)),
        ("retry.stable_after", time(retry.stable_after)),
        ("retry.connect_timeout", time(retry.connect_timeout)),
        ("pool.size", plain(pool.size)),
        ("pool.max_age", time_or_off(pool.max_age)),
        ("limits.connections", plain(limits.connections)),
        ("limits.wait", time_or_off(Some(limits.wait))),
        ("limits.waiting", plain(limits.waiting)),
        ("limits.idle_timeout", time_or_off(limits.idle_timeout)),
        ("tls", text(if upstream.tls.is_some() { "on" } else { "off" })),
    ];
    if let Some(tls) = &upstream.tls {
        values.extend(of_tls(tls));
    }
    values
}

fn of_tls(tls: &Tls) -> Values {
    let client = tls.client.as_ref();
    vec![
        ("tls.ca_file", tls.ca_file.as_deref().and_then(path)),
        ("tls.cert_file", client.and_then(|client| path(&client.cert_file))),
        ("tls.key_file", client.and_then(|client| path(&client.key_file))),
        ("tls.server_name", tls.server_name.as_deref().and_then(text)),
        ("tls.alpn", Some(Value::List(tls.alpn.iter().cloned().map(Value::Text).collect()))),
    ]
}

fn listen(listen: &[ListenAddress]) -> Value {
    match listen {
        [one] => Value::Text(one.to_string()),
        list => Value::List(list.iter().map(|address| Value::Text(address.to_string())).collect()),
    }
}

/// Whether other machines can reach it.
fn is_open(listen: &ListenAddress) -> bool {
    matches!(listen, ListenAddress::Tcp(address) if !address.ip().to_canonical().is_loopback())
}

fn endpoint(endpoint: &Endpoint) -> Value {
    Value::Endpoint { address: endpoint.name.clone(), priority: endpoint.priority }
}

fn beat(beat: &Beat) -> (&'static str, Option<Value>, Option<Value>) {
    match beat {
        Beat::Kernel => ("none", None, None),
        Beat::Redis => ("redis", None, None),
        Beat::Memcached => ("memcached", None, None),
        Beat::Smtp => ("smtp", None, None),
        Beat::Exchange { send, expect } => {
            let expect = match expect {
                Expect::Prefix(prefix) => bytes::written(prefix),
                Expect::Pattern(regex) => {
                    let pattern = regex.as_str();
                    // Without the anchor it was given.
                    let inner = pattern.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(')'));
                    protect(&format!("re:{}", inner.unwrap_or(pattern)))
                }
            };
            ("none", Some(Value::Bytes(bytes::written(send))), Some(Value::Bytes(expect)))
        }
    }
}
