//! Small requests in a closed loop.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::args::{Args, die};
use crate::measured::{Latencies, now, own_cpu, since};
use crate::sockets::{PATIENCE, is_timeout, must_connect, ping};

const MOST: usize = 8_000_000;

/// One connection, one request after the other. An answer that does not come within 5 s counts as those, and ends it.
pub fn one(to: SocketAddr, time: Duration, latencies: &mut Latencies) {
    let mut stream = must_connect(to);
    stream.set_read_timeout(Some(PATIENCE)).ok();
    stream.write_all(b"E").ok();
    let warm = now() + 50_000_000;
    let end = warm + time.as_nanos() as u64;
    while now() < end && latencies.len() < MOST {
        let start = now();
        match ping(&stream) {
            Ok(()) if start < warm => {}
            Ok(()) => latencies.add(now() - start),
            Err(error) if is_timeout(&error) => return latencies.add(PATIENCE.as_nanos() as u64),
            Err(error) => die(&format!("request: {error}")),
        }
    }
}

/// Many connections, each with one request under way.
fn many(to: SocketAddr, connections: usize, time: Duration, latencies: &mut Latencies) {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap_or_else(|error| die(&format!("epoll: {error}")));
    let streams: Vec<TcpStream> = (0..connections.min(4096)).map(|_| must_connect(to)).collect();
    let message = [7; 64];
    for (n, mut stream) in streams.iter().enumerate() {
        stream.write_all(b"E").ok();
        epoll::add(&poll, stream, epoll::EventData::new_u64(n as u64), epoll::EventFlags::IN).ok();
    }
    let mut sent = vec![now(); streams.len()];
    let mut got = vec![0; streams.len()];
    streams.iter().for_each(|mut stream| drop(stream.write_all(&message)));
    let warm = now() + 200_000_000;
    let end = warm + time.as_nanos() as u64;
    let mut events = Vec::with_capacity(128);
    let mut bytes = [0; 4096];
    while now() < end && latencies.len() < MOST {
        events.clear();
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        if !epoll::wait(&poll, spare_capacity(&mut events), Some(&second)).is_ok_and(|count| count > 0) {
            die("no answer within a second");
        }
        for event in &events {
            let n = event.data.u64() as usize;
            let mut stream = &streams[n];
            match stream.read(&mut bytes) {
                Ok(count) if count > 0 => got[n] += count,
                _ => die("a connection was lost"),
            }
            if got[n] >= message.len() {
                got[n] -= message.len();
                let time = now();
                if time > warm {
                    latencies.add(time - sent[n]);
                }
                sent[n] = time;
                stream.write_all(&message).ok();
            }
        }
    }
}

pub fn run(args: &Args) {
    let (to, connections, time) = (args.address("to"), args.count("conns", 1), args.seconds("secs", 2.0));
    let mut latencies = Latencies::default();
    let (cpu, start) = (own_cpu(), now());
    match connections {
        1 => one(to, time, &mut latencies),
        _ => many(to, connections, time, &mut latencies),
    }
    let rate = latencies.len() as f64 / time.as_secs_f64().min(since(start));
    let (wall, cpu) = (since(start), own_cpu() - cpu);
    println!("{{{},\"per_s\":{rate:.1},\"wall_s\":{wall:.3},\"client_cpu_s\":{cpu:.3}}}", latencies.json());
}
