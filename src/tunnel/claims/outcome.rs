//! What follows from a loss, a suspicion, the end of an attempt, an answer, the end of a session.

use std::time::{Duration, Instant};

use super::interface::{Action, Answer, AttemptId, Failure, Gone};
use super::{Attempt, Claims, Holder, Life, Session, Stage};
use crate::link::backoff;

impl Claims {
    pub(super) fn lost(&mut self, now: Instant) {
        if self.holder().is_none() {
            return;
        }
        let stood = self.credit(now);
        self.frozen = false;
        // Whoever looks for the session now asks for every name.
        self.stay();
        if let Some(session) = &mut self.session {
            session.holder = None;
            session.lost = now;
        }
        self.places.begin();
        self.wait_after_loss(now, stood);
    }

    pub(super) fn suspect(&mut self, now: Instant) {
        let news = self.holder_mut().is_some_and(|holder| !std::mem::replace(&mut holder.suspect, true));
        if news {
            self.places.begin();
            self.wait_after_suspicion(now);
        }
    }

    /// An attempt came to nothing, in whatever stage.
    pub(super) fn failed(&mut self, now: Instant, id: AttemptId, failure: Failure, out: &mut Vec<Action>) {
        let Some((attempt, is_newest)) = self.take(id) else { return };
        if attempt.epoch().is_some() && !is_newest {
            return; // an older claim's end says nothing
        }
        if attempt.stage == Stage::Dialling && matches!(failure, Failure::Refused | Failure::Resolve | Failure::Tls) {
            self.places.reject(attempt.place);
        }
        self.wait_after_failure(now, failure == Failure::Local, out);
    }

    pub(super) fn answered(&mut self, now: Instant, id: AttemptId, answer: Answer, out: &mut Vec<Action>) {
        if !self.attempts.iter().any(|a| a.id == id && a.epoch().is_some()) {
            return; // late news
        }
        let Some((attempt, is_newest)) = self.take(id) else { return };
        if let Answer::Welcome { deadline, advertise } = answer {
            return self.welcomed(now, attempt, is_newest, (deadline, advertise), out);
        }
        if !is_newest {
            return;
        }
        let place = attempt.place;
        match answer {
            Answer::Welcome { .. } => {}
            Answer::Busy { retry_after } => {
                // Spread, or all that were sent away would come back together.
                self.places.hold(place, now + retry_after.mul_f64(0.5 + self.random.f64()));
                self.wait_after_failure(now, false, out);
            }
            // Waiting cannot cure these; an edit may, and that is `Retry`.
            Answer::Version | Answer::Denied => {
                self.places.reject(place);
                let wait = backoff::after_failures(&self.settings.retry, u32::MAX, &mut self.random);
                self.places.hold(place, now + wait);
                self.wait_after_failure(now, false, out);
            }
            Answer::Unknown { own_name: true } if self.session.is_some() && !self.is_well() => {
                self.start_fresh(now, Gone::Unknown, out);
            }
            Answer::Unknown { .. } if self.follows.is_some() && self.is_well() => {
                self.stay();
                out.push(Action::Elsewhere);
            }
            // From another name: not here. From its own, while the connection is well: two gateways have one name, and a
            // move met the wrong one. That is no reason to end a session that lives.
            Answer::Unknown { .. } => {
                self.places.reject(place);
                if self.session.is_some() && !self.is_well() {
                    out.push(Action::AnotherIsUp);
                }
                self.wait_after_wrong_door(now);
                self.wait_after_failure(now, false, out);
            }
            // Only we know the session's secret, so a claim of our own holds it. A higher epoch takes it back.
            Answer::Superseded if self.session.is_some() => self.wait_after_superseded(now),
            Answer::Superseded => self.wait_after_failure(now, false, out),
        }
    }

    fn welcomed(
        &mut self,
        now: Instant,
        attempt: Attempt,
        is_newest: bool,
        (deadline, advertise): (Duration, bool),
        out: &mut Vec<Action>,
    ) {
        self.credit(now);
        self.took = now.saturating_duration_since(attempt.started);
        self.places.settled(attempt.place, advertise);
        let holder = Some(Holder { since: now, suspect: false });
        let stood = self.session.as_ref().is_some_and(|session| session.stood);
        self.session = Some(Session { deadline, holder, lost: now, stood });
        if self.moving.is_some_and(|first| attempt.id >= first) {
            (self.moving, self.follows) = (None, None);
        }
        // Older claims can no longer win; a newer one still can, and told the same offset.
        self.frozen = !is_newest;
        out.push(Action::Attach { id: attempt.id, frozen: self.frozen });
        self.abandon(out, |a| is_newest && a.epoch().is_some());
    }

    pub(super) fn start_fresh(&mut self, now: Instant, gone: Gone, out: &mut Vec<Action>) {
        let Some(session) = &self.session else { return };
        let stood = session.stood || session.holder.is_some_and(|holder| self.has_stood(now, holder));
        self.session = None;
        self.frozen = false;
        (self.moving, self.follows) = (None, None);
        self.abandon(out, |_| true);
        out.push(Action::StartFresh(gone));
        if self.life == Life::Draining {
            self.life = Life::Closed;
            return;
        }
        self.places.begin();
        self.wait_after_session(now, stood && gone != Gone::Violation, out);
    }
}
