use std::collections::BTreeMap;

use proptest::prelude::*;

use super::generated::{Files, config, upstream};
use super::*;
use crate::config::*;

fn env(name: &str) -> Option<String> {
    match name {
        "PASSWORD" => Some("hunter2\\n\"".to_owned()),
        "INTERVAL" => Some("7s".to_owned()),
        _ => None,
    }
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
    let Beat::Exchange { send, .. } = &loaded.config.upstreams["chat"].heartbeat.beat else { panic!("no exchange") };
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
