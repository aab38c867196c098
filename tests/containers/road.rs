//! `deploy/compose.yaml` as it is: application, sidecar, gateway, Redis and Prometheus, and an outage between them.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::engine::{Container, Engine};
use super::images::{everlink, prometheus, redis, source};
use crate::common::PATIENCE;
use crate::common::program::{Samples, command, program, send, succeeded, wait_until, wait_within};
use crate::traffic::fill;

/// In the engine's namespace, where `compose.yaml` publishes them.
const SIDECAR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9900);
const PROMETHEUS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090);

/// A copy of `deploy/` that runs.
struct Road {
    engine: Engine,
    deploy: PathBuf,
}

impl Road {
    fn start() -> Self {
        let engine = Engine::start();
        everlink(&engine);
        redis(&engine);
        prometheus(&engine);
        // The name is the project's.
        let deploy = engine.directory.path().join("deploy");
        fs::create_dir(&deploy).expect("made");
        for name in ["compose.yaml", "compose", "prometheus"] {
            succeeded(command("cp").arg("-r").arg(source("deploy").join(name)).arg(&deploy));
        }
        let road = Self { engine, deploy };
        road.hurry();
        succeeded(&mut road.compose(&["up", "--detach", "--no-build"]));
        road
    }

    /// Prometheus looks every second, and alerts a second later: the same rules, only sooner.
    fn hurry(&self) {
        let edit = |name: &str, change: &dyn Fn(&str) -> Option<String>| {
            let path = self.deploy.join("prometheus").join(name);
            let text = fs::read_to_string(&path).expect("readable");
            let changed = text.lines().filter(|line| change(line).is_some()).count();
            assert!(changed > 0, "nothing to hurry in {name}");
            let text: Vec<String> = text.lines().map(|line| change(line).unwrap_or_else(|| line.to_owned())).collect();
            fs::write(path, text.join("\n") + "\n").expect("written");
        };
        edit("prometheus.yml", &|line| line.split_once("_interval: ").map(|(key, _)| format!("{key}_interval: 1s")));
        edit("alerts.yml", &|line| line.trim_start().starts_with("for: ").then(|| "        for: 1s".to_owned()));
    }

    fn compose(&self, arguments: &[&str]) -> Command {
        let mut compose = command("docker-compose");
        compose.arg("--file").arg(self.deploy.join("compose.yaml")).args(arguments);
        self.engine.aim(&mut compose);
        compose
    }

    fn service(&self, name: &str) -> Container<'_> {
        self.engine.container(succeeded(&mut self.compose(&["ps", "-q", name])).trim())
    }

    fn metric(&self, series: &str) -> f64 {
        let (code, body) = self.engine.get(SIDECAR, "/metrics");
        assert_eq!(code, 200, "{body}");
        Samples::parse(&body).value(series)
    }

    fn ask_prometheus(&self, path: &str) -> Value {
        let (_, body) = self.engine.get(PROMETHEUS, path);
        serde_json::from_str(&body).unwrap_or_default()
    }

    /// Targets that Prometheus reaches.
    fn scraped(&self) -> usize {
        let targets = self.ask_prometheus("/api/v1/targets");
        let active = targets["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
        active.iter().filter(|target| target["health"] == "up").count()
    }

    /// Alerts that fire, by name; `None` while Prometheus does not answer.
    fn firing(&self) -> Option<Vec<String>> {
        let alerts = self.ask_prometheus("/api/v1/alerts");
        let alerts = alerts["data"]["alerts"].as_array()?;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        Some(firing.filter_map(|alert| alert["labels"]["alertname"].as_str()).map(str::to_owned).collect())
    }

    fn edit_sidecar(&self, from: &str, to: &str) {
        let path = self.deploy.join("compose/sidecar/config.toml");
        let text = fs::read_to_string(&path).expect("readable");
        assert!(text.contains(from));
        let new = path.with_extension("new");
        fs::write(&new, text.replace(from, to)).expect("written");
        fs::rename(new, path).expect("renamed");
    }

    /// The command that stands beside `compose.yaml`, for as long as one likes.
    fn outage(&self) -> Outage {
        let mut outage = Command::new(program("setpriv"));
        outage.args(["--pdeathsig", "TERM", "--", "sh"]).arg(self.deploy.join("compose/outage")).arg("600");
        self.engine.aim(&mut outage);
        let child = outage.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh");
        Outage(Some(child))
    }
}

struct Outage(Option<std::process::Child>);

impl Outage {
    fn end(mut self) {
        let child = self.0.take().expect("running");
        send("TERM", child.id());
        let output = child.wait_with_output().expect("it ends");
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && told.contains("the gateway is back"), "{told}");
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A client of Redis over one connection, who has numbered bytes sent back all the time and checks each.
struct Echoes {
    stop: Arc<AtomicBool>,
    seen: Arc<AtomicU64>,
    threads: [JoinHandle<u64>; 2],
}

impl Echoes {
    const PIECE: usize = 16 * 1024;

    fn start(stream: TcpStream) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let seed = fastrand::u64(..);
        let sent = Arc::new(AtomicU64::new(u64::MAX));
        let writer = {
            let (mut stream, stop, sent) = (stream.try_clone().expect("cloned"), stop.clone(), sent.clone());
            move || {
                let mut payload = vec![0; Self::PIECE];
                let mut pieces = 0;
                loop {
                    // Told before the last piece is written: whoever waits for an answer gets one, and then knows.
                    let is_last = stop.load(Ordering::SeqCst);
                    if is_last {
                        sent.store(pieces + 1, Ordering::SeqCst);
                    }
                    fill(seed, pieces * Self::PIECE as u64, &mut payload);
                    write!(stream, "*2\r\n$4\r\nECHO\r\n${}\r\n", Self::PIECE).expect("written");
                    stream.write_all(&payload).expect("written");
                    stream.write_all(b"\r\n").expect("written");
                    pieces += 1;
                    if is_last {
                        return pieces;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        };
        let reader = {
            let (mut stream, seen) = (stream, seen.clone());
            move || {
                let head = format!("${}\r\n", Self::PIECE);
                let mut due = vec![0; Self::PIECE];
                let mut answer = vec![0; head.len() + Self::PIECE + 2];
                let mut pieces = 0;
                while pieces < sent.load(Ordering::SeqCst) {
                    // An outage is as long as it is; the writer may have stopped meanwhile.
                    stream.set_read_timeout(Some(4 * PATIENCE)).expect("set");
                    stream.read_exact(&mut answer).expect("answered");
                    fill(seed, pieces * Self::PIECE as u64, &mut due);
                    assert!(answer.starts_with(head.as_bytes()), "no answer to piece {pieces}");
                    assert!(answer[head.len()..].starts_with(&due), "piece {pieces} is not what was sent");
                    pieces += 1;
                    seen.store(pieces, Ordering::SeqCst);
                }
                pieces
            }
        };
        Self { stop, seen, threads: [std::thread::spawn(writer), std::thread::spawn(reader)] }
    }

    fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// Waits for more.
    fn flow(&self) {
        let seen = self.seen();
        wait_until("bytes flow", || self.seen() > seen + 20);
    }

    /// Bytes that went there and came back, every one in its place.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let [sent, seen] = self.threads.map(|thread| thread.join().expect("no byte was lost, doubled or changed"));
        assert_eq!(sent, seen);
        seen * Self::PIECE as u64
    }
}

#[test]
fn an_outage_is_survived_seen_and_alerted_on() {
    let road = Road::start();
    let (app, sidecar, gateway) = (road.service("app"), road.service("sidecar"), road.service("gateway"));
    wait_until("orders", || app.log().contains(", the first over connection"));
    wait_until("sidecar and gateway scraped, nothing amiss", || {
        road.scraped() == 2 && road.firing().is_some_and(|firing| firing.is_empty())
    });
    let echoes = Echoes::start(app.connect_inside(6379));
    echoes.flow();

    // An edit of the file that is mounted.
    let interval = "everlink_heartbeat_interval_seconds{upstream=\"site\"}";
    assert_eq!(road.metric(interval), 2.0);
    road.edit_sidecar("interval = \"2s\"", "interval = \"1s\"");
    wait_until("the edit in force", || road.metric(interval) == 1.0);
    let losses = || {
        let (_, body) = road.engine.get(SIDECAR, "/metrics");
        let samples = Samples::parse(&body);
        samples
            .0
            .iter()
            .filter(|(name, _)| name.starts_with("everlink_link_losses_total{"))
            .map(|(_, n)| n)
            .sum::<f64>()
    };
    assert_eq!(losses(), 0.0, "the edit cost a link");

    // The gateway leaves the network, until Prometheus has told.
    let outage = road.outage();
    wait_until("the link is down", || road.metric("everlink_upstream_up{upstream=\"site\"}") == 0.0);
    wait_until("the alert", || {
        road.firing().is_some_and(|firing| firing.iter().any(|name| name == "EverlinkLinkDown"))
    });
    assert_eq!(sidecar.health(), "healthy");
    outage.end();
    echoes.flow();
    wait_until("the orders go on", || app.log().contains("over the same connection"));
    wait_within(2 * PATIENCE, "the alert is over", || {
        road.firing().is_some_and(|firing| !firing.iter().any(|name| name == "EverlinkLinkDown"))
    });
    assert_eq!(road.metric("everlink_session_resumes_total{outcome=\"resumed\",upstream=\"site\"}"), 1.0);

    // The gateway stops, while its kernel goes on acknowledging.
    road.engine.ask(&["pause", &gateway.id]);
    wait_until("the link is lost", || losses() >= 2.0);
    road.engine.ask(&["unpause", &gateway.id]);
    echoes.flow();
    let resumed = "everlink_session_resumes_total{outcome=\"resumed\",upstream=\"site\"}";
    wait_until("resumed again", || road.metric(resumed) == 2.0);

    // A rehearsed outage of the link alone, as the README has it.
    let told = sidecar.exec(&["/everlink", "drill", "site", "blackhole", "--for", "30s"]);
    assert!(told.contains("blackhole") && told.contains("link "), "{told}");
    wait_until("the drill is seen", || losses() >= 3.0);
    assert!(sidecar.exec(&["/everlink", "drill", "site", "stop"]).contains("blackhole"));
    echoes.flow();
    wait_until("resumed after the drill", || road.metric(resumed) == 3.0);

    let bytes = echoes.end();
    println!("{bytes} bytes there and back");
    let told = app.log();
    assert!(!told.contains("LOST"), "{told}");
    for reason in ["upstream_reset", "resume_expired", "gateway_restarted", "error"] {
        let closed = format!("everlink_connections_closed_total{{reason=\"{reason}\",upstream=\"site\"}}");
        assert_eq!(road.metric(&closed), 0.0, "{reason}");
    }

    // The application first, so that nobody need wait for it.
    road.engine.ask(&["kill", &app.id]);
    for one in [&sidecar, &gateway] {
        one.signal("TERM");
        wait_until("ended", || one.inspect()["State"]["Running"] == false);
        assert_eq!(one.inspect()["State"]["ExitCode"], 0, "{}", one.log());
    }
    succeeded(&mut road.compose(&["down", "--timeout", "1"]));
}

/// What stands in the file is what the tests made images for.
#[test]
fn compose_names_the_images_that_are_tested() {
    let compose = fs::read_to_string(source("deploy/compose.yaml")).expect("readable");
    let mut images: Vec<&str> = compose.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
    images.sort_unstable();
    images.dedup();
    let everlink = format!("\"${{EVERLINK_IMAGE:-{}}}\"", super::images::EVERLINK);
    assert_eq!(images, [everlink.as_str(), super::images::PROMETHEUS, super::images::REDIS]);
    assert!(Path::new(&source("deploy/compose/outage")).is_file());
}
