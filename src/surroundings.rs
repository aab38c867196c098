//! What an upstream or the gateway needs of the process it runs in.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::link::resolve::Resolver;
use crate::status::Status;

/// See the module.
pub struct Surroundings<'a> {
    pub status: &'a Arc<Status>,
    pub resolver: &'a Resolver,
    pub workers: &'a [Handle],
    /// How long clients and streams may stay once their upstream or gateway is removed.
    pub drain: watch::Receiver<Duration>,
}
