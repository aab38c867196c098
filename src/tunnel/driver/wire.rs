//! The link itself: reading, writing, and judging the connection at hand.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::cork::Cork;
use super::lull::Lull;
use super::passage::Passage;
use super::room::Room;
use super::{Driver, Event, PIECE, Reading, with_scratch};
use crate::config::Beats;
use crate::link::heartbeat::Delivery;
use crate::metrics::LossReason;
use crate::net::rehearsal::Rehearsal;
use crate::net::wire::Wire;
use crate::session::Violation;
use crate::tunnel::pulse::{Death, Pulse, Verdict};

/// With less room than this left, no local socket is read.
const WORTHWHILE: u64 = 16 * 1024;
/// The kernel tells times in its own ticks: bytes read at once may seem to have come so much later.
const TICK: Duration = Duration::from_millis(20);

/// A connection the session runs over.
pub(super) struct Connection {
    pub wire: Wire,
    pub pulse: Pulse,
    /// What goes out before the session's bytes.
    preface: Vec<u8>,
    written: usize,
    room: Room,
    cork: Cork,
    lull: Lull,
    /// Of the beat awaited.
    passage: Passage,
    /// Why nothing more can be written. Told once the claim that is out is decided: a gateway that grants it closes this
    /// connection before its answer arrives.
    pub broken: Option<(LossReason, String)>,
    /// When its round trip was last measured, by a beat or by the kernel.
    pub measured: Instant,
}

impl Connection {
    pub fn new(wire: Wire, beats: &Beats, preface: Vec<u8>, rtt: Duration, now: Instant) -> Self {
        let mut pulse = Pulse::new(*beats, now, fastrand::u64(..));
        pulse.set_rtt(rtt);
        let room = Room::new();
        // Where the kernel has neither, everything works, only less well under stress.
        let _ = wire.set_notsent_lowat(room.kernel as u32);
        let _ = wire.tcp().apply_rto_max(rto_max(beats));
        Self {
            wire,
            pulse,
            preface,
            written: 0,
            room,
            cork: Cork::new(now),
            lull: Lull::default(),
            passage: Passage::default(),
            broken: None,
            measured: now,
        }
    }

    pub fn retune(&mut self, beats: &Beats, now: Instant) {
        self.pulse.retune(*beats, now);
        let _ = self.wire.tcp().apply_rto_max(rto_max(beats));
    }

    /// Looks whether bytes came that wait to be read, for while a claim is under way nothing is: a peer that answers no
    /// claim either must not be waited for until the end of days. True when that ends a suspicion.
    fn was_heard(&mut self, now: Instant) -> bool {
        if now < self.pulse.next_deadline() {
            return false;
        }
        let Ok(info) = self.wire.tcp_info() else { return false };
        let came = now.checked_sub(info.last_data_received);
        came.filter(|came| *came > self.pulse.last_heard() + TICK).is_some_and(|came| self.pulse.heard(came))
    }

    /// The kernel has all that was given to the wire: where does the beat awaited end in it?
    fn note_passage(&mut self) {
        if self.passage == Passage::Handed
            && let Ok(info) = self.wire.tcp_info()
        {
            self.passage.in_kernel(&info);
        }
    }

    /// The socket takes bytes: did it take long?
    fn took(&mut self, now: Instant) {
        let wire = &self.wire;
        if self.room.took(now, || wire.tcp_info().map_or(u64::MAX, |info| info.delivery_rate)) {
            let _ = self.wire.set_notsent_lowat(self.room.kernel as u32);
        }
    }
}

/// Budget ÷ 12, at least a second: TCP moves again about a second after a heal.
fn rto_max(beats: &Beats) -> Duration {
    (beats.budget() / 12).max(Duration::from_secs(1))
}

impl Driver {
    /// The connection at hand goes through a rehearsed outage.
    pub fn rehearse(&mut self, rehearsal: &Arc<Rehearsal>) {
        self.connection = self.connection.take().map(|connection| {
            let Connection { wire, .. } = connection;
            Connection { wire: wire.rehearsed(rehearsal), ..connection }
        });
        self.ready.poke();
    }

    /// Resets the connection at hand, and takes it for lost.
    pub fn reset_wire(&mut self, why: &str) {
        if let Some(connection) = &self.connection {
            let _ = connection.wire.reset_on_close();
            self.failed(&io::Error::new(io::ErrorKind::ConnectionReset, why));
            self.ready.poke();
        }
    }

    /// Reads the link once and acts upon what came. True if something did.
    pub(super) fn read_link(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        connection.wire.drive(context);
        if self.frozen {
            return false;
        }
        if let Err(later) = self.session.may_read(now) {
            self.read_again = later;
            return false;
        }
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            self.parse(&rest, now);
            return true;
        }
        with_scratch(|buffer| {
            let Some(connection) = &mut self.connection else { return false };
            match connection.wire.poll_read(context, buffer) {
                Poll::Pending => false,
                Poll::Ready(Ok(0)) => {
                    self.lost(LossReason::Closed, "the peer closed the connection".to_owned());
                    true
                }
                Poll::Ready(Ok(count)) => {
                    if connection.pulse.heard(now) {
                        self.events.push_back(Event::Recovered);
                    }
                    self.observer.received();
                    // A busy link needs no beats: once in an interval the kernel is asked instead.
                    if now.saturating_duration_since(connection.measured) >= self.settings.beats.interval {
                        connection.measured = now;
                        if let Ok(info) = connection.wire.tcp_info() {
                            self.observer.measured(info.rtt);
                        }
                    }
                    self.parse(&buffer[..count], now);
                    self.tell_pulse(now);
                    true
                }
                Poll::Ready(Err(error)) => {
                    self.failed(&error);
                    true
                }
            }
        })
    }

    /// Acts upon bytes of the link. What comes too fast is kept for later.
    fn parse(&mut self, bytes: &[u8], now: Instant) {
        let mut input = bytes;
        loop {
            match self.session.receive(now, &mut input) {
                Ok(Some(incoming)) => self.act(incoming, now),
                Ok(None) => return,
                Err(violation) => return self.violated(violation),
            }
            if self.connection.is_none() {
                return;
            }
            if let Err(later) = self.session.may_read(now) {
                self.read_again = later;
                self.rest = input.to_vec();
                return;
            }
        }
    }

    fn tell_pulse(&mut self, now: Instant) {
        if let Some(connection) = &mut self.connection {
            connection.pulse.outstanding(self.session.is_owed(), self.session.acknowledged(), now);
        }
    }

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
                connection.lull.said(now);
            }
        }
    }

    /// There are words, all of them may wait, and something was said a moment ago.
    fn waits(&mut self, now: Instant) -> bool {
        let (Some(connection), Some(least)) = (&mut self.connection, Lull::long(self.session.rtt())) else {
            return false;
        };
        if self.session.unsent() > 0 || !self.session.has_words() || !self.session.may_wait() {
            return false;
        }
        let wire = &connection.wire;
        let until = connection.lull.holds(least, now, || wire.tcp_info().ok().map(|info| info.rtt));
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
                if let Some(place) = self.session.get(stream) {
                    place.reading = if has_credit { Reading::NoRoom } else { Reading::NoCredit };
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
        let read = self.session.fill(stream, quota, |place, slot| {
            let result = place.read(slot);
            let count = if let Poll::Ready(Ok(count)) = &result { *count } else { 0 };
            let full = count == slot.len();
            // After a short read this sets the bell without a system call.
            let more = count > 0 && (full || place.may_read());
            if count > 0 {
                place.touched = sweep;
            }
            place.reading = if more { Reading::Queued } else { Reading::Idle };
            (count, (result, full))
        });
        let Some((result, full)) = read else { return false };
        match result {
            Poll::Ready(Ok(0)) => {
                if let Some(place) = self.session.get(stream) {
                    place.reading = Reading::Over;
                }
                self.session.finish(stream);
                self.close_if_through(stream);
                true
            }
            Poll::Ready(Ok(count)) => {
                self.sent += count as u64;
                if self.session.get(stream).is_some_and(|place| place.reading == Reading::Queued) {
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

    /// Beats, or gives the connection up.
    pub(super) fn judge(&mut self, now: Instant) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        if self.frozen && connection.was_heard(now) {
            self.events.push_back(Event::Recovered);
        }
        let (wire, passage) = (&connection.wire, &connection.passage);
        let verdict = connection.pulse.tick(now, || delivery(wire, passage));
        match verdict {
            Verdict::Quiet => return false,
            Verdict::Beat => {}
            Verdict::Suspect => {
                self.observer.beat_missed();
                self.events.push_back(Event::Suspect);
            }
            Verdict::Missed => self.observer.beat_missed(),
            Verdict::Dead(death) => {
                self.observer.beat_missed();
                let error = match death {
                    Death::Silent => "no beat was answered within the detection budget",
                    Death::Stalled => "beats are answered, and data is not acknowledged",
                };
                let (reason, error) =
                    connection.broken.take().unwrap_or_else(|| (LossReason::Heartbeat, error.to_owned()));
                self.lost(reason, error);
                return true;
            }
        }
        let clock = connection.pulse.beat_sent(now);
        if connection.pulse.awaited() == Some(clock) {
            connection.passage = Passage::Asked;
        }
        self.session.ping(clock);
        self.observer.beat_sent();
        true
    }

    fn failed(&mut self, error: &io::Error) {
        let reason = match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => LossReason::Reset,
            io::ErrorKind::InvalidData => LossReason::Protocol,
            _ => LossReason::Error,
        };
        match &mut self.connection {
            Some(connection) if self.frozen => connection.broken = Some((reason, error.to_string())),
            _ => self.lost(reason, error.to_string()),
        }
    }

    pub(super) fn lost(&mut self, reason: LossReason, error: String) {
        self.drop_wire();
        self.events.push_back(Event::Lost { reason, error });
    }

    pub(super) fn violated(&mut self, violation: Violation) {
        if let Some(connection) = &self.connection {
            // Whatever is still on its way is of no use, and who does not read must not hold the kernel's memory.
            let _ = connection.wire.reset_on_close();
        }
        self.drop_wire();
        self.observer.violation(violation);
        self.events.push_back(Event::Violation(violation));
    }
}

/// What the kernel says of the bytes sent.
fn delivery(wire: &Wire, passage: &Passage) -> Option<Delivery> {
    let info = wire.tcp_info().ok()?;
    Some(Delivery {
        all_acknowledged: passage.has_arrived(&info),
        acknowledged: info.bytes_acked,
        last_acknowledged: info.last_ack_received,
    })
}
