//! A link, two gateways and a bad network under one clock. Connections are cut, reset, delayed; answers are lost and come
//! twice; gateways restart, forget and are busy. What is checked at every step:
//!
//! - never more than two attempts are in flight, and epochs grow with every Hello and every connection that holds;
//! - nothing is read while a Hello is out whose Welcome would be taken;
//! - what is read is the session's bytes, each once and in order;
//! - while somebody waits, an attempt begins within a second of the network's return; and there is never a storm;
//! - at the end, with everything well, the link is up.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::tests::settings;
use super::*;
use crate::config::{Jitter, Retry};
use crate::seeds;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Faults come for so long; then all is well for so long, which is more than a deadline and the longest wait.
const TROUBLE: Duration = Duration::from_secs(120);
const PEACE: Duration = Duration::from_secs(100);

/// What the driver of the sockets does wrong, to see the checks fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// It reads on while a Hello is out. That itself is not held against it, but what follows.
    ReadsWhileAsking,
    /// It reads a connection that should stay frozen; the same.
    ReadsOlderWelcome,
    /// It closes nothing that is abandoned.
    AbandonsNothing,
    /// It forgets to tick.
    Sleeps,
    /// It lets no wait pass.
    RetriesAlways,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Fault,
    Heal,
    /// The dial has come through, or has been refused.
    Dialled(AttemptId, bool),
    /// The Hello reaches the gateway.
    Hello {
        id: AttemptId,
        epoch: u64,
        new: bool,
        received: u64,
    },
    /// Its answer reaches us.
    Answer(AttemptId, u8),
    /// The connection's end reaches us.
    End(AttemptId),
    TimeUp(AttemptId),
    /// Bytes move, beats are judged.
    Pump,
}

/// Answers by number, for events are ordered.
const WELCOME: u8 = 0;
const BUSY: u8 = 1;
const OWN_UNKNOWN: u8 = 2;
const OTHER_UNKNOWN: u8 = 3;
const SUPERSEDED: u8 = 4;
const DENIED: u8 = 5;

#[derive(Debug, Default)]
struct Gateway {
    /// The sessions it knows; 0 is the only one this link ever has at a time, by its birth epoch.
    session: Option<Known>,
    busy: bool,
    denies: bool,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    birth: u64,
    epoch: u64,
    attached: AttemptId,
}

#[derive(Debug, Clone, Copy)]
struct Connection {
    gateway: usize,
    /// The session's bytes that have come to us here, and that we have read: offsets.
    arrived: u64,
    read: u64,
    epoch: u64,
    /// The gateway still sends here.
    fed: bool,
}

struct Sim {
    random: fastrand::Rng,
    now: Instant,
    start: Instant,
    claims: Claims,
    wrong: Wrong,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    sequence: u64,
    up: bool,
    /// The longest a message takes.
    latency: Duration,
    gateways: [Gateway; 2],
    connections: BTreeMap<AttemptId, Connection>,

    // The driver's side.
    flying: BTreeSet<AttemptId>,
    asking: BTreeSet<AttemptId>,
    holder: Option<AttemptId>,
    frozen: bool,
    suspect: bool,
    streams_wait: bool,
    heard: Instant,
    /// Offset of the session's bytes read.
    received: u64,
    /// The session by the epoch that made it, and its home.
    session: Option<(u64, usize)>,

    // What the checks need.
    said: u64,
    held: u64,
    dials: Vec<Instant>,
    healed: Option<Instant>,
    busy_until: Instant,
    resumed: u32,
    elsewhere: u32,
}

type Checked = Result<(), String>;

impl Sim {
    fn new(seed: u64, wrong: Wrong) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let start = Instant::now();
        let retry = Retry { jitter: Jitter::Share(0.5), stable_after: 3 * SECOND, ..settings().retry };
        let deadline = if random.bool() { 60 * SECOND } else { 10 * SECOND };
        let settings = Settings { retry, endpoints: random.usize(1..=3), deadline, ..settings() };
        let mut sim = Self {
            claims: Claims::new(settings, start, seed),
            random,
            now: start,
            start,
            wrong,
            events: BinaryHeap::new(),
            sequence: 0,
            up: true,
            latency: 50 * MS,
            gateways: Default::default(),
            connections: BTreeMap::new(),
            flying: BTreeSet::new(),
            asking: BTreeSet::new(),
            holder: None,
            frozen: false,
            suspect: false,
            streams_wait: false,
            heard: start,
            received: 0,
            session: None,
            said: 0,
            held: 0,
            dials: Vec::new(),
            healed: None,
            busy_until: start,
            resumed: 0,
            elsewhere: 0,
        };
        sim.at(Duration::ZERO, Event::Pump);
        sim.at(SECOND, Event::Fault);
        sim
    }

    fn at(&mut self, wait: Duration, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((self.now + wait, self.sequence, event)));
    }

    fn chance(&mut self, share: f64) -> bool {
        self.random.f64() < share
    }

    fn some(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.random.f64())
    }

    fn run(mut self) -> Result<Self, String> {
        let mut rounds_at_once = 0;
        self.give(Input::Tick)?;
        loop {
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            let tick = self.claims.next_deadline().filter(|_| self.wrong != Wrong::Sleeps);
            let next = [event, tick].into_iter().flatten().min().unwrap_or(self.now).max(self.now);
            rounds_at_once = if next == self.now { rounds_at_once + 1 } else { 0 };
            if rounds_at_once > 200 {
                return Err("turns in a circle".to_owned());
            }
            self.now = next;
            if self.now - self.start > TROUBLE + PEACE {
                break;
            }
            if event.is_some_and(|at| at <= self.now) {
                if let Some(Reverse((_, _, event))) = self.events.pop() {
                    self.happen(event)?;
                }
            } else {
                self.give(Input::Tick)?;
            }
            if self.wrong == Wrong::RetriesAlways {
                self.give(Input::Retry)?;
            }
            self.check()?;
        }
        match self.claims.state() {
            State::Up { .. } => Ok(self),
            other => Err(format!("ends in {other:?}")),
        }
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Fault => self.fault()?,
            Event::Heal => {
                self.up = true;
                self.healed = Some(self.now);
            }
            Event::Dialled(id, refused) if self.flying.contains(&id) => {
                if refused {
                    self.over(id);
                    self.give(Input::Failed(id, Failure::Refused))?;
                } else if self.up {
                    self.give(Input::Ready(id))?;
                } else {
                    self.at(SECOND, event); // the SYN comes again
                }
            }
            Event::Hello { id, epoch, new, received } => self.hello(event, id, epoch, new, received),
            Event::Answer(id, answer) if self.up => self.answer(id, answer)?,
            Event::End(id) if self.up => {
                if self.holder == Some(id) {
                    self.lose()?;
                } else if self.over(id) {
                    self.give(Input::Failed(id, Failure::Refused))?;
                }
            }
            Event::TimeUp(id) => {
                let asked = self.asking.contains(&id);
                if self.over(id) {
                    self.give(if asked { Input::AnswerTimedOut(id) } else { Input::Failed(id, Failure::Timeout) })?;
                }
            }
            Event::Pump => self.pump()?,
            // Lost on the way, or of an attempt that is over.
            Event::Dialled(..) | Event::Answer(..) | Event::End(..) => {}
        }
        Ok(())
    }

    fn fault(&mut self) -> Checked {
        if self.now - self.start > TROUBLE {
            self.up = true;
            self.latency = 50 * MS;
            for gateway in &mut self.gateways {
                (gateway.busy, gateway.denies) = (false, false);
            }
            self.healed = Some(self.now);
            self.streams_wait = true;
            return self.give(Input::StreamsWait(true));
        }
        let gateway = self.random.usize(..2);
        match self.random.u8(..17) {
            0..=3 => {
                self.up = false;
                let wait = 100 * MS + self.some(15 * SECOND);
                self.at(wait, Event::Heal);
            }
            4 | 5 => {
                if let Some(id) = self.holder {
                    self.at(MS, Event::End(id));
                }
            }
            6 => {
                // It restarts: everything it had is gone, and its connections end.
                self.gateways[gateway] = Gateway::default();
                let gone: Vec<_> =
                    self.connections.iter().filter(|(_, c)| c.gateway == gateway).map(|(id, _)| *id).collect();
                for id in gone {
                    self.unfeed(id);
                }
            }
            7 => self.latency = if self.chance(0.5) { 1200 * MS } else { 50 * MS },
            8 => self.gateways[gateway].busy ^= true,
            9 => self.gateways[gateway].denies ^= true,
            10 => self.give(Input::Move)?,
            11 => self.give(Input::Retry)?,
            12 | 13 => {
                let endpoint = self.random.usize(..3);
                self.give(Input::Follow(endpoint))?;
            }
            14 => self.give(Input::Stay)?,
            _ => {
                self.streams_wait ^= true;
                self.give(Input::StreamsWait(self.streams_wait))?;
            }
        }
        let wait = self.some(6 * SECOND);
        self.at(wait, Event::Fault);
        Ok(())
    }

    /// The gateway's side of a claim: the highest epoch wins and fences the rest.
    fn hello(&mut self, event: Event, id: AttemptId, epoch: u64, new: bool, received: u64) {
        if !self.up {
            if self.asking.contains(&id) {
                self.at(500 * MS, event); // TCP sends it again
            }
            return;
        }
        let Some(at) = self.connections.get(&id).map(|connection| connection.gateway) else { return };
        let known = self.gateways[at].session;
        let ours = known.filter(|known| self.session.is_some_and(|(birth, _)| birth == known.birth));
        let answer = match (new, ours) {
            _ if self.gateways[at].denies => DENIED,
            _ if self.gateways[at].busy => BUSY,
            (true, _) => WELCOME,
            (false, None) if self.session.is_some_and(|(_, home)| home == at) => OWN_UNKNOWN,
            (false, None) => OTHER_UNKNOWN,
            (false, Some(known)) if epoch <= known.epoch => SUPERSEDED,
            (false, Some(_)) => WELCOME,
        };
        if answer == WELCOME {
            if let Some(known) = ours {
                self.unfeed(known.attached);
            }
            let birth = ours.filter(|_| !new).map_or(epoch, |known| known.birth);
            self.gateways[at].session = Some(Known { birth, epoch, attached: id });
            if let Some(connection) = self.connections.get_mut(&id) {
                *connection = Connection { arrived: received, read: received, epoch, fed: true, ..*connection };
            }
        }
        for _ in 0..=u8::from(self.chance(0.1)) {
            let wait = self.some(self.latency);
            self.at(wait, Event::Answer(id, answer));
        }
    }

    /// The gateway stops sending on a connection, and we hear of it if the network lets us.
    fn unfeed(&mut self, id: AttemptId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.fed = false;
            let wait = self.some(self.latency);
            self.at(wait, Event::End(id));
        }
    }

    fn answer(&mut self, id: AttemptId, answer: u8) -> Checked {
        if self.chance(0.05) {
            return Ok(()); // this one is lost for good
        }
        let retry_after = 4 * SECOND;
        let words = match answer {
            WELCOME => Answer::Welcome { deadline: 30 * SECOND, advertise: true },
            BUSY => Answer::Busy { retry_after },
            OWN_UNKNOWN => Answer::Unknown { own_name: true },
            OTHER_UNKNOWN => Answer::Unknown { own_name: false },
            SUPERSEDED => Answer::Superseded,
            _ => Answer::Denied,
        };
        if matches!(words, Answer::Busy { .. } | Answer::Denied) {
            self.busy_until = self.now + 30 * SECOND;
        }
        self.asking.remove(&id);
        if !matches!(words, Answer::Welcome { .. }) {
            self.flying.remove(&id);
        }
        self.give(Input::Answer(id, words)) // twice, or late, too
    }

    fn pump(&mut self) -> Checked {
        self.at(100 * MS, Event::Pump);
        let fresh = self.random.u64(..1000);
        for connection in self.connections.values_mut().filter(|connection| connection.fed && self.up) {
            connection.arrived += fresh;
        }
        let Some(id) = self.holder else { return Ok(()) };
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        if !self.frozen {
            if connection.arrived > connection.read {
                if self.wrong == Wrong::Nothing && !self.asking.is_empty() {
                    return Err(format!("reads while {:?} ask", self.asking));
                }
                if connection.read != self.received {
                    return Err(format!("reads from {} after {}", connection.read, self.received));
                }
                connection.read = connection.arrived;
                self.received = connection.arrived;
            }
            if connection.fed && self.up {
                self.heard = self.now;
                if std::mem::take(&mut self.suspect) {
                    return self.give(Input::Recovered);
                }
            }
        }
        let silence = self.now - self.heard;
        if silence > 10 * SECOND {
            return self.lose();
        }
        if silence > 1500 * MS && !std::mem::replace(&mut self.suspect, true) {
            return self.give(Input::Suspect);
        }
        Ok(())
    }

    fn lose(&mut self) -> Checked {
        if let Some(id) = self.holder.take() {
            self.connections.remove(&id);
        }
        (self.frozen, self.suspect) = (false, false);
        self.give(Input::Lost)
    }

    /// The attempt's end on our side. False: it was over already.
    fn over(&mut self, id: AttemptId) -> bool {
        self.asking.remove(&id);
        self.flying.remove(&id)
    }

    fn give(&mut self, input: Input) -> Checked {
        for action in self.claims.handle(self.now, input) {
            self.obey(action)?;
        }
        Ok(())
    }

    fn obey(&mut self, action: Action) -> Checked {
        match action {
            Action::Dial { id, place } => {
                self.flying.insert(id);
                self.dials.push(self.now);
                let anywhere = self.random.usize(..2);
                let home = self.session.map_or(anywhere, |(_, home)| home);
                let gateway = match place {
                    Place::Advertise => home,
                    Place::Last if self.chance(0.7) => home,
                    Place::Last => anywhere,
                    Place::Endpoint(index) => index % 2,
                };
                let fresh = Connection { gateway, arrived: 0, read: 0, epoch: 0, fed: false };
                self.connections.insert(id, fresh);
                let (wait, refused) = (self.some(2 * self.latency), self.chance(0.1));
                self.at(wait, Event::Dialled(id, refused));
                self.at(5 * SECOND, Event::TimeUp(id));
            }
            Action::SayHello { id, epoch, new_session } => {
                if epoch <= self.said {
                    return Err(format!("epoch {epoch} after {}", self.said));
                }
                self.said = epoch;
                if new_session {
                    self.received = 0;
                }
                self.frozen = self.holder.is_some() && self.wrong != Wrong::ReadsWhileAsking;
                self.asking.insert(id);
                let wait = self.some(self.latency);
                self.at(wait, Event::Hello { id, epoch, new: new_session, received: self.received });
            }
            Action::Attach { id, frozen } => {
                let Some(connection) = self.connections.get(&id).copied() else { return Err("no such one".to_owned()) };
                if connection.epoch <= self.held {
                    return Err(format!("epoch {} holds after {}", connection.epoch, self.held));
                }
                self.held = connection.epoch;
                self.flying.remove(&id);
                if let Some(old) = self.holder.replace(id) {
                    self.connections.remove(&old);
                }
                self.resumed += u32::from(self.session.is_some());
                self.session.get_or_insert((connection.epoch, connection.gateway));
                self.frozen = frozen && self.wrong != Wrong::ReadsOlderWelcome;
                (self.heard, self.suspect) = (self.now, false);
            }
            Action::Abandon { id } => {
                if self.wrong != Wrong::AbandonsNothing {
                    self.over(id);
                    self.connections.remove(&id);
                }
            }
            Action::Thaw => {
                self.frozen = false;
                self.heard = self.now;
            }
            Action::Elsewhere if self.holder.is_none() => return Err("nowhere is not elsewhere".to_owned()),
            Action::Elsewhere => self.elsewhere += 1,
            Action::AnotherIsUp if self.session.is_none() => return Err("no session is searched for".to_owned()),
            Action::AnotherIsUp => {}
            Action::StartFresh(_) => {
                if let Some(id) = self.holder.take() {
                    self.connections.remove(&id);
                }
                (self.session, self.frozen, self.suspect) = (None, false, false);
            }
            Action::Failed => return Err("gives up without a limit".to_owned()),
        }
        Ok(())
    }

    fn check(&mut self) -> Checked {
        if self.flying.len() > 2 || !self.claims.in_flight().eq(self.flying.iter().copied()) {
            return Err(format!("in flight: {:?}, {:?}", self.flying, self.claims.in_flight().collect::<Vec<_>>()));
        }
        if self.frozen != self.claims.is_frozen() && self.wrong == Wrong::Nothing {
            return Err("frozen or not?".to_owned());
        }
        let lately = self.dials.iter().rev().take_while(|at| self.now - **at < 10 * SECOND).count();
        if lately > 40 {
            return Err(format!("{lately} dials in 10 s"));
        }
        let urgent = self.streams_wait && self.session.is_some() && (self.suspect || self.holder.is_none());
        if !urgent || !self.up || self.now < self.busy_until {
            self.healed = None;
        }
        if let Some(healed) = self.healed {
            if self.dials.last().is_some_and(|at| *at >= healed) {
                self.healed = None;
            } else if self.now - healed > SECOND {
                return Err("no attempt within a second of the heal".to_owned());
            }
        }
        Ok(())
    }
}

#[test]
fn a_session_is_never_doubled_never_stormed_for_and_always_comes_back() {
    let (mut resumed, mut elsewhere) = (0, 0);
    for seed in 0..2000 {
        match Sim::new(seed, Wrong::Nothing).run() {
            Ok(sim) => (resumed, elsewhere) = (resumed + sim.resumed, elsewhere + sim.elsewhere),
            Err(problem) => panic!("{}", seeds::failure("tunnel::claims::sim", seed, &problem)),
        }
    }
    assert!(resumed > 2000 * 3, "only {resumed} resumes: the simulation tests nothing");
    assert!(elsewhere > 2000 / 4, "only {elsewhere} names led to another gateway");
}

#[test]
fn one_seed() {
    let seed = seeds::one();
    if let Err(problem) = Sim::new(seed, Wrong::Nothing).run() {
        panic!("{}", seeds::failure("tunnel::claims::sim", seed, &problem));
    }
}

/// For `tests/simulate`.
#[test]
#[ignore = "many seeds take long"]
fn many_seeds() {
    let run = |seed| Sim::new(seed, Wrong::Nothing).run().map(|sim| u64::from(sim.resumed));
    let resumed = seeds::many("tunnel::claims::sim", run, |all, more| *all += more);
    println!("{:<48} {resumed:>12}", "resumed");
}

#[test]
fn the_checks_do_find_what_is_wrong() {
    let wrongs = [
        (Wrong::ReadsWhileAsking, "reads from"),
        (Wrong::ReadsOlderWelcome, "reads from"),
        (Wrong::AbandonsNothing, "in flight"),
        (Wrong::Sleeps, "ends in"),
        (Wrong::RetriesAlways, "dials in 10 s"),
    ];
    for (wrong, expected) in wrongs {
        let found = (0..300).filter_map(|seed| Sim::new(seed, wrong).run().err()).any(|said| said.contains(expected));
        assert!(found, "{wrong:?} goes unnoticed");
    }
}
