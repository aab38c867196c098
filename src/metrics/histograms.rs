//! Histograms of upstreams, with the bounds that suit each mode.
//!
//! A tunnel has series that a direct upstream has not, so that it makes do with fewer bounds to stay within the 90 series
//! an upstream may have. All of them are bounds of direct mode, too.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};

use super::families::add;
use super::labels::Mode;

/// Upper bounds by mode, in seconds.
pub(super) struct Bounds {
    direct: &'static [f64],
    tunnel: &'static [f64],
}

/// A beat's round trip.
pub(super) const ROUND_TRIP: Bounds =
    Bounds { direct: &[0.001, 0.005, 0.025, 0.1, 0.5, 2.5], tunnel: &[0.005, 0.025, 0.1, 0.5] };
/// A dial: the name, TCP, TLS, and with a gateway the hello.
pub(super) const DIAL: Bounds = Bounds { direct: ROUND_TRIP.direct, tunnel: &[0.5] };
/// A client's wait for a link.
pub(super) const WAIT: Bounds = Bounds { direct: &[0.0005, 0.005, 0.05, 0.25, 1.0, 5.0], tunnel: &[0.05, 1.0] };
/// A connection's life.
pub(super) const LIFETIME: Bounds = Bounds { direct: &[1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0], tunnel: &[3600.0] };
/// A session's time without a connection. The last is the default of `resume.deadline`.
pub(super) const OUTAGE: Bounds = Bounds { direct: &[], tunnel: &[1.0, 10.0, 60.0] };

impl Bounds {
    fn of(&self, mode: Mode) -> &'static [f64] {
        match mode {
            Mode::Direct => self.direct,
            Mode::Tunnel => self.tunnel,
        }
    }
}

/// How many series an upstream's histograms come to: a bucket each bound and one without, the sum and the count.
pub(super) fn series_of(mode: Mode) -> usize {
    let all = [&ROUND_TRIP, &DIAL, &WAIT, &LIFETIME, &OUTAGE];
    all.iter().map(|bounds| bounds.of(mode).len()).filter(|bounds| *bounds > 0).map(|bounds| bounds + 3).sum()
}

/// One family of histograms, by upstream.
#[derive(Clone)]
pub(super) struct Histograms {
    direct: HistogramVec,
    tunnel: HistogramVec,
}

impl Histograms {
    pub fn register(r: &Registry, name: &str, help: &str, bounds: &Bounds) -> Result<Self, prometheus::Error> {
        let of =
            |mode| HistogramVec::new(HistogramOpts::new(name, help).buckets(bounds.of(mode).to_vec()), &["upstream"]);
        add(r, Self { direct: of(Mode::Direct)?, tunnel: of(Mode::Tunnel)? })
    }

    pub fn of(&self, upstream: &str, mode: Mode) -> Histogram {
        match mode {
            Mode::Direct => self.direct.with_label_values(&[upstream]),
            Mode::Tunnel => self.tunnel.with_label_values(&[upstream]),
        }
    }

    pub fn remove(&self, upstream: &str) {
        for family in [&self.direct, &self.tunnel] {
            let _ = family.remove_label_values(&[upstream]);
        }
    }
}

impl Collector for Histograms {
    /// Both are told under one name, so one description stands for both.
    fn desc(&self) -> Vec<&Desc> {
        self.direct.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // The registry joins families of one name.
        [self.direct.collect(), self.tunnel.collect()].concat()
    }
}
