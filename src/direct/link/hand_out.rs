//! How a connection comes to a link and leaves it: offered, given to a client, lost, renewed, given up.

use std::time::Instant;

use super::connection::{Happened, poll_listen, poll_once};
use super::tell::tell;
use super::{Ended, LinkTask};
use crate::direct::beat::Heard;
use crate::direct::client::Client;
use crate::link::state::{Action, Input, State};
use crate::metrics::LossReason;

impl LinkTask {
    pub(super) fn came_up(&mut self, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        connection.opened.tie.prove();
        self.pool.proven(&connection.opened.endpoint);
        self.refill = None;
        let Some(connection) = &self.connection else { return };
        if !connection.dialogue.speaks() {
            self.pool.status.metrics.measured(connection.opened.rtt);
        }
        if !self.trusting {
            let told = self.pool.may_tell(now);
            if told {
                self.record(
                    "up",
                    None,
                    connection.opened.address.map_or(String::new(), |a| format!("connected to {a}")),
                );
            }
            tell!(
                told,
                info,
                upstream = self.pool.name,
                link = self.slot.id,
                endpoint = connection.opened.endpoint.name,
                address = connection.opened.address.map(tracing::field::display),
                "link up"
            );
            self.pool.status.metrics.changed();
        }
        self.wanted = false;
        if std::mem::take(&mut self.lost) {
            self.pool.status.metrics.reconnects.inc();
        }
        if std::mem::take(&mut self.troubled) {
            self.back = Some(now);
        }
        self.trusting = true;
        // What kept it from coming up is over; events and the log remember it.
        self.status.update(|view| view.last_error = None);
        self.publish();
        self.offer(now);
        self.move_if_outdone();
    }

    pub(super) fn offer(&mut self, now: Instant) {
        if self.scout.is_some() || !matches!(self.machine.state(), State::Up { .. }) {
            return;
        }
        let Some(connection) = &mut self.connection else { return };
        if connection.offered || connection.dialogue.owed() > 0 {
            return;
        }
        let spent = connection.dialogue.is_spent();
        match self.pool.offer(&self.slot) {
            Some(client) => return self.hand_out(now, client),
            None => connection.offered = true,
        }
        if spent {
            self.renew(LossReason::Aged);
        }
    }

    pub(super) fn withdraw(&mut self) -> Option<Client> {
        let connection = self.connection.as_mut()?;
        if !std::mem::take(&mut connection.offered) {
            return None;
        }
        self.pool.withdraw(&self.slot)
    }

    /// Gives the connection to a client, unless it ended this very moment.
    pub(super) fn hand_out(&mut self, now: Instant, client: Client) {
        let state = self.machine.state();
        let Some(mut connection) = self.connection.take_if(|c| c.dialogue.owed() == 0) else {
            return self.pool.come_again(client);
        };
        if !matches!(state, State::Up { .. } | State::Suspect { .. }) {
            self.connection = Some(connection);
            return self.pool.come_again(client);
        }
        match poll_once(|cx| poll_listen(cx, &mut connection)) {
            Some(Happened::Ended(error)) => {
                self.connection = Some(connection);
                self.pool.come_again(client);
                return self.ended(now, error);
            }
            Some(Happened::Heard(Heard::Wrong(why))) => {
                self.connection = Some(connection);
                self.pool.come_again(client);
                return self.lose(now, LossReason::Protocol, &why);
            }
            _ => {}
        }
        self.observe_lifetime(now, &connection);
        self.refill = Some(self.pool.stay_alive());
        let banner = connection.dialogue.take_banner();
        self.pool.carry(client, connection.opened, banner);
        self.trusting = true;
        // A renewal under way becomes the refill.
        let dialling = self.renewing.take().is_some() && self.dialling.is_some();
        match self.machine.handle(now, Input::HandedOut) {
            Some(Action::Dial) if !dialling => self.start_dial(),
            _ => {}
        }
        self.publish();
    }

    /// The connection is gone, or is given up: counted, told, and dialled again when the backoff says so.
    pub(super) fn lose(&mut self, now: Instant, reason: LossReason, what: &str) {
        if matches!(reason, LossReason::Heartbeat | LossReason::Protocol) {
            self.pool.answers(false);
        }
        // A reset may be a timer's work, which whoever heard it knows.
        self.troubled |= reason != LossReason::Reset;
        self.tell_of_loss(now, reason, what);
        self.handle(now, Input::Lost);
    }

    /// The connection goes on purpose, and the next one is dialled at once.
    pub(super) fn give_up(&mut self, now: Instant, reason: LossReason) {
        if let Some(client) = self.withdraw() {
            return self.hand_out(now, client);
        }
        let Some(old) = self.connection.take() else { return };
        self.observe_lifetime(now, &old);
        if self.is_up() {
            self.pool.status.metrics.lose(reason);
            self.refill = Some(self.pool.stay_alive());
        }
        old.let_go();
        if let Some(Action::Dial) = self.machine.handle(now, Input::HandedOut) {
            self.start_dial();
        }
        if matches!(self.machine.state(), State::Connecting { .. }) {
            self.trusting = false;
        }
    }

    pub(super) fn leave(mut self, ended: Ended) -> Ended {
        if let Some(client) = self.withdraw() {
            self.pool.come_again(client);
        }
        if let Some((endpoint, _)) = &self.scout
            && ended == Ended::Returned
            && self.is_up()
        {
            self.pool.endpoints().recovered(endpoint);
            tracing::info!(upstream = self.pool.name, endpoint = endpoint.name, "endpoint is well again");
            self.record("recovered", None, endpoint.name.clone());
        }
        if let Some(old) = self.connection.take() {
            let reason = if self.scout.is_some() { LossReason::Aged } else { LossReason::Reload };
            self.pool.status.metrics.lose(reason);
            old.let_go();
        }
        ended
    }
}
