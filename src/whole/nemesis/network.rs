//! What befalls the network.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Deed, Nemesis};
use crate::config::Beats;
use crate::net::memory::{self, Cut, Habits, USERS, net};
use crate::session::hello::{self, Hello, SessionId, Token, VERSIONS};
use crate::whole::stage::{MS, SECOND, gateway_addresses, name};

impl Nemesis {
    /// Breaks a connection, now or some bytes later.
    pub(super) fn cut(&mut self) {
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

    /// A name leads elsewhere: to the gateway's other address, or to another gateway.
    pub(super) fn rename(&mut self, gateways: usize) {
        let (endpoint, which) = (self.random.usize(0..gateways), self.random.usize(0..2));
        let gateway = if self.random.bool() { endpoint } else { self.random.usize(0..gateways) };
        self.counts.one("nemesis: name leads elsewhere");
        name(endpoint, gateway, which);
        let late = self.some(2 * SECOND);
        self.later(late, Deed::Follow);
    }

    /// Clogs some of all ways, one after another, and releases them in another order.
    pub(super) fn swizzle(&mut self, gateways: usize) {
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

    /// Nothing passes in one direction.
    pub(super) fn one_way_silent(&mut self, gateway: usize) {
        let (side, spell) = (self.random.usize(0..2), self.spell());
        self.counts.one("nemesis: one way silent");
        net(|network| network.clog(gateway, side, true));
        self.later(spell, Deed::Clog { gateway, side, clogged: false });
    }

    /// Nothing passes in either.
    pub(super) fn both_ways_silent(&mut self, gateway: usize) {
        self.counts.one("nemesis: both ways silent");
        let spell = self.spell();
        for side in 0..2 {
            net(|network| network.clog(gateway, side, true));
            self.later(spell, Deed::Clog { gateway, side, clogged: false });
        }
    }

    /// Connections made from now on are slow, narrow, sliced or doomed.
    pub(super) fn weather(&mut self) {
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
    pub(super) fn stranger(&mut self, gateway: usize) {
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

/// Bytes of a hello of a version that nobody speaks.
fn foreign_hello(mut hello: Vec<u8>) -> Vec<u8> {
    let version = VERSIONS.1 + 7;
    for at in [9, 10] {
        if let Some(byte) = hello.get_mut(at) {
            *byte = version;
        }
    }
    hello
}
