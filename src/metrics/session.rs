//! Handles of what only a session has.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge};

use super::labels::{Label, ResumeOutcome};

/// How a peer can break the protocol: the values of `everlink_protocol_violations_total{reason}`.
pub const VIOLATIONS: &[&str] = &[
    "length",
    "type",
    "empty_data",
    "stream",
    "reused_stream",
    "role",
    "open",
    "window",
    "after_fin",
    "credit",
    "ack",
    "unacknowledged",
    "tune",
    "flood",
    "resume",
    "hello",
];

/// The sessions of one upstream in tunnel mode.
pub struct SessionMetrics {
    pub resumes: Vec<IntCounter>,
    pub replayed: IntCounter,
    pub streams_saved: IntCounter,
    /// These are brought up to date from the links before each scrape.
    pub unacknowledged: IntGauge,
    pub buffer: IntGauge,
    /// So is this: a share, 0 to 1 and a little over while more is kept than a lowered limit.
    pub fullest: Gauge,
    pub outage: Histogram,
    pub violations: Violations,
}

impl SessionMetrics {
    pub fn resume(&self, outcome: ResumeOutcome) {
        self.resumes[outcome.index()].inc();
    }
}

/// Counts violations. The series are there while one of these is: they are the process's, not an upstream's.
pub struct Violations {
    counters: Vec<IntCounter>,
    counted: Arc<Counted>,
}

impl Violations {
    /// `reason` is one of [`VIOLATIONS`]; any other is a mistake of ours and counts nowhere.
    pub fn count(&self, reason: &str) {
        let index = VIOLATIONS.iter().position(|known| *known == reason);
        debug_assert!(index.is_some(), "{reason} is not in the list");
        if let Some(counter) = index.and_then(|index| self.counters.get(index)) {
            counter.inc();
        }
    }

    /// The figures so far, of the whole process.
    pub fn figures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        VIOLATIONS.iter().zip(&self.counters).map(|(reason, counter)| (*reason, counter.get()))
    }
}

impl Drop for Violations {
    fn drop(&mut self) {
        self.counted.one_less();
    }
}

/// The family, and how many count in it.
pub(super) struct Counted {
    family: IntCounterVec,
    users: Mutex<usize>,
}

impl Counted {
    pub fn new(family: IntCounterVec) -> Self {
        Self { family, users: Mutex::new(0) }
    }

    pub fn one_more(this: &Arc<Self>) -> Violations {
        let mut users = this.users.lock().unwrap_or_else(PoisonError::into_inner);
        *users += 1;
        let counters = VIOLATIONS.iter().map(|reason| this.family.with_label_values(&[*reason])).collect();
        Violations { counters, counted: this.clone() }
    }

    fn one_less(&self) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        *users = users.saturating_sub(1);
        if *users == 0 {
            for reason in VIOLATIONS {
                let _ = self.family.remove_label_values(&[*reason]);
            }
        }
    }
}
