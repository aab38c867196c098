use super::*;
use crate::config::parse;

fn config(text: &str) -> Config {
    parse("config.toml", text, &|_| None).map(|loaded| loaded.config).unwrap()
}

fn told(old: &str, new: &str) -> Vec<String> {
    let upstream = "[upstreams.chat]\nlisten = \"127.0.0.1:7000\"\nendpoints = [\"chat:1\"]\n";
    let chat = |lines: &str| {
        if lines.contains("[upstreams.chat]") { lines.to_owned() } else { format!("{upstream}{lines}") }
    };
    diff(&config(&chat(old)), &config(&chat(new))).iter().map(ToString::to_string).collect()
}

#[test]
fn a_change_tells_its_key_its_values_and_what_it_takes() {
    assert_eq!(told("", "heartbeat.interval = \"3s\""), ["chat: heartbeat.interval 5s → 3s, live"]);
    assert_eq!(told("retry.connect_timeout = \"1s\"", ""), ["chat: retry.connect_timeout 1s → 5s, next dial"]);
    assert_eq!(told("", "[log]\nformat = \"json\""), ["log.format auto → json, live"]);
    assert_eq!(told("", "[http]\nlisten = \"off\""), ["http.listen 127.0.0.1:9900 → off, rebind"]);
    assert_eq!(told("", "[admin]\nsocket = \"/a\""), ["admin.socket unset → /a, rebind"]);
    assert_eq!(
        told(
            "[upstreams.chat]\nlisten = \"127.0.0.1:7000\"\nendpoints = [\"a:1\"]",
            "[upstreams.chat]\nlisten = [\"127.0.0.1:7000\", \"unix:/a\"]\nendpoints = [\"a:1\", { address = \"b:1\", priority = 2 }]",
        ),
        [
            "chat: listen 127.0.0.1:7000 → 127.0.0.1:7000, unix:/a, rebind",
            "chat: endpoints a:1 → a:1, b:1 (priority 2), next dial"
        ]
    );
}

#[test]
fn what_a_beat_says_is_not_told() {
    assert_eq!(
        told(
            "heartbeat = { send = \"AUTH a\", expect = \"ok\" }",
            "heartbeat = { send = \"AUTH b\", expect = \"ok\" }"
        ),
        ["chat: heartbeat.send *** → ***, live"]
    );
}

#[test]
fn tls_comes_and_goes_as_a_whole() {
    assert_eq!(told("", "tls = { server_name = \"a\" }"), ["chat: tls off → on, next dial"]);
    assert_eq!(
        told("tls = { alpn = [\"a\"] }", "tls = { server_name = \"a\" }"),
        ["chat: tls.server_name unset → a, next dial", "chat: tls.alpn a → none, next dial"]
    );
}

/// With a token that is there; files are looked at.
fn tunnel(directory: &tempfile::TempDir, lines: &str) -> String {
    let token = directory.path().join("token");
    std::fs::write(&token, "0123456789abcdef").unwrap();
    let text = "[upstreams.chat]\nmode = \"tunnel\"\nendpoints = [\"127.0.0.1:1\"]\ntoken_file = TOKEN\n";
    format!("{text}{lines}\n").replace("TOKEN", &format!("{token:?}"))
}

#[test]
fn forwards_come_go_and_change() {
    let dir = tempfile::tempdir().unwrap();
    let told = |old: &str, new: &str| {
        let text = |forwards: &str| tunnel(&dir, &format!("forwards = [{forwards}]"));
        told(&text(old), &text(new))
    };
    let forward = |port: u16, rest: &str| format!("{{ listen = \"127.0.0.1:{port}\", {rest} }}");
    let (a, b) = (forward(5432, "service = \"postgres\""), forward(6379, "service = \"cache\""));
    assert_eq!(told(&b, &format!("{a}, {b}")), ["chat: forward 127.0.0.1:5432 → postgres added, rebind"],);
    assert_eq!(
        told(&a, &b),
        [
            "chat: forward 127.0.0.1:5432 → postgres removed, rebind",
            "chat: forward 127.0.0.1:6379 → cache added, rebind"
        ]
    );
    assert!(told(&format!("{a}, {b}"), &format!("{b}, {a}")).is_empty(), "the order means nothing");
    let changed = forward(5432, "service = \"pg-2\", accept_proxy_protocol = \"10.0.0.0/8\"");
    assert_eq!(
        told(&a, &changed),
        [
            "chat: forward 127.0.0.1:5432 → postgres → pg-2, live",
            "chat: forward 127.0.0.1:5432 accept_proxy_protocol none → 10.0.0.0/8, live"
        ]
    );
    let free = |service: &str| forward(0, &format!("service = \"{service}\""));
    let two = |a: &str, b: &str| format!("{}, {}", free(a), free(b));
    assert_eq!(
        told(&two("a", "b"), &two("b", "c")),
        ["chat: forward 127.0.0.1:0 → a removed, rebind", "chat: forward 127.0.0.1:0 → c added, rebind"],
        "the port is the service's"
    );
}

#[test]
fn a_gateway_comes_and_goes_as_a_whole_and_its_services_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let told = |old: &str, new: &str| {
        let text =
            |lines: &str| tunnel(&dir, &format!("forwards = [{{ listen = \"unix:/a\", service = \"a\" }}]\n{lines}"));
        told(&text(old), &text(new))
    };
    let gateway = |keys: &str, services: &str| {
        format!(
            "[gateway]\nlisten = \"127.0.0.1:7443\"\nname = \"a\"\ntoken_file = TOKEN\n{keys}\n[gateway.services]\n{services}"
        )
    };
    let one = gateway("", "db = \"db:5432\"");
    assert_eq!(told("", &one), ["gateway added, rebind"]);
    assert_eq!(told(&one, ""), ["gateway removed, rebind"]);
    assert_eq!(
        told(&one, &gateway("", "db = { address = \"db2:5432\", proxy_protocol = \"v2\" }\ncache = \"unix:/c\"")),
        [
            "gateway: service cache → unix:/c added, live",
            "gateway.services.db.address db:5432 → db2:5432, live",
            "gateway.services.db.proxy_protocol off → v2, live"
        ]
    );
    assert_eq!(
        told(&one, &gateway("heartbeat = { misses = 2 }\nlimits.memory = \"2GiB\"", "a = \"db:5432\"")),
        [
            "gateway.heartbeat.interval unset → 5s, live",
            "gateway.heartbeat.timeout unset → 3s, live",
            "gateway.heartbeat.misses unset → 2, live",
            "gateway.limits.memory 1GiB → 2GiB, live",
            "gateway: service a → db:5432 added, live",
            "gateway: service db → db:5432 removed, live"
        ]
    );
}

#[test]
fn another_mode_is_another_upstream() {
    let dir = tempfile::tempdir().unwrap();
    let other = tunnel(&dir, "forwards = [{ listen = \"unix:/a\", service = \"a\" }]\nresume.buffer = \"1MiB\"");
    assert_eq!(told("", &other), ["chat: mode direct → tunnel, replace"]);
    let deadline = format!("{other}resume.deadline = \"5s\"");
    let moves = "its sessions move to new connections";
    assert_eq!(told(&other, &deadline), [format!("chat: resume.deadline 1m → 5s, next dial, {moves}")]);
}

#[test]
fn what_a_change_brings_about_is_told_with_it() {
    let pool = |size: u32| format!("pool.size = {size}");
    assert_eq!(told(&pool(4), &pool(2)), ["chat: pool.size 4 → 2, live, 2 links let go"]);
    assert_eq!(told(&pool(2), &pool(4)), ["chat: pool.size 2 → 4, live"]);
    let endpoints = |list: &str| format!("[upstreams.chat]\nlisten = \"127.0.0.1:7000\"\nendpoints = [{list}]");
    assert_eq!(
        told(&endpoints("\"a:1\", \"b:1\""), &endpoints("\"b:1\", \"c:1\"")),
        ["chat: endpoints a:1, b:1 → b:1, c:1, next dial, links to a:1 are let go"]
    );
}

#[test]
fn upstreams_come_and_go() {
    let other = "[upstreams.a]\nlisten = \"unix:/a\"\nendpoints = [\"a:1\"]";
    assert_eq!(told("", other), ["a: added"]);
    assert_eq!(told(other, ""), ["a: removed"]);
}

#[test]
fn a_default_that_is_overridden_changes_nothing() {
    let own = "heartbeat.interval = \"3s\"\n";
    assert!(told(own, &format!("{own}[defaults.heartbeat]\ninterval = \"9s\"")).is_empty());
}
