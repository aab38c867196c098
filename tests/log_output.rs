//! What the program says of itself: a log that never holds anything up and never tells a secret.

#[path = "program/harness.rs"]
mod harness;
#[path = "../src/port.rs"]
mod port;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use harness::{EVERLINK, Echo, Flow, Place, Program, eventually, exchange, free_port, one, text, top, upstream};

const DROPPED: &str = "everlink_log_dropped_total";

fn talkative(echo: &Echo) -> (Place, Command, SocketAddr) {
    let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let place = Place::new(&format!(
        "http.listen = \"{http}\"\nlog.level = \"trace\"\ndrain = {{ timeout = \"5s\", quiet = \"100ms\" }}\n{}",
        upstream("a", "127.0.0.1:0", echo.address, "200ms", "")
    ));
    let mut command = Command::new(EVERLINK);
    command.arg("--config").arg(place.config());
    (place, command, http)
}

/// Clients until lines were dropped, each served as if nothing were the matter.
fn drop_lines(program: &mut Program) {
    program.until_up("a");
    let address = program.listens("a");
    let flow = Flow::start(address);
    let began = Instant::now();
    while program.metric(DROPPED).expect("there") < 50.0 {
        assert!(began.elapsed() < 3 * harness::PATIENCE, "no line was dropped");
        for _ in 0..100 {
            let asked = Instant::now();
            assert_eq!(exchange(address, b"hello").expect("carried"), b"hello");
            assert!(asked.elapsed() < Duration::from_secs(5), "held up for {:?}", asked.elapsed());
        }
        flow.until_moved(10_000);
    }
    assert_eq!(program.get("/livez").0, 200);
    flow.end().expect("whole");
    program.place.replace(&std::fs::read_to_string(program.place.config()).expect("read").replace("200ms", "300ms"));
    program.until_metric("everlink_heartbeat_interval_seconds{upstream=\"a\"}", 0.3);
    let began = Instant::now();
    program.signal("TERM");
    assert!(program.ended().success());
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[test]
fn fault_57_an_output_that_nobody_reads_holds_nothing_up() {
    let echo = Echo::start();
    let (place, command, http) = talkative(&echo);
    // Held open, never read.
    let (_unread, pipe) = std::io::pipe().expect("a pipe");
    let mut program = Program::start_mute(place, command, Stdio::from(pipe), http);
    drop_lines(&mut program);
}

#[test]
fn fault_57_an_output_whose_reader_has_gone_holds_nothing_up() {
    let echo = Echo::start();
    let (place, command, http) = talkative(&echo);
    let (reader, pipe) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut program = Program::start_mute(place, command, Stdio::from(pipe), http);
    drop_lines(&mut program);
}

#[test]
fn fault_57_a_full_disk_holds_nothing_up() {
    let echo = Echo::start();
    let (place, command, http) = talkative(&echo);
    let full = File::options().write(true).open("/dev/full").expect("opened");
    let mut program = Program::start_mute(place, command, Stdio::from(full), http);
    drop_lines(&mut program);
}

#[test]
fn fault_57_without_any_output_it_runs() {
    let echo = Echo::start();
    let (place, _, http) = talkative(&echo);
    let mut command = Command::new("sh");
    command.arg("-c").arg("exec \"$0\" --config \"$1\" <&- >&- 2>&-").arg(EVERLINK).arg(place.config());
    let mut program = Program::start_mute(place, command, Stdio::null(), http);
    program.until_up("a");
    let address = program.listens("a");
    for _ in 0..50 {
        assert_eq!(exchange(address, b"hello").expect("carried"), b"hello");
    }
    program.signal("TERM");
    assert!(program.ended().success());
}

#[test]
fn every_line_is_one_event_in_json() {
    let echo = Echo::start();
    let mut program =
        Program::start(&format!("log.level = \"trace\"\ndrain.quiet = \"100ms\"\n{}", one(echo.address, "")));
    program.until_up("a");
    exchange(program.listens("a"), b"hello").expect("carried");
    program.place.replace("no TOML at all\nin two lines\n");
    eventually("told", || program.logged("rejected") == 1);
    eventually("told", || program.logged("connection closed") == 1);
    let closed = program.log().into_iter().find(|line| line.contains("connection closed")).expect("there");
    let closed: serde_json::Value = serde_json::from_str(&closed).expect("JSON");
    assert_eq!((&closed["upstream"], &closed["level"]), (&"a".into(), &"DEBUG".into()), "{closed}");
    for key in ["endpoint", "reason", "duration"] {
        assert!(closed[key].is_string(), "{key}: {closed}");
    }
    program.signal("TERM");
    assert!(program.ended().success());
    for line in program.log() {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["timestamp", "level", "message"] {
            assert!(event[key].is_string(), "{key}: {line}");
        }
    }
    assert!(program.errors().is_empty(), "{:?}", program.errors());
}

/// Answers the first bytes of each connection with these.
fn answering(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(answer);
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
    });
    address
}

#[test]
fn what_a_peer_says_is_escaped_wherever_it_shows() {
    let server = answering(b"\x1b[2J\r\n{\"level\":\"INFO\"}\n\xff\0 owned");
    let program = Program::start(&one(server, "retry = { initial = \"50ms\", max = \"100ms\" }"));
    eventually("told", || program.logged("wrong answer") > 0);
    let mut shown = program.log().join("\n");
    for path in ["/status", "/metrics", "/status?config"] {
        shown += &program.get(path).1;
    }
    let table = Command::new(EVERLINK).args(["status", "--url", &program.url()]).output().expect("run");
    shown += &text(&table);
    assert!(shown.contains("owned") || shown.contains("2J"), "what it said is shown: {shown}");
    let raw = |c: char| c.is_control() && c != '\n';
    assert!(!shown.contains(raw), "{:?}", shown.chars().filter(|c| raw(*c)).collect::<String>());
    for line in program.log() {
        serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

const CANARY: &str = "canary4711zebra";

fn with_secret(place: Place) -> Program {
    let mut command = Command::new(EVERLINK);
    command.arg("--config").arg(place.config()).env("EVERLINK_SECRET", CANARY);
    Program::start_as(place, command)
}

#[test]
fn a_secret_from_a_variable_is_never_shown() {
    let beat = |endpoint: SocketAddr, more: &str| {
        format!(
            "log.level = \"trace\"\n{}[upstreams.a]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"{endpoint}\"]\nretry.max = \"800ms\"\n\
             heartbeat = {{ interval = \"200ms\", timeout = \"200ms\", send = 'AUTH ${{EVERLINK_SECRET}}\\n', expect = '${{EVERLINK_SECRET}}'{more} }}\n",
            top()
        )
    };
    // A server that gives it away, one that does not, and one that is not there.
    let echo = Echo::start();
    let place = Place::new(&beat(answering(b"canary4711zebra\n"), ""));
    let mut program = with_secret(place);
    program.until_up("a");
    let checked = Command::new(EVERLINK)
        .args(["check", "--against", &program.url()])
        .arg(program.place.config())
        .env("EVERLINK_SECRET", CANARY)
        .output()
        .expect("run");
    assert!(checked.status.success(), "{checked:?}");
    let mut shown = text(&checked);
    let look = |program: &Program| {
        ["/status", "/status?config", "/metrics", "/", "/readyz?verbose"].map(|path| program.get(path).1).concat()
    };
    shown += &look(&program);
    program.place.replace(&beat(echo.address, ", misses = 2"));
    eventually("applied", || program.reloads("applied") == 1.0);
    eventually("told", || program.logged("wrong answer") > 0);
    shown += &look(&program);
    program.place.replace(&beat(SocketAddr::from(([127, 0, 0, 1], free_port())), ""));
    eventually("applied", || program.reloads("applied") == 2.0);
    shown += &look(&program);
    // Where it makes no sense, it is part of a message.
    let places = [
        ("interval = \"200ms\"", "interval = \"${EVERLINK_SECRET}\""),
        ("retry.max = \"800ms\"", "pool.size = \"${EVERLINK_SECRET}\""),
        ("retry.max = \"800ms\"", "balance = \"${EVERLINK_SECRET}\""),
        ("retry.max = \"800ms\"", "required = \"${EVERLINK_SECRET}\""),
        ("retry.max = \"800ms\"", "tls = { ca_file = \"/${EVERLINK_SECRET}\" }"),
        ("retry.max = \"800ms\"", "tls = { server_name = \"${EVERLINK_SECRET} x\" }"),
        ("log.level = \"trace\"", "log.level = \"${EVERLINK_SECRET}\""),
        ("log.level = \"trace\"", "admin.socket = \"${EVERLINK_SECRET}\""),
        ("listen = \"127.0.0.1:0\"\nend", "listen = \"${EVERLINK_SECRET}\"\nend"),
        ("expect = '$", "expect = 're:($"),
        ("endpoints = [\"", "endpoints = [\"${EVERLINK_SECRET} \", \""),
    ];
    let good = beat(echo.address, "");
    for (n, (old, new)) in places.into_iter().enumerate() {
        assert!(good.contains(old), "{old}");
        program.place.replace(&good.replacen(old, new, 1));
        eventually(new, || program.reloads("rejected") == (n + 1) as f64);
        let checked =
            Command::new(EVERLINK).arg("check").arg(program.place.config()).env("EVERLINK_SECRET", CANARY).output();
        let checked = checked.expect("run");
        assert_eq!(checked.status.code(), Some(78), "{new}");
        shown += &text(&checked);
    }
    shown += &look(&program);
    program.signal("TERM");
    program.ended();
    shown += &program.log().concat();
    shown += &program.errors().concat();
    let line = shown.lines().find(|line| line.contains(CANARY));
    assert!(line.is_none(), "{line:?}");
    assert!(shown.contains("EVERLINK_SECRET"), "the variable's name is told");
}

#[test]
fn fault_45_the_timestamps_of_the_metrics_are_of_this_moment() {
    let echo = Echo::start();
    let began = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let program = Program::start(&one(echo.address, ""));
    program.until_links("a", 2.0);
    program.place.replace(&one(echo.address, "pool.size = 3"));
    eventually("applied", || program.reloads("applied") == 1.0);
    let body = program.get("/metrics").1;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let stamps: Vec<_> = body
        .lines()
        .filter(|line| !line.starts_with('#') && line.contains("_timestamp_seconds"))
        .filter(|line| !line.contains("not_after"))
        .collect();
    assert!(stamps.len() >= 3, "{stamps:?}");
    for line in stamps {
        let value: f64 = line.rsplit_once(' ').expect("a value").1.parse().expect("a number");
        assert!((began - 1.0..=now + 1.0).contains(&value), "{line}, between {began} and {now}");
    }
}

#[test]
fn fault_63_fifty_slow_scrapes_disturb_nobody() {
    let echo = Echo::start();
    let many: String =
        (0..300).map(|n| upstream(&format!("u{n}"), "127.0.0.1:0", echo.address, "5s", "pool.size = 1")).collect();
    let program = Program::start(&format!("{}{many}", top()));
    eventually("up", || program.sum("everlink_links", "state=\"up\"") == 300.0);
    let address = program.listens("u7");
    let flow = Flow::start(address);
    let resident = |id: u32| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("read");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("there");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    let before = resident(program.id());
    let scrapes: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(program.http()).expect("connected");
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
            stream
        })
        .collect();
    flow.until_moved(500_000);
    let asked = Instant::now();
    assert_eq!(program.get("/livez").0, 200);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    // A whole answer has more than 1 MiB: four of them, and what the kernel takes, is all there may be.
    let grown = resident(program.id()).saturating_sub(before);
    assert!(grown < 40 * 1024, "grew by {grown} KiB");
    drop(scrapes);
    eventually("served again", || program.get("/metrics").0 == 200);
    flow.end().expect("whole");
}
