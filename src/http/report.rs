//! The tree behind `/status`: a pure reading of [`Status`], also read back by `everlink status`.
//!
//! Spans are seconds, moments RFC 3339 in UTC with their age beside them, so that a reader needs no clock of its own.

mod detail;
mod tunnel;

pub use detail::Detail;
pub use tunnel::{ForwardReport, GatewayReport, GatewaySessionReport, SessionReport};

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use prometheus::IntCounter;
use serde::{Deserialize, Serialize};

use super::health;
use crate::clock::rfc3339;
use crate::config::{Balance, Beat, InUse};
use crate::link::drill;
use crate::metrics::{
    CloseReason, DialOutcome, Direction, EndpointFigures, Label, LossReason, PerMode, RefuseReason, ResumeOutcome,
    Trip, UpstreamMetrics, revision,
};
use crate::net::rehearsal::Kind;
use crate::status::{DrillStatus, Event, LinkStatus, Outage, Status, UpstreamStatus};

/// The whole process. A reader of another version finds what it knows and defaults for the rest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub version: String,
    pub revision: String,
    pub now: String,
    pub started: String,
    pub uptime_seconds: f64,
    /// What `/livez`, `/startupz` and `/readyz` say.
    pub live: bool,
    pub startup_done: bool,
    pub ready: bool,
    pub draining: bool,
    /// Since the slowest data loop last showed a sign of life.
    pub slowest_loop_seconds: u64,
    pub config: ConfigReport,
    /// By name.
    pub upstreams: Vec<UpstreamReport>,
    /// `None`: this process is no gateway.
    pub gateway: Option<GatewayReport>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigReport {
    pub path: String,
    pub generation: u64,
    pub hash: String,
    pub last_reload: Option<ReloadReport>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadReport {
    pub at: String,
    pub age_seconds: f64,
    pub outcome: String,
    pub lines: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamReport {
    pub name: String,
    pub mode: String,
    pub up: bool,
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

/// Everything `status` holds, as of `now`.
pub fn report(status: &Status, now: SystemTime) -> Report {
    detailed(status, &Detail::default(), now)
}

/// As [`report`], with the history of those upstreams only that `detail` asks for.
pub fn detailed(status: &Status, detail: &Detail<'_>, now: SystemTime) -> Report {
    let config = status.config.load();
    let figures = status.metrics.endpoint_figures();
    Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: revision().to_owned(),
        now: rfc3339(now),
        started: rfc3339(status.started),
        uptime_seconds: age(status.started, now),
        live: health::live(status).is_ok(),
        startup_done: health::started(status),
        ready: health::ready(status),
        draining: status.draining.load(Ordering::Relaxed),
        slowest_loop_seconds: status.slowest_loop(),
        config: ConfigReport {
            path: config.path.clone(),
            generation: config.generation,
            hash: config.hash.clone(),
            last_reload: config.last_reload.as_ref().map(|reload| ReloadReport {
                at: rfc3339(reload.at),
                age_seconds: age(reload.at, now),
                outcome: reload.outcome.to_owned(),
                lines: reload.lines.clone(),
            }),
        },
        upstreams: status
            .upstreams()
            .values()
            .map(|upstream| upstream_report(upstream, &figures, detail.is_whole(&upstream.name), now))
            .collect(),
        gateway: status.gateway().map(|gateway| tunnel::gateway_report(&gateway, now)),
    }
}

/// `whole`: with its history.
fn upstream_report(
    upstream: &UpstreamStatus,
    figures: &EndpointFigures,
    whole: bool,
    now: SystemTime,
) -> UpstreamReport {
    let settings = upstream.settings.load();
    let metrics = &upstream.metrics;
    let since = **upstream.up_since.load();
    let (events, outages) = (upstream.events(), upstream.outages.load());
    let last_loss = events.iter().rfind(|event| event.kind == "lost").map(|event| event_report(event, now));
    let forgotten = if whole { 0 } else { outages.len().saturating_sub(1) };
    let first_up = upstream.first_up.get().copied();
    let mode = metrics.mode;
    UpstreamReport {
        name: upstream.name.clone(),
        mode: mode.name().to_owned(),
        up: metrics.up.get() == 1,
        since: rfc3339(since),
        since_age_seconds: age(since, now),
        added: rfc3339(upstream.added),
        added_age_seconds: age(upstream.added, now),
        first_up: first_up.map(rfc3339),
        first_up_age_seconds: first_up.map(|at| age(at, now)),
        downtime_seconds: metrics.downtime(),
        required: settings.required,
        balance: match settings.balance {
            Balance::Priority => "priority",
            Balance::RoundRobin => "round-robin",
            Balance::LeastConnections => "least-connections",
        }
        .to_owned(),
        listen: upstream.listening.load().to_vec(),
        forwards: tunnel::forward_reports(upstream),
        endpoints: settings
            .endpoints
            .iter()
            .map(|endpoint| {
                let seen = figures.get(&upstream.name, &endpoint.name);
                EndpointReport {
                    name: endpoint.name.clone(),
                    priority: endpoint.priority,
                    up: seen.up,
                    losses: seen.losses,
                }
            })
            .collect(),
        links: upstream.links().iter().map(|link| link_report(link, now)).collect(),
        connections: ConnectionsReport {
            open: metrics.connections.get(),
            waiting: metrics.waiting.get(),
            accepted: metrics.connections_total.get(),
            refused: counts(RefuseReason::each(mode), &metrics.refused),
            closed: counts(CloseReason::each(mode), &metrics.closed),
            bytes_sent: metrics.bytes[Direction::Sent.index()].get(),
            bytes_received: metrics.bytes[Direction::Received.index()].get(),
            limit: settings.limits.connections,
            waiting_limit: settings.limits.waiting,
        },
        heartbeat: HeartbeatReport {
            interval_seconds: settings.heartbeat.interval.as_secs_f64(),
            timeout_seconds: settings.heartbeat.timeout.as_secs_f64(),
            misses: settings.heartbeat.misses,
            // The words of the file; what is sent and expected may be a password.
            beat: match settings.heartbeat.beat {
                _ if settings.tunnel.is_some() => "ping",
                Beat::Kernel => "none",
                Beat::Exchange { .. } => "send/expect",
                Beat::Redis => "redis",
                Beat::Memcached => "memcached",
                Beat::Smtp => "smtp",
            }
            .to_owned(),
            in_use: match settings.heartbeat.in_use {
                InUse::Off => "off",
                InUse::Line => "line",
            }
            .to_owned(),
            sent: metrics.beats_sent.get(),
            missed: metrics.beats_missed.get(),
        },
        detection_budget_seconds: settings.detection_budget().as_secs_f64(),
        learned_max_age_seconds: upstream.learned_max_age().map(|age| age.as_secs_f64()),
        dials: counts(DialOutcome::each(mode), &metrics.dials),
        reconnects: metrics.reconnects.get(),
        losses: counts(LossReason::each(mode), &metrics.losses),
        resumes: metrics.session.as_ref().map(|of| counts(ResumeOutcome::each(mode), &of.resumes)).unwrap_or_default(),
        streams_saved: metrics.session.as_ref().map_or(0, |of| of.streams_saved.get()),
        replayed_bytes: metrics.session.as_ref().map_or(0, |of| of.replayed.get()),
        last_loss,
        drill: upstream.running_drill().map(|drill| drill_report(&drill, now)),
        round_trips: if whole { trip_reports(metrics) } else { Vec::new() },
        outages_total: upstream.outages_total.load(Ordering::Relaxed),
        outages: outages.iter().skip(forgotten).map(|outage| outage_report(outage, now)).collect(),
        events: events.iter().filter(|_| whole).map(|event| event_report(event, now)).collect(),
    }
}

/// Counters by the names of their labels.
fn counts<L: Label>(labels: impl Iterator<Item = L>, counters: &[IntCounter]) -> BTreeMap<String, u64> {
    labels.map(|label| (label.name().to_owned(), counters[label.index()].get())).collect()
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

fn drill_report(drill: &DrillStatus, now: SystemTime) -> DrillReport {
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

fn trip_reports(metrics: &UpstreamMetrics) -> Vec<TripReport> {
    let report = |trip: Trip| TripReport {
        age_seconds: trip.age.as_secs_f64(),
        rtt_seconds: trip.slowest.map(|trip| trip.as_secs_f64()),
        missed: trip.missed,
    };
    metrics.trips().into_iter().map(report).collect()
}

fn outage_report(outage: &Outage, now: SystemTime) -> OutageReport {
    OutageReport {
        from: rfc3339(outage.from),
        from_age_seconds: age(outage.from, now),
        until: outage.until.map(rfc3339),
        duration_seconds: age(outage.from, outage.until.unwrap_or(now)),
        reason: outage.reason.clone(),
    }
}

fn event_report(event: &Event, now: SystemTime) -> EventReport {
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

/// Seconds from `from` to `to`; 0 when a clock was set back between them.
fn age(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::example;

    #[test]
    fn a_busy_process_is_told_whole() {
        let status = example::busy_status();
        let now = status.started + Duration::from_secs(90);
        let told = report(&status, now);
        assert_eq!(told.uptime_seconds, 90.0);
        assert_eq!(told.config.generation, 4);
        assert_eq!(told.config.last_reload.as_ref().map(|reload| reload.age_seconds), Some(90.0));
        let [chat] = told.upstreams.as_slice() else { panic!("one upstream, not {}", told.upstreams.len()) };
        assert!(chat.up);
        assert_eq!((chat.heartbeat.interval_seconds, chat.detection_budget_seconds), (5.0, 14.0));
        assert_eq!(chat.links[0].rtt_seconds, Some(0.00042));
        assert_eq!(chat.links[1].retry_in_seconds, Some(3510.0));
        assert_eq!(chat.endpoints.iter().map(|e| (e.up, e.losses)).collect::<Vec<_>>(), [(true, 0), (false, 1)]);
        assert_eq!(chat.last_loss.as_ref().and_then(|loss| loss.reason.as_deref()), Some("reset"));
        assert_eq!(chat.losses["reset"], 1);
        assert_eq!(chat.connections.refused.keys().collect::<Vec<_>>(), ["limit", "link_down"]);
    }

    #[test]
    fn a_tunnel_tells_its_forwards_and_sessions_and_the_gateway_whom_it_holds() {
        let status = example::busy_tunnel();
        let told = report(&status, status.started + Duration::from_secs(90));
        let [site] = told.upstreams.as_slice() else { panic!("one upstream, not {}", told.upstreams.len()) };
        assert_eq!((site.mode.as_str(), site.heartbeat.beat.as_str()), ("tunnel", "ping"));
        let [forward] = site.forwards.as_slice() else { panic!("one forward") };
        assert_eq!(
            (forward.service.as_str(), forward.listen.as_slice()),
            ("postgres", &["127.0.0.1:5432".to_owned()][..])
        );
        let session = site.links[0].session.as_ref().expect("a session");
        assert_eq!((session.id.as_str(), session.epoch, session.streams), ("5e551011", 3, 7));
        assert_eq!((session.unacknowledged_bytes, session.buffer_bytes), (4096, 16 << 20));
        assert_eq!((session.resumes, session.last_outage_seconds), (1, Some(0.8)));
        assert_eq!((site.resumes["resumed"], site.losses["reset"]), (1, 0));
        assert!(site.dials.contains_key("denied") && !site.connections.closed.contains_key("dead"));

        let gateway = told.gateway.as_ref().expect("a gateway");
        assert_eq!((gateway.name.as_str(), gateway.listen.as_slice()), ("gw-1", &["127.0.0.1:7443".to_owned()][..]));
        assert_eq!((gateway.streams, gateway.handshakes_pending, gateway.refusals["denied"]), (5, 2, 1));
        let [known, lost] = gateway.sessions.as_slice() else { panic!("two sessions") };
        assert_eq!(
            (known.identity.as_deref(), known.peer.as_deref()),
            (Some("spiffe://edge/a"), Some("10.0.0.9:40000"))
        );
        assert!(known.connected && !lost.connected && lost.identity.is_none());
        assert_eq!((known.session.streams, lost.session.unacknowledged_bytes), (5, 100));
        let json = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), told);
        assert!(!json.contains("5e551011ee"), "no more of an id than its first 8 digits");
    }

    #[test]
    fn history_is_told_of_those_who_were_asked_about() {
        let status = example::busy_status();
        status.add_upstream(&std::sync::Arc::new(example::upstream("other")));
        for name in ["chat", "other"] {
            let upstream = &status.upstreams()[name];
            for alive in [true, false, true, false] {
                upstream.set_alive(alive, "why");
            }
            upstream.record(Event { text: "other".to_owned(), ..example::event(&status) });
            upstream.metrics.beat_answered(Duration::from_millis(3));
        }
        let told = |brief, whole: &str| {
            let names = whole.split(',').collect();
            let told = detailed(&status, &Detail { brief, whole: names }, SystemTime::now());
            let history = |u: &UpstreamReport| (u.outages.len(), u.events.is_empty(), u.round_trips.len());
            told.upstreams.iter().map(history).collect::<Vec<_>>()
        };
        let (all, least) = ((2, false, 1), (1, true, 0));
        assert_eq!(told(false, ""), [all, all]);
        assert_eq!(told(true, ""), [least, least]);
        assert_eq!(told(true, "other,nobody"), [least, all]);
        let told = detailed(&status, &Detail { brief: true, ..Detail::default() }, SystemTime::now());
        let chat = &told.upstreams[0];
        assert_eq!((chat.outages_total, chat.outages[0].until.is_none()), (2, true), "the last of two, which lasts");
        assert_eq!(chat.last_loss.as_ref().and_then(|loss| loss.reason.as_deref()), Some("reset"));
        assert!(chat.first_up.is_some() && chat.downtime_seconds >= 0.0);
    }

    #[test]
    fn an_upstream_that_never_was_up_has_no_outage() {
        let status = example::status();
        status.add_upstream(&std::sync::Arc::new(example::upstream("down")));
        let told = report(&status, SystemTime::now());
        let down = &told.upstreams[0];
        assert_eq!((down.up, down.first_up.as_deref(), down.outages_total), (false, None, 0));
    }

    #[test]
    fn the_json_reads_back_as_it_was() {
        let status = example::busy_status();
        let told = report(&status, SystemTime::now());
        let json = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), told);
        assert!(json.contains(r#""retry_in_seconds":"#), "{json}");
    }

    #[test]
    fn a_json_of_another_version_is_still_read() {
        let told: Report = serde_json::from_str(r#"{"version":"9","novelty":1,"upstreams":[{"name":"a"}]}"#).unwrap();
        assert_eq!((told.version.as_str(), told.upstreams[0].name.as_str()), ("9", "a"));
    }

    #[test]
    fn reading_never_creates_a_series() {
        let status = example::status();
        status.add_upstream(&std::sync::Arc::new(example::upstream("chat")));
        report(&status, SystemTime::now());
        assert!(!status.metrics.gather().iter().any(|family| family.name() == "everlink_endpoint_up"));
    }

    #[test]
    fn a_clock_set_back_gives_ages_of_zero() {
        let status = example::busy_status();
        assert_eq!(report(&status, SystemTime::UNIX_EPOCH).uptime_seconds, 0.0);
    }
}
