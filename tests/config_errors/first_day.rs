//! Mistakes of somebody's first day: each is told once, with what to write instead.

use crate::{chat, same, told};

/// The help of the only problem.
fn only_help(text: &str) -> String {
    let told = told(text);
    assert!(told.ends_with("config.toml: 1 error"), "{told}");
    told.lines().filter_map(|line| line.trim_start().strip_prefix("= help: ")).collect::<Vec<_>>().join("\n")
}

/// What the only problem says itself.
fn only_message(text: &str) -> String {
    let told = told(text);
    assert!(told.ends_with("config.toml: 1 error"), "{told}");
    told.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[test]
fn a_misspelt_key_is_not_missing_as_well() {
    same(
        &told("[upstreams.chat]\nlisen = \"127.0.0.1:7000\"\nendpoint = \"chat.internal:8080\"\n"),
        r#"
error: unknown key `lisen` in [upstreams.chat]
 --> config.toml:2:1
  |
2 | lisen = "127.0.0.1:7000"
  | ^^^^^
  = help: did you mean `listen`?

error: unknown key `endpoint` in [upstreams.chat]
 --> config.toml:3:1
  |
3 | endpoint = "chat.internal:8080"
  | ^^^^^^^^
  = help: did you mean `endpoints`?

config.toml: 2 errors"#,
    );
    let token = "[upstreams.site]\nmode = \"tunnel\"\nendpoints = [\"127.0.0.1:1\"]\ntoken = \"${SECRET}\"\n\
                 forwards = [{ listen = \"127.0.0.1:2\", service = \"pg\" }]\n";
    assert!(only_help(token).ends_with("files here: `token_file`"));
}

#[test]
fn what_other_programs_call_a_key() {
    let file =
        |first: &str, second: &str| format!("[upstreams.chat]\n{first} = \"127.0.0.1:7000\"\n{second} = \"a:1\"\n");
    for name in ["bind", "listener", "local"] {
        assert_eq!(only_help(&file(name, "endpoints")), "did you mean `listen`?", "{name}");
    }
    for name in ["address", "host", "hosts", "server", "servers", "target", "backend", "remote"] {
        assert_eq!(only_help(&file("listen", name)), "did you mean `endpoints`?", "{name}");
    }
    let help = "an address bears its port, as in \"127.0.0.1:7000\"";
    assert_eq!(only_help(&chat("port = 8080")), help);
    assert_eq!(only_help(&chat("[http]\nport = 9901")), help);
}

#[test]
fn another_format_is_named_and_nothing_else_told() {
    let yaml = "# ours\nupstreams:\n  chat:\n    listen: 127.0.0.1:7000\n    endpoints:\n      - 10.0.0.1:8080\n";
    same(
        &told(yaml),
        r#"
error: this looks like YAML: a configuration is TOML
 --> config.toml:2:1
  |
2 | upstreams:
  | ^^^^^^^^^^
  = help: the least that runs:
  = help: [upstreams.orders]
  = help: listen = "127.0.0.1:7001"
  = help: endpoints = ["orders.internal:9000"]

config.toml: 1 error"#,
    );
    let long = format!("---\n{}", "a: 1\n".repeat(20_000));
    assert_eq!(only_message(&long), "this looks like YAML: a configuration is TOML");
    let json = "{\"upstreams\": {\"chat\": {\"listen\": \"127.0.0.1:7000\"}}}\n";
    assert_eq!(only_message(json), "this looks like JSON: a configuration is TOML");
}

#[test]
fn text_without_its_quotes_or_with_those_of_a_letter() {
    let listen = |value: &str| format!("[upstreams.chat]\nlisten = {value}\nendpoints = [\"a:1\"]\n");
    let help = "text stands in quotes: write \"127.0.0.1:7000\"";
    assert_eq!(only_message(&listen("127.0.0.1:7000")), help);
    assert_eq!(only_message(&listen("127.0.0.1:7000   # here")), help);
    let curly = "these quotes are not those of TOML: write \"127.0.0.1:7000\"";
    assert_eq!(only_message(&listen("“127.0.0.1:7000”")), curly);
    assert_eq!(only_message(&chat("mode = direct")), "text stands in quotes: write \"direct\"");
    let variable = chat("pool = { size = ${SIZE:-3} }");
    assert_eq!(only_message(&variable), "text stands in quotes: write \"${SIZE:-3}\"");
    assert_eq!(only_help(&variable), "variables are replaced inside of text only, also where a number is wanted");
    // What is written where a secret may stand is not repeated.
    let secret = told(chat("token = hunter2x"));
    assert!(!secret.contains("hunter2x"), "{secret}");
}

#[test]
fn a_table_whose_bracket_is_not_closed() {
    same(
        &told(
            "[http]\nlisten = \"off\"\n\n[upstreams.chat\nlisten = \"127.0.0.1:7000\"\nendpoints = [\"a:1\"]\n\n[log]\nlevel = 5\n",
        ),
        r#"
error: this table's name is never closed: `]` is missing
 --> config.toml:4:16
  |
4 | [upstreams.chat
  |                ^

error: `level` must be text, not a number
 --> config.toml:9:9
  |
9 | level = 5
  |         ^

config.toml: 2 errors"#,
    );
}

#[test]
fn tables_in_the_wrong_place_or_shape() {
    let begin = "write [upstreams.chat]: the tables of upstreams begin so";
    assert_eq!(only_help(&chat("[chat.heartbeat]\ninterval = \"5s\"")), begin);
    assert_eq!(only_help("[chat]\nlisten = \"127.0.0.1:7000\"\nendpoints = [\"a:1\"]\n"), begin);
    assert_eq!(only_help(&chat("log = \"debug\"")), "it is for the whole program: write [log]");
    assert_eq!(
        only_help("[[upstreams]]\nname = \"chat\"\nlisten = \"127.0.0.1:7000\"\n"),
        "write [upstreams.NAME] for each, as in [upstreams.orders]"
    );
    assert_eq!(only_help(&chat("tls = true")), "write [upstreams.chat.tls]: it may be empty");
    assert_eq!(only_help(&chat("tls = false")), "leave it out, or write tls = \"off\"");
    let beats =
        "beats cannot be switched off: without `send` or `preset` the kernel watches a link, and nothing is sent";
    assert_eq!(only_help(&chat("heartbeat = \"off\"")), beats);
    assert_eq!(only_help(&chat("heartbeat = false")), beats);
}

#[test]
fn addresses_written_as_elsewhere() {
    let dialled = |endpoint: &str| {
        only_help(&format!("[upstreams.chat]\nlisten = \"127.0.0.1:7000\"\nendpoints = [\"{endpoint}\"]\n"))
    };
    assert_eq!(dialled("a:1,b:2"), "several addresses are a list, each in quotes: [\"a:1\", \"b:2\"]");
    assert_eq!(dialled("$HOST:8080"), "a variable is written ${VAR}");
    assert_eq!(dialled("2001:db8::1:8080"), "write \"[2001:db8::1]:8080\"");
    assert_eq!(dialled("::1"), "write \"[::1]:port\"");
    let twice = "[upstreams.a]\nlisten = \"unix:/run/a.sock\"\nendpoints = [\"a:1\"]\n\
                 [upstreams.b]\nlisten = \"unix:/run/a.sock\"\nendpoints = [\"b:1\"]\n";
    assert_eq!(only_help(twice), "give one of them another path");
}
