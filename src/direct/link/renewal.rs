//! When a link takes a new connection while the old one is still good, and how.

use std::time::{Duration, Instant};

use super::LinkTask;
use super::connection::Connection;
use crate::metrics::LossReason;

/// The first renewal of a link to a server that has just come back.
const SETTLE: Duration = Duration::from_secs(1);
/// And no more of them once it has stood so long: PostgreSQL's recovery of a crash may take minutes.
const SETTLED: Duration = Duration::from_secs(600);

impl LinkTask {
    /// Dials the next connection while this one serves on.
    pub(super) fn renew(&mut self, reason: LossReason) {
        if self.renewing.is_none() && self.dialling.is_none() {
            self.renewing = Some(reason);
            self.start_dial();
        }
    }

    /// Renews the link at a better endpoint that is well by now.
    pub(super) fn move_if_outdone(&mut self) {
        let outdone = |c: &Connection| self.pool.endpoints().is_outdone(&c.opened.endpoint);
        if self.is_up() && self.scout.is_none() && self.connection.as_ref().is_some_and(outdone) {
            self.renew(LossReason::Aged);
        }
    }

    pub(super) fn renewal_due(&self) -> Option<Instant> {
        let connection = self.connection.as_ref()?;
        if self.renewing.is_some() {
            return None;
        }
        let set = self.settings.borrow().pool.max_age;
        let age = match (set, self.pool.status.learned_max_age()) {
            (Some(set), Some(learned)) => Some(set.min(learned)),
            (age, None) | (None, age) => age,
        };
        let due = match (age.map(|age| connection.opened.at + age.mul_f64(connection.age_share)), self.settles_at()) {
            (Some(aged), Some(settled)) => aged.min(settled),
            (aged, settled) => aged.or(settled)?,
        };
        Some(connection.renew_after.map_or(due, |after| due.max(after)))
    }

    /// When a connection that was made while its server came back is to be made anew. What a server is when it accepts it may
    /// remain for that connection: to one that PostgreSQL accepted while it started it says so a minute later, too, and for one
    /// that it accepted while it shut down it waits. Nothing shows on a connection without beats; so it is renewed after a
    /// second, two, four, until the server has stood for [`SETTLED`].
    fn settles_at(&self) -> Option<Instant> {
        let connection = self.connection.as_ref().filter(|connection| !connection.dialogue.speaks())?;
        anew_at(connection.opened.at, self.back?, connection.age_share)
    }
}

/// When a connection that was made at this time is made anew, by a server that came back before. `share`: of the time, so
/// that those which came back together do not all do so together.
fn anew_at(made: Instant, back: Instant, share: f64) -> Option<Instant> {
    let stood = made.saturating_duration_since(back);
    (stood < SETTLED).then(|| made + stood.max(SETTLE).mul_f64(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A recovery is over after this or that time: nobody has a connection made in it for longer than twice that.
    #[test]
    fn connections_made_in_a_recovery_are_made_anew_at_twice_the_age_of_its_server() {
        let back = Instant::now();
        let (mut made, mut all) = (back, Vec::new());
        while let Some(next) = anew_at(made, back, 1.0) {
            all.push((next - back).as_secs());
            made = next;
        }
        assert_eq!(all, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]);
    }

    #[test]
    fn connections_that_were_made_together_are_made_anew_each_after_its_share() {
        let back = Instant::now();
        let made = back + Duration::from_secs(8);
        let after = |share| (anew_at(made, back, share).unwrap() - made).as_millis();
        assert_eq!([1.0, 0.95, 0.9].map(after), [8000, 7600, 7200]);
    }
}
