//! What befalls processes and links.

use std::time::Duration;

use super::{Deed, Nemesis};
use crate::clock;
use crate::link::drill::Order;
use crate::link::mailbox::order;
use crate::net::memory::{USERS, net};
use crate::net::rehearsal::Kind;
use crate::whole::stage::{Far, Near, SECOND};

impl Nemesis {
    /// As SIGSTOP does, or a suspended host.
    pub(super) fn pause(&mut self, process: usize) {
        if process == USERS {
            return;
        }
        self.counts.one("nemesis: process stopped");
        net(|network| network.stop(process, true));
        let spell = self.spell();
        self.later(spell, Deed::LetGo { process });
    }

    /// As SIGKILL does; another process comes some time later.
    pub(super) fn kill(&mut self, gateway: usize, gateways: &mut [Far]) {
        self.counts.one("nemesis: gateway killed");
        self.took = true;
        gateways[gateway].kill();
        let spell = self.spell();
        self.later(spell, Deed::Start { gateway });
    }

    /// A gateway leaves in order.
    pub(super) fn drain(&mut self, gateway: usize, gateways: &mut [Far]) {
        if let Some(leaving) = &gateways[gateway].gateway {
            self.counts.one("nemesis: gateway drains");
            self.took = true;
            leaving.drain();
            if self.random.bool() {
                // The sidecar hears of it late, and clients come meanwhile.
                net(|network| network.clog(gateway, 1, true));
                let late = self.some(2 * SECOND);
                self.later(late, Deed::Clog { gateway, side: 1, clogged: false });
            }
            let spell = self.spell();
            self.later(spell, Deed::CutDrained { gateway });
        }
    }

    /// All links dial anew, and move.
    pub(super) fn move_links(&mut self, near: &Near) {
        self.counts.one("nemesis: move");
        near.hub.tell_all(order::MOVE);
    }

    /// Somebody asks for a redial.
    pub(super) fn retry(&mut self, near: &Near) {
        self.counts.one("nemesis: retry");
        near.hub.retry();
    }

    /// A rehearsed outage.
    pub(super) fn drill(&mut self, near: &Near) {
        let time = self.spell().min(self.until.saturating_duration_since(clock::now()));
        let late = Duration::from_millis(self.random.u64(1..2_000));
        let kind = [Kind::Blackhole, Kind::Reset, Kind::Delay(late)][self.random.usize(0..3)];
        // One that has another drill, or no link up, is left alone.
        if near.hub.drill(Order { kind, time }).is_ok() {
            self.counts.one(match kind {
                Kind::Blackhole => "nemesis: drill, black hole",
                Kind::Reset => "nemesis: drill, reset",
                Kind::Delay(_) => "nemesis: drill, delay",
            });
        } else if self.random.bool() {
            let _ = near.hub.stop_drill();
        }
    }

    /// Some of the links are to leave.
    pub(super) fn drain_links(&mut self, near: &Near) {
        self.counts.one("nemesis: links drained");
        self.took = true;
        for slot in &*near.hub.slots() {
            if self.random.bool() {
                slot.tell(order::DRAIN);
            }
        }
    }
}
