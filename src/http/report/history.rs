//! What `/status` tells of an upstream's past: outages, events, round trips; and of a drill.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::age;
use crate::clock::rfc3339;
use crate::link::drill;
use crate::metrics::{Label, Trip, UpstreamMetrics};
use crate::net::rehearsal::Kind;
use crate::status::{DrillStatus, Event, Outage};

/// The beats of a moment: those of half a heartbeat interval, so that a large pool's share one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TripReport {
    pub age_seconds: f64,
    /// The slowest; `None`: none was answered.
    pub rtt_seconds: Option<f64>,
    pub missed: u16,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutageReport {
    pub from: String,
    pub from_age_seconds: f64,
    /// `None`: it still lasts.
    pub until: Option<String>,
    pub duration_seconds: f64,
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrillReport {
    /// `blackhole`, `reset` or `delay`.
    pub kind: String,
    /// How late a `delay` makes every byte, each way.
    pub by_seconds: Option<f64>,
    pub link: u64,
    pub endpoint: String,
    pub begun: String,
    pub left_seconds: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventReport {
    pub at: String,
    pub age_seconds: f64,
    pub kind: String,
    pub link: Option<u64>,
    pub endpoint: Option<String>,
    pub reason: Option<String>,
    pub text: String,
}

pub(super) fn drill_report(drill: &DrillStatus, now: SystemTime) -> DrillReport {
    let kind = drill.rehearsal.kind();
    let by = if let Kind::Delay(by) = kind { Some(by.as_secs_f64()) } else { None };
    DrillReport {
        kind: drill::name(kind).to_owned(),
        by_seconds: by,
        link: drill.link,
        endpoint: drill.endpoint.clone(),
        begun: rfc3339(drill.begun),
        left_seconds: age(now, drill.until),
    }
}

pub(super) fn trip_reports(metrics: &UpstreamMetrics) -> Vec<TripReport> {
    let report = |trip: Trip| TripReport {
        age_seconds: trip.age.as_secs_f64(),
        rtt_seconds: trip.slowest.map(|trip| trip.as_secs_f64()),
        missed: trip.missed,
    };
    metrics.trips().into_iter().map(report).collect()
}

pub(super) fn outage_report(outage: &Outage, now: SystemTime) -> OutageReport {
    OutageReport {
        from: rfc3339(outage.from),
        from_age_seconds: age(outage.from, now),
        until: outage.until.map(rfc3339),
        duration_seconds: age(outage.from, outage.until.unwrap_or(now)),
        reason: outage.reason.clone(),
    }
}

pub(super) fn event_report(event: &Event, now: SystemTime) -> EventReport {
    EventReport {
        at: rfc3339(event.at),
        age_seconds: age(event.at, now),
        kind: event.kind.to_owned(),
        link: event.link,
        endpoint: event.endpoint.clone(),
        reason: event.reason.map(|reason| reason.name().to_owned()),
        text: event.text.clone(),
    }
}
