//! One talk between a client and a server: what each end is to send, and a checker of every byte at both ends.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use super::world::{Place, World, place_of};

/// The first bytes of a client, before its number.
pub const MAGIC: [u8; 8] = *b"EVERSOAK";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Both ways for minutes, at a modest rate.
    Long,
    /// The same, with a client that now and then does not read for seconds.
    Lazy,
    /// Questions and answers, a line each.
    Lines,
    Short,
    Bulk,
    /// One end says its end long before the other has said everything.
    Half,
}

impl Kind {
    pub const COUNT: usize = 6;
    pub const NAMES: [&'static str; Self::COUNT] = ["long", "lazy reader", "lines", "short", "bulk", "half-closed"];
}

/// Where a client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// A tunnel to one gateway, to the other, and to whichever is there.
    Left,
    Right,
    Both,
    Direct,
}

impl Door {
    pub const ALL: [Self; 4] = [Self::Left, Self::Right, Self::Both, Self::Direct];
    pub const NAMES: [&'static str; 4] = ["left", "right", "both", "direct"];

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    pub fn leads_to(self, place: Place) -> bool {
        match self {
            Self::Left => place == Place::A,
            Self::Right => place == Place::B,
            Self::Both => matches!(place, Place::A | Place::B),
            Self::Direct => place == Place::Server,
        }
    }
}

/// What one end sends.
#[derive(Debug, Clone, Copy)]
pub struct Leg {
    /// Bytes, or until told to finish.
    pub total: u64,
    pub piece: usize,
    pub pause: Duration,
    /// The second half only after the other end's end.
    pub after: bool,
}

#[derive(Default)]
pub struct Flow {
    pub sent: AtomicU64,
    pub seen: AtomicU64,
    /// The sender has said its end, after `sent` bytes.
    said: AtomicBool,
    /// The receiver has heard it.
    heard: watch::Sender<bool>,
}

pub struct Talk {
    pub number: u64,
    pub kind: Kind,
    pub door: Door,
    pub legs: [Leg; 2],
    pub flows: [Flow; 2],
    pub born: Instant,
    pub finish: watch::Sender<bool>,
    place: AtomicUsize,
    claimed: AtomicBool,
    last: AtomicU64,
    blamed: AtomicBool,
    given_up: watch::Sender<bool>,
}

/// Why a talk did not come to its end.
pub enum Broken {
    /// Reset or the like.
    Cut(io::Error),
    /// It ended before everything was there.
    Early(String),
    /// Another byte than the one due, or more of them than were sent.
    Wrong(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(error) => write!(f, "{error}"),
            Self::Early(what) | Self::Wrong(what) => f.write_str(what),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Cut(error)
    }
}

impl Talk {
    pub fn new(world: &World, kind: Kind, door: Door, legs: [Leg; 2]) -> Arc<Self> {
        Arc::new(Self {
            number: world.number(),
            kind,
            door,
            legs,
            flows: Default::default(),
            born: Instant::now(),
            finish: watch::Sender::new(false),
            place: AtomicUsize::new(usize::MAX),
            claimed: AtomicBool::new(false),
            last: AtomicU64::new(world.started.elapsed().as_millis() as u64),
            blamed: AtomicBool::new(false),
            given_up: watch::Sender::new(false),
        })
    }

    pub fn place(&self) -> Option<Place> {
        place_of(&self.place)
    }

    /// A server has heard its first bytes. False: for a second time.
    pub fn claim(&self, place: Place) -> bool {
        self.place.store(place as usize, Ordering::Relaxed);
        !self.claimed.swap(true, Ordering::Relaxed)
    }

    pub fn moved(&self, world: &World) {
        self.last.store(world.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// When a byte last arrived at either end, in seconds since the start.
    pub fn last(&self) -> f64 {
        self.last.load(Ordering::Relaxed) as f64 / 1e3
    }

    /// Both ends have said everything, and their ends.
    pub fn is_said(&self) -> bool {
        self.flows.iter().all(|flow| flow.said.load(Ordering::Relaxed))
    }

    /// Tells what went wrong, once for each talk.
    pub fn blame(&self, world: &World, what: &str) {
        if !self.blamed.swap(true, Ordering::Relaxed) {
            let place = self.place().map_or("nowhere yet", Place::name);
            let counts: Vec<_> = self.flows.iter().map(|flow| (load(&flow.sent), load(&flow.seen))).collect();
            world.fail(format!(
                "talk {} ({}, by {}, at {place}, {:.1} s old, up and down sent and seen {counts:?}): {what}",
                self.number,
                Kind::NAMES[self.kind as usize],
                self.door.name(),
                self.born.elapsed().as_secs_f64(),
            ));
        }
    }

    /// It is over, wherever it stands.
    pub fn give_up(&self) {
        self.given_up.send_replace(true);
    }

    pub async fn given_up(&self) {
        let _ = self.given_up.subscribe().wait_for(|over| *over).await;
    }

    fn pattern(&self, way: usize) -> u64 {
        self.number << 1 | way as u64
    }

    /// Sends what the leg `way` (0 up, 1 down) says, and the end.
    pub async fn send(&self, way: usize, to: &mut (impl AsyncWrite + Unpin)) -> Result<(), Broken> {
        let (leg, flow, mut finish) = (self.legs[way], &self.flows[way], self.finish.subscribe());
        let mut heard = self.flows[1 - way].heard.subscribe();
        let mut piece = vec![0; leg.piece];
        let (mut at, mut waited) = (0, !leg.after);
        while at < leg.total && !*finish.borrow() {
            if !waited && at >= leg.total / 2 {
                let _ = heard.wait_for(|heard| *heard).await;
                waited = true;
            }
            let count = (leg.piece as u64).min(leg.total - at) as usize;
            fill(self.pattern(way), at, &mut piece[..count]);
            // Counted first: whoever sees more than was sent sees too much.
            at += count as u64;
            flow.sent.store(at, Ordering::Relaxed);
            to.write_all(&piece[..count]).await?;
            if !leg.pause.is_zero() {
                let _ = tokio::time::timeout(leg.pause, finish.wait_for(|finish| *finish)).await;
            }
        }
        flow.said.store(true, Ordering::Relaxed);
        to.shutdown().await?;
        Ok(())
    }

    /// Checks what the leg `way` brings, to its end.
    pub async fn check(&self, world: &World, way: usize, from: &mut (impl AsyncRead + Unpin)) -> Result<(), Broken> {
        let flow = &self.flows[way];
        let tally = if self.door == Door::Direct { &world.tally.direct } else { &world.tally.tunnel };
        let (mut buffer, mut due) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
        let (mut at, mut rest_at) = (0, fastrand::u64(20_000..100_000));
        loop {
            let count = from.read(&mut buffer).await?;
            self.moved(world);
            if count == 0 {
                let (said, sent) = (flow.said.load(Ordering::Relaxed), load(&flow.sent));
                if !said || at != sent {
                    return Err(Broken::Early(format!("an end after {at} bytes, when {sent} were sent")));
                }
                flow.heard.send_replace(true);
                return Ok(());
            }
            fill(self.pattern(way), at, &mut due[..count]);
            if buffer[..count] != due[..count] {
                let wrong = at + buffer.iter().zip(&due).take_while(|(a, b)| a == b).count() as u64;
                return Err(Broken::Wrong(format!("byte {wrong} is not the one that was sent")));
            }
            at += count as u64;
            flow.seen.store(at, Ordering::Relaxed);
            tally[way].fetch_add(count as u64, Ordering::Relaxed);
            if at > load(&flow.sent) {
                return Err(Broken::Wrong(format!("{at} bytes are here, and no more than {} sent", load(&flow.sent))));
            }
            if self.kind == Kind::Lazy && way == 1 && at > rest_at {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(500..4000))).await;
                rest_at = at + fastrand::u64(20_000..100_000);
            }
        }
    }
}

fn load(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

/// The bytes from `at` on: each 8 hold a number that says where in the flow, and in which flow, they stand.
pub fn fill(pattern: u64, at: u64, buffer: &mut [u8]) {
    let mut at = at;
    let mut rest = buffer;
    while !rest.is_empty() {
        let word = (pattern << 40 ^ (at / 8)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let from = (at % 8) as usize;
        let count = rest.len().min(8 - from);
        rest[..count].copy_from_slice(&word[from..from + count]);
        rest = &mut rest[count..];
        at += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the checker says of these bytes, when 1,000 were sent and the end was said or not.
    fn checked(bytes: &[u8], said: bool) -> Result<(), Broken> {
        let world = World::new(1);
        let leg = Leg { total: 1000, piece: 100, pause: Duration::ZERO, after: false };
        let talk = Talk::new(&world, Kind::Short, Door::Left, [leg; 2]);
        talk.flows[0].sent.store(1000, Ordering::Relaxed);
        talk.flows[0].said.store(said, Ordering::Relaxed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(talk.check(&world, 0, &mut &*bytes))
    }

    /// What the first talk of a world sends up.
    fn sent() -> Vec<u8> {
        let mut bytes = vec![0; 1000];
        fill(1 << 1, 0, &mut bytes);
        bytes
    }

    #[test]
    fn the_checker_sees_what_is_lost_doubled_changed_swapped_or_cut_short() {
        let good = sent();
        assert!(checked(&good, true).is_ok());
        let wrong = |bytes: &[u8]| matches!(checked(bytes, true), Err(Broken::Wrong(_)));
        for at in [0, 1, 7, 8, 499, 998] {
            let mut lost = good.clone();
            lost.remove(at);
            assert!(wrong(&lost), "byte {at} lost");
            let mut doubled = good.clone();
            doubled.insert(at, good[at]);
            assert!(wrong(&doubled), "byte {at} doubled");
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert!(wrong(&changed), "byte {at} changed");
        }
        let mut swapped = good.clone();
        swapped.rotate_left(500);
        assert!(wrong(&swapped));
        assert!(matches!(checked(&good[..999], true), Err(Broken::Early(_))));
        assert!(matches!(checked(&good, false), Err(Broken::Early(_))), "the sender has not said its end");
        let mut more = [good.clone(), vec![0; 24]].concat();
        fill(1 << 1, 0, &mut more);
        assert!(wrong(&more), "more than was sent");
    }
}
