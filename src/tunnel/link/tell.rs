//! What a link tells the world: metrics, status, events and the log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::LinkTask;
use arc_swap::ArcSwapOption;

use crate::clock;
use crate::config::Endpoint;
use crate::metrics::{
    CloseReason, DialOutcome, Direction, Label, LinkState, LossReason, ResumeOutcome, UpstreamMetrics, unix_now,
};
use crate::session::Violation;
use crate::status::{Event, LinkStatus, LinkView, SessionFigures};
use crate::tunnel::claims::{AttemptId, Gone, Place, State};
use crate::tunnel::driver::Observer;
use crate::tunnel::hub::Hub;
use crate::tunnel::slot::Slot;

/// The way of one attempt: where it leads, and since when.
pub(super) struct Way {
    pub endpoint: Endpoint,
    pub place: Place,
    pub address: Option<SocketAddr>,
    pub rtt: Duration,
    pub begun: Instant,
    /// What the dial took of `connect_timeout`.
    pub took: Duration,
}

impl Way {
    pub fn new(endpoint: Endpoint, place: Place) -> Self {
        Self { endpoint, place, address: None, rtt: Duration::ZERO, begun: clock::now(), took: Duration::ZERO }
    }
}

/// Counts what a link's driver does.
pub(super) struct Counting {
    metrics: Arc<UpstreamMetrics>,
    slot: Arc<Slot>,
    view: Arc<LinkStatus>,
    /// The session's, once there is one.
    figures: ArcSwapOption<SessionFigures>,
}

impl Counting {
    pub fn new(hub: &Arc<Hub>, slot: &Arc<Slot>, view: &Arc<LinkStatus>) -> Arc<Self> {
        let metrics = hub.status.metrics.clone();
        Arc::new(Self { metrics, slot: slot.clone(), view: view.clone(), figures: ArcSwapOption::empty() })
    }
}

impl Observer for Counting {
    fn moved(&self, sent: u64, received: u64) {
        self.metrics.moved(Direction::Sent, sent);
        self.metrics.moved(Direction::Received, received);
    }

    fn closed(&self, reason: CloseReason) {
        self.metrics.close(reason);
        self.metrics.connections.dec();
        self.slot.one_less();
    }

    fn beat_sent(&self) {
        self.metrics.beats_sent.inc();
    }

    fn beat_missed(&self) {
        self.metrics.beat_missed();
        self.view.update(|view| view.misses += 1);
    }

    fn beat_answered(&self, rtt: Duration) {
        self.metrics.beat_answered(rtt);
        self.view.update(|view| (view.rtt, view.misses) = (Some(rtt), 0));
    }

    fn measured(&self, rtt: Duration) {
        self.metrics.measured(rtt);
        self.view.update(|view| view.rtt = Some(rtt));
    }

    fn received(&self) {
        self.metrics.last_received.set(unix_now());
    }

    fn stands(&self, streams: usize, unacknowledged: u64) {
        if let Some(figures) = &*self.figures.load() {
            figures.set_streams(streams);
            figures.set_unacknowledged(unacknowledged);
        }
    }

    fn violation(&self, violation: Violation) {
        if let Some(session) = &self.metrics.session {
            session.violations.count(violation.name());
        }
    }
}

fn plural(streams: usize) -> String {
    format!("{streams} stream{}", if streams == 1 { "" } else { "s" })
}

impl LinkTask {
    /// Shows where the link stands.
    pub(super) fn show(&mut self) {
        // Of a connection that has answered no beat yet; later ones are shown as they come.
        let rtt = self.view.view().rtt.or(self.driver.path_rtt());
        let misses = self.driver.missed();
        let dialling = self.claims.in_flight().next().is_some();
        let (state, attempt, retry_at) = match self.claims.state() {
            State::Connecting { attempt } => (LinkState::Connecting, attempt, None),
            State::Waiting { attempt, retry_at } => (LinkState::Waiting, attempt, Some(retry_at)),
            State::Up { .. } => (LinkState::Up, 1, None),
            State::Suspect { .. } => (LinkState::Suspect, 1, None),
            State::Lost { .. } if dialling => (LinkState::Connecting, 1, None),
            State::Lost { .. } => (LinkState::Waiting, 1, self.claims.next_deadline()),
            State::Failed => (LinkState::Failed, 1, None),
            State::Draining | State::Closed => (LinkState::Draining, 1, None),
        };
        let retry_at = retry_at.map(|at| SystemTime::now() + at.saturating_duration_since(clock::now()));
        let before = self.view.view();
        let connected = self.driver.peer().map(|address| address.to_string());
        let same = |view: &LinkView| {
            let waits = view.retry_at.is_some() == retry_at.is_some();
            (view.state, view.rtt, view.misses, view.attempt) == (state, rtt, misses, attempt)
                && waits
                && view.address == connected
                && view.last_error == self.last_error
        };
        if !same(&before) {
            let endpoint = self.at.as_ref().map(|endpoint| endpoint.name.clone());
            let last_error = self.last_error.clone();
            self.view.update(|view| {
                (view.state, view.attempt, view.misses, view.retry_at) = (state, attempt, misses, retry_at);
                view.rtt = rtt;
                (view.endpoint, view.address, view.last_error) = (endpoint, connected, last_error);
            });
            self.hub.status.show_wait();
        }
    }

    /// The link is no more.
    pub(super) fn show_end(&mut self) {
        self.alive = None;
        self.view.show_session(None);
        self.hub.status.remove_link(self.slot.id);
        self.hub.status.show_wait();
    }

    pub(super) fn event_of(
        &self,
        kind: &'static str,
        endpoint: Option<String>,
        reason: Option<LossReason>,
        text: String,
    ) {
        let at = SystemTime::now();
        self.hub.record(Event { at, kind, link: Some(self.slot.id), endpoint, reason, text });
    }

    pub(super) fn count_resume(&self, outcome: ResumeOutcome) {
        if let Some(session) = &self.hub.status.metrics.session {
            session.resume(outcome);
        }
    }

    pub(super) fn tell_dial_failed(&mut self, id: AttemptId, outcome: DialOutcome, why: String) {
        self.hub.status.metrics.dial(outcome);
        let endpoint = self.ways.get(&id).map(|way| way.endpoint.name.clone());
        if let Some(endpoint) = &endpoint {
            self.hub.endpoint_series.with(endpoint, |metrics| metrics.dialled(outcome));
        }
        // The same trouble once more is a count, not a line.
        if self.last_error.as_deref() != Some(&why) {
            tracing::warn!(
                upstream = self.hub.name,
                link = self.slot.id,
                endpoint,
                outcome = outcome.name(),
                "dial failed: {why}"
            );
            self.event_of("dial_failed", endpoint, None, why.clone());
        }
        if !self.driver.has_wire() {
            self.hub.trouble(why.clone());
        }
        self.last_error = Some(why);
    }

    pub(super) fn tell_failed(&mut self) {
        let how = self.hub.process.how_to_retry(&self.hub.name);
        let text = format!("its attempts are used up; {how} or an edit of the upstream dials again");
        tracing::error!(upstream = self.hub.name, link = self.slot.id, "link failed: {text}");
        self.event_of("failed", None, None, text);
    }

    pub(super) fn tell_suspect(&mut self) {
        let endpoint = self.at.as_ref().map(|endpoint| endpoint.name.clone());
        tracing::info!(upstream = self.hub.name, link = self.slot.id, endpoint, "link suspect: a beat is unanswered");
        self.event_of(
            "suspect",
            endpoint,
            None,
            "a heartbeat is unanswered; a second connection is dialled".to_owned(),
        );
    }

    /// The connection is gone.
    pub(super) fn tell_lost(&mut self, reason: LossReason, error: String) {
        let metrics = &self.hub.status.metrics;
        metrics.lose(reason);
        metrics.changed();
        let lived = self.up_since.take().map(clock::since).unwrap_or_default();
        metrics.lifetime.observe(lived.as_secs_f64());
        let endpoint = self.at.as_ref().map(|endpoint| endpoint.name.clone());
        if let Some(endpoint) = &endpoint {
            self.hub.endpoint_series.with(endpoint, |metrics| metrics.losses.inc());
        }
        let streams = self.driver.streams();
        let wait = if streams > 0 { "; its streams wait" } else { "" };
        tracing::warn!(
            upstream = self.hub.name, link = self.slot.id, endpoint, reason = reason.name(), up_for = ?lived, streams,
            "link lost: {error}{wait}"
        );
        self.event_of("lost", endpoint, Some(reason), format!("{error}; {} waiting", plural(streams)));
        self.hub.trouble(error.clone());
        self.last_error = Some(error);
        self.lost_at.get_or_insert_with(clock::now);
        self.slot.open.store(false, std::sync::atomic::Ordering::Release);
        self.slot.set_led(None);
        self.hub.drain_ended(self.slot.id);
        self.alive = None;
    }

    /// A connection has the session.
    pub(super) fn tell_up(&mut self, way: &Way, resumed: bool, planned: Option<LossReason>, again: u64) {
        let metrics = self.hub.status.metrics.clone();
        metrics.dial(DialOutcome::Ok);
        self.hub.endpoint_series.with(&way.endpoint.name, |metrics| metrics.dialled(DialOutcome::Ok));
        metrics.dial_duration.observe(clock::since(way.begun).as_secs_f64());
        metrics.changed();
        metrics.last_received.set(unix_now());
        if let Some(since) = self.up_since.filter(|_| resumed && self.lost_at.is_none()) {
            // The connection before was given up for this one: on purpose, or for an unanswered beat.
            metrics.lose(planned.unwrap_or(LossReason::Heartbeat));
            metrics.lifetime.observe(clock::since(since).as_secs_f64());
            if planned.is_none() {
                metrics.reconnects.inc();
                if let Some(at) = &self.at {
                    self.hub.endpoint_series.with(&at.name, |metrics| metrics.losses.inc());
                }
            }
        }
        self.up_since = Some(clock::now());
        self.at = Some(way.endpoint.clone());
        self.view.update(|view| view.rtt = Some(way.rtt));
        self.alive = Some(self.hub.stay_alive(&way.endpoint.name));
        self.last_error = None;
        let outage = self.lost_at.take().map(clock::since);
        if outage.is_some() {
            metrics.reconnects.inc();
        }
        let streams = self.driver.streams();
        let endpoint = Some(way.endpoint.name.clone());
        let address = way.address.map(|address| address.to_string());
        let Some(known) = &self.known else { return };
        known.figures.set_buffer(self.driver.settings().buffer);
        self.view.show_session(Some(known.figures.clone()));
        self.counting.figures.store(Some(known.figures.clone()));
        if !resumed {
            tracing::info!(upstream = self.hub.name, link = self.slot.id, endpoint, address, gateway = known.gateway, session = ?known.id, "link up");
            return self.event_of("up", endpoint, None, format!("a new session at {}", known.gateway));
        }
        known.figures.resumed(self.claims.epoch(), outage);
        if let Some(session) = &metrics.session {
            session.resume(ResumeOutcome::Resumed);
            session.replayed.inc_by(again);
            session.streams_saved.inc_by(streams as u64);
            if let Some(outage) = outage {
                session.outage.observe(outage.as_secs_f64());
            }
        }
        tracing::info!(
            upstream = self.hub.name,
            link = self.slot.id,
            endpoint,
            address,
            streams,
            replayed_bytes = again,
            outage = outage.map(tracing::field::debug),
            "session resumed"
        );
        self.event_of(
            "resumed",
            endpoint,
            None,
            format!("{} carried on, {again} bytes were sent again", plural(streams)),
        );
    }

    pub(super) fn tell_gone(&mut self, gone: Gone, streams: usize) {
        let text = match gone {
            Gone::Unknown => "the gateway has restarted and does not know the session any more",
            Gone::Expired => "no connection came within resume.deadline",
            Gone::Violation => "the gateway broke the protocol",
        };
        tracing::warn!(
            upstream = self.hub.name,
            link = self.slot.id,
            streams,
            "session gone: {text}; its streams are reset"
        );
        self.event_of("session_gone", None, None, format!("{text}; {} reset", plural(streams)));
        self.view.show_session(None);
    }
}
