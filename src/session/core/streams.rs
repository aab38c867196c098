//! What the owner of the streams wants.

use std::time::{Duration, Instant};

use super::Session;
use crate::config::Beats;
use crate::session::frame::{GoAwayCode, Opening, PAYLOAD_MAX, RefusalCode, ResetCode};
use crate::session::stream::{Direction, LastWord, Pending, Stream};
use crate::session::window::{INITIAL, LONG_PATH, Window};

impl<T> Session<T> {
    /// Whether [`open`](Self::open) would take another stream.
    pub fn can_open(&self) -> bool {
        self.dialer && !self.turned_away && self.streams.len() < self.limits.streams && !self.is_used_up()
    }

    /// No identifier is left for another stream.
    pub fn is_used_up(&self) -> bool {
        self.newest == u32::MAX
    }

    /// Opens a stream. Data may follow at once. `Err` gives `user` back: the streams or their identifiers are used up.
    pub fn open(&mut self, opening: Opening, user: T, now: Instant) -> Result<u32, T> {
        if !self.can_open() {
            return Err(user);
        }
        self.newest += 1;
        let id = self.newest;
        let window = Window::opened(&mut self.pool, now);
        let opening = Opening { window: window.size(), ..opening };
        let pending = Pending { open: true, ..Pending::default() };
        let stream = Stream {
            user,
            credit: u64::from(INITIAL),
            sending: Direction::Open,
            receiving: Direction::Open,
            window,
            pending,
            opening: Some(Box::new(opening)),
        };
        self.streams.insert(id, stream);
        self.unopened.push_back(id);
        Ok(id)
    }

    /// A stream that the peer opened is taken.
    pub fn accept(&mut self, stream: u32) {
        // Over a long path the first window is a matter of round trips: it is widened at once.
        let far = self.rtt.is_some_and(|rtt| rtt >= LONG_PATH);
        self.say(stream, |pending| {
            pending.opened = true;
            pending.credit |= far;
        });
    }

    /// A stream that the peer opened is not taken; what belongs to it comes back.
    pub fn refuse(&mut self, stream: u32, code: RefusalCode) -> Option<T> {
        self.part(stream, Some(LastWord::Refused(code)))
    }

    /// Bytes of `stream` that could be sent now, were there any: bounded by credit, by what is kept for replay, and by
    /// `room`, what the connection should be given.
    pub fn quota(&self, stream: u32, room: u64) -> usize {
        let Some(stream) = self.streams.get(&stream) else { return 0 };
        if stream.pending.open || stream.sending != Direction::Open {
            return 0;
        }
        let kept = self.replay_limit().saturating_sub(self.out.unacknowledged());
        #[cfg(test)]
        if self.broken.no_window {
            return kept.min(room).min(PAYLOAD_MAX as u64) as usize;
        }
        stream.credit.min(kept).min(room).min(PAYLOAD_MAX as u64) as usize
    }

    /// The peer lets the stream send more.
    pub fn has_credit(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.credit > 0)
    }

    /// Lets `read` put at most `most` bytes of the stream's data where they will be sent from; it tells how many.
    pub fn fill<R>(
        &mut self,
        stream: u32,
        most: usize,
        read: impl FnOnce(&mut T, &mut [u8]) -> (usize, R),
    ) -> Option<R> {
        let entry = self.streams.get_mut(&stream)?;
        let slot = self.out.slot(most);
        let longest = slot.len();
        let (count, result) = read(&mut entry.user, slot);
        let count = count.min(longest);
        if count > 0 {
            entry.credit = entry.credit.saturating_sub(count as u64);
            self.out.commit(stream, count);
            self.owed = self.out.written();
        }
        Some(result)
    }

    /// No more data of ours will come.
    pub fn finish(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream)
            && entry.sending == Direction::Open
        {
            entry.sending = Direction::Ended;
            self.say(stream, |pending| pending.fin = true);
        }
    }

    /// So many bytes of the stream's data were passed on: the peer may send as many again.
    pub fn pass(&mut self, stream: u32, count: usize) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        if entry.window.pass(count as u64) && entry.receiving == Direction::Open {
            self.pressing |= entry.window.runs_dry();
            self.say(stream, |pending| pending.credit = true);
        }
    }

    /// Ends a stream at once, both ways; the peer is told.
    pub fn reset(&mut self, stream: u32, code: ResetCode) -> Option<T> {
        self.part(stream, Some(LastWord::Reset(code)))
    }

    /// Both ends are through with the stream, or the peer has reset it.
    pub fn release(&mut self, stream: u32) -> Option<T> {
        let fin = self.streams.get(&stream)?.pending.fin.then_some(LastWord::Fin);
        self.part(stream, fin)
    }

    /// Both directions have come to their orderly ends.
    pub fn is_finished(&self, stream: u32) -> bool {
        let ended = |stream: &Stream<T>| (stream.sending, stream.receiving) == (Direction::Ended, Direction::Ended);
        self.streams.get(&stream).is_some_and(ended)
    }

    pub(super) fn part(&mut self, id: u32, word: Option<LastWord>) -> Option<T> {
        let stream = self.streams.remove(&id)?;
        stream.window.close(&mut self.pool);
        if stream.pending.open
            && let Ok(place) = self.unopened.binary_search(&id)
        {
            self.unopened.remove(place);
        }
        // The peer never heard of it: nothing is said.
        if let (Some(word), false) = (word, stream.pending.open) {
            self.last_words.push_back((id, word));
        }
        Some(stream.user)
    }

    pub(super) fn say(&mut self, id: u32, what: impl FnOnce(&mut Pending)) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        what(&mut stream.pending);
        self.pressing |= stream.pending.opened || stream.pending.fin;
        // With its OPEN unwritten it comes on the list later.
        if !stream.pending.open && !std::mem::replace(&mut stream.pending.listed, true) {
            self.list(id);
        }
    }

    pub(super) fn list(&mut self, id: u32) {
        // Streams that are over leave their place on the list: not without end while nothing can be written.
        if self.listed.len() > 2 * self.streams.len() + 64 {
            self.listed.retain(|id| self.streams.get(id).is_some_and(|stream| stream.pending.listed));
        }
        self.listed.push_back(id);
    }

    /// A PING with this clock is to be sent; a former one that was not sent yet is forgotten.
    pub fn ping(&mut self, clock: u64) {
        self.ping = Some(clock);
    }

    /// The peer shall know our heartbeat numbers.
    pub fn tune(&mut self, beats: Beats) {
        self.tune = Some(beats);
    }

    /// No new streams are wanted. Said again over every new connection while it holds.
    pub fn go_away(&mut self, code: GoAwayCode, retry_after: Duration) {
        self.go_away = Some((code, retry_after));
        self.go_away_due = true;
    }

    pub fn is_going_away(&self) -> bool {
        self.go_away.is_some()
    }

    /// The peer has read our GOAWAY, and everything it said before that was received: no stream comes any more.
    pub fn is_go_away_heard(&self) -> bool {
        self.go_away_heard
    }
}
