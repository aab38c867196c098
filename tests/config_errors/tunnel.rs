//! The same for tunnels and gateways.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use everlink::config::{parse, show};

use super::{chat, env, same, told};

/// Any file of 16 to 4096 bytes will do for a token where the token is not what is wrong.
const TOKEN: &str = "token_file = \"Cargo.toml\"\n";

/// A sound tunnel with these lines in it.
fn site(lines: &str) -> String {
    format!(
        "[upstreams.site]\nmode = \"tunnel\"\nendpoints = [\"127.0.0.1:7443\"]\n{TOKEN}{lines}\n\
         [[upstreams.site.forwards]]\nlisten = \"127.0.0.1:5432\"\nservice = \"postgres\"\n"
    )
}

/// A sound gateway with these lines in it.
fn gateway(lines: &str, services: &str) -> String {
    format!("[gateway]\nlisten = \"127.0.0.1:7443\"\n{TOKEN}{lines}\n[gateway.services]\n{services}\n")
}

/// What it comes to, and the lines of its warnings.
fn fine(text: &str) -> (everlink::config::Config, Vec<String>) {
    match parse("config.toml", text, &env) {
        Ok(loaded) => (loaded.config, loaded.warnings.iter().map(everlink::config::Problem::line).collect()),
        Err(report) => panic!("{text}\n{report}"),
    }
}

#[test]
fn a_tunnel_with_the_keys_of_the_other_mode() {
    same(
        &told(site(
            "listen = \"127.0.0.1:1\"\nheartbeat = { preset = \"redis\", interval = \"3s\" }\ntls.alpn = [\"h2\"]",
        )),
        r#"
error: `listen` is for direct mode
 --> config.toml:5:10
  |
2 | mode = "tunnel"
  |        -------- the mode
 ...
5 | listen = "127.0.0.1:1"
  |          ^^^^^^^^^^^^^
  = help: in tunnel mode each listener has its service: move it into [[upstreams.site.forwards]]

error: `heartbeat.preset` is for direct mode
 --> config.toml:6:24
  |
2 | mode = "tunnel"
  |        -------- the mode
 ...
6 | heartbeat = { preset = "redis", interval = "3s" }
  |                        ^^^^^^^
  = help: a tunnel's beats are frames of its own: leave it out

error: `tls.alpn` is for direct mode
 --> config.toml:7:12
  |
2 | mode = "tunnel"
  |        -------- the mode
 ...
7 | tls.alpn = ["h2"]
  |            ^^^^^^
  = help: a tunnel has a protocol name of its own: leave it out

config.toml: 3 errors"#,
    );
}

#[test]
fn a_forward_that_lets_nobody_in_is_worth_a_warning() {
    let forward = |listen: &str| {
        let more = "accept_proxy_protocol = [\"10.0.0.0/8\"]";
        site("").replace("listen = \"127.0.0.1:5432\"", &format!("listen = {listen}\n{more}"))
    };
    // The token's own is not looked at here.
    let told = |listen: &str| -> Vec<String> {
        fine(&forward(listen)).1.into_iter().filter(|line| line.contains("accept_proxy_protocol")).collect()
    };
    assert!(told("\"127.0.0.1:5432\"").is_empty());
    assert_eq!(
        told("[\"127.0.0.1:5432\", \"unix:/run/pg.sock\"]"),
        [
            "config.toml:8:25: `accept_proxy_protocol` turns away every client of unix:/run/pg.sock: they come from no network"
        ]
    );
}

#[test]
fn a_direct_upstream_with_the_keys_of_a_tunnel() {
    same(
        &told(chat("resume = { buffer = \"1MiB\" }\nlimits.windows = \"64MiB\"\ntoken_file = \"/run/token\"")),
        r#"
error: `resume.buffer` is for tunnel mode
 --> config.toml:4:21
  |
4 | resume = { buffer = "1MiB" }
  |                     ^^^^^^
  = help: leave it out, or write mode = "tunnel"

error: `limits.windows` is for tunnel mode
 --> config.toml:5:18
  |
5 | limits.windows = "64MiB"
  |                  ^^^^^^^
  = help: leave it out, or write mode = "tunnel"

error: `token_file` is for tunnel mode
 --> config.toml:6:14
  |
6 | token_file = "/run/token"
  |              ^^^^^^^^^^^^
  = help: leave it out, or write mode = "tunnel"

config.toml: 3 errors"#,
    );
}

#[test]
fn forwards_without_the_mode() {
    same(
        &told(site("").replace("mode = \"tunnel\"\n", "")),
        r#"
error: `forwards` is for tunnel mode
 --> config.toml:5:18
  |
5 | [[upstreams.site.forwards]]
  |                  ^^^^^^^^
  = help: write mode = "tunnel"

config.toml: 1 error"#,
    );
}

#[test]
fn a_tunnel_that_leads_nowhere_and_proves_nothing() {
    same(
        &told(
            "[upstreams.site]\nmode = \"tunnel\"\nendpoints = [\"gateway.example.net:7443\", \"unix:/run/gw.sock\"]\n",
        ),
        r#"
error: upstream `site` has no forwards
 --> config.toml:1:12
  |
1 | [upstreams.site]
  |            ^^^^
  = help: name where clients arrive, and the gateway's service for them:
  = help: [[upstreams.site.forwards]]
  = help: listen = "127.0.0.1:5432"
  = help: service = "postgres"

error: upstream `site` has neither `tls` nor `token_file`
 --> config.toml:1:12
  |
1 | [upstreams.site]
  |            ^^^^
  = help: one of them tells the gateway who dials it: give it a table `tls` with cert_file and key_file, or name a token_file

error: the link to "gateway.example.net:7443" would run without TLS
 --> config.toml:3:14
  |
3 | endpoints = ["gateway.example.net:7443", "unix:/run/gw.sock"]
  |              ^^^^^^^^^^^^^^^^^^^^^^^^^^
  = help: write [upstreams.site.tls] with its ca_file, or allow it by insecure_plaintext = true

error: endpoint "unix:/run/gw.sock" is a unix socket, and no gateway's
 --> config.toml:3:42
  |
3 | endpoints = ["gateway.example.net:7443", "unix:/run/gw.sock"]
  |                                          ^^^^^^^^^^^^^^^^^^^
  = help: a tunnel runs over TCP: write host:port

config.toml: 4 errors"#,
    );
    same(
        &told(site("tls = {}").replace(TOKEN, "")),
        r#"
error: upstream `site` has nothing that tells the gateway who it is
 --> config.toml:1:12
  |
1 | [upstreams.site]
  |            ^^^^
  = help: name a token_file, or cert_file and key_file in its table `tls`

config.toml: 1 error"#,
    );
}

#[test]
fn sizes_without_units_and_out_of_range() {
    same(
        &told(site("resume = { buffer = 16, deadline = \"2h\" }\nlimits.windows = \"8GiB\"")),
        r#"
error: `buffer` needs a unit: write "16MiB"
 --> config.toml:5:21
  |
5 | resume = { buffer = 16, deadline = "2h" }
  |                     ^^
  = help: units are B, KiB, MiB, GiB, TiB

error: `deadline` is 2h, and must be 1s to 1h
 --> config.toml:5:36
  |
5 | resume = { buffer = 16, deadline = "2h" }
  |                                    ^^^^

error: `windows` is 8GiB, and must be 1MiB to 4GiB
 --> config.toml:6:18
  |
6 | limits.windows = "8GiB"
  |                  ^^^^^^

config.toml: 3 errors"#,
    );
}

#[test]
fn windows_too_small_for_their_streams() {
    same(
        &told(site("[upstreams.site.limits]\nwindows = \"8MiB\"\nconnections = 5000")),
        r#"
error: `windows` is 8MiB, less than 16KiB for each of 5000 connections
 --> config.toml:6:11
  |
6 | windows = "8MiB"
  |           ^^^^^^
7 | connections = 5000
  |               ---- and this
  = help: write windows = "79MiB", or allow fewer connections: 512 fit

config.toml: 1 error"#,
    );
}

#[test]
fn forwards_of_many_faults() {
    same(
        &told(site("").replace(
            "service = \"postgres\"",
            "servce = \"postgres\"\n[[upstreams.site.forwards]]\nlisten = \"0.0.0.0:5432\"\nservice = \"Post gres\"\n\
             accept_proxy_protocol = [\"10.0.0.1\", \"10.0.0.1/8\"]",
        )),
        r#"
error: unknown key `servce` in [[upstreams.site.forwards]]
 --> config.toml:8:1
  |
8 | servce = "postgres"
  | ^^^^^^
  = help: did you mean `service`?

error: "0.0.0.0:5432" can be reached by other machines
  --> config.toml:10:10
   |
10 | listen = "0.0.0.0:5432"
   |          ^^^^^^^^^^^^^^
   = help: listen at 127.0.0.1:5432, or allow it by insecure_listen = true

error: listener "0.0.0.0:5432" overlaps "127.0.0.1:5432" of `site`
  --> config.toml:10:10
   |
 7 | listen = "127.0.0.1:5432"
   |          ---------------- the other
  ...
10 | listen = "0.0.0.0:5432"
   |          ^^^^^^^^^^^^^^
   = help: 0.0.0.0 takes every IPv4 address of its port, [::] every address
   = help: give one of them another port

error: `service` "Post gres" cannot be the name of a service
  --> config.toml:11:11
   |
11 | service = "Post gres"
   |           ^^^^^^^^^^^
   = help: names of services have a-z, 0-9, `_`, `.` and `-`, begin with a letter or digit, and have 1 to 255 bytes

error: `accept_proxy_protocol`: "10.0.0.1" is an address, not a network
  --> config.toml:12:26
   |
12 | accept_proxy_protocol = ["10.0.0.1", "10.0.0.1/8"]
   |                          ^^^^^^^^^^
   = help: write "10.0.0.1/32"

error: `accept_proxy_protocol`: "10.0.0.1/8" has bits beyond its length
  --> config.toml:12:38
   |
12 | accept_proxy_protocol = ["10.0.0.1", "10.0.0.1/8"]
   |                                      ^^^^^^^^^^^^
   = help: write "10.0.0.0/8"

config.toml: 6 errors"#,
    );
}

#[test]
fn a_gateway_for_everyone() {
    same(
        &told("[gateway]\nlisten = \"0.0.0.0:7443\"\n"),
        r#"
error: [gateway] has neither `tls` nor `token_file`
 --> config.toml:1:2
  |
1 | [gateway]
  |  ^^^^^^^
  = help: one of them tells who may come: write [gateway.tls] with client_ca_file, or name a token_file

error: [gateway] has no services
 --> config.toml:1:2
  |
1 | [gateway]
  |  ^^^^^^^
  = help: name what it leads to:
  = help: [gateway.services]
  = help: postgres = "10.0.0.5:5432"

error: "0.0.0.0:7443" would take tunnels of other machines without TLS
 --> config.toml:2:10
  |
2 | listen = "0.0.0.0:7443"
  |          ^^^^^^^^^^^^^^
  = help: write [gateway.tls], or allow it by insecure_plaintext = true

config.toml: 3 errors"#,
    );
}

#[test]
fn services_that_cannot_be() {
    same(
        &told(gateway(
            "",
            "any = \"*\"\nDb = \"db:5432\"\nn = 5432\ncache = { address = \"cache:6379\", allow = [\"a\"] }",
        )),
        r#"
error: service "any": "*" would lead anywhere
 --> config.toml:6:7
  |
6 | any = "*"
  |       ^^^
  = help: a gateway leads to the services it names, and nowhere else

error: "Db" cannot be the name of a service
 --> config.toml:7:1
  |
7 | Db = "db:5432"
  | ^^
  = help: write `db`; names of services have a-z, 0-9, `_`, `.` and `-`, begin with a letter or digit, and have 1 to 255 bytes

error: `n` must be an address such as "10.0.0.5:5432", or a table, not a number
 --> config.toml:8:5
  |
8 | n = 5432
  |     ^^^^

error: `allow` needs `client_ca_file`
 --> config.toml:9:43
  |
9 | cache = { address = "cache:6379", allow = ["a"] }
  |                                           ^^^^^
  = help: identities are the names in client certificates: name their CA in [gateway.tls]

config.toml: 4 errors"#,
    );
}

#[test]
fn fault_66_a_gateway_that_would_dial_itself() {
    same(
        &told(gateway("", "a = \"127.0.0.1:7443\"")),
        r#"
error: the gateway would dial itself: its service "127.0.0.1:7443" is its own listener
 --> config.toml:6:5
  |
2 | listen = "127.0.0.1:7443"
  |          ---------------- this listener
 ...
6 | a = "127.0.0.1:7443"
  |     ^^^^^^^^^^^^^^^^
  = help: a service's address is the server's own

config.toml: 1 error"#,
    );
    same(
        &told(gateway("", "a = \"localhost:5432\"") + &site("")),
        r#"
error: the gateway would dial itself: [gateway] → site → [gateway]
  --> config.toml:6:5
   |
 6 | a = "localhost:5432"
   |     ^^^^^^^^^^^^^^^^
  ...
13 | listen = "127.0.0.1:5432"
   |          ---------------- this listener
   = help: a service's address is the server's own

config.toml: 1 error"#,
    );
    // One that is there for others is no loop.
    fine(&(gateway("", "postgres = \"db:5432\"\nmetrics = \"127.0.0.1:9900\"") + &site("")));
}

#[test]
fn the_listeners_of_gateways_and_forwards_are_listeners() {
    same(
        &told(gateway("", "a = \"a:1\"").replace("7443", "5432") + &site("")),
        r#"
error: listener "127.0.0.1:5432" is already that of `site`
  --> config.toml:2:10
   |
 2 | listen = "127.0.0.1:5432"
   |          ^^^^^^^^^^^^^^^^
  ...
13 | listen = "127.0.0.1:5432"
   |          ---------------- the other
   = help: give one of them another port

config.toml: 1 error"#,
    );
}

#[test]
fn a_gateways_memory_holds_one_session_at_least() {
    same(
        &told(gateway("limits = { memory = \"16MiB\", streams = 100 }", "a = \"a:1\"")),
        r#"
error: `memory` is 16MiB, less than one session may need: `resume.buffer` (16MiB by default) and 16KiB for each of `streams` (100)
 --> config.toml:4:21
  |
4 | limits = { memory = "16MiB", streams = 100 }
  |                     ^^^^^^^
  = help: raise `memory`, or lower one of the others

config.toml: 1 error"#,
    );
}

#[test]
fn plain_text_that_is_allowed_is_warned_about() {
    let text =
        gateway("insecure_plaintext = true\nadvertise = \"gw:1\"", "a = \"a:1\"").replace("127.0.0.1", "0.0.0.0");
    let site = site("insecure_plaintext = true").replace("127.0.0.1:7443", "gateway.example.net:7443");
    assert_eq!(
        fine(&(text + &site)).1,
        [
            "config.toml:2:10: \"0.0.0.0:7443\" takes tunnels of other machines without TLS",
            "config.toml:5:13: `advertise` is not followed without TLS",
            "config.toml:10:14: the link to \"gateway.example.net:7443\" runs without TLS: others on its path can read \
             and change it",
            // Once for the two that name it.
            "config.toml:11:14: `token_file` \"Cargo.toml\" can be read by everyone (mode 0644)",
        ]
    );
}

#[test]
fn what_is_in_defaults_for_the_other_mode_is_not_inherited() {
    let defaults = "[defaults]\nheartbeat = { preset = \"redis\", misses = 9 }\nresume = { deadline = \"9s\" }\n\
                    limits.windows = \"32MiB\"\ntls = { alpn = [\"h2\"] }\n";
    let (config, _) = fine(&(defaults.to_owned() + &site("") + &chat("")));
    let (site, chat) = (&config.upstreams["site"], &config.upstreams["chat"]);
    assert_eq!((site.heartbeat.misses, &site.heartbeat.beat), (9, &everlink::config::Beat::Kernel));
    assert_eq!((chat.heartbeat.misses, &chat.heartbeat.beat), (9, &everlink::config::Beat::Redis));
    assert_eq!((site.pool.size, chat.pool.size), (1, 2));
    let tunnel = site.tunnel.as_ref().expect("a tunnel");
    assert_eq!((tunnel.resume.deadline.as_secs(), tunnel.windows), (9, 32 << 20));
    assert!(site.tls.as_ref().is_some_and(|tls| tls.alpn.is_empty()));
    assert!(chat.tls.as_ref().is_some_and(|tls| tls.alpn == ["h2"]) && chat.tunnel.is_none());
}

fn write(directory: &Path, name: &str, content: &str, mode: u32) {
    let path = directory.join(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The first line of what is wrong with a tunnel or a gateway whose files are in this directory.
fn fault(directory: &Path, text: &str) -> String {
    let text = text.replace("DIR", &directory.display().to_string());
    let report = parse("config.toml", &text, &env).expect_err("nothing is wrong");
    report.first_line().replace(&directory.display().to_string(), "DIR")
}

#[test]
fn a_token_is_long_and_kept_from_others() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "short", "0123456789abcde\n", 0o600);
    write(dir.path(), "open", "0123456789abcdef", 0o660);
    write(dir.path(), "seen", "0123456789abcdef", 0o644);
    let with = |name: &str| site("").replace("Cargo.toml", &format!("DIR/{name}"));
    let told = |name: &str| fault(dir.path(), &with(name));
    assert_eq!(
        told("short"),
        "config.toml:4:14: `token_file` \"DIR/short\" holds 15 bytes, and a token has at least 16"
    );
    assert_eq!(told("open"), "config.toml:4:14: `token_file` \"DIR/open\" can be written by others (mode 0660)");
    assert_eq!(told("none"), "config.toml:4:14: `token_file` \"DIR/none\" is not there");
    let text = with("seen").replace("DIR", &dir.path().display().to_string());
    let loaded = parse("config.toml", &text, &env).unwrap();
    assert_eq!(loaded.files, [dir.path().join("seen")], "it is watched");
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].message.ends_with("can be read by everyone (mode 0644)"));
}

#[test]
fn the_files_of_a_gateway_are_judged_like_a_clients() {
    let dir = tempfile::tempdir().unwrap();
    let pair = || rcgen::generate_simple_self_signed(["gw.internal".to_owned()]).unwrap();
    let (one, other) = (pair(), pair());
    for (name, content) in [
        ("server.pem", one.cert.pem()),
        ("server.key", one.signing_key.serialize_pem()),
        ("other.key", other.signing_key.serialize_pem()),
        ("ca.pem", other.cert.pem()),
    ] {
        write(dir.path(), name, &content, 0o600);
    }
    let ends = |name: &str, end: std::time::SystemTime| {
        let mut params = rcgen::CertificateParams::new(["gw.internal".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = end.into();
        let key = rcgen::KeyPair::generate().unwrap();
        write(dir.path(), &format!("{name}.pem"), &params.self_signed(&key).unwrap().pem(), 0o600);
        write(dir.path(), &format!("{name}.key"), &key.serialize_pem(), 0o600);
    };
    let day = std::time::Duration::from_secs(86_400);
    ends("expired", std::time::SystemTime::now() - day);
    ends("expiring", std::time::SystemTime::now() + 5 * day);
    let with = |cert: &str, key: &str| {
        "[gateway]\nlisten = \"0.0.0.0:7443\"\n[gateway.tls]\nCERT\nclient_ca_file = \"DIR/ca.pem\"\n[gateway.services]\n\
         cache = { address = \"unix:/run/a.sock\", allow = [\"a\"] }\n"
            .replace("CERT", &format!("cert_file = \"DIR/{cert}\"\nkey_file = \"DIR/{key}\""))
    };
    assert_eq!(
        fault(dir.path(), &with("server.pem", "other.key")),
        "config.toml:5:12: `key_file` \"DIR/other.key\": DIR/other.key is the key of another certificate than \
         DIR/server.pem: put both of one pair in place"
    );
    let told = fault(dir.path(), &with("expired.pem", "expired.key"));
    assert!(
        told.starts_with("config.toml:4:13: `cert_file` \"DIR/expired.pem\": DIR/expired.pem expired on "),
        "{told}"
    );
    let told = fault(dir.path(), &with("server.pem", "server.key").replace("ca.pem", "server.key"));
    assert!(told.starts_with("config.toml:6:18: `client_ca_file` \"DIR/server.key\": "), "{told}");
    let told = fault(dir.path(), &with("server.pem", "none").replace("key_file = \"DIR/none\"\n", ""));
    assert_eq!(told, "config.toml:3:10: [gateway.tls] has no `key_file`");

    let read = |text: &str| {
        let text = text.replace("DIR", &dir.path().display().to_string());
        parse("config.toml", &text, &env).unwrap_or_else(|report| panic!("{report}"))
    };
    let soon = read(&with("expiring.pem", "expiring.key")).warnings;
    assert_eq!(soon.len(), 1);
    assert!(soon[0].message.contains("expiring.pem expires on "), "{:?}", soon[0]);
    let loaded = read(&with("server.pem", "server.key"));
    assert!(loaded.warnings.is_empty());
    assert_eq!(loaded.files, ["ca.pem", "server.key", "server.pem"].map(|name| dir.path().join(name)), "watched");
    // What is shown means the same, files included.
    assert_eq!(parse("shown.toml", show(&loaded), &env).unwrap().config, loaded.config);
}
