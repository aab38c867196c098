//! `everlink schema` beside the program: what `everlink check` takes, it takes, and it refuses what an editor can know.

#[path = "schema/configurations.rs"]
mod configurations;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use everlink::config::{self, DefaultValue, Key, Kind, keys};
use serde_json::{Value, json};

const DIRECT: &str = "listen = \"127.0.0.1:7000\"\nendpoints = [\"a:1\"]\n";
const TUNNEL: &str = "mode = \"tunnel\"\nendpoints = [\"127.0.0.1:7443\"]\n";
const FORWARD: &str = "listen = \"127.0.0.1:7001\"\nservice = \"a\"\n";
const GATEWAY: &str = "listen = \"127.0.0.1:7443\"\n";
const TLS: &str = "tls.cert_file = \"c\"\ntls.key_file = \"k\"\n";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The program's own.
fn schema() -> Value {
    let told = Command::new(env!("CARGO_BIN_EXE_everlink")).arg("schema").output().expect("run");
    assert!(told.status.success() && told.stderr.is_empty(), "{told:?}");
    serde_json::from_slice(&told.stdout).expect("JSON")
}

/// A configuration as a validator takes it; `None`: it is no TOML, or holds what JSON has not.
fn instance(text: &str) -> Option<Value> {
    serde_json::to_value(toml::from_str::<toml::Table>(text).ok()?).ok()
}

/// The names of those that the schema takes, told by a validator that is not ours.
fn taken(instances: &[(String, Value)]) -> BTreeSet<String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let python = target.join("python/bin/python");
    let mut command = Command::new(&python);
    command.arg(root().join("tests/schema/validate.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child =
        command.spawn().unwrap_or_else(|error| panic!("{}: {error}: run tests/run --install", python.display()));
    let asked = json!({ "schema": schema(), "instances": instances });
    let stdin = child.stdin.take().expect("a pipe");
    serde_json::to_writer(stdin, &asked).expect("told");
    let told = child.wait_with_output().expect("answered");
    assert!(told.status.success(), "the validator failed");
    serde_json::from_slice(&told.stdout).expect("JSON")
}

/// Holds that all are taken, or that none is.
fn all(instances: Vec<(String, Value)>, take: bool) {
    let taken = taken(&instances);
    let wrong: Vec<_> = instances.iter().filter(|(name, _)| taken.contains(name) != take).collect();
    let verdict = if take { "refused" } else { "taken" };
    assert!(wrong.is_empty(), "{} of {} are {verdict}: {wrong:#?}", wrong.len(), instances.len());
}

/// A file with one key of the list, and no more than it needs to be sound. `value` as it would be written.
fn with(key: &Key, name: &str, value: &str) -> String {
    // What is written twice is no TOML.
    let but = |name: &str, base: &str| -> String {
        let others = base.lines().filter(|line| !line.starts_with(&format!("{name} =")));
        others.map(|line| format!("{line}\n")).collect()
    };
    if let Some(name) = name.strip_prefix("upstreams.*.forwards.") {
        let base = but(name, FORWARD);
        return format!("[upstreams.u]\n{TUNNEL}[[upstreams.u.forwards]]\n{base}{name} = {value}\n");
    }
    if let Some(name) = name.strip_prefix("upstreams.*.") {
        let of_tunnel = key.doc.starts_with("Tunnel:") || (name == "mode" && value.contains("tunnel"));
        let base = but(name, if of_tunnel { TUNNEL } else { DIRECT });
        let forwards = if of_tunnel { format!("[[upstreams.u.forwards]]\n{FORWARD}") } else { String::new() };
        return format!("[upstreams.u]\n{base}{name} = {value}\n{forwards}");
    }
    if let Some(name) = name.strip_prefix("gateway.services.*.") {
        let base = but(name, "address = \"a:1\"\n");
        return format!("[gateway]\n{GATEWAY}[gateway.services.s]\n{base}{name} = {value}\n");
    }
    if let Some(name) = name.strip_prefix("gateway.") {
        let base = but(name, &format!("{GATEWAY}{}", if name.starts_with("tls.") { TLS } else { "" }));
        return format!("[gateway]\n{base}{name} = {value}\n[gateway.services]\ns = \"a:1\"\n");
    }
    format!("{name} = {value}\n")
}

/// Values that a key takes, as written.
fn good(key: &Key) -> Vec<String> {
    let mut values = match &key.kind {
        Kind::Text | Kind::Bytes | Kind::File => vec!["\"a\"".to_owned()],
        Kind::Address => vec!["\"a:1\"".to_owned(), "\"unix:/run/a\"".to_owned()],
        Kind::Bool => vec!["true".to_owned(), "false".to_owned()],
        Kind::Choice(words) => words.iter().map(|word| format!("{word:?}")).collect(),
        Kind::Count { min, max, word } => {
            [min.to_string(), max.to_string()].into_iter().chain(word.map(|word| format!("{word:?}"))).collect()
        }
        Kind::Ratio { min, max, words } => {
            [min.to_string(), max.to_string()].into_iter().chain(words.iter().map(|word| format!("{word:?}"))).collect()
        }
        Kind::Time { min, max, off } => [min, max]
            .map(|time| format!("\"{}\"", config::show_duration(*time)))
            .into_iter()
            .chain(off.then(|| "\"off\"".to_owned()))
            .chain(["\"1h2m3s4ms\"".to_owned()])
            .collect(),
        Kind::Size { min, max } => [min, max].map(|bytes| format!("\"{}\"", config::show_size(*bytes))).to_vec(),
        Kind::Listeners { .. } => vec!["\"127.0.0.1:1\"".to_owned(), "[\"127.0.0.1:1\", \"unix:/run/a\"]".to_owned()],
        Kind::Endpoints => vec!["\"a:1\"".to_owned(), "[\"a:1\", { address = \"b:1\", priority = 2 }]".to_owned()],
        Kind::Texts => vec!["\"a\"".to_owned(), "[\"a\", \"b\"]".to_owned()],
        Kind::Networks => vec!["[\"10.0.0.0/8\"]".to_owned()],
    };
    if !matches!(key.default, DefaultValue::Required | DefaultValue::Unset) {
        values.push(key.default.to_string());
    }
    values.push("\"${A:-b}\"".to_owned());
    values
}

/// Values that no reader of the type takes.
fn bad(key: &Key) -> Vec<&'static str> {
    let list = match key.kind {
        Kind::Listeners { .. } | Kind::Endpoints | Kind::Texts | Kind::Networks => "[7]",
        _ => "[\"a\"]",
    };
    let own: &[_] = match key.kind {
        Kind::Text | Kind::Bytes | Kind::File | Kind::Address => &["5", "true"],
        Kind::Bool => &["5", "\"yes\"", "\"true\""],
        Kind::Choice(_) => &["5", "\"nonsense\"", "true"],
        Kind::Count { .. } => &["\"5\"", "0", "2000000", "1.5", "-1", "\"nonsense\""],
        Kind::Ratio { .. } => &["\"5\"", "0.01", "11", "\"nonsense\""],
        Kind::Time { .. } => &["5", "\"5\"", "\"5 s\"", "\"5sec\"", "\"1.5s\"", "\"\"", "\"1s1m\"", "\"OFF\""],
        Kind::Size { .. } => &["16", "\"16\"", "\"16MB\"", "\"16 MiB\"", "\"off\""],
        Kind::Listeners { .. } => &["7000", "[]", "[7000]"],
        Kind::Endpoints => &["7000", "[]", "[{ priority = 2 }]", "[{ address = \"a:1\", prio = 2 }]", "[[\"a:1\"]]"],
        Kind::Texts | Kind::Networks => &["5", "true"],
    };
    let off: &[_] = if matches!(key.kind, Kind::Time { off: false, .. }) { &["\"off\""] } else { &[] };
    own.iter().chain(off).copied().chain([list, "{ a = 1 }"]).collect()
}

#[test]
fn each_key_is_taken_with_each_kind_of_value_it_may_have() {
    let mut instances = Vec::new();
    for key in keys() {
        for value in good(key) {
            let text = with(key, key.path, &value);
            let instance = instance(&text).unwrap_or_else(|| panic!("no TOML: {text}"));
            instances.push((text, instance));
        }
    }
    assert!(instances.len() > 2 * keys().len());
    all(instances, true);
}

#[test]
fn a_wrong_type_a_missing_unit_and_an_unknown_word_are_refused_at_each_key() {
    let mut instances = Vec::new();
    for key in keys() {
        for value in bad(key) {
            let text = with(key, key.path, value);
            let instance = instance(&text).unwrap_or_else(|| panic!("no TOML: {text}"));
            // The program says the same: it is no matter of taste.
            assert!(config::parse("a", &text, &|_| None).is_err(), "{text}");
            instances.push((text, instance));
        }
    }
    all(instances, false);
}

#[test]
fn unknown_keys_are_refused_in_each_table() {
    let mut instances = Vec::new();
    let mut refuse = |text: String| {
        let instance = instance(&text).unwrap_or_else(|| panic!("no TOML: {text}"));
        assert!(config::parse("a", &text, &|_| None).is_err(), "{text}");
        instances.push((text, instance));
    };
    for key in keys() {
        let misspelled = format!("{}x", key.path);
        refuse(with(key, &misspelled, &good(key)[0]));
        if key.has_defaults() {
            refuse(format!("[defaults]\n{}x = \"5s\"\n", key.name()));
        }
    }
    for text in [
        "heartbeet = 1\n",
        "[upstream.a]\nlisten = \"127.0.0.1:1\"\n",
        "[upstreams.A]\nlisten = \"127.0.0.1:1\"\nendpoints = [\"a:1\"]\n",
        "[upstreams.a]\nendpoints = [\"a:1\"]\n",
        "[upstreams.a]\nlisten = \"127.0.0.1:1\"\n",
        "[upstreams.a]\nmode = \"tunnel\"\nendpoints = [\"127.0.0.1:1\"]\ntoken_file = \"t\"\n",
        "[upstreams.a]\nlisten = \"127.0.0.1:1\"\nendpoints = [\"a:1\"]\ntls = \"on\"\n",
        "[upstreams.a]\nlisten = \"127.0.0.1:1\"\nendpoints = [\"a:1\"]\ntls = true\n",
        "[defaults]\nlisten = \"127.0.0.1:1\"\n",
        "[[upstreams]]\nlisten = \"127.0.0.1:1\"\n",
        "[gateway]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"t\"\n",
        "[gateway]\ntoken_file = \"t\"\n[gateway.services]\na = \"b:1\"\n",
        "[gateway]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"t\"\n[gateway.services]\na = 1\n",
        "[gateway]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"t\"\n[gateway.services]\nA = \"b:1\"\n",
    ] {
        refuse(text.to_owned());
    }
    all(instances, false);
}

#[test]
fn what_the_documents_and_the_examples_show_is_taken() {
    let found = configurations::everywhere(&root());
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert!(
        names.contains(&"config.toml") && names.iter().filter(|name| name.starts_with("README.md")).count() >= 7,
        "{names:?}"
    );
    let read = |(name, text): (String, String)| {
        let instance = instance(&text).unwrap_or_else(|| panic!("{name} is no TOML: {text}"));
        (name, instance)
    };
    all(found.into_iter().map(read).collect(), true);
}

/// The fuzzer's corpus: thousands of files that somebody, or something, wrote.
#[test]
fn whatever_the_program_takes_it_takes() {
    let corpus = root().join("tests/fuzz/corpus/config");
    let mut instances = Vec::new();
    for entry in std::fs::read_dir(&corpus).expect("the corpus").flatten() {
        let text = std::fs::read(entry.path()).expect("readable");
        let Ok(text) = String::from_utf8(text) else { continue };
        if config::parse("a", &text, &|_| None).is_err() {
            continue;
        }
        if let Some(instance) = instance(&text) {
            instances.push((entry.file_name().to_string_lossy().into_owned(), instance));
        }
    }
    assert!(instances.len() >= 5, "only {} of the corpus can be used", instances.len());
    all(instances, true);
}

#[test]
fn it_is_a_sound_schema_that_names_its_version() {
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(taken(&[("empty".to_owned(), json!({}))]), BTreeSet::from(["empty".to_owned()]));
    let help = Command::new(env!("CARGO_BIN_EXE_everlink")).args(["schema", "--help"]).output().expect("run");
    assert!(String::from_utf8_lossy(&help.stdout).contains("#:schema ./everlink.schema.json"));
    assert!(Path::new(&root()).join("tests/schema/validate.py").is_file());
}
