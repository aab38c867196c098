//! The series of a gateway's services, which come and go with the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::IntCounter;

use super::Metrics;
use super::families::Families;
use super::labels::{Label, StreamRefusal};
use crate::config::Gateway;

/// Stands for every name that is no service: names come from peers. It cannot be a service's own.
pub const UNKNOWN_SERVICE: &str = "(unknown)";

/// See the module.
pub struct ServiceSeries {
    known: ArcSwap<BTreeMap<String, ServiceMetrics>>,
    unknown: IntCounter,
}

#[derive(Clone)]
struct ServiceMetrics {
    opened: IntCounter,
    /// Without `unknown`.
    refused: Vec<IntCounter>,
}

impl ServiceSeries {
    pub(super) fn new(f: &Families, settings: &Gateway) -> Self {
        let unknown = f.gateway_refused.with_label_values(&[UNKNOWN_SERVICE, StreamRefusal::Unknown.name()]);
        Self { known: ArcSwap::from_pointee(series(f, settings)), unknown }
    }

    /// A stream was connected to its service.
    pub fn opened(&self, service: &str) {
        if let Some(metrics) = self.known.load().get(service) {
            metrics.opened.inc();
        }
    }

    /// A stream was not. A service that is not (or no longer) in the configuration counts as unknown.
    pub fn refused(&self, service: &str, reason: StreamRefusal) {
        let known = self.known.load();
        let counter = known.get(service).and_then(|metrics| metrics.refused.get(reason.index()));
        counter.unwrap_or(&self.unknown).inc();
    }

    /// Goes over to the services of `settings`; the series of those that went, go.
    pub fn replace(&self, metrics: &Metrics, settings: &Gateway) {
        let f = &metrics.families;
        let old = self.known.swap(Arc::new(series(f, settings)));
        for gone in old.keys().filter(|old| !settings.services.contains_key(*old)) {
            let _ = f.gateway_opened.remove_label_values(&[gone]);
            for reason in of_known() {
                let _ = f.gateway_refused.remove_label_values(&[gone, reason.name()]);
            }
        }
    }
}

/// Why a service of the configuration may be refused.
fn of_known() -> impl Iterator<Item = StreamRefusal> {
    StreamRefusal::ALL.iter().copied().filter(|reason| *reason != StreamRefusal::Unknown)
}

fn series(f: &Families, settings: &Gateway) -> BTreeMap<String, ServiceMetrics> {
    let of = |name: &String| ServiceMetrics {
        opened: f.gateway_opened.with_label_values(&[name]),
        refused: of_known().map(|reason| f.gateway_refused.with_label_values(&[name, reason.name()])).collect(),
    };
    settings.services.keys().map(|name| (name.clone(), of(name))).collect()
}
