//! What the probes ask, answered from the state alone.

use std::sync::atomic::Ordering;

use crate::status::Status;

/// A data loop silent for so many seconds, by a clock that stops with the process, is stuck.
pub const LOOP_SILENCE_LIMIT: u64 = 30;

/// One line of `/readyz?verbose`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub ok: bool,
    /// What was looked at, and what is wrong with it.
    pub text: String,
}

/// Whether every data loop shows signs of life; else for how many seconds the slowest has shown none.
/// Never an upstream's fault: a restart would not bring it back.
pub fn live(status: &Status) -> Result<(), u64> {
    match status.slowest_loop() {
        0..=LOOP_SILENCE_LIMIT => Ok(()),
        seconds => Err(seconds),
    }
}

/// Whether the configuration is in and every listener bound.
pub fn started(status: &Status) -> bool {
    status.ready.load(Ordering::Relaxed)
}

/// Everything that `/readyz` waits for; ready if each is ok.
pub fn readiness(status: &Status) -> Vec<Check> {
    let started = started(status);
    let draining = status.draining.load(Ordering::Relaxed);
    let said = |ok, good: &str, bad: &str| Check { ok, text: if ok { good } else { bad }.to_owned() };
    let mut checks = vec![
        said(started, "configuration in, listeners bound", "configuration not in yet, or a listener not bound"),
        said(!draining, "not draining", "draining: about to leave"),
    ];
    for upstream in status.upstreams().values().filter(|upstream| upstream.settings.load().required) {
        let up = upstream.metrics.up.get() == 1;
        let state = if up { "has a live link" } else { "is required and has no live link" };
        checks.push(Check { ok: up, text: format!("upstream {} {state}", upstream.name) });
    }
    checks
}

/// [`readiness`] in one word.
pub fn ready(status: &Status) -> bool {
    readiness(status).iter().all(|check| check.ok)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::http::example;

    #[test]
    fn a_loop_is_given_thirty_seconds() {
        let status = example::status();
        status.ticks.store(30, Ordering::Relaxed);
        assert_eq!(live(&status), Ok(()));
        status.ticks.store(31, Ordering::Relaxed);
        assert_eq!(live(&status), Err(31));
        status.stamp(0);
        assert_eq!(live(&status), Ok(()));
    }

    #[test]
    fn only_required_upstreams_hold_readiness_back() {
        let status = example::status();
        status.add_upstream(&Arc::new(example::upstream("extra")));
        assert!(ready(&status));
        let needed =
            status.add_upstream(&Arc::new(crate::config::Upstream { required: true, ..example::upstream("needed") }));
        assert!(!ready(&status));
        needed.set_alive(true, "");
        assert!(ready(&status));
    }

    #[test]
    fn a_drain_ends_readiness_but_not_the_start_nor_life() {
        let status = example::status();
        status.draining.store(true, Ordering::Relaxed);
        assert!(!ready(&status));
        assert!(started(&status));
        assert_eq!(live(&status), Ok(()));
    }
}
