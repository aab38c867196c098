//! The gateway's handles.

use std::sync::Arc;

use prometheus::{IntCounter, IntGauge};

use super::Metrics;
use super::files::GATEWAY_ROLES;
use super::labels::{Label, Refusal};
use super::session::{Counted, Violations};

/// What a gateway counts. Its series are there while there is a `[gateway]`.
pub struct GatewayMetrics {
    /// Kept by the sessions' entries in the status.
    pub sessions: IntGauge,
    /// Brought up to date from the sessions before each scrape.
    pub streams: IntGauge,
    pub pending: IntGauge,
    pub refusals: Vec<IntCounter>,
    pub violations: Violations,
}

impl GatewayMetrics {
    pub fn refuse(&self, reason: Refusal) {
        self.refusals[reason.index()].inc();
    }
}

impl Metrics {
    /// The handles of the gateway, all its series present at 0.
    pub fn gateway(&self) -> Arc<GatewayMetrics> {
        let f = &self.families;
        const NONE: &[&str] = &[];
        Arc::new(GatewayMetrics {
            sessions: f.gateway_sessions.with_label_values(NONE),
            streams: f.gateway_streams.with_label_values(NONE),
            pending: f.gateway_pending.with_label_values(NONE),
            refusals: Refusal::ALL
                .iter()
                .map(|reason| f.gateway_refusals.with_label_values(&[reason.name()]))
                .collect(),
            violations: Counted::one_more(&self.violations),
        })
    }

    /// Forgets every series of the gateway but the violations, which go with the last who counts them.
    pub fn remove_gateway(&self) {
        let f = &self.families;
        const NONE: &[&str] = &[];
        for family in [&f.gateway_sessions, &f.gateway_streams, &f.gateway_pending] {
            let _ = family.remove_label_values(NONE);
        }
        for reason in Refusal::ALL {
            let _ = f.gateway_refusals.remove_label_values(&[reason.name()]);
        }
        for role in GATEWAY_ROLES {
            self.remove_certificate(role, "");
        }
    }
}
