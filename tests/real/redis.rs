//! A real redis-server behind everlink, its own tools in front.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::PATIENCE;
use crate::common::program::{
    Daemon, Program, command, directory, finished, free_port, succeeded, wait_until, wait_within,
};
use crate::faults::net::Namespace;

/// A server without persistence on a port of its own.
pub(super) struct Redis<'n> {
    pub(super) port: u16,
    /// Where it runs, if not here.
    place: Option<&'n Namespace>,
    directory: TempDir,
    settings: Vec<String>,
    server: Option<Daemon>,
}

impl<'n> Redis<'n> {
    /// `settings`: further lines of its configuration, as arguments.
    fn start(settings: &[&str]) -> Self {
        Self::start_in(None, settings)
    }

    pub(super) fn start_in(place: Option<&'n Namespace>, settings: &[&str]) -> Self {
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut redis = Self { port: free_port(), place, directory: directory(), settings, server: None };
        redis.start_again();
        redis
    }

    fn start_again(&mut self) {
        let mut server = command("redis-server");
        server.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        server.arg("--dir").arg(self.directory.path()).args(&self.settings);
        let connect = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        let serves = || self.place.map_or_else(connect, |place| place.run(connect));
        if let Some(place) = self.place {
            server = place.enclose(&server);
        }
        self.server = Some(Daemon::start(&mut server, &self.directory.path().join("log")).until_ready(serves));
    }

    fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.end_by("KILL");
        }
    }

    /// Asks the server itself, past everlink.
    fn ask(&self, words: &[&str]) -> String {
        succeeded(cli(self.port).args(words))
    }

    /// How often a command was carried out: `cmdstat_ping:calls=7,…`.
    fn calls(&self, name: &str) -> f64 {
        let stats = self.ask(&["INFO", "commandstats"]);
        let calls = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        calls.and_then(|rest| rest.split(',').next()).map_or(0.0, |calls| calls.parse().expect("a number"))
    }

    /// An everlink with this server as its upstream `redis`.
    fn behind_everlink(&self, heartbeat: &str, more: &str) -> Program {
        let everlink = Program::start(&format!(
            "[upstreams.redis]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"127.0.0.1:{}\"]\n\
             retry = {{ initial = \"100ms\", max = \"1s\" }}\nheartbeat = {{ preset = \"redis\", {heartbeat} }}\n{more}",
            self.port
        ));
        wait_until("upstream up", || everlink.metric(UP) == 1.0);
        everlink
    }
}

const OFTEN: &str = "interval = \"200ms\"";
const SELDOM: &str = "interval = \"1h\"";
const UP: &str = r#"everlink_upstream_up{upstream="redis"}"#;
const SENT: &str = r#"everlink_heartbeats_sent_total{upstream="redis"}"#;
const MISSED: &str = r#"everlink_heartbeats_missed_total{upstream="redis"}"#;
const DOWNTIME: &str = r#"everlink_link_downtime_seconds_total{upstream="redis"}"#;

fn cli(port: u16) -> Command {
    let mut cli = command("redis-cli");
    cli.args(["-p", &port.to_string()]);
    cli
}

fn lost(everlink: &Program, reason: &str) -> f64 {
    everlink.metric(&format!(r#"everlink_link_losses_total{{reason="{reason}",upstream="redis"}}"#))
}

fn closed(everlink: &Program, reason: &str) -> f64 {
    everlink.metric(&format!(r#"everlink_connections_closed_total{{reason="{reason}",upstream="redis"}}"#))
}

/// One command on a connection of its own, as the line that answers it.
fn say(everlink: &Program, what: &str) -> std::io::Result<String> {
    let mut client = TcpStream::connect(everlink.listener("redis"))?;
    client.set_read_timeout(Some(PATIENCE))?;
    write!(client, "{what}\r\n")?;
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

#[test]
fn redis_cli_works_through_everlink() {
    let redis = Redis::start(&[]);
    let socket = redis.directory.path().join("everlink.sock");
    let everlink = Program::start(&format!(
        "[upstreams.redis]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]\nendpoints = [\"127.0.0.1:{}\"]\n\
         heartbeat.preset = \"redis\"\n",
        socket.display(),
        redis.port
    ));
    let port = everlink.listener("redis").port();
    assert_eq!(succeeded(cli(port).args(["SET", "greeting", "hello"])), "OK\n");
    assert_eq!(succeeded(cli(port).args(["GET", "greeting"])), "hello\n");
    assert_eq!(succeeded(command("redis-cli").arg("-s").arg(&socket).args(["GET", "greeting"])), "hello\n");
    // A value larger than every buffer on the way.
    let large = "x".repeat(8 << 20);
    let file = redis.directory.path().join("large");
    std::fs::write(&file, &large).expect("written");
    let mut set = cli(port);
    assert_eq!(succeeded(set.args(["-x", "SET", "large"]).stdin(std::fs::File::open(&file).expect("open"))), "OK\n");
    assert!(succeeded(cli(port).args(["GET", "large"])).trim_end() == large);
    assert_eq!(redis.ask(&["STRLEN", "large"]).trim(), large.len().to_string());
    everlink.stop();
}

#[test]
fn redis_benchmark_completes_through_everlink_without_an_error() {
    let redis = Redis::start(&[]);
    let everlink = redis.behind_everlink(SELDOM, "pool.size = 8\n");
    let port = everlink.listener("redis").port().to_string();
    let output = finished(
        command("redis-benchmark")
            .args(["-p", &port, "-n", "20000", "-c", "50", "-q"])
            .args(["-t", "ping,set,get,incr,lpush,mset"]),
    );
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(!said.to_lowercase().contains("error"), "{said}");
    assert_eq!(said.matches("requests per second").count(), 7, "every test ran to its end: {said}");
    wait_until("all clients are gone", || everlink.metric(r#"everlink_connections{upstream="redis"}"#) == 0.0);
    let metrics = everlink.metrics();
    assert!(metrics.value(r#"everlink_connections_total{upstream="redis"}"#) >= 7.0 * 50.0);
    for reason in ["dead", "error", "upstream_reset", "drained", "idle"] {
        assert_eq!(closed(&everlink, reason), 0.0, "{reason}");
    }
    for reason in ["link_down", "limit"] {
        let refused = format!(r#"everlink_connections_refused_total{{reason="{reason}",upstream="redis"}}"#);
        assert_eq!(metrics.value(&refused), 0.0, "{reason}");
    }
    assert_eq!(metrics.value(UP), 1.0);
    everlink.stop();
}

#[test]
fn a_server_that_wants_a_password_is_proven_and_its_clients_log_in() {
    let redis = Redis::start(&["--requirepass", "open sesame"]);
    let everlink = redis.behind_everlink(OFTEN, "");
    wait_until("beats are sent", || everlink.metric(SENT) >= 10.0);
    assert_eq!(everlink.metric(MISSED), 0.0);
    assert_eq!(lost(&everlink, "protocol"), 0.0);
    let port = everlink.listener("redis").port();
    let mut strange = cli(port);
    assert!(succeeded(strange.args(["GET", "x"])).starts_with("NOAUTH"));
    let mut known = cli(port);
    known.args(["--no-auth-warning", "-a", "open sesame", "SET", "x", "1"]);
    assert_eq!(succeeded(&mut known), "OK\n");
    everlink.stop();
}

#[test]
fn a_server_that_cuts_idle_connections_stays_up() {
    let redis = Redis::start(&["--timeout", "3"]);
    // Beats rarer than the server's patience: it is met in full.
    let everlink = redis.behind_everlink(SELDOM, "");
    let before = everlink.metric(DOWNTIME);
    wait_within(Duration::from_secs(40), "cut a few times", || {
        assert_eq!(everlink.metric(UP), 1.0, "a cut by the server's timer is no outage");
        lost(&everlink, "closed") >= 3.0
    });
    wait_within(Duration::from_secs(60), "everlink is earlier than the server", || {
        assert_eq!(everlink.metric(UP), 1.0, "a cut by the server's timer is no outage");
        lost(&everlink, "aged") >= 2.0
    });
    assert_eq!(everlink.metric(DOWNTIME), before);
    let learned = everlink.upstream("redis").learned_max_age_seconds.expect("learned");
    assert!((2.0..4.5).contains(&learned), "{learned}");
    assert_eq!(say(&everlink, "PING").expect("served"), "+PONG");
    everlink.stop();
}

#[test]
fn a_restart_under_a_looping_client_is_over_soon_after_the_server_is_back() {
    let mut redis = Redis::start(&[]);
    let everlink = redis.behind_everlink(OFTEN, "limits.wait = \"20s\"\n");
    let address = everlink.listener("redis");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    // When each client came, and when it was answered; one that was cut tells nothing.
    let client = std::thread::spawn(move || {
        let mut answered = Vec::new();
        while stopped.try_recv().is_err() {
            let came = Instant::now();
            let ask = || -> std::io::Result<bool> {
                let mut stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(b"PING\r\n")?;
                let mut line = String::new();
                BufReader::new(stream).read_line(&mut line)?;
                Ok(line == "+PONG\r\n")
            };
            let good = matches!(ask(), Ok(true));
            answered.push((came, Instant::now(), good));
        }
        answered
    });
    let clients = || everlink.metric(r#"everlink_connections_total{upstream="redis"}"#);
    wait_until("clients are served", || clients() > 20.0);
    redis.stop();
    wait_until("the outage is seen", || everlink.metric(UP) == 0.0);
    let down = Instant::now();
    redis.start_again();
    let back = Instant::now();
    wait_until("up again", || everlink.metric(UP) == 1.0);
    let took = back.elapsed();
    // `retry.max` is 1 s.
    assert!(took < Duration::from_secs(5), "{took:?}");
    let seen = clients();
    wait_until("clients are served again", || clients() > seen + 20.0);
    stop.send(()).expect("the client loops");
    let answered = client.join().expect("no panic");
    let bad = answered.iter().filter(|(came, _, good)| *came > down && !good).count();
    assert_eq!(bad, 0, "a client that comes while the link is down waits for it");
    assert!(answered.iter().any(|(came, at, good)| *good && *came < back && *at > back), "one did wait");
    // No link need have been lost: both may have been with clients when the server went.
    assert!(everlink.metric(r#"everlink_link_downtime_seconds_total{upstream="redis"}"#) > 0.0);
    everlink.stop();
}

#[test]
fn beats_are_said_on_warm_connections_only() {
    let redis = Redis::start(&[]);
    let everlink = redis.behind_everlink(OFTEN, "pool.size = 3\n");
    let mut client = everlink.connect("redis");
    client.write_all(b"CLIENT SETNAME application\r\n").expect("sent");
    let mut line = String::new();
    BufReader::new(&client).read_line(&mut line).expect("answered");
    assert_eq!(line, "+OK\r\n");
    everlink.until_up("redis", 3);
    let before = everlink.metric(SENT);
    wait_until("many beats later", || everlink.metric(SENT) >= before + 30.0);
    let list = redis.ask(&["CLIENT", "LIST"]);
    let field = |line: &str, name: &str| {
        let value = line.split(' ').find_map(|word| word.strip_prefix(&format!("{name}=")));
        value.unwrap_or_else(|| panic!("no {name}: {line}")).to_owned()
    };
    let mut warm = 0;
    for line in list.lines().filter(|line| !line.is_empty()) {
        match (field(line, "name").as_str(), field(line, "cmd").as_str()) {
            ("application", said) => {
                assert_eq!(said, "client|setname", "not one beat after it was handed out: {line}");
                assert_ne!(field(line, "idle"), "0", "nothing has come on it: {line}");
            }
            ("", "ping") => {
                assert!(field(line, "idle").parse::<u32>().expect("seconds") <= 1, "{line}");
                warm += 1;
            }
            (_, "client|list") => {}
            _ => panic!("who is that? {line}"),
        }
    }
    assert_eq!(warm, 3, "{list}");
    assert!(list.contains("name=application"), "{list}");
    // Every beat that everlink counts has reached the server, and there were no other pings.
    wait_until("the figures meet", || {
        let sent = everlink.metric(SENT);
        redis.calls("ping") == sent && everlink.metric(SENT) == sent
    });
    everlink.stop();
}

#[test]
fn a_server_that_is_busy_for_less_than_the_budget_loses_no_link_and_no_client_hears_a_late_answer() {
    let redis = Redis::start(&["--enable-debug-command", "yes"]);
    let everlink = redis.behind_everlink("interval = \"200ms\", timeout = \"400ms\", misses = 10", "");
    everlink.until_up("redis", 2);
    let port = redis.port;
    let busy = std::thread::spawn(move || succeeded(cli(port).args(["DEBUG", "SLEEP", "1.5"])));
    wait_until("beats go unanswered", || everlink.metric(MISSED) >= 2.0);
    let heard = say(&everlink, "ECHO mine").expect("served once the server is back");
    assert_eq!(heard, "$4", "the first byte is the answer to the client's own question");
    assert_eq!(busy.join().expect("no panic"), "OK\n");
    everlink.until_up("redis", 2);
    assert_eq!(lost(&everlink, "heartbeat"), 0.0);
    assert_eq!(everlink.metric(UP), 1.0);
    for _ in 0..20 {
        assert_eq!(say(&everlink, "ECHO mine").expect("served"), "$4");
    }
    everlink.stop();
}
