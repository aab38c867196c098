//! When the next attempt may begin, and when a Hello may leave.
//!
//! Without a session, and while nobody waits, dials follow `retry`: a round through the places, then a wait that grows.
//! While somebody's bytes wait for a session that lives, the wait is what they notice, so attempts overlap: a fresh one every
//! second, for a SYN that was lost comes again only after one, two, four seconds, and the network may return between.

use std::time::{Duration, Instant};

use super::interface::Action;
use super::places::Search;
use super::{AttemptId, Claims, IN_FLIGHT, Life, Stage};
use crate::link::backoff;

/// Between attempts in a hurry, drawn anew for each: never more than the second that is promised, and spread, so that many
/// links do not dial as one.
const URGENT: (Duration, Duration) = (Duration::from_millis(750), Duration::from_millis(1000));

/// After a loss somebody waits for: little enough not to be noticed, enough to spread a gateway's whole clientele.
const FIRST_SPREAD: Duration = Duration::from_millis(250);

/// After a gateway that does not have the session: the way is well, so the next one may be asked sooner. Spread widely, for
/// behind an address that leads to its gateways strictly in turn two links that dial alternately would meet the wrong ones
/// for ever.
const NEXT_DOOR: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(750));

/// A superseded claim is made again within this.
const SOON: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1000));

impl Claims {
    /// When to come back with [`Input::Tick`](super::Input::Tick).
    pub fn next_deadline(&self) -> Option<Instant> {
        let is_ready = self.attempts.iter().any(|a| a.stage == Stage::Ready);
        let claim = self.claim_at().filter(|_| is_ready);
        [self.expires(), self.next_dial(), claim].into_iter().flatten().min()
    }

    /// Somebody waits for a session whose connection is lost, or may be.
    pub(super) fn is_urgent(&self) -> bool {
        self.streams_wait && self.session.is_some() && !self.is_well()
    }

    pub(super) fn search(&self) -> Search {
        match (&self.session, self.is_well()) {
            (None, _) => Search::New,
            (Some(_), true) => self.follows.map_or(Search::Move, Search::Follow),
            (Some(_), false) => Search::Session,
        }
    }

    /// When the next attempt begins; `None`: none is wanted.
    pub(super) fn next_dial(&self) -> Option<Instant> {
        if !matches!(self.life, Life::Running | Life::Draining) {
            return None;
        }
        let at = if self.is_urgent() {
            self.urgent_at
        } else {
            let wanted = !self.is_well() || self.moving.is_some();
            // One that was begun before a move does not serve it.
            let first = self.moving.filter(|_| self.is_well()).unwrap_or(AttemptId(0));
            if !wanted || self.attempts.len() >= IN_FLIGHT || self.attempts.iter().any(|a| a.id >= first) {
                return None;
            }
            // A connection that waits for its turn to claim says nothing, and a gateway gives it up within seconds.
            let turn = self.claim_at().filter(|_| self.is_well());
            turn.map_or(self.calm_at, |turn| turn.max(self.calm_at))
        };
        // Later if every place asked to be left alone.
        match self.places.held_until(self.search(), at) {
            Some(until) => Some(at.max(until)),
            None => (self.settings.endpoints > 0 || self.search() == Search::Session).then_some(at),
        }
    }

    /// Before when no Hello may leave. A claim stops the old connection, so while that is not dead they are rare: a path
    /// that is merely slow must get its chance to answer. And a second claim beside one that may be about to succeed would
    /// have everything sent again twice.
    pub(super) fn claim_at(&self) -> Option<Instant> {
        let last = self.last_claim?;
        let old = self.holder().map(|_| last + self.settings.timeout);
        let other = self.is_asking().then(|| last + self.patience());
        old.max(other)
    }

    /// The attempt that a third takes the place of: the oldest, if it has had its time. If not, the path is long and the
    /// oldest is the likeliest to succeed, so the newer one goes, unless that has got further.
    pub(super) fn displaced(&self, now: Instant) -> Option<AttemptId> {
        let oldest = self.attempts.first()?;
        let overdue = now.saturating_duration_since(oldest.started) >= self.patience();
        let newer = self.attempts.iter().skip(1).rfind(|a| a.stage == Stage::Dialling);
        Some(newer.filter(|_| !overdue).unwrap_or(oldest).id)
    }

    /// How long an attempt may take: half as long again as the last that succeeded, and never less than the time to the
    /// next one.
    fn patience(&self) -> Duration {
        URGENT.0.max(self.took * 3 / 2)
    }

    pub(super) fn dialled(&mut self, now: Instant) {
        self.last_dial = Some(now);
        self.urgent_at = now + self.between(URGENT);
    }

    pub(super) fn wait_after_loss(&mut self, now: Instant, stood: bool) {
        let retry = &self.settings.retry;
        let wait = if stood {
            backoff::after_standing(retry, &mut self.random)
        } else {
            self.claim_failures = self.claim_failures.saturating_add(1);
            backoff::after_failures(retry, self.claim_failures, &mut self.random)
        };
        self.calm_at = now + wait;
        let spread = self.between((Duration::ZERO, FIRST_SPREAD));
        self.urgent_at = self.urgent_at.max(now + spread);
    }

    /// At once, for suspicion is cheap; but a link that flaps around the threshold dials once a `timeout`, if nobody waits,
    /// and else once a second.
    pub(super) fn wait_after_suspicion(&mut self, now: Instant) {
        self.calm_at = self.last_dial.map_or(now, |last| now.max(last + self.settings.timeout));
    }

    /// An attempt failed. The next place of the round is tried at once; after the last one, or if the fault is ours, wait.
    pub(super) fn wait_after_failure(&mut self, now: Instant, fault_is_ours: bool, out: &mut Vec<Action>) {
        if !fault_is_ours && !self.places.round_is_over(self.search(), now) {
            self.calm_at = now;
            return;
        }
        self.places.begin_round();
        if self.session.is_none() {
            self.failures = self.failures.saturating_add(1);
            return self.wait_for_new(now, out);
        }
        self.claim_failures = self.claim_failures.saturating_add(1);
        self.calm_at = now + backoff::after_failures(&self.settings.retry, self.claim_failures, &mut self.random);
    }

    pub(super) fn wait_after_wrong_door(&mut self, now: Instant) {
        let soon = now + self.between(NEXT_DOOR);
        self.urgent_at = self.urgent_at.min(soon);
    }

    pub(super) fn wait_after_superseded(&mut self, now: Instant) {
        self.calm_at = now + self.between(SOON);
    }

    /// The session is gone. If it had been any good, the next one is dialled at once; else a gateway that welcomes and
    /// forgets would be dialled in a loop.
    pub(super) fn wait_after_session(&mut self, now: Instant, was_good: bool, out: &mut Vec<Action>) {
        self.claim_failures = 0;
        if was_good {
            self.failures = 0;
            self.calm_at = now;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.wait_for_new(now, out);
        }
    }

    fn wait_for_new(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.settings.retry.attempts.is_some_and(|limit| self.failures >= limit) {
            self.life = Life::Failed;
            self.abandon(out, |_| true);
            out.push(Action::Failed);
        }
        self.calm_at = now + backoff::after_failures(&self.settings.retry, self.failures, &mut self.random);
    }

    /// An operator, or an edit, cuts every wait short.
    pub(super) fn hurry_up(&mut self, now: Instant) {
        if self.life == Life::Failed {
            self.life = Life::Running;
            self.failures = 0;
        }
        self.places.forget();
        self.calm_at = now;
        if self.attempts.len() < IN_FLIGHT {
            self.urgent_at = now;
        }
    }

    fn between(&mut self, (least, most): (Duration, Duration)) -> Duration {
        least + (most - least).mul_f64(self.random.f64())
    }
}
