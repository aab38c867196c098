//! What is told of the files that TLS needs.

use prometheus::Gauge;

use super::Metrics;

/// The certificates of an upstream.
pub(super) const UPSTREAM_ROLES: [&str; 2] = ["client", "ca"];
/// The certificates of the gateway.
pub(super) const GATEWAY_ROLES: [&str; 2] = ["server", "client_ca"];

impl Metrics {
    /// When a certificate in use ends, in seconds of Unix time. `role` is one of `client`, `ca`. The gateway's own are
    /// `server` and `client_ca`, of no upstream: the empty name, which no upstream can have.
    pub fn certificate_not_after(&self, role: &'static str, upstream: &str) -> Gauge {
        self.families.certificate_not_after.with_label_values(&[role, upstream])
    }

    pub fn remove_certificate(&self, role: &'static str, upstream: &str) {
        let _ = self.families.certificate_not_after.remove_label_values(&[role, upstream]);
    }
}
