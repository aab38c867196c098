//! What `/status` tells of tunnels, at both ends.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{age, counts};
use crate::clock::rfc3339;
use crate::metrics::{Label, Refusal};
use crate::status::{GatewaySession, GatewayStatus, SessionView, UpstreamStatus};

/// A way to one service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ForwardReport {
    pub service: String,
    pub listen: Vec<String>,
}

/// One session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionReport {
    /// The first 8 hexadecimal digits.
    pub id: String,
    /// Counts its connections.
    pub epoch: u64,
    pub streams: u64,
    pub unacknowledged_bytes: u64,
    /// How many of them may be kept.
    pub buffer_bytes: u64,
    pub resumes: u64,
    /// From the last loss of its connection until it was resumed.
    pub last_outage_seconds: Option<f64>,
}

/// The far end of tunnels that this process is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayReport {
    pub name: String,
    pub listen: Vec<String>,
    pub draining: bool,
    pub sessions: Vec<GatewaySessionReport>,
    /// Of all sessions.
    pub streams: u64,
    pub unacknowledged_bytes: u64,
    pub handshakes_pending: i64,
    pub session_limit: usize,
    pub services: Vec<String>,
    pub refusals: BTreeMap<String, u64>,
    pub violations: BTreeMap<String, u64>,
}

/// One session at the gateway.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewaySessionReport {
    pub session: SessionReport,
    /// From the dialer's certificate.
    pub identity: Option<String>,
    /// Where it is connected from, or was.
    pub peer: Option<String>,
    pub connected: bool,
    /// The last change of that.
    pub since: String,
    pub since_age_seconds: f64,
}

pub(super) fn forward_reports(upstream: &UpstreamStatus) -> Vec<ForwardReport> {
    let settings = upstream.settings.load();
    let Some(tunnel) = &settings.tunnel else { return Vec::new() };
    let bound = upstream.forwards.load();
    let report = |(n, service): (usize, &String)| ForwardReport {
        service: service.clone(),
        listen: bound.get(n).cloned().unwrap_or_default(),
    };
    tunnel.forwards.iter().map(|forward| &forward.service).enumerate().map(report).collect()
}

pub(super) fn session_report(session: &SessionView) -> SessionReport {
    SessionReport {
        id: session.id.to_string(),
        epoch: session.epoch,
        streams: session.streams,
        unacknowledged_bytes: session.unacknowledged,
        buffer_bytes: session.buffer,
        resumes: session.resumes,
        last_outage_seconds: session.last_outage.map(|outage| outage.as_secs_f64()),
    }
}

pub(super) fn gateway_report(gateway: &GatewayStatus, now: SystemTime) -> GatewayReport {
    let settings = gateway.settings.load();
    let metrics = &gateway.metrics;
    let sessions: Vec<_> = gateway.sessions().iter().map(|session| gateway_session_report(session, now)).collect();
    GatewayReport {
        name: settings.name.clone(),
        listen: gateway.listening.load().to_vec(),
        draining: gateway.is_draining(),
        streams: sessions.iter().map(|session| session.session.streams).sum(),
        unacknowledged_bytes: sessions.iter().map(|session| session.session.unacknowledged_bytes).sum(),
        sessions,
        handshakes_pending: metrics.pending.get(),
        session_limit: settings.limits.sessions,
        services: settings.services.keys().cloned().collect(),
        refusals: counts(Refusal::ALL.iter().copied(), &metrics.refusals),
        violations: metrics.violations.figures().map(|(reason, count)| (reason.to_owned(), count)).collect(),
    }
}

fn gateway_session_report(session: &GatewaySession, now: SystemTime) -> GatewaySessionReport {
    let connection = session.connection();
    GatewaySessionReport {
        session: session_report(&session.figures.view()),
        identity: session.identity.clone(),
        peer: connection.peer.map(|peer| peer.to_string()),
        connected: connection.connected,
        since: rfc3339(connection.since),
        since_age_seconds: age(connection.since, now),
    }
}
