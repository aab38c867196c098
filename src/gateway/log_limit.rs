//! Lines of log that strangers can cause: one a minute for each kind, with the number of those left out. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

const SPACING: Duration = Duration::from_secs(60);

/// When each kind was last told. Kinds come from a closed list or from the configuration, never from a peer.
#[derive(Debug)]
pub struct LogLimit<K> {
    kinds: HashMap<K, Last>,
}

#[derive(Debug)]
struct Last {
    at: Instant,
    left_out: u64,
}

impl<K> Default for LogLimit<K> {
    fn default() -> Self {
        Self { kinds: HashMap::new() }
    }
}

impl<K: Hash + Eq> LogLimit<K> {
    /// Whether to tell of this one; with how many of its kind were left out since the last one told.
    pub fn tell(&mut self, kind: K, now: Instant) -> Option<u64> {
        match self.kinds.get_mut(&kind) {
            Some(last) if now.saturating_duration_since(last.at) < SPACING => {
                last.left_out += 1;
                None
            }
            Some(last) => {
                last.at = now;
                Some(std::mem::take(&mut last.left_out))
            }
            None => {
                self.kinds.insert(kind, Last { at: now, left_out: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_for_each_kind_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut limit = LogLimit::default();
        assert_eq!(limit.tell("denied", start), Some(0));
        assert_eq!(limit.tell("version", start), Some(0), "another kind");
        for second in 1..60 {
            assert_eq!(limit.tell("denied", start + Duration::from_secs(second)), None);
        }
        assert_eq!(limit.tell("denied", start + SPACING), Some(59));
        assert_eq!(limit.tell("denied", start + SPACING), None);
    }
}
