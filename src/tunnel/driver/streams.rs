//! How streams begin, wait, and end; and what their local sockets have to say.

use super::Driver;
use super::local::{Local, LocalSide, Reading};
use super::sweep::SWEEP;
use crate::clock;
use crate::metrics::CloseReason;
use crate::session::{Opening, RefusalCode, ResetCode};

impl Driver {
    /// Opens a stream for a client. `Err`: this session takes no more.
    pub fn open(&mut self, opening: Opening, local: Local) -> Result<u32, Local> {
        if self.session.is_going_away() {
            return Err(local);
        }
        let now = clock::now();
        // Its number is known only then, and so is its bell.
        let side = LocalSide::new(self.ready.bell(0), None, now, self.sweep);
        match self.session.open(opening, side, now) {
            Ok(stream) => {
                self.settle(stream, local);
                Ok(stream)
            }
            Err(_) => Err(local),
        }
    }

    /// Whether [`open`](Self::open) would take another stream.
    pub fn can_open(&self) -> bool {
        !self.session.is_going_away() && self.session.can_open()
    }

    /// Another stream needs another session.
    pub fn is_used_up(&self) -> bool {
        self.session.is_used_up()
    }

    /// The service of a stream that [`Event::Open`](super::Event::Open) told of is there. Late answers are dropped.
    pub fn accept(&mut self, stream: u32, local: Local) {
        match self.session.get(stream) {
            Some(side) if side.transport.is_none() && !side.dead => {}
            Some(side) if side.dead => {
                self.session.release(stream);
                return;
            }
            _ => return,
        }
        self.session.accept(stream);
        self.settle(stream, local);
    }

    /// The service of a stream that [`Event::Open`](super::Event::Open) told of cannot be had.
    pub fn refuse(&mut self, stream: u32, code: RefusalCode) {
        match self.session.get(stream) {
            Some(side) if side.dead => drop(self.session.release(stream)),
            Some(side) if side.transport.is_none() => drop(self.session.refuse(stream, code)),
            _ => {}
        }
        self.ready.poke();
    }

    fn settle(&mut self, stream: u32, local: Local) {
        let bell = self.ready.bell(stream);
        let Some(side) = self.session.get(stream) else { return };
        bell.ring();
        side.bell = bell;
        side.settle(local);
        // Accepted clients have their keepalive from the listener.
        side.sustained = self.near;
        self.unsustained |= !self.near;
        if self.unsustained || self.settings.idle_timeout.is_some() {
            self.next_sweep.get_or_insert_with(|| clock::now() + SWEEP);
        }
    }

    /// Streams, those whose service is being dialled included.
    pub fn streams(&self) -> usize {
        self.session.streams()
    }

    /// Ends every stream by a reset, at the local sockets and, if there is still somebody, at the peer. Returns how many.
    pub fn end_streams(&mut self, code: ResetCode, reason: CloseReason) -> usize {
        let streams = self.session.ids();
        for stream in &streams {
            self.end(*stream, Some(code), reason);
        }
        streams.len()
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
        let Some(side) = self.session.get(stream) else { return };
        side.bell.off();
        if side.reading == Reading::Idle {
            side.reading = Reading::Queued;
            self.fresh.push_back(stream);
        }
        if side.has_queue() {
            match side.flush() {
                Ok(count) => {
                    side.touched = sweep;
                    self.passed(stream, count);
                }
                Err(_) => return self.local_failed(stream),
            }
        }
        if let Some(side) = self.session.get(stream) {
            side.pass_end();
        }
        self.close_if_through(stream);
    }

    pub(super) fn passed(&mut self, stream: u32, count: usize) {
        if count > 0 {
            self.received += count as u64;
            self.session.pass(stream, count);
        }
    }

    /// The stream may send again.
    pub(super) fn requeue(&mut self, stream: u32) {
        if let Some(side) = self.session.get(stream)
            && side.reading == Reading::NoCredit
        {
            side.reading = Reading::Queued;
            self.bulk.push_back(stream);
        }
    }

    /// Bytes were acknowledged: streams that waited for room may go on.
    pub(super) fn requeue_parked(&mut self) {
        for stream in std::mem::take(&mut self.parked) {
            if let Some(side) = self.session.get(stream)
                && side.reading == Reading::NoRoom
            {
                side.reading = Reading::Queued;
                self.bulk.push_back(stream);
            }
        }
    }

    /// Ends the stream once both directions have come to their ends.
    pub(super) fn close_if_through(&mut self, stream: u32) {
        let through = self.session.get(stream).is_some_and(|side| side.is_through());
        if through && self.session.is_finished(stream) {
            // Services' sockets have no bound to be taken off.
            if let Some(side) = self.session.release(stream).filter(|_| self.near) {
                side.let_go();
            }
            self.observer.closed(CloseReason::Finished);
        }
    }

    /// The local socket failed: whoever was connected is gone.
    pub(super) fn local_failed(&mut self, stream: u32) {
        let reason = if self.near { CloseReason::ClientReset } else { CloseReason::UpstreamReset };
        self.end(stream, Some(ResetCode::Reset), reason);
    }

    /// Ends a stream: whoever is connected reads a reset, and the peer is told if `code` is given.
    pub(super) fn end(&mut self, stream: u32, code: Option<ResetCode>, reason: CloseReason) {
        let side = match code {
            Some(code) => self.session.reset(stream, code),
            None => self.session.release(stream),
        };
        if let Some(side) = side {
            side.reset();
            self.observer.closed(reason);
        }
    }
}
