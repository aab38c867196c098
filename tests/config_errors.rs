//! Whole messages: what a person sees who got the file wrong.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use everlink::config::{load, parse};

#[path = "config_errors/first_day.rs"]
mod first_day;
#[path = "config_errors/tunnel.rs"]
mod tunnel;

/// No variable is set but these; none of their values may ever be seen.
fn env(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some("hunter2".to_owned()),
        "INTERVAL" => Some("7s".to_owned()),
        _ => None,
    }
}

fn told(text: impl AsRef<[u8]>) -> String {
    match parse("config.toml", text, &env) {
        Ok(loaded) => panic!("fine, as {:?}", loaded.config),
        Err(report) => {
            let told = report.to_string();
            assert!(!told.contains("hunter2"), "a secret is told: {told}");
            told
        }
    }
}

/// A sound upstream with these lines in it.
fn chat(lines: &str) -> String {
    format!("[upstreams.chat]\nlisten = \"127.0.0.1:7000\"\nendpoints = [\"chat.internal:8080\"]\n{lines}\n")
}

fn same(told: &str, wanted: &str) {
    assert_eq!(told, wanted.trim(), "\n{told}\n");
}

#[test]
fn a_number_without_its_unit() {
    same(
        &told(chat("[upstreams.chat.heartbeat]\ntimeout = 3")),
        r#"
error: `timeout` needs a unit: write "3s" for three seconds
 --> config.toml:5:11
  |
5 | timeout = 3
  |           ^
  = help: units are ms, s, m, h

config.toml: 1 error"#,
    );
}

#[test]
fn a_number_without_its_unit_in_quotes_or_with_a_fraction() {
    same(
        &told(chat("heartbeat = { timeout = \"500\", interval = 2.5 }")),
        r#"
error: `timeout` needs a unit: write "500ms" for 500 milliseconds
 --> config.toml:4:25
  |
4 | heartbeat = { timeout = "500", interval = 2.5 }
  |                         ^^^^^
  = help: units are ms, s, m, h

error: `interval` needs a unit: write "2s500ms"
 --> config.toml:4:43
  |
4 | heartbeat = { timeout = "500", interval = 2.5 }
  |                                           ^^^
  = help: units are ms, s, m, h

config.toml: 2 errors"#,
    );
}

#[test]
fn an_unknown_key_and_the_nearest_known_one() {
    same(
        &told(chat("heartbeet_interval = \"5s\"\nlimit = { waiting = 5 }")),
        r#"
error: unknown key `heartbeet_interval` in [upstreams.chat]
 --> config.toml:4:1
  |
4 | heartbeet_interval = "5s"
  | ^^^^^^^^^^^^^^^^^^
  = help: did you mean `heartbeat.interval`?

error: unknown key `limit` in [upstreams.chat]
 --> config.toml:5:1
  |
5 | limit = { waiting = 5 }
  | ^^^^^
  = help: did you mean `limits`?

config.toml: 2 errors"#,
    );
}

#[test]
fn a_key_in_the_wrong_table() {
    same(
        &told(chat("size = 3\n[upstreams.chat.pool]\nconnect_timeout = \"5s\"")),
        r#"
error: unknown key `size` in [upstreams.chat]
 --> config.toml:4:1
  |
4 | size = 3
  | ^^^^
  = help: `size` belongs in [upstreams.chat.pool]

error: unknown key `connect_timeout` in [upstreams.chat.pool]
 --> config.toml:6:1
  |
6 | connect_timeout = "5s"
  | ^^^^^^^^^^^^^^^
  = help: `connect_timeout` belongs in [upstreams.chat.retry]

config.toml: 2 errors"#,
    );
}

#[test]
fn a_key_written_twice_shows_both_lines() {
    same(
        &told(chat("required = true\nlisten = \"127.0.0.1:7001\"")),
        r#"
error: `listen` is written twice
 --> config.toml:5:1
  |
2 | listen = "127.0.0.1:7000"
  | ------ first here
 ...
5 | listen = "127.0.0.1:7001"
  | ^^^^^^

config.toml: 1 error"#,
    );
}

#[test]
fn an_upstream_written_twice_shows_both_lines() {
    same(
        &told(chat("[upstreams.b]\nlisten = \"127.0.0.1:7002\"\nendpoints = [\"b:1\"]\n[upstreams.chat]")),
        r#"
error: the table [upstreams.chat] is written twice
 --> config.toml:7:1
  |
1 | [upstreams.chat]
  | ---------------- first here
 ...
7 | [upstreams.chat]
  | ^^^^^^^^^^^^^^^^

config.toml: 1 error"#,
    );
}

#[test]
fn broken_syntax_hides_no_other_problem() {
    same(
        &told(chat("mode = direct\nheart beat = 5\n[upstreams.chat.retry]\nmultiplier = 0.5")),
        r#"
error: text stands in quotes: write "direct"
 --> config.toml:4:8
  |
4 | mode = direct
  |        ^^^^^^

error: this line is no `key = value`
 --> config.toml:5:1
  |
5 | heart beat = 5
  | ^^^^^^^^^^^^^^
  = help: a key without quotes has letters, digits, `_` and `-`, and no blanks

error: `multiplier` is 0.5, and must be 1 to 10
 --> config.toml:7:14
  |
7 | multiplier = 0.5
  |              ^^^

config.toml: 3 errors"#,
    );
}

#[test]
fn a_list_that_is_never_closed_is_shown_where_it_begins() {
    same(
        &told("[upstreams.a]\nlisten = \"127.0.0.1:1\"\nendpoints = [\"a:1\",\n[upstreams.b]\ninterval = 3\n"),
        r#"
error: this list is never closed: `]` is missing
 --> config.toml:3:13
  |
3 | endpoints = ["a:1",
  |             ^

config.toml: 1 error"#,
    );
}

#[test]
fn values_out_of_range() {
    same(
        &told(chat(
            "heartbeat = { interval = \"10ms\", timeout = \"61s\", misses = 0 }\nretry.jitter = 1.5\npool.size = -1",
        )),
        r#"
error: `interval` is 10ms, and must be 200ms to 1h
 --> config.toml:4:26
  |
4 | heartbeat = { interval = "10ms", timeout = "61s", misses = 0 }
  |                          ^^^^^^

error: `timeout` is 1m1s, and must be 50ms to 1m
 --> config.toml:4:44
  |
4 | heartbeat = { interval = "10ms", timeout = "61s", misses = 0 }
  |                                            ^^^^^

error: `misses` is 0, and must be a whole number of 1 to 100
 --> config.toml:4:60
  |
4 | heartbeat = { interval = "10ms", timeout = "61s", misses = 0 }
  |                                                            ^

error: `jitter` is 1.5, and must be 0.05 to 1, or "full", or "off"
 --> config.toml:5:16
  |
5 | retry.jitter = 1.5
  |                ^^^

error: `size` is -1, and must be a whole number of 1 to 1000000
 --> config.toml:6:13
  |
6 | pool.size = -1
  |             ^^

config.toml: 5 errors"#,
    );
}

#[test]
fn nothing_is_off_not_zero() {
    same(
        &told(chat("limits = { wait = 0, idle_timeout = \"-1s\" }\nretry.attempts = 0")),
        r#"
error: `wait` is 0: write "off" to switch it off
 --> config.toml:4:19
  |
4 | limits = { wait = 0, idle_timeout = "-1s" }
  |                   ^
  = help: it takes 10ms to 1h, or "off"

error: `idle_timeout` is negative: write "off" to switch it off
 --> config.toml:4:37
  |
4 | limits = { wait = 0, idle_timeout = "-1s" }
  |                                     ^^^^^
  = help: it takes 1s to 168h, or "off"

error: `attempts` is 0: write "unlimited" for no limit
 --> config.toml:5:18
  |
5 | retry.attempts = 0
  |                  ^

config.toml: 3 errors"#,
    );
}

#[test]
fn two_values_that_do_not_go_together() {
    same(
        &told(format!("[defaults.retry]\ninitial = \"20s\"\n{}", chat("retry = { max = \"10s\" }"))),
        r#"
error: `initial` is 20s, longer than `max`, which is 10s
 --> config.toml:2:11
  |
2 | initial = "20s"
  |           ^^^^^
 ...
6 | retry = { max = "10s" }
  |                 ----- and this
  = help: waits grow from `initial` to `max`: lower the one or raise the other

config.toml: 1 error"#,
    );
}

#[test]
fn two_listeners_of_one_address() {
    let text = "[http]\nlisten = \"0.0.0.0:7000\"\n".to_owned() + &chat("");
    same(
        &told(text),
        r#"
error: listener "127.0.0.1:7000" overlaps "0.0.0.0:7000" of [http]
 --> config.toml:4:10
  |
2 | listen = "0.0.0.0:7000"
  |          -------------- the other
 ...
4 | listen = "127.0.0.1:7000"
  |          ^^^^^^^^^^^^^^^^
  = help: 0.0.0.0 takes every IPv4 address of its port, [::] every address
  = help: give one of them another port

config.toml: 1 error"#,
    );
}

#[test]
fn fault_66_an_upstream_that_would_dial_itself() {
    same(
        &told(
            "[upstreams.a]\nlisten = \"127.0.0.1:1\"\nendpoints = [\"127.0.0.1:2\"]\n\
             [upstreams.b]\nlisten = \"127.0.0.1:2\"\nendpoints = [\"localhost:1\"]\n\
             [upstreams.c]\nlisten = \"[::1]:3\"\nendpoints = [\"c:3\", \"[::1]:3\"]\n",
        ),
        r#"
error: `a` would dial itself: a → b → a
 --> config.toml:3:14
  |
3 | endpoints = ["127.0.0.1:2"]
  |              ^^^^^^^^^^^^^
 ...
5 | listen = "127.0.0.1:2"
  |          ------------- this listener
  = help: an endpoint is the server's own address

error: `c` would dial itself: its endpoint "[::1]:3" is its own listener
 --> config.toml:9:21
  |
8 | listen = "[::1]:3"
  |          --------- this listener
9 | endpoints = ["c:3", "[::1]:3"]
  |                     ^^^^^^^^^
  = help: an endpoint is the server's own address

config.toml: 2 errors"#,
    );
}

#[test]
fn a_secret_in_the_file() {
    same(
        &told(chat("password = \"hunter2\"\n[upstreams.chat.tls]\nkey = \"hunter2\"")),
        r#"
error: unknown key `password` in [upstreams.chat]
 --> config.toml:4:1
  |
4 | password = ***
  | ^^^^^^^^
  = help: a secret is never written into the file: name a file that holds it, or use ${VAR}

error: unknown key `key` in [upstreams.chat.tls]
 --> config.toml:6:1
  |
6 | key = ***
  | ^^^
  = help: a secret is never written into the file: name a file that holds it, or use ${VAR}
  = help: files here: `ca_file`, `cert_file`, `key_file`

config.toml: 2 errors"#,
    );
}

#[test]
fn a_variable_that_is_not_set_or_does_not_fit() {
    same(
        &told(chat("heartbeat = { send = \"AUTH ${NONE}\", expect = \"OK\", interval = \"${SECRET}\" }")),
        r#"
error: the environment variable `NONE` is not set
 --> config.toml:4:28
  |
4 | heartbeat = { send = "AUTH ${NONE}", expect = "OK", interval = "${SECRET}" }
  |                            ^^^^^^^
  = help: set it, or give a default as in ${VAR:-default}; $${ stands for ${ itself

error: `interval` from "${SECRET}" is no duration it can take
 --> config.toml:4:64
  |
4 | heartbeat = { send = "AUTH ${NONE}", expect = "OK", interval = "${SECRET}" }
  |                                                                ^^^^^^^^^^^
  = help: it takes 200ms to 1h

config.toml: 2 errors"#,
    );
}

#[test]
fn no_value_of_a_variable_is_ever_told() {
    let keys = [
        "listen",
        "endpoints",
        "balance",
        "required",
        "heartbeat.interval",
        "heartbeat.misses",
        "heartbeat.preset",
        "retry.multiplier",
        "retry.jitter",
        "retry.attempts",
        "tls.ca_file",
        "tls.key_file",
        "mode",
    ];
    for key in keys {
        let text = format!("[upstreams.a]\n{key} = \"${{SECRET}}\"\n");
        assert!(told(&text).contains("${SECRET}"), "{key} was not looked at");
    }
    for text in ["[log]\nlevel = \"${SECRET}\"", "[admin]\nsocket = \"${SECRET}\"", "[http]\nlisten = [\"${SECRET}\"]"]
    {
        assert!(told(text).contains("${SECRET}"), "{text}");
    }
    for key in ["listen", "name", "advertise", "token_file", "limits.memory", "limits.streams", "tls.key_file"] {
        // A name may be anything but empty.
        let value = if key == "name" { "${SECRET}\\u0000" } else { "${SECRET}" };
        assert!(told(format!("[gateway]\n{key} = \"{value}\"")).contains("${SECRET}"), "gateway.{key}");
    }
    for key in ["listen", "service", "accept_proxy_protocol"] {
        let value = if key == "service" { "${SECRET}!" } else { "${SECRET}" };
        let text = format!("[[upstreams.a.forwards]]\n{key} = \"{value}\"");
        assert!(told(&text).contains("${SECRET}"), "forwards.{key}");
    }
    for service in ["\"${SECRET}\"", "{ address = \"a:1\", allow = [\"${SECRET}\", \"${SECRET}\"] }"] {
        assert!(told(format!("[gateway.services]\na = {service}")).contains("${SECRET}"), "{service}");
    }
    assert!(told(chat("[upstreams.chat.tls]\nserver_name = \"${SECRET} x\"")).contains("${SECRET}"));
    assert!(told(chat("heartbeat = { send = \"x\", expect = \"re:(${SECRET}\" }")).contains("${SECRET}"));
}

#[test]
fn a_question_without_an_answer() {
    same(
        &told(chat("[upstreams.chat.heartbeat]\nsend = \"ping\"\nin_use = \"line\"")),
        r#"
error: `send` needs `expect`
 --> config.toml:5:8
  |
5 | send = "ping"
  |        ^^^^^^
  = help: a beat is proven by its answer: name its beginning, as in expect = "pong"

config.toml: 1 error"#,
    );
}

#[test]
fn a_preset_and_a_question() {
    same(
        &told(chat("[upstreams.chat.heartbeat]\nsend = \"ping\"\nexpect = \"pong\"\npreset = \"redis\"")),
        r#"
error: `send` and `preset` exclude each other
 --> config.toml:5:8
  |
5 | send = "ping"
  |        ^^^^^^
 ...
7 | preset = "redis"
  |          ------- the preset
  = help: a preset asks its own question: leave one of the two out

error: `expect` and `preset` exclude each other
 --> config.toml:6:10
  |
6 | expect = "pong"
  |          ^^^^^^
7 | preset = "redis"
  |          ------- the preset
  = help: a preset asks its own question: leave one of the two out

config.toml: 2 errors"#,
    );
}

#[test]
fn beats_between_lines_need_a_line() {
    same(
        &told(chat("[upstreams.chat.heartbeat]\nsend = \"ping\"\nexpect = \"pong\"\nin_use = \"line\"")),
        r#"
error: `in_use = "line"` needs a `send` that is one whole line
 --> config.toml:7:10
  |
5 | send = "ping"
  |        ------ this one is not
 ...
7 | in_use = "line"
  |          ^^^^^^
  = help: as in send = "PING\n" and expect = "PONG"

config.toml: 1 error"#,
    );
}

#[test]
fn a_pattern_that_cannot_be() {
    same(
        &told(chat("[upstreams.chat.heartbeat]\nsend = \"ping\"\nexpect = \"re:(pong\"")),
        r#"
error: `expect` is no pattern that can be compiled
 --> config.toml:6:10
  |
6 | expect = "re:(pong"
  |          ^^^^^^^^^^
  = help: unclosed group

config.toml: 1 error"#,
    );
}

#[test]
fn a_listener_that_others_can_reach() {
    same(
        &told(
            "[upstreams.a]\nlisten = [\"0.0.0.0:7000\", \"localhost:7001\", \"7002\"]\nendpoints = [\"http://a:1/\"]\n",
        ),
        r#"
error: "0.0.0.0:7000" can be reached by other machines
 --> config.toml:2:11
  |
2 | listen = ["0.0.0.0:7000", "localhost:7001", "7002"]
  |           ^^^^^^^^^^^^^^
  = help: listen at 127.0.0.1:7000, or allow it by insecure_listen = true

error: `listen`: "localhost:7001" is a name, and listeners are addresses
 --> config.toml:2:27
  |
2 | listen = ["0.0.0.0:7000", "localhost:7001", "7002"]
  |                           ^^^^^^^^^^^^^^^^
  = help: write "127.0.0.1:7001", or ["127.0.0.1:7001", "[::1]:7001"] for both families

error: `listen`: "7002" is only a port
 --> config.toml:2:45
  |
2 | listen = ["0.0.0.0:7000", "localhost:7001", "7002"]
  |                                             ^^^^^^
  = help: for clients on this machine: "127.0.0.1:7002"

error: endpoint "http://a:1/" has a scheme, which has no place here
 --> config.toml:3:14
  |
3 | endpoints = ["http://a:1/"]
  |              ^^^^^^^^^^^^^
  = help: write only host and port: "a:1"

config.toml: 4 errors"#,
    );
}

#[test]
fn names_that_cannot_be_labels() {
    same(
        &told(
            "[upstreams.Chat]\nlisten = \"127.0.0.1:1\"\nendpoints = [\"a:1\"]\n[upstreams.chat]\nlisten = \"127.0.0.1:2\"\nendpoints = [\"a:1\"]\n",
        ),
        r#"
error: "Chat" cannot be the name of an upstream
 --> config.toml:1:12
  |
1 | [upstreams.Chat]
  |            ^^^^
  = help: write `chat`; names have a-z, 0-9, `_` and `-`, begin with a letter or digit, and have 1 to 63 characters

error: upstream "chat" differs from another only by its case
 --> config.toml:4:12
  |
1 | [upstreams.Chat]
  |            ---- the other
 ...
4 | [upstreams.chat]
  |            ^^^^
  = help: names have a-z, 0-9, `_` and `-`, begin with a letter or digit, and have 1 to 63 characters

config.toml: 2 errors"#,
    );
}

#[test]
fn an_empty_file_and_one_without_upstreams() {
    let empty = "error: the file is empty\n --> config.toml\n = help: ";
    for text in ["", " \n\t\r\n", "\u{feff}"] {
        assert!(told(text).starts_with(&empty.replace("\n = ", "\n  = ")), "{text:?}: {}", told(text));
    }
    same(
        &told("[http]\nlisten = \"off\"\n"),
        r#"
error: no upstream is named
 --> config.toml
  = help: the least that runs:
  = help: [upstreams.orders]
  = help: listen = "127.0.0.1:7001"
  = help: endpoints = ["orders.internal:9000"]

config.toml: 1 error"#,
    );
}

#[test]
fn columns_are_characters_and_lines_end_as_they_like() {
    same(
        &told("\u{feff}# größer\r\n[upstreams.a]\r\n\tlisten\t= \"é:1\"\r\nendpoints = [\"a:1\"]\r\n"),
        "
error: `listen`: \"é:1\" has letters outside ASCII in its host
 --> config.toml:3:11
  |
3 | \tlisten\t= \"é:1\"
  | \t      \t  ^^^^^
  = help: write the name as DNS knows it: xn--…

config.toml: 1 error",
    );
}

#[test]
fn bytes_that_are_no_text() {
    same(
        &told(b"[upstreams.a]\nlisten = \"\xff\"\n"),
        "
error: the file is not UTF-8
 --> config.toml:2:11
  |
2 | listen = \"\u{fffd}\"
  |           ^
  = help: save it as UTF-8

config.toml: 1 error",
    );
    assert!(told("a = 'x\0y'").contains("config.toml:1:7"), "{}", told("a = 'x\0y'"));
}

#[test]
fn a_log_gets_one_line() {
    let report = parse("config.toml", chat("pool.size = 0\npool.max_age = 5"), &env).unwrap_err();
    assert_eq!(
        report.first_line(),
        "config.toml:4:13: `size` is 0, and must be a whole number of 1 to 1000000 (and 1 more)"
    );
}

fn told_of(path: &Path) -> String {
    let report = load(path, &env).expect_err("this cannot be read");
    report.to_string().replace(&path.display().to_string(), "PATH")
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml");
    same(
        &told_of(&missing),
        r#"
error: the file is not there
 --> PATH
  = help: name it with --config FILE, or write it; the least that runs:
  = help: [upstreams.orders]
  = help: listen = "127.0.0.1:7001"
  = help: endpoints = ["orders.internal:9000"]

PATH: 1 error"#,
    );
    assert!(told_of(dir.path()).starts_with("error: this is a directory\n"));
    assert!(told_of(Path::new("/dev/zero")).starts_with("error: this is not a regular file\n"));
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(told_of(&fifo).starts_with("error: this is not a regular file\n"));
    let large = dir.path().join("large.toml");
    std::fs::write(&large, vec![b'\n'; (1 << 20) + 1]).unwrap();
    assert!(told_of(&large).starts_with("error: the file is larger than 1MiB\n"));
}

#[test]
fn a_file_and_its_text_get_the_same_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    let text = chat("heartbeat.interval = \"${INTERVAL}\"");
    std::fs::write(&path, &text).unwrap();
    let from_file = load(&path, &env).unwrap();
    let from_text = parse("config.toml", &text, &env).unwrap();
    assert_eq!(from_file.config, from_text.config);
    assert_eq!(from_file.hash, from_text.hash);
    assert_eq!(from_file.hash.len(), 12);
}

#[test]
fn modes_are_of_files_not_of_links() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, mode: u32| {
        let path = dir.path().join(name);
        std::fs::write(&path, "-----BEGIN").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    file("open.pem", 0o666);
    file("group.pem", 0o620);
    file("seen.pem", 0o644);
    symlink(dir.path().join("open.pem"), dir.path().join("link.pem")).unwrap();
    let tls = |ca: &str, key: &str| {
        let dir = dir.path().display();
        chat(&format!(
            "[upstreams.chat.tls]\nca_file = \"{dir}/{ca}\"\nkey_file = \"{dir}/{key}\"\ncert_file = \"{dir}/none\""
        ))
    };
    let all = told(tls("group.pem", "link.pem"));
    assert!(all.contains("group.pem\" can be written by others (mode 0620)\n --> config.toml:5:11"), "{all}");
    assert!(all.contains("link.pem\" can be written by others (mode 0666)\n --> config.toml:6:12"), "{all}");
    assert!(all.contains("none\" is not there\n --> config.toml:7:13"), "{all}");
}

#[test]
fn a_key_that_everyone_can_read_is_worth_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["chat.internal".to_owned()]).unwrap();
    for (name, content) in [("client.pem", pair.cert.pem()), ("client.key", pair.signing_key.serialize_pem())] {
        std::fs::write(dir.path().join(name), content).unwrap();
        std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    let path = dir.path().display().to_string();
    let text =
        chat(&format!("[upstreams.chat.tls]\ncert_file = \"{path}/client.pem\"\nkey_file = \"{path}/client.key\""));
    let loaded = parse("config.toml", &text, &env).unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(|warning| warning.line().replace(&path, "DIR")).collect();
    assert_eq!(warnings, ["config.toml:6:12: `key_file` \"DIR/client.key\" can be read by everyone (mode 0644)"]);
    assert_eq!(loaded.files, [dir.path().join("client.key"), dir.path().join("client.pem")]);
    // What is shown means the same, files included.
    let shown = everlink::config::show(&loaded);
    assert_eq!(parse("shown.toml", &shown, &env).unwrap().config, loaded.config);
}
