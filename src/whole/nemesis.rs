//! Whatever can go wrong, by the seed: one thing after another, several at once, each undone some time later.
//!
//! Ways are clogged as FoundationDB's "swizzle" has it: a random part of them one after another, and released in another
//! order.

mod edits;
mod network;
mod processes;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::counts::Counts;
use super::stage::{Far, MS, Near, Profile, SECOND, endpoint, name};
use crate::clock;
use crate::gateway::Gateway;
use crate::link::mailbox::order;
use crate::net::memory::{self, Habits, net};

/// Strikes that end no session and no stream, and all of them.
const GENTLE: u8 = 24;
const ALL: u8 = 34;
/// More than all sessions of a run come to.
const MEMORY: u64 = 1 << 30;

/// What is to be done at its time.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Strike,
    Clog {
        gateway: usize,
        side: usize,
        clogged: bool,
    },
    ClogConnection {
        connection: usize,
        side: usize,
        clogged: bool,
    },
    LetGo {
        process: usize,
    },
    /// Another process takes the gateway's place.
    Start {
        gateway: usize,
    },
    /// What is left of a drain is cut.
    CutDrained {
        gateway: usize,
    },
    RightToken,
    /// The sidecar learns that a name leads elsewhere.
    Follow,
    Roomy {
        gateway: usize,
    },
    Calm,
}

/// See the module.
pub struct Nemesis {
    random: Rng,
    gentle: bool,
    deeds: BTreeMap<(Instant, u32), Deed>,
    next: u32,
    until: Instant,
    pub counts: Counts,
    /// Something was done that may end sessions or streams.
    pub took: bool,
}

impl Nemesis {
    pub fn new(seed: u64, profile: &Profile) -> Self {
        let now = clock::now();
        let mut nemesis = Self {
            random: Rng::with_seed(seed ^ 0xbad),
            gentle: profile.gentle,
            deeds: BTreeMap::new(),
            next: 0,
            until: now + profile.storm,
            counts: Counts::default(),
            took: false,
        };
        nemesis.later(Duration::ZERO, Deed::Strike);
        nemesis
    }

    fn later(&mut self, wait: Duration, deed: Deed) {
        // Whole milliseconds: timers have no others.
        let wait = Duration::from_millis(wait.as_millis() as u64);
        self.next += 1;
        self.deeds.insert((clock::now() + wait, self.next), deed);
    }

    fn some(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.random.f64())
    }

    /// How long something bad lasts.
    fn spell(&mut self) -> Duration {
        let most = match (self.gentle, self.random.u8(0..4)) {
            (_, 0 | 1) => 2 * SECOND,
            (true, _) => 8 * SECOND,
            (false, 2) => 10 * SECOND,
            (false, _) => 40 * SECOND,
        };
        self.some(most)
    }

    /// When to be called again; `None`: the storm is over.
    pub fn next_deed(&self) -> Option<Instant> {
        self.deeds.keys().next().map(|(at, _)| *at).filter(|at| *at <= self.until)
    }

    /// Does what is due.
    pub fn act(&mut self, near: &mut Near, gateways: &mut [Far]) {
        let now = clock::now();
        while let Some(due) = self.deeds.first_entry().filter(|due| due.key().0 <= now) {
            let deed = due.remove();
            match deed {
                Deed::Strike => {
                    let wait = self.some(1500 * MS);
                    self.later(wait, Deed::Strike);
                    self.strike(near, gateways);
                }
                Deed::Clog { gateway, side, clogged } => net(|network| network.clog(gateway, side, clogged)),
                Deed::ClogConnection { connection, side, clogged } => {
                    net(|network| network.clog_connection(connection, side, clogged));
                }
                Deed::LetGo { process } => {
                    net(|network| network.stop(process, false));
                    // Its machine was suspended, and somebody has noticed.
                    if self.random.bool() {
                        self.counts.one("nemesis: woken");
                        match gateways.iter().find(|far| far.process == process) {
                            Some(far) => far.gateway.iter().for_each(Gateway::woken),
                            None => near.hub.tell_all(order::RETRY | order::ASK),
                        }
                    }
                }
                Deed::Start { gateway } => {
                    if gateways[gateway].gateway.is_none() {
                        gateways[gateway].start();
                    }
                }
                Deed::CutDrained { gateway } => {
                    if let Some(drained) = &gateways[gateway].gateway {
                        drained.cut();
                        self.later(SECOND, Deed::Start { gateway });
                        // A process that has ended leaves nothing behind.
                        gateways[gateway].kill();
                    }
                }
                Deed::RightToken => near.give_token(true),
                Deed::Follow => near.hub.tell_all(order::FOLLOW),
                Deed::Roomy { gateway } => gateways[gateway].change(|settings| {
                    settings.limits.sessions = 1024;
                    settings.limits.streams = 1024;
                }),
                Deed::Calm => net(|network| network.habits = Habits::rough()),
            }
        }
    }

    /// Everything is undone, and nothing more will be done.
    pub fn heal(&mut self, near: &mut Near, gateways: &mut [Far], links: usize) {
        self.deeds.clear();
        net(|network| network.stop(near.process, false));
        for far in gateways.iter_mut() {
            if far.gateway.is_some() {
                net(|network| network.stop(far.process, false));
            }
            if far.gateway.as_ref().is_none_or(|gateway| gateway.is_leaving()) {
                far.kill();
                far.start();
            }
            far.change(|settings| {
                settings.limits.sessions = 1024;
                settings.limits.streams = 1024;
                settings.limits.memory = MEMORY;
            });
        }
        near.give_token(true);
        (0..gateways.len()).for_each(|gateway| name(gateway, gateway, 0));
        near.change(|settings| {
            settings.pool.size = links;
            settings.endpoints = (0..gateways.len()).map(endpoint).collect();
            settings.retry.attempts = None;
        });
        near.hub.retry();
        net(memory::Network::heal);
    }

    fn strike(&mut self, near: &mut Near, gateways: &mut [Far]) {
        let gateway = self.random.usize(0..gateways.len());
        let kinds = if self.gentle { GENTLE } else { ALL };
        match self.random.u8(0..kinds) {
            0..=5 => self.cut(),
            6..=8 => self.swizzle(gateways.len()),
            9 => self.one_way_silent(gateway),
            10 => self.both_ways_silent(gateway),
            11 => self.pause(near.process),
            12 => self.pause(gateways[gateway].process),
            13 | 14 => self.move_links(near),
            15 => self.retry(near),
            16 => self.edit_heartbeat(near),
            17 => self.edit_gateway(gateway, gateways),
            18 => self.edit_buffer(near),
            19 => self.drill(near),
            20 => self.weather(),
            21 => self.stranger(gateway),
            22 | 23 => self.rename(gateways.len()),
            // From here on something may end sessions or streams.
            24..=26 => self.kill(gateway, gateways),
            27 => self.drain(gateway, gateways),
            28 => self.wrong_token(near),
            29 => self.no_room(gateway, gateways),
            30 => self.edit_pool(near),
            31 => self.edit_endpoints(near, gateways.len()),
            _ => self.drain_links(near),
        }
    }
}
