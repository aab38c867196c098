//! How a session comes to its end.

use super::{Live, Order};
use crate::clock;
use crate::gateway::{Phase, admit, handshake};
use crate::log;
use crate::metrics::{CloseReason, Label, LossReason, SessionEnd as End};
use crate::net::wire::Parked;
use crate::session::ResetCode;
use crate::tunnel::driver::Driver;
use crate::workers::of_process;

impl Live {
    pub(super) fn connection_lost(&mut self, reason: LossReason, error: &str) -> Result<(), End> {
        self.held = None;
        self.lost = Some(clock::now());
        self.shown.disconnected();
        self.shared.status.metrics.lose(reason);
        if self.done {
            return Err(End::Done);
        }
        if self.cut.is_some() {
            return Err(End::Cut);
        }
        tracing::info!(
            session = ?self.membership.id,
            identity = self.membership.identity.as_ref().map(tracing::field::display),
            reason = reason.name(),
            streams = self.driver.streams(),
            deadline = ?self.terms.resume().deadline,
            "a session lost its connection and waits: {}",
            log::escape(error.as_bytes())
        );
        self.tell_awaited(self.phase);
        Ok(())
    }

    /// A drain waits for a dialer that may be gone for good: whoever waits for the drain should know.
    pub(super) fn tell_awaited(&self, phase: Phase) {
        let Some(lost) = self.lost.filter(|_| phase == Phase::Draining) else { return };
        let deadline = self.terms.resume().deadline.saturating_sub(clock::since(lost));
        let at_most = deadline.min(*self.shared.drain.borrow());
        tracing::warn!(
            session = ?self.membership.id,
            identity = self.membership.identity.as_ref().map(tracing::field::display),
            streams = self.driver.streams(),
            ?at_most,
            "the drain waits for a session that has no connection: its dialer may come back for its streams"
        );
    }

    /// The session is forgotten, and everything that belongs to it.
    pub(super) fn end(self, end: End) {
        let Self { membership, mut inbox, mut driver, shared, .. } = self;
        let (id, age) = (membership.id, clock::since(membership.made));
        let identity = membership.identity.clone();
        // From here on nobody finds it; whoever has just done so hears the same as all who come later.
        drop(membership);
        inbox.close();
        while let Ok(order) = inbox.try_recv() {
            if let Order::Claim(claim) = order
                && let Ok(wire) = Parked::unpark(claim.wire)
            {
                let (shared, connection) = (shared.clone(), claim.connection);
                tokio::spawn(of_process(async move {
                    handshake::turn_away(&shared, *admit::unknown(wire), connection.peer).await;
                    drop(connection);
                }));
            }
        }
        let reason = match end {
            End::Expired => CloseReason::Expired,
            End::Done => CloseReason::ClientReset,
            End::Drained | End::Cut => CloseReason::Drained,
            End::Violation => CloseReason::Error,
        };
        let streams = driver.end_streams(ResetCode::Error, reason);
        shared.status.metrics.end(end);
        let identity = identity.as_ref().map(tracing::field::display);
        tracing::info!(session = ?id, identity, end = end.name(), streams, ?age, "a session is over");
    }
}

/// Whether a session that has nothing to do is to end.
#[derive(Clone, Copy)]
pub(super) struct Leaving {
    pub done: bool,
    pub phase: Phase,
}

impl Leaving {
    pub fn end(self) -> End {
        match self.phase {
            Phase::Cut => End::Cut,
            _ if self.done => End::Done,
            _ => End::Drained,
        }
    }

    /// One may be on its way that was opened before the dialer knew of the drain.
    pub fn expects_streams(self, driver: &Driver) -> bool {
        self.phase == Phase::Draining && !self.done && driver.has_wire() && !driver.is_go_away_heard()
    }

    /// Nothing is left to say, and for all but a cut session nothing is left to be heard either: a dialer that misses the
    /// last bytes of a stream could not get them from a session that is gone.
    pub fn may(self, driver: &Driver) -> bool {
        match self.phase {
            Phase::Cut => !driver.has_wire() || driver.is_flushed(),
            Phase::Serving if !self.done => false,
            _ if self.expects_streams(driver) => false,
            _ => driver.has_wire() && driver.streams() == 0 && driver.is_flushed() && !driver.is_owed(),
        }
    }
}
