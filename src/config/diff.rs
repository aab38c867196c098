//! What changed between two configurations, and what a reload has to do about it.

use std::collections::BTreeSet;
use std::fmt;

use super::keys::{Class, Scope};
use super::values::{Value, Values, of_forward, of_service, of_top, of_upstream};
use super::{Config, Forward, Gateway, ListenAddress, Upstream};

/// One key with another value, or an upstream, a forward, the gateway or a service that came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `None`: not an upstream's.
    pub upstream: Option<String>,
    /// `heartbeat.interval`, `http.listen`; `upstream`, `forward 127.0.0.1:5432 → postgres`, `gateway` or
    /// `gateway: service postgres → db:5432` for one that came or went.
    pub key: String,
    /// For people; what a beat says shows as `***`.
    pub old: String,
    pub new: String,
    pub class: Class,
    /// What else it brings about, for people; empty: nothing.
    pub brings: String,
    /// It came or went.
    whole: bool,
}

/// The key of a change that is a whole upstream.
const WHOLE: &str = "upstream";
/// What a tunnel does about something that holds from the next dial: it dials.
pub const MOVES: &str = "its sessions move to new connections";
const ABSENT: &str = "absent";
const PRESENT: &str = "present";

impl Change {
    /// The whole upstream is new.
    pub fn is_added(&self) -> bool {
        self.whole && self.key == WHOLE && self.new == PRESENT
    }

    /// The whole upstream is gone.
    pub fn is_removed(&self) -> bool {
        self.whole && self.key == WHOLE && self.new == ABSENT
    }

    fn of_whole(upstream: Option<&str>, key: impl Into<String>, is_new: bool, class: Class) -> Self {
        let (old, new) = if is_new { (ABSENT, PRESENT) } else { (PRESENT, ABSENT) };
        Self {
            upstream: upstream.map(str::to_owned),
            key: key.into(),
            old: old.to_owned(),
            new: new.to_owned(),
            class,
            brings: String::new(),
            whole: true,
        }
    }

    /// The change without the upstream that it is of: `heartbeat.interval 5s → 3s, live`.
    pub(super) fn of_any(&self) -> String {
        let Self { key, old, new, class, brings, .. } = self;
        let verb = if new == PRESENT { "added" } else { "removed" };
        let told = match (self.whole, key == WHOLE) {
            (true, true) => verb.to_owned(),
            (true, false) => format!("{key} {verb}, {class}"),
            (false, _) => format!("{key} {old} → {new}, {class}"),
        };
        if brings.is_empty() { told } else { format!("{told}, {brings}") }
    }
}

impl fmt::Display for Change {
    /// `chat: heartbeat.interval 5s → 3s, live`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(upstream) = &self.upstream {
            write!(f, "{upstream}: ")?;
        }
        f.write_str(&self.of_any())
    }
}

/// Every change, top tables first, then the gateway's services, then upstreams by name. Empty exactly if the two are equal.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = of_values(None, Scope::Top, "", &of_top(old), &of_top(new));
    match (old.gateway.as_deref(), new.gateway.as_deref()) {
        (Some(old), Some(new)) => {
            if old.tls.is_some() != new.tls.is_some() {
                changes.retain(|change| !change.key.starts_with("gateway.tls."));
            }
            changes.extend(of_services(old, new));
        }
        (None, None) => {}
        // Its keys are no news of their own.
        (_, new) => {
            changes.retain(|change| !change.key.starts_with("gateway."));
            changes.push(Change::of_whole(None, "gateway", new.is_some(), Class::Rebind));
        }
    }
    let names: BTreeSet<&String> = old.upstreams.keys().chain(new.upstreams.keys()).collect();
    for name in names {
        match (old.upstreams.get(name), new.upstreams.get(name)) {
            (Some(old), Some(new)) => changes.extend(of_one(name, old, new)),
            (_, new) => changes.push(Change::of_whole(Some(name), WHOLE, new.is_some(), Class::Live)),
        }
    }
    changes
}

fn of_services(old: &Gateway, new: &Gateway) -> Vec<Change> {
    let mut changes = Vec::new();
    let names: BTreeSet<&String> = old.services.keys().chain(new.services.keys()).collect();
    for name in names {
        match (old.services.get(name), new.services.get(name)) {
            (Some(old), Some(new)) => {
                let prefix = format!("gateway.services.{name}.");
                changes.extend(of_values(None, Scope::Service, &prefix, &of_service(old), &of_service(new)));
            }
            (old, new) => {
                let address = old.or(new).map(|service| words_of(&of_service(service), "address")).unwrap_or_default();
                let key = format!("gateway: service {name} → {address}");
                changes.push(Change::of_whole(None, key, new.is_some(), Class::Live));
            }
        }
    }
    changes
}

fn of_one(name: &str, old: &Upstream, new: &Upstream) -> Vec<Change> {
    if old == new {
        return Vec::new();
    }
    let mut changes = of_values(Some(name), Scope::Upstream, "", &of_upstream(old), &of_upstream(new));
    // It is as if it were removed and added: what else is new is no news of its own.
    if old.tunnel.is_some() != new.tunnel.is_some() {
        changes.retain(|change| change.key == "mode");
        return changes;
    }
    // It follows from the listeners, which are told.
    changes.retain(|change| change.key != "insecure_listen");
    // Switched on or off as a whole: its keys are no news of their own.
    if old.tls.is_some() != new.tls.is_some() {
        changes.retain(|change| !change.key.starts_with("tls."));
    }
    for change in &mut changes {
        change.brings = brings(&change.key, old, new);
    }
    if let (Some(old), Some(new)) = (&old.tunnel, &new.tunnel) {
        changes.extend(of_forwards(name, &old.forwards, &new.forwards));
    }
    changes
}

/// What a changed key of an upstream brings about beside its class.
fn brings(key: &str, old: &Upstream, new: &Upstream) -> String {
    let is_tunnel = new.tunnel.is_some();
    match key {
        "endpoints" => {
            let stays = |name: &str| new.endpoints.iter().any(|endpoint| endpoint.name == name);
            let gone: Vec<_> =
                old.endpoints.iter().map(|endpoint| endpoint.name.as_str()).filter(|name| !stays(name)).collect();
            if gone.is_empty() { String::new() } else { format!("links to {} are let go", gone.join(", ")) }
        }
        "pool.size" => match old.pool.size.saturating_sub(new.pool.size) {
            0 => String::new(),
            1 => "1 link let go".to_owned(),
            gone => format!("{gone} links let go"),
        },
        _ if is_tunnel && (key == "token_file" || key.starts_with("tls") || key.starts_with("resume.")) => {
            MOVES.to_owned()
        }
        _ => String::new(),
    }
}

/// A forward with the same listeners is the same forward. One at port 0 is known by its service: another one gets another
/// port.
fn of_forwards(upstream: &str, old: &[Forward], new: &[Forward]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut left: Vec<&Forward> = old.iter().collect();
    let mut came: Vec<&Forward> = Vec::new();
    // Several may listen at port 0: what did not change is found first.
    for forward in new {
        match left.iter().position(|before| *before == forward) {
            Some(at) => drop(left.swap_remove(at)),
            None => came.push(forward),
        }
    }
    came.retain(|forward| {
        let is_same = |before: &&Forward| {
            before.listen == forward.listen && (before.service == forward.service || !has_any_port(forward))
        };
        let Some(at) = left.iter().position(is_same) else { return true };
        let (before, after) = (of_forward(left.swap_remove(at)), of_forward(forward));
        let listen = words_of(&after, "listen");
        for change in of_values(Some(upstream), Scope::Forward, "", &before, &after) {
            let key = match change.key.as_str() {
                "service" => format!("forward {listen} →"),
                other => format!("forward {listen} {other}"),
            };
            changes.push(Change { key, ..change });
        }
        false
    });
    for (forwards, is_new) in [(left, false), (came, true)] {
        for forward in forwards {
            let values = of_forward(forward);
            let key = format!("forward {} → {}", words_of(&values, "listen"), words_of(&values, "service"));
            changes.push(Change::of_whole(Some(upstream), key, is_new, Class::Rebind));
        }
    }
    changes
}

/// The kernel picks one of its ports.
fn has_any_port(forward: &Forward) -> bool {
    forward.listen.iter().any(|listen| matches!(listen, ListenAddress::Tcp(address) if address.port() == 0))
}

fn value_of(values: &Values, key: &str) -> Option<Value> {
    values.iter().find(|(name, _)| *name == key).and_then(|(_, value)| value.clone())
}

fn words_of(values: &Values, key: &str) -> String {
    value_of(values, key).map_or("unset".to_owned(), |value| value.words())
}

/// `prefix` goes before each key that is told.
fn of_values(upstream: Option<&str>, scope: Scope, prefix: &str, old: &Values, new: &Values) -> Vec<Change> {
    let keys: Vec<_> =
        old.iter().chain(new.iter().filter(|(key, _)| old.iter().all(|(name, _)| name != key))).collect();
    keys.into_iter()
        .filter(|(key, _)| value_of(old, key) != value_of(new, key))
        .map(|(key, _)| Change {
            upstream: upstream.map(str::to_owned),
            key: format!("{prefix}{key}"),
            old: words_of(old, key),
            new: words_of(new, key),
            // `tls` as a whole has no row; it is read when dialling, like its keys.
            class: scope.key(key).map_or(Class::NextDial, |key| key.class),
            brings: String::new(),
            whole: false,
        })
        .collect()
}

#[cfg(test)]
mod tests;
