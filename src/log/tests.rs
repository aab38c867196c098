use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use tracing::subscriber::with_default;

use super::*;

fn settings(level: &str, format: LogFormat) -> config::Log {
    config::Log { level: level.to_owned(), format }
}

fn info_json() -> config::Log {
    settings("info", LogFormat::Json)
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn counter() -> IntCounter {
    IntCounter::new("dropped", "Lines.").unwrap()
}

/// A writer whose content can be looked at.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The text once it has so many lines, or more: on a busy host they come when the writer's thread does.
    fn lines(&self, count: usize) -> String {
        until("all lines are written", || self.text().matches('\n').count() >= count);
        self.text()
    }
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let with = |set: &'static [(&str, &str)]| {
        takes_colours(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    };
    assert!(with(&[]) && with(&[("TERM", "xterm"), ("NO_COLOR", "")]));
    assert!(!with(&[("TERM", "dumb")]) && !with(&[("TERM", "xterm"), ("NO_COLOR", "1")]));
}

#[test]
fn level_and_format_change_while_running() {
    let page = Page::default();
    let (subscriber, handle) = build(&info_json(), false, page.clone(), 100).unwrap();
    with_default(subscriber, || {
        tracing::debug!("one");
        handle.set_level("debug").unwrap();
        tracing::debug!(upstream = "chat", "two");
        handle.set_format(LogFormat::Text);
        tracing::info!(upstream = "chat", misses = 3, "three");
        assert!(handle.set_level("no=such=level").is_err());
        tracing::debug!("four");
        handle.set_level("error").unwrap();
        tracing::warn!("five");
    });
    drop(handle);
    let text = page.lines(3);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    let two: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!((two["message"].as_str(), two["upstream"].as_str()), (Some("two"), Some("chat")));
    assert!(lines[1].ends_with("  INFO everlink::log::tests: three upstream=chat misses=3"), "{text}");
    assert!(lines[2].ends_with(": four"), "{text}");
}

#[test]
fn auto_is_text_on_a_terminal_and_json_elsewhere() {
    assert!(!is_json(LogFormat::Auto, true));
    assert!(is_json(LogFormat::Auto, false));
    assert!(is_json(LogFormat::Json, true) && !is_json(LogFormat::Text, false));
}

#[test]
fn a_level_that_is_none_is_told_with_its_cure() {
    let error = build(&settings("lo\nud=x=y", LogFormat::Auto), false, io::sink(), 1).map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("log level \"lo\\nud=x=y\" cannot be used") && text.contains("write error, warn"),
        "{text}"
    );
}

#[test]
fn fields_of_a_stranger_stay_on_their_line() {
    let page = Page::default();
    let (subscriber, handle) = build(&settings("info", LogFormat::Text), false, page.clone(), 100).unwrap();
    let said = "x\n2026-01-01T00:00:00Z ERROR everlink: forged\x1b[31m";
    with_default(subscriber, || {
        let span = tracing::info_span!("link", peer = %said).entered();
        tracing::info!(reason = %said, debug = ?said, "said {said}");
        span.exit();
    });
    drop(handle);
    let text = page.lines(1);
    assert_eq!(text.matches('\n').count(), 1, "{text:?}");
    assert!(!text.contains('\x1b'), "{text:?}");
}

/// The pipe is never read while the events come: they must not wait for it.
#[test]
fn fault_57_a_blocked_pipe_blocks_nobody_and_drops_are_counted() {
    let (mut reader, writer) = io::pipe().unwrap();
    let (subscriber, handle) = build(&info_json(), false, writer, 64).unwrap();
    let dropped = counter();
    handle.count_drops_in(dropped.clone());
    with_default(subscriber, || {
        for n in 0..5000 {
            tracing::info!(n, "a line that soon fits neither the pipe of 64 KiB nor the queue of 64 lines");
        }
    });
    assert!(dropped.get() > 0);
    // Read at last, what was kept comes out whole.
    let drain = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    drop(handle);
    let text = drain.join().unwrap();
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    assert_eq!(text.lines().count() as u64 + dropped.get(), 5000);
}

#[test]
fn fault_57_a_closed_pipe_and_a_full_disk_are_counted_and_survived() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    for output in [Box::new(writer) as Box<dyn Write + Send>, Box::new(full)] {
        let (subscriber, handle) = build(&info_json(), false, output, 64).unwrap();
        with_default(subscriber, || (0..3).for_each(|_| tracing::info!("lost")));
        let dropped = counter();
        until("three failures are seen", || handle.dropped.total() == 3);
        handle.count_drops_in(dropped.clone());
        assert_eq!(dropped.get(), 3, "what was dropped before the counter came is counted too");
    }
}

/// Takes `room` bytes, then refuses until room is made.
struct Disk {
    page: Page,
    room: Arc<AtomicU64>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room.load(Ordering::SeqCst).min(bytes.len() as u64);
        if room == 0 {
            return Err(ErrorKind::StorageFull.into());
        }
        self.room.fetch_sub(room, Ordering::SeqCst);
        self.page.write(&bytes[..room as usize])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn fault_57_a_line_cut_by_a_full_disk_does_not_swallow_the_next() {
    let (page, room) = (Page::default(), Arc::new(AtomicU64::new(6)));
    let dropped = Arc::new(Dropped::default());
    let mut output = Output { to: Disk { page: page.clone(), room: room.clone() }, torn: false, dropped };
    output.write_all(b"one\n").unwrap();
    output.write_all(b"two\n").unwrap();
    output.write_all(b"three\n").unwrap();
    room.store(100, Ordering::SeqCst);
    output.write_all(b"four\n").unwrap();
    assert_eq!((page.text().as_str(), output.dropped.total()), ("one\ntw\nfour\n", 2));
}

/// Not a test of its own: what the child of the next one runs.
#[test]
#[ignore = "run by fault_57_a_process_whose_stdout_is_never_read_ends_in_time"]
fn child_that_logs_to_an_unread_stdout() {
    // To its last byte, so that not even a short line of somebody else's fits.
    let mut pipe = File::options().write(true).custom_flags(libc::O_NONBLOCK).open("/proc/self/fd/1").unwrap();
    while pipe.write(b" ").is_ok() {}
    drop(pipe);
    let handle = init(&info_json()).unwrap();
    for n in 0..50_000 {
        tracing::info!(n, "nobody reads this");
    }
    assert!(handle.dropped.total() > 0);
    drop(handle);
    // Past the test harness, which would wait for the stdout that is blocked.
    std::process::exit(42);
}

#[test]
fn fault_57_a_process_whose_stdout_is_never_read_ends_in_time() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "log::tests::child_that_logs_to_an_unread_stdout", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut code = None;
    let deadline = Instant::now() + Duration::from_secs(20);
    while code.is_none() && Instant::now() < deadline {
        code = child.try_wait().unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    child.wait().unwrap();
    assert_eq!(code.and_then(|code| code.code()), Some(42), "still there, or failed");
}
