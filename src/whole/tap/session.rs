//! What both sides of one session say, frame by frame.

use std::collections::{BTreeMap, BTreeSet};

use crate::net::memory::NEAR;
use crate::session::frame::{FRAME_MAX, HEADER, Header, Kind, Opening, RefusalCode, ResetCode};
use crate::session::window::INITIAL;
use crate::whole::counts::Counts;

/// What frames other than OPEN and DATA may add to the bytes kept for replay.
const CONTROL: u64 = 1 << 20;

/// One session, over all its connections.
#[derive(Default)]
pub struct Session {
    pub epoch: u64,
    /// Over which connection it goes, as its gateway has it.
    pub holder: usize,
    /// Kept for replay at most.
    pub buffer: u64,
    pub sides: [Side; 2],
}

/// What one side has said.
#[derive(Default)]
pub struct Side {
    pub said: Vec<u8>,
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

impl Session {
    /// Where among the frames of a side a byte stands.
    pub fn place(&self, side: usize, at: u64) -> &'static str {
        let frames = &self.sides[side].frames;
        let next = frames.partition_point(|(begins, _)| *begins < at);
        match next.checked_sub(1).and_then(|last| frames.get(last)) {
            Some((begins, _)) if at < begins + HEADER as u64 => "in a header",
            Some((begins, length)) if at < begins + length => "in a payload",
            _ => "between frames",
        }
    }

    /// Bytes that were not said before.
    pub fn take(&mut self, side: usize, bytes: &[u8], counts: &mut Counts) -> Vec<String> {
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
