//! The series of one upstream's endpoints, which come and go with the configuration.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{EndpointMetrics, Metrics};
use crate::config::Upstream;

/// See the module.
pub struct EndpointSeries(ArcSwap<Vec<(String, EndpointMetrics)>>);

impl EndpointSeries {
    pub fn new(metrics: &Metrics, settings: &Upstream) -> Self {
        Self(ArcSwap::from_pointee(series(metrics, settings)))
    }

    /// Acts upon the series of the endpoint of this name, if it is (still) in the configuration.
    pub fn with(&self, endpoint: &str, act: impl FnOnce(&EndpointMetrics)) {
        if let Some((_, metrics)) = self.0.load().iter().find(|(name, _)| name == endpoint) {
            act(metrics);
        }
    }

    /// Goes over to the endpoints of `settings`; the series of those that went, go.
    pub fn replace(&self, metrics: &Metrics, settings: &Upstream) {
        let old = self.0.swap(Arc::new(series(metrics, settings)));
        for (gone, _) in old.iter().filter(|(old, _)| !settings.endpoints.iter().any(|new| new.name == *old)) {
            metrics.remove_endpoint(&settings.name, gone);
        }
    }
}

fn series(metrics: &Metrics, settings: &Upstream) -> Vec<(String, EndpointMetrics)> {
    let of = |name: &str| metrics.endpoint(&settings.name, name);
    settings.endpoints.iter().map(|endpoint| (endpoint.name.clone(), of(&endpoint.name))).collect()
}
