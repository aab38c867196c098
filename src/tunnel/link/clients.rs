//! Clients who come to a link.

use super::LinkTask;
use crate::clock;
use crate::session::Opening;
use crate::tunnel::client::Client;
use crate::tunnel::driver::Local;

impl LinkTask {
    /// Takes in who has come; sends on whom this link cannot carry.
    pub(super) fn take_clients(&mut self) {
        let before = self.driver.streams();
        if self.driver.is_used_up() && self.slot.is_open() {
            self.drain_away("its session has no number left for another stream");
        }
        for client in self.slot.take_clients() {
            if self.driver.has_wire() && self.driver.can_open() {
                self.carry(client);
            } else {
                self.slot.one_less();
                self.hub.enter(client);
            }
        }
        if before == 0 && self.driver.streams() > 0 {
            self.step(crate::tunnel::claims::Input::Tick);
        }
    }

    fn carry(&mut self, client: Client) {
        let Client { socket, accepted, service, peer, local, hops, admitted } = client;
        let transport = match socket.into_transport() {
            Ok(transport) => transport,
            Err(error) => {
                self.slot.one_less();
                tracing::warn!(upstream = self.hub.name, %error, "client lost: its socket cannot be registered");
                return;
            }
        };
        let metrics = &self.hub.status.metrics;
        let opening = Opening { hops, client: peer, local, ..Opening::to(&service) };
        let local_side = Local { transport, guard: Box::new(admitted) };
        if self.driver.open(opening, local_side).is_err() {
            // It was asked a moment ago; the socket closes.
            self.slot.one_less();
            return;
        }
        metrics.wait.observe(clock::since(accepted).as_secs_f64());
        metrics.connections.inc();
    }
}
