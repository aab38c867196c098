//! What a service manager hears of the program.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::ear::Ear;
use crate::harness::{self, Echo, Place, Program, eventually, exchange, get, top, upstream};

fn config(echo: &Echo, interval: &str) -> String {
    format!("{}drain = {{ timeout = \"20s\", quiet = \"300ms\" }}\n", top())
        + &upstream("a", "127.0.0.1:0", echo.address, interval, "")
}

#[test]
fn it_is_ready_when_it_serves_and_not_before() {
    let echo = Echo::start();
    let port = harness::free_port();
    let http = harness::free_port();
    // Enough to bind for a message that is too early to be found out.
    let many: String = (0..300).map(|n| upstream(&format!("u{n}"), "127.0.0.1:0", echo.address, "5s", "")).collect();
    let last = upstream("z", &format!("127.0.0.1:{port}"), echo.address, "5s", "");
    for ear in [Ear::new(), Ear::with_abstract_name()] {
        let place = Place::new(&format!("http.listen = \"127.0.0.1:{http}\"\n{many}{last}"));
        let command = ear.command(&place);
        let mut program = Program::spawn(place, command);
        eventually("ready", || {
            assert!(program.is_running(), "it ended: {:?} {:?}", program.log(), program.errors());
            ear.count("READY=1") == 1
        });
        assert_eq!(exchange(([127, 0, 0, 1], port).into(), b"hello").expect("served"), b"hello");
        assert_eq!(get(([127, 0, 0, 1], http).into(), "/startupz").expect("served").0, 200);
        assert!(ear.messages()[0].starts_with("READY=1\nSTATUS="), "{:?}", ear.messages());
        program.signal("KILL");
        program.ended();
        assert_eq!(ear.count("READY=1"), 1);
    }
}

#[test]
fn a_start_that_fails_is_never_ready() {
    let (echo, ear) = (Echo::start(), Ear::new());
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let taken = other.local_addr().expect("an address");
    let unbound = upstream("a", &taken.to_string(), echo.address, "5s", "");
    for (config, code) in [("nonsense = 1\n".to_owned(), 78), (top() + &unbound, 1)] {
        let place = Place::new(&config);
        let command = ear.command(&place);
        assert_eq!(Program::spawn(place, command).ended().code(), Some(code));
    }
    ear.listen_up();
    assert_eq!(ear.messages(), ["heard"]);
}

#[test]
fn the_line_of_the_status_follows_the_links_and_the_reloads() {
    let (echo, ear) = (Echo::start(), Ear::new());
    let place = Place::new(&config(&echo, "5s"));
    let command = ear.command(&place);
    let program = Program::start_as(place, command);
    eventually("up", || ear.status() == "1 of 1 upstream up, 2 of 2 links");
    let nobody = harness::free_port();
    let down = upstream("b", "127.0.0.1:0", ([127, 0, 0, 1], nobody).into(), "5s", "");
    program.place.replace(&(config(&echo, "5s") + &down));
    eventually("down", || ear.status().starts_with("1 of 2 upstreams up (down: b), 2 of 4 links; reload applied 20"));
    program.place.replace("nonsense = 1\n");
    eventually("rejected", || {
        let status = ear.status();
        status.contains("; reload rejected 20") && status.contains("nonsense")
    });
    assert_eq!(ear.count("RELOADING=1"), 0, "nobody had asked for one");
    // Only changes are told, and not each by itself.
    let told = ear.messages().len();
    assert!(told < 12, "{:?}", ear.messages());
}

#[test]
fn a_reload_by_signal_begins_and_ends_with_a_message() {
    let (echo, ear) = (Echo::start(), Ear::new());
    let place = Place::new(&config(&echo, "5s"));
    let command = ear.command(&place);
    let program = Program::start_as(place, command);
    program.until_up("a");
    for (round, (interval, outcome)) in [("6s", "applied"), ("never", "rejected"), ("7s", "applied")].iter().enumerate()
    {
        // In place, and right before the signal: the watch has not seen it when the signal comes, or has, and either is well.
        program.place.write(&config(&echo, interval));
        let before = everlink::net::kernel::monotonic().as_micros();
        program.signal("HUP");
        ear.until_told("READY=1", round + 2);
        let messages = ear.messages();
        let begun = messages.iter().rposition(|message| message.starts_with("RELOADING=1\n")).expect("told");
        let time = messages[begun].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("with the time");
        assert!(time.parse::<u128>().expect("a number") >= before, "{time} is before the signal at {before}");
        let ended = messages[begun + 1..].iter().find(|message| message.starts_with("READY=1\n")).expect("after it");
        let line = ended.lines().nth(1).expect("a line");
        assert!(line.contains(&format!("reload {outcome}")) || line.contains("reload unchanged"), "{line}");
        let interval = if *interval == "never" { "6s" } else { interval };
        assert_eq!(program.interval("a"), interval.trim_end_matches('s').parse().ok(), "in force when it is told");
        assert_eq!(ear.count("RELOADING=1"), round + 1);
    }
}

#[test]
fn a_drain_is_told_and_a_long_one_asks_for_time() {
    let echo = Echo::start();
    for (timeout, extends) in [("20s", false), ("300s", true)] {
        let ear = Ear::new();
        let drain = format!("drain = {{ timeout = \"{timeout}\", quiet = \"300ms\" }}\n");
        let place = Place::new(&(top() + &drain + &upstream("a", "127.0.0.1:0", echo.address, "5s", "")));
        let command = ear.command(&place);
        let mut program = Program::start_as(place, command);
        program.until_up("a");
        let flow = harness::Flow::start(program.listens("a"));
        flow.until_moved(1);
        program.signal("TERM");
        ear.until_told("STOPPING=1", 1);
        assert_eq!(ear.status(), "draining: 1 client is open");
        if extends {
            ear.until_told("EXTEND_TIMEOUT_USEC=30000000", 1);
        }
        flow.end().expect("whole");
        assert!(program.ended().success());
        let lines = ear.lines();
        let stopping = lines.iter().position(|line| line == "STOPPING=1").expect("told");
        assert!(lines[stopping..].iter().all(|line| line != "READY=1"), "{lines:?}");
        assert_eq!(lines.iter().any(|line| line.starts_with("EXTEND")), extends, "{lines:?}");
    }
}

#[test]
fn a_manager_that_does_not_listen_holds_nothing_up() {
    let echo = Echo::start();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    // It never reads: its queue is soon full.
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("bound");
    let filler = std::os::unix::net::UnixDatagram::unbound().expect("made");
    filler.set_nonblocking(true).expect("set");
    while filler.send_to(b"STATUS=full", &path).is_ok() {}
    let place = Place::new(&config(&echo, "5s"));
    let mut command = Command::new(harness::EVERLINK);
    command.arg("--config").arg(place.config()).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
    let mut program = Program::start_as(place, command);
    program.until_up("a");
    for _ in 0..3 {
        program.signal("HUP");
        exchange(program.listens("a"), b"hello").expect("carried");
    }
    eventually("reloaded", || program.reloads("unchanged") >= 1.0);
    program.signal("TERM");
    assert!(program.ended().success());
    drop(socket);
}

#[test]
fn other_commands_tell_nothing() {
    let (echo, ear) = (Echo::start(), Ear::new());
    let place = Place::new(&config(&echo, "5s"));
    let mut check = ear.command(&place);
    let mut command = Command::new(harness::EVERLINK);
    command.arg("check").arg(place.config()).envs(check.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("LISTEN_FDS", "1").env("WATCHDOG_USEC", "1000000");
    let output = command.output().expect("run");
    assert!(output.status.success(), "{}", harness::text(&output));
    assert!(ear.messages().is_empty());
    check.env("LISTEN_PID", "1").env("LISTEN_FDS", "3").env("WATCHDOG_PID", "1").env("WATCHDOG_USEC", "1000");
    // What is another process's is left alone.
    let program = Program::start_as(place, check);
    program.until_up("a");
    ear.until_told("READY=1", 1);
    assert_eq!(ear.count("WATCHDOG=1"), 0);
}

/// A thread of a process that stands still until this is dropped.
struct Frozen(Child);

impl Frozen {
    fn new(process: u32, name: &str) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("its threads");
        let named =
            |path: &std::path::Path| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
        let task = tasks.flatten().map(|entry| entry.path()).find(|path| named(path)).expect("a thread of that name");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/freeze.py");
        let mut child = Command::new("python3")
            .args([script.as_ref(), task.file_name().expect("a number")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("read");
        assert_eq!(line, "frozen\n");
        Self(child)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Half a minute each, and all at once: that is how long `/livez` forgives.
#[test]
fn the_watchdog_is_fed_until_a_thread_is_stuck() {
    const FED: &str = "WATCHDOG=1";
    let stuck = |thread: &'static str, forgiven: Duration| {
        let (echo, ear) = (Echo::start(), Ear::new());
        let place = Place::new(&config(&echo, "5s"));
        let mut command = ear.command(&place);
        command.env("WATCHDOG_USEC", "1000000");
        let program = Program::start_as(place, command);
        ear.until_told(FED, 6);
        let began = Instant::now();
        let frozen = Frozen::new(program.id(), thread);
        let starting = began.elapsed();
        eventually("hungry", || ear.last(FED).is_some_and(|last| last.elapsed() > Duration::from_secs(3)));
        let fed = ear.last(FED).expect("before").saturating_duration_since(began);
        // `/livez` has a clock of its own, whose steps are of 5 s.
        let slack = starting + Duration::from_secs(if forgiven.is_zero() { 3 } else { 8 });
        assert!(fed + slack >= forgiven && fed <= forgiven + slack, "{thread}: fed for {fed:?}, not {forgiven:?}");
        if thread.starts_with("worker") {
            assert_eq!(program.get("/livez").0, 503, "the same judgement");
        }
        let before = ear.count(FED);
        drop(frozen);
        eventually("fed again", || ear.count(FED) > before + 2);
        assert_eq!(program.get("/livez").0, 200);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| stuck("worker-0", Duration::from_secs(30)));
        scope.spawn(|| stuck("http", Duration::from_secs(30)));
        scope.spawn(|| stuck("everlink", Duration::ZERO));
    });
}
