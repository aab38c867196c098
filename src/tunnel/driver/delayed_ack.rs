//! Acknowledgements and credit over a long path, a few a round trip. Pure.
//!
//! Whoever only receives answers with small packets, some fifty on their way at a time where a gigabit a second comes in over
//! 50 ms. They let the kernel's congestion window for the other way grow past the 16 packets from which cubic's HyStart looks
//! at round trips, and these grow with the queue that the peer's data stands in: slow start is over, at 20 or 80 packets. The
//! first upload after a download then began from there, and took seconds to fill the path. So what may wait is said three
//! times a round trip, or with what may not: the window stays where it began, and slow start is still to come when there is
//! much to send.

use std::time::{Duration, Instant};

/// On a shorter path a small window is made up for at once.
const LONG: Duration = Duration::from_millis(5);
/// So many times a round trip.
const TIMES: u32 = 3;

/// What may wait, of one connection.
#[derive(Debug, Default)]
pub(super) struct DelayedAck {
    /// When something was last said, whatever it was.
    said: Option<Instant>,
    wait: Duration,
}

impl DelayedAck {
    /// Something is said now: what may wait goes with it.
    pub fn said(&mut self, now: Instant) {
        self.said = Some(now);
    }

    /// The round trip, if it is long enough for anything to wait.
    pub fn long(rtt: Option<Duration>) -> Option<Duration> {
        rtt.filter(|rtt| *rtt >= LONG)
    }

    /// Until when something that may wait should; `None`: it is to be said now. `least`: the shortest round trip known; `rtt`
    /// asks for that of this moment.
    pub fn holds(&mut self, least: Duration, now: Instant, rtt: impl FnOnce() -> Option<Duration>) -> Option<Instant> {
        if let Some(until) = self.said.map(|said| said + self.wait).filter(|until| now < *until) {
            return Some(until);
        }
        self.wait = rtt().unwrap_or(least).max(least) / TIMES;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How often something is said within four round trips of 50 ms, if there is always something.
    fn said(least: Duration, rtt: Option<Duration>) -> usize {
        let (start, mut delayed) = (Instant::now(), DelayedAck::default());
        let mut says = |ms: u32| {
            let now = start + ms * MS;
            let says = DelayedAck::long(Some(least)).and_then(|least| delayed.holds(least, now, || rtt)).is_none();
            if says {
                delayed.said(now);
            }
            says
        };
        (0..200).filter(|ms| says(*ms)).count()
    }

    #[test]
    fn what_may_wait_is_said_three_times_a_round_trip_of_the_moment() {
        assert_eq!(said(50 * MS, Some(100 * MS)), 6, "the queue counts");
        assert_eq!(said(50 * MS, Some(MS)), 12, "no kernel is believed that tells of less than was ever seen");
        assert_eq!(said(50 * MS, None), 12);
        assert_eq!(said(LONG / 2, Some(100 * MS)), 200, "a short path");
    }

    #[test]
    fn what_is_said_for_another_reason_takes_it_along() {
        let (start, mut delayed) = (Instant::now(), DelayedAck::default());
        assert_eq!(delayed.holds(30 * MS, start, || None), None);
        delayed.said(start);
        assert_eq!(delayed.holds(30 * MS, start + 9 * MS, || unreachable!()), Some(start + 10 * MS));
        delayed.said(start + 9 * MS);
        assert_eq!(delayed.holds(30 * MS, start + 10 * MS, || unreachable!()), Some(start + 19 * MS));
    }
}
