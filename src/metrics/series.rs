//! The series of an upstream: how they come, how they go, and how many they are.

use std::sync::Arc;

use prometheus::IntCounterVec;

use super::files::UPSTREAM_ROLES;
use super::labels::{
    CloseReason, DialOutcome, Direction, Label, LinkState, LossReason, Mode, PerMode, RefuseReason, ResumeOutcome,
};
use super::session::{Counted, SessionMetrics};
use super::{Metrics, UpstreamMetrics};
use super::{endpoints, histograms};
use crate::config;

impl Metrics {
    /// The handles of an upstream, all series of its mode present at 0.
    pub fn upstream(&self, upstream: &config::Upstream) -> Arc<UpstreamMetrics> {
        let f = &self.families;
        let name = upstream.name.as_str();
        let mode = Mode::of(upstream);
        let metrics = UpstreamMetrics {
            mode,
            up: f.upstream_up.with_label_values(&[name]),
            links: f.gauges::<LinkState>(&f.links, name, mode),
            dials: f.counters::<DialOutcome>(&f.dials, name, mode),
            reconnects: f.reconnects.with_label_values(&[name]),
            losses: f.counters::<LossReason>(&f.losses, name, mode),
            downtime: f.downtime.with_label_values(&[name]),
            down_since: Default::default(),
            last_change: f.last_change.with_label_values(&[name]),
            last_received: f.last_received.with_label_values(&[name]),
            retry_delay: f.retry_delay.with_label_values(&[name]),
            dial_duration: f.dial_duration.of(name, mode),
            lifetime: f.lifetime.of(name, mode),
            beats_sent: f.beats_sent.with_label_values(&[name]),
            beats_missed: f.beats_missed.with_label_values(&[name]),
            rtt: f.rtt.of(name, mode),
            trips: Default::default(),
            interval: f.interval.with_label_values(&[name]),
            timeout: f.timeout.with_label_values(&[name]),
            misses: f.misses.with_label_values(&[name]),
            budget: f.budget.with_label_values(&[name]),
            connections: f.connections.with_label_values(&[name]),
            waiting: f.waiting.with_label_values(&[name]),
            connections_total: f.connections_total.with_label_values(&[name]),
            closed: f.counters::<CloseReason>(&f.closed, name, mode),
            refused: f.counters::<RefuseReason>(&f.refused, name, mode),
            wait: f.wait.of(name, mode),
            bytes: f.counters::<Direction>(&f.bytes, name, mode),
            drills: self.drills.clone(),
            session: (mode == Mode::Tunnel).then(|| SessionMetrics {
                resumes: f.counters::<ResumeOutcome>(&f.resumes, name, mode),
                replayed: f.replayed.with_label_values(&[name]),
                streams_saved: f.streams_saved.with_label_values(&[name]),
                unacknowledged: f.unacknowledged.with_label_values(&[name]),
                buffer: f.buffer.with_label_values(&[name]),
                fullest: f.fullest.with_label_values(&[name]),
                outage: f.outage.of(name, mode),
                violations: Counted::one_more(&self.violations),
            }),
        };
        metrics.set_alive(false);
        metrics.configure(upstream);
        Arc::new(metrics)
    }

    /// Forgets every series of an upstream that left the configuration. Its endpoints are removed one by one.
    pub fn remove_upstream(&self, name: &str) {
        let f = &self.families;
        let one = &[name];
        let _ = f.upstream_up.remove_label_values(one);
        let _ = f.reconnects.remove_label_values(one);
        let _ = f.downtime.remove_label_values(one);
        for family in [&f.last_change, &f.last_received, &f.retry_delay, &f.interval, &f.timeout, &f.budget, &f.fullest]
        {
            let _ = family.remove_label_values(one);
        }
        for family in [&f.dial_duration, &f.lifetime, &f.rtt, &f.wait, &f.outage] {
            family.remove(name);
        }
        for family in [&f.beats_sent, &f.beats_missed, &f.connections_total, &f.replayed, &f.streams_saved] {
            let _ = family.remove_label_values(one);
        }
        for family in [&f.connections, &f.waiting, &f.misses, &f.unacknowledged, &f.buffer] {
            let _ = family.remove_label_values(one);
        }
        for state in LinkState::ALL {
            let _ = f.links.remove_label_values(&[name, state.name()]);
        }
        remove_each::<DialOutcome>(&f.dials, name);
        remove_each::<LossReason>(&f.losses, name);
        remove_each::<CloseReason>(&f.closed, name);
        remove_each::<RefuseReason>(&f.refused, name);
        remove_each::<Direction>(&f.bytes, name);
        remove_each::<ResumeOutcome>(&f.resumes, name);
        self.remove_files(name);
    }

    /// How many series an upstream in this mode exports at most: with so many endpoints, `tls`, and other `files` (a
    /// token).
    pub fn series_of(mode: Mode, endpoints: usize, tls: bool, files: bool) -> usize {
        let lists = LinkState::each(mode).count()
            + DialOutcome::each(mode).count()
            + LossReason::each(mode).count()
            + CloseReason::each(mode).count()
            + RefuseReason::each(mode).count()
            + Direction::each(mode).count()
            + ResumeOutcome::each(mode).count();
        // up, reconnects, downtime, last_change, last_received, retry_delay, beats sent and missed, interval, timeout, misses,
        // budget, connections, waiting, connections_total; replayed, streams_saved, unacknowledged, buffer, fullest
        let single = match mode {
            Mode::Direct => 15,
            Mode::Tunnel => 20,
        };
        let of_tls = if tls { UPSTREAM_ROLES.len() } else { 0 } + usize::from(tls || files);
        histograms::series_of(mode) + lists + single + endpoints::SERIES * endpoints + of_tls
    }
}

fn remove_each<L: Label>(family: &IntCounterVec, upstream: &str) {
    for label in L::ALL {
        let _ = family.remove_label_values(&[upstream, label.name()]);
    }
}
