//! A numbered upload at a steady rate, checked at the far end, a new connection every so often, and some that are held in
//! silence. The lines `cut`, `heal` and `stop` on stdin say when what happens began and ended; all times are of this
//! process's clock.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::args::Args;
use crate::churn;
use crate::held::Held;
use crate::measured::{now, sleep_ms};
use crate::server::word;
use crate::sockets::{PATIENCE, connect, is_timeout, must_connect, spawn};

/// Words written at once.
const CHUNK: u64 = 512;

#[derive(Default)]
struct Told {
    cut: AtomicU64,
    heal: AtomicU64,
    /// Bytes that the local socket took, and that the far end confirmed.
    written: AtomicU64,
    confirmed: AtomicU64,
    mismatches: AtomicU64,
    /// The first confirmation of more bytes after the heal.
    moved: AtomicU64,
    died: AtomicU64,
    /// The writer was told of a reset. Whoever comes first is told, the other hears an end of file.
    was_reset: AtomicBool,
    stop: AtomicBool,
    quit: AtomicBool,
    how: Mutex<Option<String>>,
    probes: Mutex<Vec<Probe>>,
}

struct Probe {
    start: u64,
    end: u64,
    outcome: &'static str,
}

pub fn outcome(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timeout",
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => "reset",
        ErrorKind::UnexpectedEof => "eof",
        _ => "error",
    }
}

pub fn run(args: &Args) {
    let (to, end) = (args.address("to"), now() + args.seconds("max-secs", 90.0).as_nanos() as u64);
    let rate = args.number("rate-mbyte", 4.0) * 1e6;
    let (number, told) = (now() ^ 0x5bd1_e995_0000_0001, Arc::new(Told::default()));
    let stream = Arc::new(must_connect(to));
    let hello = [b"V".as_slice(), &number.to_le_bytes()].concat();
    (&*stream).write_all(&hello).ok();
    stream.set_write_timeout(Some(Duration::from_millis(50))).ok();
    let (reading, hearing) = (stream.clone(), told.clone());
    spawn(move || hear(&reading, &hearing));
    let writing = told.clone();
    let writer = spawn(move || write(&stream, &writing, number, rate, end));
    let probing = told.clone();
    let (every, patience) = (args.number("probe-ms", 200.0) as u64, args.seconds("patience", 3.0));
    let prober = spawn(move || probe(to, &probing, end, every, patience));
    let held: Vec<Held> = (0..args.count("held", 0).min(64)).map(|_| Held::open(to)).collect();
    println!("READY");
    io::stdout().flush().ok();
    let led = told.clone();
    std::thread::spawn(move || obey(&led));
    while !told.quit.load(Relaxed) && now() < end {
        sleep_ms(20);
    }
    let quit = now();
    told.stop.store(true, Relaxed);
    told.quit.store(true, Relaxed);
    let held = Held::ask(held);
    prober.join().ok();
    if told.died.load(Relaxed) == 0 {
        writer.join().ok();
        let until = now() + PATIENCE.as_nanos() as u64;
        let behind = || told.confirmed.load(Relaxed) < told.written.load(Relaxed) && told.died.load(Relaxed) == 0;
        while behind() && now() < until {
            sleep_ms(20);
        }
    }
    println!("{}", summary(&told, ask(to, number).ok(), quit, &held));
    io::stdout().flush().ok();
    std::process::exit(0);
}

/// The far end tells bytes and mismatches in words of 16.
fn hear(mut stream: &TcpStream, told: &Told) {
    let mut pair = [0; 16];
    let how = loop {
        if let Err(error) = stream.read_exact(&mut pair) {
            break error;
        }
        let (bytes, mismatches) = pair.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        told.mismatches.store(number(mismatches), Relaxed);
        let more = told.confirmed.swap(number(bytes), Relaxed) != number(bytes);
        if more && told.heal.load(Relaxed) > 0 && told.moved.load(Relaxed) == 0 {
            told.moved.store(now(), Relaxed);
        }
    };
    told.died.store(now(), Relaxed);
    sleep_ms(100);
    let how = if told.was_reset.load(Relaxed) { "reset" } else { outcome(&how) };
    *told.how.lock().unwrap_or_else(PoisonError::into_inner) = Some(how.to_owned());
}

fn write(mut stream: &TcpStream, told: &Told, number: u64, rate: f64, end: u64) {
    let (mut place, mut waiting, mut credit, mut last) = (0, Vec::new(), 0.0, now());
    while !(told.stop.load(Relaxed) && waiting.is_empty()) && told.died.load(Relaxed) == 0 && now() < end {
        let time = now();
        credit = f64::min(credit + (time - last) as f64 / 1e9 * rate, rate / 20.0);
        last = time;
        if waiting.is_empty() {
            if credit < (CHUNK * 8) as f64 {
                sleep_ms(1);
                continue;
            }
            credit -= (CHUNK * 8) as f64;
            waiting.extend((place..place + CHUNK).flat_map(|place| word(number, place).to_le_bytes()));
            place += CHUNK;
        }
        match stream.write(&waiting) {
            Ok(taken) => {
                waiting.drain(..taken);
                told.written.fetch_add(taken as u64, Relaxed);
            }
            Err(error) if is_timeout(&error) => {}
            // After an end of file it would be a broken pipe.
            Err(error) => return told.was_reset.store(error.kind() == ErrorKind::ConnectionReset, Relaxed),
        }
    }
}

fn probe(to: SocketAddr, told: &Arc<Told>, end: u64, every: u64, patience: Duration) {
    let mut threads = Vec::new();
    while !told.quit.load(Relaxed) && now() < end {
        let told = told.clone();
        threads.push(spawn(move || {
            let start = now();
            let outcome = churn::one(to, patience).map_or_else(|error| outcome(&error), |_| "ok");
            let probe = Probe { start, end: now(), outcome };
            told.probes.lock().unwrap_or_else(PoisonError::into_inner).push(probe);
        }));
        sleep_ms(every);
    }
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

fn obey(told: &Told) {
    for line in io::stdin().lines().map_while(Result::ok) {
        match line.trim() {
            "cut" => told.cut.store(now(), Relaxed),
            "heal" => told.heal.store(now(), Relaxed),
            _ => break,
        }
    }
    told.quit.store(true, Relaxed);
}

/// What the server holds: bytes, mismatches, and when they came again after the longest silence. It runs on this machine,
/// so its clock is ours.
fn ask(to: SocketAddr, number: u64) -> io::Result<[u64; 3]> {
    let mut stream = connect(to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[b"Q".as_slice(), &number.to_le_bytes()].concat())?;
    let mut answer = [[0; 8]; 3];
    stream.read_exact(answer.as_flattened_mut())?;
    Ok(answer.map(u64::from_le_bytes))
}

fn summary(told: &Told, server: Option<[u64; 3]>, quit: u64, held: &[(&'static str, u64)]) -> String {
    let get = |value: &AtomicU64| value.load(Relaxed);
    let (cut, heal, died, written) = (get(&told.cut), get(&told.heal), get(&told.died), get(&told.written));
    let after = |from: u64, at: Option<u64>| {
        at.map_or("null".to_owned(), |at| format!("{:.3}", (at as f64 - from as f64) / 1e9))
    };
    let happened = |at: u64| (at > 0).then_some(at);
    let probes = told.probes.lock().unwrap_or_else(PoisonError::into_inner);
    let first = |wanted: &dyn Fn(&&Probe) -> bool| probes.iter().filter(wanted).map(|probe| probe.end).min();
    let new_ok = first(&|probe| probe.outcome == "ok" && probe.end > heal);
    let failed = first(&|probe| probe.start > cut && !["ok", "timeout"].contains(&probe.outcome));
    let count = |from: u64, until: u64| {
        let mut counts = BTreeMap::new();
        for probe in probes.iter().filter(|probe| (from..until).contains(&probe.start)) {
            *counts.entry(probe.outcome).or_insert(0) += 1;
        }
        counts
    };
    let list = |entries: Vec<String>| entries.join(",");
    let raw = list(probes.iter().map(probed(cut)).collect());
    let held = list(held.iter().map(|(how, at)| format!("[{how:?},{}]", after(cut, happened(*at)))).collect());
    let mismatches = server.map_or(get(&told.mismatches), |[_, mismatches, _]| mismatches);
    let survived = died == 0 && get(&told.confirmed) == written && mismatches == 0;
    format!(
        "{{\"survived\":{survived},\"stream_end\":{:?},\"closed_s\":{},\"arrived_s\":{},\"resumed_s\":{},\"written\":{written},\
         \"confirmed\":{},\"lost\":{},\"mismatches\":{mismatches},\"probe_failed_s\":{},\"new_ok_s\":{},\
         \"probes_during\":{:?},\"probes_after\":{:?},\"heal_s\":{},\"probes\":[{raw}],\"held\":[{held}]}}",
        told.how.lock().unwrap_or_else(PoisonError::into_inner).as_deref().unwrap_or("alive"),
        after(cut, happened(died)),
        after(heal, server.map(|[.., again]| again).filter(|again| *again > heal)),
        after(heal, happened(get(&told.moved))),
        get(&told.confirmed),
        server.map_or("null".to_owned(), |[bytes, ..]| (written as i64 - bytes as i64).to_string()),
        after(cut, failed),
        after(heal, new_ok),
        count(cut, heal),
        count(heal, quit),
        after(cut, happened(heal)),
    )
}

/// A probe as JSON: when it began after the cut, how many seconds it took, how it ended.
fn probed(cut: u64) -> impl Fn(&Probe) -> String {
    let seconds = |from: u64, to: u64| (to as f64 - from as f64) / 1e9;
    move |probe| {
        format!("[{:.3},{:.3},{:?}]", seconds(cut, probe.start), seconds(probe.start, probe.end), probe.outcome)
    }
}
