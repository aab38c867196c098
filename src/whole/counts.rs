//! How often what happened.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// Counts by mark.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<Cow<'static, str>, u64>);

impl Counts {
    pub fn one(&mut self, mark: impl Into<Cow<'static, str>>) {
        self.add(mark, 1);
    }

    pub fn add(&mut self, mark: impl Into<Cow<'static, str>>, more: u64) {
        if more > 0 {
            *self.0.entry(mark.into()).or_default() += more;
        }
    }

    pub fn most(&mut self, mark: impl Into<Cow<'static, str>>, most: u64) {
        let known = self.0.entry(mark.into()).or_default();
        *known = (*known).max(most);
    }

    pub fn merge(&mut self, other: &Self) {
        for (mark, count) in &other.0 {
            if mark.starts_with("most ") {
                self.most(mark.clone(), *count);
            } else {
                self.add(mark.clone(), *count);
            }
        }
    }

    pub fn of(&self, mark: &str) -> u64 {
        self.0.get(mark).copied().unwrap_or_default()
    }
}

/// As a table.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(mark, count)| writeln!(f, "{mark:<40} {count:>12}"))
    }
}
