//! The last round trips of an upstream, so that a page opened after an outage still shows it.
//!
//! Constant memory: [`KEPT`] slots of 12 bytes an upstream, whatever its links and beats. A slot takes all beats of half a
//! heartbeat interval and keeps the slowest, so one link's beats have a slot each, and those of a large pool share some.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many slots are kept: five minutes of one link's beats at the default interval.
pub const KEPT: usize = 60;

/// What the beats of one slot came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trip {
    /// How long ago the slot began, in steps of 0.1 s.
    pub age: Duration,
    /// The slowest round trip, in µs up to 71 minutes; `None`: no beat was answered.
    pub slowest: Option<Duration>,
    /// Beats unanswered.
    pub missed: u16,
}

/// The ring. Written once a beat, read when somebody looks; both hold its lock for less than a microsecond.
#[derive(Default)]
pub struct Trips(Mutex<VecDeque<Slot>>);

#[derive(Clone, Copy)]
struct Slot {
    /// Tenths of a second by the writer's clock.
    at: u32,
    /// µs; 0: none.
    slowest: u32,
    missed: u16,
}

impl Trips {
    /// A beat was answered, or the round trip was measured in another way. `now_ms`: of a clock that only goes forward, as in the other calls.
    pub fn answered(&self, trip: Duration, interval: Duration, now_ms: u64) {
        let trip = u32::try_from(trip.as_micros()).unwrap_or(u32::MAX).max(1);
        self.slot(interval, now_ms, |slot| slot.slowest = slot.slowest.max(trip));
    }

    /// A beat was not answered in time.
    pub fn missed(&self, interval: Duration, now_ms: u64) {
        self.slot(interval, now_ms, |slot| slot.missed = slot.missed.saturating_add(1));
    }

    /// Oldest first.
    pub fn read(&self, now_ms: u64) -> Vec<Trip> {
        let now = tenths(now_ms);
        let trip = |slot: &Slot| Trip {
            age: Duration::from_millis(100) * now.saturating_sub(slot.at),
            slowest: (slot.slowest > 0).then(|| Duration::from_micros(slot.slowest.into())),
            missed: slot.missed,
        };
        self.lock().iter().map(trip).collect()
    }

    fn slot(&self, interval: Duration, now_ms: u64, act: impl FnOnce(&mut Slot)) {
        let now = tenths(now_ms);
        let mut slots = self.lock();
        let width = tenths(u64::try_from(interval.as_millis() / 2).unwrap_or(u64::MAX));
        if slots.back().is_none_or(|last| now.saturating_sub(last.at) >= width.max(1)) {
            if slots.len() >= KEPT {
                slots.pop_front();
            } else if slots.len() == slots.capacity() {
                // By a quarter of the bound, never past it: most upstreams of a thousand are quiet ones.
                slots.reserve_exact(KEPT / 4);
            }
            slots.push_back(Slot { at: now, slowest: 0, missed: 0 });
        }
        if let Some(slot) = slots.back_mut() {
            act(slot);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tenths(ms: u64) -> u32 {
    u32::try_from(ms / 100).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn each_beat_of_one_link_has_a_slot() {
        let trips = Trips::default();
        trips.answered(ms(3), INTERVAL, 1_000);
        trips.missed(INTERVAL, 6_000);
        let slot = |age, slowest, missed| Trip { age: ms(age), slowest, missed };
        assert_eq!(trips.read(7_000), [slot(6_000, Some(ms(3)), 0), slot(1_000, None, 1)]);
    }

    #[test]
    fn the_beats_of_many_links_share_slots_and_the_slowest_is_kept() {
        let trips = Trips::default();
        for (at, trip) in [(1_000, 3), (1_100, 9), (1_200, 2)] {
            trips.answered(ms(trip), INTERVAL, at);
        }
        trips.missed(INTERVAL, 3_400);
        trips.answered(ms(1), INTERVAL, 3_500);
        assert_eq!(
            trips.read(3_500),
            [
                Trip { age: ms(2_500), slowest: Some(ms(9)), missed: 1 },
                Trip { age: ms(0), slowest: Some(ms(1)), missed: 0 }
            ]
        );
    }

    #[test]
    fn no_more_is_kept_than_the_bound() {
        let trips = Trips::default();
        for n in 0..1_000 {
            trips.answered(Duration::from_micros(n), INTERVAL, n * 5_000);
        }
        let read = trips.read(1_000 * 5_000);
        assert_eq!(read.len(), KEPT);
        assert_eq!(read.last().and_then(|trip| trip.slowest), Some(Duration::from_micros(999)));
        assert!(trips.lock().capacity() * size_of::<Slot>() <= 1024, "{}", trips.lock().capacity());
    }

    #[test]
    fn what_is_out_of_range_is_told_as_the_end_of_it() {
        let trips = Trips::default();
        trips.answered(Duration::MAX, Duration::MAX, u64::MAX);
        trips.answered(Duration::ZERO, Duration::ZERO, 0);
        assert_eq!(trips.read(0).len(), 1, "a clock that goes back makes no slot");
        assert_eq!(trips.read(0)[0].slowest, Some(Duration::from_micros(u32::MAX.into())));
    }
}
