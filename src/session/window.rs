//! How much of a stream the peer may send before we have passed it on. Pure.
//!
//! The window decides how long a small request waits behind bulk data: 0.4 ms at 256 KiB, 1 ms at 1 MiB, tens of
//! milliseconds at 4 MiB (measured on loopback). So it follows need: twice the delivered rate times the round trip.

use std::time::{Duration, Instant};

use super::violation::Violation;

/// What a sender may send of a new stream before its first CREDIT.
pub const INITIAL: u32 = 16 * 1024;
/// What a new stream is given at once if there is room.
const FIRST: u32 = 64 * 1024;
/// Among so many streams at most what is free is shared out in advance. With the default of 48 MiB to grow into the first
/// streams have [`FIRST`] bytes each. Measured: when a thousand idle streams had them too, 64 uploads beside them were left
/// with windows of 64 KiB, and took half as much processor time again for each byte.
const MANY: usize = 1024;
/// The least for a stream that has shown need, while others move too …
const SHARED: u64 = 256 * 1024;
/// … and while no other does.
const ALONE: u64 = 1024 * 1024;
/// The most.
pub const LARGEST: u64 = 16 * 1024 * 1024;
/// A round trip from which on a path is long.
pub(super) const LONG_PATH: Duration = Duration::from_millis(2);
/// A round trip that nobody has measured yet.
const UNKNOWN: Duration = Duration::from_millis(1);

/// The memory that the windows of one session share.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    /// Bytes all windows may hold together.
    pub limit: u64,
    /// Streams that may be open, each with a claim on [`INITIAL`] bytes.
    pub streams: usize,
    /// Bytes of the windows now open.
    pub used: u64,
    /// How many those are.
    pub open: usize,
    /// What others leave for this session to grow into (a gateway's memory is for all sessions).
    pub spare: u64,
}

impl Pool {
    /// Room to grow beyond what streams still to come may claim.
    fn free(&self) -> u64 {
        let claimed = u64::from(INITIAL) * self.streams.saturating_sub(self.open) as u64;
        self.limit.saturating_sub(self.used).saturating_sub(claimed).min(self.spare)
    }

    /// No window takes more than a quarter of what is free at the moment.
    fn most(&self) -> u64 {
        self.free() / 4
    }

    /// What a stream may have beyond its claim before it has shown need: an even share of what is free, so that a thousand
    /// idle streams leave more than a third of it to those that move.
    fn advance(&self) -> u64 {
        self.free() / self.streams.clamp(4, MANY) as u64
    }
}

/// The least for a stream that has shown need. Over a long path the window's bytes are on their way most of the time, and to
/// grow from little would take many round trips.
fn least(alone: bool, rtt: Option<Duration>) -> u64 {
    let far = if rtt.is_some_and(|rtt| rtt >= LONG_PATH) { 4 } else { 1 };
    far * if alone { ALONE } else { SHARED }
}

/// The receiving window of one stream.
#[derive(Debug)]
pub struct Window {
    size: u64,
    /// Bytes the peer may still send.
    allowed: u64,
    /// Bytes received and not yet passed on.
    held: u64,
    /// Bytes passed on since the last CREDIT.
    passed: u64,
    since: Instant,
    /// Bytes passed on in all: need shows once it is more than a window.
    delivered: u64,
}

impl Window {
    /// The window of a stream that we open: its size is told in OPEN.
    pub fn opened(pool: &mut Pool, now: Instant) -> Self {
        let mut window = Self::accepted(pool, now);
        window.allowed = window.size;
        window
    }

    /// The window of a stream that the peer opened: it may send [`INITIAL`] bytes, and hears of more by CREDIT.
    pub fn accepted(pool: &mut Pool, now: Instant) -> Self {
        pool.open += 1;
        pool.used += u64::from(INITIAL);
        let more = pool.advance().min(u64::from(FIRST - INITIAL));
        pool.used += more;
        let size = u64::from(INITIAL) + more;
        Self { size, allowed: u64::from(INITIAL), held: 0, passed: 0, since: now, delivered: 0 }
    }

    /// The stream is over.
    pub fn close(&self, pool: &mut Pool) {
        pool.open = pool.open.saturating_sub(1);
        pool.used = pool.used.saturating_sub(self.size);
    }

    /// Its size in bytes.
    pub fn size(&self) -> u32 {
        self.size as u32
    }

    /// Bytes received and not passed on.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// `count` bytes arrived. Errors: [`Violation::Window`], and nothing has changed.
    pub fn receive(&mut self, count: u64) -> Result<(), Violation> {
        self.allowed = self.allowed.checked_sub(count).ok_or(Violation::Window)?;
        self.held += count;
        Ok(())
    }

    /// `count` bytes were passed on. True if a CREDIT is worth its frame: a quarter of the window has been used, or the
    /// peer can send nothing more.
    pub fn pass(&mut self, count: u64) -> bool {
        self.held = self.held.saturating_sub(count);
        self.passed += count;
        self.delivered += count;
        self.passed * 4 >= self.size || (self.allowed == 0 && self.held == 0)
    }

    /// The peer can send less than half a window before it hears of more.
    pub fn runs_dry(&self) -> bool {
        self.allowed * 2 < self.size
    }

    /// The CREDIT to give now, after the window has followed its need; 0: none. `alone`: no other stream moves.
    pub fn grant(&mut self, pool: &mut Pool, rtt: Option<Duration>, alone: bool, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.since).max(Duration::from_micros(10));
        let wanted = if self.delivered >= u64::from(FIRST) {
            let rate = self.passed as f64 / elapsed.as_secs_f64();
            let path = (2.0 * rate * rtt.unwrap_or(UNKNOWN).as_secs_f64()) as u64;
            path.clamp(least(alone, rtt), LARGEST)
        } else {
            self.size
        };
        let next = if wanted > self.size { self.size + (wanted - self.size).min(pool.most()) } else { wanted };
        // What the peer may still send, and what is held, cannot be taken back: others may not have it yet.
        let next = next.max(u64::from(INITIAL)).max(self.allowed + self.held);
        pool.used = pool.used.saturating_sub(self.size) + next;
        self.size = next;
        let due = self.size.saturating_sub(self.allowed + self.held);
        if due > 0 {
            self.allowed += due;
            self.passed = 0;
            self.since = now;
        }
        due as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(limit: u64, streams: usize) -> Pool {
        Pool { limit, streams, used: 0, open: 0, spare: u64::MAX }
    }

    #[test]
    fn a_peer_that_sends_more_than_allowed_is_told_and_changes_nothing() {
        let mut pool = pool(64 << 20, 1024);
        let mut window = Window::accepted(&mut pool, Instant::now());
        assert_eq!(window.receive(u64::from(INITIAL) + 1), Err(Violation::Window));
        assert_eq!(window.receive(u64::from(INITIAL)), Ok(()));
        assert_eq!(window.receive(1), Err(Violation::Window));
    }

    #[test]
    fn the_window_follows_rate_and_round_trip_up_and_down() {
        let mut pool = pool(64 << 20, 16);
        let start = Instant::now();
        let mut window = Window::opened(&mut pool, start);
        let rtt = Duration::from_millis(50);
        let mut now = start;
        // One window a round trip, as a sender held back by it delivers.
        for _ in 0..200 {
            let burst = window.allowed;
            window.receive(burst).unwrap();
            now += rtt;
            window.pass(burst);
            window.grant(&mut pool, Some(rtt), true, now);
        }
        assert!(u64::from(window.size()) > 12 << 20, "{}", window.size());
        // The same bytes over a short path need little.
        for _ in 0..200 {
            let burst = window.allowed;
            window.receive(burst).unwrap();
            now += rtt;
            window.pass(burst);
            window.grant(&mut pool, Some(rtt / 5000), false, now);
        }
        assert_eq!(u64::from(window.size()), SHARED);
    }

    /// Idle streams must not take in advance what those that move need.
    #[test]
    fn a_thousand_idle_streams_leave_room_for_those_that_move() {
        for streams in [1064, 6000] {
            let mut pool = pool((48 << 20) + u64::from(INITIAL) * streams as u64, streams);
            let mut now = Instant::now();
            let idle: Vec<_> = (0..1000).map(|_| Window::accepted(&mut pool, now)).collect();
            assert!(u64::from(idle[0].size()) > u64::from(FIRST) * 9 / 10, "the first have what they always had");
            let mut busy: Vec<_> = (0..64).map(|_| Window::accepted(&mut pool, now)).collect();
            for _ in 0..20 {
                for window in &mut busy {
                    let burst = window.allowed;
                    window.receive(burst).unwrap();
                    now += Duration::from_micros(10);
                    window.pass(burst);
                    window.grant(&mut pool, None, false, now);
                }
            }
            let least = busy.iter().map(Window::size).min().unwrap();
            assert_eq!(u64::from(least), SHARED, "of {streams} streams");
        }
    }

    /// Seen in the simulation: 340 KB were held in windows that counted for 320 KiB.
    #[test]
    fn a_window_shrinks_only_as_its_bytes_come_home() {
        let mut pool = pool(64 << 20, 16);
        let mut now = Instant::now();
        let mut window = Window::opened(&mut pool, now);
        let mut give = |window: &mut Window, alone| {
            now += Duration::from_secs(1);
            window.grant(&mut pool, None, alone, now);
            pool.used
        };
        for _ in 0..3 {
            let burst = window.allowed;
            window.receive(burst).unwrap();
            window.pass(burst);
            give(&mut window, true);
        }
        assert_eq!(window.allowed, ALONE);
        window.receive(ALONE).unwrap();
        window.pass(ALONE / 2);
        let counted = give(&mut window, false);
        assert!(window.held + window.allowed <= counted, "{} held, {counted} counted", window.held);
        window.pass(ALONE / 2);
        assert_eq!((give(&mut window, false), window.allowed), (SHARED, SHARED));
    }

    proptest! {
        /// Whatever is received, passed on and granted: all windows stay within the pool, every stream may have its first
        /// bytes, and a stream whose bytes are all passed on can always go on.
        #[test]
        fn windows_never_outgrow_their_pool(
            streams in 1usize..64, room in 0u64..4 << 20,
            steps in proptest::collection::vec((any::<u8>(), any::<u16>(), 0u64..100_000), 1..300)
        ) {
            let mut pool = pool(u64::from(INITIAL) * streams as u64 + room, streams);
            let mut now = Instant::now();
            let mut windows: Vec<_> = (0..streams).map(|_| Window::accepted(&mut pool, now)).collect();
            prop_assert!(pool.used <= pool.limit);
            for (which, share, micros) in steps {
                let window = &mut windows[usize::from(which) % streams];
                let count = window.allowed * u64::from(share) / u64::from(u16::MAX);
                prop_assert_eq!(window.receive(count), Ok(()));
                now += Duration::from_micros(micros);
                if window.pass(count) {
                    window.grant(&mut pool, Some(Duration::from_millis(20)), which % 2 == 0, now);
                }
                prop_assert!(window.allowed > 0 || window.held > 0);
                prop_assert!(window.allowed + window.held <= LARGEST);
                prop_assert!(pool.used <= pool.limit, "{} of {}", pool.used, pool.limit);
                let promised: u64 = windows.iter().map(|window| window.allowed + window.held).sum();
                prop_assert!(promised <= pool.used, "{promised} promised in {}", pool.used);
            }
            windows.iter().for_each(|window| window.close(&mut pool));
            prop_assert_eq!((pool.used, pool.open), (0, 0));
        }
    }
}
