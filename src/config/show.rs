//! The configuration in force as a file that means the same, each value with its origin.

use super::load::Loaded;
use super::read::Origin;
use super::values::{Value, Values, of_forward, of_service, of_top, of_upstream, quote};
use super::{Gateway, Upstream};

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
        show_upstream(&mut text, loaded, name, upstream);
    }
    if let Some(gateway) = &loaded.config.gateway {
        show_gateway(&mut text, loaded, gateway, &top);
    }
    text
}

fn show_upstream(text: &mut String, loaded: &Loaded, name: &str, upstream: &Upstream) {
    let values = of_upstream(upstream);
    let base = format!("upstreams.{name}");
    show_table(text, loaded, &base, "", &values);
    for table in ["heartbeat", "retry", "pool", "limits"] {
        show_table(text, loaded, &base, table, &values);
    }
    if upstream.tunnel.is_some() {
        show_table(text, loaded, &base, "resume", &values);
    }
    if upstream.tls.is_some() {
        show_table(text, loaded, &base, "tls", &values);
    }
    for (index, forward) in upstream.tunnel.iter().flat_map(|tunnel| &tunnel.forwards).enumerate() {
        *text += &format!("\n[[{base}.forwards]]\n");
        show_lines(text, loaded, &format!("{base}.forwards.{index}"), "", &of_forward(forward));
    }
}

fn show_gateway(text: &mut String, loaded: &Loaded, gateway: &Gateway, top: &Values) {
    let is_there = |table: &str| match table {
        "gateway.heartbeat" => gateway.heartbeat.is_some(),
        "gateway.tls" => gateway.tls.is_some(),
        _ => true,
    };
    for table in ["gateway", "gateway.heartbeat", "gateway.tls", "gateway.limits", "gateway.resume"] {
        if is_there(table) {
            show_table(text, loaded, "", table, top);
        }
    }
    // The ones without a table of their own first, or they would be taken for keys of the table before them.
    let (lines, tables): (Vec<_>, Vec<_>) =
        gateway.services.iter().partition(|(_, service)| service.allow.is_none() && !service.proxy_protocol);
    *text += "\n[gateway.services]\n";
    for (name, service) in lines {
        if let Some((_, Some(address))) = of_service(service).into_iter().next() {
            let origin = loaded.origins.get(&format!("gateway.services.{name}.address")).unwrap_or(&Origin::Default);
            *text += &format!("{} = {}  # {}\n", bare_or_quoted(name), address.toml(), told(origin));
        }
    }
    for (name, service) in tables {
        *text += &format!("\n[gateway.services.{}]\n", bare_or_quoted(name));
        show_lines(text, loaded, &format!("gateway.services.{name}"), "", &of_service(service));
    }
}

/// A key of TOML: quoted only if it has a dot, which would make a table of it.
fn bare_or_quoted(name: &str) -> String {
    if name.contains('.') { quote(name) } else { name.to_owned() }
}

/// The keys that stand directly in one table. `base` and `table` may be empty, but not both.
fn show_table(text: &mut String, loaded: &Loaded, base: &str, table: &str, values: &Values) {
    let dot = if base.is_empty() || table.is_empty() { "" } else { "." };
    let header = format!("{base}{dot}{table}");
    *text += &format!("\n[{header}]\n");
    show_lines(text, loaded, &header, table, values);
}

/// `path` is the table's own; only keys below `table` are shown.
fn show_lines(text: &mut String, loaded: &Loaded, path: &str, table: &str, values: &Values) {
    for (key, value) in values {
        let (of, last) = key.rsplit_once('.').unwrap_or(("", key));
        let Some(value) = value else { continue };
        // Whether there is TLS is told by the table itself.
        if of != table || matches!(*key, "tls" | "gateway.tls") {
            continue;
        }
        let origin = loaded.origins.get(&format!("{path}.{last}")).unwrap_or(&Origin::Default);
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
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::config::*;
    use crate::net::tls::authority::Authority;

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

    fn size(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = u64> {
        range.prop_flat_map(|most| prop_oneof![Just(most), Just((most >> 20 << 20).max(1 << 20))])
    }

    fn resume() -> BoxedStrategy<Resume> {
        (ms(1000..=3_600_000), size(1 << 20..=1 << 30))
            .prop_map(|(deadline, buffer)| Resume { deadline, buffer })
            .boxed()
    }

    fn service_name() -> impl Strategy<Value = String> {
        "[a-z0-9][a-z0-9_.-]{0,9}"
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

    /// Files that a tunnel and a gateway can use; they go with the authority.
    struct Files {
        _authority: Authority,
        token: PathBuf,
        tls: Tls,
    }

    impl Files {
        fn new() -> Self {
            let authority = Authority::new("show");
            let pair = authority.issue(&["gateway.internal"]);
            let token = authority.put("token", "0123456789abcdef\n");
            Self { tls: authority.settings(Some(&pair)), _authority: authority, token }
        }
    }

    fn tunnel(index: u16, files: &Files) -> BoxedStrategy<Upstream> {
        let forward = move |n: u16| {
            let port = 20_000 + 100 * index + n;
            let listen = prop_oneof![
                Just(vec![ListenAddress::Tcp(([127, 0, 0, 1], port).into())]),
                Just(vec![
                    ListenAddress::Tcp(([0, 0, 0, 0], port).into()),
                    ListenAddress::Unix(format!("/{port}").into())
                ]),
            ];
            let networks = prop_oneof![
                Just(vec![]),
                Just(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap(), "0.0.0.0/0".parse().unwrap()]),
            ];
            (listen, service_name(), networks).prop_map(|(listen, service, accept_proxy_protocol)| Forward {
                listen,
                service,
                accept_proxy_protocol,
            })
        };
        let forwards = prop_oneof![
            forward(0).prop_map(|one| vec![one]),
            (forward(1), forward(2), forward(3)).prop_map(|(a, b, c)| {
                let mut forwards = vec![c, a, b];
                forwards.sort_by(|a, b| a.listen.cmp(&b.listen));
                forwards
            }),
        ];
        let (token, tls) = (files.token.clone(), files.tls.clone());
        let tunnel = (forwards, resume(), size(1 << 20..=4 << 30), any::<bool>(), any::<bool>(), any::<bool>());
        (upstream(index), tunnel)
            .prop_map(move |(upstream, (forwards, resume, windows, with_tls, with_token, insecure))| {
                let address = Address::Host { host: "gateway".to_owned(), port: 7443 };
                let mut limits = upstream.limits;
                limits.connections = limits.connections.min((windows >> 14) as usize);
                Upstream {
                    listen: vec![],
                    endpoints: vec![Endpoint { name: "gateway:7443".to_owned(), address, priority: 1 }],
                    heartbeat: Heartbeat { beat: Beat::Kernel, in_use: InUse::Off, ..upstream.heartbeat },
                    limits,
                    tls: with_tls.then(|| tls.clone()),
                    tunnel: Some(Tunnel {
                        forwards,
                        token_file: (with_token || !with_tls).then(|| token.clone()),
                        resume,
                        windows,
                        insecure_plaintext: insecure || !with_tls,
                    }),
                    ..upstream
                }
            })
            .boxed()
    }

    fn gateway(files: &Files) -> BoxedStrategy<Gateway> {
        let listen = prop_oneof![
            Just(vec!["127.0.0.1:7443".parse().unwrap()]),
            Just(vec!["0.0.0.0:7443".parse().unwrap(), "[::1]:7444".parse().unwrap()]),
        ];
        let name = "[a-zé${ .-]{1,9}";
        let advertise = option::of(Just(Endpoint {
            name: "Gw-1.x:7443".to_owned(),
            address: Address::Host { host: "Gw-1.x".to_owned(), port: 7443 },
            priority: 1,
        }));
        let beats = (ms(200..=3_600_000), ms(50..=60_000), 1u32..=100).prop_map(|(interval, timeout, misses)| Beats {
            interval,
            timeout,
            misses,
        });
        let many = || 1usize..=1_000_000;
        let limits = (many(), many(), 1usize..=65_536, size(3 << 30..=1 << 40), many(), many()).prop_map(
            |(sessions, sessions_per_identity, streams, memory, pending, pending_per_address)| GatewayLimits {
                sessions,
                sessions_per_identity,
                streams,
                memory,
                pending,
                pending_per_address,
            },
        );
        let address = prop_oneof![
            Just(Address::Ip("[2001:db8::1]:5432".parse().unwrap())),
            Just(Address::Host { host: "Db_1.x".to_owned(), port: 5432 }),
            Just(Address::Unix("/run/a \"b".into())),
        ];
        let allow = option::of(Just(vec!["spiffe://x/a".to_owned(), "sidecar-${a".to_owned()]));
        let service = (address, allow, any::<bool>());
        let services = proptest::collection::btree_map(service_name(), service, 1..5);
        let (token, tls) = (files.token.clone(), files.tls.clone());
        let whole = (listen, name, advertise, option::of(beats), limits, resume(), services);
        (whole, any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(move |(whole, with_token, with_tls, with_ca)| {
                let (listen, name, advertise, heartbeat, limits, resume, services) = whole;
                let client_ca_file = tls.ca_file.clone().filter(|_| with_ca);
                let allows = with_tls && with_ca;
                let server = tls.client.clone().filter(|_| with_tls).map(|pair| ServerTls {
                    cert_file: pair.cert_file,
                    key_file: pair.key_file,
                    client_ca_file,
                });
                let service = |(address, allow, proxy_protocol): (Address, Option<Vec<String>>, bool)| Service {
                    address,
                    allow: allow.filter(|_| allows),
                    proxy_protocol,
                };
                Gateway {
                    listen,
                    name,
                    advertise,
                    token_file: (with_token || !allows).then(|| token.clone()),
                    heartbeat,
                    insecure_plaintext: server.is_none(),
                    tls: server,
                    limits,
                    resume,
                    services: services.into_iter().map(|(name, parts)| (name, service(parts))).collect(),
                }
            })
            .boxed()
    }

    fn config(files: &Files) -> BoxedStrategy<Config> {
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
        let upstreams = (upstream(1), upstream(2), tunnel(3, files)).prop_map(|(a, b, c)| {
            [a, b, c].into_iter().map(|up| (up.name.clone(), Arc::new(up))).collect::<BTreeMap<_, _>>()
        });
        let gateway = option::of(gateway(files).prop_map(Arc::new));
        (http, admin, log, drain, upstreams, gateway)
            .prop_map(|(http, admin, log, drain, upstreams, gateway)| Config {
                http,
                admin,
                log,
                drain,
                upstreams,
                gateway,
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

    #[test]
    fn what_is_shown_means_the_same() {
        let files = Files::new();
        proptest!(|(config in config(&files))| {
            let text = show(&loaded(config.clone()));
            match parse("shown", &text, &env) {
                Ok(read) => prop_assert_eq!(read.config, config, "{}", text),
                Err(report) => prop_assert!(false, "{}\n{}", text, report),
            }
        });
    }

    #[test]
    fn a_difference_is_told_exactly_if_there_is_one() {
        let files = Files::new();
        let all = (config(&files), config(&files), upstream(1), 0..21);
        proptest!(|((a, c, other, part) in all)| {
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
                10 => changed.tls = other.tls,
                11 => b.gateway = c.gateway,
                12 => changed.tunnel = c.upstreams["up-3"].tunnel.clone(),
                _ => {
                    let tunnel = b.upstreams.get_mut("up-3").map(Arc::make_mut).and_then(|up| up.tunnel.as_mut()).unwrap();
                    let other = c.upstreams["up-3"].tunnel.clone().unwrap();
                    let both = b.gateway.as_mut().map(Arc::make_mut).zip(c.gateway.as_deref());
                    match (part, both) {
                        (13, _) => tunnel.forwards = other.forwards,
                        (14, _) => tunnel.forwards[0].service = other.forwards[0].service.clone(),
                        (15, _) => tunnel.forwards[0].accept_proxy_protocol = other.forwards[0].accept_proxy_protocol.clone(),
                        (16, _) => *tunnel = other,
                        (17, Some((gateway, other))) => gateway.services = other.services.clone(),
                        (18, Some((gateway, other))) => gateway.tls = other.tls.clone(),
                        (19, Some((gateway, other))) => gateway.limits = other.limits.clone(),
                        (20, Some((gateway, other))) => *gateway = other.clone(),
                        _ => {}
                    }
                }
            }
            prop_assert!(diff(&a, &a).is_empty());
            prop_assert_eq!(diff(&a, &b).is_empty(), a == b);
        });
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
        let files = Files::new();
        let pair = files.tls.client.clone().unwrap();
        let text = format!(
            r#"
[admin]
socket = "/run/a.sock"
[upstreams.a]
listen = "127.0.0.1:1"
endpoints = ["a:1"]
heartbeat = {{ send = "a", expect = "b" }}
tls = {{ server_name = "a" }}
[upstreams.b]
mode = "tunnel"
endpoints = ["b:1"]
token_file = {token:?}
tls = {{ }}
forwards = [{{ listen = "127.0.0.1:2", service = "s" }}]
[gateway]
listen = "127.0.0.1:3"
advertise = "gw:3"
token_file = {token:?}
heartbeat = {{ }}
tls = {{ cert_file = {cert:?}, key_file = {key:?}, client_ca_file = {ca:?} }}
services = {{ s = {{ address = "s:1", allow = ["a"] }} }}
"#,
            token = files.token,
            cert = pair.cert_file,
            key = pair.key_file,
            ca = files.tls.ca_file.clone().unwrap(),
        );
        let config = parse("config.toml", &text, &env).unwrap_or_else(|report| panic!("{report}")).config;
        let tunnel = &config.upstreams["b"];
        let forward = of_forward(&tunnel.tunnel.as_ref().unwrap().forwards[0]);
        let service = of_service(&config.gateway.as_ref().unwrap().services["s"]);
        let under = |prefix: &str, values: Values| -> Vec<String> {
            values.into_iter().map(|(key, _)| format!("{prefix}{key}")).filter(|key| !key.ends_with("tls")).collect()
        };
        let keys: Vec<_> = keys().iter().map(|key| key.path.to_owned()).collect();
        let top = of_top(&config);
        let split = top.iter().position(|(key, _)| *key == "gateway.listen").unwrap();
        let values = [
            under("", top[..split].to_vec()),
            under("upstreams.*.", of_upstream(&config.upstreams["a"])),
            under("upstreams.*.forwards.", forward),
            under("", top[split..].to_vec()),
            under("gateway.services.*.", service),
        ];
        assert_eq!(values.concat(), keys, "the list of keys and of values differ");
        // What one mode has not is not set in the other.
        let set = |upstream| of_upstream(upstream).into_iter().filter_map(|(key, value)| value.map(|_| key));
        assert!(!set(&config.upstreams["a"]).any(|key| key == "resume.buffer" || key == "insecure_plaintext"));
        assert!(!set(tunnel).any(|key| key == "listen" || key == "tls.alpn" || key == "heartbeat.preset"));
    }

    #[test]
    fn forwards_are_shown_in_order_with_their_own_origins() {
        let files = Files::new();
        let text = format!(
            "[upstreams.b]\nmode = \"tunnel\"\nendpoints = [\"127.0.0.1:1\"]\ntoken_file = {:?}\n\
             [[upstreams.b.forwards]]\nlisten = \"127.0.0.1:9\"\nservice = \"late\"\n\
             [[upstreams.b.forwards]]\nlisten = \"127.0.0.1:8\"\nservice = \"early\"\naccept_proxy_protocol = [\"10.0.0.0/8\"]\n",
            files.token
        );
        let loaded = parse("config.toml", &text, &env).unwrap_or_else(|report| panic!("{report}"));
        let shown = show(&loaded);
        let forwards: Vec<_> = shown.lines().skip_while(|line| !line.starts_with("[[")).collect();
        assert_eq!(
            forwards,
            [
                "[[upstreams.b.forwards]]",
                "listen = \"127.0.0.1:8\"  # line 9",
                "service = \"early\"  # line 10",
                "accept_proxy_protocol = [\"10.0.0.0/8\"]  # line 11",
                "",
                "[[upstreams.b.forwards]]",
                "listen = \"127.0.0.1:9\"  # line 6",
                "service = \"late\"  # line 7",
                "accept_proxy_protocol = []  # default",
            ]
        );
        assert!(shown.contains("\nsize = 1  # default\n"), "{shown}");
    }
}
