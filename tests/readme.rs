//! The README and the pages it leads to are true: its configurations parse, the table of keys is the program's, the metrics
//! exist, the tests that are named are there, and no link leads nowhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use everlink::config::{
    self, DefaultValue, Forward, Loaded, Problem, Resume, Tunnel, Upstream, keys, show_duration, show_size,
};
use everlink::metrics::Metrics;

fn page(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

fn readme() -> String {
    page("README.md")
}

fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// The configurations, with the files they name: made by the very commands that the README gives.
struct Configurations {
    blocks: Vec<String>,
    _files: tempfile::TempDir,
}

impl Configurations {
    fn of(text: &str) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let commands: Vec<_> = blocks(text, "sh").into_iter().filter(|block| block.contains("openssl")).collect();
        assert_eq!(commands.len(), 2, "certificates, and a token");
        for commands in commands {
            let made = Command::new("sh").args(["-ec", commands]).current_dir(files.path()).output().expect("bash");
            assert!(made.status.success(), "{commands}\n{}", String::from_utf8_lossy(&made.stderr));
        }
        let place = format!("{}/", files.path().display());
        let moved = |block: &str| block.replace("/etc/everlink/", &place);
        Self { blocks: blocks(text, "toml").into_iter().map(moved).collect(), _files: files }
    }

    fn load(&self) -> Vec<Loaded> {
        let parse = |block: &String| match config::parse("README.md", block, &|_| None) {
            Ok(loaded) => loaded,
            Err(report) => panic!("{block}\n{report}"),
        };
        self.blocks.iter().map(parse).collect()
    }
}

#[test]
fn every_configuration_in_it_can_be_used() {
    let loaded = Configurations::of(&readme()).load();
    assert!(loaded.len() >= 7);
    for one in loaded {
        let warnings: Vec<_> = one.warnings.iter().map(Problem::line).collect();
        let meant = |line: &String| line.contains("without TLS");
        assert!(warnings.iter().all(meant), "{warnings:?}");
    }
}

#[test]
fn the_configurations_for_applications_can_be_used_as_they_are() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/APPLICATIONS.md");
    let text = fs::read_to_string(page).expect("the page");
    let sections = text.split("\n## ").skip(1).filter(|section| section.contains("\nSeen with ")).count();
    let blocks = blocks(&text, "toml");
    assert_eq!(blocks.len(), sections, "one for each server that was seen");
    for block in blocks {
        let loaded =
            config::parse("APPLICATIONS.md", block, &|_| None).unwrap_or_else(|report| panic!("{block}\n{report}"));
        assert!(
            loaded.warnings.is_empty(),
            "{block}\n{:?}",
            loaded.warnings.iter().map(Problem::line).collect::<Vec<_>>()
        );
    }
}

/// The sidecar's file and the gateway's stand one after the other: they must fit each other.
#[test]
fn the_two_ends_of_each_tunnel_fit() {
    let loaded = Configurations::of(&readme()).load();
    let mut pairs = 0;
    for (near, far) in loaded.iter().zip(loaded.iter().skip(1)) {
        let tunnels = near.config.upstreams.values().filter_map(|site| Some((site, site.tunnel.as_ref()?)));
        for (site, tunnel) in tunnels {
            let gateway = far.config.gateway.as_ref().expect("the gateway's file comes next");
            pairs += 1;
            for forward in &tunnel.forwards {
                assert!(gateway.services.contains_key(&forward.service), "{} is no service", forward.service);
            }
            assert_eq!(site.tls.is_some(), gateway.tls.is_some());
            assert_eq!(tunnel.token_file, gateway.token_file);
            assert!(site.endpoints.iter().all(|endpoint| endpoint.name.ends_with(":7443")));
            assert!(gateway.listen.iter().all(|address| address.port() == 7443));
        }
    }
    assert_eq!(pairs, 2, "with certificates, and with a token");
}

/// The certificates that its commands make say what its configurations expect.
#[test]
fn the_certificates_are_for_the_names_in_the_configurations() {
    let configurations = Configurations::of(&readme());
    let loaded = configurations.load();
    let site = loaded.iter().find_map(|one| one.config.upstreams.get("site").filter(|site| site.tls.is_some()));
    let gateway = loaded.iter().find_map(|one| one.config.gateway.as_ref().filter(|gateway| gateway.tls.is_some()));
    let (site, gateway) = (site.expect("a sidecar"), gateway.expect("a gateway"));
    let (near, far) = (site.tls.as_ref().expect("TLS"), gateway.tls.as_ref().expect("TLS"));
    let (host, _) = site.endpoints[0].name.rsplit_once(':').expect("host:port");
    let allowed = gateway.services.values().find_map(|service| service.allow.as_ref()).expect("allow")[0].as_str();
    let client = &near.client.as_ref().expect("a certificate").cert_file;
    let server_ca = near.ca_file.as_ref().expect("a CA");
    let client_ca = far.client_ca_file.as_ref().expect("a CA");
    for (ca, certificate, name) in [(server_ca, &far.cert_file, host), (client_ca, client, allowed)] {
        let mut command = Command::new("openssl");
        command.args(["verify", "-verify_hostname", name, "-CAfile"]).arg(ca).arg(certificate);
        let verified = command.output().expect("openssl");
        assert!(verified.status.success(), "{name}: {}", String::from_utf8_lossy(&verified.stderr));
    }
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
    assert!(page("src/config/README.md").contains(&expected), "write this into src/config/README.md:\n{expected}");
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
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), "0123456789abcdef").expect("written");
    let text = format!(
        "[gateway]\nlisten = \"127.0.0.1:7443\"\ntoken_file = {:?}\nservices = {{ b = \"b:1\" }}\n",
        token.path()
    );
    let gateway = config::parse("g", text, &|_| None).expect("parses").config.gateway.expect("a gateway");
    let _handles = (metrics.upstream(direct), metrics.upstream(&tunnel), metrics.gateway(&gateway));
    let _endpoint = metrics.endpoint("a", "b:1");
    metrics.certificate_not_after("ca", "a").set(1.0);
    metrics.show_unusable_files("a", Some(false));
    let exported: BTreeSet<String> = metrics
        .gather()
        .iter()
        .map(|family| family.name().to_owned())
        .filter(|name| name.starts_with("everlink_"))
        .collect();
    let text = page("src/metrics/README.md");
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
    let text = readme() + &page("tests/SURVIVES.md");
    let named: Vec<_> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.matches('_').count() > 3 && !word.contains([' ', '.']) && !word.starts_with("everlink_"))
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

/// The pages of this tree that a page leads to.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).chain(text.split("src=\"").skip(1)).chain(text.split("srcset=\"").skip(1));
    targets.filter_map(|rest| rest.split([')', '"', '#']).next()).filter(|to| !to.is_empty() && !to.contains("://"))
}

#[test]
fn no_link_leads_nowhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = Vec::new();
    documents(root, &mut pages);
    assert!(pages.len() > 12, "{pages:?}");
    for page in pages {
        let text = fs::read_to_string(&page).expect("readable");
        let place = page.parent().expect("a folder");
        for link in links(&text) {
            assert!(place.join(link).exists(), "{}: {link}", page.display());
        }
    }
}

fn documents(directory: &Path, into: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).expect("readable").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            documents(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            into.push(path);
        }
    }
}
