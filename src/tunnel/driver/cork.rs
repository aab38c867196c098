//! Small writes over a long path, put together when there are many at once. Pure.
//!
//! Each small write is a packet, and a quiet connection may only send some ten of them before the first is acknowledged: of
//! many clients who come at the same moment the last would wait a whole round trip for it. So a burst of them shares
//! packets, at the price of a millisecond or two where a round trip takes many.

use std::time::{Duration, Instant};

/// On a shorter path nothing is gained.
const LONG: Duration = Duration::from_millis(5);
/// With so many bytes to send, a packet is full anyway.
const FULL: u64 = 1200;
/// So many small writes at once leave as they come …
const FREE: u32 = 6;
/// … within such a time; what is more leaves together at its end.
const SPAN: Duration = Duration::from_millis(2);

/// The small writes of one connection.
#[derive(Debug)]
pub(super) struct Cork {
    since: Instant,
    writes: u32,
}

impl Cork {
    pub fn new(now: Instant) -> Self {
        Self { since: now, writes: 0 }
    }

    /// Whether `unsent` bytes should wait, and until when. `None`: write them now, which is counted.
    pub fn holds(&mut self, unsent: u64, rtt: Option<Duration>, now: Instant) -> Option<Instant> {
        if unsent == 0 || unsent >= FULL || rtt.is_none_or(|rtt| rtt < LONG) {
            return None;
        }
        if now.saturating_duration_since(self.since) >= SPAN {
            *self = Self::new(now);
        }
        if self.writes < FREE {
            self.writes += 1;
            return None;
        }
        Some(self.since + SPAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_small_writes_shares_packets_and_a_lone_one_never_waits() {
        let start = Instant::now();
        let long = Some(10 * LONG);
        let mut cork = Cork::new(start);
        let mut held = 0;
        for micros in 0..64u32 {
            held += u32::from(cork.holds(80, long, start + Duration::from_micros(10) * micros).is_some());
        }
        assert_eq!(held, 64 - FREE);
        assert_eq!(cork.holds(80, long, start + SPAN / 2), Some(start + SPAN));
        assert_eq!(cork.holds(80, long, start + SPAN), None);
        assert_eq!(cork.holds(FULL, long, start + SPAN), None, "a full packet");
        for _ in 0..100 {
            assert_eq!(cork.holds(80, Some(LONG / 2), start), None, "a short path");
        }
    }
}
