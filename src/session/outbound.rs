//! Bytes on their way out, and kept until the peer has acknowledged them. Pure.
//!
//! A local socket is read straight into the tail of a chunk, 8 bytes behind the place of a header that is filled in
//! afterwards. The chunk is what is written to the link, and what is kept for replay: no byte is copied, none is queued
//! twice. Offsets are absolute and count every byte of the session, headers included.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::frame::{FRAME_MAX, HEADER, Header, Kind};
use super::violation::Violation;

/// A chunk for data: as long as the longest frame, so that it stays in a core's cache.
const LARGE: usize = FRAME_MAX;
/// A chunk for control frames alone: what an idle session holds between a beat and its acknowledgement.
const SMALL: usize = 2048;
/// With less room than this left, the next data begins a chunk of its own.
const WORTHWHILE: usize = 16 * 1024;
/// Chunks kept for reuse on each thread, the last used first: it is still in the cache (6 – 12 % of the throughput,
/// measured). As many as a busy link holds at once, for a new one would have to be filled with zeros.
const SPARE: usize = 12;

thread_local! {
    static SPARES: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

struct Chunk {
    /// The offset of its first byte.
    start: u64,
    filled: usize,
    bytes: Box<[u8]>,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.filled as u64
    }

    fn room(&self) -> usize {
        self.bytes.len() - self.filled
    }
}

fn large() -> Box<[u8]> {
    let spare = SPARES.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| vec![0; LARGE].into_boxed_slice())
}

fn recycle(chunk: Chunk) {
    if chunk.bytes.len() == LARGE {
        SPARES.with_borrow_mut(|spares| {
            if spares.len() < SPARE {
                spares.push(chunk.bytes);
            }
        });
    }
}

/// One direction's bytes, from what is acknowledged to what was written last.
#[derive(Default)]
pub struct Outbound {
    chunks: VecDeque<Chunk>,
    acked: u64,
    /// Handed to the connection at hand so far.
    sent: u64,
    /// The most that was ever handed to any connection: no peer can have received more.
    high: u64,
    written: u64,
    /// The chunk that holds `sent`.
    cursor: usize,
}

impl Outbound {
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// The offset behind the last byte written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Written and not acknowledged: what is kept for replay.
    pub fn unacknowledged(&self) -> u64 {
        self.written - self.acked
    }

    /// Written and not handed to the connection.
    pub fn unsent(&self) -> u64 {
        self.written - self.sent
    }

    /// Memory held, unused parts of chunks included.
    pub fn memory(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum()
    }

    /// Room for the payload of a DATA frame of at most `most` bytes, 1 at least; to be followed by
    /// [`commit`](Self::commit), or by nothing if there was nothing to put in.
    pub fn slot(&mut self, most: usize) -> &mut [u8] {
        let fits = |chunk: &Chunk| chunk.room() >= HEADER + most.min(WORTHWHILE);
        if !self.chunks.back().is_some_and(fits) {
            self.chunks.push_back(Chunk { start: self.written, filled: 0, bytes: large() });
        }
        let Some(tail) = self.chunks.back_mut() else { return &mut [] };
        let start = tail.filled + HEADER;
        let end = tail.bytes.len().min(start + most);
        &mut tail.bytes[start..end]
    }

    /// The first `count` bytes of the last [`slot`](Self::slot) are data of `stream`.
    pub fn commit(&mut self, stream: u32, count: usize) {
        let Some(tail) = self.chunks.back_mut() else { return };
        let header = Header { stream, length: count as u32, kind: Kind::Data as u8 };
        tail.bytes[tail.filled..tail.filled + HEADER].copy_from_slice(&header.encode());
        tail.filled += HEADER + count;
        self.written += (HEADER + count) as u64;
    }

    /// Appends a frame that is no DATA.
    pub fn push(&mut self, stream: u32, kind: Kind, payload: &[u8]) {
        let length = HEADER + payload.len();
        if self.chunks.back().is_none_or(|tail| tail.room() < length) {
            self.chunks.push_back(Chunk { start: self.written, filled: 0, bytes: vec![0; SMALL].into_boxed_slice() });
        }
        let Some(tail) = self.chunks.back_mut() else { return };
        let header = Header { stream, length: payload.len() as u32, kind: kind as u8 };
        let into = &mut tail.bytes[tail.filled..tail.filled + length];
        into[..HEADER].copy_from_slice(&header.encode());
        into[HEADER..].copy_from_slice(payload);
        tail.filled += length;
        self.written += length as u64;
    }

    /// What the connection should be given next: empty when it has everything.
    #[expect(clippy::should_implement_trait, reason = "what it lends ends with the next call: no iterator")]
    pub fn next(&mut self) -> &[u8] {
        while let Some(chunk) = self.chunks.get(self.cursor) {
            let into = (self.sent - chunk.start) as usize;
            if into < chunk.filled {
                break;
            }
            if self.cursor + 1 >= self.chunks.len() {
                return &[];
            }
            self.cursor += 1;
        }
        match self.chunks.get(self.cursor) {
            Some(chunk) => &chunk.bytes[(self.sent - chunk.start) as usize..chunk.filled],
            None => &[],
        }
    }

    /// The connection took the first `count` bytes of [`next`](Self::next).
    pub fn sent(&mut self, count: usize) {
        self.sent = (self.sent + count as u64).min(self.written);
        self.high = self.high.max(self.sent);
    }

    /// The peer says it has received everything before `offset`. Saying less than before is late news and does nothing.
    /// Errors: it cannot have received what was never sent.
    pub fn acknowledge(&mut self, offset: u64) -> Result<(), Violation> {
        if offset > self.high {
            return Err(Violation::Ack);
        }
        self.trim(offset);
        Ok(())
    }

    /// Whether everything from `offset` on can be sent again: it was sent, and is still kept.
    pub fn keeps(&self, offset: u64) -> bool {
        (self.acked..=self.high).contains(&offset)
    }

    /// A new connection: the peer has everything before `offset` and gets the rest (again). Returns how many bytes are
    /// sent again. Errors: [`Violation::Resume`] if that was never sent, or is no longer kept; nothing has changed then.
    pub fn rewind(&mut self, offset: u64) -> Result<u64, Violation> {
        if !self.keeps(offset) {
            return Err(Violation::Resume);
        }
        let again = self.high - offset;
        self.sent = offset;
        self.cursor = self.chunks.iter().position(|chunk| chunk.end() > offset).unwrap_or(0);
        self.trim(offset);
        Ok(again)
    }

    fn trim(&mut self, offset: u64) {
        self.acked = self.acked.max(offset);
        // What is being replayed may have been received over the connection before.
        if self.sent < self.acked {
            self.sent = self.acked;
        }
        while let Some(first) = self.chunks.front() {
            if first.end() > self.acked {
                break;
            }
            if let Some(chunk) = self.chunks.pop_front() {
                recycle(chunk);
            }
            self.cursor = self.cursor.saturating_sub(1);
        }
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.chunks.drain(..).for_each(recycle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(out: &mut Outbound, bytes: &[u8]) {
        let slot = out.slot(bytes.len());
        slot[..bytes.len()].copy_from_slice(bytes);
        out.commit(1, bytes.len());
    }

    fn send_all(out: &mut Outbound) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let count = out.next().len().min(1000);
            if count == 0 {
                return all;
            }
            all.extend(&out.next()[..count]);
            out.sent(count);
        }
    }

    #[test]
    fn what_is_sent_again_is_what_was_sent_from_any_offset() {
        let mut out = Outbound::default();
        for round in 0..40u8 {
            write(&mut out, &vec![round; 20_000]);
            out.push(0, Kind::Ping, &[round; 8]);
        }
        let first = send_all(&mut out);
        assert_eq!(first.len() as u64, out.written());
        for offset in [0, 1, 7, 8, 19_999, 262_144, 262_145, 500_000, first.len() as u64] {
            assert_eq!(out.rewind(offset), Ok(first.len() as u64 - offset));
            assert_eq!(send_all(&mut out), &first[offset as usize..], "from {offset}");
        }
        assert_eq!(out.rewind(first.len() as u64 - 1), Err(Violation::Resume), "it has been acknowledged");
        assert_eq!(out.rewind(first.len() as u64 + 1), Err(Violation::Resume), "it was never sent");
    }

    #[test]
    fn acknowledged_chunks_are_given_back_and_nothing_else() {
        let mut out = Outbound::default();
        for _ in 0..8 {
            write(&mut out, &[7; LARGE - HEADER]);
        }
        assert_eq!(out.acknowledge(1), Err(Violation::Ack), "nothing was sent yet");
        let all = send_all(&mut out);
        out.acknowledge(3 * LARGE as u64 - 1).unwrap();
        assert_eq!(out.memory(), 6 * LARGE as u64);
        out.acknowledge(5).unwrap();
        assert_eq!(out.acked(), 3 * LARGE as u64 - 1, "late news");
        out.acknowledge(all.len() as u64).unwrap();
        assert_eq!((out.memory(), out.unacknowledged()), (0, 0));
        write(&mut out, b"and on");
        assert_eq!(&send_all(&mut out)[HEADER..], b"and on");
    }

    #[test]
    fn an_acknowledgement_of_the_connection_before_moves_a_replay_forward() {
        let mut out = Outbound::default();
        write(&mut out, &[1; 1000]);
        send_all(&mut out);
        out.rewind(0).unwrap();
        out.sent(10);
        out.acknowledge(500).unwrap();
        assert_eq!(out.unsent(), 508);
        assert_eq!(out.next().len(), 508);
    }

    #[test]
    fn small_frames_hold_little_and_data_after_them_begins_a_chunk() {
        let mut out = Outbound::default();
        out.push(0, Kind::Ping, &[0; 8]);
        assert_eq!(out.memory(), SMALL as u64);
        write(&mut out, &[3; 100_000]);
        out.push(1, Kind::Fin, &[]);
        assert_eq!(out.memory(), (SMALL + LARGE) as u64);
        assert_eq!(send_all(&mut out).len(), 16 + 100_008 + 8);
    }

    #[test]
    fn a_slot_that_stays_empty_is_no_frame() {
        let mut out = Outbound::default();
        out.slot(5000);
        assert_eq!((out.written(), out.next().len()), (0, 0));
        out.push(0, Kind::Pong, &[9; 8]);
        out.slot(5000);
        assert_eq!(send_all(&mut out).len(), 16);
        out.acknowledge(16).unwrap();
        write(&mut out, b"x");
        assert_eq!(send_all(&mut out).len(), 9);
    }
}
