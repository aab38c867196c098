//! Servers inside a namespace: on threads of the test, as a process that can be stopped, and a nameserver.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::net::{Namespace, until};
use super::program::Process;
use crate::common::PATIENCE;

/// How often a thread that waits for a socket looks whether it should end.
const LOOK: Duration = Duration::from_millis(2);

/// A server on threads of this process. Ends with all its connections when dropped.
pub struct Server {
    accepted: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(
        namespace: &Namespace,
        address: &str,
        handle: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let mut server = Self { accepted: Arc::default(), open: Arc::default(), stop: Arc::default(), thread: None };
        let (accepted, open, stop) = (server.accepted.clone(), server.open.clone(), server.stop.clone());
        let handle = Arc::new(handle);
        let thread = namespace.run(move || {
            let address: SocketAddr = address.parse().expect("an address");
            let listener = everlink::net::socket::bind_listener(address).expect("bound");
            std::thread::spawn(move || accept(&listener, &accepted, &open, &stop, &handle))
        });
        server.thread = Some(thread);
        server
    }

    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Ends every connection in order and keeps listening.
    pub fn end_all(&self) {
        for stream in self.open.lock().expect("unpoisoned").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept<H>(
    listener: &TcpListener,
    accepted: &AtomicUsize,
    open: &Mutex<Vec<TcpStream>>,
    stop: &AtomicBool,
    handle: &Arc<H>,
) where
    H: Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
{
    while !stop.load(Ordering::SeqCst) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        stream.set_nonblocking(false).expect("blocking");
        stream.set_nodelay(true).expect("set");
        open.lock().expect("unpoisoned").push(stream.try_clone().expect("cloned"));
        accepted.fetch_add(1, Ordering::SeqCst);
        let handle = handle.clone();
        std::thread::spawn(move || {
            let _ = handle(stream.try_clone().expect("cloned"));
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
    // Not by its close alone: a program that is being started has a copy of it, up to its exec.
    let _ = socket2::SockRef::from(listener).shutdown(Shutdown::Both);
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.end_all();
    }
}

/// Answers each `ping` by `pong`, also those that waited together, and echoes anything else.
pub fn answering(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        let bytes = &buffer[..count];
        match bytes.chunks(4).all(|word| word == b"ping") {
            _ if count == 0 => return Ok(()),
            true => stream.write_all(&b"pong".repeat(count / 4))?,
            false => stream.write_all(bytes)?,
        }
    }
}

/// The byte at this place of every long transfer: no two near places look alike.
fn pattern(at: u64) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)) as u8
}

/// Sends the pattern in small pieces until told to stop, or the other side is gone; returns how much.
pub fn send_pattern(stream: &mut TcpStream, stop: &AtomicBool) -> u64 {
    let mut sent = 0;
    while !stop.load(Ordering::SeqCst) {
        let piece: Vec<u8> = (sent..sent + 8192).map(pattern).collect();
        if stream.write_all(&piece).is_err() {
            break;
        }
        sent += piece.len() as u64;
        std::thread::sleep(LOOK);
    }
    let _ = stream.shutdown(Shutdown::Write);
    sent
}

/// What a reader of the pattern has seen.
#[derive(Default)]
pub struct Seen {
    pub bytes: AtomicU64,
    pub wrong: AtomicBool,
    pub ended: AtomicBool,
    moments: Mutex<Vec<Instant>>,
}

impl Seen {
    /// Reads to the end and checks every byte.
    pub fn read(&self, stream: &mut TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                self.ended.store(true, Ordering::SeqCst);
                return Ok(());
            }
            let from = self.bytes.load(Ordering::SeqCst);
            if buffer[..count].iter().zip(from..).any(|(byte, at)| *byte != pattern(at)) {
                self.wrong.store(true, Ordering::SeqCst);
            }
            self.moments.lock().expect("unpoisoned").push(Instant::now());
            self.bytes.fetch_add(count as u64, Ordering::SeqCst);
        }
    }

    /// When bytes first came after `moment`.
    pub fn first_after(&self, moment: Instant) -> Option<Instant> {
        self.moments.lock().expect("unpoisoned").iter().copied().find(|at| *at > moment)
    }
}

/// A server that answers, as a process of its own.
pub fn process(namespace: &Namespace, address: &str) -> Process {
    let this = std::env::current_exe().expect("a path");
    let mut command = namespace.command(this.to_str().expect("a path in UTF-8"));
    command.args(["--exact", "server_process", "--ignored", "--nocapture"]).env(SERVE_AT, address);
    // It ends with its standard input, so it cannot outlive this process.
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let process = Process::new(command.spawn().expect("started"));
    let address: SocketAddr = address.parse().expect("an address");
    until("the server process listens", PATIENCE, || namespace.run(|| TcpStream::connect(address)).is_ok());
    process
}

const SERVE_AT: &str = "EVERLINK_TEST_SERVE_AT";

/// What the process of [`process`] does.
pub fn be_a_process() {
    let Ok(address) = std::env::var(SERVE_AT) else { return };
    let listener = TcpListener::bind(address).expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(|| answering(stream));
        }
    });
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

/// A nameserver at port 53.
pub struct Nameserver {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    records: Mutex<HashMap<String, Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
    silent: AtomicBool,
    stop: AtomicBool,
}

impl Nameserver {
    pub fn start(namespace: &Namespace, ip: &str) -> Self {
        let shared = Arc::<Shared>::default();
        let own = shared.clone();
        let thread = namespace.run(|| {
            let socket = UdpSocket::bind((ip, 53)).expect("bound");
            socket.set_read_timeout(Some(LOOK)).expect("set");
            std::thread::spawn(move || own.serve(&socket))
        });
        Self { shared, thread: Some(thread) }
    }

    /// The addresses of a name without its last dot, from now on; none: the name does not exist.
    pub fn set(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        self.shared.records.lock().expect("unpoisoned").insert(name.to_owned(), addresses);
    }

    pub fn be_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    /// The names asked for since the last call, each once, in order.
    pub fn asked(&self) -> Vec<String> {
        let mut names = std::mem::take(&mut *self.shared.asked.lock().expect("unpoisoned"));
        names.dedup();
        names
    }
}

impl Drop for Nameserver {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self, socket: &UdpSocket) {
        let mut packet = [0; 512];
        while !self.stop.load(Ordering::SeqCst) {
            let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
            let Some((name, kind, end)) = question(&packet[..length]) else { continue };
            self.asked.lock().expect("unpoisoned").push(name.clone());
            if !self.silent.load(Ordering::SeqCst) {
                let _ = socket.send_to(&self.answer(&packet[..end], &name, kind), from);
            }
        }
    }

    /// RFC 1035, section 4.1. `query`: its header and its question.
    fn answer(&self, query: &[u8], name: &str, kind: u16) -> Vec<u8> {
        const A: u16 = 1;
        const AAAA: u16 = 28;
        let records = self.records.lock().expect("unpoisoned");
        let known = records.get(name).filter(|addresses| !addresses.is_empty());
        let mut data: Vec<Vec<u8>> = Vec::new();
        for address in known.into_iter().flatten() {
            match address {
                IpAddr::V4(ip) if kind == A => data.push(ip.octets().to_vec()),
                IpAddr::V6(ip) if kind == AAAA => data.push(ip.octets().to_vec()),
                _ => {}
            }
        }
        let mut answer = query.to_vec();
        let failure = if known.is_some() { 0 } else { 3 };
        answer[2..4].copy_from_slice(&[0x85, 0x80 | failure]);
        answer[4..12].copy_from_slice(&[0, 1, 0, data.len() as u8, 0, 0, 0, 0]);
        for octets in data {
            answer.extend([0xc0, 12, 0, kind as u8, 0, 1, 0, 0, 0, 0, 0, octets.len() as u8]);
            answer.extend(octets);
        }
        answer
    }
}

/// The name asked for, its record type, and where the question ends.
fn question(packet: &[u8]) -> Option<(String, u16, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}
