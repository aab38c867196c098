//! What is told of the files that TLS needs, and of tokens.
//!
//! The gateway's own are of no upstream: the empty name, which no upstream can have.

use prometheus::Gauge;
use prometheus::core::Collector;

use super::Metrics;

/// The certificates of an upstream.
pub(super) const UPSTREAM_ROLES: [&str; 2] = ["client", "ca"];
/// The certificates of the gateway.
const GATEWAY_ROLES: [&str; 2] = ["server", "client_ca"];

impl Metrics {
    /// When a certificate in use ends, in seconds of Unix time. `role` is one of `client`, `ca`; the gateway's are
    /// `server` and `client_ca`.
    pub fn certificate_not_after(&self, role: &'static str, upstream: &str) -> Gauge {
        self.families.certificate_not_after.with_label_values(&[role, upstream])
    }

    pub fn remove_certificate(&self, role: &'static str, upstream: &str) {
        let _ = self.families.certificate_not_after.remove_label_values(&[role, upstream]);
    }

    /// Whether files hold what cannot be used, so that older content is in force. `None`: none are named.
    pub fn show_unusable_files(&self, upstream: &str, unusable: Option<bool>) {
        match unusable {
            Some(unusable) => self.families.files_unusable.with_label_values(&[upstream]).set(unusable.into()),
            None => drop(self.families.files_unusable.remove_label_values(&[upstream])),
        }
    }

    /// Whether anybody's files hold what cannot be used.
    pub fn has_unusable_files(&self) -> bool {
        let families = self.families.files_unusable.collect();
        families.iter().flat_map(|family| family.get_metric()).any(|metric| metric.get_gauge().get_value() != 0.0)
    }

    /// Forgets all files of an upstream, or of the gateway.
    pub(super) fn remove_files(&self, upstream: &str) {
        for role in UPSTREAM_ROLES.into_iter().chain(GATEWAY_ROLES) {
            self.remove_certificate(role, upstream);
        }
        self.show_unusable_files(upstream, None);
    }
}
