//! Edits of the configurations while everything runs.

use super::{Deed, MEMORY, Nemesis};
use crate::whole::stage::{Far, Near, beats, endpoint, heartbeat};

impl Nemesis {
    /// Other heartbeats of the sidecar.
    pub(super) fn edit_heartbeat(&mut self, near: &mut Near) {
        self.counts.one("nemesis: heartbeat of the sidecar edited");
        let new = heartbeat(&mut self.random, near.settings.heartbeat.clone());
        near.change(|settings| settings.heartbeat = new);
    }

    /// Other heartbeats of a gateway, and other bounds for replay.
    pub(super) fn edit_gateway(&mut self, gateway: usize, gateways: &mut [Far]) {
        self.counts.one("nemesis: heartbeat of a gateway edited");
        let new = self.random.bool().then(|| beats(&mut self.random));
        let buffer = [256 << 10, 1 << 20, 16 << 20][self.random.usize(0..3)];
        let memory = [0, 1 << 20, MEMORY][self.random.usize(0..3)];
        gateways[gateway].change(|settings| {
            settings.heartbeat = new;
            settings.resume.buffer = buffer;
            settings.limits.memory = memory;
        });
    }

    /// Another bound for replay at the sidecar.
    pub(super) fn edit_buffer(&mut self, near: &mut Near) {
        self.counts.one("nemesis: buffer edited");
        let buffer = [256 << 10, 1 << 20, 16 << 20][self.random.usize(0..3)];
        near.change(|settings| {
            if let Some(tunnel) = &mut settings.tunnel {
                tunnel.resume.buffer = buffer;
            }
        });
    }

    /// A token that no gateway knows.
    pub(super) fn wrong_token(&mut self, near: &Near) {
        self.counts.one("nemesis: wrong token");
        self.took = true;
        near.give_token(false);
        let spell = self.spell();
        self.later(spell, Deed::RightToken);
    }

    /// A gateway that takes next to nobody.
    pub(super) fn no_room(&mut self, gateway: usize, gateways: &mut [Far]) {
        self.counts.one("nemesis: gateway without room");
        self.took = true;
        let (sessions, streams) = (self.random.usize(0..2), self.random.usize(1..3));
        gateways[gateway].change(|settings| {
            settings.limits.sessions = sessions;
            settings.limits.streams = streams;
        });
        let spell = self.spell();
        self.later(spell, Deed::Roomy { gateway });
    }

    /// More links, or fewer.
    pub(super) fn edit_pool(&mut self, near: &mut Near) {
        self.counts.one("nemesis: pool edited");
        self.took = true;
        let size = self.random.usize(1..=4);
        near.change(|settings| settings.pool.size = size);
    }

    /// Other endpoints.
    pub(super) fn edit_endpoints(&mut self, near: &mut Near, gateways: usize) {
        self.counts.one("nemesis: endpoints edited");
        self.took = true;
        let first = self.random.usize(0..gateways);
        let last = self.random.usize(first..gateways);
        near.change(|settings| settings.endpoints = (first..=last).map(endpoint).collect());
    }
}
