//! Attempts: each dials, claims the session by a Hello, and comes to an answer or to nothing.

use std::time::Duration;

use super::LinkTask;
use super::session;
use super::tell::Way;
use crate::clock;
use crate::config::{self, Endpoint};
use crate::link::dial::{DialError, DialOptions};
use crate::metrics::DialOutcome;
use crate::tunnel::attempt::{self, Answered, AskError, Connected, Target};
use crate::tunnel::claims::{self, AttemptId, Input, Place, State};
use crate::workers::of_process;

/// A claim's answer is waited for at least this long, however short the heartbeat's timeout.
const ANSWER_LEAST: Duration = Duration::from_secs(1);
/// And for so many round trips, as its own connect has found them: a gateway that has heard the Hello gives the old
/// connection up, so on a slow path an answer given up on costs the session both.
const ANSWER_ROUND_TRIPS: u32 = 4;

/// What became of an attempt's task.
pub(super) enum Done {
    Connected(Result<Connected, DialError>),
    Asked(Result<Box<Answered>, AskError>),
}

impl LinkTask {
    pub(super) fn dial(&mut self, id: AttemptId, place: Place) {
        let Some(target) = self.target(place) else {
            return self.step_later(id, claims::Failure::Refused);
        };
        let settings = self.settings.borrow().clone();
        let options = DialOptions::new(&settings, self.hub.credentials.tls.load_full());
        let resolver = self.hub.resolver.clone();
        let way = Way::new(self.named(&target.endpoint), place);
        self.ways.insert(id, way);
        let rehearsal = self.rehearsal_at(&target.endpoint);
        let task = async move { (id, Done::Connected(attempt::connect(target, options, resolver, rehearsal).await)) };
        let handle = self.tasks.spawn(of_process(task));
        self.running.insert(id, handle);
    }

    /// Tells a failure as if a task had found it: the state machine is in the middle of a step.
    fn step_later(&mut self, id: AttemptId, failure: claims::Failure) {
        let error = match failure {
            claims::Failure::Local => AskError::Io(std::io::ErrorKind::Other.into()),
            _ => AskError::Closed,
        };
        let handle = self.tasks.spawn(async move { (id, Done::Asked(Err(error))) });
        self.running.insert(id, handle);
    }

    /// The endpoint as the configuration has it, for one that may lead to another address.
    fn named(&self, dialled: &Endpoint) -> Endpoint {
        self.endpoints.iter().find(|endpoint| endpoint.name == dialled.name).unwrap_or(dialled).clone()
    }

    /// Where a place is, as things stand.
    fn target(&self, place: Place) -> Option<Target> {
        let last = self.at.as_ref();
        match place {
            Place::Endpoint(index) => {
                let endpoint = self.endpoints.get(index).or(self.endpoints.first())?.clone();
                Some(Target { endpoint, known_as: None })
            }
            Place::Last => {
                let known = self.known.as_ref()?;
                let endpoint = Endpoint { address: config::Address::Ip(known.address?), ..last?.clone() };
                Some(Target { endpoint, known_as: Some(last?.address.clone()) })
            }
            Place::Advertise => {
                let address = self.known.as_ref()?.advertise.clone()?;
                let endpoint = Endpoint { address, ..last?.clone() };
                Some(Target { endpoint, known_as: Some(last?.address.clone()) })
            }
        }
    }

    /// Says Hello over an attempt that is ready; the connection at hand is read no further until it is answered.
    pub(super) fn say_hello(&mut self, id: AttemptId, epoch: u64, new_session: bool) {
        let Some(connected) = self.ready.remove(&id) else {
            return self.step_later(id, claims::Failure::Refused);
        };
        let received = self.driver.freeze();
        let settings = self.settings.borrow().clone();
        let known = self.known.as_ref().filter(|_| !new_session);
        let told = session::hello(&settings, known, epoch, received);
        let token = self.hub.credentials.token.load_full();
        let Connected { mut wire, address, rtt } = connected;
        let mut took = Duration::ZERO;
        if let Some(way) = self.ways.get_mut(&id) {
            (way.address, way.rtt) = (address, rtt);
            took = way.took;
        }
        if let Some(way) = self.ways.get(&id) {
            wire = self.in_drill(&way.endpoint, wire);
        }
        let (hello, binding) = match (told, wire.binding()) {
            (Some(hello), Ok(binding)) => (hello, binding),
            _ => return self.step_later(id, claims::Failure::Local),
        };
        let bytes = hello.encode(known.map(|known| &*known.secret), token.as_deref(), &binding);
        let within = answer_within(&settings, took, rtt);
        let nonce = hello.nonce;
        let task = async move { (id, Done::Asked(attempt::ask(wire, bytes, nonce, within).await.map(Box::new))) };
        let handle = self.tasks.spawn(of_process(task));
        self.running.insert(id, handle);
    }

    pub(super) fn done(&mut self, id: AttemptId, done: Done) {
        if self.running.remove(&id).is_none() {
            return; // abandoned meanwhile
        }
        match done {
            Done::Connected(Ok(connected)) => {
                if let Some(way) = self.ways.get_mut(&id) {
                    way.took = clock::since(way.begun);
                }
                self.ready.insert(id, connected);
                self.step(Input::Ready(id));
            }
            Done::Connected(Err(error)) => {
                self.tell_dial_failed(id, error.outcome(), error.to_string());
                self.step(Input::Failed(id, attempt::failure(&error)));
            }
            Done::Asked(Err(error)) => {
                let (failure, outcome) = error.failure();
                self.tell_dial_failed(id, outcome, error.to_string());
                let timed_out = matches!(error, AskError::Timeout(_));
                self.step(if timed_out { Input::AnswerTimedOut(id) } else { Input::Failed(id, failure) });
            }
            Done::Asked(Ok(answered)) => self.answered(id, answered),
        }
        self.forget_needless(id);
    }

    /// An attempt that the state machine does not know any more holds nothing here.
    fn forget_needless(&mut self, id: AttemptId) {
        if !self.claims.in_flight().any(|known| known == id) {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: AttemptId) {
        self.ready.remove(&id);
        self.ways.remove(&id);
    }

    pub(super) fn abandon(&mut self, id: AttemptId) {
        if let Some(handle) = self.running.remove(&id) {
            handle.abort();
            let needless = self.driver.has_wire() && !self.driver.is_suspect();
            if !needless && self.claims.state() != State::Closed {
                let why = "no answer in time: a fresh attempt takes its place";
                self.tell_dial_failed(id, DialOutcome::Timeout, why.to_owned());
            }
        }
        self.forget(id);
    }
}

/// How long a Hello's answer is waited for, when the dial took so long: `connect_timeout` is for all together.
fn answer_within(settings: &config::Upstream, dial: Duration, rtt: Duration) -> Duration {
    let left = settings.retry.connect_timeout.saturating_sub(dial);
    left.min(settings.heartbeat.timeout.max(ANSWER_LEAST).max(rtt * ANSWER_ROUND_TRIPS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_17_dial_and_hello_share_the_connect_timeout() {
        let settings = crate::http::example::tunnel("site");
        let within = |ms| answer_within(&settings, Duration::from_millis(ms), Duration::ZERO).as_millis();
        assert_eq!([within(10), within(4_000), within(6_000)], [3_000, 1_000, 0]);
    }
}
