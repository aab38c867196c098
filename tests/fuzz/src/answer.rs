//! Answers to heartbeats: on a warm connection, and between the lines of a client and its server.

use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use everlink::config::{Beat, Expect};
use everlink::direct::beat::{BANNER_LIMIT, Dialogue, Heard};
use everlink::direct::line::{Event, LineMode, MAX_LINE, Timings};
use regex::bytes::Regex;

#[derive(Debug, Arbitrary)]
enum Question<'a> {
    Redis,
    Memcached,
    Smtp,
    Kernel,
    /// `expect` is the literal, `send` ends in a newline or not.
    Literal {
        send: &'a [u8],
        lines: bool,
        expect: &'a [u8],
    },
    Pattern {
        lines: bool,
        pattern: u8,
    },
}

/// Patterns as they are compiled from `re:…`; the last is dear by intention.
const PATTERNS: [&str; 6] = ["pong", "pong [0-9]+;?", "[+-][A-Z]+", "(?i)ok|yes", ".*ready$", "(?:a|aa|a.*b){1,20}x"];

fn pattern(number: u8) -> Regex {
    thread_local! {
        static COMPILED: Vec<Regex> = PATTERNS.iter().map(|pattern| {
            Regex::new(&format!("^(?:{pattern})")).unwrap_or_else(|error| panic!("{error}"))
        }).collect();
    }
    COMPILED.with(|compiled| compiled[usize::from(number) % compiled.len()].clone())
}

impl Question<'_> {
    fn words(&self) -> Option<(Vec<u8>, Expect)> {
        let line = |send: &[u8], lines: bool| [send, if lines { b"\n" } else { b"" }].concat();
        match self {
            Self::Literal { send, lines, expect } => Some((line(send, *lines), Expect::Prefix(expect.to_vec()))),
            Self::Pattern { lines, pattern: number } => {
                Some((line(b"ping", *lines), Expect::Pattern(pattern(*number))))
            }
            _ => None,
        }
    }

    fn beat(&self) -> Beat {
        match self {
            Self::Redis => Beat::Redis,
            Self::Memcached => Beat::Memcached,
            Self::Smtp => Beat::Smtp,
            Self::Kernel => Beat::Kernel,
            Self::Literal { .. } | Self::Pattern { .. } => match self.words() {
                Some((send, expect)) => Beat::Exchange { send, expect },
                None => Beat::Kernel,
            },
        }
    }
}

#[derive(Debug, Arbitrary)]
struct Plan<'a> {
    question: Question<'a>,
    steps: Vec<Step<'a>>,
}

#[derive(Debug, Arbitrary)]
enum Step<'a> {
    Beat,
    Server(&'a [u8]),
    Client(&'a [u8]),
    /// What is expected, and a newline: or no answer would ever be found.
    Answer,
    /// In milliseconds.
    Wait(u16),
    ServerEnds,
    ClientEnds,
    Stop,
}

pub fn run(input: &[u8]) -> usize {
    let Ok(plan) = Plan::arbitrary_take_rest(Unstructured::new(input)) else { return input.len() };
    let warm = warm(&plan, false);
    let sliced = self::warm(&plan, true);
    let beat = plan.question.beat();
    let framed = match &beat {
        Beat::Exchange { send, .. } => send.ends_with(b"\n"),
        _ => true,
    };
    // Where a line ends the answer, slices change nothing, short of the bound on what is gathered.
    if framed && input.len() < 4000 {
        assert_eq!(warm.1, sliced.1, "in slices it is another conversation");
    }
    let carried = match plan.question.words() {
        Some((send, expect)) => carried(&plan, send, expect),
        None => 0,
    };
    input.len() + warm.0 + sliced.0 + carried
}

impl Plan<'_> {
    /// An answer that is right as a whole line.
    fn answer(&self) -> Vec<u8> {
        match &self.question {
            Question::Redis => b"+PONG\r\n".to_vec(),
            Question::Memcached => b"VERSION 1\r\n".to_vec(),
            Question::Smtp => b"250 ok\r\n".to_vec(),
            Question::Kernel => Vec::new(),
            Question::Literal { expect, .. } => [expect, &b"\n"[..]].concat(),
            Question::Pattern { .. } => b"pong 1;\n".to_vec(),
        }
    }
}

/// What remains of a conversation on a warm connection: bytes handled; answers due, what is kept for the client, and
/// whether it went wrong.
fn warm(plan: &Plan<'_>, sliced: bool) -> (usize, (u32, Vec<u8>, bool)) {
    let mut dialogue = Dialogue::new(plan.question.beat());
    let (mut handled, mut asked) = (0, 0);
    for step in &plan.steps {
        let answer = plan.answer();
        let bytes = match step {
            Step::Beat => {
                handled += dialogue.beat().len();
                asked += 1;
                continue;
            }
            Step::Server(bytes) => bytes,
            Step::Answer => &answer[..],
            _ => continue,
        };
        // What was gathered may be looked at once more with each slice.
        let slices = if sliced { 7 } else { bytes.len().max(1) };
        for slice in bytes.chunks(slices) {
            handled += slice.len() + if sliced { 512 } else { 0 };
            let before = dialogue.owed();
            let heard = dialogue.received(slice);
            assert!(dialogue.owed() <= before && dialogue.owed() <= asked);
            assert!(dialogue.banner_room() <= BANNER_LIMIT);
            match heard {
                Heard::Wrong(why) => {
                    assert!(!why.contains(char::is_control), "{why:?}");
                    return (handled, (0, Vec::new(), true));
                }
                Heard::NotNow(why) => assert!(!why.contains(char::is_control), "{why:?}"),
                Heard::Answered => assert!(dialogue.owed() < before),
                Heard::Banner => assert!(dialogue.has_heard()),
                Heard::Part => {}
            }
        }
    }
    let owed = dialogue.owed();
    (handled, (owed, dialogue.take_banner(), false))
}

/// Beats between the lines: nothing is lost or added for either side but our own questions and their answers.
fn carried(plan: &Plan<'_>, send: Vec<u8>, expect: Expect) -> usize {
    let start = Instant::now();
    let timings = Timings { interval: Duration::from_millis(1000), timeout: Duration::from_millis(300), misses: 3 };
    let Ok(mut line) = LineMode::new(send.clone(), expect.clone(), timings, start, 7) else { return send.len() };
    let mut now = start;
    let (mut asked, mut answered, mut spoken) = (0, 0, 0);
    // What the one side said, and what of it reached the other.
    let (mut client, mut to_server) = (Vec::new(), Vec::new());
    let (mut server, mut to_client) = (Vec::new(), Vec::new());
    let (mut client_ended, mut server_ended) = (false, false);
    for step in &plan.steps {
        let answer = plan.answer();
        match step {
            Step::Client(bytes) if !client_ended => {
                client.extend_from_slice(bytes);
                line.from_client(now, bytes, &mut to_server);
            }
            Step::Server(_) | Step::Answer if !server_ended => {
                let bytes = if let Step::Server(bytes) = step { bytes } else { &answer[..] };
                server.extend_from_slice(bytes);
                answered += usize::from(line.from_server(now, bytes, &mut to_client).is_some());
                assert!(answered <= asked, "an answer to no question");
            }
            Step::Wait(millis) => {
                now += Duration::from_millis(u64::from(*millis));
                for _ in 0..8 {
                    let (mut question, mut held) = (Vec::new(), Vec::new());
                    let event = line.tick(now, &mut question, &mut held);
                    to_client.extend_from_slice(&held);
                    if event == Event::Beat {
                        assert_eq!(question, send);
                        assert!(client.is_empty() || client.ends_with(b"\n"), "a question in the middle of a line");
                        asked += 1;
                        spoken += send.len();
                    } else {
                        assert!(question.is_empty());
                    }
                    if event == Event::None {
                        break;
                    }
                }
            }
            Step::ClientEnds => {
                client_ended = true;
                line.client_ended();
            }
            Step::ServerEnds if !server_ended => {
                server_ended = true;
                line.server_ended(&mut to_client);
            }
            Step::Stop => line.stop(),
            _ => {}
        }
        assert_eq!(to_server, client, "the server got something else than the client said");
    }
    if !server_ended {
        line.server_ended(&mut to_client);
    }
    if !server.contains(&0) && server.len() < MAX_LINE {
        dropped(&server, &to_client, &expect, asked);
    }
    client.len() + server.len() + spoken
}

/// What the client did not get are whole lines, each an answer, and no more of them than were asked for.
fn dropped(server: &[u8], client: &[u8], expect: &Expect, asked: usize) {
    let mut rest = client;
    let mut missing = 0;
    for line in server.split_inclusive(|byte| *byte == b'\n') {
        if let Some(after) = rest.strip_prefix(line) {
            rest = after;
            continue;
        }
        missing += 1;
        let fits = match expect {
            Expect::Prefix(prefix) => line.starts_with(prefix),
            Expect::Pattern(pattern) => {
                pattern.is_match(line) || pattern.is_match(line.trim_ascii_end()) || !line.ends_with(b"\n")
            }
        };
        assert!(fits, "lost: {}", line.escape_ascii());
    }
    assert!(rest.is_empty(), "added: {}", rest.escape_ascii());
    assert!(missing <= asked, "{missing} lines lost for {asked} questions");
}
