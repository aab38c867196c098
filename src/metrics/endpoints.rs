//! The series of one upstream's endpoints, which come and go with the configuration.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily};
use prometheus::{IntCounter, IntGauge};

use super::Metrics;
use super::labels::DialOutcome;
use crate::config::Upstream;

/// How many series an endpoint has.
pub(super) const SERIES: usize = 3;

/// One endpoint's handles.
#[derive(Clone)]
pub struct EndpointMetrics {
    pub up: IntGauge,
    pub losses: IntCounter,
    pub last_dial_failed: IntGauge,
}

/// Every endpoint's figures at one moment, by upstream and endpoint.
#[derive(Debug, Default)]
pub struct EndpointFigures(HashMap<String, HashMap<String, EndpointFigure>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointFigure {
    pub up: bool,
    pub losses: u64,
    /// `false`: never tried, or with success.
    pub last_dial_failed: bool,
}

impl EndpointMetrics {
    /// What has become of a dial. Our own want says nothing of the endpoint.
    pub fn dialled(&self, outcome: DialOutcome) {
        if outcome != DialOutcome::Local {
            self.last_dial_failed.set(i64::from(outcome != DialOutcome::Ok));
        }
    }
}

impl EndpointFigures {
    /// Down and never lost, for an endpoint without series.
    pub fn get(&self, upstream: &str, endpoint: &str) -> EndpointFigure {
        self.0.get(upstream).and_then(|endpoints| endpoints.get(endpoint)).copied().unwrap_or_default()
    }

    /// Puts what each series of an endpoint says where it belongs.
    fn read(&mut self, families: Vec<MetricFamily>, put: impl Fn(&mut EndpointFigure, &Metric)) {
        for metric in families.iter().flat_map(MetricFamily::get_metric) {
            let label = |name| metric.get_label().iter().find(|l| l.name() == name).map_or("", |l| l.value());
            let endpoints = self.0.entry(label("upstream").to_owned()).or_default();
            put(endpoints.entry(label("endpoint").to_owned()).or_default(), metric);
        }
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
        let (f, labels) = (&self.families, &[upstream, endpoint]);
        EndpointMetrics {
            up: f.endpoint_up.with_label_values(labels),
            losses: f.endpoint_losses.with_label_values(labels),
            last_dial_failed: f.endpoint_last_dial_failed.with_label_values(labels),
        }
    }

    /// What the endpoints' series say, without creating one for an endpoint that has just been removed.
    pub fn endpoint_figures(&self) -> EndpointFigures {
        let f = &self.families;
        let mut figures = EndpointFigures::default();
        figures.read(f.endpoint_up.collect(), |figure, metric| figure.up = is_set(metric));
        figures.read(f.endpoint_losses.collect(), |figure, metric| {
            figure.losses = metric.get_counter().get_value() as u64;
        });
        figures.read(f.endpoint_last_dial_failed.collect(), |figure, metric| figure.last_dial_failed = is_set(metric));
        figures
    }

    /// Forgets an endpoint that left the configuration.
    pub fn remove_endpoint(&self, upstream: &str, endpoint: &str) {
        let (f, labels) = (&self.families, &[upstream, endpoint]);
        let _ = f.endpoint_up.remove_label_values(labels);
        let _ = f.endpoint_losses.remove_label_values(labels);
        let _ = f.endpoint_last_dial_failed.remove_label_values(labels);
    }
}

fn is_set(gauge: &Metric) -> bool {
    gauge.get_gauge().get_value() == 1.0
}
