//! How many bytes may wait for a connection, in the session and in the kernel together. Pure.
//!
//! Bounded by time, not only by size, so that a beat on a slow link never stands behind minutes of data: about 50 ms of
//! what the path delivers.

use std::time::{Duration, Instant};

/// As long as this may bytes wait.
const SPAN: Duration = Duration::from_millis(50);
/// Half of them wait in the session, half in the kernel.
const HALF: f64 = 0.025;
/// The least of a half.
const LEAST: u64 = 8 * 1024;
/// The most in the session: one batch. 64 KiB cost 18 % of the throughput, more than this gains nothing (measured).
const BATCH: u64 = 256 * 1024;
/// The most in the kernel.
const UNSENT: u64 = 512 * 1024;

/// The room of one connection.
#[derive(Debug)]
pub(super) struct Room {
    pub session: u64,
    pub kernel: u64,
    /// Since when it takes nothing.
    blocked: Option<Instant>,
}

impl Room {
    /// A path nobody knows yet gets a whole batch. It is not judged by its rate, which is small for every path at first.
    pub fn new() -> Self {
        Self { session: BATCH, kernel: BATCH, blocked: None }
    }

    /// The connection takes no more for the moment.
    pub fn blocked(&mut self, now: Instant) {
        self.blocked.get_or_insert(now);
    }

    /// It takes bytes again. `rate`: bytes a second as the kernel delivers them, asked for only if that took longer than
    /// it should. True if the kernel's own bound is another now.
    pub fn took(&mut self, now: Instant, rate: impl FnOnce() -> u64) -> bool {
        let Some(since) = self.blocked.take() else { return false };
        let waited = now.saturating_duration_since(since);
        let before = self.kernel;
        if waited > SPAN {
            let rate = rate();
            // Zero: the kernel has not measured it yet.
            if rate > 0 {
                let half = (rate as f64 * HALF) as u64;
                self.session = half.clamp(LEAST, BATCH);
                self.kernel = half.clamp(LEAST, UNSENT);
            }
        } else if waited < SPAN / 4 {
            self.session = (self.session * 2).min(BATCH);
            self.kernel = (self.kernel * 2).min(UNSENT);
        }
        self.kernel != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn fault_21_a_slow_path_holds_sixteen_kibibytes_and_a_fast_one_a_batch() {
        let start = Instant::now();
        let mut room = Room::new();
        assert!(!room.took(start, || unreachable!()), "it was never refused");
        room.blocked(start);
        room.blocked(start + 30 * MS);
        assert!(room.took(start + 51 * MS, || 8_000), "64 kbit/s");
        assert_eq!((room.session, room.kernel), (LEAST, LEAST));
        room.blocked(start);
        assert!(!room.took(start + 30 * MS, || unreachable!()), "as it should be");
        for _ in 0..10 {
            room.blocked(start);
            room.took(start + 2 * MS, || unreachable!());
        }
        assert_eq!((room.session, room.kernel), (BATCH, UNSENT), "a path that drains at once");
        room.blocked(start);
        assert!(!room.took(start + 60 * MS, || 125_000_000), "1 Gbit/s that was held up once");
    }
}
