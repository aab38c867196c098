//! The file's keys as a JSON Schema, for editors: made of the one list of keys, so that it knows what the program knows.
//!
//! It says what a key is called, what may stand there and what it means. What takes more than looking at one value
//! (ranges of durations, files, two keys that need each other) is for `everlink check`.

use serde_json::{Map, Value, json};

use super::bounds::{ENDPOINTS_MAX, FORWARDS_MAX, LISTENERS_MAX, SERVICES_MAX, UPSTREAMS_MAX};
use super::keys::{DefaultValue, Key, Kind, Scope};

/// Names of upstreams and of services.
const UPSTREAM_NAME: &str = "^[a-z0-9][a-z0-9_-]{0,62}$";
const SERVICE_NAME: &str = "^[a-z0-9][a-z0-9_.-]{0,254}$";

/// A text with a variable: what it comes to is not known here.
const VARIABLE: &str = r"\$\{";

/// The schema, draft 2020-12.
pub fn schema() -> Value {
    let mut root = tables(Scope::Top, true);
    let properties = properties(&mut root);
    properties.insert("defaults".to_owned(), {
        let mut defaults = tables(Scope::Defaults, false);
        describe(&mut defaults, "What upstreams have in common: the tables of an upstream, whose own keys win.");
        defaults
    });
    properties.insert(
        "upstreams".to_owned(),
        json!({
            "description": "The services to keep links to, by name.",
            "type": "object",
            "maxProperties": UPSTREAMS_MAX,
            "propertyNames": { "pattern": UPSTREAM_NAME },
            "additionalProperties": upstream(),
        }),
    );
    if let Some(gateway) = properties.get_mut("gateway") {
        describe(gateway, "The far end of tunnels: leads to services by their names.");
        self::properties(gateway).insert("services".to_owned(), services());
        require(gateway, "services");
    }
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("everlink's configuration"));
    schema.insert(
        "description".to_owned(),
        json!(
            "Durations and sizes carry their unit (\"5s\", \"16MiB\"); \"off\" disables; ${VAR} and ${VAR:-default} are \
             replaced inside strings. `everlink check` tells every mistake, also those that no schema can."
        ),
    );
    if let Value::Object(root) = root {
        schema.extend(root);
    }
    Value::Object(schema)
}

/// The tables below one scope, and theirs. `complete`: keys that must be written are required.
fn tables(scope: Scope, complete: bool) -> Value {
    let mut root = table();
    for key in scope.keys() {
        let mut place = &mut root;
        let mut names = key.name().split('.').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                if complete && key.default == DefaultValue::Required {
                    require(place, name);
                }
                properties(place).insert(name.to_owned(), value(key));
                break;
            }
            place = properties(place).entry(name).or_insert_with(table);
        }
    }
    root
}

fn table() -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": {} })
}

/// Of a table made by [`table`].
fn properties(table: &mut Value) -> &mut Map<String, Value> {
    member(table, "properties")
}

fn member<'v>(value: &'v mut Value, name: &str) -> &'v mut Map<String, Value> {
    if !value.get(name).is_some_and(Value::is_object) {
        value[name] = json!({});
    }
    match &mut value[name] {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object"),
    }
}

fn describe(table: &mut Value, text: &str) {
    table["description"] = json!(text);
}

fn require(table: &mut Value, name: &str) {
    match &mut table["required"] {
        Value::Array(required) => required.push(json!(name)),
        absent => *absent = json!([name]),
    }
}

fn upstream() -> Value {
    let mut upstream = tables(Scope::Upstream, false);
    require(&mut upstream, "endpoints");
    let mut tls = properties(&mut upstream).remove("tls").unwrap_or_else(table);
    describe(&mut tls, "TLS to the endpoints, on when written; \"off\" undoes [defaults.tls].");
    tls["type"] = json!(["object", "string"]);
    // Of a text only the one word; tables have no pattern.
    tls["pattern"] = json!("^off$");
    properties(&mut upstream).insert("tls".to_owned(), tls);
    properties(&mut upstream).insert(
        "forwards".to_owned(),
        json!({
            "description": "Tunnel: where clients arrive, and which service of the gateway they are led to.",
            "type": "array",
            "minItems": 1,
            "maxItems": FORWARDS_MAX,
            "items": tables(Scope::Forward, true),
        }),
    );
    // A mode that comes from a variable is either.
    upstream["allOf"] = json!([
        {
            "if": { "properties": { "mode": { "const": "tunnel" } }, "required": ["mode"] },
            "then": { "required": ["forwards"], "properties": { "listen": false } },
        },
        {
            "if": { "properties": { "mode": { "const": "direct" } } },
            "then": { "required": ["listen"], "properties": { "forwards": false } },
        },
    ]);
    upstream
}

fn services() -> Value {
    let mut service = tables(Scope::Service, true);
    service["type"] = json!(["object", "string"]);
    json!({
        "description": "What the gateway leads to, by name: an address, or a table.",
        "type": "object",
        "minProperties": 1,
        "maxProperties": SERVICES_MAX,
        "propertyNames": { "pattern": SERVICE_NAME },
        "additionalProperties": service,
    })
}

/// What may be written for a key.
fn value(key: &Key) -> Value {
    let mut value = match &key.kind {
        Kind::Text | Kind::Bytes | Kind::File => json!({ "type": "string" }),
        Kind::Address => json!({ "type": "string", "minLength": 1 }),
        Kind::Bool => or_variable(json!({ "type": "boolean" }), &[]),
        Kind::Choice(words) => or_variable(json!({ "enum": words }), &[]),
        Kind::Count { min, max, word } => {
            or_variable(json!({ "type": "integer", "minimum": min, "maximum": max }), word.as_slice())
        }
        Kind::Ratio { min, max, words } => {
            or_variable(json!({ "type": "number", "minimum": min, "maximum": max }), words)
        }
        Kind::Time { off, .. } => {
            let off_first = if *off { "off|" } else { "" };
            json!({ "type": "string", "pattern": format!("^({off_first}{})$|{VARIABLE}", quantity(&["h", "m", "s", "ms"])) })
        }
        Kind::Size { .. } => {
            let sizes = quantity(&["TiB", "GiB", "MiB", "KiB", "B"]);
            json!({ "type": "string", "pattern": format!("^({sizes})$|{VARIABLE}") })
        }
        Kind::Listeners { .. } => one_or_more(json!({ "type": "string", "minLength": 1 }), LISTENERS_MAX),
        Kind::Endpoints => {
            let priority = or_variable(json!({ "type": "integer", "minimum": 1, "maximum": 1_000_000 }), &[]);
            let mut endpoint = table();
            endpoint["type"] = json!(["string", "object"]);
            endpoint["minLength"] = json!(1);
            require(&mut endpoint, "address");
            properties(&mut endpoint).insert("address".to_owned(), json!({ "type": "string", "minLength": 1 }));
            properties(&mut endpoint).insert("priority".to_owned(), priority);
            one_or_more(endpoint, ENDPOINTS_MAX)
        }
        Kind::Texts | Kind::Networks => json!({ "type": ["string", "array"], "items": { "type": "string" } }),
    };
    value["description"] = json!(description(key));
    if let Some(default) = default(key) {
        value["default"] = default;
    }
    value
}

/// What it means, what it takes, and what an edit does.
fn description(key: &Key) -> String {
    let range = key.range();
    let takes = match &key.kind {
        _ if range.is_empty() => String::new(),
        Kind::Choice(_) => String::new(),
        _ => format!(" {range}."),
    };
    let must = if key.default == DefaultValue::Required { " Required." } else { "" };
    format!("{}{takes}{must} Reload: {}.", key.doc, key.class)
}

fn default(key: &Key) -> Option<Value> {
    match key.default {
        DefaultValue::Required | DefaultValue::Unset => None,
        DefaultValue::Bool(value) => Some(json!(value)),
        DefaultValue::Count(count) => Some(json!(count)),
        DefaultValue::Ratio(ratio) => Some(json!(ratio)),
        DefaultValue::Empty => Some(json!([])),
        quoted => Some(json!(quoted.to_string().trim_matches('"'))),
    }
}

/// `plain`, or one of the words, or a text with a variable.
fn or_variable(plain: Value, words: &[&str]) -> Value {
    let mut any = vec![plain];
    if !words.is_empty() {
        any.push(json!({ "enum": words }));
    }
    any.push(json!({ "type": "string", "pattern": VARIABLE }));
    json!({ "anyOf": any })
}

/// One of these texts, or a list of them.
fn one_or_more(one: Value, most: usize) -> Value {
    json!({ "anyOf": [one.clone(), { "type": "array", "minItems": 1, "maxItems": most, "items": one }] })
}

/// Numbers with these units, the largest first and each once, as a pattern without its ends.
fn quantity(units: &[&str]) -> String {
    let one = |unit: &&str| format!("[0-9]+{unit}");
    let from = |first: usize| {
        let rest = units.get(first + 1..).unwrap_or_default().iter().map(|unit| format!("({})?", one(unit)));
        units.get(first).map(one).into_iter().chain(rest).collect::<String>()
    };
    (0..units.len()).map(from).collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::config::{duration, size};

    /// The schema of the value at a path of the list of keys.
    fn at<'s>(schema: &'s Value, path: &str) -> &'s Value {
        path.split('.').fold(schema, |place, name| match name {
            "*" => &place["additionalProperties"],
            "listen" | "service" | "accept_proxy_protocol" if place.get("items").is_some() => {
                &place["items"]["properties"][name]
            }
            name => &place["properties"][name],
        })
    }

    #[test]
    fn every_key_is_in_it_with_its_meaning_and_its_default() {
        let schema = schema();
        for key in super::super::keys() {
            let value = at(&schema, key.path);
            let told = value["description"].as_str().unwrap_or_else(|| panic!("{} is missing", key.path));
            assert!(told.starts_with(key.doc) && told.contains(&key.class.to_string()), "{}: {told}", key.path);
            assert_eq!(value.get("default").is_some(), default(key).is_some(), "{}", key.path);
            if key.has_defaults() {
                let of_all = key.path.replace("upstreams.*", "defaults");
                assert_eq!(at(&schema, &of_all), value, "{of_all}");
            }
        }
    }

    #[test]
    fn nothing_is_in_it_that_is_no_key() {
        let mut found = Vec::new();
        leaves(&schema(), "", &mut found);
        let known = |path: &String| {
            let path = path.replace("defaults.", "upstreams.*.");
            super::super::keys().iter().any(|key| key.path == path)
        };
        let strangers: Vec<_> = found.iter().filter(|path| !known(path)).collect();
        assert!(strangers.is_empty() && found.len() > super::super::keys().len(), "{strangers:?}");
    }

    fn leaves(schema: &Value, path: &str, found: &mut Vec<String>) {
        let schema = if schema.get("items").is_some_and(|items| items.get("properties").is_some()) {
            &schema["items"]
        } else {
            schema
        };
        let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        if let Some(below) = schema["additionalProperties"].as_object() {
            return leaves(&json!(below), &join("*"), found);
        }
        match schema.get("properties").and_then(Value::as_object) {
            // An endpoint's own keys are no keys of the file's list.
            Some(below) if !path.ends_with("endpoints") => {
                assert_eq!(schema["additionalProperties"], json!(false), "{path} takes anything");
                below.iter().for_each(|(name, schema)| leaves(schema, &join(name), found));
            }
            _ => found.push(path.to_owned()),
        }
    }

    #[test]
    fn its_patterns_are_those_of_the_reader() {
        let times = Regex::new(at(&schema(), "drain.quiet")["pattern"].as_str().unwrap()).unwrap();
        for text in [
            "5s",
            "1m30s",
            "1h2m3s4ms",
            "250ms",
            "1h4ms",
            "5",
            "5 s",
            "",
            "s",
            "1s1m",
            "1s1s",
            "1.5s",
            "-1s",
            "5sec",
            "OFF",
        ] {
            assert_eq!(times.is_match(text), duration(text).is_ok(), "{text}");
        }
        assert!(times.is_match("off") && times.is_match("${QUIET:-2s}") && times.is_match("${N}s"));
        let timeout = Regex::new(at(&schema(), "drain.timeout")["pattern"].as_str().unwrap()).unwrap();
        assert!(!timeout.is_match("off"));
        let sizes = Regex::new(at(&schema(), "gateway.limits.memory")["pattern"].as_str().unwrap()).unwrap();
        for text in ["16MiB", "1GiB512MiB", "7B", "1TiB", "16", "16MB", "16 MiB", "1MiB1GiB", "off", "1KiB1"] {
            assert_eq!(sizes.is_match(text), size(text).is_ok(), "{text}");
        }
    }
}
