//! What a server's own idle timer is, learned from how it ends warm connections. Pure.
//!
//! A server that cuts connections it thinks idle is not down. If everlink renews them a little earlier, no client meets one
//! that is being closed. But a restart of the server also ends connections, several at one moment and with nobody to dial
//! afterwards; nothing is learned from that.

use std::time::{Duration, Instant};

/// A connection younger than this says nothing of a timer.
const SHORTEST: Duration = Duration::from_secs(2);
/// Ends nearer to each other than this have one cause between them.
const APART: Duration = Duration::from_secs(1);
/// So many ends at about the same age make a timer.
const ENDS: usize = 3;
/// "About the same": the oldest at most this share above the youngest.
const SPREAD: f64 = 0.2;
/// Renewed at this share of the shortest age seen.
const SHARE: f64 = 0.8;
/// Forgotten when nothing confirms it for so long.
const MEMORY: Duration = Duration::from_secs(3600);

/// The ends seen at one upstream.
#[derive(Debug, Default)]
pub struct Ages {
    /// Age at the end and when; confirmed by a dial that succeeded afterwards.
    confirmed: Vec<(Duration, Instant)>,
    /// Ends whose next dial has not come out yet.
    pending: Vec<(Duration, Instant)>,
    learned: Option<(Duration, Instant)>,
}

impl Ages {
    /// The server ended a warm connection of this age. Returns whether one of about this age was ended before, at another
    /// moment: a timer's work, then, and no sign of a server that goes down.
    pub fn ended(&mut self, age: Duration, now: Instant) -> bool {
        let alike = |known: Duration| known.max(age) <= known.min(age).mul_f64(1.0 + SPREAD);
        let before = |&(known, at): &(Duration, Instant)| now.saturating_duration_since(at) >= APART && alike(known);
        let seen = self.confirmed.iter().any(before) || self.learned.is_some_and(|(learned, _)| age >= learned);
        if age > SHORTEST {
            self.pending.push((age, now));
            // Bounded by the ends that can matter.
            if self.pending.len() > 64 {
                self.pending.remove(0);
            }
        }
        seen
    }

    /// The next dial came out. A failure clears the server of having a timer: it was going down.
    pub fn dialled(&mut self, succeeded: bool) {
        if !succeeded {
            self.pending.clear();
            return;
        }
        for (age, at) in std::mem::take(&mut self.pending) {
            match self.confirmed.last_mut() {
                // Several at once count as one, and for the shortest of them.
                Some((known, last)) if at.saturating_duration_since(*last) < APART => *known = age.min(*known),
                _ => self.confirmed.push((age, at)),
            }
        }
        let surplus = self.confirmed.len().saturating_sub(ENDS);
        self.confirmed.drain(..surplus);
        let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
        for &(age, _) in &self.confirmed {
            least = least.min(age);
            most = most.max(age);
        }
        if self.confirmed.len() == ENDS && most <= least.mul_f64(1.0 + SPREAD) {
            let age = least.mul_f64(SHARE);
            // Once learned, ends come rarely; those that do come can only shorten it.
            let at = self.confirmed[ENDS - 1].1;
            self.learned = Some(match self.learned {
                Some((known, _)) => (known.min(age), at),
                None => (age, at),
            });
            self.confirmed.clear();
        }
    }

    /// The age at which to renew a connection, if one has been learned and not yet forgotten.
    pub fn learned(&mut self, now: Instant) -> Option<Duration> {
        if self.learned.is_some_and(|(_, at)| now.saturating_duration_since(at) > MEMORY) {
            self.learned = None;
        }
        self.learned.map(|(age, _)| age)
    }

    /// An edit of the upstream: what was learned may no longer hold.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    /// Ends at (time, age), each followed by a dial.
    fn after(ends: &[(f64, f64)], dial: bool) -> Option<Duration> {
        let start = Instant::now();
        let mut ages = Ages::default();
        let mut now = start;
        for &(at, age) in ends {
            now = start + secs(at);
            ages.ended(secs(age), now);
            ages.dialled(dial);
        }
        ages.learned(now)
    }

    #[test]
    fn three_ends_at_about_one_age_are_a_timer() {
        assert_eq!(after(&[(60.0, 60.0), (120.5, 60.2), (181.0, 61.0)], true), Some(secs(48.0)));
        assert_eq!(after(&[(60.0, 60.0), (120.5, 60.2)], true), None, "two are not");
    }

    #[test]
    fn ages_that_differ_say_nothing() {
        assert_eq!(after(&[(60.0, 60.0), (120.0, 30.0), (180.0, 60.0)], true), None);
    }

    #[test]
    fn a_restart_that_ends_all_at_one_moment_teaches_nothing() {
        assert_eq!(after(&[(60.0, 60.0), (60.1, 60.0), (60.2, 60.0), (60.3, 60.0)], true), None);
    }

    #[test]
    fn of_several_ends_at_one_moment_the_shortest_age_counts() {
        let ends = [(60.0, 60.0), (60.1, 55.0), (120.5, 60.2), (181.0, 61.0)];
        assert_eq!(after(&ends, true), Some(secs(44.0)));
    }

    #[test]
    fn a_server_that_is_gone_afterwards_teaches_nothing() {
        assert_eq!(after(&[(60.0, 60.0), (120.0, 60.0), (180.0, 60.0)], false), None);
    }

    #[test]
    fn an_end_is_known_when_one_of_its_age_came_at_another_moment() {
        let (start, mut ages) = (Instant::now(), Ages::default());
        let mut ended = |at: f64, age: f64| {
            let known = ages.ended(secs(age), start + secs(at));
            ages.dialled(true);
            known
        };
        assert!(!ended(60.0, 60.0));
        assert!(!ended(60.1, 60.0), "at the same moment: the server goes down, perhaps");
        assert!(!ended(90.0, 30.0), "another age");
        assert!(ended(120.5, 61.0));
        // Three at about one age: from now on links are renewed at 48 s, so a younger one met no timer.
        assert!(ended(180.0, 60.0) && ended(240.0, 60.0));
        assert!(!ended(300.0, 20.0) && ended(400.0, 59.0));
    }

    #[test]
    fn young_connections_teach_nothing() {
        assert_eq!(after(&[(2.0, 1.9), (4.0, 1.9), (6.0, 1.9)], true), None);
    }

    #[test]
    fn what_was_learned_is_forgotten_after_an_hour_or_by_an_edit() {
        let start = Instant::now();
        let mut ages = Ages::default();
        for n in 1..=3 {
            ages.ended(secs(60.0), start + secs(60.0 * f64::from(n)));
            ages.dialled(true);
        }
        assert_eq!(ages.learned(start + secs(3700.0)), Some(secs(48.0)));
        assert_eq!(ages.learned(start + secs(3600.0 + 181.0)), None);
        for n in 1..=3 {
            ages.ended(secs(60.0), start + secs(60.0 * f64::from(n)));
            ages.dialled(true);
        }
        ages.forget();
        assert_eq!(ages.learned(start + secs(200.0)), None);
    }
}
