//! The far end. The first byte of a connection picks its part:
//!
//! | | |
//! |---|---|
//! | E | echo |
//! | D | bytes without end |
//! | U | takes bytes, and tells their number every 20 ms |
//! | V | takes a numbered stream and checks it |
//! | Q | what a V stream has received |
//! | B | echo, that byte included: answers beats, and counts the connections that sent one |
//! | M, N | begins that count anew; tells it |
//! | P | a beat: that byte again, and the connection is as fresh as before |

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::args::{Args, die};
use crate::measured::now;
use crate::sockets::{discard, is_timeout, listen, spawn};

const WORKERS: usize = 2;
const TELL_EVERY_NS: u64 = 20_000_000;

/// The count of connections with a beat, and which count it is.
static BEATEN: AtomicU64 = AtomicU64::new(0);
static MARK: AtomicU64 = AtomicU64::new(1);

/// What a numbered stream has brought.
#[derive(Default, Clone, Copy)]
struct Verified {
    received: u64,
    mismatches: u64,
    /// When bytes came last, and after the longest time without any; of this machine's clock.
    last: u64,
    longest: u64,
    again: u64,
}

impl Verified {
    fn arrived(&mut self, count: usize) {
        let time = now();
        self.received += count as u64;
        if self.last > 0 && time - self.last > self.longest {
            (self.longest, self.again) = (time - self.last, time);
        }
        self.last = time;
    }
}

static BOOK: LazyLock<Mutex<HashMap<u64, Verified>>> = LazyLock::new(Mutex::default);

/// The word of 8 bytes at a place of a numbered stream.
pub fn word(stream: u64, place: u64) -> u64 {
    (place ^ stream).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ place
}

/// A connection that a worker serves itself.
struct Served {
    stream: TcpStream,
    part: u8,
    /// The count in which it has sent a beat.
    mark: u64,
}

pub fn run(args: &Args) {
    let listener = Arc::new(listen(args.address("listen")));
    listener.set_nonblocking(true).ok();
    let threads: Vec<_> =
        (0..WORKERS).map(|_| listener.clone()).map(|listener| spawn(move || work(&listener))).collect();
    println!("READY");
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

fn work(listener: &TcpListener) {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap_or_else(|error| die(&format!("epoll: {error}")));
    let (own, flags) = (listener.as_raw_fd() as u64, EventFlags::IN | EventFlags::EXCLUSIVE);
    epoll::add(&poll, listener, EventData::new_u64(own), flags).unwrap_or_else(|error| die(&format!("epoll: {error}")));
    let (mut served, mut events, mut bytes) = (HashMap::<u64, Served>::new(), Vec::with_capacity(256), vec![0; 65536]);
    loop {
        events.clear();
        epoll::wait(&poll, spare_capacity(&mut events), None).ok();
        for event in &events {
            let key = event.data.u64();
            if key == own {
                for stream in std::iter::from_fn(|| listener.accept().ok()).map(|(stream, _)| stream).take(64) {
                    stream.set_nodelay(true).ok();
                    let key = stream.as_raw_fd() as u64;
                    epoll::add(&poll, &stream, EventData::new_u64(key), EventFlags::IN).ok();
                    served.insert(key, Served { stream, part: 0, mark: 0 });
                }
                continue;
            }
            let Some(connection) = served.get_mut(&key) else { continue };
            if connection.part == 0 && beat(&connection.stream) {
                continue;
            }
            if connection.part == 0 && !begin(connection) {
                epoll::delete(&poll, &connection.stream).ok();
                if let Some(connection) = served.remove(&key) {
                    play(connection);
                }
            } else if !echo(connection, &mut bytes) {
                served.remove(&key);
            }
        }
    }
}

/// Answers a beat; `false`: it is none.
fn beat(mut stream: &TcpStream) -> bool {
    let mut first = [0];
    let is_beat = stream.peek(&mut first).is_ok_and(|count| count == 1) && first == *b"P";
    is_beat && stream.read(&mut first).is_ok() && stream.write_all(&first).is_ok()
}

/// Reads which part is wanted. `false`: it is not for a worker.
fn begin(connection: &mut Served) -> bool {
    let mut first = [0];
    if !connection.stream.peek(&mut first).is_ok_and(|count| count == 1) {
        return false;
    }
    connection.part = first[0];
    connection.part == b'B' || connection.stream.read(&mut first).is_ok() && connection.part == b'E'
}

/// `false`: it is over.
fn echo(connection: &mut Served, bytes: &mut [u8]) -> bool {
    let received = rustix::net::recv(&connection.stream, &mut *bytes, rustix::net::RecvFlags::DONTWAIT);
    let count = match received {
        Ok((count, _)) if count > 0 => count,
        Err(rustix::io::Errno::AGAIN) => return true,
        _ => return false,
    };
    let mark = MARK.load(Relaxed);
    if connection.part == b'B' && connection.mark != mark {
        connection.mark = mark;
        BEATEN.fetch_add(1, Relaxed);
    }
    connection.stream.write(&bytes[..count]).is_ok_and(|written| written == count)
}

/// The other parts, each in a thread of its own.
fn play(connection: Served) {
    let Served { stream, part, .. } = connection;
    match part {
        b'D' => drop(spawn(move || source(stream))),
        b'U' => drop(spawn(move || sink(stream))),
        b'V' => drop(spawn(move || drop(verify(stream)))),
        b'Q' => drop(spawn(move || drop(tell(stream)))),
        b'M' => {
            BEATEN.store(0, Relaxed);
            answer(stream, MARK.fetch_add(1, Relaxed));
        }
        b'N' => answer(stream, BEATEN.load(Relaxed)),
        _ => {}
    }
}

fn answer(mut stream: TcpStream, value: u64) {
    stream.write_all(&value.to_le_bytes()).ok();
}

fn source(mut stream: TcpStream) {
    let bytes = vec![0x5A; 256 * 1024];
    while stream.write_all(&bytes).is_ok() {}
}

fn sink(mut stream: TcpStream) {
    let mut room = vec![0; 1 << 20];
    let (mut total, mut told) = (0_u64, now());
    loop {
        let taken = discard(&stream, &mut room);
        total += taken as u64;
        if taken == 0 {
            return;
        }
        if now() - told > TELL_EVERY_NS {
            told = now();
            if stream.write_all(&total.to_le_bytes()).is_err() {
                return;
            }
        }
    }
}

fn verify(mut stream: TcpStream) -> io::Result<()> {
    let mut number = [0; 8];
    stream.read_exact(&mut number)?;
    let number = u64::from_le_bytes(number);
    let (mut found, mut place, mut told) = (Verified::default(), 0, 0);
    let (mut bytes, mut held) = (vec![0; 256 * 1024], 0);
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    stream.set_write_timeout(Some(Duration::from_millis(50)))?;
    loop {
        let read = stream.read(&mut bytes[held..]);
        let (count, over) = match read {
            Ok(count) => (count, count == 0),
            Err(error) => (0, !is_timeout(&error) && error.kind() != ErrorKind::Interrupted),
        };
        if count > 0 {
            found.arrived(count);
        }
        held += count;
        let (words, rest) = bytes[..held].as_chunks::<8>();
        for bytes in words {
            found.mismatches += u64::from(u64::from_le_bytes(*bytes) != word(number, place));
            place += 1;
        }
        let rest = rest.len();
        bytes.copy_within(held - rest..held, 0);
        held = rest;
        if over || now() - told > TELL_EVERY_NS {
            told = now();
            BOOK.lock().unwrap_or_else(PoisonError::into_inner).insert(number, found);
            let mut told = [0; 16];
            told[..8].copy_from_slice(&found.received.to_le_bytes());
            told[8..].copy_from_slice(&found.mismatches.to_le_bytes());
            match stream.write_all(&told) {
                _ if over => return Ok(()),
                Err(error) if is_timeout(&error) => {}
                told => told?,
            }
        }
    }
}

fn tell(mut stream: TcpStream) -> io::Result<()> {
    let mut number = [0; 8];
    stream.read_exact(&mut number)?;
    let book = BOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let found = book.get(&u64::from_le_bytes(number)).copied().unwrap_or_default();
    drop(book);
    let answer = [found.received, found.mismatches, found.again].map(u64::to_le_bytes);
    stream.write_all(answer.as_flattened())?;
    stream.read(&mut number).map(drop)
}
