//! Whose connection holds.
//!
//! **An offset that cannot be.** A claim whose proof and epoch hold, and which tells an offset that was never sent, is told
//! by whoever made the session; there is no connection over which the two could ever agree again. It counts as a violation,
//! the session is over, and the dialer hears `unknown`: a session that has ended, so it resets its streams at once instead of
//! searching on. An offset behind what was acknowledged is no lie: that claim was overtaken on its way. Nothing but a claim
//! whose epoch holds touches the connection at hand.

use std::time::Duration;

use super::{Claim, Connection, End, Live};
use crate::clock;
use crate::gateway::{Trouble, admit, handshake};
use crate::metrics::Refusal;
use crate::net::wire::{Parked, Wire};
use crate::session::Violation;
use crate::session::hello::{self, Code, Welcome};
use crate::workers::of_process;

impl Live {
    /// Somebody who knows the secret would go on with the session over a new connection.
    pub(super) fn claimed(&mut self, claim: Claim) -> Result<(), End> {
        let Claim { wire, connection } = claim;
        // An error means that the connection is gone already.
        let Ok(wire) = Parked::unpark(wire) else { return Ok(()) };
        let hello = &connection.received.hello;
        #[cfg(test)]
        let fenced = !crate::session::Broken::current().no_fencing;
        #[cfg(not(test))]
        let fenced = true;
        let overtaken = if fenced && hello.epoch <= self.epoch {
            Some("a later claim has its session")
        } else if hello.received < self.driver.acknowledged() {
            // Its dialer has given it up and acknowledged more since, over the connection that held on.
            Some("the claim is older than what its dialer has acknowledged")
        } else {
            None
        };
        if let Some(why) = overtaken {
            let why = why.to_owned();
            let turned = admit::turned(wire, Code::Superseded, Duration::ZERO, Refusal::Superseded, why);
            self.turn_away(*turned, connection);
            return Ok(());
        }
        if !self.driver.can_resume(connection.received.hello.received) {
            self.shared.status.metrics.violations.count(Violation::Resume.name());
            self.tell_violation(Violation::Resume);
            self.turn_away(*admit::unknown(wire), connection);
            return Err(End::Violation);
        }
        self.epoch = connection.received.hello.epoch;
        self.terms.resumed(&connection.received.hello, &self.shared.settings());
        self.driver.retune(self.terms.driver(&self.shared.budget));
        let (peer, outage) = (connection.peer, self.lost.map(clock::since));
        self.take_over(wire, connection)?;
        self.shown.figures.resumed(self.epoch, outage);
        self.shown.figures.set_buffer(self.terms.resume().buffer);
        self.shown.connected(peer);
        tracing::info!(
            session = ?self.membership.id,
            identity = self.membership.identity.as_ref().map(tracing::field::display),
            peer = peer.map(tracing::field::display),
            epoch = self.epoch,
            streams = self.driver.streams(),
            outage = outage.map(tracing::field::debug),
            "a session goes on over a new connection"
        );
        Ok(())
    }

    /// The connection at hand goes, the new one comes. What was read of the old one and not yet parsed is sent again.
    pub(super) fn take_over(&mut self, wire: Wire, connection: Connection) -> Result<(), End> {
        let received = self.driver.freeze();
        self.driver.drop_wire();
        let hello = &connection.received.hello;
        let settings = self.shared.settings();
        let welcome = Welcome {
            version: hello.versions.1.min(hello::VERSIONS.1),
            session: self.membership.id,
            epoch: self.epoch,
            received,
            nonce: self.nonce,
            incarnation: self.shared.incarnation,
            beats: self.terms.beats(),
            resume: self.terms.resume(),
            streams: u32::try_from(settings.limits.streams).unwrap_or(u32::MAX),
            name: settings.name.clone(),
            advertise: settings.advertise.as_ref().map(|endpoint| endpoint.name.clone()),
        };
        let welcome = welcome.encode(&self.membership.secret, &connection.binding, connection.received.bytes());
        let rtt = wire.tcp_info().map(|info| info.rtt).unwrap_or_default();
        self.driver.attach(wire, hello.received, welcome, rtt).map_err(|violation| {
            self.tell_violation(violation);
            End::Violation
        })?;
        self.held = Some(connection.held);
        self.lost = None;
        Ok(())
    }

    fn turn_away(&self, turned: handshake::Turned, connection: Connection) {
        let shared = self.shared.clone();
        tokio::spawn(of_process(async move {
            handshake::turn_away(&shared, turned, connection.peer).await;
            drop(connection);
        }));
    }

    pub(super) fn tell_violation(&self, violation: Violation) {
        self.shared.trouble(Trouble::Violation(violation), |left_out| {
            tracing::warn!(
                session = ?self.membership.id,
                identity = self.membership.identity.as_ref().map(tracing::field::display),
                reason = violation.name(),
                left_out,
                "a dialer broke the protocol, its session is over: {violation}"
            );
        });
    }
}
