//! How much of `/status` is asked for.

use std::collections::BTreeSet;

use crate::http::request::Request;

/// `/status` alone tells all; `?brief` leaves the history of upstreams out (events, round trips, outages but the last),
/// except of those that `whole=NAME,NAME` names. A page of a thousand upstreams asks for the history of those in sight.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail<'r> {
    pub brief: bool,
    /// Names that no upstream has are no matter.
    pub whole: BTreeSet<&'r str>,
}

impl<'r> Detail<'r> {
    /// What `request` asks for.
    pub fn asked(request: &'r Request) -> Self {
        let names = request.value("whole").unwrap_or_default();
        Self { brief: request.asks("brief"), whole: names.split(',').filter(|name| !name.is_empty()).collect() }
    }

    /// Whether the history of this upstream is told.
    pub fn is_whole(&self, name: &str) -> bool {
        !self.brief || self.whole.contains(name)
    }
}
