//! An outage on purpose, shown so that nobody hunts it.

use std::sync::Arc;
use std::time::SystemTime;

use crate::net::rehearsal::Rehearsal;

/// The drill that runs at an upstream.
#[derive(Debug)]
pub struct DrillStatus {
    pub link: u64,
    /// The endpoint's name in the configuration: the link's other dials are spared.
    pub endpoint: String,
    pub begun: SystemTime,
    /// When it ends by itself.
    pub until: SystemTime,
    pub rehearsal: Arc<Rehearsal>,
}
