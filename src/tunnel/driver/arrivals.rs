//! What arrived over the link, passed on to the streams it is about.

use std::time::Instant;

use super::connection::Connection;
use super::local::LocalSide;
use super::{Driver, Event};
use crate::metrics::CloseReason;
use crate::session::{Incoming, RefusalCode, ResetCode};

impl Driver {
    /// Acts upon one thing that arrived.
    pub(super) fn act(&mut self, incoming: Incoming<'_>, now: Instant) {
        match incoming {
            Incoming::Data { stream, bytes } => self.deliver(stream, bytes),
            Incoming::Fin { stream } => {
                if let Some(side) = self.session.get(stream) {
                    side.end_to_pass = true;
                    side.pass_end();
                }
                self.close_if_through(stream);
            }
            Incoming::Reset { stream, code } => self.reset_by_peer(stream, code),
            Incoming::Refused { stream, code } => self.refused(stream, code),
            Incoming::Credit { stream } => self.requeue(stream),
            Incoming::Acked => self.requeue_parked(),
            Incoming::Open { stream, opening } => {
                let side = LocalSide::new(self.ready.bell(stream), None, now, self.sweep);
                self.session.admit(stream, &opening, side, now);
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
        let Some(side) = self.session.get(stream) else { return };
        if side.dead {
            return;
        }
        side.touched = sweep;
        match side.deliver(bytes) {
            Ok(count) => {
                let is_new = !side.stirred;
                self.passed(stream, count);
                if is_new {
                    self.stir(stream);
                }
            }
            Err(_) => self.local_failed(stream),
        }
    }

    fn reset_by_peer(&mut self, stream: u32, code: ResetCode) {
        let Some(side) = self.session.get(stream) else { return };
        if side.transport.is_none() {
            // The stream keeps its number until the dial is over.
            side.dead = true;
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
}
