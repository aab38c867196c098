//! What all parts of a gateway share.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::accept::Hall;
use super::log_limit::LogLimit;
use super::refusals::Refusals;
use super::session::Order;
use super::sessions::Sessions;
use super::{Files, locked};
use crate::clock;
use crate::config;
use crate::link::resolve::Resolver;
use crate::session::Violation;
use crate::session::hello::Secret;
use crate::status::{GatewayStatus, Status};
use crate::tunnel::driver::Budget;

/// When a dialer that hears of a drain may come again: within this, or as soon as the drain is over. It finds our successor
/// no sooner, and spreads this by half: with an idle gateway's `drain.quiet` of 2 s it stays below the 5 s that clients may
/// wait (`limits.wait`). Behind an address that leads to several gateways the next attempt may reach another.
pub const COME_BACK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(1500));

/// How far the gateway is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Serving = 0,
    /// No new session, no new stream; sessions may be resumed.
    Draining = 1,
    /// What is left is reset.
    Cut = 2,
}

/// Kinds of trouble with dialers that have proven themselves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// A service that could not be reached, by its name in the configuration.
    Service(String),
    /// A service that is not for whoever asked, by its name in the configuration.
    NotAllowed(String),
    /// Names that are no service.
    NoService,
    Violation(Violation),
}

/// What all its parts share.
pub struct Shared {
    pub process: Arc<Status>,
    pub status: Arc<GatewayStatus>,
    pub files: ArcSwap<Files>,
    pub sessions: Arc<Sessions>,
    pub budget: Arc<Budget>,
    pub hall: Hall,
    pub refusals: Refusals,
    pub resolver: Resolver,
    pub workers: Vec<Handle>,
    pub turn: AtomicU64,
    pub phase: AtomicU8,
    /// Streams opened since the start.
    pub came: AtomicU64,
    /// Random, of this start.
    pub incarnation: [u8; 16],
    /// What claims of sessions that are not here are held against.
    pub nobodys_secret: Secret,
    pub generator: SystemRandom,
    pub troubles: Mutex<LogLimit<Trouble>>,
    pub drain: watch::Receiver<Duration>,
}

impl Shared {
    /// As configured at this moment.
    pub fn settings(&self) -> Guard<Arc<config::Gateway>> {
        self.status.settings.load()
    }

    pub fn files(&self) -> Arc<Files> {
        self.files.load_full()
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Cut,
        }
    }

    /// Forwards only.
    pub fn enter(&self, phase: Phase) {
        if self.phase.fetch_max(phase as u8, Ordering::AcqRel) < phase as u8 {
            self.order_all(|| Order::Phase);
        }
    }

    pub fn order_all(&self, order: impl Fn() -> Order) {
        for entry in self.sessions.all() {
            // One that is over needs no orders.
            let _ = entry.order(order());
        }
    }

    /// When to come again, for those who hear of a drain: whoever takes our place is there by then.
    pub fn come_back_after(&self) -> Duration {
        self.drain.borrow().clamp(COME_BACK.0, COME_BACK.1)
    }

    pub fn next_worker(&self) -> Option<&Handle> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) as usize;
        self.workers.get(turn.checked_rem(self.workers.len())?)
    }

    pub fn random<const N: usize>(&self) -> std::io::Result<[u8; N]> {
        random(&self.generator)
    }

    /// What a dialer can cause as often as it likes is told once a minute: then `tell` is called, with how many were left
    /// out since.
    pub fn trouble(&self, trouble: Trouble, tell: impl FnOnce(u64)) {
        let left_out = locked(&self.troubles).tell(trouble, clock::now());
        if let Some(left_out) = left_out {
            tell(left_out);
        }
    }

    /// `token_fault`: the token's file holds what cannot be used.
    pub fn show_files(&self, token_fault: bool) {
        let files = self.files();
        let tls = files.tls.as_ref();
        let ends = [
            ("server", tls.and_then(|tls| tls.not_after())),
            ("client_ca", tls.and_then(|tls| tls.client_ca_not_after())),
        ];
        let metrics = &self.process.metrics;
        let tls_fault = tls.map(|tls| tls.is_behind());
        let token_fault = files.token.is_some().then_some(token_fault);
        let unusable = tls_fault.into_iter().chain(token_fault).reduce(|one, other| one || other);
        metrics.show_unusable_files("", unusable);
        for (role, end) in ends {
            match end {
                Some(end) => metrics.certificate_not_after(role, "").set(end as f64),
                None => metrics.remove_certificate(role, ""),
            }
        }
    }
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>(generator: &SystemRandom) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    #[cfg(test)]
    if crate::net::memory::fill(&mut bytes) {
        return Ok(bytes);
    }
    generator.fill(&mut bytes).map_err(|_| std::io::Error::other("the kernel gives no random bytes"))?;
    Ok(bytes)
}
