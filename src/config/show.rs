//! The configuration in force as a file that means the same, each value with its origin.

use super::load::Loaded;
use super::read::Origin;
use super::values::{Value, Values, of_top, of_upstream, quote};

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
        let values = of_upstream(upstream);
        let base = format!("upstreams.{name}");
        show_table(&mut text, loaded, &base, "", &values);
        for table in ["heartbeat", "retry", "pool", "limits"] {
            show_table(&mut text, loaded, &base, table, &values);
        }
        if upstream.tls.is_some() {
            show_table(&mut text, loaded, &base, "tls", &values);
        }
    }
    text
}

/// The keys that stand directly in one table. `base` and `table` may be empty, but not both.
fn show_table(text: &mut String, loaded: &Loaded, base: &str, table: &str, values: &Values) {
    let dot = if base.is_empty() || table.is_empty() { "" } else { "." };
    let header = format!("{base}{dot}{table}");
    *text += &format!("\n[{header}]\n");
    for (key, value) in values {
        let (of, last) = key.rsplit_once('.').unwrap_or(("", key));
        let Some(value) = value else { continue };
        // Whether there is TLS is told by the table itself.
        if of != table || *key == "tls" {
            continue;
        }
        let origin = loaded.origins.get(&format!("{header}.{last}")).unwrap_or(&Origin::Default);
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
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::config::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "PASSWORD" => Some("hunter2\\n\"".to_owned()),
            "INTERVAL" => Some("7s".to_owned()),
            _ => None,
        }
    }

    fn ms(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
        range.prop_map(Duration::from_millis)
    }

    fn beat() -> BoxedStrategy<(Beat, InUse)> {
        let bytes = || vec(any::<u8>(), 1..40);
        let text = || "[a-z${}\\\\:\"'é\r\n\t#]{1,20}".prop_map(String::into_bytes);
        let expect = prop_oneof![
            bytes().prop_map(Expect::Prefix),
            text().prop_map(Expect::Prefix),
            Just(Expect::Pattern(
                regex::bytes::RegexBuilder::new("^(?:\\+OK|${1}\\x00)").unicode(false).build().unwrap()
            )),
        ];
        let line = "[a-zé$]{0,9}".prop_map(|text| format!("{text}\n").into_bytes());
        prop_oneof![
            Just((Beat::Kernel, InUse::Off)),
            Just((Beat::Redis, InUse::Off)),
            Just((Beat::Memcached, InUse::Off)),
            Just((Beat::Smtp, InUse::Off)),
            (bytes(), expect.clone()).prop_map(|(send, expect)| (Beat::Exchange { send, expect }, InUse::Off)),
            (text(), expect.clone()).prop_map(|(send, expect)| (Beat::Exchange { send, expect }, InUse::Off)),
            (line, expect).prop_map(|(send, expect)| (Beat::Exchange { send, expect }, InUse::Line)),
        ]
        .boxed()
    }

    fn heartbeat() -> BoxedStrategy<Heartbeat> {
        (ms(200..=3_600_000), ms(50..=60_000), 1u32..=100, beat())
            .prop_map(|(interval, timeout, misses, (beat, in_use))| Heartbeat {
                interval,
                timeout,
                misses,
                beat,
                in_use,
            })
            .boxed()
    }

    fn retry() -> BoxedStrategy<Retry> {
        let jitter = prop_oneof![Just(Jitter::Full), Just(Jitter::Off), (0.05f64..1.0).prop_map(Jitter::Share)];
        (
            (ms(10..=3_600_000), ms(10..=3_600_000)),
            1.0f64..10.0,
            jitter,
            option::of(1u32..=1_000_000),
            ms(100..=3_600_000),
            ms(50..=300_000),
        )
            .prop_map(|((a, b), multiplier, jitter, attempts, stable_after, connect_timeout)| Retry {
                initial: a.min(b),
                max: a.max(b),
                multiplier,
                jitter,
                attempts,
                stable_after,
                connect_timeout,
            })
            .boxed()
    }

    fn limits() -> BoxedStrategy<(Pool, Limits)> {
        let age = || option::of(ms(1000..=604_800_000));
        let wait = prop_oneof![Just(Duration::ZERO), ms(10..=3_600_000)];
        let many = || 1usize..=1_000_000;
        (many(), age(), many(), wait, many(), age())
            .prop_map(|(size, max_age, connections, wait, waiting, idle_timeout)| {
                (Pool { size, max_age }, Limits { connections, wait, waiting, idle_timeout })
            })
            .boxed()
    }

    fn tls() -> BoxedStrategy<Option<Tls>> {
        let name = prop_oneof![Just("chat.internal".to_owned()), Just("10.0.0.1".to_owned()), Just("::1".to_owned())];
        let alpn = proptest::collection::btree_set("[a-z0-9/.${]{1,9}", 0..3);
        option::of((option::of(name), alpn).prop_map(|(server_name, alpn)| Tls {
            server_name,
            alpn: alpn.into_iter().collect(),
            ..Tls::default()
        }))
        .boxed()
    }

    /// Listeners differ by port, so that none clashes: `index` is below 50.
    fn upstream(index: u16) -> BoxedStrategy<Upstream> {
        let listen = prop_oneof![
            Just(vec![ListenAddress::Tcp(([127, 0, 0, 1], 10_000 + index).into())]),
            Just(vec![ListenAddress::Tcp(([0, 0, 0, 0], 10_000 + index).into())]),
            Just(vec![
                ListenAddress::Tcp((std::net::Ipv6Addr::LOCALHOST, 0).into()),
                ListenAddress::Unix(format!("/run/everlink/ü {index}.sock").into()),
            ]),
        ];
        let endpoint = |name: &str, address, priority| Endpoint { name: name.to_owned(), address, priority };
        let endpoints = prop_oneof![
            Just(vec![endpoint("[2001:db8::1]:80", Address::Ip("[2001:db8::1]:80".parse().unwrap()), 1)]),
            Just(vec![endpoint("unix:/a \"b", Address::Unix("/a \"b".into()), 3)]),
            (1u32..9, 1u16..).prop_map(move |(priority, port)| {
                let host = |name: &str| Address::Host { host: name.to_owned(), port };
                vec![
                    endpoint(&format!("Chat-a:{port}"), host("Chat-a"), 1),
                    endpoint(&format!("chat_b.x:{port}"), host("chat_b.x"), priority),
                ]
            }),
        ];
        let balance = prop_oneof![Just(Balance::Priority), Just(Balance::RoundRobin), Just(Balance::LeastConnections)];
        (listen, endpoints, balance, any::<bool>(), heartbeat(), retry(), limits(), tls())
            .prop_map(move |(listen, endpoints, balance, required, heartbeat, retry, (pool, limits), tls)| Upstream {
                name: format!("up-{index}"),
                listen,
                endpoints,
                balance,
                required,
                heartbeat,
                retry,
                pool,
                limits,
                tls,
                tunnel: None,
            })
            .boxed()
    }

    fn config() -> BoxedStrategy<Config> {
        let http = prop_oneof![
            Just(vec![]),
            Just(vec!["0.0.0.0:9900".parse().unwrap()]),
            Just(vec!["127.0.0.1:9900".parse().unwrap(), "[::1]:9900".parse().unwrap()]),
        ];
        let http = (http, any::<bool>()).prop_map(|(listen, public_status)| Http { listen, public_status });
        let admin = option::of(Just(Admin { socket: "/run/everlink/admin.sock".into() }));
        let level = prop_oneof![Just("info"), Just("warn,everlink::direct=debug")];
        let format = prop_oneof![Just(LogFormat::Auto), Just(LogFormat::Text), Just(LogFormat::Json)];
        let log = (level, format).prop_map(|(level, format)| Log { level: level.to_owned(), format });
        let minimum = prop_oneof![Just(Duration::ZERO), ms(100..=1000)];
        let drain = (ms(1000..=86_400_000), option::of(ms(100..=86_400_000)), minimum)
            .prop_map(|(timeout, quiet, minimum)| Drain { timeout, quiet, minimum });
        let upstreams = (upstream(1), upstream(2)).prop_map(|(a, b)| {
            [a, b].into_iter().map(|up| (up.name.clone(), Arc::new(up))).collect::<BTreeMap<_, _>>()
        });
        (http, admin, log, drain, upstreams)
            .prop_map(|(http, admin, log, drain, upstreams)| Config {
                http,
                admin,
                log,
                drain,
                upstreams,
                gateway: None,
            })
            .boxed()
    }

    fn loaded(config: Config) -> Loaded {
        Loaded {
            config,
            warnings: Vec::new(),
            hash: String::new(),
            files: Vec::new(),
            origins: BTreeMap::new(),
            name: "config.toml".to_owned(),
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_means_the_same(config in config()) {
            let text = show(&loaded(config.clone()));
            match parse("shown", &text, &env) {
                Ok(read) => prop_assert_eq!(read.config, config, "{}", text),
                Err(report) => prop_assert!(false, "{}\n{}", text, report),
            }
        }

        #[test]
        fn a_difference_is_told_exactly_if_there_is_one(a in config(), other in upstream(1), part in 0..11) {
            let mut b = a.clone();
            let changed = b.upstreams.get_mut("up-1").map(Arc::make_mut).unwrap();
            match part {
                0 => changed.listen = other.listen,
                1 => changed.endpoints = other.endpoints,
                2 => changed.balance = other.balance,
                3 => changed.required = other.required,
                4 => changed.heartbeat.interval = other.heartbeat.interval,
                5 => changed.heartbeat = other.heartbeat,
                6 => changed.retry = other.retry,
                7 => changed.retry.jitter = other.retry.jitter,
                8 => changed.pool = other.pool,
                9 => changed.limits = other.limits,
                _ => changed.tls = other.tls,
            }
            prop_assert!(diff(&a, &a).is_empty());
            prop_assert_eq!(diff(&a, &b).is_empty(), a == b);
        }
    }

    #[test]
    fn each_value_tells_where_it_comes_from_and_no_secret() {
        let text = r#"
[defaults.heartbeat]
timeout = "2s"
[upstreams.chat]
listen = "127.0.0.1:7000"
endpoints = ["chat:1"]
[upstreams.chat.heartbeat]
interval = "${INTERVAL}"
send = 'AUTH ${PASSWORD}\r\n'
expect = "+OK"
"#;
        let loaded = parse("config.toml", text, &env).unwrap();
        let Beat::Exchange { send, .. } = &loaded.config.upstreams["chat"].heartbeat.beat else {
            panic!("no exchange")
        };
        assert_eq!(send, b"AUTH hunter2\\n\"\r\n", "a variable is taken byte for byte");
        let shown = show(&loaded);
        assert!(!shown.contains("hunter2"));
        for line in [
            "interval = \"7s\"  # line 8, ${INTERVAL}",
            "timeout = \"2s\"  # defaults line 3",
            "misses = 3  # default",
            "send = \"AUTH ${PASSWORD}\\\\r\\\\n\"  # line 9, ${PASSWORD}",
            "endpoints = [\"chat:1\"]  # line 6",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
        }
        assert_eq!(parse("shown", &shown, &env).unwrap().config, loaded.config);
    }

    #[test]
    fn every_key_that_can_be_set_is_shown() {
        let text = r#"
[admin]
socket = "/run/a.sock"
[upstreams.a]
listen = "127.0.0.1:1"
endpoints = ["a:1"]
heartbeat = { send = "a", expect = "b" }
tls = { server_name = "a" }
"#;
        let values = parse("config.toml", text, &env).map(|loaded| {
            let upstream = of_upstream(&loaded.config.upstreams["a"]);
            of_top(&loaded.config).into_iter().chain(upstream).map(|(key, _)| key).collect::<Vec<_>>()
        });
        let mut values = values.unwrap();
        values.retain(|key| *key != "tls");
        assert_eq!(values, keys().iter().map(Key::name).collect::<Vec<_>>(), "the list of keys and of values differ");
    }
}
