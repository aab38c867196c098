//! Streams that move as many bytes as they can.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::args::Args;
use crate::measured::{now, own_cpu, since};
use crate::sockets::{discard, end, is_timeout, must_connect, spawn};

/// An upload that moved this much has filled every buffer on the way, and must have heard of progress.
const HEARD_AFTER: u64 = 4 << 20;

#[derive(Default)]
struct Counts {
    /// Delivered: read (down), or told by the server (up).
    seen: AtomicU64,
    /// When that last moved.
    at: AtomicU64,
    /// Up: taken by the local socket.
    sent: AtomicU64,
    stop: AtomicBool,
}

/// What a stream had moved at one moment.
#[derive(Clone, Copy)]
pub struct Moved {
    seen: u64,
    at: u64,
    sent: u64,
}

/// A stream in the background.
pub struct Bulk {
    stream: Arc<TcpStream>,
    counts: Arc<Counts>,
    up: bool,
    threads: Vec<JoinHandle<()>>,
}

impl Bulk {
    pub fn start(to: SocketAddr, up: bool) -> Self {
        let stream = Arc::new(must_connect(to));
        (&*stream).write_all(if up { b"U" } else { b"D" }).ok();
        stream.set_write_timeout(Some(Duration::from_millis(200))).ok();
        let counts = Arc::new(Counts { at: AtomicU64::new(now()), ..Counts::default() });
        let start = |work: fn(&TcpStream, &Counts)| {
            let (stream, counts) = (stream.clone(), counts.clone());
            spawn(move || work(&stream, &counts))
        };
        let threads = if up { vec![start(write), start(hear)] } else { vec![start(read)] };
        Self { stream, counts, up, threads }
    }

    pub fn moved(&self) -> Moved {
        let counts = &self.counts;
        Moved { seen: counts.seen.load(Relaxed), at: counts.at.load(Relaxed), sent: counts.sent.load(Relaxed) }
    }

    /// GB a second delivered since then, to the last movement.
    pub fn rate_since(&self, before: Moved) -> f64 {
        let after = self.moved();
        if after.at > before.at { (after.seen - before.seen) as f64 / (after.at - before.at) as f64 } else { 0.0 }
    }

    fn bytes_since(&self, before: Moved) -> u64 {
        let after = self.moved();
        if self.up { after.sent - before.sent } else { after.seen - before.seen }
    }

    pub fn end(self) {
        self.counts.stop.store(true, Relaxed);
        end(&self.stream);
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

fn write(mut stream: &TcpStream, counts: &Counts) {
    let bytes = vec![0x5A; 256 * 1024];
    while !counts.stop.load(Relaxed) {
        match stream.write(&bytes) {
            Ok(taken) => drop(counts.sent.fetch_add(taken as u64, Relaxed)),
            Err(error) if is_timeout(&error) => {}
            Err(_) => return,
        }
    }
}

/// The server tells its total in words of 8 bytes.
fn hear(mut stream: &TcpStream, counts: &Counts) {
    let mut word = [0; 8];
    while stream.read_exact(&mut word).is_ok() && !counts.stop.load(Relaxed) {
        counts.seen.store(u64::from_le_bytes(word), Relaxed);
        counts.at.store(now(), Relaxed);
    }
}

fn read(stream: &TcpStream, counts: &Counts) {
    let mut room = vec![0; 1 << 20];
    while !counts.stop.load(Relaxed) {
        let taken = discard(stream, &mut room);
        if taken == 0 {
            return;
        }
        counts.seen.fetch_add(taken as u64, Relaxed);
        counts.at.store(now(), Relaxed);
    }
}

/// `bytes` and the processor time that goes with it are of the whole run, warming up included.
pub fn throughput(args: &Args) {
    let (to, up) = (args.address("to"), args.text("dir", "down") == "up");
    let (cpu, start) = (own_cpu(), now());
    let streams: Vec<_> = (0..args.count("streams", 1).min(1024)).map(|_| Bulk::start(to, up)).collect();
    std::thread::sleep(args.seconds("warm", 0.3));
    let (before, began) = (streams.iter().map(Bulk::moved).collect::<Vec<_>>(), now());
    std::thread::sleep(args.seconds("secs", 2.0));
    let took = (now() - began) as f64;
    let window = || streams.iter().zip(before.iter().copied());
    let moved: Vec<u64> = window().map(|(stream, before)| stream.bytes_since(before)).collect();
    let delivered: f64 = window().map(|(stream, before)| stream.rate_since(before)).sum();
    let silent = |(stream, before): (&Bulk, Moved)| up && stream.moved().seen == before.seen;
    let unheard = window().zip(&moved).filter(|(pair, moved)| **moved >= HEARD_AFTER && silent(*pair)).count();
    let idle = moved.iter().filter(|moved| **moved == 0).count();
    let rate = if up { moved.iter().sum::<u64>() as f64 / took } else { delivered };
    let bytes: u64 = streams.iter().map(|stream| stream.moved()).map(|moved| moved.seen.max(moved.sent)).sum();
    println!(
        "{{\"gbps\":{rate:.4},\"acked_gbps\":{delivered:.4},\"bytes\":{bytes},\"wall_s\":{:.3},\"idle_streams\":{idle},\
         \"unheard_streams\":{unheard},\"client_cpu_s\":{:.3}}}",
        since(start),
        own_cpu() - cpu
    );
    std::io::stdout().flush().ok();
    streams.into_iter().for_each(Bulk::end);
}
