//! Counts the instructions of the hot paths under callgrind, and holds them against `instructions.toml`. Run by
//! `tests/bench/instructions`.
//!
//! Each part is a process of its own, `instructions --part NAME` under valgrind; only what happens in [`counted`] is
//! counted, not what prepares it. Counts do not waver with the machine's load, as times do. They do depend on the compiler.

mod pair;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use everlink::config::{self, Upstream};
use everlink::direct::beat::{Dialogue, Heard};
use everlink::http::openmetrics;
use everlink::http::request::Request;
use everlink::link::heartbeat::{Heartbeat, Verdict};
use everlink::metrics::Metrics;
use everlink::session::Opening;
use everlink::session::frame::Kind;
use pair::{Pair, carry, drain, fill, frame, receive};
use serde::{Deserialize, Serialize};

/// A window's first size: a frame that a fresh stream may send.
const FRAME: usize = 16 * 1024;

type Work = Box<dyn FnMut()>;

/// A hot path: what is counted, how often it is done then, and the preparation that ends in the work itself.
struct Part {
    name: &'static str,
    about: &'static str,
    times: u64,
    prepare: fn(u64) -> Work,
}

const PARTS: &[Part] = &[
    Part {
        name: "data_in",
        about: "a DATA frame of 16 KiB arrives, is passed on and given credit",
        times: 1000,
        prepare: data_in,
    },
    Part {
        name: "data_out",
        about: "16 KiB are read, framed, sent, acknowledged and given credit",
        times: 1000,
        prepare: data_out,
    },
    Part { name: "ack", about: "an ACK of one small frame arrives", times: 1000, prepare: ack },
    Part {
        name: "request_stream",
        about: "a stream opens, carries 64 bytes each way and ends, at both ends",
        times: 1000,
        prepare: request_stream,
    },
    Part {
        name: "many_streams",
        about: "1,000 streams with a small frame each, at both ends: one of them",
        times: 1000,
        prepare: many_streams,
    },
    Part {
        name: "tunnel_beat",
        about: "a PING, its PONG and what they acknowledge, at both ends",
        times: 1000,
        prepare: tunnel_beat,
    },
    Part { name: "direct_beat", about: "a beat falls due, is sent and answered", times: 1000, prepare: direct_beat },
    Part { name: "replay", about: "a session resumes and sends 8 MiB again", times: 1, prepare: replay },
    Part { name: "metrics", about: "/metrics of 100 upstreams", times: 1, prepare: metrics },
    Part { name: "http_request", about: "the head of a scrape is read", times: 1000, prepare: http_request },
    Part {
        name: "config",
        about: "a configuration of 100 upstreams is read and checked",
        times: 1,
        prepare: config_of_a_hundred,
    },
];

fn data_in(times: u64) -> Work {
    let mut pair = Pair::default();
    let stream = pair.open();
    let bytes = frame(stream, Kind::Data, &[0x5a; FRAME]);
    Box::new(move || {
        for _ in 0..times {
            receive(&mut pair.far, &bytes, pair.now);
            drain(&mut pair.far, pair.now);
        }
    })
}

fn data_out(times: u64) -> Work {
    let mut pair = Pair::default();
    let stream = pair.open();
    let credit = frame(stream, Kind::Credit, &(FRAME as u32).to_le_bytes());
    Box::new(move || {
        for _ in 0..times {
            assert_eq!(fill(&mut pair.near, stream, FRAME), FRAME);
            drain(&mut pair.near, pair.now);
            let (written, _) = pair.near.written();
            receive(&mut pair.near, &frame(0, Kind::Ack, &written.to_le_bytes()), pair.now);
            receive(&mut pair.near, &credit, pair.now);
        }
    })
}

fn ack(times: u64) -> Work {
    let mut pair = Pair::default();
    let stream = pair.open();
    let before = pair.near.written().0;
    let acks: Vec<_> = (0..times).map(|n| frame(0, Kind::Ack, &(before + 9 * (n + 1)).to_le_bytes())).collect();
    for _ in 0..times {
        assert_eq!(fill(&mut pair.near, stream, 1), 1);
    }
    drain(&mut pair.near, pair.now);
    Box::new(move || {
        for ack in &acks {
            receive(&mut pair.near, ack, pair.now);
        }
        assert_eq!(pair.near.unacknowledged(), 0);
    })
}

fn request_stream(times: u64) -> Work {
    let mut pair = Pair::default();
    Box::new(move || {
        for _ in 0..times {
            let now = pair.now;
            let stream = pair.near.open(Opening::to("postgres"), (), now).expect("room for a stream");
            // The request goes along with OPEN.
            pair.near.emit(pair::ROOM, now);
            fill(&mut pair.near, stream, 64);
            pair.carry_far();
            fill(&mut pair.far, stream, 64);
            pair.carry_near();
            pair.near.finish(stream);
            pair.carry_far();
            pair.far.finish(stream);
            pair.carry_near();
            assert!(pair.near.is_finished(stream) && pair.far.is_finished(stream));
            pair.near.release(stream);
            pair.far.release(stream);
        }
    })
}

fn many_streams(times: u64) -> Work {
    let mut pair = Pair::default();
    let streams: Vec<_> = (0..times).map(|_| pair.open()).collect();
    Box::new(move || {
        for stream in &streams {
            fill(&mut pair.near, *stream, 512);
        }
        pair.carry_far();
        pair.carry_near();
    })
}

fn tunnel_beat(times: u64) -> Work {
    let mut pair = Pair::default();
    Box::new(move || {
        for clock in 0..times {
            pair.wait(Duration::from_secs(5));
            pair.near.ping(clock);
            pair.carry_far();
            pair.carry_near();
        }
    })
}

fn direct_beat(times: u64) -> Work {
    let upstream = upstreams(1).remove(0);
    let start = Instant::now();
    let mut heartbeat = Heartbeat::new(&upstream.heartbeat, start, &mut fastrand::Rng::with_seed(1));
    let mut dialogue = Dialogue::new(upstream.heartbeat.beat.clone());
    Box::new(move || {
        for _ in 0..times {
            let now = heartbeat.next_deadline();
            assert_eq!(heartbeat.tick(now, || None), Verdict::Beat);
            black_box(dialogue.beat());
            heartbeat.sent(now);
            assert_eq!(dialogue.received(b"pong"), Heard::Answered);
            heartbeat.answered(now + Duration::from_millis(1));
        }
    })
}

fn replay(_: u64) -> Work {
    let mut pair = Pair::default();
    pair.near.set_rtt(Duration::from_millis(50));
    let stream = pair.open();
    let before = pair.near.acknowledged();
    receive(&mut pair.near, &frame(stream, Kind::Credit, &(16_u32 << 20).to_le_bytes()), pair.now);
    let mut sent = 0;
    while sent < 8 << 20 {
        match fill(&mut pair.near, stream, 1 << 18) {
            0 => break,
            count => sent += count,
        }
        drain(&mut pair.near, pair.now);
    }
    Box::new(move || {
        let again = pair.near.resume(before, 0).expect("all is kept");
        assert!(again > 7 << 20, "{again}");
        let mut told = 0;
        loop {
            // As much as a socket takes at once.
            let count = black_box(pair.near.next()).len().min(1 << 16);
            if count == 0 {
                break;
            }
            pair.near.sent(count);
            told += count as u64;
        }
        assert_eq!(told, again);
        carry(&mut pair.far, &mut pair.near, pair.now);
    })
}

fn metrics(_: u64) -> Work {
    let metrics = Metrics::new().expect("metrics");
    let handles: Vec<_> = upstreams(100).iter().map(|upstream| metrics.upstream(upstream)).collect();
    Box::new(move || {
        let text = openmetrics::encode(&metrics.gather());
        assert!(black_box(text).len() > 100_000 && handles.len() == 100);
    })
}

fn http_request(times: u64) -> Work {
    let head = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9900\r\nUser-Agent: Prometheus/2.42.0\r\n\
        Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n\
        Accept-Encoding: gzip\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n";
    Box::new(move || {
        for _ in 0..times {
            assert!(black_box(Request::parse(black_box(head))).is_ok());
        }
    })
}

fn config_of_a_hundred(_: u64) -> Work {
    let text = text_of(100);
    Box::new(move || {
        let loaded = config::parse("bench.toml", &text, &|_| None);
        assert!(loaded.is_ok_and(|loaded| loaded.config.upstreams.len() == 100));
    })
}

fn text_of(upstreams: usize) -> String {
    let mut text = String::new();
    for n in 0..upstreams {
        let _ = write!(
            text,
            "[upstreams.u{n}]\nlisten = \"127.0.0.1:{}\"\nendpoints = [\"u{n}.internal:8080\"]\n\
             heartbeat = {{ interval = \"5s\", send = \"ping\", expect = \"pong\" }}\npool = {{ size = 2 }}\n",
            7000 + n
        );
    }
    text
}

fn upstreams(count: usize) -> Vec<std::sync::Arc<Upstream>> {
    let loaded = config::parse("bench.toml", text_of(count), &|_| None).expect("a sound configuration");
    loaded.config.upstreams.into_values().collect()
}

/// All that is counted happens in here; callgrind knows it by its name.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    black_box(());
}

/// What is promised, in instructions each time.
#[derive(Debug, Serialize, Deserialize)]
struct Bounds {
    /// Compiler that they were counted with.
    rustc: String,
    /// Percent above, with that compiler and with any other.
    allowed: f64,
    allowed_other_rustc: f64,
    counts: BTreeMap<String, u64>,
}

const HEAD: &str = "\
# Instructions of the hot paths, each time they are done. `tests/bench/instructions` counts them under callgrind and fails
# when one has more than is allowed here. After a change that is worth its price: tests/bench/instructions --renew
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["--part", name] => run(name).map(|()| true),
        [] => check(false),
        ["--renew"] => check(true),
        _ => Err("usage: tests/bench/instructions [--renew]".to_owned()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tests/bench/instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str) -> Result<(), String> {
    let part = PARTS.iter().find(|part| part.name == name).ok_or("no such part")?;
    let mut work = (part.prepare)(part.times);
    counted(&mut *work);
    Ok(())
}

/// Counts every part. `false`: one has grown too much.
fn check(renew: bool) -> Result<bool, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/instructions.toml");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut bounds: Bounds = toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let rustc = rustc()?;
    let allowed = if rustc == bounds.rustc { bounds.allowed } else { bounds.allowed_other_rustc };
    println!("instructions each time, with rustc {rustc} (the bounds: {}; {allowed} % more allowed)", bounds.rustc);
    let mut good = true;
    let mut counts = BTreeMap::new();
    for part in PARTS {
        let count = count(part)?;
        let bound = bounds.counts.get(part.name).copied();
        let change = bound.map_or(0.0, |bound| (count as f64 / bound as f64 - 1.0) * 100.0);
        let verdict = match bound {
            None => "no bound",
            Some(_) if change > allowed => "TOO MANY",
            Some(_) => "",
        };
        good &= verdict.is_empty();
        println!("  {:15} {count:>11} {change:>+7.1} %  {verdict:8}  {}", part.name, part.about);
        counts.insert(part.name.to_owned(), count);
    }
    if renew {
        (bounds.counts, bounds.rustc) = (counts, rustc);
        let body = toml::to_string(&bounds).map_err(|error| error.to_string())?;
        std::fs::write(&path, format!("{HEAD}\n{body}")).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("renewed {}", path.display());
        return Ok(true);
    }
    if !good {
        println!("A hot path has become dearer. If that is meant, renew the bounds: tests/bench/instructions --renew");
    }
    Ok(good)
}

/// Instructions of one time.
fn count(part: &Part) -> Result<u64, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let out: PathBuf = std::env::temp_dir().join(format!("everlink-callgrind-{}-{}", std::process::id(), part.name));
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*instructions*counted*", "--error-exitcode=1"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(own)
        .args(["--part", part.name])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let told = std::fs::read_to_string(&out);
    let _ = std::fs::remove_file(&out);
    if !run.status.success() {
        return Err(format!("{} failed under valgrind: {}", part.name, String::from_utf8_lossy(&run.stderr)));
    }
    let told = told.map_err(|error| format!("{}: {error}", out.display()))?;
    let total = told.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<u64>().ok());
    match total.map(|total| total / part.times) {
        Some(count @ 1..) => Ok(count),
        _ => Err(format!("{}: callgrind counted nothing; is `counted` still there by its name?", part.name)),
    }
}

/// Its version alone.
fn rustc() -> Result<String, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let run = Command::new(rustc).arg("--version").output().map_err(|error| format!("rustc: {error}"))?;
    let text = String::from_utf8_lossy(&run.stdout);
    text.split_whitespace().nth(1).map(str::to_owned).ok_or_else(|| "rustc tells no version".to_owned())
}
