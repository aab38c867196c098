//! What everybody of a run knows: the time, the seed, who talks to whom, which faults there were, and what went wrong.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::talk::Talk;

/// Streams are given up by everlink after so long without a connection.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// A talk in which nothing has moved for so long hangs: the deadline, and as long again for a machine that is busy.
pub const HANG: Duration = Duration::from_secs(40);
/// After a fault bytes move again, and the links are up, within this time.
pub const RECOVERY: Duration = Duration::from_secs(15);
/// Who is reset may hear of it so much later: lazy readers, and processes that stood still.
const LATE: Duration = Duration::from_secs(10);
/// After so many failures there is nothing more to learn.
const ENOUGH: usize = 20;

/// Who the faults happen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    A = 0,
    B = 1,
    /// The server of direct mode and the way there.
    Server = 2,
    Sidecar = 3,
}

impl Place {
    pub const ALL: [Self; 4] = [Self::A, Self::B, Self::Server, Self::Sidecar];

    pub fn name(self) -> &'static str {
        ["gateway a", "gateway b", "direct server", "sidecar"][self as usize]
    }
}

/// One fault that took place.
#[derive(Debug, Clone)]
pub struct Fault {
    pub place: Place,
    pub kind: &'static str,
    /// Seconds since the start.
    pub from: f64,
    pub until: f64,
    /// Milliseconds from its end until bytes moved again, where talks had been going on.
    pub recovery: Option<f64>,
}

/// A time in which talks at a place may be reset, and are not to blame.
#[derive(Debug, Clone, Copy)]
struct Excuse {
    place: Place,
    until: Option<Instant>,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Talks and faults.
    Storm,
    /// No new talks and no new faults; those that are come to their end.
    Calm,
}

/// Seconds an answer took, since the last look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answers {
    pub count: u64,
    pub sum: f64,
    pub max: f64,
}

pub struct World {
    pub seed: u64,
    pub started: Instant,
    pub phase: watch::Sender<Phase>,
    talks: Mutex<HashMap<u64, Arc<Talk>>>,
    next: AtomicU64,
    excuses: Mutex<Vec<Excuse>>,
    faults: Mutex<Vec<Fault>>,
    failures: Mutex<Vec<String>>,
    answers: Mutex<Answers>,
    /// How many connections this machine's kernel has reset for want of memory, and when that last rose.
    starved: Mutex<(u64, Option<Instant>)>,
    /// Lanes of faults in which something goes on.
    busy: [AtomicBool; 4],
    pub tally: Tally,
}

/// What the talks came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Talks begun, by kind.
    pub begun: [AtomicU64; super::talk::Kind::COUNT],
    /// Talks that came to their end in order.
    pub finished: AtomicU64,
    /// Reset with an excuse, through a tunnel and directly.
    pub reset: AtomicU64,
    pub reset_direct: AtomicU64,
    /// Reset by this machine's kernel, which had no memory left for TCP, after both ends had said everything.
    pub starved: AtomicU64,
    /// Talks through tunnels whose server's end was cut, with an excuse.
    pub cut_at_server: AtomicU64,
    /// Checked bytes, by direction: through tunnels and directly.
    pub tunnel: [AtomicU64; 2],
    pub direct: [AtomicU64; 2],
    /// Seconds that each answer took.
    pub answers: Mutex<Vec<f32>>,
}

impl World {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            seed,
            started: Instant::now(),
            phase: watch::Sender::new(Phase::Storm),
            talks: Mutex::default(),
            next: AtomicU64::new(1),
            excuses: Mutex::default(),
            faults: Mutex::default(),
            failures: Mutex::default(),
            answers: Mutex::default(),
            starved: Mutex::new((aborted_for_memory(), None)),
            busy: Default::default(),
            tally: Tally::default(),
        })
    }

    /// Seconds since the start.
    pub fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// A generator of its own for each part of a run, all by the one seed.
    pub fn rng(&self, part: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ part)
    }

    pub fn fail(&self, what: impl AsRef<str>) {
        let text = format!("{:.1} s: {}", self.now(), what.as_ref());
        let mut failures = locked(&self.failures);
        if failures.len() < ENOUGH {
            eprintln!("FAILED (seed {}) at {text}", self.seed);
            failures.push(text);
        }
    }

    pub fn failures(&self) -> Vec<String> {
        locked(&self.failures).clone()
    }

    pub fn is_hopeless(&self) -> bool {
        locked(&self.failures).len() >= ENOUGH
    }

    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub fn enter(&self, talk: &Arc<Talk>) {
        self.tally.begun[talk.kind as usize].fetch_add(1, Ordering::Relaxed);
        locked(&self.talks).insert(talk.number, talk.clone());
    }

    pub fn leave(&self, talk: &Talk) {
        locked(&self.talks).remove(&talk.number);
    }

    pub fn talk(&self, number: u64) -> Option<Arc<Talk>> {
        locked(&self.talks).get(&number).cloned()
    }

    pub fn talks(&self) -> Vec<Arc<Talk>> {
        locked(&self.talks).values().cloned().collect()
    }

    /// Those that are known to be at this place.
    pub fn talks_at(&self, place: Place) -> Vec<Arc<Talk>> {
        locked(&self.talks).values().filter(|talk| talk.place() == Some(place)).cloned().collect()
    }

    /// From now on talks at this place may be reset.
    pub fn excuse(&self, place: Place) {
        locked(&self.excuses).push(Excuse { place, until: None });
    }

    /// From now on no more than any others.
    pub fn excuse_no_more(&self, place: Place) {
        let mut excuses = locked(&self.excuses);
        for excuse in excuses.iter_mut().filter(|excuse| excuse.place == place && excuse.until.is_none()) {
            excuse.until = Some(Instant::now());
        }
    }

    /// Whether something happened in the life of this talk that may reset it.
    pub fn is_excused(&self, talk: &Talk) -> bool {
        // A warm connection may have died before it was handed out, and nobody heard of it yet.
        let born = talk.born.checked_sub(Duration::from_secs(3)).unwrap_or(talk.born);
        locked(&self.excuses).iter().any(|excuse| {
            let there = match talk.place() {
                Some(place) => place == excuse.place,
                None => talk.door.leads_to(excuse.place),
            };
            there && excuse.until.is_none_or(|until| until >= born && until.elapsed() < LATE)
        })
    }

    /// Looks whether this machine's kernel resets connections for want of memory: it does so with those that were closed while
    /// their last bytes wait to be read. True if it did of late.
    pub fn is_starved(&self) -> bool {
        let now = aborted_for_memory();
        let mut starved = locked(&self.starved);
        if now > starved.0 {
            *starved = (now, Some(Instant::now()));
        }
        starved.1.is_some_and(|rose| rose.elapsed() < LATE)
    }

    pub fn fault(&self, fault: Fault) {
        locked(&self.faults).push(fault);
    }

    pub fn faults(&self) -> Vec<Fault> {
        locked(&self.faults).clone()
    }

    pub fn answered(&self, seconds: f64) {
        locked(&self.tally.answers).push(seconds as f32);
        let mut answers = locked(&self.answers);
        answers.count += 1;
        answers.sum += seconds;
        answers.max = answers.max.max(seconds);
    }

    pub fn take_answers(&self) -> Answers {
        std::mem::take(&mut locked(&self.answers))
    }

    pub fn busy(&self, place: Place, busy: bool) {
        self.busy[place as usize].store(busy, Ordering::Relaxed);
    }

    pub fn is_busy(&self, place: Place) -> bool {
        self.busy[place as usize].load(Ordering::Relaxed)
    }

    /// Waits until there is a storm. False: the run is over.
    pub async fn until_storm(&self) -> bool {
        self.phase.subscribe().wait_for(|phase| *phase == Phase::Storm).await.is_ok()
    }

    /// Sleeps, and wakes early when the calm begins.
    pub async fn sleep(&self, time: Duration) {
        let mut phase = self.phase.subscribe();
        let _ = tokio::time::timeout(time, phase.wait_for(|phase| *phase == Phase::Calm)).await;
    }
}

pub fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `TCPAbortOnMemory` of `/proc/net/netstat`: a line of names, and one of numbers below it.
fn aborted_for_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { return 0 };
    let mut pairs = names.split(' ').zip(numbers.split(' '));
    pairs.find(|(name, _)| *name == "TCPAbortOnMemory").and_then(|(_, number)| number.parse().ok()).unwrap_or_default()
}

/// A place as an atomic number.
pub fn place_of(number: &AtomicUsize) -> Option<Place> {
    Place::ALL.get(number.load(Ordering::Relaxed)).copied()
}
