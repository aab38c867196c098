//! How connections come and go: claimed, attached, given up, lost.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::connection::Connection;
use super::{Driver, Event};
use crate::clock;
use crate::metrics::LossReason;
use crate::net::rehearsal::Rehearsal;
use crate::net::wire::Wire;
use crate::session::Violation;

impl Driver {
    pub fn has_wire(&self) -> bool {
        self.connection.is_some()
    }

    /// A beat over the connection at hand is unanswered.
    pub fn is_suspect(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.pulse.is_suspect())
    }

    /// Stops reading the connection at hand; the kernel keeps what comes. Returns the offset received so far, for a Hello
    /// or a Welcome.
    pub fn freeze(&mut self) -> u64 {
        self.frozen = true;
        #[cfg(test)]
        {
            let broken = crate::session::Broken::current();
            self.frozen = !broken.no_freeze;
            if broken.no_duplicate_removal {
                return self.session.received().saturating_sub(100);
            }
        }
        self.session.received()
    }

    /// The claim came to nothing: reads on. If the connection has broken meanwhile, that is told now.
    pub fn thaw(&mut self) {
        self.frozen = false;
        if let Some((reason, error)) = self.connection.as_mut().and_then(|connection| connection.broken.take()) {
            self.lost(reason, error);
        }
        self.ready.poke();
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Whether a connection may take over whose peer says it has received everything before `received`.
    pub fn can_resume(&self, received: u64) -> bool {
        self.session.can_resume(received)
    }

    /// Gives the connection at hand up, without an event.
    pub fn drop_wire(&mut self) {
        self.connection = None;
        self.rest = Vec::new();
    }

    /// A new connection takes over, reading allowed. The peer has received everything before `received`; `preface` goes
    /// out first and is not part of the session (a gateway's Welcome). Returns how many bytes are sent again.
    /// Errors: the peer's offset cannot be right.
    pub fn attach(&mut self, wire: Wire, received: u64, preface: Vec<u8>, rtt: Duration) -> Result<u64, Violation> {
        let told = self.session.received();
        let again = self.session.resume(received, told)?;
        self.rest = Vec::new();
        self.frozen = false;
        self.session.forget_rtt();
        self.session.set_rtt(rtt);
        // A connect's round trip has our own wake-up in it; the kernel's measure has not.
        if let Some(kernels) = wire.tcp_info().ok().and_then(|info| info.min_rtt) {
            self.session.set_rtt(kernels);
        }
        let connection = Connection::new(wire, &self.settings.beats, preface, rtt, clock::now());
        self.connection = Some(connection);
        self.requeue_parked();
        self.ready.poke();
        Ok(again)
    }

    /// Where the connection at hand leads.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.connection.as_ref().and_then(|connection| connection.wire.peer())
    }

    /// Sends a beat now, however short the silence: this machine was suspended, and no timer knows of it.
    pub fn ask_at_once(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.pulse.ask_at_once(clock::now());
        }
        self.ready.poke();
    }

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

    /// The peer's word cannot be right: the connection goes, and the owner hears of it as of any violation.
    pub fn break_off(&mut self, violation: Violation) {
        self.violated(violation);
        self.ready.poke();
    }

    /// The socket failed. While a claim is out, that is told once it is decided.
    pub(super) fn failed(&mut self, error: &io::Error) {
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

    /// The connection is gone, and the owner hears why.
    pub(super) fn lost(&mut self, reason: LossReason, error: String) {
        self.drop_wire();
        self.events.push_back(Event::Lost { reason, error });
    }

    /// The peer broke the protocol: the connection goes, and the session with it.
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
