//! The series of one upstream's endpoints, which come and go with the configuration.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::core::Collector;
use prometheus::{IntCounter, IntGauge};

use super::Metrics;
use crate::config::Upstream;

/// One endpoint's handles.
#[derive(Clone)]
pub struct EndpointMetrics {
    pub up: IntGauge,
    pub losses: IntCounter,
}

/// Every endpoint's figures at one moment, by upstream and endpoint.
#[derive(Debug, Default)]
pub struct EndpointFigures(HashMap<String, HashMap<String, EndpointFigure>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointFigure {
    pub up: bool,
    pub losses: u64,
}

impl EndpointFigures {
    /// Down and never lost, for an endpoint without series.
    pub fn get(&self, upstream: &str, endpoint: &str) -> EndpointFigure {
        self.0.get(upstream).and_then(|endpoints| endpoints.get(endpoint)).copied().unwrap_or_default()
    }
}

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

impl Metrics {
    /// The handles of one endpoint, by its name in the configuration.
    pub fn endpoint(&self, upstream: &str, endpoint: &str) -> EndpointMetrics {
        let labels = &[upstream, endpoint];
        EndpointMetrics {
            up: self.families.endpoint_up.with_label_values(labels),
            losses: self.families.endpoint_losses.with_label_values(labels),
        }
    }

    /// What the endpoints' series say, without creating one for an endpoint that has just been removed.
    pub fn endpoint_figures(&self) -> EndpointFigures {
        let mut figures = EndpointFigures::default();
        for family in self.families.endpoint_up.collect().iter().chain(&self.families.endpoint_losses.collect()) {
            let losses = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
            for metric in family.get_metric() {
                let label = |name| metric.get_label().iter().find(|l| l.name() == name).map_or("", |l| l.value());
                let endpoints = figures.0.entry(label("upstream").to_owned()).or_default();
                let figure = endpoints.entry(label("endpoint").to_owned()).or_default();
                if losses {
                    figure.losses = metric.get_counter().get_value() as u64;
                } else {
                    figure.up = metric.get_gauge().get_value() == 1.0;
                }
            }
        }
        figures
    }

    /// Forgets an endpoint that left the configuration.
    pub fn remove_endpoint(&self, upstream: &str, endpoint: &str) {
        let labels = &[upstream, endpoint];
        let _ = self.families.endpoint_up.remove_label_values(labels);
        let _ = self.families.endpoint_losses.remove_label_values(labels);
    }
}
