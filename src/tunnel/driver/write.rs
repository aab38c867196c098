//! Writing to the link, and reading the local sockets whose bytes it takes.

use std::task::{Context, Poll};
use std::time::Instant;

use super::Driver;
use super::delayed_ack::DelayedAck;
use super::local::Reading;

/// Under TLS, while others have something to say, data comes in pieces of what the wire encrypts ahead. Pieces of a record
/// (16 KiB) cost four times the system calls, and a small request gains nothing by them.
const PIECE: u64 = 64 * 1024;
/// With less room than this left, no local socket is read.
const WORTHWHILE: u64 = 16 * 1024;

impl Driver {
    /// Gives the link what it takes, and reads local sockets for it. True if something moved.
    pub(super) fn write_link(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let Some(connection) = self.connection.as_ref().filter(|connection| connection.broken.is_none()) else {
            return false;
        };
        let (room, tls) = (connection.room.session, connection.wire.is_tls());
        let waits = self.waits(now);
        if !waits {
            self.speak(room, now);
        }
        if !self.session.owes_ping()
            && let Some(connection) = &mut self.connection
        {
            connection.passage.emitted(self.session.written().0);
        }
        let filled = self.fill(room, tls);
        if waits && self.session.unsent() > 0 {
            self.speak(room, now);
        }
        if let Some(connection) = &mut self.connection
            && let Some(at) = connection.cork.holds(self.session.unsent(), self.session.rtt(), now)
        {
            self.send_again = Some(at);
            return filled;
        }
        let moved = self.send(context, now);
        if moved || filled {
            self.tell_pulse(now);
        }
        filled || moved
    }

    /// Writes what is to be said besides data.
    fn speak(&mut self, room: u64, now: Instant) {
        if self.session.unsent() < room && self.session.has_words() {
            self.session.emit(room, now);
            if let Some(connection) = &mut self.connection {
                connection.delayed.said(now);
            }
        }
    }

    /// There are words, all of them may wait, and something was said a moment ago.
    fn waits(&mut self, now: Instant) -> bool {
        let (Some(connection), Some(least)) = (&mut self.connection, DelayedAck::long(self.session.rtt())) else {
            return false;
        };
        if self.session.unsent() > 0 || !self.session.has_words() || !self.session.may_wait() {
            return false;
        }
        let wire = &connection.wire;
        let until = connection.delayed.holds(least, now, || wire.tcp_info().ok().map(|info| info.rtt));
        if until.is_some() {
            self.send_again = until;
        }
        until.is_some()
    }

    /// Reads local sockets into the session, one frame a turn, fresh streams first. True if anything came.
    fn fill(&mut self, room: u64, tls: bool) -> bool {
        let mut filled = false;
        // Not down to the last byte: a read of what is left over costs as much as one of a whole frame.
        let enough = room - (room / 4).min(WORTHWHILE);
        while self.session.unsent() < enough {
            let Some(stream) = self.fresh.pop_front().or_else(|| self.bulk.pop_front()) else { break };
            let others = !self.fresh.is_empty() || !self.bulk.is_empty();
            let left = room - self.session.unsent();
            let most = if tls && others { left.min(PIECE) } else { left };
            let quota = self.session.quota(stream, most);
            if quota == 0 {
                // A CREDIT brings it back; or an ACK, if there is no room for replay or its OPEN still waits for that.
                let has_credit = self.session.has_credit(stream);
                if let Some(side) = self.session.get(stream) {
                    side.reading = if has_credit { Reading::NoRoom } else { Reading::NoCredit };
                    if has_credit {
                        self.parked.push(stream);
                    }
                    self.stir(stream);
                }
                continue;
            }
            filled |= self.pull(stream, quota);
        }
        filled
    }

    /// One frame of a stream. True if it had one.
    fn pull(&mut self, stream: u32, quota: usize) -> bool {
        let sweep = self.sweep;
        let read = self.session.fill(stream, quota, |side, slot| {
            let result = side.read(slot);
            let count = if let Poll::Ready(Ok(count)) = &result { *count } else { 0 };
            let full = count == slot.len();
            // After a short read this sets the bell without a system call.
            let more = count > 0 && (full || side.may_read());
            if count > 0 {
                side.touched = sweep;
            }
            side.reading = if more { Reading::Queued } else { Reading::Idle };
            (count, (result, full))
        });
        let Some((result, full)) = read else { return false };
        match result {
            Poll::Ready(Ok(0)) => {
                if let Some(side) = self.session.get(stream) {
                    side.reading = Reading::Over;
                }
                self.session.finish(stream);
                self.close_if_through(stream);
                true
            }
            Poll::Ready(Ok(count)) => {
                self.sent += count as u64;
                if self.session.get(stream).is_some_and(|side| side.reading == Reading::Queued) {
                    if full { self.bulk.push_back(stream) } else { self.fresh.push_back(stream) }
                }
                true
            }
            Poll::Ready(Err(_)) => {
                self.local_failed(stream);
                true
            }
            Poll::Pending => false,
        }
    }

    /// Writes to the link until it takes no more.
    fn send(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let mut moved = false;
        let error = loop {
            let preface = &connection.preface[connection.written..];
            let bytes = if preface.is_empty() { self.session.next() } else { preface };
            if bytes.is_empty() {
                match connection.wire.poll_flush(context) {
                    Poll::Ready(Err(error)) => break error,
                    Poll::Ready(Ok(())) => connection.note_passage(),
                    Poll::Pending => {}
                }
                return moved;
            }
            let of_preface = !preface.is_empty();
            match connection.wire.poll_write(context, bytes) {
                Poll::Ready(Ok(count)) => {
                    moved = true;
                    connection.took(now);
                    // All that was taken before has gone to the kernel.
                    connection.note_passage();
                    if of_preface {
                        connection.written += count;
                        if connection.written == connection.preface.len() {
                            (connection.preface, connection.written) = (Vec::new(), 0);
                        }
                    } else {
                        self.session.sent(count);
                        connection.passage.taken(self.session.written().1);
                        if !connection.wire.is_tls() {
                            connection.note_passage();
                        }
                    }
                }
                Poll::Ready(Err(error)) => break error,
                Poll::Pending => {
                    connection.room.blocked(now);
                    return moved;
                }
            }
        };
        self.failed(&error);
        true
    }
}
