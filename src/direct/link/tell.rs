//! What a link says of itself: in the log, in the status, in the metrics.

use std::time::{Duration, Instant, SystemTime};

use super::LinkTask;
use super::connection::Connection;
use crate::link::state::State;
use crate::metrics::{DialOutcome, Label, LinkState, LossReason};
use crate::status::Event;

/// A link that flaps tells of its suspicions once in so long; more often would fill the log and push out every other event.
const SUSPICION_TOLD: Duration = Duration::from_secs(60);

/// An event at its level, or at `debug` when enough has been told.
macro_rules! tell {
    ($told:expr, $level:ident, $($rest:tt)*) => {
        if $told {
            tracing::$level!($($rest)*)
        } else {
            tracing::debug!($($rest)*)
        }
    };
}

pub(super) use tell;

impl LinkTask {
    pub(super) fn tell_of_loss(&mut self, now: Instant, reason: LossReason, what: &str) {
        if let Some(client) = self.withdraw() {
            self.pool.come_again(client);
        }
        if let Some(connection) = &self.connection {
            let metrics = &self.pool.status.metrics;
            metrics.lose(reason);
            metrics.changed();
            self.pool.endpoint_series.with(&connection.opened.endpoint.name, |metrics| metrics.losses.inc());
            let lived = now.saturating_duration_since(connection.opened.at);
            metrics.lifetime.observe(lived.as_secs_f64());
            if reason == LossReason::Heartbeat {
                let _ = connection.opened.transport.reset_on_close();
            }
            let (upstream, link, endpoint) = (&self.pool.name, self.slot.id, &connection.opened.endpoint.name);
            let word = reason.name();
            let told = self.pool.may_tell(now);
            if self.refill.is_some() {
                tell!(told, info, upstream, link, endpoint, reason = word, ?lived, "link is renewed: {what}");
            } else {
                tell!(told, warn, upstream, link, endpoint, reason = word, ?lived, "link lost: {what}");
            }
            if told {
                self.record("lost", Some(reason), what.to_owned());
            }
        }
        self.pool.lost(what.to_owned());
        self.status.update(|view| view.last_error = Some(what.to_owned()));
        self.lost = true;
        self.trusting = false;
        self.renewing = None;
    }

    pub(super) fn tell_of_failure(&mut self, endpoint: &str, outcome: DialOutcome, what: &str) {
        let attempt = match self.machine.state() {
            State::Connecting { attempt } | State::Proving { attempt } => attempt,
            _ => 1,
        };
        // A scout makes one attempt, and is followed by the next: theirs are counted together.
        let attempt = match &self.scout {
            Some((endpoint, _)) => attempt.max(self.pool.endpoints().failures(endpoint)),
            None => attempt,
        };
        self.status.update(|view| view.last_error = Some(what.to_owned()));
        // The first failure and then ever fewer: a long outage must not fill the log, however many clients wait meanwhile.
        let wanted = std::mem::take(&mut self.wanted);
        let news = attempt.is_power_of_two() && !wanted;
        let told = news && self.pool.may_tell(Instant::now());
        if told {
            self.record_at("dial_failed", Some(endpoint.to_owned()), None, what.to_owned());
        }
        let (upstream, link, outcome) = (&self.pool.name, self.slot.id, outcome.name());
        tell!(told, warn, upstream, link, endpoint, outcome, attempt, "dial failed: {what}");
    }

    pub(super) fn tell_of_suspicion(&mut self, now: Instant) {
        let (upstream, link) = (&self.pool.name, self.slot.id);
        if self.told_suspicion.is_some_and(|told| now.saturating_duration_since(told) < SUSPICION_TOLD) {
            return tracing::debug!(upstream, link, "link suspect: a heartbeat went unanswered");
        }
        let told = self.pool.may_tell(now);
        tell!(told, info, upstream, link, "link suspect: a heartbeat went unanswered");
        self.told_suspicion = Some(now);
        if told {
            self.record("suspect", None, "a heartbeat went unanswered".to_owned());
        }
    }

    pub(super) fn observe_lifetime(&self, now: Instant, connection: &Connection) {
        let lived = now.saturating_duration_since(connection.opened.at);
        self.pool.status.metrics.lifetime.observe(lived.as_secs_f64());
    }

    pub(super) fn record(&self, kind: &'static str, reason: Option<LossReason>, text: String) {
        let endpoint = self.connection.as_ref().map(|c| c.opened.endpoint.name.clone());
        self.record_at(kind, endpoint, reason, text);
    }

    fn record_at(&self, kind: &'static str, endpoint: Option<String>, reason: Option<LossReason>, text: String) {
        let link = Some(self.slot.id);
        self.pool.status.record(Event { at: SystemTime::now(), kind, link, endpoint, reason, text });
    }

    pub(super) fn publish(&self) {
        let state = self.machine.state();
        let now = Instant::now();
        let (shown, attempt, wait) = match state {
            State::Connecting { attempt } | State::Proving { attempt } => (LinkState::Connecting, attempt, None),
            State::Up { attempt, .. } => (LinkState::Up, attempt, None),
            State::Suspect { attempt, .. } => (LinkState::Suspect, attempt, None),
            State::Waiting { attempt, retry_at } => {
                (LinkState::Waiting, attempt, Some(retry_at.saturating_duration_since(now)))
            }
            State::Failed => (LinkState::Failed, 0, None),
            State::Closed => (LinkState::Draining, 0, None),
        };
        let waited = self.status.view().retry_at.is_some();
        self.status.update(|view| {
            view.state = shown;
            view.attempt = attempt;
            view.retry_at = wait.map(|wait| SystemTime::now() + wait);
            view.misses = self.connection.as_ref().map_or(0, |c| c.misses);
            if let Some(connection) = &self.connection {
                view.endpoint = Some(connection.opened.endpoint.name.clone());
                view.address = connection.opened.address.map(|address| address.to_string());
                view.rtt = Some(connection.opened.rtt);
            }
        });
        if waited || wait.is_some() {
            self.pool.status.show_wait();
        }
    }
}
