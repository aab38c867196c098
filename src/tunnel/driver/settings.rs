//! What a driver goes by, and the memory that several of them share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::Beats;
use crate::session::Limits;

/// What a driver goes by; all of it may change while it runs.
#[derive(Debug, Clone)]
pub struct Settings {
    pub beats: Beats,
    /// A stream that moves no byte for so long is reset; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Unacknowledged bytes kept for replay, and the peer's own bound.
    pub buffer: u64,
    pub peer_buffer: u64,
    /// Bytes of all receiving windows.
    pub windows: u64,
    /// Streams at once.
    pub streams: usize,
    /// What several sessions share.
    pub budget: Option<Arc<Budget>>,
}

impl Settings {
    pub(super) fn limits(&self) -> Limits {
        Limits { buffer: self.buffer, peer_buffer: self.peer_buffer, windows: self.windows, streams: self.streams }
    }
}

/// Memory that several sessions share, in bytes.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
}

impl Budget {
    pub fn new(limit: u64) -> Self {
        Self { limit: AtomicU64::new(limit), used: AtomicU64::new(0) }
    }

    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn free(&self) -> u64 {
        self.limit.load(Ordering::Relaxed).saturating_sub(self.used())
    }

    pub(super) fn changed(&self, from: u64, to: u64) {
        if to >= from {
            self.used.fetch_add(to - from, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(from - to, Ordering::Relaxed);
        }
    }
}
