//! New connections.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::args::Args;
use crate::measured::{Latencies, now, own_cpu, since, sleep_ms};
use crate::sockets::{PATIENCE, connect};

/// Connections of one run, and failures after which a worker gives up.
const MOST: u64 = 40_000;
const FAILURES: u64 = 2000;

/// Connect, a request of 64 bytes, its answer, close: nanoseconds to the connection, and to the first byte.
pub fn one(to: SocketAddr, patience: Duration) -> io::Result<(u64, u64)> {
    let start = now();
    let mut stream = connect(to, patience)?;
    let connected = now() - start;
    stream.set_read_timeout(Some(patience))?;
    let mut request = [9; 65];
    request[0] = b'E';
    stream.write_all(&request)?;
    let mut answer = [0; 64];
    let count = stream.read(&mut answer)?;
    let first = now() - start;
    if count == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    stream.read_exact(&mut answer[count..])?;
    Ok((connected, first))
}

pub fn run(args: &Args) {
    let (to, workers) = (args.address("to"), args.count("workers", 1).min(256));
    let counts = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let (cpu, start) = (own_cpu(), now());
    let end = start + args.seconds("secs", 2.0).as_nanos() as u64;
    let work = |counts: Arc<(AtomicU64, AtomicU64)>| {
        move || {
            let (done, failed) = &*counts;
            let mut latencies = Latencies::default();
            while now() < end && done.fetch_add(1, Relaxed) < MOST {
                match one(to, PATIENCE) {
                    Ok((_, first)) => latencies.add(first),
                    Err(_) if failed.fetch_add(1, Relaxed) > FAILURES => break,
                    Err(_) => sleep_ms(1),
                }
            }
            latencies
        }
    };
    let threads: Vec<_> = (0..workers).map(|_| std::thread::spawn(work(counts.clone()))).collect();
    let mut latencies = Latencies::default();
    threads.into_iter().filter_map(|thread| thread.join().ok()).for_each(|more| latencies.extend(more));
    let (rate, wall) = (latencies.len() as f64 / since(start), since(start));
    println!(
        "{{{},\"per_s\":{rate:.1},\"wall_s\":{wall:.3},\"fails\":{},\"client_cpu_s\":{:.3}}}",
        latencies.json(),
        counts.1.load(Relaxed),
        own_cpu() - cpu
    );
}

/// Time to the first byte: `rounds` times `parallel` connections at once, with a gap between. Tells the congestion control
/// that the connections had, too.
pub fn first(args: &Args) {
    let (to, gap) = (args.address("to"), args.count("gap-ms", 300) as u64);
    let (rounds, parallel) = (args.count("rounds", 8).min(1000), args.count("parallel", 1).min(256));
    let (mut connects, mut firsts, mut fails) = (Latencies::default(), Latencies::default(), 0);
    for _ in 0..rounds {
        let threads: Vec<_> = (0..parallel).map(|_| std::thread::spawn(move || one(to, PATIENCE))).collect();
        for thread in threads {
            if let Ok(Ok((connected, first))) = thread.join() {
                connects.add(connected);
                firsts.add(first);
            } else {
                fails += 1;
            }
        }
        sleep_ms(gap);
    }
    // Apart from them, and from what comes next: it takes one of those connections that a pool keeps ready.
    let control = connect(to, PATIENCE).ok().and_then(|stream| {
        (&stream).write_all(b"E").ok()?;
        rustix::net::sockopt::tcp_congestion(&stream).ok()
    });
    sleep_ms(gap);
    println!(
        "{{\"connect\":{{{}}},\"ttfb\":{{{}}},\"fails\":{fails},\"control\":\"{}\"}}",
        connects.json(),
        firsts.json(),
        control.unwrap_or_default()
    );
}
