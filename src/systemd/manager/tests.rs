use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::http::example;

const SECOND: Duration = Duration::from_secs(1);

/// A service manager, and what tells it.
struct Stage {
    socket: UnixDatagram,
    manager: Manager,
    status: Arc<Status>,
    now: Instant,
    _directory: tempfile::TempDir,
}

impl Stage {
    fn set(watchdog: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let now = Instant::now();
        let variable = |name: &str| match name {
            "NOTIFY_SOCKET" => Some(path.clone().into_os_string()),
            "WATCHDOG_USEC" => watchdog.map(Into::into),
            _ => None,
        };
        let manager = Manager::from_environment(variable, now);
        Self { socket, manager, status: example::busy_status(), now, _directory: directory }
    }

    /// Lets time pass as the program's loop sees it, with the clock of `/livez` and the stamp of the one data loop.
    fn pass(&mut self, time: Duration, clients: usize, is_alive: bool) -> Vec<String> {
        let end = self.now + time;
        while self.now < end {
            self.now += SECOND / 4;
            if self.now.duration_since(end - time).subsec_millis() == 0 {
                self.status.ticks.fetch_add(1, Ordering::Relaxed);
            }
            if is_alive {
                self.status.stamp(0);
            }
            self.manager.look(&self.status, || clients, self.now);
        }
        self.heard()
    }

    fn heard(&self) -> Vec<String> {
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count) = self.socket.recv(&mut buffer) {
            all.push(String::from_utf8(buffer[..count].to_vec()).unwrap());
        }
        all
    }

    fn ready(&mut self) {
        self.manager.ready(&self.status, self.now);
        let heard = self.heard();
        assert!(
            matches!(heard.as_slice(), [one] if one.starts_with("READY=1\nSTATUS=1 of 1 upstream up, 1 of 2 links;")),
            "{heard:?}"
        );
    }
}

fn drain(timeout: Duration) -> config::Drain {
    config::Drain { timeout, quiet: None, minimum: Duration::ZERO }
}

#[test]
fn nothing_is_told_before_the_start_is_over_nor_without_a_manager() {
    let mut stage = Stage::set(Some("2000000"));
    assert!(stage.pass(5 * SECOND, 0, true).is_empty());
    let mut nobody = Manager::from_environment(|_| None, stage.now);
    nobody.ready(&stage.status, stage.now);
    nobody.stopping(&drain(SECOND), 0, stage.now);
    assert_eq!(nobody.due(), None);
}

#[test]
fn the_line_is_told_when_it_changes_and_not_too_often() {
    let mut stage = Stage::set(None);
    stage.ready();
    assert!(stage.pass(60 * SECOND, 0, true).is_empty());
    let chat = stage.status.upstreams()["chat"].clone();
    chat.set_alive(false, "test");
    let heard = stage.pass(2 * SECOND, 0, true);
    assert!(
        matches!(heard.as_slice(), [one] if one.starts_with("STATUS=0 of 1 upstream up (down: chat)")),
        "{heard:?}"
    );
    let mut lines = 0;
    for round in 0..60 {
        chat.set_alive(round % 2 == 0, "test");
        lines += stage.pass(SECOND, 0, true).len();
    }
    assert!((8..=13).contains(&lines), "{lines} in a minute");
}

#[test]
fn a_reload_is_told_from_beginning_to_end() {
    let mut stage = Stage::set(None);
    stage.ready();
    let before = kernel::monotonic().as_micros();
    stage.manager.reloading();
    stage.manager.reloaded(&stage.status, stage.now);
    let heard = stage.heard();
    assert_eq!(heard.len(), 2);
    let time: u128 = heard[0].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
    assert!(time >= before && time <= kernel::monotonic().as_micros());
    assert!(heard[1].starts_with("READY=1\nSTATUS="));
}

#[test]
fn a_drain_is_told_and_a_long_one_asks_for_more_time_again_and_again() {
    let mut stage = Stage::set(None);
    stage.ready();
    stage.manager.stopping(&drain(8 * SECOND), 2, stage.now);
    assert_eq!(stage.heard(), ["STOPPING=1\nSTATUS=draining: 2 clients are open"]);
    assert_eq!(stage.pass(8 * SECOND, 1, true), ["STATUS=draining: 1 client is open"]);

    let mut stage = Stage::set(None);
    stage.ready();
    stage.manager.stopping(&drain(300 * SECOND), 2, stage.now);
    stage.heard();
    let heard = stage.pass(60 * SECOND, 2, true);
    assert!(heard.iter().all(|one| one == "EXTEND_TIMEOUT_USEC=30000000"), "{heard:?}");
    assert!((5..=7).contains(&heard.len()), "{heard:?}");
}

#[test]
fn the_watchdog_is_fed_while_every_loop_lives_and_not_a_minute_longer() {
    let mut stage = Stage::set(Some("10000000"));
    stage.ready();
    let heard = stage.pass(60 * SECOND, 0, true);
    assert!(heard.iter().all(|one| one == "WATCHDOG=1"), "{heard:?}");
    assert!((11..=13).contains(&heard.len()), "every five seconds: {}", heard.len());
    // As /livez: thirty seconds of silence are forgiven.
    assert!(!stage.pass(20 * SECOND, 0, false).is_empty());
    assert!(health::live(&stage.status).is_ok());
    stage.pass(15 * SECOND, 0, false);
    assert!(health::live(&stage.status).is_err());
    assert!(stage.pass(60 * SECOND, 0, false).is_empty());
    assert!(!stage.pass(2 * SECOND, 0, true).is_empty(), "it has come back");
}

#[test]
fn the_watchdog_goes_hungry_when_the_thread_that_answers_livez_is_stuck() {
    let mut stage = Stage::set(Some("4000000"));
    stage.ready();
    stage.pass(4 * SECOND, 0, true);
    let mut heard = Vec::new();
    for _ in 0..240 {
        stage.now += SECOND / 4;
        stage.manager.look(&stage.status, || 0, stage.now);
        heard.extend(stage.heard());
    }
    assert!((14..=17).contains(&heard.len()), "fed for thirty seconds: {heard:?}");
}

#[test]
fn the_watchdog_is_for_the_process_that_it_names() {
    let now = Instant::now();
    let of = |usec: &str, pid: Option<&str>| {
        let variable = |name: &str| match name {
            "WATCHDOG_USEC" => Some(OsString::from(usec)),
            "WATCHDOG_PID" => pid.map(OsString::from),
            _ => None,
        };
        Watchdog::from_environment(variable, 42, now).map(|watchdog| watchdog.every)
    };
    assert_eq!(of("3000000", None), Some(Duration::from_millis(1500)));
    assert_eq!(of("3000000", Some("42")), Some(Duration::from_millis(1500)));
    for (usec, pid) in [("3000000", Some("43")), ("3000000", Some("")), ("0", None), ("-1", None), ("soon", None)] {
        assert_eq!(of(usec, pid), None, "{usec} {pid:?}");
    }
}
