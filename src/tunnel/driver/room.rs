//! How many bytes may wait for a connection, in the session and in the kernel together. Pure.
//!
//! Bounded by time, not only by size, so that a beat on a slow link never stands behind minutes of data: about 50 ms of
//! what the path delivers.

use std::time::{Duration, Instant};

/// Half of it waits in the session, half in the kernel.
const HALF: f64 = 0.025;
/// The least of a half.
const LEAST: u64 = 8 * 1024;
/// The most in the session: one batch. 64 KiB cost 18 % of the throughput, more than this gains nothing (measured).
const BATCH: u64 = 256 * 1024;
/// The most in the kernel.
const UNSENT: u64 = 512 * 1024;
/// The path is asked again after this.
const AGAIN: Duration = Duration::from_millis(50);

/// The room of one connection.
#[derive(Debug)]
pub(super) struct Room {
    pub session: u64,
    pub kernel: u64,
    next_look: Instant,
}

impl Room {
    /// A path nobody knows yet gets a whole batch: slow ones are found out by the first that waits.
    pub fn new(now: Instant) -> Self {
        Self { session: BATCH, kernel: BATCH, next_look: now }
    }

    /// The connection takes no more for the moment: is it time to ask the kernel how fast it is?
    pub fn wants_look(&self, now: Instant) -> bool {
        now >= self.next_look
    }

    /// The kernel says it delivers so many bytes a second. True if its own bound is another now.
    pub fn delivered(&mut self, a_second: u64, now: Instant) -> bool {
        self.next_look = now + AGAIN;
        if a_second == 0 {
            return false;
        }
        let half = (a_second as f64 * HALF) as u64;
        self.session = half.clamp(LEAST, BATCH);
        let kernel = half.clamp(LEAST, UNSENT);
        // Not for every trembling of the rate.
        let other = kernel > self.kernel / 4 * 5 || kernel < self.kernel / 5 * 4;
        if other {
            self.kernel = kernel;
        }
        other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_21_a_slow_path_holds_sixteen_kibibytes_and_a_fast_one_a_batch() {
        let start = Instant::now();
        let mut room = Room::new(start);
        assert!(room.wants_look(start));
        assert!(room.delivered(8_000, start), "64 kbit/s");
        assert_eq!((room.session, room.kernel), (LEAST, LEAST));
        assert!(!room.wants_look(start + AGAIN / 2) && room.wants_look(start + AGAIN));
        assert!(!room.delivered(8_100, start));
        assert!(room.delivered(125_000_000, start), "1 Gbit/s");
        assert_eq!((room.session, room.kernel), (BATCH, UNSENT));
        assert!(!room.delivered(0, start), "a kernel that does not know changes nothing");
    }
}
