//! The README is true: its configurations parse, its table of keys is the program's, its metrics exist, and the tests it
//! names are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use everlink::config::{self, DefaultValue, Forward, Resume, Tunnel, Upstream, keys, show_duration, show_size};
use everlink::metrics::Metrics;

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md")
}

fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn every_configuration_in_it_can_be_used() {
    let text = readme();
    let blocks = blocks(&text, "toml");
    assert!(blocks.len() >= 5);
    let files = pki();
    let place = format!("{}/", files.path().display());
    for block in blocks {
        // The files it names are there, only elsewhere.
        let block = block.replace("/etc/everlink/", &place);
        if let Err(report) = config::parse("README.md", &block, &|_| None) {
            panic!("{block}\n{report}");
        }
    }
}

/// A CA, and a certificate of its for each end, by the names that the README gives them.
fn pki() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: String| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("private");
    };
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    write("ca.pem", ca.self_signed(&key).expect("signed").pem());
    let issuer = rcgen::Issuer::new(ca, key);
    for name in ["gateway.example.net", "sidecar-a"] {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        write(&format!("{name}.pem"), params.signed_by(&key, &issuer).expect("signed").pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
    directory
}

#[test]
fn the_tutorial_means_what_the_tutorial_says() {
    let text = readme();
    let block = blocks(&text, "toml").into_iter().find(|block| block.contains("pong")).expect("the tutorial");
    let loaded = config::parse("README.md", block, &|_| None).expect("parses");
    let chat = &loaded.config.upstreams["chat"];
    assert_eq!(chat.heartbeat.interval.as_secs(), 5);
    assert_eq!(chat.retry.attempts, Some(5));
    assert_eq!(chat.retry.initial.as_secs(), 3);
    assert_eq!(chat.detection_budget().as_secs(), 14);
}

#[test]
fn the_shipped_configuration_can_be_used() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    let files = tempfile::tempdir().expect("a directory");
    let token = files.path().join("token");
    everlink::demo::provide_token(&token).expect("made");
    let named = |name: &str| (name == everlink::demo::TOKEN.0).then(|| token.display().to_string());
    let loaded = config::load(&path, &named).unwrap_or_else(|report| panic!("{report}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let ports: Vec<_> = loaded.config.upstreams["echo"].listen.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["127.0.0.1:7000"]);
    assert_eq!(loaded.config.http.listen[0].port(), 9900);
}

fn key_table() -> String {
    let mut table = "| key | default | values | class | |\n|---|---|---|---|---|\n".to_owned();
    for key in keys() {
        let default = match key.default {
            DefaultValue::Required => "required".to_owned(),
            DefaultValue::Unset | DefaultValue::Empty => String::new(),
            DefaultValue::Off => "`\"off\"`".to_owned(),
            DefaultValue::Time(time) => format!("`\"{}\"`", show_duration(time)),
            DefaultValue::Size(bytes) => format!("`\"{}\"`", show_size(bytes)),
            DefaultValue::Count(count) => format!("`{count}`"),
            DefaultValue::Ratio(ratio) => format!("`{ratio:?}`"),
            DefaultValue::Word(word) => format!("`\"{word}\"`"),
            DefaultValue::Bool(value) => format!("`{value}`"),
        };
        let range = key.range();
        let values = if range.is_empty() { key.kind.to_string() } else { range };
        let path = key.path.replace("upstreams.*.", "… ");
        table += &format!("| `{path}` | {default} | {} | {} | {} |\n", values.replace('|', "\\|"), key.class, key.doc);
    }
    table
}

#[test]
fn the_table_of_keys_is_the_programs() {
    let expected = key_table();
    assert!(readme().contains(&expected), "write this into README.md under \"Every key\":\n{expected}");
}

#[test]
fn every_metric_is_listed_and_every_listed_metric_exists() {
    let metrics = Metrics::new().expect("metrics");
    let text = "[upstreams.a]\nlisten = \"127.0.0.1:1234\"\nendpoints = [\"b:1\"]\n";
    let loaded = config::parse("a", text, &|_| None).expect("parses");
    let direct = &loaded.config.upstreams["a"];
    let forward = Forward { listen: direct.listen.clone(), service: "b".into(), accept_proxy_protocol: Vec::new() };
    let tunnel = Upstream {
        name: "t".into(),
        tunnel: Some(Tunnel {
            forwards: vec![forward],
            token_file: None,
            resume: Resume { deadline: Duration::from_secs(60), buffer: 1 << 24 },
            windows: 1 << 26,
            insecure_plaintext: true,
        }),
        ..Upstream::clone(direct)
    };
    let _handles = (metrics.upstream(direct), metrics.upstream(&tunnel), metrics.gateway());
    let _endpoint = metrics.endpoint("a", "b:1");
    metrics.certificate_not_after("ca", "a").set(1.0);
    let exported: BTreeSet<String> = metrics
        .gather()
        .iter()
        .map(|family| family.name().to_owned())
        .filter(|name| name.starts_with("everlink_"))
        .collect();
    let text = readme();
    let table = text.lines().filter(|line| line.starts_with("| `everlink_"));
    let listed: BTreeSet<String> = table
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(|word| word.starts_with("everlink_"))
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, exported);
}

#[test]
fn the_tests_it_names_are_there() {
    let mut sources = String::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut sources);
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    let text = readme();
    let section =
        text.split("## What survives what").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("there");
    let named: Vec<_> = section
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.matches('_').count() > 3 && !word.contains(' ') && !word.contains('.'))
        .collect();
    assert!(named.len() >= 10, "only {} tests are named", named.len());
    for name in named {
        assert!(sources.contains(&format!("fn {name}(")), "there is no test {name}");
    }
}

fn collect(directory: &Path, into: &mut String) {
    for entry in fs::read_dir(directory).expect("readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(path).expect("readable"));
        }
    }
}
