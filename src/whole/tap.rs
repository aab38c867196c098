//! Who looks at every byte between near ends and gateways, and holds it against what must be.
//!
//! It knows nothing of what the two ends hold: hellos and frames are parsed from the bytes as they are written, over all
//! connections of a session. What is checked:
//!
//! - bytes said again are the same bytes, and none is skipped;
//! - epochs of a session only rise, and a connection that was overtaken is read no further by its gateway;
//! - no byte is used that a near end read while a claim of its own was out;
//! - no stream is sent more than its receiver has given it room for;
//! - nobody keeps more for replay than agreed;
//! - no stream is refused that crossed a GOAWAY, and none is opened by who has acknowledged one.

mod session;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use self::session::Session;
use super::counts::Counts;
use crate::net::memory::{NEAR, Tap};
use crate::session::hello::{Answer, Received, SessionId};

const FAR: usize = 1;

/// All that was seen.
#[derive(Default)]
pub struct Record {
    pub counts: Counts,
    /// What must not be.
    pub faults: Vec<String>,
    /// Changes with every byte, and with its place in the order of all.
    pub trace: u64,
    connections: BTreeMap<usize, Seen>,
    sessions: BTreeMap<SessionId, Session>,
}

/// One connection.
#[derive(Default)]
struct Seen {
    /// What was said first by each side, until it is whole.
    heads: [Vec<u8>; 2],
    /// Its length, once it is.
    lengths: [Option<u64>; 2],
    written: [u64; 2],
    hello: Option<Told>,
    welcome: Option<Told>,
    /// The near end has read so much.
    read: u64,
    closed: bool,
    /// While its claim was out, a byte of the session was read over another connection.
    read_meanwhile: bool,
}

/// What a hello or a welcome tells.
#[derive(Clone, Copy)]
struct Told {
    session: SessionId,
    epoch: u64,
    received: u64,
}

/// A tap, and its record for others to read.
pub fn tap() -> (Box<dyn Tap>, Rc<RefCell<Record>>) {
    let record = Rc::<RefCell<Record>>::default();
    (Box::new(Shared(record.clone())), record)
}

struct Shared(Rc<RefCell<Record>>);

impl Tap for Shared {
    fn stands(&mut self, connection: usize, _gateway: usize) {
        self.0.borrow_mut().connections.insert(connection, Seen::default());
    }

    fn wrote(&mut self, connection: usize, side: usize, bytes: &[u8]) {
        self.0.borrow_mut().wrote(connection, side, bytes);
    }

    fn read(&mut self, connection: usize, side: usize, count: usize) {
        self.0.borrow_mut().read(connection, side, count as u64);
    }

    fn cut(&mut self, connection: usize, side: usize, delivered: u64) {
        self.0.borrow_mut().cut(connection, side, delivered);
    }

    fn closed(&mut self, connection: usize, side: usize) {
        if let Some(seen) = self.0.borrow_mut().connections.get_mut(&connection)
            && side == NEAR
        {
            seen.closed = true;
        }
    }
}

impl Record {
    fn fault(&mut self, text: String) {
        // The first tells it; the rest follows from it.
        if self.faults.len() < 8 {
            self.faults.push(text);
        }
    }

    fn wrote(&mut self, number: usize, side: usize, bytes: &[u8]) {
        for byte in [number as u8, side as u8, bytes.len() as u8].iter().chain(bytes.first()) {
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        let Some(seen) = self.connections.get_mut(&number) else { return };
        let before = seen.written[side];
        seen.written[side] += bytes.len() as u64;
        if let Some(length) = seen.lengths[side] {
            let bytes = bytes.to_vec();
            return self.session_bytes(number, side, before - length, &bytes);
        }
        seen.heads[side].extend(bytes);
        let head = std::mem::take(&mut seen.heads[side]);
        let Some(length) = self.head(number, side, &head) else {
            if let Some(seen) = self.connections.get_mut(&number) {
                seen.heads[side] = head;
            }
            return;
        };
        if let Some(seen) = self.connections.get_mut(&number) {
            seen.lengths[side] = Some(length as u64);
        }
        self.session_bytes(number, side, 0, &head[length..]);
    }

    /// The length of a side's first message, if it is whole.
    fn head(&mut self, number: usize, side: usize, bytes: &[u8]) -> Option<usize> {
        let seen = self.connections.get_mut(&number)?;
        if side == NEAR {
            // A stranger's is no hello.
            let (received, length) = Received::parse(bytes).ok()??;
            let hello = &received.hello;
            let told = Told { session: hello.session, epoch: hello.epoch, received: hello.received };
            seen.hello = Some(told);
            self.counts.one("hello");
            if let Some(session) = self.sessions.get_mut(&told.session) {
                session.buffer = session.buffer.max(hello.resume.buffer);
                if told.received > session.sides[FAR].said.len() as u64 {
                    self.fault(format!("connection {number}: a hello claims bytes that were never said"));
                }
            }
            return Some(length);
        }
        let (answer, length) = match Answer::parse(bytes) {
            Ok(parsed) => parsed?,
            Err(error) => {
                self.fault(format!("connection {number}: an answer that is none: {error}"));
                return None;
            }
        };
        match answer {
            Answer::Refusal(refusal) => self.counts.one(format!("refusal {}", refusal.code.name())),
            Answer::Welcome(welcome) => {
                let welcome = welcome.welcome;
                let told = Told { session: welcome.session, epoch: welcome.epoch, received: welcome.received };
                let resumed = seen.hello.is_some_and(|hello| !hello.session.is_new());
                seen.welcome = Some(told);
                self.counts.one(if resumed { "welcome back" } else { "welcome" });
                let session = self.sessions.entry(told.session).or_default();
                let (epoch, said) = (session.epoch, session.sides[NEAR].said.len() as u64);
                session.buffer = session.buffer.max(welcome.resume.buffer);
                session.epoch = told.epoch;
                session.holder = number;
                if told.epoch <= epoch {
                    self.fault(format!("connection {number}: epoch {} is welcome after {epoch}", told.epoch));
                }
                if told.received > said {
                    self.fault(format!("connection {number}: a welcome claims bytes that were never said"));
                }
            }
        }
        Some(length)
    }

    /// Bytes behind the first message.
    fn session_bytes(&mut self, number: usize, side: usize, at: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let Some(seen) = self.connections.get(&number) else { return };
        let (Some(hello), Some(welcome)) = (seen.hello, seen.welcome) else {
            return self.fault(format!("connection {number}: side {side} says frames and was not welcome"));
        };
        if side == NEAR && seen.read_meanwhile {
            self.fault(format!("connection {number}: a byte was read elsewhere while its claim was out"));
        }
        let base = if side == NEAR { welcome.received } else { hello.received };
        let Some(session) = self.sessions.get_mut(&welcome.session) else { return };
        let at = (base + at) as usize;
        let known = session.sides[side].said.len();
        if at > known {
            return self.fault(format!("connection {number}: side {side} skips from {known} to {at}"));
        }
        let again = (known - at).min(bytes.len());
        if session.sides[side].said[at..at + again] != bytes[..again] {
            self.fault(format!("connection {number}: side {side} says other bytes again at {at}"));
            return;
        }
        self.counts.add("bytes said again", again as u64);
        let fresh = &bytes[again..];
        if !fresh.is_empty() {
            let faults = session.take(side, fresh, &mut self.counts);
            faults.into_iter().for_each(|fault| self.fault(format!("connection {number}: side {side} {fault}")));
        }
    }

    fn read(&mut self, number: usize, side: usize, count: u64) {
        let Some(seen) = self.connections.get_mut(&number) else { return };
        let welcome = seen.welcome;
        if side == FAR {
            let overtaken = welcome
                .and_then(|welcome| self.sessions.get(&welcome.session))
                .is_some_and(|session| session.holder != number);
            if overtaken && count > 0 {
                self.fault(format!("connection {number} was overtaken, and its gateway reads {count} bytes of it"));
            }
            return;
        }
        seen.read += count;
        let (Some(welcome), Some(length)) = (welcome, seen.lengths[FAR]) else { return };
        if seen.read <= length || count == 0 {
            return;
        }
        for (other, claim) in &mut self.connections {
            let out = *other != number && !claim.closed && claim.lengths[FAR].is_none_or(|length| claim.read < length);
            if out && claim.hello.is_some_and(|hello| hello.session == welcome.session && hello.epoch > welcome.epoch) {
                claim.read_meanwhile = true;
            }
        }
    }

    fn cut(&mut self, number: usize, side: usize, delivered: u64) {
        let Some(seen) = self.connections.get(&number) else { return };
        let place = match (seen.lengths[side], seen.hello, seen.welcome) {
            _ if delivered == 0 => "before the first byte",
            (None, ..) if side == NEAR => "in a hello",
            (Some(length), ..) if delivered < length && side == NEAR => "in a hello",
            (Some(length), ..) if delivered < length => "in an answer",
            (Some(length), Some(hello), Some(welcome)) => {
                let base = if side == NEAR { welcome.received } else { hello.received };
                let at = base + delivered - length;
                self.sessions.get(&welcome.session).map_or("between frames", |session| session.place(side, at))
            }
            _ => "behind a refusal",
        };
        self.counts.one(format!("cut {place}"));
    }
}
