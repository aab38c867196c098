//! The gateway's handles.

use std::sync::Arc;

use prometheus::{IntCounter, IntGauge};

use super::Metrics;
use super::labels::{Label, LossReason, Refusal, SessionEnd};
use super::services::ServiceSeries;
use super::session::{Counted, Violations};
use crate::config;

/// What a gateway counts. Its series are there while there is a `[gateway]`.
pub struct GatewayMetrics {
    /// Kept by the sessions' entries in the status.
    pub sessions: IntGauge,
    /// Both are brought up to date from the sessions before each scrape.
    pub waiting: IntGauge,
    pub streams: IntGauge,
    pub pending: IntGauge,
    pub refusals: Vec<IntCounter>,
    /// By the index of the reason; the planned ones count nowhere.
    losses: Vec<IntCounter>,
    ends: Vec<IntCounter>,
    pub services: ServiceSeries,
    pub violations: Violations,
}

impl GatewayMetrics {
    pub fn refuse(&self, reason: Refusal) {
        self.refusals[reason.index()].inc();
    }

    /// A session has lost its connection.
    pub fn lose(&self, reason: LossReason) {
        if let Some(counter) = self.losses.get(reason.index()) {
            counter.inc();
        }
    }

    /// A session is over.
    pub fn end(&self, reason: SessionEnd) {
        self.ends[reason.index()].inc();
    }
}

impl Metrics {
    /// The handles of the gateway, all its series present at 0.
    pub fn gateway(&self, settings: &config::Gateway) -> Arc<GatewayMetrics> {
        let f = &self.families;
        const NONE: &[&str] = &[];
        Arc::new(GatewayMetrics {
            sessions: f.gateway_sessions.with_label_values(NONE),
            waiting: f.gateway_waiting.with_label_values(NONE),
            streams: f.gateway_streams.with_label_values(NONE),
            pending: f.gateway_pending.with_label_values(NONE),
            refusals: Refusal::ALL
                .iter()
                .map(|reason| f.gateway_refusals.with_label_values(&[reason.name()]))
                .collect(),
            losses: losses().map(|reason| f.gateway_losses.with_label_values(&[reason.name()])).collect(),
            ends: SessionEnd::ALL.iter().map(|reason| f.gateway_ends.with_label_values(&[reason.name()])).collect(),
            services: ServiceSeries::new(f, settings),
            violations: Counted::one_more(&self.violations),
        })
    }

    /// Forgets every series of the gateway but the violations, which go with the last who counts them.
    pub fn remove_gateway(&self) {
        let f = &self.families;
        for gauge in [&f.gateway_sessions, &f.gateway_waiting, &f.gateway_streams, &f.gateway_pending] {
            gauge.reset();
        }
        for counter in [&f.gateway_refusals, &f.gateway_losses, &f.gateway_ends, &f.gateway_opened, &f.gateway_refused]
        {
            counter.reset();
        }
        self.remove_files("");
    }
}

/// What a connection can be lost for; the planned ones are last in the list, and no gateway's.
fn losses() -> impl Iterator<Item = LossReason> {
    LossReason::ALL.iter().copied().filter(|reason| !matches!(reason, LossReason::Reload | LossReason::Aged))
}
