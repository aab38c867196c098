//! Gateways that drain while clients wait for another: nobody's wait runs until they are done. Pure.
//!
//! `limits.wait` is for a link that is down. A gateway that drains is up, says so, and its successor is on its way, though
//! by default it takes longer (`drain.timeout`, 8 s) than a client may wait (5 s).

use std::time::{Duration, Instant};

/// Links whose gateway drains, by their number.
#[derive(Debug, Default)]
pub struct Drains {
    links: Vec<u64>,
    /// When the last one was over.
    over: Option<Instant>,
}

impl Drains {
    /// The link's gateway has said that it drains.
    pub fn begin(&mut self, link: u64) {
        if !self.links.contains(&link) {
            self.links.push(link);
        }
    }

    /// The link is over, or has lost its connection: its gateway may be gone. True: that was the last one.
    pub fn end(&mut self, link: u64, now: Instant) -> bool {
        let before = self.links.len();
        self.links.retain(|other| *other != link);
        let last = self.links.is_empty() && before > 0;
        if last {
            self.over = Some(now);
        }
        last
    }

    /// Before when nobody has waited for `wait`, however long ago they came. `Err`: nobody's wait runs at all.
    pub fn nobody_before(&self, wait: Duration) -> Result<Option<Instant>, UnderWay> {
        if self.links.is_empty() { Ok(self.over.map(|over| over + wait)) } else { Err(UnderWay) }
    }
}

/// A drain is.
#[derive(Debug, PartialEq, Eq)]
pub struct UnderWay;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn no_wait_runs_while_a_drain_is_under_way_and_each_begins_with_its_end() {
        let (mut drains, now) = (Drains::default(), Instant::now());
        assert_eq!(drains.nobody_before(SECOND), Ok(None));
        for link in [1, 2, 1] {
            drains.begin(link);
        }
        assert!(!drains.end(1, now));
        assert_eq!(drains.nobody_before(SECOND), Err(UnderWay));
        assert!(drains.end(2, now + SECOND));
        assert_eq!(drains.nobody_before(SECOND), Ok(Some(now + 2 * SECOND)));
        assert!(!drains.end(2, now + 9 * SECOND), "it is over once");
        assert_eq!(drains.nobody_before(SECOND), Ok(Some(now + 2 * SECOND)));
    }
}
