//! The configuration in force as a file that means the same, each value with its origin.

use super::load::Loaded;
use super::read::Origin;
use super::values::{Value, Values, of_forward, of_service, of_top, of_upstream, quote};
use super::{Gateway, Upstream};

/// Valid TOML. A beat made of variables is shown as written, for what they hold may be a secret; any other value is
/// shown as it is in force. The comment beside it tells the line, `defaults` and the variables it comes from.
pub fn show(loaded: &Loaded) -> String {
    let name: String = loaded.name.chars().map(super::source::printable).filter(|c| *c != '\t').collect();
    let mut text = format!("# {name}, sha256 {}\n", loaded.hash);
    let top = of_top(&loaded.config);
    for table in ["http", "admin", "log", "drain"] {
        if table != "admin" || loaded.config.admin.is_some() {
            show_table(&mut text, loaded, "", table, &top);
        }
    }
    for (name, upstream) in &loaded.config.upstreams {
        show_upstream(&mut text, loaded, name, upstream);
    }
    if let Some(gateway) = &loaded.config.gateway {
        show_gateway(&mut text, loaded, gateway, &top);
    }
    text
}

fn show_upstream(text: &mut String, loaded: &Loaded, name: &str, upstream: &Upstream) {
    let values = of_upstream(upstream);
    let base = format!("upstreams.{name}");
    show_table(text, loaded, &base, "", &values);
    for table in ["heartbeat", "retry", "pool", "limits"] {
        show_table(text, loaded, &base, table, &values);
    }
    if upstream.tunnel.is_some() {
        show_table(text, loaded, &base, "resume", &values);
    }
    if upstream.tls.is_some() {
        show_table(text, loaded, &base, "tls", &values);
    }
    for (index, forward) in upstream.tunnel.iter().flat_map(|tunnel| &tunnel.forwards).enumerate() {
        *text += &format!("\n[[{base}.forwards]]\n");
        show_lines(text, loaded, &format!("{base}.forwards.{index}"), "", &of_forward(forward));
    }
}

fn show_gateway(text: &mut String, loaded: &Loaded, gateway: &Gateway, top: &Values) {
    let is_there = |table: &str| match table {
        "gateway.heartbeat" => gateway.heartbeat.is_some(),
        "gateway.tls" => gateway.tls.is_some(),
        _ => true,
    };
    for table in ["gateway", "gateway.heartbeat", "gateway.tls", "gateway.limits", "gateway.resume"] {
        if is_there(table) {
            show_table(text, loaded, "", table, top);
        }
    }
    // The ones without a table of their own first, or they would be taken for keys of the table before them.
    let (lines, tables): (Vec<_>, Vec<_>) =
        gateway.services.iter().partition(|(_, service)| service.allow.is_none() && !service.proxy_protocol);
    *text += "\n[gateway.services]\n";
    for (name, service) in lines {
        if let Some((_, Some(address))) = of_service(service).into_iter().next() {
            let origin = loaded.origins.get(&format!("gateway.services.{name}.address")).unwrap_or(&Origin::Default);
            *text += &format!("{} = {}  # {}\n", bare_or_quoted(name), address.toml(), told(origin));
        }
    }
    for (name, service) in tables {
        *text += &format!("\n[gateway.services.{}]\n", bare_or_quoted(name));
        show_lines(text, loaded, &format!("gateway.services.{name}"), "", &of_service(service));
    }
}

/// A key of TOML: quoted only if it has a dot, which would make a table of it.
fn bare_or_quoted(name: &str) -> String {
    if name.contains('.') { quote(name) } else { name.to_owned() }
}

/// The keys that stand directly in one table. `base` and `table` may be empty, but not both.
fn show_table(text: &mut String, loaded: &Loaded, base: &str, table: &str, values: &Values) {
    let dot = if base.is_empty() || table.is_empty() { "" } else { "." };
    let header = format!("{base}{dot}{table}");
    *text += &format!("\n[{header}]\n");
    show_lines(text, loaded, &header, table, values);
}

/// `path` is the table's own; only keys below `table` are shown.
fn show_lines(text: &mut String, loaded: &Loaded, path: &str, table: &str, values: &Values) {
    for (key, value) in values {
        let (of, last) = key.rsplit_once('.').unwrap_or(("", key));
        let Some(value) = value else { continue };
        // Whether there is TLS is told by the table itself.
        if of != table || matches!(*key, "tls" | "gateway.tls") {
            continue;
        }
        let origin = loaded.origins.get(&format!("{path}.{last}")).unwrap_or(&Origin::Default);
        // Told only where it is needed: written where it changes nothing, it is not in force.
        if *key == "insecure_listen" && value.toml() == "false" {
            continue;
        }
        *text += &format!("{last} = {}  # {}\n", shown(value, origin), told(origin));
    }
}

fn shown(value: &Value, origin: &Origin) -> String {
    match (value, origin) {
        (Value::Bytes(_), Origin::Written { text: Some(written), .. }) => quote(written),
        _ => value.toml(),
    }
}

fn told(origin: &Origin) -> String {
    match origin {
        Origin::Default => "default".to_owned(),
        Origin::Written { line, defaults, variables, .. } => {
            let place = if *defaults { format!("defaults line {line}") } else { format!("line {line}") };
            variables.iter().fold(place, |told, name| format!("{told}, ${{{name}}}"))
        }
    }
}

#[cfg(test)]
mod generated;
#[cfg(test)]
mod tests;
