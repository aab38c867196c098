//! Configurations of every kind, for tests that need any.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::config::*;
use crate::net::tls::authority::Authority;

fn ms(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn beat() -> BoxedStrategy<(Beat, InUse)> {
    let bytes = || vec(any::<u8>(), 1..40);
    let text = || "[a-z${}\\\\:\"'é\r\n\t#]{1,20}".prop_map(String::into_bytes);
    let expect = prop_oneof![
        bytes().prop_map(Expect::Prefix),
        text().prop_map(Expect::Prefix),
        Just(Expect::Pattern(regex::bytes::RegexBuilder::new("^(?:\\+OK|${1}\\x00)").unicode(false).build().unwrap())),
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
        .prop_map(|(interval, timeout, misses, (beat, in_use))| Heartbeat { interval, timeout, misses, beat, in_use })
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
    (ms(1000..=3_600_000), size(1 << 20..=1 << 30)).prop_map(|(deadline, buffer)| Resume { deadline, buffer }).boxed()
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
pub fn upstream(index: u16) -> BoxedStrategy<Upstream> {
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
/// Files that a configuration may name.
pub struct Files {
    _authority: Authority,
    pub token: PathBuf,
    pub tls: Tls,
}

impl Files {
    pub fn new() -> Self {
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
            Just(vec![ListenAddress::Tcp(([0, 0, 0, 0], port).into()), ListenAddress::Unix(format!("/{port}").into())]),
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
    let wait = prop_oneof![Just(Duration::ZERO), ms(10..=3_600_000)];
    let limits = (many(), many(), 1usize..=65_536, size(3 << 30..=1 << 40), many(), many(), wait).prop_map(
        |(sessions, sessions_per_identity, streams, memory, pending, pending_per_address, wait)| GatewayLimits {
            sessions,
            sessions_per_identity,
            streams,
            memory,
            pending,
            pending_per_address,
            wait,
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

/// Any configuration that can be written.
pub fn config(files: &Files) -> BoxedStrategy<Config> {
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
