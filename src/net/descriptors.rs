//! How many descriptors are in use, so that the last ones are never a client's.
//!
//! A program that accepts until the kernel refuses can then neither dial, nor answer its operator, nor even refuse a
//! client. So some are kept back, and a client that would need one of them is closed at once and counted.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};

/// Kept for links, HTTP and files.
pub const RESERVED: usize = 64;

/// The count against the process's limit.
#[derive(Debug)]
pub struct Descriptors {
    limit: AtomicUsize,
    used: AtomicUsize,
}

/// So many descriptors, until dropped.
#[derive(Debug)]
pub struct Held {
    count: usize,
    of: &'static Descriptors,
}

impl Descriptors {
    /// Those of this process.
    pub fn shared() -> &'static Self {
        static SHARED: Descriptors = Descriptors::new(1024);
        &SHARED
    }

    const fn new(limit: usize) -> Self {
        Self { limit: AtomicUsize::new(limit), used: AtomicUsize::new(0) }
    }

    /// The soft limit now in force.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(usize::try_from(limit).unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Counts `count` more, reserve or not: links come first.
    pub fn take(&'static self, count: usize) -> Held {
        self.used.fetch_add(count, Ordering::Relaxed);
        Held { count, of: self }
    }

    /// Counts `count` more unless that would eat into the reserve.
    pub fn try_take(&'static self, count: usize) -> Option<Held> {
        let room = self.limit().saturating_sub(RESERVED);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used + count <= room).then_some(used + count));
        taken.ok().map(|_| Held { count, of: self })
    }
}

impl Held {
    /// So many of them are no longer needed, or are counted by another.
    pub fn give_back(&mut self, count: usize) {
        let given = count.min(self.count);
        self.count -= given;
        self.of.used.fetch_sub(given, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.used.fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_for_links_only() {
        static SOME: Descriptors = Descriptors::new(RESERVED + 3);
        let mut client = SOME.try_take(2).expect("there is room");
        assert!(SOME.try_take(2).is_none(), "one is left");
        let link = SOME.take(1);
        assert!(SOME.try_take(1).is_none());
        client.give_back(1);
        drop(SOME.try_take(1).expect("one was given back"));
        drop(link);
        drop(client);
        assert!(SOME.try_take(3).is_some());
    }
}
