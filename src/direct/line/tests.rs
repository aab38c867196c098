use super::*;

const TIMINGS: Timings = Timings { interval: Duration::from_secs(5), timeout: Duration::from_secs(3), misses: 3 };

/// A line mode with its buffers; the sockets take everything at once, unless told otherwise.
struct Bench {
    line: LineMode,
    now: Instant,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        Self::with(config::Expect::Prefix(b"pong".to_vec()))
    }

    fn with(expect: config::Expect) -> Self {
        let now = Instant::now();
        let line = LineMode::new(b"ping\n".to_vec(), expect, TIMINGS, now, 7).expect("fit words");
        Self { line, now, to_server: Vec::new(), to_client: Vec::new() }
    }

    fn client(&mut self, bytes: &str) {
        self.line.from_client(self.now, bytes.as_bytes(), &mut self.to_server);
        self.to_server.clear();
    }

    /// What the client is given when the server says `bytes`.
    fn server(&mut self, bytes: &str) -> String {
        self.line.from_server(self.now, bytes.as_bytes(), &mut self.to_client);
        self.client_got()
    }

    fn client_got(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.to_client)).expect("text")
    }

    /// Lets time pass, the sockets taking all; the events, each with its time in milliseconds since the call.
    fn pass(&mut self, time: Duration) -> Vec<(u128, Event)> {
        let (start, end) = (self.now, self.now + time);
        let mut events = Vec::new();
        let mut to_client = Vec::new();
        while let Some(at) = self.line.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let mut fresh = Vec::new();
            let event = self.line.tick(self.now, &mut self.to_server, &mut fresh);
            assert_eq!(event == Event::Beat, self.to_server == b"ping\n", "a beat is `send`, and nothing else is");
            self.to_server.clear();
            to_client.append(&mut fresh);
            if event != Event::None {
                events.push(((self.now - start).as_millis(), event));
            }
        }
        self.now = end;
        self.to_client.append(&mut to_client);
        events
    }

    /// Passes time up to the next beat.
    fn until_beat(&mut self) {
        let at = self.line.next_deadline().expect("a beat is to come");
        assert_eq!(self.pass(at - self.now).last().map(|event| event.1), Some(Event::Beat));
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_beat_comes_after_the_interval_of_silence_and_never_later() {
    for seed in 0..200 {
        let now = Instant::now();
        let expect = config::Expect::Prefix(b"pong".to_vec());
        let line = LineMode::new(b"ping\n".to_vec(), expect, TIMINGS, now, seed).expect("fit words");
        let wait = line.next_deadline().expect("a beat is to come") - now;
        assert!(wait <= TIMINGS.interval && wait >= TIMINGS.interval.mul_f64(0.9), "{wait:?}, seed {seed}");
    }
    let waits = |seed| {
        let expect = config::Expect::Prefix(b"pong".to_vec());
        LineMode::new(b"ping\n".to_vec(), expect, TIMINGS, Instant::now(), seed).expect("fit words").wait
    };
    assert_ne!(waits(1), waits(2), "the jitter has gone");
}

#[test]
fn silence_within_the_budget_and_not_before_makes_it_dead() {
    let mut bench = Bench::new();
    let budget = TIMINGS.interval + TIMINGS.timeout * TIMINGS.misses;
    let events = bench.pass(budget * 3);
    let kinds: Vec<Event> = events.iter().map(|event| event.1).collect();
    let missed = |in_a_row| Event::Missed { in_a_row };
    let dead = Event::Dead { misses: 3 };
    assert_eq!(kinds, [Event::Beat, missed(1), Event::Beat, missed(2), Event::Beat, dead]);
    let first = events[0].0;
    assert!((4500..=5000).contains(&first), "{first}");
    let times: Vec<u128> = events.iter().map(|event| event.0 - first).collect();
    assert_eq!(times, [0, 3000, 3000, 6000, 6000, 9000]);
    assert!(!bench.line.is_on() && bench.line.next_deadline().is_none());
}

#[test]
fn follow_up_beats_come_at_once_however_short_the_timeout_is() {
    for seed in 0..50 {
        let timings = Timings { interval: Duration::from_secs(3600), timeout: Duration::from_millis(50), misses: 3 };
        let now = Instant::now();
        let expect = config::Expect::Prefix(b"pong".to_vec());
        let line = LineMode::new(b"ping\n".to_vec(), expect, timings, now, seed).expect("fit words");
        let mut bench = Bench { line, now, to_server: Vec::new(), to_client: Vec::new() };
        let events = bench.pass(timings.interval + timings.timeout * timings.misses);
        assert_eq!(events.last().map(|event| event.1), Some(Event::Dead { misses: 3 }), "seed {seed}");
    }
}

#[test]
fn no_beat_while_either_side_stands_within_a_line() {
    let mut bench = Bench::new();
    bench.client("half a li");
    assert_eq!(bench.pass(60 * SECOND), []);
    bench.client("ne\n");
    assert_eq!(bench.server("prompt> "), "prompt> ");
    assert_eq!(bench.pass(60 * SECOND), []);
    assert_eq!(bench.server("\n"), "\n");
    bench.until_beat();
}

#[test]
fn traffic_in_either_direction_puts_the_beat_off() {
    let mut bench = Bench::new();
    for round in 0..10 {
        assert_eq!(bench.pass(4 * SECOND), []);
        if round % 2 == 0 { bench.client("hello\n") } else { drop(bench.server("hello\n")) }
    }
    bench.until_beat();
}

#[test]
fn only_the_answer_due_to_us_is_dropped_and_only_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.server("pong out of nowhere\n"), "pong out of nowhere\n");
    bench.client("ping\n");
    bench.until_beat();
    bench.client("ping\nping\n");
    assert_eq!(bench.server("pong 1\npong 2\npong 3\npong 4\npong 5\n"), "pong 1\npong 3\npong 4\npong 5\n");
}

#[test]
fn a_client_line_counts_only_when_it_is_the_question_to_the_byte() {
    for other in ["ping \n", "pin\n", "pingping\n", "ping\r\n", "\n", " ping\n"] {
        let mut bench = Bench::new();
        bench.client(other);
        bench.until_beat();
        assert_eq!(bench.server("pong 1\n"), "", "{other:?} was taken for the question");
    }
    let mut bench = Bench::new();
    for letter in ["p", "i", "n", "g", "\n"] {
        bench.client(letter);
    }
    bench.until_beat();
    assert_eq!(bench.server("pong 1\npong 2\n"), "pong 1\n");
}

#[test]
fn late_answers_are_dropped_one_by_one_and_prove_the_link_alive() {
    let mut bench = Bench::new();
    bench.until_beat();
    let events = bench.pass(3 * SECOND);
    assert_eq!(events, [(3000, Event::Missed { in_a_row: 1 }), (3000, Event::Beat)]);
    assert_eq!(bench.server("pong 1\n"), "");
    assert_eq!(bench.line.answers_due(), 1);
    assert_eq!(bench.pass(3 * SECOND), [(3000, Event::Missed { in_a_row: 1 })], "the count began anew");
    assert_eq!(bench.server("news\npong 2\npong 3\n"), "news\npong 3\n");
    assert_eq!(bench.line.answers_due(), 0);
}

#[test]
fn a_round_trip_is_told_for_the_beat_that_is_out_only() {
    let mut bench = Bench::new();
    bench.until_beat();
    bench.now += Duration::from_millis(40);
    let told = bench.line.from_server(bench.now, b"pong\n", &mut bench.to_client);
    assert_eq!(told, Some(Duration::from_millis(40)));
    bench.until_beat();
    bench.pass(3 * SECOND);
    assert_eq!(bench.line.from_server(bench.now, b"pong\n", &mut bench.to_client), None, "an answer to a lost beat");
    bench.now += SECOND;
    assert_eq!(bench.line.from_server(bench.now, b"pong\n", &mut bench.to_client), Some(SECOND));
}

#[test]
fn pushes_between_the_beat_and_its_answer_pass_in_order() {
    let mut bench = Bench::new();
    bench.until_beat();
    assert_eq!(bench.server("news 1\npo"), "news 1\n");
    assert_eq!(bench.server("nder\nnews 2\npong and a tail\nnews 3\n"), "ponder\nnews 2\nnews 3\n");
}

#[test]
fn a_line_that_may_be_the_answer_is_held_for_the_timeout_then_passed_on_as_a_miss() {
    let mut bench = Bench::new();
    bench.until_beat();
    bench.now += SECOND;
    assert_eq!(bench.server("po"), "");
    let events = bench.pass(3 * SECOND - Duration::from_millis(1));
    assert_eq!(events, [(2000, Event::Missed { in_a_row: 1 })], "the answer was due by then");
    assert_eq!(bench.client_got(), "");
    assert_eq!(bench.pass(Duration::from_millis(1)), []);
    assert_eq!(bench.client_got(), "po");
    assert_eq!(bench.server("ng\n"), "ng\n", "a line begun is the client's to its end");
    assert_eq!(bench.line.answers_due(), 0, "it was our answer nevertheless");
    assert_eq!(bench.server("pong\n"), "pong\n");
}

#[test]
fn held_bytes_make_the_beat_a_miss_even_where_its_clock_was_put_off() {
    let mut bench = Bench::new();
    bench.until_beat();
    assert_eq!(bench.server("po"), "");
    bench.now += 2 * SECOND;
    bench.line.still_under_way(bench.now);
    assert_eq!(bench.pass(SECOND), [(1000, Event::Missed { in_a_row: 1 })]);
    assert_eq!(bench.client_got(), "po");
}

#[test]
fn a_beat_under_way_is_not_judged() {
    let mut bench = Bench::new();
    bench.until_beat();
    for _ in 0..10 {
        assert_eq!(bench.pass(2 * SECOND), []);
        bench.line.still_under_way(bench.now);
    }
    assert_eq!(bench.pass(3 * SECOND)[0], (3000, Event::Missed { in_a_row: 1 }));
}

#[test]
fn bytes_that_a_side_does_not_take_stop_beats_and_judgement() {
    let mut bench = Bench::new();
    bench.until_beat();
    for round in 0..20 {
        bench.now += 3 * SECOND;
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let jam = if round % 2 == 0 { &mut to_server } else { &mut to_client };
        jam.push(b'x');
        assert_eq!(bench.line.tick(bench.now, &mut to_server, &mut to_client), Event::None);
        assert!(bench.line.next_deadline().is_some_and(|at| at > bench.now), "the caller would spin");
    }
    assert_eq!(bench.pass(3 * SECOND)[0], (3000, Event::Missed { in_a_row: 1 }));
}

#[test]
fn after_a_half_close_of_the_client_nothing_is_sent_or_judged_but_the_answer_is_dropped() {
    let mut bench = Bench::new();
    bench.until_beat();
    bench.line.client_ended();
    assert_eq!(bench.pass(600 * SECOND), []);
    assert_eq!(bench.server("bye\npo"), "bye\n");
    assert_eq!(bench.server("ng\nreally\n"), "really\n");
    let mut idle = Bench::new();
    idle.line.client_ended();
    assert_eq!(idle.pass(600 * SECOND), []);
}

#[test]
fn held_bytes_are_the_clients_when_the_server_ends() {
    let mut bench = Bench::new();
    bench.until_beat();
    assert_eq!(bench.server("pon"), "");
    bench.line.server_ended(&mut bench.to_client);
    assert_eq!(bench.client_got(), "pon");
    assert_eq!(bench.pass(600 * SECOND), []);
}

#[test]
fn a_nul_from_either_side_ends_line_mode_but_not_the_claim_to_an_answer() {
    for from_client in [true, false] {
        let mut bench = Bench::new();
        bench.until_beat();
        if from_client {
            bench.client("ping\n\0")
        } else {
            assert_eq!(bench.server("\0\n"), "\0\n")
        }
        assert!(!bench.line.is_on() && !bench.line.is_transparent());
        assert_eq!(bench.pass(600 * SECOND), []);
        assert_eq!(bench.server("news\npong 1\npong 2\n"), "news\npong 2\n");
        assert!(bench.line.is_transparent());
        assert_eq!(bench.pass(600 * SECOND), []);
    }
}

#[test]
fn a_line_over_64_kib_from_either_side_ends_line_mode_and_one_of_64_kib_does_not() {
    for from_client in [true, false] {
        let mut bench = Bench::new();
        let longest = format!("{}\n", "x".repeat(MAX_LINE - 1));
        for (line, on) in [(longest.clone(), true), (format!("x{longest}"), false)] {
            for slice in line.as_bytes().chunks(1000) {
                let slice = std::str::from_utf8(slice).expect("text");
                if from_client { bench.client(slice) } else { assert_eq!(bench.server(slice), slice) }
            }
            assert_eq!(bench.line.is_on(), on);
        }
        assert!(bench.line.is_transparent() && bench.line.next_deadline().is_none());
    }
}

#[test]
fn an_endless_answer_is_dropped_up_to_its_64_kib_only() {
    let mut bench = Bench::new();
    bench.until_beat();
    let answer = format!("pong{}", "x".repeat(MAX_LINE - 4));
    assert_eq!(bench.server(&answer), "");
    assert_eq!(bench.server("yz\nmore\n"), "yz\nmore\n");
    assert!(bench.line.is_transparent());
    let mut bench = Bench::new();
    bench.until_beat();
    assert_eq!(bench.server("pong\0rest\nmore\n"), "\0rest\nmore\n");
}

#[test]
fn a_pattern_holds_a_line_to_its_end_and_at_most_1_kib_of_it() {
    let pattern = regex::bytes::Regex::new("^(?:pong [0-9]+$)").expect("a pattern");
    let mut bench = Bench::with(config::Expect::Pattern(pattern));
    bench.until_beat();
    let long = "p".repeat(question::HELD - 1);
    assert_eq!(bench.server(&long), "");
    assert_eq!(bench.server("p"), format!("{long}p"));
    assert_eq!(bench.server("\npong 7"), "\n");
    assert_eq!(bench.server("1 ?\npong 71\r\nnews\n"), "pong 71 ?\nnews\n");
}

#[test]
fn an_edit_of_the_numbers_holds_at_once() {
    let mut bench = Bench::new();
    bench.until_beat();
    bench.pass(SECOND);
    bench.line.retime(Timings { timeout: 2 * SECOND, ..TIMINGS });
    let events = bench.pass(SECOND);
    assert_eq!(events[0], (1000, Event::Missed { in_a_row: 1 }));
    bench.line.retime(Timings { interval: SECOND, timeout: SECOND, misses: 1 });
    bench.server("pong\npong\n");
    let events = bench.pass(2 * SECOND);
    assert_eq!(events.iter().map(|event| event.1).collect::<Vec<_>>(), [Event::Beat, Event::Dead { misses: 1 }]);
}

#[test]
fn new_words_wait_until_nobody_is_owed_an_answer_to_the_old() {
    let mut bench = Bench::new();
    bench.until_beat();
    let expect = config::Expect::Prefix(b"yes".to_vec());
    bench.line.reword(b"there?\n".to_vec(), expect.clone()).expect("fit words");
    assert_eq!(bench.line.reword(b"there?".to_vec(), expect), Err(Unfit::SendIsNotOneLine));
    assert_eq!(bench.server("yes\npong\n"), "yes\n");
    bench.now += TIMINGS.interval;
    assert_eq!(bench.line.tick(bench.now, &mut bench.to_server, &mut bench.to_client), Event::Beat);
    assert_eq!(bench.to_server, b"there?\n");
    assert_eq!(bench.server("pong\nyes\nyes\n"), "pong\nyes\n");
}

#[test]
fn a_server_that_talks_on_and_never_answers_is_asked_no_more_after_a_while() {
    let mut bench = Bench::new();
    let mut beats = 0;
    for _ in 0..1000 {
        beats += bench.pass(TIMINGS.interval).iter().filter(|event| event.1 == Event::Beat).count();
        assert_eq!(bench.server("news\n"), "news\n");
    }
    assert_eq!(beats, MAX_DUE);
    assert!(bench.line.is_on());
}
