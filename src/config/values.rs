//! Every value in force by its key: the one list behind `show` and `diff`.

use std::fmt::Write;

use super::bytes;
use super::units::{show_duration, show_size};
use super::variables::protect;
use super::{
    Address, Balance, Beat, Config, Endpoint, Expect, Forward, Gateway, InUse, Jitter, ListenAddress, LogFormat,
    Service, Tls, Upstream,
};

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

fn size(bytes: u64) -> Option<Value> {
    text(show_size(bytes))
}

fn path(path: &std::path::Path) -> Option<Value> {
    text(path.to_string_lossy())
}

/// `None`: not set.
pub(super) type Values = Vec<(&'static str, Option<Value>)>;

/// Everything that is neither an upstream's nor a service's, in the order of the keys; `gateway.` only if there is one,
/// and `gateway.tls` itself is "on" or "off".
pub(super) fn of_top(config: &Config) -> Values {
    let http = match &config.http.listen[..] {
        [] => text("off"),
        [one] => text(one.to_string()),
        list => Some(Value::List(list.iter().map(|address| Value::Text(address.to_string())).collect())),
    };
    let mut values = vec![
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
    ];
    if let Some(gateway) = &config.gateway {
        values.extend(of_gateway(gateway));
    }
    values
}

fn of_gateway(gateway: &Gateway) -> Values {
    let Gateway { limits, resume, heartbeat, tls, .. } = gateway;
    let heartbeat = heartbeat.as_ref();
    let listen: Vec<_> = gateway.listen.iter().map(|address| ListenAddress::Tcp(*address)).collect();
    let mut values = vec![
        ("gateway.listen", Some(self::listen(&listen))),
        ("gateway.name", text(&gateway.name)),
        ("gateway.advertise", gateway.advertise.as_ref().and_then(|endpoint| text(&endpoint.name))),
        ("gateway.token_file", gateway.token_file.as_deref().and_then(path)),
        ("gateway.insecure_plaintext", plain(gateway.insecure_plaintext)),
        ("gateway.heartbeat.interval", heartbeat.and_then(|beats| time(beats.interval))),
        ("gateway.heartbeat.timeout", heartbeat.and_then(|beats| time(beats.timeout))),
        ("gateway.heartbeat.misses", heartbeat.and_then(|beats| plain(beats.misses))),
        ("gateway.tls", text(if tls.is_some() { "on" } else { "off" })),
    ];
    if let Some(tls) = tls {
        values.extend([
            ("gateway.tls.cert_file", path(&tls.cert_file)),
            ("gateway.tls.key_file", path(&tls.key_file)),
            ("gateway.tls.client_ca_file", tls.client_ca_file.as_deref().and_then(path)),
        ]);
    }
    values.extend([
        ("gateway.limits.sessions", plain(limits.sessions)),
        ("gateway.limits.sessions_per_identity", plain(limits.sessions_per_identity)),
        ("gateway.limits.streams", plain(limits.streams)),
        ("gateway.limits.memory", size(limits.memory)),
        ("gateway.limits.pending", plain(limits.pending)),
        ("gateway.limits.pending_per_address", plain(limits.pending_per_address)),
        ("gateway.limits.wait", time_or_off(Some(limits.wait))),
        ("gateway.resume.deadline", time(resume.deadline)),
        ("gateway.resume.buffer", size(resume.buffer)),
    ]);
    values
}

/// Everything of one service, in the order of the keys.
pub(super) fn of_service(service: &Service) -> Values {
    let address = match &service.address {
        Address::Ip(address) => address.to_string(),
        Address::Host { host, port } => format!("{host}:{port}"),
        Address::Unix(path) => format!("unix:{}", path.display()),
    };
    let allow = service.allow.as_ref().map(|names| Value::List(names.iter().cloned().map(Value::Text).collect()));
    vec![
        ("address", text(address)),
        ("allow", allow),
        ("proxy_protocol", text(if service.proxy_protocol { "v2" } else { "off" })),
    ]
}

/// Everything of one forward, in the order of the keys.
pub(super) fn of_forward(forward: &Forward) -> Values {
    let networks = forward.accept_proxy_protocol.iter().map(|network| Value::Text(network.to_string())).collect();
    vec![
        ("listen", Some(listen(&forward.listen))),
        ("service", text(&forward.service)),
        ("accept_proxy_protocol", Some(Value::List(networks))),
    ]
}

/// Everything of one upstream but its forwards, in the order of the keys. `tls` itself is "on" or "off". What belongs to
/// the other mode is not set.
pub(super) fn of_upstream(upstream: &Upstream) -> Values {
    let Upstream { heartbeat, retry, pool, limits, .. } = upstream;
    let tunnel = upstream.tunnel.as_ref();
    let (preset, send, expect) = beat(&heartbeat.beat);
    let is_direct = |value: Option<Value>| value.filter(|_| tunnel.is_none());
    let doors = tunnel.iter().flat_map(|tunnel| &tunnel.forwards).flat_map(|forward| &forward.listen);
    let mut values = vec![
        ("mode", text(if tunnel.is_some() { "tunnel" } else { "direct" })),
        ("listen", is_direct(Some(listen(&upstream.listen)))),
        ("insecure_listen", plain(upstream.listen.iter().chain(doors).any(is_open))),
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
        ("token_file", tunnel.and_then(|tunnel| path(tunnel.token_file.as_deref()?))),
        ("insecure_plaintext", tunnel.and_then(|tunnel| plain(tunnel.insecure_plaintext))),
        ("heartbeat.interval", time(heartbeat.interval)),
        ("heartbeat.timeout", time(heartbeat.timeout)),
        ("heartbeat.misses", plain(heartbeat.misses)),
        ("heartbeat.send", send),
        ("heartbeat.expect", expect),
        ("heartbeat.preset", is_direct(text(preset))),
        (
            "heartbeat.in_use",
            is_direct(text(match heartbeat.in_use {
                InUse::Off => "off",
                InUse::Line => "line",
            })),
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
        ("limits.windows", tunnel.and_then(|tunnel| size(tunnel.windows))),
        ("resume.deadline", tunnel.and_then(|tunnel| time(tunnel.resume.deadline))),
        ("resume.buffer", tunnel.and_then(|tunnel| size(tunnel.resume.buffer))),
        ("tls", text(if upstream.tls.is_some() { "on" } else { "off" })),
    ];
    if let Some(tls) = &upstream.tls {
        values.extend(of_tls(tls, tunnel.is_none()));
    }
    values
}

fn of_tls(tls: &Tls, direct: bool) -> Values {
    let client = tls.client.as_ref();
    vec![
        ("tls.ca_file", tls.ca_file.as_deref().and_then(path)),
        ("tls.cert_file", client.and_then(|client| path(&client.cert_file))),
        ("tls.key_file", client.and_then(|client| path(&client.key_file))),
        ("tls.server_name", tls.server_name.as_deref().and_then(text)),
        ("tls.alpn", direct.then(|| Value::List(tls.alpn.iter().cloned().map(Value::Text).collect()))),
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
