//! What arrived, passed on to local sockets; and what those sockets have to say.

use std::time::Instant;

use super::place::{Place, Reading};
use super::wire::Connection;
use super::{Driver, Event};
use crate::metrics::CloseReason;
use crate::session::{Incoming, RefusalCode, ResetCode};

impl Driver {
    /// Acts upon one thing that arrived.
    pub(super) fn act(&mut self, incoming: Incoming<'_>, now: Instant) {
        match incoming {
            Incoming::Data { stream, bytes } => self.deliver(stream, bytes),
            Incoming::Fin { stream } => {
                if let Some(place) = self.session.get(stream) {
                    place.end_to_pass = true;
                    place.pass_end();
                }
                self.close_if_through(stream);
            }
            Incoming::Reset { stream, code } => self.reset_by_peer(stream, code),
            Incoming::Refused { stream, code } => self.refused(stream, code),
            Incoming::Credit { stream } => self.requeue(stream),
            Incoming::Acked => self.requeue_parked(),
            Incoming::Open { stream, opening } => {
                let place = Place::new(self.ready.bell(stream), None, now, self.sweep);
                self.session.admit(stream, &opening, place, now);
                self.events.push_back(Event::Open { stream, opening });
            }
            Incoming::Pong { clock } => {
                let answered = |connection: &mut Connection| {
                    connection.measured = now;
                    connection.pulse.pong(now, clock)
                };
                let rtt = self.connection.as_mut().and_then(answered);
                if let Some(rtt) = rtt {
                    self.session.set_rtt(rtt);
                    self.observer.beat_answered(rtt);
                }
            }
            Incoming::Tune(beats) => self.events.push_back(Event::Tune(beats)),
            Incoming::GoAway { code, retry_after } => self.events.push_back(Event::GoAway { code, retry_after }),
            Incoming::Opened { .. } | Incoming::Ping | Incoming::Nothing => {}
        }
    }

    fn deliver(&mut self, stream: u32, bytes: &[u8]) {
        let sweep = self.sweep;
        let Some(place) = self.session.get(stream) else { return };
        if place.dead {
            return;
        }
        place.touched = sweep;
        match place.deliver(bytes) {
            Ok(count) => {
                let is_new = !place.stirred;
                self.passed(stream, count);
                if is_new {
                    self.stir(stream);
                }
            }
            Err(_) => self.local_failed(stream),
        }
    }

    fn passed(&mut self, stream: u32, count: usize) {
        if count > 0 {
            self.received += count as u64;
            self.session.pass(stream, count);
        }
    }

    /// Looks after the streams whose bells rang. True if any did.
    pub(super) fn answer_bells(&mut self) -> bool {
        let mut rung = std::mem::take(&mut self.rung);
        self.ready.take(&mut rung);
        let any = !rung.is_empty();
        for stream in rung.drain(..) {
            self.answer_bell(stream);
        }
        self.rung = rung;
        any
    }

    fn answer_bell(&mut self, stream: u32) {
        let sweep = self.sweep;
        let Some(place) = self.session.get(stream) else { return };
        place.bell.off();
        if place.reading == Reading::Idle {
            place.reading = Reading::Queued;
            self.fresh.push_back(stream);
        }
        if place.has_queue() {
            match place.flush() {
                Ok(count) => {
                    place.touched = sweep;
                    self.passed(stream, count);
                }
                Err(_) => return self.local_failed(stream),
            }
        }
        if let Some(place) = self.session.get(stream) {
            place.pass_end();
        }
        self.close_if_through(stream);
    }

    /// The stream may send again.
    fn requeue(&mut self, stream: u32) {
        if let Some(place) = self.session.get(stream)
            && place.reading == Reading::NoCredit
        {
            place.reading = Reading::Queued;
            self.bulk.push_back(stream);
        }
    }

    /// Bytes were acknowledged: streams that waited for room may go on.
    pub(super) fn requeue_parked(&mut self) {
        for stream in std::mem::take(&mut self.parked) {
            if let Some(place) = self.session.get(stream)
                && place.reading == Reading::NoRoom
            {
                place.reading = Reading::Queued;
                self.bulk.push_back(stream);
            }
        }
    }

    /// Ends the stream once both directions have come to their ends.
    pub(super) fn close_if_through(&mut self, stream: u32) {
        let through = self.session.get(stream).is_some_and(|place| place.is_through());
        if through && self.session.is_finished(stream) {
            // Services' sockets have no bound to be taken off.
            if let Some(place) = self.session.release(stream).filter(|_| self.near) {
                place.let_go();
            }
            self.observer.closed(CloseReason::Finished);
        }
    }

    /// The local socket failed: whoever was connected is gone.
    pub(super) fn local_failed(&mut self, stream: u32) {
        let reason = if self.near { CloseReason::ClientReset } else { CloseReason::UpstreamReset };
        self.end(stream, Some(ResetCode::Reset), reason);
    }

    fn reset_by_peer(&mut self, stream: u32, code: ResetCode) {
        let Some(place) = self.session.get(stream) else { return };
        if place.stream.is_none() {
            // The place stays taken until the dial is over.
            place.dead = true;
            return self.events.push_back(Event::Cancelled { stream });
        }
        let reason = match code {
            ResetCode::Reset if self.near => CloseReason::UpstreamReset,
            ResetCode::Reset => CloseReason::ClientReset,
            ResetCode::Drained => CloseReason::Drained,
            ResetCode::Idle => CloseReason::Idle,
            ResetCode::Error => CloseReason::Error,
        };
        self.end(stream, None, reason);
    }

    fn refused(&mut self, stream: u32, code: RefusalCode) {
        tracing::debug!(stream, ?code, "the gateway refused a stream");
        self.end(stream, None, CloseReason::Refused);
    }

    /// Ends a stream: whoever is connected reads a reset, and the peer is told if `code` is given.
    pub(super) fn end(&mut self, stream: u32, code: Option<ResetCode>, reason: CloseReason) {
        let place = match code {
            Some(code) => self.session.reset(stream, code),
            None => self.session.release(stream),
        };
        if let Some(place) = place {
            place.reset();
            self.observer.closed(reason);
        }
    }
}
