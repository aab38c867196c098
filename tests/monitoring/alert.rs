//! An alert from end to end: a link is killed, Prometheus fires, Alertmanager tells; the link returns, and both take it back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::program::{Daemon, Program, command, directory, free_port, get, succeeded, wait_until};
use crate::common::prometheus::Prometheus;
use crate::common::server::{Server, tutorial};
use crate::{deployed, read, script};

/// What a receiver was told: the path it was told at, and the message.
type Told = Arc<Mutex<Vec<(String, Value)>>>;

/// A receiver of Alertmanager's webhooks.
fn receiver() -> (Server, Told) {
    let told = Told::default();
    let kept = told.clone();
    let server = Server::start(move |stream: TcpStream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
        reader.read_line(&mut first)?;
        while reader.read_line(&mut line)? > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        kept.lock().expect("unpoisoned").push((path, serde_json::from_slice(&body)?));
        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    });
    (server, told)
}

/// The example that is shipped, with receivers of the test's own and no patience.
fn alertmanager(receiver: SocketAddr) -> (Daemon, SocketAddr, TempDir) {
    let place = directory();
    let mut config = read("prometheus/alertmanager.yml");
    for (shipped, here) in [
        ("127.0.0.1:9099", receiver.to_string().as_str()),
        ("group_wait: 30s", "group_wait: 1s"),
        ("group_interval: 5m", "group_interval: 1s"),
    ] {
        assert!(config.contains(shipped), "{shipped}");
        config = config.replace(shipped, here);
    }
    let file = place.path().join("alertmanager.yml");
    std::fs::write(&file, config).expect("written");
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut server = command("prometheus-alertmanager");
    server.arg(format!("--config.file={}", file.display()));
    server.arg(format!("--storage.path={}", place.path().join("data").display()));
    server.arg(format!("--web.listen-address={address}")).args(["--cluster.listen-address=", "--log.level=warn"]);
    let ready = || get(address, "/-/ready", "*/*").is_ok_and(|(code, _)| code == 200);
    let server = Daemon::start(&mut server, &place.path().join("log")).until_ready(ready);
    (server, address, place)
}

/// Prometheus with the shipped rules, their `for` shortened.
fn prometheus(everlink: SocketAddr, alertmanager: SocketAddr) -> Prometheus {
    let place = directory();
    let mut variants = script("rules.py");
    variants.arg(deployed("prometheus/alerts.yml")).args(["quick.yml", "rendered.yml"]).current_dir(place.path());
    succeeded(&mut variants);
    let config = format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
         rule_files: [quick.yml]\n\
         scrape_configs: [{{ job_name: everlink, static_configs: [{{ targets: [\"{everlink}\"] }}] }}]\n\
         alerting: {{ alertmanagers: [{{ static_configs: [{{ targets: [\"{alertmanager}\"] }}] }}] }}\n"
    );
    Prometheus::start_in(place, &config)
}

#[test]
fn a_link_that_is_killed_fires_an_alert_that_reaches_the_pager_and_is_taken_back_when_it_returns() {
    let orders = Server::start(tutorial);
    let address = orders.address;
    let everlink = Program::start(&format!(
        "[upstreams.orders]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"{address}\"]\n\
         heartbeat = {{ interval = \"1s\", timeout = \"3s\", send = \"ping\", expect = \"pong\" }}\n\
         retry = {{ initial = \"100ms\", max = \"500ms\" }}\n"
    ));
    everlink.until_up("orders", 2);
    let (pager, told) = receiver();
    let (_server, alertmanager, _place) = alertmanager(pager.address);
    let prometheus = prometheus(everlink.http(), alertmanager);
    prometheus.until_healthy("everlink");
    let firing = || prometheus.query("ALERTS{alertstate=\"firing\",upstream=\"orders\"}").len();
    wait_until("it is seen to be up", || prometheus.query("everlink_upstream_up") == [1.0]);
    assert_eq!(firing(), 0, "nothing is wrong yet");

    drop(orders);
    let down = "ALERTS{alertname=\"EverlinkLinkDown\",alertstate=\"firing\",upstream=\"orders\",severity=\"critical\"}";
    wait_until("it fires", || prometheus.query(down) == [1.0]);
    assert_eq!(firing(), 1, "and no other");
    let held = || {
        let (_, body) =
            get(alertmanager, "/api/v2/alerts?filter=alertname%3DEverlinkLinkDown", "*/*").expect("answers");
        serde_json::from_str::<Value>(&body).expect("JSON").as_array().expect("alerts").clone()
    };
    wait_until("Alertmanager has it", || held().iter().any(|alert| alert["status"]["state"] == "active"));
    let alert = held()[0].clone();
    assert_eq!(alert["labels"]["upstream"], "orders");
    let message = |status: &str| {
        let told = told.lock().expect("unpoisoned");
        told.iter().rfind(|(_, message)| message["status"] == status).cloned()
    };
    wait_until("the pager is told", || message("firing").is_some());
    let (path, _) = message("firing").expect("told");
    assert_eq!(path, "/pager");
    // It says which, and why: that the dials are refused.
    let told_why = || {
        let held = held();
        held[0]["annotations"]["description"].as_str().is_some_and(|text| text.contains("Dials end as \"refused\"."))
    };
    wait_until("the description names the outcome of the dials", told_why);
    let summary = format!("everlink at {} has no live link to orders", everlink.http());
    assert_eq!(alert["annotations"]["summary"], summary);

    let _orders = Server::start_at(address, tutorial);
    wait_until("it is up again", || prometheus.query("everlink_upstream_up") == [1.0]);
    wait_until("it fires no more", || firing() == 0);
    wait_until("Alertmanager has it no more", || held().is_empty());
    wait_until("the pager is told that it is over", || message("resolved").is_some());
    everlink.stop();
}
