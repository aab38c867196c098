//! A client, a server and a wire under a clock of their own, with line mode in between. What is checked at every step:
//!
//! - the server gets the client's bytes, all of them and in order, and between them whole beats, each at a line's end
//!   and in silence;
//! - the client gets what the server said, all of it and in order, but for the answers to beats: exactly the bytes it
//!   would have received without everlink;
//! - none of those bytes is kept from it for longer than `timeout`.
//!
//! The server numbers its answers, so an answer that goes to the wrong one shows.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::seeds;

/// What happens next in a case.
#[derive(Debug, Clone)]
enum Act {
    ClientWrites(Vec<u8>),
    /// The client does not read for so many milliseconds.
    ClientStalls(u64),
    ClientEnds,
    /// The server says a line unasked.
    Push(Vec<u8>),
    /// From now on the server thinks about each line for so many milliseconds.
    Think(u64),
    /// Milliseconds.
    Wait(u64),
}

#[derive(Debug, Clone)]
struct Case {
    acts: Vec<Act>,
    expect: config::Expect,
    timings: Timings,
    /// Every answer has a tail of so many bytes.
    tail: usize,
    seed: u64,
}

/// What stands between the server and the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    LineMode,
    /// Wrong, to see the checker fail: nothing is dropped.
    Nothing,
    /// Wrong: every line that reads like an answer is dropped.
    All,
    /// Wrong: the first such line after a beat is dropped, whoever asked before.
    FirstAfterBeat,
}

/// A byte on its way to or from the server, and whether a beat is its cause.
type Tagged = (u8, bool);

struct Sim<'a> {
    case: &'a Case,
    filter: Filter,
    line: LineMode,
    random: fastrand::Rng,
    start: Instant,
    now: Instant,
    last_byte: Instant,

    /// What the client wrote, and how much of it the server has got.
    written: Vec<u8>,
    arrived: usize,
    client_ended: bool,
    stalled_until: Instant,

    /// Of the line that the server is reading.
    reading: Vec<Tagged>,
    think: Duration,
    answers: u32,
    /// Slices on their way from the server, in order; an empty one is its end.
    wire: VecDeque<(Instant, Vec<Tagged>)>,

    to_client: Vec<u8>,
    /// What the client must get of all that has left the wire, and what it has got.
    expected: Vec<u8>,
    received: Vec<u8>,
    /// Up to which length `expected` had grown, and when.
    arrivals: VecDeque<(usize, Instant)>,
    naive_due: usize,
    naive_line: Vec<u8>,
    beats: u32,
    dead: bool,
}

impl<'a> Sim<'a> {
    fn new(case: &'a Case, filter: Filter) -> Self {
        let start = Instant::now();
        let line = LineMode::new(b"ping\n".to_vec(), case.expect.clone(), case.timings, start, case.seed);
        Self {
            case,
            filter,
            line: line.expect("fit words"),
            random: fastrand::Rng::with_seed(case.seed),
            start,
            now: start,
            last_byte: start,
            written: Vec::new(),
            arrived: 0,
            client_ended: false,
            stalled_until: start,
            reading: Vec::new(),
            think: Duration::ZERO,
            answers: 0,
            wire: VecDeque::new(),
            to_client: Vec::new(),
            expected: Vec::new(),
            received: Vec::new(),
            arrivals: VecDeque::new(),
            naive_due: 0,
            naive_line: Vec::new(),
            beats: 0,
            dead: false,
        }
    }

    /// Plays the case to its end; the number of beats and whether line mode called the connection dead.
    fn run(mut self) -> Result<(u32, bool), String> {
        for act in &self.case.acts {
            match act {
                Act::ClientWrites(bytes) if !self.client_ended => self.client_writes(bytes)?,
                Act::ClientWrites(_) => {}
                Act::ClientStalls(time) => self.stalled_until = self.now + Duration::from_millis(*time),
                Act::ClientEnds => self.client_ends(),
                Act::Push(line) => self.says(line, false),
                Act::Think(time) => self.think = Duration::from_millis(*time),
                Act::Wait(time) => self.pass(self.now + Duration::from_millis(*time))?,
            }
        }
        self.client_ends();
        let end = self.wire.back().map_or(self.now, |last| last.0).max(self.stalled_until);
        self.wire.push_back((end, Vec::new()));
        self.pass(end + self.case.timings.timeout * 2)?;
        if self.dead {
            let got = self.received.len();
            return if self.expected.starts_with(&self.received) { Ok((self.beats, true)) } else { self.wrong(got) };
        }
        if self.received != self.expected {
            return self.wrong(self.received.len());
        }
        if self.arrived != self.written.len() {
            return Err(format!("the server got {} of {} bytes", self.arrived, self.written.len()));
        }
        Ok((self.beats, false))
    }

    fn wrong<T>(&self, got: usize) -> Result<T, String> {
        let same = self.received.iter().zip(&self.expected).take_while(|(a, b)| a == b).count();
        let around = |bytes: &[u8]| bytes[same.min(bytes.len())..bytes.len().min(same + 40)].escape_ascii().to_string();
        Err(format!(
            "at {:?}: the client got {got} of {} bytes; from byte {same} on it got \"{}\" instead of \"{}\"",
            self.now - self.start,
            self.expected.len(),
            around(&self.received),
            around(&self.expected),
        ))
    }

    /// Lets time pass, from event to event.
    fn pass(&mut self, until: Instant) -> Result<(), String> {
        loop {
            let arrival =
                self.wire.front().map(|slice| slice.0.max(if self.reads() { self.now } else { self.stalled_until }));
            let unstall = (!self.to_client.is_empty()).then_some(self.stalled_until);
            let deadline = self.line.next_deadline();
            let next = [arrival, unstall, deadline].into_iter().flatten().min().filter(|at| *at <= until);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            // As the shell does: what has arrived is read before anyone is judged.
            self.client_reads();
            while self.reads() && self.wire.front().is_some_and(|slice| slice.0 <= self.now) {
                let slice = self.wire.pop_front().map(|slice| slice.1).unwrap_or_default();
                self.server_said(&slice);
                self.client_reads();
            }
            self.tick()?;
            self.client_reads();
            self.check()?;
            if self.dead {
                return Ok(());
            }
        }
        self.now = until;
        self.check()
    }

    /// The shell reads the server only while the client has taken what there was.
    fn reads(&self) -> bool {
        self.to_client.is_empty()
    }

    fn client_writes(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.written.extend_from_slice(bytes);
        for slice in self.slices(bytes) {
            let mut out = Vec::new();
            self.line.from_client(self.now, &slice, &mut out);
            self.last_byte = self.now;
            for byte in out {
                self.server_reads((byte, false))?;
            }
        }
        Ok(())
    }

    fn client_ends(&mut self) {
        self.client_ended = true;
        self.line.client_ended();
    }

    fn client_reads(&mut self) {
        if self.now >= self.stalled_until {
            self.received.append(&mut self.to_client);
        }
    }

    fn tick(&mut self) -> Result<(), String> {
        loop {
            let mut to_server = Vec::new();
            let event = self.line.tick(self.now, &mut to_server, &mut self.to_client);
            if event == Event::Beat {
                let quiet = self.now - self.last_byte;
                let interval = self.case.timings.interval;
                if quiet < interval.mul_f64(0.9) || self.client_ended {
                    return Err(format!("a beat after {quiet:?} of silence, the client ended: {}", self.client_ended));
                }
                self.beats += 1;
                self.naive_due += 1;
            }
            for byte in to_server {
                self.server_reads((byte, true))?;
            }
            match event {
                Event::None => return Ok(()),
                Event::Dead { .. } => self.dead = true,
                Event::Beat | Event::Missed { .. } => {}
            }
            self.client_reads();
        }
    }

    fn server_reads(&mut self, byte: Tagged) -> Result<(), String> {
        if !byte.1 {
            if self.written.get(self.arrived) != Some(&byte.0) {
                return Err(format!("byte {} of the client is wrong at the server", self.arrived));
            }
            self.arrived += 1;
        }
        self.reading.push(byte);
        if byte.0 != b'\n' {
            return Ok(());
        }
        let line = std::mem::take(&mut self.reading);
        let ours = line.iter().any(|byte| byte.1);
        let text: Vec<u8> = line.iter().map(|byte| byte.0).collect();
        if ours && (line.iter().any(|byte| !byte.1) || text != b"ping\n") {
            return Err(format!("a beat within a line: \"{}\"", text.escape_ascii()));
        }
        if text == b"ping\n" {
            self.answers += 1;
            let answer = format!("pong {}{}\n", self.answers, ".".repeat(self.case.tail));
            self.says(answer.as_bytes(), ours);
        } else {
            self.says(&[b"you: ", text.as_slice()].concat(), false);
        }
        Ok(())
    }

    /// Puts a line on the wire behind what is there, once the server has thought, in slices. An answer to a beat
    /// is whole within `timeout`: one that is not is passed on, as it must be.
    fn says(&mut self, line: &[u8], ours: bool) {
        let slices = self.slices(line);
        let whole_within = if ours { self.case.timings.timeout / 2 } else { self.case.timings.timeout * 3 };
        let gap = u64::try_from(whole_within.as_millis()).unwrap_or(0) / slices.len().max(1) as u64;
        let mut at = self.wire.back().map_or(self.now, |last| last.0).max(self.now + self.think);
        for (index, slice) in slices.into_iter().enumerate() {
            if index > 0 && self.random.u8(..4) == 0 {
                at += Duration::from_millis(self.random.u64(0..=gap));
            }
            self.wire.push_back((at, slice.into_iter().map(|byte| (byte, ours)).collect()));
        }
    }

    fn server_said(&mut self, slice: &[Tagged]) {
        if slice.is_empty() {
            return self.line.server_ended(&mut self.to_client);
        }
        self.last_byte = self.now;
        self.expected.extend(slice.iter().filter(|byte| !byte.1).map(|byte| byte.0));
        self.arrivals.push_back((self.expected.len(), self.now));
        let bytes: Vec<u8> = slice.iter().map(|byte| byte.0).collect();
        if self.filter == Filter::LineMode {
            self.line.from_server(self.now, &bytes, &mut self.to_client);
            return;
        }
        self.line.from_server(self.now, &bytes, &mut Vec::new());
        if self.filter == Filter::Nothing {
            return self.to_client.extend(bytes);
        }
        for byte in bytes {
            self.naive_line.push(byte);
            if byte == b'\n' {
                let line = std::mem::take(&mut self.naive_line);
                let drops = line.starts_with(b"pong ") && (self.filter == Filter::All || self.naive_due > 0);
                if drops {
                    self.naive_due = self.naive_due.saturating_sub(1);
                } else {
                    self.to_client.extend(line);
                }
            }
        }
    }

    fn check(&mut self) -> Result<(), String> {
        let (got, waiting) = (self.received.len(), self.to_client.len());
        if !self.expected.starts_with(&self.received) || !self.expected[got..].starts_with(&self.to_client) {
            return self.wrong(got);
        }
        while self.arrivals.front().is_some_and(|arrival| arrival.0 <= got + waiting) {
            self.arrivals.pop_front();
        }
        let kept = self.arrivals.front().map_or(Duration::ZERO, |arrival| self.now - arrival.1);
        if kept > self.case.timings.timeout && self.filter == Filter::LineMode {
            return Err(format!("bytes kept from the client for {kept:?}"));
        }
        Ok(())
    }

    fn slices(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let longest = if bytes.len() > 4096 { 4096 } else { [1, 3, 20, 4096][self.random.usize(..4)] };
        let mut rest = bytes;
        let mut slices = Vec::new();
        while !rest.is_empty() {
            let (slice, after) = rest.split_at(self.random.usize(1..=longest).min(rest.len()));
            slices.push(slice.to_vec());
            rest = after;
        }
        slices
    }
}

fn lines(texts: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    proptest::sample::select(texts).prop_map(|text| text.as_bytes().to_vec())
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let client = prop_oneof![
        6 => lines(&["ping\n"]),
        8 => lines(&["ping", "pin", "g\n", "\n", "hello\n", "pingping\n", "ping \n", "p", "pong 7\n", "ping\r\n", "ping\nping\n"]),
        1 => lines(&["a\0b\n", "\0", "ping\n\0ping\n"]),
        1 => (0..3usize).prop_map(|more| [vec![b'x'; MAX_LINE - 2 + more], b"\n".to_vec()].concat()),
    ];
    let push = prop_oneof![
        12 => lines(&["news\n", "p\n", "po\n", "pon\n", "pong\n", "pong\r\n", "\n", "ping\n", "the pong 3\n", "ponk 3\n"]),
        1 => lines(&["po\0\n", "\0\n"]),
        1 => (1000..1100usize).prop_map(|length| [vec![b'p'; length], b"\n".to_vec()].concat()),
        1 => (0..3usize).prop_map(|more| [vec![b'p'; MAX_LINE - 2 + more], b"\n".to_vec()].concat()),
    ];
    let act = prop_oneof![
        6 => client.prop_map(Act::ClientWrites),
        6 => push.prop_map(Act::Push),
        8 => (0..3000u64).prop_map(Act::Wait),
        6 => (900..1100u64).prop_map(Act::Wait),
        2 => prop_oneof![Just(0), 0..200u64, 0..3000u64].prop_map(Act::Think),
        1 => (0..3000u64).prop_map(Act::ClientStalls),
        1 => Just(Act::ClientEnds),
    ];
    proptest::collection::vec(act, 0..40)
}

fn cases() -> impl Strategy<Value = Case> {
    let pattern = |text: &str| {
        let pattern = regex::bytes::Regex::new(&format!("^(?:{text})"));
        config::Expect::Pattern(pattern.expect("a pattern of this test"))
    };
    let expect = prop_oneof![
        3 => Just(config::Expect::Prefix(b"pong ".to_vec())),
        1 => Just(pattern("pong [0-9]+")),
        1 => Just(pattern(r"pong [0-9]+\.*$")),
    ];
    let tail = prop_oneof![3 => Just(0usize), 1 => 0..900usize];
    let misses = prop_oneof![1 => 1..4u32, 3 => Just(100u32)];
    (acts(), expect, 100..700u64, misses, tail, any::<u64>()).prop_map(|(acts, expect, timeout, misses, tail, seed)| {
        let timings = Timings { interval: Duration::from_secs(1), timeout: Duration::from_millis(timeout), misses };
        Case { acts, expect, timings, tail, seed }
    })
}

/// Cases from a fixed seed, so that a count over them is the same each time.
fn fixed_cases(count: usize) -> Vec<Case> {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = cases();
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("a case").current()).collect()
}

/// The case of a seed.
fn case_of(seed: u64) -> Case {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), random);
    cases().new_tree(&mut runner).expect("a case").current()
}

/// Beats, deaths, cases.
fn run_seed(seed: u64, filter: Filter) -> Result<[u64; 3], String> {
    Sim::new(&case_of(seed), filter).run().map(|(beats, dead)| [beats.into(), dead.into(), 1])
}

#[test]
fn one_seed() {
    let seed = seeds::one();
    if let Err(text) = run_seed(seed, Filter::LineMode) {
        panic!("{}", seeds::failure("direct::line::sim", seed, &text));
    }
}

/// For `tests/simulate`.
#[test]
#[ignore = "many seeds take long"]
fn many_seeds() {
    let add = |all: &mut [u64; 3], more: &[u64; 3]| (0..3).for_each(|at| all[at] += more[at]);
    let [beats, dead, _] = seeds::many("direct::line::sim", |seed| run_seed(seed, Filter::LineMode), add);
    println!("{:<48} {beats:>12}\n{:<48} {dead:>12}", "beats", "servers called dead");
}

#[test]
fn the_check_finds_a_beats_byte_that_is_handed_out() {
    let found = (0..200).find(|&seed| run_seed(seed, Filter::Nothing).is_err());
    println!("found by seed {:?}", found.expect("within 200 seeds"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn the_client_gets_exactly_the_bytes_it_would_have_got_without_everlink(case in cases()) {
        let outcome = Sim::new(&case, Filter::LineMode).run();
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

#[test]
fn the_cases_hold_beats_and_deaths_and_the_checker_sees_each_wrong_filter() {
    let cases = fixed_cases(600);
    let outcomes = |filter| cases.iter().map(|case| Sim::new(case, filter).run()).collect::<Vec<_>>();
    let right: Vec<(u32, bool)> =
        outcomes(Filter::LineMode).into_iter().map(|outcome| outcome.expect("right")).collect();
    let with_beats = right.iter().filter(|outcome| outcome.0 > 1).count();
    let dead = right.iter().filter(|outcome| outcome.1).count();
    assert!(with_beats > cases.len() / 3 && dead > 5, "{with_beats} with beats, {dead} dead: the cases show little");
    for filter in [Filter::Nothing, Filter::All, Filter::FirstAfterBeat] {
        let seen = outcomes(filter).iter().filter(|outcome| outcome.is_err()).count();
        assert!(seen > 5, "{filter:?} was found wrong in {seen} of {} cases", cases.len());
    }
}
