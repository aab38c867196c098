//! Many connections at once.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::args::Args;
use crate::measured::{now, since, sleep_ms};
use crate::sockets::{PATIENCE, connect};

/// A connection over which one byte has been there and back.
fn proved(to: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = connect(to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"Ex")?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

/// Opens connections, and holds them until a line comes on stdin; then some must still answer.
pub fn idle(args: &Args) {
    let (to, wanted, most) =
        (args.address("to"), args.count("conns", 5000).min(15_000), args.seconds("max-secs", 120.0));
    std::thread::spawn(move || {
        std::thread::sleep(most);
        std::process::exit(0);
    });
    let (start, mut held, mut fails) = (now(), Vec::with_capacity(wanted), 0);
    while held.len() < wanted && fails < 50 {
        match proved(to) {
            Ok(stream) => held.push(stream),
            Err(_) => {
                fails += 1;
                sleep_ms(20);
            }
        }
    }
    println!("{{\"held\":{},\"fails\":{fails},\"open_s\":{:.3}}}", held.len(), since(start));
    io::stdout().flush().ok();
    io::stdin().read_line(&mut String::new()).ok();
    let sample: Vec<_> = held.iter().step_by((held.len() / 50).max(1)).collect();
    let alive = |mut stream: &TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok();
        stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0])).is_ok()
    };
    let answered = sample.iter().filter(|stream| alive(stream)).count();
    println!("{{\"sampled_alive\":{answered},\"sampled\":{}}}", sample.len());
}

/// More connections than there are descriptors for. Each is served, or closed, or left without either for 5 s.
pub fn flood(args: &Args) {
    let (to, wanted) = (args.address("to"), args.count("conns", 12_000).min(15_000));
    let (mut streams, mut served, mut closed) = (Vec::with_capacity(wanted), 0, 0);
    for _ in 0..wanted {
        match connect(to, PATIENCE) {
            Ok(stream) if (&stream).write_all(b"Ex").is_ok() => streams.push(Some(stream)),
            _ => closed += 1,
        }
    }
    let end = now() + PATIENCE.as_nanos() as u64;
    while served + closed < wanted && now() < end {
        let waiting: Vec<_> = (0..streams.len()).filter(|n| streams[*n].is_some()).collect();
        let mut ready = Vec::with_capacity(waiting.len());
        for n in &waiting {
            ready.extend(streams[*n].as_ref().map(|stream| PollFd::new(stream, PollFlags::IN)));
        }
        if !poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 200_000_000 })).is_ok_and(|count| count > 0) {
            continue;
        }
        let ready: Vec<_> = ready.iter().map(|entry| !entry.revents().is_empty()).collect();
        for (n, _) in waiting.iter().zip(ready).filter(|(_, ready)| *ready) {
            let Some(mut stream) = streams[*n].take() else { continue };
            match stream.read(&mut [0]) {
                Ok(1) => {
                    served += 1;
                    // Held to the end, for it is they who use up the descriptors.
                    std::mem::forget(stream);
                }
                _ => closed += 1,
            }
        }
    }
    println!("{{\"served\":{served},\"refused\":{closed},\"hung\":{}}}", wanted - served - closed);
}
