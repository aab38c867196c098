//! A drain under way: when it is over, and what it says meanwhile.

use std::time::{Duration, Instant};

use crate::config;
use crate::lifecycle::DrainClock;

/// How often a drain says what it waits for.
const TOLD_EVERY: Duration = Duration::from_secs(3);
/// With no new client to come, a drain is over so long after the last: one just accepted may not be counted yet.
const HELD_QUIET: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct Drain {
    pub(super) clock: DrainClock,
    told: Instant,
}

impl Drain {
    /// `held`: no new client can come.
    pub(super) fn new(settings: &config::Drain, held: bool) -> Self {
        let now = Instant::now();
        let quiet =
            if held { Some(settings.quiet.map_or(HELD_QUIET, |quiet| quiet.min(HELD_QUIET))) } else { settings.quiet };
        Self { clock: DrainClock::new(&config::Drain { quiet, ..settings.clone() }, now), told: now }
    }

    pub(super) fn tell(&mut self, clients: usize) {
        if self.told.elapsed() >= TOLD_EVERY {
            self.told = Instant::now();
            tracing::info!(clients, "draining");
        }
    }
}
