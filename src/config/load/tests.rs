use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{Beat, Jitter, ListenAddress};

fn env(name: &str) -> Option<String> {
    (name == "SET").then(|| "set".to_owned())
}

fn read(text: &str) -> Loaded {
    parse("config.toml", text, &env).unwrap_or_else(|report| panic!("{report}"))
}

fn lines(text: &str) -> Vec<String> {
    match parse("c", text, &env) {
        Ok(_) => Vec::new(),
        Err(report) => report.problems.iter().map(Problem::line).collect(),
    }
}

const A: &str = "[upstreams.a]\nlisten = \"127.0.0.1:1\"\nendpoints = [\"a:1\"]\n";

#[test]
fn five_lines_are_enough_and_the_rest_is_as_documented() {
    let loaded = read(A);
    let a = &loaded.config.upstreams["a"];
    assert_eq!(a.detection_budget(), Duration::from_secs(14));
    assert_eq!((a.pool.size, a.limits.connections, a.limits.waiting), (2, 1024, 256));
    assert_eq!(a.retry.jitter, Jitter::Full);
    assert_eq!(a.heartbeat.beat, Beat::Kernel);
    assert_eq!(loaded.config.drain.timeout, Duration::from_secs(8));
    assert!(loaded.warnings.is_empty() && loaded.config.admin.is_none());
}

#[test]
fn the_tutorial_retry_is_read() {
    let text = format!("{A}retry = {{ initial = \"3s\", multiplier = 1.0, jitter = \"off\", attempts = 5 }}\n");
    let retry = read(&text).config.upstreams["a"].retry.clone();
    assert_eq!((retry.initial, retry.jitter, retry.attempts), (Duration::from_secs(3), Jitter::Off, Some(5)));
    assert!((retry.multiplier - 1.0).abs() < f64::EPSILON);
}

#[test]
fn an_upstreams_own_keys_win_one_by_one() {
    let loaded =
        read(&format!("[defaults.heartbeat]\ninterval = \"1s\"\nmisses = 9\n{A}heartbeat.interval = \"2s\"\n"));
    let heartbeat = &loaded.config.upstreams["a"].heartbeat;
    assert_eq!((heartbeat.interval, heartbeat.misses), (Duration::from_secs(2), 9));
}

#[test]
fn an_upstreams_own_question_replaces_another_kind_in_defaults() {
    let beat = |defaults: &str, own: &str| {
        let text = format!("[defaults]\nheartbeat = {{ {defaults} }}\n{A}heartbeat = {{ {own} }}\n");
        read(&text).config.upstreams["a"].heartbeat.beat.clone()
    };
    let exchange = "send = \"a\", expect = \"b\"";
    assert_eq!(beat(exchange, "preset = \"redis\""), Beat::Redis);
    assert_eq!(beat(exchange, "preset = \"none\""), Beat::Kernel);
    assert!(matches!(beat("preset = \"redis\"", exchange), Beat::Exchange { .. }));
    assert!(matches!(beat("send = \"a\"", "expect = \"b\""), Beat::Exchange { .. }));
}

#[test]
fn tls_in_defaults_is_for_all_but_those_that_switch_it_off() {
    let tls = |own: &str| read(&format!("[defaults.tls]\nalpn = [\"x\"]\n{A}{own}")).config.upstreams["a"].tls.clone();
    assert_eq!(tls("").map(|tls| tls.alpn), Some(vec!["x".to_owned()]));
    assert_eq!(tls("tls = \"off\""), None);
    assert_eq!(tls("[upstreams.a.tls]\nalpn = []").map(|tls| tls.alpn), Some(Vec::new()));
}

#[test]
fn a_wrong_default_is_told_once_and_even_if_nobody_uses_it() {
    let b = A.replace("upstreams.a", "upstreams.b").replace("127.0.0.1:1", "127.0.0.1:2");
    let wrong = "[defaults.pool]\nsize = 0\n";
    let told = "c:2:8: `size` is 0, and must be a whole number of 1 to 1000000";
    assert_eq!(lines(&format!("{wrong}{A}{b}")), [told]);
    assert_eq!(lines(&format!("{wrong}{A}pool.size = 1\n")), [told]);
}

#[test]
fn variables_may_be_numbers_and_truths() {
    let env = |name: &str| match name {
        "N" => Some("7".to_owned()),
        "YES" => Some("true".to_owned()),
        "RATIO" => Some("1.5".to_owned()),
        _ => None,
    };
    let text = format!("{A}required = \"${{YES}}\"\npool.size = \"${{N}}\"\nretry.multiplier = \"${{RATIO}}\"\n");
    let a = parse("c", &text, &env).unwrap().config.upstreams["a"].clone();
    assert!(a.required && a.pool.size == 7 && (a.retry.multiplier - 1.5).abs() < f64::EPSILON);
    assert_eq!(lines(&format!("{A}pool.size = \"7\"\n")), ["c:4:13: `size` is a number in quotes: write 7"]);
    assert_eq!(lines(&format!("{A}required = \"true\"\n")), ["c:4:12: `required` is in quotes: write true"]);
}

#[test]
fn port_0_and_addresses_of_both_families_are_no_clash() {
    let text = "[upstreams.a]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\", \"127.0.0.1:5\", \"[::1]:5\", \"127.0.0.2:5\"]\nendpoints = [\"a:1\"]\n";
    assert_eq!(read(text).config.upstreams["a"].listen.len(), 5);
}

#[test]
fn listeners_that_take_each_others_clients_are_told() {
    let clash = |a: &str, b: &str| {
        let text = format!(
            "[http]\nlisten = \"off\"\n[admin]\nsocket = \"/run/admin.sock\"\n[upstreams.a]\n\
             insecure_listen = true\nlisten = [\"{a}\", \"{b}\"]\nendpoints = [\"a:1\"]\n"
        );
        lines(&text).len()
    };
    assert_eq!(clash("0.0.0.0:5", "127.0.0.1:5"), 1);
    assert_eq!(clash("127.0.0.1:5", "0.0.0.0:5"), 1);
    assert_eq!(clash("[::]:5", "127.0.0.1:5"), 1);
    assert_eq!(clash("127.0.0.1:5", "[::]:5"), 1);
    assert_eq!(clash("[::]:5", "[::1]:5"), 1);
    assert_eq!(clash("[::ffff:127.0.0.1]:5", "127.0.0.1:5"), 1);
    assert_eq!(clash("127.0.0.1:6", "unix:/run/./admin.sock"), 1);
    assert_eq!(clash("0.0.0.0:5", "[::1]:5"), 0);
    assert_eq!(clash("0.0.0.0:5", "127.0.0.1:6"), 0);
}

#[test]
fn open_listeners_are_allowed_by_name_and_warned_about() {
    let text =
        "[upstreams.a]\ninsecure_listen = true\nlisten = [\"0.0.0.0:5\", \"127.0.0.1:6\"]\nendpoints = [\"a:1\"]\n";
    let warnings: Vec<_> = read(text).warnings.iter().map(Problem::line).collect();
    assert_eq!(warnings, ["config.toml:3:11: \"0.0.0.0:5\" can be reached by other machines, without any check"]);
}

#[test]
fn too_many_upstreams_and_endpoints_are_told() {
    let many = |count: usize| -> String {
        (0..count).map(|n| format!("[upstreams.u{n}]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"a:1\"]\n")).collect()
    };
    assert_eq!(read(&many(1024)).config.upstreams.len(), 1024);
    assert_eq!(lines(&many(1025)), ["c:3073:12: 1025 upstreams are too many: at most 1024"]);
    let endpoints = |count: usize| (0..count).map(|n| format!("\"a:{}\",", n + 1)).collect::<String>();
    let with = |count| format!("[upstreams.a]\nlisten = \"127.0.0.1:0\"\nendpoints = [{}]\n", endpoints(count));
    assert_eq!(read(&with(16)).config.upstreams["a"].endpoints.len(), 16);
    assert_eq!(lines(&with(17)), ["c:3:13: 17 endpoints are too many: at most 16"]);
}

#[test]
fn names_of_upstreams_are_short_and_plain() {
    let named = |name: &str| lines(&A.replace("upstreams.a", &format!("upstreams.\"{name}\""))).len();
    assert_eq!(named(&"a".repeat(63)), 0);
    assert_eq!(named("0-a_b"), 0);
    for name in ["", "A", "-a", "_a", "a b", "a.b", "a\\nb", "ä", "a\\\"", &"a".repeat(64)] {
        assert_eq!(named(name), 1, "{name:?}");
    }
}

#[test]
fn numbers_that_are_none_are_told() {
    for (line, told) in [
        ("retry.multiplier = nan", "`multiplier` is NaN, and must be 1 to 10"),
        ("retry.multiplier = inf", "`multiplier` is inf, and must be 1 to 10"),
        ("retry.multiplier = 1e400", "`multiplier` is inf, and must be 1 to 10"),
        ("retry.jitter = nan", "`jitter` is NaN, and must be 0.05 to 1, or \"full\", or \"off\""),
        ("retry.jitter = -0.5", "`jitter` is -0.5: write \"off\" to switch it off"),
        ("retry.jitter = \"0.5\"", "`jitter` is a number in quotes: write 0.5"),
        ("heartbeat.interval = inf", "`interval` needs a unit"),
        ("heartbeat.interval = -1.5", "`interval` is negative"),
        ("heartbeat.interval = \"off\"", "`interval` cannot be switched off"),
        ("heartbeat.interval = 99999999999999999999", "`interval` needs a unit"),
        ("heartbeat.interval = \"99999999999h\"", "`interval` is 99999999999h, and must be 200ms to 1h"),
        ("heartbeat.misses = 3.0", "`misses` is 3.0, and must be a whole number of 1 to 100"),
        ("heartbeat.misses = [3]", "`misses` must be a whole number of 1 to 100, not a list"),
        ("retry.attempts = \"off\"", "`attempts` cannot be \"off\": write \"unlimited\""),
        ("pool.size = 2020-01-01", "`size` must be a whole number of 1 to 1000000, not a date or time"),
        ("required = 1", "`required` must be true or false, not a number"),
        ("balance = \"round_robin\"", "`balance` cannot be \"round_robin\""),
        ("retry.max = \"2h\"", "`max` is 2h, and must be 10ms to 1h"),
        ("heartbeat.send = \"\"\nheartbeat.expect = \"a\"", "`send` is empty"),
        ("heartbeat.send = \"a\"\nheartbeat.expect = \"re:.*\"", "`expect` also matches nothing at all"),
        ("heartbeat.send = \"a\"\nheartbeat.expect = \"re:a)|(b\"", "`expect` is no pattern that can be compiled"),
        ("heartbeat.send = 'a\\q'\nheartbeat.expect = \"b\"", "`send` has `\\q`, which is no escape"),
        ("tls.server_name = \"a b\"", "`server_name` \"a b\" is neither a host name nor an address"),
        ("tls.alpn = [\"a\", \"a\"]", "`alpn` names \"a\" twice"),
        ("tls.ca_file = \"-----BEGIN KEY\"", "`ca_file` holds a text, and must name a file"),
    ] {
        let problems = lines(&format!("{A}{line}\n"));
        assert_eq!(problems.len(), 1, "{line}: {problems:?}");
        assert!(problems[0].ends_with(told), "{line}: {problems:?}");
    }
}

#[test]
fn a_level_is_a_level_or_a_filter() {
    let level = |level: &str| lines(&format!("[log]\nlevel = \"{level}\"\n{A}")).len();
    for fine in ["info", "DEBUG", "off", "info,everlink::direct=debug", "[span]=trace"] {
        assert_eq!(level(fine), 0, "{fine}");
    }
    for wrong in ["", "inof", "info,everlink", "info=loud", "everlink"] {
        assert_eq!(level(wrong), 1, "{wrong}");
    }
}

#[test]
fn a_drain_has_its_minimum_before_its_timeout() {
    let text = format!("[drain]\ntimeout = \"5s\"\nminimum = \"6s\"\n{A}");
    assert_eq!(lines(&text), ["c:3:11: `minimum` is 6s, longer than `timeout`, which is 5s"]);
}

#[test]
fn what_stops_the_parser_is_told_line_by_line_and_what_stands_between_is_read() {
    let text = "\u{feff}a\n[http]\r\npublic_status = 1\nß b\nlisten = [\n  \"x\",\n]\nc\n[log]\nlevel = 5\n";
    let told = lines(text);
    let places: Vec<_> = told.iter().filter_map(|line| line.split_once(": ")).map(|(place, _)| place).collect();
    assert_eq!(places, ["c:1:1", "c:3:17", "c:4:1", "c:6:3", "c:8:1", "c:10:9"], "{told:#?}");
}

#[test]
fn of_garbage_the_first_mistakes_are_told_and_no_list_that_is_closed_further_on() {
    let told = lines(&"= 1\n".repeat(1000));
    assert!((100..=200).contains(&told.len()), "{told:#?}");
    let told = lines(&format!("a = [\n{}]\n", "b c,\n".repeat(1000)));
    assert!(!told.is_empty() && told.iter().all(|line| !line.contains("never closed")), "{told:#?}");
}

#[test]
fn of_a_long_text_that_is_not_toml_the_first_mistake_is_told() {
    let long = format!("{A}{}pool.size = \nretry = 5\n= 7\n", "# so long\n".repeat(10_000));
    let told = lines(&long);
    assert!(told.len() == 1 && told[0].starts_with("c:10004:"), "{told:?}");
    let short = long.replace("# so long\n", "");
    assert!(lines(&short).len() > 1);
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    for text in [
        "a = ".to_owned() + &"[".repeat(100_000),
        "a = ".to_owned() + &"{a=".repeat(100_000),
        "a.".repeat(100_000) + "a = 1",
    ] {
        assert!(!lines(&text).is_empty());
    }
}

#[test]
fn the_default_of_http_is_the_one_documented() {
    let loaded = read(A);
    let documented =
        crate::config::keys().iter().find(|key| key.path == "http.listen").map(|key| key.default.to_string());
    assert_eq!(documented, Some(format!("\"{}\"", loaded.config.http.listen[0])));
    assert!(matches!(loaded.config.upstreams["a"].listen[0], ListenAddress::Tcp(_)));
}

const WHOLE: &str = r#"
[http]
listen = ["127.0.0.1:9900", "[::1]:9900"]
[log]
level = "info"
[drain]
timeout = "8s"
[defaults.heartbeat]
interval = "5s"
[upstreams.chat]
listen = ["127.0.0.1:7000", "unix:/run/everlink/chat.sock"]
endpoints = ["chat-a.internal:8080", { address = "${SET}:8080", priority = 2 }]
balance = "priority"
[upstreams.chat.heartbeat]
send = 'PING\r\n'
expect = "re:PO(NG)"
in_use = "line"
retry = { initial = "500ms", multiplier = 2.0, jitter = 0.5, attempts = "unlimited" }
[upstreams.chat.limits]
wait = "off"
[upstreams.site]
mode = "tunnel"
endpoints = ["gateway:7443"]
insecure_plaintext = true
token_file = "/etc/hostname"
resume = { deadline = "60s", buffer = "16MiB" }
[[upstreams.site.forwards]]
listen = ["127.0.0.1:5432", "unix:/run/pg.sock"]
service = "postgres"
accept_proxy_protocol = ["10.0.0.0/8"]
[gateway]
listen = "127.0.0.1:7443"
advertise = "${SET}:7443"
[gateway.limits]
memory = "1GiB"
[gateway.services]
postgres = "10.0.0.5:5432"
cache = { address = "unix:/run/redis.sock", allow = ["a"], proxy_protocol = "v2" }
"#;

proptest! {
    #[test]
    fn no_text_panics(text in "(?s).{0,200}") {
        let _ = parse("c", &text, &env).map_err(|report| report.to_string());
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = parse("c", &bytes, &env).map_err(|report| report.to_string());
    }

    #[test]
    fn no_damage_to_a_file_panics(
        at in 0..WHOLE.len(), length in 0usize..40, put in r#"[\[\]{}="',.#\n\t\\$a0é-]{0,6}"#,
    ) {
        let end = (at + length).min(WHOLE.len());
        let text = format!("{}{put}{}", &WHOLE[..at], &WHOLE[end..]);
        if let Err(report) = parse("c", &text, &env) {
            prop_assert!(!report.problems.is_empty());
            prop_assert!(report.to_string().ends_with('s') || report.to_string().ends_with("1 error"));
        }
    }

    #[test]
    fn lines_in_any_order_never_panic(order in proptest::collection::vec(0usize..40, 0..40)) {
        let all: Vec<_> = WHOLE.lines().collect();
        let text: String = order.iter().filter_map(|n| all.get(*n)).map(|line| format!("{line}\n")).collect();
        let _ = parse("c", &text, &env).map_err(|report| report.to_string());
    }
}
