//! What a session shows of itself, at either end.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The first 8 hexadecimal digits of a session's id: enough to find it at both ends, too few to claim it with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortId([u8; 4]);

/// One session's figures, kept by its task and read by whoever wants to know. Every write is one store.
#[derive(Debug)]
pub struct SessionFigures {
    id: ShortId,
    epoch: AtomicU64,
    streams: AtomicU64,
    unacknowledged: AtomicU64,
    buffer: AtomicU64,
    resumes: AtomicU64,
    /// Milliseconds and 1; 0: none yet.
    last_outage: AtomicU64,
}

/// The same at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    pub id: ShortId,
    /// Counts the session's connections.
    pub epoch: u64,
    pub streams: u64,
    /// Bytes sent and not acknowledged.
    pub unacknowledged: u64,
    /// How many of them may be kept.
    pub buffer: u64,
    pub resumes: u64,
    /// How long the last loss of its connection lasted until it was resumed.
    pub last_outage: Option<Duration>,
}

impl SessionFigures {
    /// Of a session with this id, which may keep so many unacknowledged bytes.
    pub fn new(id: &[u8; 16], buffer: u64) -> Self {
        Self {
            id: ShortId::of(id),
            epoch: AtomicU64::new(1),
            streams: AtomicU64::new(0),
            unacknowledged: AtomicU64::new(0),
            buffer: AtomicU64::new(buffer),
            resumes: AtomicU64::new(0),
            last_outage: AtomicU64::new(0),
        }
    }

    pub fn set_streams(&self, streams: usize) {
        self.streams.store(streams as u64, Ordering::Relaxed);
    }

    pub fn set_unacknowledged(&self, bytes: u64) {
        self.unacknowledged.store(bytes, Ordering::Relaxed);
    }

    pub fn set_buffer(&self, bytes: u64) {
        self.buffer.store(bytes, Ordering::Relaxed);
    }

    /// The session goes on over a new connection. `outage`: since the old one was lost; `None`: it was not.
    pub fn resumed(&self, epoch: u64, outage: Option<Duration>) {
        self.epoch.store(epoch, Ordering::Relaxed);
        self.resumes.fetch_add(1, Ordering::Relaxed);
        if let Some(outage) = outage {
            let ms = u64::try_from(outage.as_millis()).unwrap_or(u64::MAX);
            self.last_outage.store(ms.saturating_add(1), Ordering::Relaxed);
        }
    }

    pub fn view(&self) -> SessionView {
        SessionView {
            id: self.id,
            epoch: self.epoch.load(Ordering::Relaxed),
            streams: self.streams.load(Ordering::Relaxed),
            unacknowledged: self.unacknowledged.load(Ordering::Relaxed),
            buffer: self.buffer.load(Ordering::Relaxed),
            resumes: self.resumes.load(Ordering::Relaxed),
            last_outage: self.last_outage.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis),
        }
    }
}

impl SessionView {
    /// How much of what may be kept is kept, 0 to 1; more right after the limit was lowered.
    pub fn fullness(&self) -> f64 {
        if self.buffer == 0 { 0.0 } else { self.unacknowledged as f64 / self.buffer as f64 }
    }
}

impl ShortId {
    pub fn of([a, b, c, d, ..]: &[u8; 16]) -> Self {
        Self([*a, *b, *c, *d])
    }
}

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_id_only_the_first_eight_digits_are_known() {
        let figures = SessionFigures::new(&[0x0a, 0xff, 0, 1, 0xee, 0xee, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2], 1024);
        assert_eq!(figures.view().id.to_string(), "0aff0001");
        assert!(!format!("{figures:?}").contains("ee"), "{figures:?}");
    }

    #[test]
    fn an_outage_of_no_time_is_one_and_a_planned_move_is_none() {
        let figures = SessionFigures::new(&[0; 16], 1024);
        figures.resumed(2, None);
        assert_eq!((figures.view().resumes, figures.view().last_outage), (1, None));
        figures.resumed(3, Some(Duration::ZERO));
        assert_eq!((figures.view().epoch, figures.view().last_outage), (3, Some(Duration::ZERO)));
    }
}
