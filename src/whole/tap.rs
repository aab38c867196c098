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

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::counts::Counts;
use crate::net::memory::{NEAR, Tap};
use crate::session::frame::{FRAME_MAX, HEADER, Header, Kind, Opening, RefusalCode, ResetCode};
use crate::session::hello::{Answer, Received, SessionId, VERSIONS};
use crate::session::window::INITIAL;

const FAR: usize = 1;
/// What frames other than OPEN and DATA may add to the bytes kept for replay.
const CONTROL: u64 = 1 << 20;

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

#[derive(Default)]
struct Session {
    epoch: u64,
    /// Over which connection it goes, as its gateway has it.
    holder: usize,
    /// Kept for replay at most.
    buffer: u64,
    sides: [Side; 2],
}

/// What one side has said.
#[derive(Default)]
struct Side {
    said: Vec<u8>,
    /// Frames by their first byte, and their lengths.
    frames: Vec<(u64, u64)>,
    /// Of the frame that is not whole.
    partial: Vec<u8>,
    skip: usize,
    /// Room that the other side has given, and what was sent, by stream.
    room: BTreeMap<u32, u64>,
    sent: BTreeMap<u32, u64>,
    /// What the other side has acknowledged.
    acked: u64,
    /// Where its first GOAWAY ends.
    leaves_at: Option<u64>,
    ended: BTreeSet<u32>,
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
                let frames = self.sessions.get(&welcome.session).map(|session| &session.sides[side].frames);
                place(frames.map_or(&[], Vec::as_slice), at)
            }
            _ => "behind a refusal",
        };
        self.counts.one(format!("cut {place}"));
    }
}

/// Where among frames a byte stands.
fn place(frames: &[(u64, u64)], at: u64) -> &'static str {
    let next = frames.partition_point(|(begins, _)| *begins < at);
    match next.checked_sub(1).and_then(|last| frames.get(last)) {
        Some((begins, _)) if at < begins + HEADER as u64 => "in a header",
        Some((begins, length)) if at < begins + length => "in a payload",
        _ => "between frames",
    }
}

impl Session {
    /// Bytes that were not said before.
    fn take(&mut self, side: usize, bytes: &[u8], counts: &mut Counts) -> Vec<String> {
        let mut faults = Vec::new();
        let mut rest = bytes;
        self.sides[side].said.extend(bytes);
        while !rest.is_empty() {
            let our = &mut self.sides[side];
            let skipped = our.skip.min(rest.len());
            our.skip -= skipped;
            rest = &rest[skipped..];
            if rest.is_empty() {
                break;
            }
            if our.partial.is_empty() {
                our.frames.push(((our.said.len() - rest.len()) as u64, 0));
            }
            let want = wanted(&our.partial).saturating_sub(our.partial.len());
            let (part, after) = rest.split_at(want.min(rest.len()));
            our.partial.extend(part);
            rest = after;
            if our.partial.len() < wanted(&our.partial) {
                continue;
            }
            let frame = std::mem::take(&mut our.partial);
            let (header, payload) = frame.split_at(HEADER);
            let header = Header::decode(header.try_into().expect("as long as a header"));
            if let Some(last) = our.frames.last_mut() {
                last.1 = HEADER as u64 + u64::from(header.length);
            }
            if let Err(fault) = self.frame(side, header, payload, counts) {
                faults.push(fault);
            }
        }
        faults
    }

    fn frame(&mut self, side: usize, header: Header, payload: &[u8], counts: &mut Counts) -> Result<(), String> {
        let kind = Kind::from_byte(header.kind).ok_or(format!("says a frame of kind {}", header.kind))?;
        counts.one(kind.name());
        let (stream, length) = (header.stream, u64::from(header.length));
        let [near, far] = &mut self.sides;
        let (our, their) = if side == NEAR { (near, far) } else { (far, near) };
        match kind {
            Kind::Data => {
                our.skip = header.length as usize;
                if our.ended.contains(&stream) {
                    return Err(format!("says data of stream {stream} behind its end"));
                }
                let sent = our.sent.entry(stream).or_default();
                *sent += length;
                let room = our.room.get(&stream).copied().unwrap_or(INITIAL.into());
                if *sent > room {
                    return Err(format!("sends {sent} bytes of stream {stream}, which has room for {room}"));
                }
                let end = our.frames.last().map_or(0, |(begins, length)| begins + length);
                let kept = end.saturating_sub(our.acked);
                if kept > self.buffer.max(256 << 10) + CONTROL + FRAME_MAX as u64 {
                    return Err(format!("keeps {kept} bytes for replay, {} were agreed", self.buffer));
                }
            }
            Kind::Open => {
                if their.leaves_at.is_some_and(|at| their.acked >= at) {
                    return Err(format!("opens stream {stream} behind its ACK for a GOAWAY"));
                }
                if their.leaves_at.is_some() {
                    counts.one("OPEN that crosses a GOAWAY");
                }
                let opening = Opening::decode(payload).map_err(|error| error.to_string())?;
                their.room.insert(stream, opening.window.into());
            }
            Kind::Credit => {
                let more = payload.try_into().map(u32::from_le_bytes).map_err(|_| "says no credit")?;
                *their.room.entry(stream).or_insert(INITIAL.into()) += u64::from(more);
            }
            Kind::Ack => {
                let acked = payload.try_into().map(u64::from_le_bytes).map_err(|_| "acknowledges nothing")?;
                if acked < their.acked || acked > their.said.len() as u64 {
                    return Err(format!("acknowledges {acked} after {}", their.acked));
                }
                their.acked = acked;
            }
            Kind::Fin if !our.ended.insert(stream) => return Err(format!("ends stream {stream} twice")),
            Kind::Refused => {
                let code = RefusalCode::from_byte(payload.first().copied().unwrap_or_default());
                counts.one(format!("REFUSED {code:?}"));
                // Who has read GOAWAY opens nothing, and whoever has not is taken.
                if code == RefusalCode::Draining {
                    return Err(format!("refuses stream {stream}, which crossed its GOAWAY"));
                }
            }
            Kind::GoAway => {
                let end = our.frames.last().map_or(0, |(begins, length)| begins + length);
                our.leaves_at.get_or_insert(end);
            }
            Kind::Reset => {
                let code = ResetCode::from_byte(payload.first().copied().unwrap_or_default());
                counts.one(format!("RESET {code:?}"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// How long a frame's part is that is looked at as a whole: DATA's header, and of others all.
fn wanted(partial: &[u8]) -> usize {
    let Some(header) = partial.get(..HEADER).and_then(|header| header.try_into().ok()).map(Header::decode) else {
        return HEADER;
    };
    match Kind::from_byte(header.kind) {
        Some(Kind::Data) => HEADER,
        _ => HEADER + header.length as usize,
    }
}

/// Bytes of a hello of a version that nobody speaks.
pub fn foreign_hello(mut hello: Vec<u8>) -> Vec<u8> {
    let version = VERSIONS.1 + 7;
    for at in [9, 10] {
        if let Some(byte) = hello.get_mut(at) {
            *byte = version;
        }
    }
    hello
}
