//! Whatever can go wrong, by the seed: one thing after another, several at once, each undone some time later.
//!
//! Ways are clogged as FoundationDB's "swizzle" has it: a random part of them one after another, and released in another
//! order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::counts::Counts;
use super::stage::{Far, MS, Near, Profile, SECOND, beats, endpoint, gateway_addresses, heartbeat, name};
use super::tap::foreign_hello;
use crate::clock;
use crate::config::Beats;
use crate::gateway::Gateway;
use crate::link::drill::Order;
use crate::net::memory::{self, Cut, Habits, USERS, net};
use crate::net::rehearsal::Kind;
use crate::session::hello::{self, Hello, SessionId, Token};
use crate::tunnel::slot::order;

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
        let kinds = if self.gentle { 24 } else { 34 };
        match self.random.u8(0..kinds) {
            0..=5 => self.cut(),
            6..=8 => self.swizzle(gateways.len()),
            9 => {
                let (side, spell) = (self.random.usize(0..2), self.spell());
                self.counts.one("nemesis: one way silent");
                net(|network| network.clog(gateway, side, true));
                self.later(spell, Deed::Clog { gateway, side, clogged: false });
            }
            10 => {
                self.counts.one("nemesis: both ways silent");
                let spell = self.spell();
                for side in 0..2 {
                    net(|network| network.clog(gateway, side, true));
                    self.later(spell, Deed::Clog { gateway, side, clogged: false });
                }
            }
            11 => self.pause(near.process),
            12 => self.pause(gateways[gateway].process),
            13 | 14 => {
                self.counts.one("nemesis: move");
                near.hub.tell_all(order::MOVE);
            }
            15 => {
                self.counts.one("nemesis: retry");
                near.hub.retry();
            }
            16 => {
                self.counts.one("nemesis: heartbeat of the sidecar edited");
                let new = heartbeat(&mut self.random, near.settings.heartbeat.clone());
                near.change(|settings| settings.heartbeat = new);
            }
            17 => {
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
            18 => {
                self.counts.one("nemesis: buffer edited");
                let buffer = [256 << 10, 1 << 20, 16 << 20][self.random.usize(0..3)];
                near.change(|settings| {
                    if let Some(tunnel) = &mut settings.tunnel {
                        tunnel.resume.buffer = buffer;
                    }
                });
            }
            19 => {
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
            20 => self.weather(),
            21 => self.stranger(gateway),
            22 | 23 => self.rename(gateways.len()),
            24..=26 => {
                self.counts.one("nemesis: gateway killed");
                self.took = true;
                gateways[gateway].kill();
                let spell = self.spell();
                self.later(spell, Deed::Start { gateway });
            }
            27 => {
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
            28 => {
                self.counts.one("nemesis: wrong token");
                self.took = true;
                near.give_token(false);
                let spell = self.spell();
                self.later(spell, Deed::RightToken);
            }
            29 => {
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
            30 => {
                self.counts.one("nemesis: pool edited");
                self.took = true;
                let size = self.random.usize(1..=4);
                near.change(|settings| settings.pool.size = size);
            }
            31 => {
                self.counts.one("nemesis: endpoints edited");
                self.took = true;
                let first = self.random.usize(0..gateways.len());
                let last = self.random.usize(first..gateways.len());
                near.change(|settings| settings.endpoints = (first..=last).map(endpoint).collect());
            }
            _ => {
                self.counts.one("nemesis: links drained");
                self.took = true;
                for slot in &*near.hub.slots() {
                    if self.random.bool() {
                        slot.tell(order::DRAIN);
                    }
                }
            }
        }
    }

    /// Breaks a connection, now or some bytes later.
    fn cut(&mut self) {
        let links = net(|network| network.links());
        if links.is_empty() {
            return;
        }
        let connection = links[self.random.usize(0..links.len())];
        let bytes = match self.random.u8(0..4) {
            0 => 1,
            1 => self.random.u64(1..40),
            2 => self.random.u64(1..1000),
            _ => self.random.u64(1..40_000),
        };
        let how = [Cut::Reset, Cut::Reset, Cut::End, Cut::HalfOpen][self.random.usize(0..4)];
        self.counts.one(format!("nemesis: cut {how:?}"));
        let side = self.random.usize(0..2);
        net(|network| network.cut_after(connection, side, bytes, how));
    }

    /// Clogs some of all ways, one after another, and releases them in another order.
    fn swizzle(&mut self, gateways: usize) {
        self.counts.one("nemesis: swizzle");
        let links = net(|network| network.links());
        for side in 0..2 {
            for gateway in 0..gateways {
                if self.random.u8(0..3) == 0 {
                    let (from, spell) = (self.some(2 * SECOND), self.spell());
                    self.later(from, Deed::Clog { gateway, side, clogged: true });
                    self.later(from + spell, Deed::Clog { gateway, side, clogged: false });
                }
            }
            for connection in &links {
                if self.random.bool() {
                    let (connection, from, spell) = (*connection, self.some(2 * SECOND), self.spell());
                    self.later(from, Deed::ClogConnection { connection, side, clogged: true });
                    self.later(from + spell, Deed::ClogConnection { connection, side, clogged: false });
                }
            }
        }
    }

    /// A name leads elsewhere: to the gateway's other address, or to another gateway.
    fn rename(&mut self, gateways: usize) {
        let (endpoint, which) = (self.random.usize(0..gateways), self.random.usize(0..2));
        let gateway = if self.random.bool() { endpoint } else { self.random.usize(0..gateways) };
        self.counts.one("nemesis: name leads elsewhere");
        name(endpoint, gateway, which);
        let late = self.some(2 * SECOND);
        self.later(late, Deed::Follow);
    }

    fn pause(&mut self, process: usize) {
        if process == USERS {
            return;
        }
        self.counts.one("nemesis: process stopped");
        net(|network| network.stop(process, true));
        let spell = self.spell();
        self.later(spell, Deed::LetGo { process });
    }

    /// Connections made from now on are slow, narrow, sliced or doomed.
    fn weather(&mut self) {
        self.counts.one("nemesis: weather");
        let latency = MS * [1, 20, 150, 400][self.random.usize(0..4)];
        let habits = Habits {
            latency: (latency, latency * 2),
            rate: [None, None, Some(8), Some(100)][self.random.usize(0..4)],
            capacity: [(1 << 10, 4 << 10), (16 << 10, 64 << 10), (64 << 10, 256 << 10)][self.random.usize(0..3)],
            pieces: [1, 4, 20][self.random.usize(0..3)],
            doomed: [(0, 1), (30, 200), (60, 400), (30, 5000)][self.random.usize(0..4)],
            late: [(0, MS), (40, 6 * SECOND)][self.random.usize(0..2)],
        };
        net(|network| network.habits = habits);
        let spell = self.spell();
        self.later(spell, Deed::Calm);
    }

    /// Somebody who is no dialer of ours comes to a gateway.
    fn stranger(&mut self, gateway: usize) {
        self.counts.one("nemesis: stranger");
        let hello = Hello {
            versions: hello::VERSIONS,
            session: SessionId::NEW,
            epoch: 1,
            received: 0,
            nonce: [7; 32],
            beats: Beats { interval: SECOND, timeout: SECOND, misses: 3 },
            resume: hello::Resume { deadline: SECOND, buffer: 1 << 20 },
        };
        let token = Token::new(b"what a stranger makes up").expect("long enough");
        let bytes = hello.encode(None, Some(&token), &[0; 32]);
        let bytes = match self.random.u8(0..4) {
            0 => bytes,
            1 => foreign_hello(bytes),
            2 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            _ => bytes[..self.random.usize(0..bytes.len())].to_vec(),
        };
        let stays = self.some(8 * SECOND);
        tokio::spawn(memory::of(USERS, async move {
            let Some(dial) = memory::connect(gateway_addresses(gateway)[0]) else { return };
            let Ok(Ok((mut socket, _))) = tokio::time::timeout(10 * SECOND, dial).await else { return };
            let _ = socket.write_all(&bytes).await;
            let mut answer = [0; 512];
            let _ =
                tokio::time::timeout(stays, async { while matches!(socket.read(&mut answer).await, Ok(1..)) {} }).await;
        }));
    }
}
