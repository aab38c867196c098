//! Edits that move listeners: upstreams that come and go, ports that change hands, files of TLS.

#[path = "program/harness.rs"]
mod harness;
#[path = "../src/port.rs"]
mod port;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Echo, Flow, Place, Program, eventually, exchange, free_port, get, top, upstream};

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A server that says its name first.
fn named(name: &'static str) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let _ = stream.write_all(name.as_bytes());
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
    });
    address
}

fn plain(name: &str, listen: &str, endpoint: SocketAddr) -> String {
    format!("[upstreams.{name}]\nlisten = {listen}\nendpoints = [\"{endpoint}\"]\n")
}

fn name_at(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut name = [0; 3];
    stream.read_exact(&mut name).ok()?;
    String::from_utf8(name.to_vec()).ok()
}

#[test]
fn upstreams_are_added_removed_and_renamed_and_their_series_with_them() {
    let echo = Echo::start();
    let port = free_port();
    let config = |names: &[&str]| {
        let all = names.iter().map(|name| {
            let listen = if *name == "c" || *name == "d" { format!("127.0.0.1:{port}") } else { "127.0.0.1:0".into() };
            upstream(name, &listen, echo.address, "5s", "")
        });
        format!("{}{}", top(), all.collect::<String>())
    };
    let program = Program::start(&config(&["a"]));
    program.until_links("a", 2.0);
    let address = program.listens("a");
    let flow = Flow::start(address);
    program.place.replace(&config(&["a", "b", "c"]));
    program.until_links("b", 2.0);
    program.until_links("c", 2.0);
    assert_eq!(program.listens("a"), address, "an untouched listener was bound anew");
    assert_eq!(exchange(program.listens("b"), b"hello").expect("carried"), b"hello");
    // Renamed: never a moment in which nobody is served.
    let (stop, failed) = (std::sync::atomic::AtomicBool::new(false), std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                if let Err(error) = exchange(at(port), b"renamed") {
                    failed.lock().expect("unpoisoned").push(error.to_string());
                }
            }
        });
        program.place.replace(&config(&["a", "b", "d"]));
        program.until_links("d", 2.0);
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    assert_eq!(*failed.lock().expect("unpoisoned"), Vec::<String>::new());
    let metrics = || program.get("/metrics").1;
    eventually("series of c gone", || !metrics().contains("upstream=\"c\""));
    program.place.replace(&config(&["a"]));
    eventually("series of b and d gone", || {
        let metrics = metrics();
        !metrics.contains("upstream=\"b\"") && !metrics.contains("upstream=\"d\"")
    });
    assert!(program.upstream("b").is_none());
    assert!(TcpStream::connect(at(port)).is_err(), "nobody listens for d any more");
    for told in ["b: added", "c: removed", "d: added", "b: removed"] {
        eventually("told once", || program.logged(told) == 1);
    }
    flow.until_moved(10_000);
    flow.end().expect("whole");
}

#[test]
fn an_endpoint_that_goes_takes_its_series_along() {
    let (echo, other) = (Echo::start(), Echo::start());
    let config = |endpoints: &str| {
        format!(
            "{}[upstreams.a]\nlisten = \"127.0.0.1:0\"\nendpoints = [{endpoints}]\nheartbeat = {{ send = \"ping\", expect = \"pong\" }}\n",
            top()
        )
    };
    let program = Program::start(&config(&format!("\"{}\"", echo.address)));
    program.until_links("a", 2.0);
    let flow = Flow::start(program.listens("a"));
    flow.until_moved(1);
    program.place.replace(&config(&format!("\"{}\"", other.address)));
    program.until_metric(&format!("everlink_endpoint_up{{endpoint=\"{}\",upstream=\"a\"}}", other.address), 1.0);
    eventually("its series gone", || !program.get("/metrics").1.contains(&echo.address.to_string()));
    program.until_links("a", 2.0);
    flow.until_moved(10_000);
    flow.end().expect("clients keep their connections");
    assert!(!program.get("/metrics").1.contains(&echo.address.to_string()), "the series came back");
    assert_eq!(program.sum("everlink_link_reconnects_total", ""), 0.0, "a planned move is no reconnect");
}

#[test]
fn two_upstreams_swap_their_ports_and_no_client_is_refused() {
    let (one, two) = (named("one"), named("two"));
    let (p, q) = (free_port(), free_port());
    let config = |first: u16, second: u16| {
        let listen = |port: u16| format!("\"127.0.0.1:{port}\"");
        format!("{}{}{}", top(), plain("a", &listen(first), one), plain("b", &listen(second), two))
    };
    let program = Program::start(&config(p, q));
    eventually("a at p", || name_at(at(p)).as_deref() == Some("one"));
    eventually("b at q", || name_at(at(q)).as_deref() == Some("two"));
    for round in 0..3 {
        let (first, second) = if round % 2 == 0 { (q, p) } else { (p, q) };
        program.place.replace(&config(first, second));
        eventually("swapped", || {
            let said = name_at(at(first)).expect("never refused");
            assert!(said == "one" || said == "two", "{said}");
            said == "one"
        });
        eventually("the other, too", || name_at(at(second)).expect("never refused") == "two");
    }
    assert_eq!(program.reloads("rejected"), 0.0);
}

#[test]
fn a_wildcard_takes_the_place_of_its_own_addresses_and_gives_it_back() {
    let echo = Echo::start();
    let port = free_port();
    let config = |addresses: &[&str]| {
        let all: Vec<_> = addresses.iter().map(|address| format!("\"{address}:{port}\"")).collect();
        format!("{}{}insecure_listen = true\n", top(), plain("a", &format!("[{}]", all.join(", ")), echo.address))
    };
    let program = Program::start(&config(&["127.0.0.1", "127.0.0.2"]));
    program.until_up("a");
    let flow = Flow::start(at(port));
    flow.until_moved(1);
    let third = SocketAddr::from(([127, 0, 0, 3], port));
    assert!(TcpStream::connect(third).is_err());
    program.place.replace(&config(&["0.0.0.0"]));
    eventually("the wildcard", || exchange(third, b"wild").is_ok());
    program.place.replace(&config(&["127.0.0.1", "127.0.0.2"]));
    eventually("the addresses", || TcpStream::connect(third).is_err() && exchange(at(port), b"own").is_ok());
    eventually("both counted", || program.reloads("applied") == 2.0);
    flow.until_moved(10_000);
    flow.end().expect("whole");
}

#[test]
fn fault_39_a_port_conflict_on_reload_refuses_all_of_it_and_the_old_serves_on() {
    let echo = Echo::start();
    let rival = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let taken = rival.local_addr().expect("an address");
    let (port, wild, other) = (free_port(), free_port(), free_port());
    let old = format!(
        "{}{}{}",
        top(),
        upstream("a", &format!("127.0.0.1:{port}"), echo.address, "5s", ""),
        upstream("w", &format!("127.0.0.1:{wild}"), echo.address, "5s", "")
    );
    let program = Program::start(&old);
    program.until_up("a");
    program.until_up("w");
    let flow = Flow::start(at(port));
    let http = program.http();
    // Everything else in this edit could be done: a new upstream, another heartbeat, a wildcard, HTTP elsewhere.
    let new = format!(
        "http.listen = \"127.0.0.1:{other}\"\n{}{}{}",
        upstream("a", &taken.to_string(), echo.address, "9s", ""),
        upstream("w", &format!("0.0.0.0:{wild}"), echo.address, "5s", "insecure_listen = true"),
        upstream("b", "127.0.0.1:0", echo.address, "5s", "")
    );
    program.place.replace(&new);
    eventually("rejected", || program.reloads("rejected") == 1.0);
    assert_eq!(program.metric("everlink_config_last_reload_successful"), Some(0.0));
    eventually("told once", || program.logged(&format!("cannot listen on {taken}")) == 1);
    assert_eq!(program.interval("a"), Some(5.0));
    assert!(program.upstream("b").is_none());
    assert!(get(at(other), "/livez").is_err(), "HTTP has moved");
    assert_eq!(get(http, "/livez").expect("answered").0, 200);
    assert_eq!(exchange(at(port), b"old").expect("carried"), b"old");
    assert_eq!(exchange(at(wild), b"old").expect("carried"), b"old");
    assert!(TcpStream::connect(("127.0.0.2", wild)).is_err(), "the wildcard stayed");
    flow.until_moved(10_000);
    // Free again, the same file does.
    drop(rival);
    program.signal("HUP");
    eventually("applied", || get(at(other), "/livez").is_ok_and(|(status, _)| status == 200));
    assert_eq!(exchange(taken, b"new").expect("carried"), b"new");
    eventually("the old port closed", || TcpStream::connect(at(port)).is_err());
    flow.until_moved(10_000);
    flow.end().expect("whole");
}

#[test]
fn fault_39_a_port_taken_at_the_start_is_told_and_ends_the_program() {
    let echo = Echo::start();
    let rival = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let taken = rival.local_addr().expect("an address");
    let command = |place: &Place| {
        let mut command = Command::new(harness::EVERLINK);
        command.arg("run").arg("--config").arg(place.config());
        command
    };
    let place = Place::new(&format!("{}{}", top(), upstream("a", &taken.to_string(), echo.address, "5s", "")));
    let start = command(&place);
    let mut program = Program::spawn(place, start);
    assert_eq!(program.ended().code(), Some(1));
    eventually("told", || program.logged(&format!("cannot start: a: cannot listen on {taken}")) == 1);
    let place =
        Place::new(&format!("http.listen = \"{taken}\"\n{}", upstream("a", "127.0.0.1:0", echo.address, "5s", "")));
    let start = command(&place);
    let mut program = Program::spawn(place, start);
    assert_eq!(program.ended().code(), Some(1));
    eventually("told", || program.logged(&format!("http.listen: cannot listen on {taken}")) == 1);
}

#[test]
fn fault_39_a_restart_binds_at_once_though_old_connections_linger() {
    let echo = Echo::start();
    let port = free_port();
    let config = format!(
        "{}drain = {{ timeout = \"1s\", quiet = \"100ms\" }}\n{}",
        top(),
        upstream("a", &format!("127.0.0.1:{port}"), echo.address, "5s", "")
    );
    for _ in 0..3 {
        let mut program = Program::start(&config);
        program.until_up("a");
        // The side that closes first keeps the port in TIME_WAIT.
        let mut stream = TcpStream::connect(at(port)).expect("connected");
        stream.write_all(b"x").expect("sent");
        stream.read_exact(&mut [0]).expect("back");
        program.signal("TERM");
        assert!(program.ended().success());
    }
}

#[test]
fn fault_53_connections_of_a_removed_upstream_drain_and_are_then_reset() {
    let echo = Echo::start();
    let config = |names: &[&str]| {
        let all = names.iter().map(|name| upstream(name, "127.0.0.1:0", echo.address, "5s", ""));
        format!("{}drain = {{ timeout = \"3s\" }}\n{}", top(), all.collect::<String>())
    };
    let program = Program::start(&config(&["a", "b"]));
    program.until_up("b");
    let address = program.listens("b");
    let mut quick = TcpStream::connect(address).expect("connected");
    let flow = Flow::start(address);
    flow.until_moved(1);
    let before = Instant::now();
    program.place.replace(&config(&["a"]));
    eventually("closed", || TcpStream::connect(address).is_err());
    // Both still serve; one ends by itself.
    quick.write_all(b"bye").expect("sent");
    quick.read_exact(&mut [0; 3]).expect("carried");
    drop(quick);
    flow.until_moved(10_000);
    assert!(program.sum("everlink_connections", "upstream=\"b\"") >= 1.0, "its series stay while it drains");
    eventually("reset", || flow.is_over());
    let took = before.elapsed();
    assert!(took >= Duration::from_millis(2900) && took < Duration::from_secs(10), "{took:?}");
    assert!(flow.end().expect_err("cut").contains("reset"));
    eventually("series gone", || !program.get("/metrics").1.contains("upstream=\"b\""));
    program.until_up("a");
}

#[test]
fn fault_53_an_upstream_may_come_back_while_its_old_connections_drain() {
    let echo = Echo::start();
    let config = |names: &[&str]| {
        let all = names.iter().map(|name| upstream(name, "127.0.0.1:0", echo.address, "5s", ""));
        format!("{}drain = {{ timeout = \"3s\" }}\n{}", top(), all.collect::<String>())
    };
    let program = Program::start(&config(&["a", "b"]));
    program.until_up("b");
    let flow = Flow::start(program.listens("b"));
    flow.until_moved(1);
    program.place.replace(&config(&["a"]));
    eventually("removed", || program.logged("b: removed") == 1);
    program.place.replace(&config(&["a", "b"]));
    eventually("added", || program.logged("b: added") == 1);
    eventually("b serves", || exchange(program.listens("b"), b"again").is_ok());
    eventually("the old one is cut", || flow.is_over());
    assert_eq!(exchange(program.listens("b"), b"still").expect("carried"), b"still");
    program.until_up("b");
    program.until_links("b", 2.0);
    program.until_metric("everlink_connections{upstream=\"b\"}", 0.0);
    let shown = program.upstream("b").expect("there");
    assert_eq!(shown["links"].as_array().map(Vec::len), Some(2));
}

#[test]
fn http_moves_between_addresses_and_wildcards_and_tells_outsiders_only_what_it_may() {
    let echo = Echo::start();
    let (p, q) = (free_port(), free_port());
    let config = |http: &str| format!("{http}\n{}", upstream("a", "127.0.0.1:0", echo.address, "5s", ""));
    let program = Program::start(&config(&format!("http.listen = \"127.0.0.1:{p}\"")));
    let answers = |address: SocketAddr, path: &str| get(address, path).map_or(0, |(status, _)| status);
    program.place.replace(&config(&format!("http.listen = [\"127.0.0.1:{p}\", \"127.0.0.1:{q}\"]")));
    eventually("both", || answers(at(p), "/livez") == 200 && answers(at(q), "/livez") == 200);
    program.place.replace(&config(&format!("http.listen = \"127.0.0.1:{q}\"")));
    eventually("one", || answers(at(p), "/livez") == 0 && answers(at(q), "/livez") == 200);
    let outside = SocketAddr::from(([127, 0, 0, 2], q));
    let wild = format!("http.listen = \"0.0.0.0:{q}\"");
    program.place.replace(&config(&wild));
    eventually("wildcard", || answers(outside, "/livez") == 200);
    program.place.replace(&config(&format!("http.listen = \"127.0.0.1:{q}\"")));
    eventually("own address", || answers(outside, "/livez") == 0 && answers(at(q), "/livez") == 200);
    program.place.replace(&config("http.listen = \"off\""));
    eventually("off", || answers(at(q), "/livez") == 0);
    program.place.replace(&config(&format!("http.listen = \"127.0.0.1:{q}\"")));
    eventually("on", || answers(at(q), "/livez") == 200);
}

#[test]
fn public_status_is_taken_live() {
    let echo = Echo::start();
    let Some(outside) = outside_address() else { panic!("this machine has no address beside loopback") };
    let port = free_port();
    let config = |public: bool| {
        format!(
            "http = {{ listen = \"0.0.0.0:{port}\", public_status = {public} }}\n{}",
            upstream("a", "127.0.0.1:0", echo.address, "5s", "")
        )
    };
    let program = Program::start(&config(false));
    let outside = SocketAddr::new(outside, port);
    let answers = |path: &str| get(outside, path).map_or(0, |(status, _)| status);
    assert_eq!((answers("/status"), answers("/"), answers("/metrics"), answers("/livez")), (403, 403, 200, 200));
    program.place.replace(&config(true));
    eventually("public", || answers("/status") == 200 && answers("/") == 200);
    program.place.replace(&config(false));
    eventually("private", || answers("/status") == 403);
}

/// An address of this machine that is not loopback, as a connect would choose it; nothing is sent.
fn outside_address() -> Option<std::net::IpAddr> {
    let out = Command::new("hostname").arg("-I").output().ok()?;
    String::from_utf8_lossy(&out.stdout).split_whitespace().find_map(|word| word.parse().ok())
}

#[test]
fn the_admin_socket_moves_goes_and_comes_back() {
    let echo = Echo::start();
    let place = Place::new("");
    let config = |place: &Place, name: Option<&str>| {
        let admin = name.map_or(String::new(), |name| format!("admin.socket = \"{}\"\n", place.at(name).display()));
        format!("{admin}{}{}", top(), upstream("a", "127.0.0.1:0", echo.address, "5s", ""))
    };
    place.write(&config(&place, Some("one.sock")));
    let program = Program::start_in(place);
    let ask = |name: &str| {
        let mut command = Command::new(harness::EVERLINK);
        command.args(["reload", "--socket"]).arg(program.place.at(name)).output().expect("run").status.success()
    };
    assert!(ask("one.sock"));
    program.place.replace(&config(&program.place, Some("two.sock")));
    eventually("moved", || ask("two.sock") && !ask("one.sock"));
    assert!(!harness::exists(&program.place.at("one.sock")), "the old path is gone");
    program.place.replace(&config(&program.place, None));
    eventually("gone", || !harness::exists(&program.place.at("two.sock")));
    program.place.replace(&config(&program.place, Some("one.sock")));
    eventually("back", || ask("one.sock"));
    std::fs::remove_file(program.place.at("one.sock")).expect("removed");
    assert!(!ask("one.sock"));
    program.signal("HUP");
    eventually("bound again", || ask("one.sock"));
    eventually("told", || program.logged("the admin socket's file was gone") == 1);
}

#[test]
fn the_log_changes_its_level_and_its_form_live() {
    let echo = Echo::start();
    let config = |log: &str| format!("{log}\n{}{}", top(), upstream("a", "127.0.0.1:0", echo.address, "5s", ""));
    let program = Program::start(&config("log.level = \"info\""));
    program.until_up("a");
    exchange(program.listens("a"), b"quiet").expect("carried");
    assert_eq!(program.logged("connection closed"), 0);
    program.place.replace(&config("log.level = \"debug\""));
    eventually("applied", || program.logged("log.level info → debug, live") == 1);
    eventually("told", || {
        exchange(program.listens("a"), b"loud").expect("carried");
        program.logged("connection closed") >= 1
    });
    program.place.replace(&config("log = { level = \"info\", format = \"text\" }"));
    eventually("applied", || {
        program.log().iter().any(|line| !line.starts_with('{') && line.contains("log.level debug → info"))
    });
    program.place.replace(&config("log = { level = \"warn\" }"));
    eventually("applied", || program.reloads("applied") == 3.0);
    program.place.replace("wrong");
    eventually("told", || program.log().last().is_some_and(|line| line.starts_with('{') && line.contains("rejected")));
    assert_eq!(program.logged("log.level info → warn"), 1, "a log that becomes quiet says why");
    program.place.replace(&config("log = { level = \"info\" }"));
    eventually("told", || program.logged("log.level warn → info") == 1);
}

/// A CA and a pair of files signed by it, through the openssl command.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().expect("a directory"));
        this.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=ca");
        this
    }

    fn openssl(&self, line: &str) {
        let out =
            Command::new("openssl").args(line.split(' ')).current_dir(self.0.path()).output().expect("openssl runs");
        assert!(out.status.success(), "{line}: {}", harness::text(&out));
    }

    /// `name.pem` and `name.key`, good for so many days.
    fn issue(&self, name: &str, days: u32) {
        std::fs::write(self.at("ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("written");
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        self.openssl(&format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days {days} -extfile ext"));
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

fn copy(from: &Path, to: &Path) {
    let beside = to.with_extension("tmp");
    std::fs::copy(from, &beside).expect("copied");
    std::fs::rename(&beside, to).expect("renamed");
}

/// A TLS server that wants a client certificate and tells the serial numbers it was shown.
struct TlsServer(std::process::Child, u16);

impl TlsServer {
    fn start(authority: &Authority) -> Self {
        let port = free_port();
        let child = Command::new("openssl")
            .args([
                "s_server",
                "-quiet",
                "-accept",
                &format!("127.0.0.1:{port}"),
                "-cert",
                "server.pem",
                "-key",
                "server.key",
            ])
            .args(["-CAfile", "ca.pem", "-Verify", "1", "-verify_return_error", "-naccept", "100000"])
            .current_dir(authority.0.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("openssl runs");
        let made = Self(child, port);
        // A dial that finds nobody yet would be a trouble, after which links are made anew.
        eventually("openssl listens", || TcpStream::connect(at(port)).is_ok());
        made
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn fault_55_renewed_files_are_taken_and_a_half_written_pair_is_not() {
    let authority = Authority::new();
    authority.issue("server", 20);
    authority.issue("one", 10);
    authority.issue("two", 20);
    let server = TlsServer::start(&authority);
    let place = Place::new("");
    for (from, to) in [("one.pem", "client.pem"), ("one.key", "client.key"), ("ca.pem", "ca.pem")] {
        copy(&authority.at(from), &place.at(to));
    }
    let path = |name: &str| place.at(name).display().to_string();
    let config = format!(
        "{}[upstreams.a]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"127.0.0.1:{}\"]\npool.size = 1\n\
         tls = {{ ca_file = \"{}\", cert_file = \"{}\", key_file = \"{}\" }}\nretry.max = \"1s\"\n",
        top(),
        server.1,
        path("ca.pem"),
        path("client.pem"),
        path("client.key")
    );
    place.write(&config);
    let program = Program::start_in(place);
    program.until_up("a");
    const END: &str = "everlink_tls_certificate_not_after_timestamp_seconds{role=\"client\",upstream=\"a\"}";
    let first = program.metric(END).expect("there");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert!((first - now - 10.0 * 86400.0).abs() < 3600.0, "{first}");
    let dials = program.sum("everlink_link_dials_total", "");
    assert_eq!(program.metric("everlink_tls_files_unusable{upstream=\"a\"}"), Some(0.0));
    // Half of the pair: kept apart, told, counted.
    copy(&authority.at("two.pem"), &program.place.at("client.pem"));
    eventually("told", || program.metric("everlink_tls_reload_failures_total") == Some(1.0));
    const UNUSABLE: &str = "everlink_tls_files_unusable{upstream=\"a\"}";
    assert_eq!((program.metric(END), program.metric(UNUSABLE)), (Some(first), Some(1.0)));
    eventually("told", || program.logged("a: changed TLS files cannot be used, the old ones stay") == 1);
    copy(&authority.at("one.pem"), &program.place.at("client.pem"));
    eventually("put back", || program.logged("a: TLS files can be used again and hold what is in use") == 1);
    assert_eq!(program.metric(UNUSABLE), Some(0.0));
    copy(&authority.at("two.pem"), &program.place.at("client.pem"));
    eventually("told again", || program.metric("everlink_tls_reload_failures_total") == Some(2.0));
    // A garbage key does not change that.
    std::fs::write(program.place.at("client.key"), "garbage").expect("written");
    eventually("told", || program.metric("everlink_tls_reload_failures_total") == Some(3.0));
    assert_eq!(program.metric(END), Some(first));
    copy(&authority.at("two.key"), &program.place.at("client.key"));
    eventually("taken", || program.metric(END).is_some_and(|end| end > first + 5.0 * 86400.0));
    assert_eq!(program.metric(UNUSABLE), Some(0.0));
    eventually("told once", || program.logged("TLS files changed, next dial") == 1);
    assert_eq!(program.sum("everlink_link_dials_total", ""), dials, "no link was touched");
    assert_eq!(program.metric("everlink_config_last_reload_successful"), Some(1.0));
}

#[test]
fn fault_55_an_edit_that_names_files_before_they_are_there_is_taken_when_they_come() {
    let authority = Authority::new();
    authority.issue("server", 20);
    let server = TlsServer::start(&authority);
    let plain = format!("{}[upstreams.a]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"127.0.0.1:{}\"]\n", top(), server.1);
    let program = Program::start(&plain);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let ca = elsewhere.path().join("ca.pem");
    program.place.replace(&format!("{plain}tls = {{ ca_file = \"{}\" }}\n", ca.display()));
    eventually("rejected", || program.reloads("rejected") == 1.0);
    copy(&authority.at("ca.pem"), &ca);
    eventually("applied", || program.reloads("applied") == 1.0);
    assert_eq!(program.metric("everlink_config_last_reload_successful"), Some(1.0));
    eventually("told once", || program.logged("configuration rejected") == 1);
    assert!(
        program.metric("everlink_tls_certificate_not_after_timestamp_seconds{role=\"ca\",upstream=\"a\"}").is_some()
    );
    // And from then on it is watched as the upstream's own: the same edit can name another.
    let other = elsewhere.path().join("other.pem");
    copy(&authority.at("server.pem"), &other);
    program.place.replace(&format!("{plain}tls = {{ ca_file = \"{}\" }}\n", other.display()));
    eventually("applied", || program.reloads("applied") == 2.0);
    std::fs::write(&other, "garbage").expect("written");
    eventually("told", || program.metric("everlink_tls_reload_failures_total") == Some(1.0));
    program.place.replace(&plain);
    eventually("off", || program.reloads("applied") == 3.0);
    assert_eq!(program.sum("everlink_tls_certificate_not_after_timestamp_seconds", ""), 0.0, "its series are gone");
}
