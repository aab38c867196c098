//! What is to be said, in which order, and how much of it at once.

use std::time::{Duration, Instant};

use super::Session;
use crate::session::frame::{self, CONTROL_MAX, HEADER, Kind};
use crate::session::stream::{Direction, LastWord};

/// An ACK goes out after so many bytes at the latest.
const ACK_EVERY: u64 = 128 * 1024;
/// A peer that keeps next to nothing is not told of every byte.
const ACK_LEAST: u64 = 4 * 1024;
/// A frame of another stream within this time: a stream is not alone.
const COMPANY: Duration = Duration::from_millis(100);
/// With less than this waiting, PONG and ACK go out even if the connection is full.
const BEATS: u64 = 1024;

impl<T> Session<T> {
    /// Bytes received since the peer was last told.
    pub(super) fn untold(&self) -> u64 {
        self.inbound.received().saturating_sub(self.told)
    }

    /// Enough was received for an ACK: long before the peer has no more room to keep.
    pub(super) fn is_ack_due(&self) -> bool {
        self.untold() >= ACK_EVERY.min(self.limits.peer_buffer / 8).max(ACK_LEAST)
    }

    /// Whether [`emit`](Self::emit) would write something.
    pub fn has_words(&self) -> bool {
        self.ping.is_some()
            || self.pong.is_some()
            || self.tune.is_some()
            || self.go_away_due
            || !self.listed.is_empty()
            || (!self.unopened.is_empty() && !self.is_full())
            || !self.last_words.is_empty()
            || self.is_ack_due()
    }

    /// Whether what there is to say may wait a part of a round trip: nothing but ACK and CREDIT, and the peer will not be
    /// held up for want of either.
    pub fn may_wait(&self) -> bool {
        let others = self.ping.is_some() || self.pong.is_some() || self.tune.is_some() || self.go_away_due;
        let streams = self.pressing || !self.unopened.is_empty() || !self.last_words.is_empty();
        !others && !streams && self.untold() < self.limits.peer_buffer / 8
    }

    /// Writes frames that are no DATA, beats first, until they are all written or about `room` bytes wait for the
    /// connection. Only while there is a connection: what waits meanwhile is coalesced.
    pub fn emit(&mut self, room: u64, now: Instant) {
        // What the peer can call forth at will waits in its slot while nothing moves. Our PINGs are as few as we want.
        let moves = self.out.unsent() < room.max(BEATS);
        let beats = self.ping.is_some() || (self.pong.is_some() && moves);
        if moves && let Some(clock) = self.pong.take() {
            self.out.push(0, Kind::Pong, &clock.to_le_bytes());
        }
        if let Some(clock) = self.ping.take() {
            self.out.push(0, Kind::Ping, &clock.to_le_bytes());
        }
        if (moves && self.is_ack_due()) || (beats && self.untold() > 0) {
            self.told = self.inbound.received();
            self.out.push(0, Kind::Ack, &self.told.to_le_bytes());
        }
        if let (Some((code, retry_after)), true) = (self.go_away, std::mem::take(&mut self.go_away_due)) {
            let wait = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX).to_le_bytes();
            self.push(0, Kind::GoAway, &[&[code as u8], &wait[..]].concat());
            self.go_away_ends.get_or_insert(self.out.written());
        }
        if let Some(beats) = self.tune.take() {
            self.push(0, Kind::Tune, &frame::encode_beats(&beats));
        }
        // Before the OPENs: the peer counts a stream that is over until it hears so, and would refuse one for want of room.
        while self.out.unsent() < room
            && let Some((id, word)) = self.last_words.pop_front()
        {
            match word {
                LastWord::Refused(code) => self.push(id, Kind::Refused, &[code as u8]),
                LastWord::Reset(code) => self.push(id, Kind::Reset, &[code as u8]),
                LastWord::Fin => self.push(id, Kind::Fin, &[]),
            }
        }
        while self.out.unsent() < room
            && let Some(id) = self.unopened.front().copied()
        {
            if self.is_full() {
                break;
            }
            self.unopened.pop_front();
            self.write_open(id);
        }
        while self.out.unsent() < room {
            let Some(id) = self.listed.pop_front() else { break };
            self.speak(id, now);
        }
        self.pressing &= !self.listed.is_empty();
    }

    pub(super) fn push(&mut self, stream: u32, kind: Kind, payload: &[u8]) {
        self.out.push(stream, kind, payload);
        self.owed = self.out.written();
    }

    /// No room to keep another OPEN for replay.
    pub(super) fn is_full(&self) -> bool {
        self.out.unacknowledged() + (HEADER + CONTROL_MAX) as u64 > self.replay_limit()
    }

    pub(super) fn write_open(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.pending.open = false;
        if let Some(opening) = stream.opening.take() {
            self.out.push(id, Kind::Open, &opening.encode());
            self.owed = self.out.written();
        }
        if stream.pending.any() {
            stream.pending.listed = true;
            self.list(id);
        }
    }

    /// Writes what is to be said of one stream.
    pub(super) fn speak(&mut self, id: u32, now: Instant) {
        let alone = self.company.is_none_or(|at| now.saturating_duration_since(at) > COMPANY);
        let before = self.out.written();
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.pending.listed = false;
        if std::mem::take(&mut stream.pending.opened) {
            self.out.push(id, Kind::Opened, &[]);
        }
        if std::mem::take(&mut stream.pending.credit) && stream.receiving == Direction::Open {
            let more = stream.window.grant(&mut self.pool, self.rtt, alone, now);
            if more > 0 {
                self.out.push(id, Kind::Credit, &more.to_le_bytes());
            }
        }
        if std::mem::take(&mut stream.pending.fin) {
            self.out.push(id, Kind::Fin, &[]);
        }
        if self.out.written() > before {
            self.owed = self.out.written();
        }
    }

    /// What the connection should be given next; then [`sent`](Self::sent).
    #[expect(clippy::should_implement_trait, reason = "what it lends ends with the next call: no iterator")]
    pub fn next(&mut self) -> &[u8] {
        self.out.next()
    }

    /// The connection took so many bytes of [`next`](Self::next).
    pub fn sent(&mut self, count: usize) {
        self.out.sent(count);
    }
}
