//! What `/status` tells of one upstream, with its links and its history.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::history::{self, DrillReport, EventReport, OutageReport, TripReport};
use super::tunnel::{self, ForwardReport, SessionReport};
use super::{age, counts};
use crate::clock::rfc3339;
use crate::config::{Balance, Beat, Endpoint, InUse, Limits, Upstream};
use crate::metrics::{
    CloseReason, DialOutcome, Direction, EndpointFigures, Label, LossReason, PerMode, RefuseReason, ResumeOutcome,
    UpstreamMetrics,
};
use crate::status::{LinkStatus, UpstreamStatus};

/// One upstream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamReport {
    pub name: String,
    pub mode: String,
    pub up: bool,
    /// It was removed from the configuration: its clients may stay until the end of the drain, and no new ones come.
    pub draining: bool,
    /// The last change between up and down.
    pub since: String,
    pub since_age_seconds: f64,
    /// Known since then: the start, or the reload that brought it.
    pub added: String,
    pub added_age_seconds: f64,
    /// `None`: it has never been up. Before that is no outage, but is downtime.
    pub first_up: Option<String>,
    pub first_up_age_seconds: Option<f64>,
    /// Without any live link since it was added.
    pub downtime_seconds: f64,
    pub required: bool,
    pub balance: String,
    pub listen: Vec<String>,
    /// Tunnel mode: which service each of the listeners leads to.
    pub forwards: Vec<ForwardReport>,
    pub endpoints: Vec<EndpointReport>,
    pub links: Vec<LinkReport>,
    pub connections: ConnectionsReport,
    pub heartbeat: HeartbeatReport,
    /// `interval + misses × timeout`.
    pub detection_budget_seconds: f64,
    pub learned_max_age_seconds: Option<f64>,
    pub dials: BTreeMap<String, u64>,
    pub reconnects: u64,
    pub losses: BTreeMap<String, u64>,
    /// Tunnel mode: attempts to go on with a session; empty in direct mode.
    pub resumes: BTreeMap<String, u64>,
    /// Tunnel mode: streams that outlived the loss of their link, and what was sent again for them.
    pub streams_saved: u64,
    pub replayed_bytes: u64,
    pub last_loss: Option<EventReport>,
    /// The outage that is being rehearsed on one link, by `everlink drill`.
    pub drill: Option<DrillReport>,
    /// The last 60 slots of half a heartbeat interval in which a beat was answered or missed; oldest first.
    pub round_trips: Vec<TripReport>,
    /// Since it was added; the last 50 of them follow, newest last, as are the events. In brief only the last one.
    pub outages_total: u64,
    pub outages: Vec<OutageReport>,
    pub events: Vec<EventReport>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointReport {
    pub name: String,
    pub priority: u32,
    pub up: bool,
    pub losses: u64,
    /// With `up` false: it is broken. `false` and not up: in reserve, never tried or tried with success.
    pub last_dial_failed: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkReport {
    pub id: u64,
    pub state: String,
    pub since: String,
    pub since_age_seconds: f64,
    pub endpoint: Option<String>,
    pub address: Option<String>,
    pub rtt_seconds: Option<f64>,
    pub misses: u32,
    pub attempt: u32,
    pub retry_in_seconds: Option<f64>,
    pub last_error: Option<String>,
    /// Tunnel mode, once a gateway has made one.
    pub session: Option<SessionReport>,
}

/// Local connections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionsReport {
    pub open: i64,
    pub waiting: i64,
    pub accepted: u64,
    pub refused: BTreeMap<String, u64>,
    pub closed: BTreeMap<String, u64>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// In force.
    pub limit: usize,
    pub waiting_limit: usize,
}

/// The settings in force, and what the beats came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeartbeatReport {
    pub interval_seconds: f64,
    pub timeout_seconds: f64,
    pub misses: u32,
    pub beat: String,
    pub in_use: String,
    pub sent: u64,
    pub missed: u64,
}

/// `whole`: with its history.
pub(super) fn upstream_report(
    upstream: &UpstreamStatus,
    figures: &EndpointFigures,
    whole: bool,
    now: SystemTime,
) -> UpstreamReport {
    let settings = upstream.settings.load();
    let metrics = &upstream.metrics;
    let since = **upstream.up_since.load();
    let (events, outages) = (upstream.events(), upstream.outages.load());
    let last_loss = events.iter().rfind(|event| event.kind == "lost").map(|event| history::event_report(event, now));
    let forgotten = if whole { 0 } else { outages.len().saturating_sub(1) };
    let first_up = upstream.first_up.get().copied();
    let mode = metrics.mode;
    UpstreamReport {
        name: upstream.name.clone(),
        mode: mode.name().to_owned(),
        up: metrics.up.get() == 1,
        draining: upstream.draining.load(Ordering::Relaxed),
        since: rfc3339(since),
        since_age_seconds: age(since, now),
        added: rfc3339(upstream.added),
        added_age_seconds: age(upstream.added, now),
        first_up: first_up.map(rfc3339),
        first_up_age_seconds: first_up.map(|at| age(at, now)),
        downtime_seconds: metrics.downtime(),
        required: settings.required,
        balance: balance(settings.balance).to_owned(),
        listen: upstream.listening.load().to_vec(),
        forwards: tunnel::forward_reports(upstream),
        endpoints: settings
            .endpoints
            .iter()
            .map(|endpoint| endpoint_report(&upstream.name, endpoint, figures))
            .collect(),
        links: upstream.links().iter().map(|link| link_report(link, now)).collect(),
        connections: connections_report(metrics, &settings.limits),
        heartbeat: heartbeat_report(metrics, &settings),
        detection_budget_seconds: settings.detection_budget().as_secs_f64(),
        learned_max_age_seconds: upstream.learned_max_age().map(|age| age.as_secs_f64()),
        dials: counts(DialOutcome::each(mode), &metrics.dials),
        reconnects: metrics.reconnects.get(),
        losses: counts(LossReason::each(mode), &metrics.losses),
        resumes: metrics.session.as_ref().map(|of| counts(ResumeOutcome::each(mode), &of.resumes)).unwrap_or_default(),
        streams_saved: metrics.session.as_ref().map_or(0, |of| of.streams_saved.get()),
        replayed_bytes: metrics.session.as_ref().map_or(0, |of| of.replayed.get()),
        last_loss,
        drill: upstream.running_drill().map(|drill| history::drill_report(&drill, now)),
        round_trips: if whole { history::trip_reports(metrics) } else { Vec::new() },
        outages_total: upstream.outages_total.load(Ordering::Relaxed),
        outages: outages.iter().skip(forgotten).map(|outage| history::outage_report(outage, now)).collect(),
        events: events.iter().filter(|_| whole).map(|event| history::event_report(event, now)).collect(),
    }
}

/// The words of the file.
fn balance(balance: Balance) -> &'static str {
    match balance {
        Balance::Priority => "priority",
        Balance::RoundRobin => "round-robin",
        Balance::LeastConnections => "least-connections",
    }
}

fn endpoint_report(upstream: &str, endpoint: &Endpoint, figures: &EndpointFigures) -> EndpointReport {
    let seen = figures.get(upstream, &endpoint.name);
    EndpointReport {
        name: endpoint.name.clone(),
        priority: endpoint.priority,
        up: seen.up,
        losses: seen.losses,
        last_dial_failed: seen.last_dial_failed,
    }
}

fn connections_report(metrics: &UpstreamMetrics, limits: &Limits) -> ConnectionsReport {
    let mode = metrics.mode;
    ConnectionsReport {
        open: metrics.connections.get(),
        waiting: metrics.waiting.get(),
        accepted: metrics.connections_total.get(),
        refused: counts(RefuseReason::each(mode), &metrics.refused),
        closed: counts(CloseReason::each(mode), &metrics.closed),
        bytes_sent: metrics.bytes[Direction::Sent.index()].get(),
        bytes_received: metrics.bytes[Direction::Received.index()].get(),
        limit: limits.connections,
        waiting_limit: limits.waiting,
    }
}

fn heartbeat_report(metrics: &UpstreamMetrics, settings: &Upstream) -> HeartbeatReport {
    let heartbeat = &settings.heartbeat;
    HeartbeatReport {
        interval_seconds: heartbeat.interval.as_secs_f64(),
        timeout_seconds: heartbeat.timeout.as_secs_f64(),
        misses: heartbeat.misses,
        // The words of the file; what is sent and expected may be a password.
        beat: match heartbeat.beat {
            _ if settings.tunnel.is_some() => "ping",
            Beat::Kernel => "none",
            Beat::Exchange { .. } => "send/expect",
            Beat::Redis => "redis",
            Beat::Memcached => "memcached",
            Beat::Smtp => "smtp",
        }
        .to_owned(),
        in_use: match heartbeat.in_use {
            InUse::Off => "off",
            InUse::Line => "line",
        }
        .to_owned(),
        sent: metrics.beats_sent.get(),
        missed: metrics.beats_missed.get(),
    }
}

fn link_report(link: &LinkStatus, now: SystemTime) -> LinkReport {
    let view = link.view();
    LinkReport {
        id: link.id,
        state: view.state.name().to_owned(),
        since: rfc3339(view.since),
        since_age_seconds: age(view.since, now),
        endpoint: view.endpoint.clone(),
        address: view.address.clone(),
        rtt_seconds: view.rtt.map(|rtt| rtt.as_secs_f64()),
        misses: view.misses,
        attempt: view.attempt,
        retry_in_seconds: view.retry_at.map(|at| age(now, at)),
        last_error: view.last_error.clone(),
        session: link.session().map(|session| tunnel::session_report(&session)),
    }
}
