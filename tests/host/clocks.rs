//! Clocks that jump. A library of the tests' own stands between the program and the kernel's clocks.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::program::{Program, directory, send, succeeded, wait_until, whole};
use crate::common::server::{Server, tutorial};
use crate::tunnel::relay::How;
use crate::tunnel::road::{Plan, Road, Trust, talks};
use crate::tunnel::traffic::{Pace, Talk};

/// The clocks of a few programs.
struct Clocks {
    directory: TempDir,
}

impl Clocks {
    fn new() -> Self {
        let directory = directory();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host/clocks.c");
        let library = directory.path().join("clocks.so");
        succeeded(Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(library).arg(source));
        let made = Self { directory };
        made.set(0, 0);
        made
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("moved")
    }

    /// By how many seconds the wall clock is moved, and the one that counts suspensions.
    fn set(&self, wall: i64, boot: i64) {
        let new = self.directory.path().join("new");
        std::fs::write(&new, format!("{wall} {boot}\n")).expect("written");
        std::fs::rename(new, self.file()).expect("renamed");
    }

    /// To stand before the command that goes by these clocks.
    fn enter(&self) -> [String; 3] {
        let library = self.directory.path().join("clocks.so");
        [
            "env".to_owned(),
            format!("LD_PRELOAD={}", library.display()),
            format!("EVERLINK_TEST_CLOCKS={}", self.file().display()),
        ]
    }
}

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// The wall clock as the program has it: the time of its newest line of log with `text`.
fn year_of(program: &Program, text: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(&program.logged(text).expect("logged")).expect("JSON");
    line["timestamp"].as_str().unwrap_or_else(|| panic!("{line}")).get(..4).expect("a year").to_owned()
}

#[test]
fn fault_45_a_wall_clock_that_jumps_moves_no_timer_and_certificates_follow_it() {
    let clocks = Clocks::new();
    let enter = clocks.enter();
    let wrappers = [&enter[..], &enter[..]];
    let road = Plan { trust: Trust::certificates(), wrappers, ..Plan::default() }.build();
    let before = road.held();
    let session = road.session();
    let talk = Talk::start(road.listener("echo"), Pace::CHAT);
    talk.until_moved(1000);
    let wall = || road.of("link_last_received_timestamp_seconds");
    for jump in [HOUR, -HOUR, 0, 10 * YEAR, -10 * YEAR, 0] {
        let real =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
        clocks.set(jump, 0);
        let beats = road.of("heartbeats_sent_total");
        talk.until_moved(1000);
        wait_until("the clock has jumped, and its metrics with it", || (wall() - real - jump as f64).abs() < 60.0);
        // In silence there are beats, at their own pace.
        let (mut quiet, began) = (road.connect("echo"), Instant::now());
        talks(&mut quiet, b"on time");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(road.of("heartbeats_sent_total") - beats < 20.0, "no storm of beats");
        assert_eq!(road.losses(), 0.0, "after a jump of {jump} s");
    }
    // Backoff and the session's time to live go by another clock: a cut in a jump heals as ever.
    clocks.set(HOUR, 0);
    assert_eq!(road.relay.cut(How::Reset), 1);
    wait_until("resumed", || road.resumes("resumed") == 1.0);
    talk.until_moved(1000);
    assert_eq!(road.session(), session);
    assert!(talk.finish() > 0);
    road.until_baseline(before);

    // Certificates are of their time: the next handshake finds them expired, and finds them good again.
    // That of the tests end in 4096.
    clocks.set(2100 * YEAR, 0);
    assert_eq!(road.relay.cut(How::Reset), 1);
    let refused = || road.count("link_dials_total", "outcome=\"tls\"");
    wait_until("no certificate is valid", || refused() >= 2.0);
    clocks.set(0, 0);
    road.until_up();
    talks(&mut road.connect("echo"), b"and so on");
    assert_eq!(road.session(), session);
    assert!(year_of(&road.sidecar, "is ready").starts_with("20"));
}

/// Minutes, so that whatever happens within seconds does not wait for them.
const SLOW: &str = "heartbeat = { interval = \"10m\", timeout = \"1s\", misses = 3 }\n\
     retry = { initial = \"100ms\", max = \"10m\", jitter = \"off\", stable_after = \"1s\", connect_timeout = \"2s\" }\n";

/// Long after the machine has woken nobody would have noticed anything; `Instant` and every timer stood still with it.
const SOON: Duration = Duration::from_secs(3);
/// Soon for a busy host; still before any timer of these.
const LATE: Duration = Duration::from_secs(7);

/// Both ends go by clocks of their own.
fn road(near: &Clocks, far: &Clocks) -> Road {
    let (near, far) = (near.enter(), far.enter());
    let wrappers = [&near[..], &far[..]];
    Plan { sidecar: SLOW, gateway: "resume.deadline = \"5m\"\n", wrappers, ..Plan::default() }.build()
}

#[test]
fn fault_46_a_host_that_wakes_asks_at_once_and_finds_what_has_gone_meanwhile() {
    let (near, far) = (Clocks::new(), Clocks::new());
    let road = road(&near, &far);
    let before = road.held();
    let (sent, answered) = (|| road.of("heartbeats_sent_total"), || road.of("heartbeat_rtt_seconds_count"));
    // Nobody says anything: the first beat is minutes away.
    std::thread::sleep(SOON);
    assert_eq!(sent(), 0.0);
    let stalls = || road.sidecar.metric("everlink_process_stalls_total");
    let stalled = stalls();

    // The other end is still there.
    near.set(0, 2 * HOUR);
    let woken = Instant::now();
    wait_until("a beat is answered", || answered() >= 1.0);
    assert!(woken.elapsed() < LATE, "{:?}", woken.elapsed());
    assert!(stalls() > stalled, "it is counted");
    wait_until("and told", || road.sidecar.logged("this machine was suspended").is_some());
    assert_eq!(road.losses(), 0.0);

    // The flow was forgotten while it slept, and nobody says so.
    assert_eq!(road.relay.forget(), 1);
    near.set(0, 4 * HOUR);
    let woken = Instant::now();
    wait_until("found out and resumed", || road.resumes("resumed") == 1.0);
    let took = woken.elapsed();
    assert!(took < Duration::from_secs(4) + LATE, "{took:?}");
    println!("a flow that was forgotten in the sleep: resumed {took:?} after");

    // It was the gateway's host that slept: it is the gateway that asks.
    // What the sidecar has asked in its resume is answered first.
    let moved = || road.relay.moved(crate::tunnel::relay::Way::Down);
    let (mut heard, mut at) = (moved(), Instant::now());
    wait_until("silence", || {
        if moved() != heard {
            (heard, at) = (moved(), Instant::now());
        }
        at.elapsed() > Duration::from_millis(500)
    });
    far.set(0, HOUR);
    wait_until("the gateway asks", || moved() > heard);
    wait_until("and tells", || road.gateway().logged("this machine was suspended").is_some());
    talks(&mut road.connect("echo"), b"awake");
    road.until_baseline(before);
}

#[test]
fn fault_46_a_host_that_wakes_in_a_backoff_of_minutes_redials_at_once() {
    let (near, far) = (Clocks::new(), Clocks::new());
    let road = road(&near, &far);
    road.relay.refuse(true);
    assert_eq!(road.relay.cut(How::Reset), 1);
    // Each wait is twice as long as the one before: this one has just begun, and is of 12.8 s.
    let longest = || road.sidecar.metrics().find("everlink_link_retry_delay_seconds{upstream=\"site\"}").unwrap_or(0.0);
    wait_until("a long wait", || longest() > 8.0);
    road.relay.refuse(false);
    near.set(0, HOUR);
    let woken = Instant::now();
    road.until_up();
    assert!(woken.elapsed() < LATE, "{:?}", woken.elapsed());
}

#[test]
fn fault_46_warm_links_of_direct_mode_are_asked_at_once() {
    let clocks = Clocks::new();
    let server = Server::start(tutorial);
    let slow = SLOW.replace("misses = 3", "misses = 3, send = \"ping\", expect = \"pong\"");
    let config = format!(
        "[upstreams.test]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"{}\"]\npool.size = 3\n{slow}",
        server.address
    );
    let place = directory();
    std::fs::write(place.path().join("config.toml"), whole(&config)).expect("written");
    let everlink = Program::start_wrapped(place, &clocks.enter());
    everlink.until_up("test", 3);
    let answered = || everlink.metric("everlink_heartbeat_rtt_seconds_count{upstream=\"test\"}");
    // Each was proven by one.
    let at_first = answered();
    std::thread::sleep(SOON);
    assert_eq!(answered(), at_first);
    clocks.set(0, HOUR);
    let woken = Instant::now();
    wait_until("each is asked", || answered() >= at_first + 3.0);
    assert!(woken.elapsed() < LATE, "{:?}", woken.elapsed());
    everlink.until_up("test", 3);
    assert_eq!(server.connections(), 3, "the same ones");
    send("TERM", everlink.id());
    everlink.left();
}
