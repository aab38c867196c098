//! The end of the program: what signals do, how long it serves on, and what is left behind.

#[path = "program/harness.rs"]
mod harness;
#[path = "../src/port.rs"]
mod port;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Echo, Flow, Place, Program, died_of, eventually, exchange, free_port, send_signal, top, upstream};

fn config(echo: &Echo, drain: &str) -> String {
    format!("{}{}drain = {{ {drain} }}\n", "", top()) + &upstream("a", "127.0.0.1:0", echo.address, "5s", "")
}

const QUICK: &str = "timeout = \"20s\", quiet = \"500ms\"";

#[test]
fn fault_62_a_drain_serves_on_and_ends_when_nobody_has_been_there_for_a_while() {
    for signal in ["TERM", "INT"] {
        let echo = Echo::start();
        let mut program = Program::start(&config(&echo, QUICK));
        program.until_links("a", 2.0);
        let address = program.listens("a");
        let flow = Flow::start(address);
        flow.until_moved(1);
        assert_eq!(program.get("/readyz").0, 200);
        program.signal(signal);
        eventually("not ready", || program.get("/readyz").0 == 503);
        assert!(program.get("/readyz?verbose").1.contains("draining"));
        assert_eq!((program.get("/livez").0, program.get("/startupz").0), (200, 200));
        // The application beside it is finishing: new clients come still.
        for _ in 0..20 {
            assert_eq!(exchange(address, b"new").expect("accepted"), b"new");
        }
        flow.until_moved(100_000);
        assert!(program.is_running());
        let began = Instant::now();
        flow.end().expect("whole");
        let status = program.ended();
        let took = began.elapsed();
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(8), "{took:?}");
        eventually("told once", || program.logged("everlink has stopped") == 1);
        assert!(program.errors().is_empty(), "{:?}", program.errors());
        // No outage: nobody is to be paged for it.
        assert_eq!((program.logged("upstream let go"), program.logged("upstream down")), (1, 0));
    }
}

#[test]
fn fault_62_a_drain_does_not_end_before_its_minimum() {
    let echo = Echo::start();
    let mut program = Program::start(&config(&echo, "timeout = \"20s\", quiet = \"100ms\", minimum = \"2s\""));
    program.until_up("a");
    let began = Instant::now();
    program.signal("TERM");
    assert!(program.ended().success());
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn fault_62_at_the_timeout_what_is_left_is_reset() {
    let echo = Echo::start();
    let mut program = Program::start(&config(&echo, "timeout = \"1500ms\", quiet = \"100ms\""));
    program.until_up("a");
    let address = program.listens("a");
    let flow = Flow::start(address);
    // One that moves nothing and never ends.
    let mut idle = TcpStream::connect(address).expect("connected");
    idle.write_all(b"x").expect("sent");
    idle.read_exact(&mut [0]).expect("back");
    // One that is stuck: it sends and never reads.
    let stuck = TcpStream::connect(address).expect("connected");
    stuck.set_nonblocking(true).expect("set");
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(300) {
        match (&stuck).write(&[7; 65536]) {
            Ok(_) => last = Instant::now(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => panic!("{error}"),
        }
    }
    flow.until_moved(1);
    let began = Instant::now();
    program.signal("TERM");
    assert_eq!(program.ended().code(), Some(0));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1500) && took < Duration::from_secs(8), "{took:?}");
    eventually("the flow is cut", || flow.is_over());
    assert!(flow.end().expect_err("cut").contains("reset"));
    assert_eq!(idle.read(&mut [0]).expect_err("cut").kind(), ErrorKind::ConnectionReset);
    stuck.set_nonblocking(false).expect("set");
    let error = (&stuck).write_all(&[7; 1 << 20]).expect_err("cut");
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    let told: Vec<_> = program.log().into_iter().filter(|line| line.contains("what was left is reset")).collect();
    assert!(told.len() == 1 && told[0].contains("\"connections\":3"), "{told:?}");
}

#[test]
fn fault_62_a_second_signal_ends_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let echo = Echo::start();
        let mut program = Program::start(&config(&echo, "timeout = \"60s\", quiet = \"50s\""));
        program.until_up("a");
        let flow = Flow::start(program.listens("a"));
        flow.until_moved(1);
        program.signal(first);
        eventually("draining", || program.get("/readyz").0 == 503);
        let began = Instant::now();
        program.signal(second);
        let status = program.ended();
        let took = began.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert!(!status.success() && died_of(status).is_none(), "{status:?}");
        eventually("told once", || program.logged("told twice") == 1);
        eventually("the flow is cut", || flow.is_over());
        assert!(flow.end().is_err());
    }
}

#[test]
fn fault_62_clients_of_a_removed_upstream_are_waited_for_too() {
    let echo = Echo::start();
    let of = |names: &[&str]| {
        let all = names.iter().map(|name| upstream(name, "127.0.0.1:0", echo.address, "5s", ""));
        format!("{}drain = {{ timeout = \"30s\", quiet = \"200ms\" }}\n{}", top(), all.collect::<String>())
    };
    let mut program = Program::start(&of(&["a", "b"]));
    program.until_up("b");
    let flow = Flow::start(program.listens("b"));
    flow.until_moved(1);
    program.place.replace(&of(&["a"]));
    eventually("removed", || program.logged("b: removed") == 1);
    program.signal("TERM");
    eventually("draining", || program.get("/readyz").0 == 503);
    flow.until_moved(500_000);
    assert!(program.is_running());
    flow.end().expect("whole");
    assert!(program.ended().success());
}

#[test]
fn fault_52_while_draining_reloads_are_refused_and_say_so() {
    let echo = Echo::start();
    let place = Place::new("");
    let admin = format!("admin.socket = \"{}\"\n", place.at("admin.sock").display());
    let with = |interval: &str| {
        format!(
            "{admin}{}drain = {{ timeout = \"30s\", quiet = \"20s\" }}\n{}",
            top(),
            upstream("a", "127.0.0.1:0", echo.address, interval, "")
        )
    };
    place.write(&with("5s"));
    let program = Program::start_in(place);
    program.until_up("a");
    program.signal("TERM");
    eventually("draining", || program.get("/readyz").0 == 503);
    let asked = program.ask(&["reload"]);
    assert!(asked.status.code() == Some(1) && harness::text(&asked).contains("draining"), "{asked:?}");
    program.signal("HUP");
    eventually("told", || program.logged("reload ignored: everlink is draining") == 1);
    program.place.replace(&with("6s"));
    eventually("told", || program.logged("an edit of the configuration is ignored: everlink is draining") == 1);
    assert_eq!(program.interval("a"), Some(5.0));
    for outcome in ["applied", "unchanged", "rejected"] {
        assert_eq!(program.reloads(outcome), 0.0, "{outcome}");
    }
}

#[test]
fn fault_63_signals_without_a_meaning_do_nothing() {
    let echo = Echo::start();
    let mut program = Program::start(&config(&echo, QUICK));
    program.until_up("a");
    let flow = Flow::start(program.listens("a"));
    for signal in ["USR1", "USR2", "PIPE", "USR1", "PIPE"] {
        program.signal(signal);
        flow.until_moved(20_000);
    }
    assert!(program.is_running());
    assert_eq!(program.get("/readyz").0, 200);
    flow.end().expect("whole");
}

/// As the first process of a container, which has no default actions.
fn as_pid_1(place: Place) -> Program {
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--mount-proc", "--kill-child", harness::EVERLINK, "--config"])
        .arg(place.config());
    Program::start_as(place, command)
}

/// The child of `unshare`, seen from outside.
fn inner(program: &Program) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", program.id());
    let list = std::fs::read_to_string(children).expect("its children");
    list.trim().parse().expect("one child")
}

#[test]
fn fault_63_as_pid_1_the_signals_work_all_the_same() {
    let echo = Echo::start();
    let place = Place::new(&config(&echo, QUICK));
    let mut program = as_pid_1(place);
    program.until_up("a");
    let id = inner(&program);
    let flow = Flow::start(program.listens("a"));
    for signal in ["USR1", "USR2", "PIPE", "HUP"] {
        send_signal(signal, id);
        flow.until_moved(10_000);
    }
    eventually("reloaded", || program.reloads("unchanged") == 1.0);
    send_signal("TERM", id);
    eventually("draining", || program.get("/readyz").0 == 503);
    flow.until_moved(10_000);
    flow.end().expect("whole");
    assert_eq!(program.ended().code(), Some(0));
    let mut program = as_pid_1(Place::new(&config(&echo, "timeout = \"60s\", quiet = \"50s\"")));
    let id = inner(&program);
    send_signal("INT", id);
    eventually("draining", || program.get("/readyz").0 == 503);
    send_signal("INT", id);
    assert!(!program.ended().success());
}

#[test]
fn a_signal_right_after_the_start_is_not_lost() {
    let echo = Echo::start();
    // Enough to read for the signal to come while it starts.
    let many: String = (0..300).map(|n| upstream(&format!("u{n}"), "127.0.0.1:0", echo.address, "5s", "")).collect();
    for wait in [20, 40, 80] {
        let place = Place::new(&format!("{}drain = {{ timeout = \"5s\", quiet = \"100ms\" }}\n{many}", top()));
        let mut command = Command::new(harness::EVERLINK);
        command.arg("--config").arg(place.config());
        let mut program = Program::spawn(place, command);
        let handled = |program: &Program| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).map(str::trim).map(str::to_owned);
            line.and_then(|mask| u64::from_str_radix(&mask, 16).ok()).is_some_and(|mask| mask & (1 << 14) != 0)
        };
        eventually("signals are handled", || handled(&program));
        std::thread::sleep(Duration::from_millis(wait));
        program.signal("TERM");
        let status = program.ended();
        assert_eq!((status.code(), died_of(status)), (Some(0), None), "after {wait} ms: {:?}", program.log());
        eventually("told once", || program.logged("draining: open clients may finish") == 1);
    }
}

#[test]
fn nothing_is_left_of_clients_reloads_and_probes() {
    let echo = Echo::start();
    let place = Place::new("");
    let admin = format!("admin.socket = \"{}\"\n", place.at("admin.sock").display());
    let with = |names: &[&str]| {
        let all = names.iter().map(|name| upstream(name, "127.0.0.1:0", echo.address, "5s", ""));
        format!("{admin}{}{}", top(), all.collect::<String>())
    };
    place.write(&with(&["a"]));
    let mut program = Program::start_in(place);
    let rest = |program: &Program| {
        program.until_links("a", 2.0);
        program.until_metric("everlink_connections{upstream=\"a\"}", 0.0);
    };
    let busy = |program: &Program| {
        for _ in 0..3 {
            program.place.replace(&with(&["a", "b", "c"]));
            eventually("added", || program.upstream("c").is_some());
            program.until_up("c");
            let address = program.listens("a");
            for _ in 0..50 {
                exchange(address, b"hello").expect("carried");
            }
            exchange(program.listens("c"), b"hello").expect("carried");
            assert!(program.ask(&["reload"]).status.success());
            program.place.replace(&with(&["a"]));
            eventually("removed", || program.upstream("c").is_none());
        }
        rest(program);
    };
    // Once for what is made on demand and then kept.
    busy(&program);
    let threads = harness::threads(program.id());
    let mut descriptors = usize::MAX;
    eventually("a number", || std::mem::replace(&mut descriptors, program.descriptors()) == descriptors);
    busy(&program);
    eventually("descriptors are given back", || program.descriptors() <= descriptors);
    // The runtime keeps one or two threads for looks at files, as they happen to overlap; a leak would be one a round.
    eventually("threads are given back", || harness::threads(program.id()) <= threads + 2);
    program.signal("TERM");
    assert!(program.ended().success());
    assert!(!harness::exists(&program.place.at("admin.sock")), "the admin socket's file is left");
}

#[test]
fn unix_sockets_go_with_the_program_and_stale_ones_are_replaced() {
    let echo = Echo::start();
    let place = Place::new("");
    let socket = place.at("a.sock");
    let admin = place.at("admin.sock");
    let config = format!(
        "admin.socket = \"{}\"\n{}drain = {{ timeout = \"5s\", quiet = \"100ms\" }}\n{}",
        admin.display(),
        top(),
        upstream("a", &format!("unix:{}", socket.display()), echo.address, "5s", "")
    );
    place.write(&config);
    let mut program = Program::start_in(place);
    program.until_up("a");
    let hello = || {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).expect("connected");
        stream.write_all(b"hello").expect("sent");
        let mut back = [0; 5];
        stream.read_exact(&mut back).expect("back");
        assert_eq!(&back, b"hello");
    };
    hello();
    // Killed: both files stay, and the next one takes their place.
    program.signal("KILL");
    program.ended();
    assert!(harness::exists(&socket) && harness::exists(&admin));
    let mut command = Command::new(harness::EVERLINK);
    command.arg("--config").arg(program.place.config());
    let mut second = Program::start_as(Place::new(""), command);
    second.until_up("a");
    hello();
    // Live: another one is refused and takes nothing away.
    let mut command = Command::new(harness::EVERLINK);
    command.arg("--config").arg(program.place.config());
    let mut third = Program::spawn(Place::new(""), command);
    assert_eq!(third.ended().code(), Some(1));
    hello();
    second.signal("TERM");
    assert!(second.ended().success());
    assert!(!harness::exists(&socket) && !harness::exists(&admin));
}

#[test]
fn a_drain_with_a_dead_upstream_ends_in_time_as_well() {
    let port = free_port();
    let config = format!(
        "{}drain = {{ timeout = \"2s\", quiet = \"100ms\" }}\n{}",
        top(),
        upstream("a", "127.0.0.1:0", ([127, 0, 0, 1], port).into(), "5s", "limits.wait = \"60s\"")
    );
    let mut program = Program::start(&config);
    // A client that waits for a link is a client.
    let mut waiting = TcpStream::connect(program.listens("a")).expect("connected");
    program.until_metric("everlink_connections_waiting{upstream=\"a\"}", 1.0);
    let began = Instant::now();
    program.signal("TERM");
    assert_eq!(program.ended().code(), Some(0));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
    assert!(!matches!(waiting.read(&mut [0]), Ok(1..)), "it got bytes from nowhere");
}
