//! Two sessions joined in memory, for measuring the session core without sockets.

use std::hint::black_box;
use std::time::{Duration, Instant};

use everlink::session::frame::{Header, Kind};
use everlink::session::{Incoming, Limits, Opening, Session};

pub const LIMITS: Limits = Limits { buffer: 16 << 20, peer_buffer: 16 << 20, windows: 64 << 20, streams: 4096 };
/// Bytes that may wait for the connection.
pub const ROOM: u64 = 1 << 20;

pub struct Pair {
    pub near: Session<()>,
    pub far: Session<()>,
    pub now: Instant,
}

impl Default for Pair {
    fn default() -> Self {
        let now = Instant::now();
        Self { near: Session::new(true, LIMITS, now), far: Session::new(false, LIMITS, now), now }
    }
}

impl Pair {
    /// Opens a stream, and has it taken.
    pub fn open(&mut self) -> u32 {
        let stream = self.near.open(Opening::to("postgres"), (), self.now).expect("room for a stream");
        self.carry_far();
        self.carry_near();
        stream
    }

    pub fn carry_far(&mut self) {
        carry(&mut self.near, &mut self.far, self.now);
    }

    pub fn carry_near(&mut self) {
        carry(&mut self.far, &mut self.near, self.now);
    }

    /// Time passes: what is counted by the second may happen again.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
    }
}

/// All that one end has to say reaches the other, which takes streams and passes data on at once.
pub fn carry(from: &mut Session<()>, to: &mut Session<()>, now: Instant) {
    from.emit(ROOM, now);
    loop {
        let bytes = from.next();
        let count = bytes.len();
        if count == 0 {
            return;
        }
        receive(to, bytes, now);
        from.sent(count);
    }
}

/// Takes bytes as a link's owner does.
pub fn receive(session: &mut Session<()>, mut bytes: &[u8], now: Instant) {
    while let Some(incoming) = session.receive(now, &mut bytes).expect("an honest peer") {
        match black_box(incoming) {
            Incoming::Open { stream, opening } => admit(session, stream, &opening, now),
            Incoming::Data { stream, bytes } => session.pass(stream, bytes.len()),
            _ => {}
        }
    }
}

fn admit(session: &mut Session<()>, stream: u32, opening: &Opening, now: Instant) {
    session.admit(stream, opening, (), now);
    session.accept(stream);
}

/// Reads `count` bytes from a local socket, as it were; none are copied.
pub fn fill(session: &mut Session<()>, stream: u32, count: usize) -> usize {
    let most = session.quota(stream, ROOM).min(count);
    session.fill(stream, most, |(), slot| (black_box(slot).len(), most)).unwrap_or(0)
}

/// Everything is handed to a connection that leads nowhere.
pub fn drain(session: &mut Session<()>, now: Instant) {
    session.emit(ROOM, now);
    loop {
        let count = black_box(session.next()).len();
        if count == 0 {
            return;
        }
        session.sent(count);
    }
}

/// A frame as it is sent.
pub fn frame(stream: u32, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let header = Header { stream, length: payload.len() as u32, kind: kind as u8 };
    [&header.encode(), payload].concat()
}
