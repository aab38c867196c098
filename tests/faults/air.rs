//! A long and bad way between two namespaces: packets pass through this process, which holds, reorders, doubles and spoils
//! them. A TUN device in each namespace (package socat) and a datagram socket for each end.
#![allow(dead_code)] // each test binary uses its own part

use std::collections::BinaryHeap;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::net::{Namespace, Net, until};
use super::program::Process;
use crate::common::PATIENCE;
use crate::common::program::{directory, program};

/// How often a thread that waits looks whether it should end.
const LOOK: Duration = Duration::from_millis(20);
/// The delay wanders from its mean to either side and back in this time.
const WANDERS: f64 = 3.0;
/// What a reordered packet is late.
const LATE: Duration = Duration::from_millis(15);

/// What happens to packets; shares in thousandths.
#[derive(Default)]
struct Weather {
    /// Of one direction, in milliseconds: the mean, and how far from it.
    delay: AtomicU64,
    jitter: AtomicU64,
    late: AtomicU32,
    twice: AtomicU32,
    spoilt: AtomicU32,
    counts: [AtomicU64; 4],
    stop: AtomicBool,
}

/// What happened so far, both directions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub late: u64,
    pub twice: u64,
    pub spoilt: u64,
}

/// The way between `a` and `b` of a [`Net`]. Ends when dropped.
pub struct Air {
    weather: Arc<Weather>,
    threads: Vec<JoinHandle<()>>,
    _ends: [Process; 2],
    _directory: TempDir,
}

/// Packets on their way in one direction.
#[derive(Default)]
struct Queue {
    packets: Mutex<BinaryHeap<Packet>>,
    came: Condvar,
}

struct Packet {
    due: Instant,
    /// Of those due at once the first goes first.
    number: u64,
    bytes: Vec<u8>,
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Packet {}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packet {
    /// What is due first is the greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl Air {
    /// Two namespaces joined by nothing but this: 10.77.0.1 and 10.77.0.2, as those of [`Net::new`].
    pub fn net() -> (Net, Self) {
        let net = Net { a: Namespace::new("a"), b: Namespace::new("b") };
        let directory = directory();
        let weather = Arc::<Weather>::default();
        let sockets = ["a", "b"].map(|end| {
            let socket = UnixDatagram::bind(directory.path().join(format!("air-{end}"))).expect("bound");
            socket.set_read_timeout(Some(LOOK)).expect("set");
            let _ = socket2::SockRef::from(&socket).set_send_buffer_size(4 << 20);
            socket
        });
        let ends = [(&net.a, "a", "10.77.0.1/24"), (&net.b, "b", "10.77.0.2/24")]
            .map(|(namespace, end, address)| device(namespace, directory.path(), end, address));
        let mut threads = Vec::new();
        for (from, to, name) in [(0, 1, "b"), (1, 0, "a")] {
            let queue = Arc::<Queue>::default();
            let (socket, held, how) = (sockets[from].try_clone().expect("cloned"), queue.clone(), weather.clone());
            threads.push(std::thread::spawn(move || take(&socket, &held, &how)));
            let (socket, path) = (sockets[to].try_clone().expect("cloned"), directory.path().join(name));
            let how = weather.clone();
            threads.push(std::thread::spawn(move || pass(&socket, &path, &queue, &how)));
        }
        (net, Self { weather, threads, _ends: ends, _directory: directory })
    }

    /// From now on: the round trip, and how far it wanders from that.
    pub fn delay(&self, round_trip: Duration, jitter: Duration) {
        self.weather.delay.store(round_trip.as_millis() as u64 / 2, Ordering::SeqCst);
        self.weather.jitter.store(jitter.as_millis() as u64 / 2, Ordering::SeqCst);
    }

    /// From now on so many packets of a thousand come late, come twice, and come with a bit turned over.
    pub fn spoil(&self, late: u32, twice: u32, spoilt: u32) {
        self.weather.late.store(late, Ordering::SeqCst);
        self.weather.twice.store(twice, Ordering::SeqCst);
        self.weather.spoilt.store(spoilt, Ordering::SeqCst);
    }

    pub fn counts(&self) -> Counts {
        let [passed, late, twice, spoilt] = self.weather.counts.each_ref().map(|count| count.load(Ordering::SeqCst));
        Counts { passed, late, twice, spoilt }
    }
}

impl Drop for Air {
    fn drop(&mut self) {
        self.weather.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A device `wire` whose packets go to the socket `air-END` in `directory` and come from it.
fn device(namespace: &Namespace, directory: &Path, end: &str, address: &str) -> Process {
    let path = |name: &str| directory.join(name).display().to_string();
    let mut command = namespace.command(program("socat").to_str().expect("a path in UTF-8"));
    command.arg(format!("TUN:{address},tun-name=wire,iff-no-pi,iff-up"));
    command.arg(format!("UNIX-SENDTO:{},bind={}", path(&format!("air-{end}")), path(end)));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let process = Process::new(command.spawn().expect("started (package iproute2)"));
    until("the device is there", PATIENCE, || {
        namespace.run(|| std::net::UdpSocket::bind((address.split('/').next().unwrap_or_default(), 0)).is_ok())
    });
    process
}

fn take(socket: &UnixDatagram, queue: &Queue, weather: &Weather) {
    let (mut random, began) = (fastrand::Rng::new(), Instant::now());
    let (mut last, mut number) = (began, 0);
    let mut buffer = vec![0; 64 * 1024];
    let count = |n: usize| weather.counts[n].fetch_add(1, Ordering::SeqCst);
    while !weather.stop.load(Ordering::SeqCst) {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let mut bytes = buffer[..length].to_vec();
        let mut happens = |share: &AtomicU32| random.u32(0..1000) < share.load(Ordering::SeqCst);
        let (late, twice, spoilt) = (happens(&weather.late), happens(&weather.twice), happens(&weather.spoilt));
        if spoilt {
            count(3);
            // The first byte says which protocol it is: a device does not take what is of none.
            let at = random.usize(1..length);
            bytes[at] ^= 1 << random.u8(0..8);
        }
        let now = Instant::now();
        let wave = ((now - began).as_secs_f64() / WANDERS * std::f64::consts::TAU).sin();
        let [mean, jitter] = [&weather.delay, &weather.jitter].map(|delay| delay.load(Ordering::SeqCst) as f64);
        // A way that becomes shorter does not let packets overtake each other by itself.
        let mut due = (now + Duration::from_secs_f64((mean + jitter * wave) / 1000.0)).max(last);
        if late {
            count(1);
            due += LATE;
        } else {
            last = due;
        }
        let mut packets = queue.packets.lock().expect("unpoisoned");
        if twice {
            count(2);
            number += 1;
            packets.push(Packet { due: due + LATE, number, bytes: bytes.clone() });
        }
        number += 1;
        packets.push(Packet { due, number, bytes });
        queue.came.notify_one();
    }
}

fn pass(socket: &UnixDatagram, to: &Path, queue: &Queue, weather: &Weather) {
    while !weather.stop.load(Ordering::SeqCst) {
        let packets = queue.packets.lock().expect("unpoisoned");
        let wait = packets.peek().map_or(LOOK, |first| first.due.saturating_duration_since(Instant::now()).min(LOOK));
        let mut packets = match wait.is_zero() {
            true => packets,
            false => queue.came.wait_timeout(packets, wait).expect("unpoisoned").0,
        };
        let now = Instant::now();
        let mut due = Vec::new();
        while packets.peek().is_some_and(|first| first.due <= now) {
            due.extend(packets.pop());
        }
        drop(packets);
        for packet in due {
            // The device is gone before this thread is.
            if socket.send_to(&packet.bytes, to).is_ok() {
                weather.counts[0].fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}
