//! The families of series, by name, and how they are registered.

use prometheus::core::Collector;
use prometheus::{CounterVec, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::histograms::{DIAL, Histograms, LIFETIME, OUTAGE, ROUND_TRIP, WAIT};
use super::labels::{Mode, PerMode};

pub(super) struct Families {
    pub upstream_up: IntGaugeVec,
    pub endpoint_up: IntGaugeVec,
    pub endpoint_losses: IntCounterVec,
    pub endpoint_last_dial_failed: IntGaugeVec,
    pub links: IntGaugeVec,
    pub dials: IntCounterVec,
    pub reconnects: IntCounterVec,
    pub losses: IntCounterVec,
    pub downtime: CounterVec,
    pub last_change: GaugeVec,
    pub last_received: GaugeVec,
    pub retry_delay: GaugeVec,
    pub dial_duration: Histograms,
    pub lifetime: Histograms,
    pub beats_sent: IntCounterVec,
    pub beats_missed: IntCounterVec,
    pub rtt: Histograms,
    pub interval: GaugeVec,
    pub timeout: GaugeVec,
    pub misses: IntGaugeVec,
    pub budget: GaugeVec,
    pub connections: IntGaugeVec,
    pub waiting: IntGaugeVec,
    pub connections_total: IntCounterVec,
    pub closed: IntCounterVec,
    pub refused: IntCounterVec,
    pub wait: Histograms,
    pub bytes: IntCounterVec,
    pub certificate_not_after: GaugeVec,
    pub files_unusable: IntGaugeVec,
    pub resumes: IntCounterVec,
    pub replayed: IntCounterVec,
    pub streams_saved: IntCounterVec,
    pub unacknowledged: IntGaugeVec,
    pub buffer: IntGaugeVec,
    pub fullest: GaugeVec,
    pub outage: Histograms,
    pub gateway_sessions: IntGaugeVec,
    pub gateway_waiting: IntGaugeVec,
    pub gateway_losses: IntCounterVec,
    pub gateway_ends: IntCounterVec,
    pub gateway_streams: IntGaugeVec,
    pub gateway_pending: IntGaugeVec,
    pub gateway_refusals: IntCounterVec,
    pub gateway_opened: IntCounterVec,
    pub gateway_refused: IntCounterVec,
    pub violations: IntCounterVec,
    /// Where a label is counted that the upstream's mode cannot produce: nobody sees it.
    unseen: (IntCounter, IntGauge),
}

impl Families {
    pub fn register(r: &Registry) -> Result<Self, prometheus::Error> {
        let up = &["upstream"];
        Ok(Self {
            upstream_up: int_gauge_vec(
                r,
                "everlink_upstream_up",
                "1 while a link of the upstream is up or in use.",
                up,
            )?,
            endpoint_up: int_gauge_vec(
                r,
                "everlink_endpoint_up",
                "1 while a link to the endpoint is up or in use.",
                &["upstream", "endpoint"],
            )?,
            endpoint_losses: int_counter_vec(
                r,
                "everlink_endpoint_losses_total",
                "Links to the endpoint that were lost.",
                &["upstream", "endpoint"],
            )?,
            endpoint_last_dial_failed: int_gauge_vec(
                r,
                "everlink_endpoint_last_dial_failed",
                "1 if the last dial of the endpoint failed; 0 if it came up, or was never tried.",
                &["upstream", "endpoint"],
            )?,
            links: int_gauge_vec(r, "everlink_links", "Links by state.", &["upstream", "state"])?,
            dials: int_counter_vec(r, "everlink_link_dials_total", "Dials by outcome.", &["upstream", "outcome"])?,
            reconnects: int_counter_vec(
                r,
                "everlink_link_reconnects_total",
                "Links that came up again after having been lost.",
                up,
            )?,
            losses: int_counter_vec(
                r,
                "everlink_link_losses_total",
                "Links that ended, by reason; `reload` and `aged` are planned.",
                &["upstream", "reason"],
            )?,
            downtime: counter_vec(r, "everlink_link_downtime_seconds_total", "Time without any live link.", up)?,
            last_change: gauge_vec(
                r,
                "everlink_link_last_change_timestamp_seconds",
                "When a link of the upstream last came up or was lost.",
                up,
            )?,
            last_received: gauge_vec(
                r,
                "everlink_link_last_received_timestamp_seconds",
                "When a byte last came from the upstream.",
                up,
            )?,
            retry_delay: gauge_vec(
                r,
                "everlink_link_retry_delay_seconds",
                "The wait now running before a redial, 0 if none.",
                up,
            )?,
            dial_duration: Histograms::register(
                r,
                "everlink_link_dial_duration_seconds",
                "How long successful dials took.",
                &DIAL,
            )?,
            lifetime: Histograms::register(
                r,
                "everlink_link_lifetime_seconds",
                "How long connections of a link lived, from their dial to their loss or hand-out.",
                &LIFETIME,
            )?,
            beats_sent: int_counter_vec(r, "everlink_heartbeats_sent_total", "Heartbeats sent.", up)?,
            beats_missed: int_counter_vec(
                r,
                "everlink_heartbeats_missed_total",
                "Heartbeats not answered in time.",
                up,
            )?,
            rtt: Histograms::register(
                r,
                "everlink_heartbeat_rtt_seconds",
                "Time from a heartbeat to its answer.",
                &ROUND_TRIP,
            )?,
            interval: gauge_vec(r, "everlink_heartbeat_interval_seconds", "The heartbeat interval now in force.", up)?,
            timeout: gauge_vec(
                r,
                "everlink_heartbeat_timeout_seconds",
                "How long an answer to a heartbeat may take, as configured now.",
                up,
            )?,
            misses: int_gauge_vec(
                r,
                "everlink_heartbeat_misses",
                "How many heartbeats unanswered in a row end a link, as configured now.",
                up,
            )?,
            budget: gauge_vec(
                r,
                "everlink_detection_budget_seconds",
                "The longest a dead link may go unnoticed, as configured now.",
                up,
            )?,
            connections: int_gauge_vec(r, "everlink_connections", "Local connections being carried.", up)?,
            waiting: int_gauge_vec(r, "everlink_connections_waiting", "Local connections waiting for a link.", up)?,
            connections_total: int_counter_vec(r, "everlink_connections_total", "Local connections accepted.", up)?,
            closed: int_counter_vec(
                r,
                "everlink_connections_closed_total",
                "Carried connections that ended, by reason.",
                &["upstream", "reason"],
            )?,
            refused: int_counter_vec(
                r,
                "everlink_connections_refused_total",
                "Local connections closed without being carried.",
                &["upstream", "reason"],
            )?,
            wait: Histograms::register(
                r,
                "everlink_connection_wait_seconds",
                "From accepting a local connection until it is carried.",
                &WAIT,
            )?,
            bytes: int_counter_vec(
                r,
                "everlink_bytes_total",
                "Bytes of local connections carried to (sent) and from (received) the upstream.",
                &["upstream", "direction"],
            )?,
            certificate_not_after: gauge_vec(
                r,
                "everlink_tls_certificate_not_after_timestamp_seconds",
                "When a certificate in use ends; the gateway's own are of no upstream.",
                &["role", "upstream"],
            )?,
            files_unusable: int_gauge_vec(
                r,
                "everlink_tls_files_unusable",
                "1 while TLS or token files hold what cannot be used, and older content is in force; the gateway's own \
                 are of no upstream.",
                up,
            )?,
            resumes: int_counter_vec(
                r,
                "everlink_session_resumes_total",
                "Attempts to go on with a session over a new connection, by outcome.",
                &["upstream", "outcome"],
            )?,
            replayed: int_counter_vec(
                r,
                "everlink_session_replayed_bytes_total",
                "Bytes sent again after a resume, because the gateway had not received them.",
                up,
            )?,
            streams_saved: int_counter_vec(
                r,
                "everlink_session_streams_saved_total",
                "Streams that were open when their link was lost and went on after the resume.",
                up,
            )?,
            unacknowledged: int_gauge_vec(
                r,
                "everlink_session_unacknowledged_bytes",
                "Bytes sent and kept until the gateway acknowledges them.",
                up,
            )?,
            buffer: int_gauge_vec(
                r,
                "everlink_session_buffer_bytes",
                "How many unacknowledged bytes the sessions may keep.",
                up,
            )?,
            fullest: gauge_vec(
                r,
                "everlink_session_fullest_ratio",
                "Unacknowledged bytes of the session that is nearest to its limit, as a share of it.",
                up,
            )?,
            outage: Histograms::register(
                r,
                "everlink_session_outage_seconds",
                "From the loss of a session's connection until it was resumed.",
                &OUTAGE,
            )?,
            gateway_sessions: int_gauge_vec(
                r,
                "everlink_gateway_sessions",
                "Sessions this gateway holds, those without a connection included.",
                &[],
            )?,
            gateway_waiting: int_gauge_vec(
                r,
                "everlink_gateway_sessions_waiting",
                "Sessions that have no connection now and wait to be resumed.",
                &[],
            )?,
            gateway_losses: int_counter_vec(
                r,
                "everlink_gateway_session_losses_total",
                "Connections of sessions that were lost, by reason.",
                &["reason"],
            )?,
            gateway_ends: int_counter_vec(
                r,
                "everlink_gateway_sessions_ended_total",
                "Sessions that are over, by reason; streams they still had were reset.",
                &["reason"],
            )?,
            gateway_streams: int_gauge_vec(r, "everlink_gateway_streams", "Streams of all its sessions.", &[])?,
            gateway_pending: int_gauge_vec(
                r,
                "everlink_gateway_handshakes_pending",
                "Connections that have not proven themselves yet.",
                &[],
            )?,
            gateway_refusals: int_counter_vec(
                r,
                "everlink_gateway_refusals_total",
                "Dialers turned away, by reason.",
                &["reason"],
            )?,
            gateway_opened: int_counter_vec(
                r,
                "everlink_gateway_streams_opened_total",
                "Streams that were connected to their service.",
                &["service"],
            )?,
            gateway_refused: int_counter_vec(
                r,
                "everlink_gateway_streams_refused_total",
                "Streams that were not connected to the service they asked for, by reason.",
                &["service", "reason"],
            )?,
            violations: int_counter_vec(
                r,
                "everlink_protocol_violations_total",
                "Sessions and handshakes ended because the peer broke the protocol, by what it broke.",
                &["reason"],
            )?,
            unseen: (IntCounter::new("unseen_total", "Never exported.")?, IntGauge::new("unseen", "Never exported.")?),
        })
    }

    /// A handle for each value of a label; those that the mode cannot produce lead nowhere.
    pub fn counters<L: PerMode>(&self, family: &IntCounterVec, upstream: &str, mode: Mode) -> Vec<IntCounter> {
        let handle = |label: &L| match label.is_in(mode) {
            true => family.with_label_values(&[upstream, label.name()]),
            false => self.unseen.0.clone(),
        };
        L::ALL.iter().map(handle).collect()
    }

    pub fn gauges<L: PerMode>(&self, family: &IntGaugeVec, upstream: &str, mode: Mode) -> Vec<IntGauge> {
        let handle = |label: &L| match label.is_in(mode) {
            true => family.with_label_values(&[upstream, label.name()]),
            false => self.unseen.1.clone(),
        };
        L::ALL.iter().map(handle).collect()
    }
}

pub(super) fn add<C: Collector + Clone + 'static>(registry: &Registry, made: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

pub(super) fn int_gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    add(r, IntGauge::new(name, help)?)
}

pub(super) fn gauge(r: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    add(r, Gauge::new(name, help)?)
}

pub(super) fn int_counter(r: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    add(r, IntCounter::new(name, help)?)
}

pub(super) fn int_gauge_vec(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    add(r, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

pub(super) fn gauge_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
    add(r, GaugeVec::new(Opts::new(name, help), labels)?)
}

pub(super) fn int_counter_vec(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    add(r, IntCounterVec::new(Opts::new(name, help), labels)?)
}

pub(super) fn counter_vec(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<CounterVec, prometheus::Error> {
    add(r, CounterVec::new(Opts::new(name, help), labels)?)
}
