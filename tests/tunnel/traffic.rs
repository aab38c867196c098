//! Bytes that cannot be mistaken for others: what was lost, doubled or reordered shows.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::common::program::wait_until;

/// The bytes from `at` on: each 8 hold a number that says where in the stream, and in which stream, they stand.
pub fn fill(seed: u64, at: u64, buffer: &mut [u8]) {
    let mut at = at;
    let mut rest = buffer;
    while !rest.is_empty() {
        let word = (seed ^ (at / 8)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let from = (at % 8) as usize;
        let count = rest.len().min(8 - from);
        rest[..count].copy_from_slice(&word[from..from + count]);
        rest = &mut rest[count..];
        at += count as u64;
    }
}

/// Reads to the end, and says how many bytes that were. Errors: another byte than the one due.
pub fn check(seed: u64, stream: &mut TcpStream, seen: &AtomicU64) -> io::Result<u64> {
    let (mut buffer, mut due) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut at = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(at);
        }
        fill(seed, at, &mut due[..count]);
        if buffer[..count] != due[..count] {
            let wrong = buffer.iter().zip(&due).take_while(|(a, b)| a == b).count() as u64;
            return Err(io::Error::other(format!("byte {} is not the one that was sent", at + wrong)));
        }
        at += count as u64;
        seen.store(at, Ordering::SeqCst);
    }
}

/// How a talk goes.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Bytes written at once.
    pub piece: usize,
    /// The wait after each piece.
    pub pause: Duration,
}

impl Pace {
    /// As fast as it goes.
    pub const BULK: Self = Self { piece: 64 * 1024, pause: Duration::ZERO };
    /// Little, and often.
    pub const CHAT: Self = Self { piece: 300, pause: Duration::from_millis(5) };
}

/// A client of the echo service who writes without waiting for answers, and checks every byte that comes back.
pub struct Talk {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    seen: Arc<AtomicU64>,
    writer: Option<JoinHandle<io::Result<u64>>>,
    reader: Option<JoinHandle<io::Result<u64>>>,
}

impl Talk {
    pub fn start(address: SocketAddr, pace: Pace) -> Self {
        Self::over(crate::common::connect_to(address), pace)
    }

    pub fn over(stream: TcpStream, pace: Pace) -> Self {
        stream.set_nodelay(true).expect("set");
        let seed = fastrand::u64(..);
        let (stop, sent, seen) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut reading = stream.try_clone().expect("cloned");
        let seeing = seen.clone();
        let reader = std::thread::spawn(move || check(seed, &mut reading, &seeing));
        let (stopped, count) = (stop.clone(), sent.clone());
        let writer = std::thread::spawn(move || write(seed, stream, pace, &stopped, &count));
        Self { stop, sent, seen, writer: Some(writer), reader: Some(reader) }
    }

    /// Bytes that have come back so far.
    pub fn moved(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// Bytes that our side's kernel has taken.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Until so many more have come back.
    pub fn until_moved(&self, more: u64) {
        let goal = self.moved() + more;
        wait_until("bytes flow", || {
            assert!(!self.is_over(), "the talk is over");
            self.moved() >= goal
        });
    }

    pub fn is_over(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Says the end, and holds that every byte sent has come back, in order, and the end after it. Returns how many.
    pub fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let sent = self.writer.take().expect("running").join().expect("no panic").expect("all was sent");
        let seen = self.reader.take().expect("running").join().expect("no panic").expect("all came back");
        assert_eq!(seen, sent, "bytes that came back");
        seen
    }

    /// Waits for the error that ends it. The kernel tells each error once, be it to the reader or to the writer: whoever
    /// comes second finds nothing but the end.
    pub fn error(mut self) -> io::Error {
        let read = self.reader.take().expect("running").join().expect("no panic");
        self.stop.store(true, Ordering::SeqCst);
        let written = self.writer.take().expect("running").join().expect("no panic");
        match read.and(written) {
            Ok(sent) => panic!("it came to an end in order, after {sent} bytes"),
            Err(error) => error,
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn write(seed: u64, mut stream: TcpStream, pace: Pace, stop: &AtomicBool, count: &AtomicU64) -> io::Result<u64> {
    let mut piece = vec![0; pace.piece];
    let mut at = 0;
    while !stop.load(Ordering::SeqCst) {
        fill(seed, at, &mut piece);
        stream.write_all(&piece)?;
        at += piece.len() as u64;
        count.store(at, Ordering::SeqCst);
        if !pace.pause.is_zero() {
            std::thread::sleep(pace.pause);
        }
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(at)
}
