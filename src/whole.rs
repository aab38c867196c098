//! The whole of tunnel mode in one deterministic run: a sidecar with its links, several gateways, clients and services, on a
//! network of memory, under one clock and one seed, while everything goes wrong that can.
//!
//! What runs is the program itself: hub, keeper, link tasks, claims, pulse, driver and session core at the near end; accept,
//! handshake, admission, sessions and claims at the gateways. Only the sockets ([`crate::net::memory`]), the clock (tokio's,
//! paused) and the random numbers are the simulation's. The other way would have been to take the decisions out of their
//! tasks and to write the loops around them once more: a copy of what is most likely to be wrong. Left out are TLS (its
//! records are made with random numbers that no seed decides, and `advertise` is believed only under it), nameservers (names lead where
//! the simulation has them lead) and listeners.
//!
//! Checked are, by everybody who writes and reads ([`streams`]) and by a tap on the wire ([`tap`]): every byte and every end
//! of every stream once and in order, or a reset that was due and is counted; epochs that only rise; one connection that
//! holds a session; nothing read while a claim is out; windows and retention within their bounds; no storm of dials; no
//! violation and no panic. After the storm every link must stand, and every client be through, within a stated time; and
//! at the end nothing is left of anybody.
//!
//! `EVERLINK_SEED=n cargo test --lib whole::one_seed -- --nocapture` runs one number again; with `EVERLINK_LOG=debug`
//! everlink's own log comes with it. `tests/simulate` runs as many as one likes.

#![forbid(unsafe_code)]

mod checks;
mod counts;
mod nemesis;
mod stage;
mod streams;
mod tap;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Once;
use std::time::{Duration, Instant};

use fastrand::Rng;

use self::counts::Counts;
use self::nemesis::Nemesis;
use self::stage::{Far, MS, Near, Profile, SECOND, gateway_addresses, name};
use self::streams::{Plan, Users};
use self::tap::Record;
use crate::clock;
use crate::net::memory::{self, Habits, net};
use crate::seeds;
use crate::session::Broken;

/// With the network whole again, every link stands within this: the longest wait for a redial (5 s), a dial that began
/// before and comes to nothing (5 s), an answer that does not come, and once more for whoever heard `busy` (7.5 s).
const UP_WITHIN: Duration = Duration::from_secs(30);
/// And every client is through: those who are slow, or wait for their turn, included.
const THROUGH_WITHIN: Duration = Duration::from_secs(240);
/// What is over is gone, at both ends.
const GONE_WITHIN: Duration = Duration::from_secs(20);

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What a run has come to.
struct Ran {
    counts: Counts,
    trace: u64,
}

fn run(seed: u64, broken: Broken) -> Result<Ran, String> {
    listen_for_panics();
    PANICS.take();
    Broken::set(broken);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let ran = runtime.expect("a runtime").block_on(play(seed));
    Broken::set(Broken::default());
    match PANICS.take().first() {
        Some(panic) => Err(format!("a panic: {panic}")),
        None => ran,
    }
}

async fn play(seed: u64) -> Result<Ran, String> {
    let mut random = Rng::with_seed(seed);
    let profile = Profile::random(&mut random);
    let (tap, record) = tap::tap();
    let addresses = (0..profile.gateways).map(gateway_addresses).collect();
    let _running = memory::begin(seed, addresses, Habits::rough(), tap);
    (0..profile.gateways).for_each(|gateway| name(gateway, gateway, 0));
    tokio::spawn(memory::pump());
    tokio::spawn(memory::dispatch());
    let silences = if profile.gentle { SECOND } else { 15 * SECOND };
    let plan = |_| Plan::random(&mut random, profile.storm, profile.most, silences);
    let users = Users::new((0..profile.clients).map(plan).collect());
    stage::serve(&users);
    let mut gateways: Vec<Far> =
        (0..profile.gateways).map(|index| Far::new(index, &mut random, profile.gentle)).collect();
    gateways.iter_mut().for_each(Far::start);
    let near = Near::start(&profile, &mut random);
    let mut whole = Whole {
        profile,
        users,
        gateways,
        near,
        record,
        counts: Counts::default(),
        begun: clock::now(),
        sessions: BTreeMap::new(),
        links: BTreeMap::new(),
    };
    whole.play(seed).await?;
    let mut counts = whole.counts;
    counts.merge(&whole.record.borrow().counts);
    counts.one(if whole.profile.gentle { "runs without a loss" } else { "runs with losses" });
    let trace = whole.record.borrow().trace;
    Ok(Ran { counts, trace })
}

struct Whole {
    profile: Profile,
    users: std::sync::Arc<Users>,
    gateways: Vec<Far>,
    near: Near,
    record: Rc<RefCell<Record>>,
    counts: Counts,
    begun: Instant,
    /// Of each session, by which end shows it: its epoch, and what it was ever allowed to keep.
    sessions: BTreeMap<(bool, String), (u64, u64)>,
    /// When each link was last seen.
    links: BTreeMap<u64, Instant>,
}

impl Whole {
    async fn play(&mut self, seed: u64) -> Result<(), String> {
        let mut nemesis = Nemesis::new(seed, &self.profile);
        let mut coming: Vec<(Duration, usize)> =
            self.users.plans().iter().enumerate().map(|(plan, what)| (what.opens_at, plan)).collect();
        coming.sort();
        let mut coming = coming.into_iter().peekable();
        while clock::since(self.begun) < self.profile.storm {
            let end = self.begun + self.profile.storm;
            let client = coming.peek().map(|(at, _)| self.begun + *at);
            let look = clock::now() + 50 * MS;
            let next = [Some(end), client, nemesis.next_deed(), Some(look)].into_iter().flatten().min();
            clock::sleep_until_or_never(next).await;
            while let Some((_, plan)) = coming.next_if(|(at, _)| self.begun + *at <= clock::now()) {
                self.near.client(&self.users, plan);
            }
            nemesis.act(&mut self.near, &mut self.gateways);
            self.look()?;
        }
        nemesis.heal(&mut self.near, &mut self.gateways, self.profile.links);
        coming.for_each(|(_, plan)| self.near.client(&self.users, plan));
        self.counts.merge(&nemesis.counts);

        let healed = clock::now();
        self.until("every link stands", UP_WITHIN, |whole| whole.near.is_whole()).await?;
        self.counts.most("most milliseconds until up", clock::since(healed).as_millis() as u64);
        let all = self.users.plans().len();
        self.until("every client is through", THROUGH_WITHIN, |whole| whole.users.through() == all).await?;
        self.counts.most("most milliseconds until through", clock::since(healed).as_millis() as u64);
        // Whoever came a moment ago has been let in by then.
        tokio::time::sleep(SECOND).await;
        // At a gateway that was given up, streams wait for their session's deadline.
        self.until("nobody is carried", GONE_WITHIN + self.deadline(), |whole| {
            whole.near.hub.present.count() == 0 && whole.near.hub.streams() == 0 && whole.users.is_quiet()
        })
        .await?;
        self.verdict()?;
        self.leave().await
    }

    async fn until(&mut self, what: &str, within: Duration, mut is: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let end = clock::now() + within;
        while !is(self) {
            if clock::now() > end {
                return Err(format!("not within {within:?}: {what}: {}", self.state()));
            }
            tokio::time::sleep(100 * MS).await;
            self.look()?;
        }
        Ok(())
    }

    /// The longest that a gateway waits for a dialer.
    fn deadline(&self) -> Duration {
        self.gateways.iter().map(|far| far.settings.resume.deadline).max().unwrap_or_default()
    }

    /// The sidecar goes, and nothing is left of it.
    async fn leave(&mut self) -> Result<(), String> {
        if self.profile.dies {
            drop(net(|network| network.kill(self.near.process)));
            self.near.keeper.abort();
        } else {
            self.near.stop.cancel();
        }
        // A session whose Welcome got lost is nobody's, and waits for its dialer as long as was said.
        let within = GONE_WITHIN + self.deadline();
        self.until("the sidecar is gone", GONE_WITHIN, |whole| whole.near.keeper.is_finished()).await?;
        self.until("the gateways forget it", within, |whole| {
            whole.gateways.iter().all(|far| far.gateway.as_ref().is_none_or(|gateway| gateway.left().is_none()))
        })
        .await
        .map_err(|error| {
            let left: Vec<_> = self.gateways.iter().filter_map(|far| far.gateway.as_ref()?.left()).collect();
            format!("{error}: {left:?}")
        })?;
        self.until("every socket is closed", GONE_WITHIN, |_| net(|network| network.open().is_empty()))
            .await
            .map_err(|error| format!("{error}: {:?}", net(|network| network.open())))
    }
}

/// Panics of a run's tasks belong to the run.
fn listen_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if memory::now().is_some() && tokio::runtime::Handle::try_current().is_ok() {
                PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            }
            others(info);
        }));
    });
}

/// Runs some seeds; the failing one's command is told.
fn run_all(from: u64, to: u64) -> Counts {
    let mut all = Counts::default();
    for seed in from..to {
        match run(seed, Broken::default()) {
            Ok(ran) => all.merge(&ran.counts),
            Err(text) => panic!("{}", seeds::failure("whole", seed, &text)),
        }
    }
    all
}

#[test]
fn one_seed() {
    let _log = std::env::var("EVERLINK_LOG").ok().map(|level| {
        let log = tracing_subscriber::fmt().with_env_filter(level).with_timer(Time).with_test_writer();
        tracing::subscriber::set_default(log.finish())
    });
    let seed = seeds::one();
    println!("{}", run_all(seed, seed + 1));
}

/// For `tests/simulate`.
#[test]
#[ignore = "many seeds take long"]
fn many_seeds() {
    let run = |seed| run(seed, Broken::default()).map(|ran| ran.counts);
    let counts = seeds::many("whole", run, Counts::merge);
    println!("{counts}");
    tests::has_reached_everything(&counts);
}

/// The simulation's time, for the log.
struct Time;

impl tracing_subscriber::fmt::time::FormatTime for Time {
    fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        let since = memory::origin().map(clock::since).unwrap_or_default();
        write!(writer, "{:9.3}", since.as_secs_f64())
    }
}

mod tests;
