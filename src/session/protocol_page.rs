//! `PROTOCOL.md` says what the code does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::frame::{GoAwayCode, Kind, Opening, RefusalCode, ResetCode};
use super::{Incoming, Limits, Session, Violation};

const PAGE: &str = include_str!("PROTOCOL.md");

/// The cells of the table with this head, row by row.
fn table(head: &str) -> Vec<Vec<String>> {
    let mut lines = PAGE.lines().skip_while(|line| *line != head).skip(2).peekable();
    assert!(lines.peek().is_some(), "no table {head}");
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The tables of codes stand behind the bold name of their frame.
fn codes(frame: &str) -> Vec<u8> {
    let (_, rest) = PAGE.split_once(&format!("**{frame}**: code u8")).unwrap();
    let rows = rest.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('|').nth(1).unwrap().trim().parse().unwrap()).collect()
}

#[test]
fn the_table_of_frames_is_the_code() {
    let rows = table("| kind | name | payload bytes | stream | sent by |");
    let ours = Kind::ALL.map(|kind| {
        let length = match kind.lengths() {
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least} – {most}"),
        };
        let stream = match kind {
            Kind::Open => "new",
            kind if kind.is_of_stream() => "yes",
            _ => "0",
        };
        let by = match kind {
            Kind::Open => "dialer",
            Kind::Opened | Kind::Refused => "gateway",
            _ => "both",
        };
        [(kind as u8).to_string(), kind.name().into(), length, stream.into(), by.into()].to_vec()
    });
    assert_eq!(rows, ours);
    for kind in Kind::ALL {
        assert!(PAGE.contains(&format!("**{}**", kind.name())), "{} is not explained", kind.name());
    }
}

#[test]
fn the_list_of_violations_is_the_code() {
    let rows = table("| name | what |");
    let names: Vec<_> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(names, Violation::ALL.map(Violation::name));
}

#[test]
fn the_codes_are_the_code() {
    assert_eq!(codes("REFUSED"), [1, 2, 3, 4, 5].map(|byte| RefusalCode::from_byte(byte) as u8));
    assert_eq!(codes("RESET"), [1, 2, 3, 4].map(|byte| ResetCode::from_byte(byte) as u8));
    assert_eq!(codes("GOAWAY"), [1, 2].map(|byte| GoAwayCode::from_byte(byte) as u8));
    let later = (RefusalCode::from_byte(99) as u8, ResetCode::from_byte(99) as u8, GoAwayCode::from_byte(99) as u8);
    assert_eq!(later, (2, 1, 1), "as the page says of later versions");
}

#[test]
fn the_tables_of_the_first_messages_are_those_of_their_module() {
    let rows = include_str!("hello.rs").lines().filter_map(|line| line.strip_prefix("//! |"));
    let mut count = 0;
    for row in rows {
        assert!(PAGE.contains(&format!("|{row}")), "{row}");
        count += 1;
    }
    assert!(count > 30);
}

/// The bytes of the example, by direction: `>` or `<`, an offset, hexadecimal bytes, then what they are.
fn example() -> BTreeMap<char, Vec<u8>> {
    let (_, part) = PAGE.split_once("## 11.").unwrap();
    let mut found = BTreeMap::<char, Vec<u8>>::new();
    for line in part.lines().filter(|line| line.starts_with("> ") || line.starts_with("< ")) {
        let bytes = found.entry(line.chars().next().unwrap()).or_default();
        let mut words = line.split_whitespace().skip(1);
        assert_eq!(words.next().unwrap().parse(), Ok(bytes.len()), "{line}");
        let is_byte = |word: &&str| word.len() == 2 && word.chars().all(|digit| digit.is_ascii_hexdigit());
        bytes.extend(words.take_while(is_byte).map(|word| u8::from_str_radix(word, 16).unwrap()));
    }
    found
}

struct End {
    session: Session<()>,
    sent: Vec<u8>,
}

impl End {
    fn new(dials: bool, now: Instant) -> Self {
        let limits = Limits { buffer: 16 << 20, peer_buffer: 16 << 20, windows: 64 << 20, streams: 1024 };
        Self { session: Session::new(dials, limits, now), sent: Vec::new() }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.session.fill(1, bytes.len(), |(), slot| {
            slot[..bytes.len()].copy_from_slice(bytes);
            (bytes.len(), ())
        });
    }

    /// Sends what is to be sent; all, or so many bytes.
    fn send(&mut self, now: Instant, most: usize) -> Vec<u8> {
        self.session.emit(u64::MAX, now);
        let next = self.session.next();
        let bytes = next[..next.len().min(most)].to_vec();
        self.session.sent(bytes.len());
        self.sent.extend(&bytes);
        bytes
    }

    fn hear(&mut self, now: Instant, mut bytes: &[u8]) {
        while let Some(incoming) = self.session.receive(now, &mut bytes).unwrap() {
            match incoming {
                Incoming::Open { stream, opening } => self.session.admit(stream, &opening, (), now),
                Incoming::Data { stream, bytes } => self.session.pass(stream, bytes.len()),
                _ => {}
            }
        }
    }
}

#[test]
fn the_example_is_what_two_ends_say() {
    let now = Instant::now();
    let (mut dialer, mut gateway) = (End::new(true, now), End::new(false, now));
    let client = SocketAddr::from(([127, 0, 0, 1], 50_000));
    dialer.session.open(Opening { client: Some(client), ..Opening::to("echo") }, (), now).unwrap();
    dialer.session.emit(u64::MAX, now);
    dialer.say(b"hi");
    dialer.session.finish(1);
    gateway.hear(now, &dialer.send(now, usize::MAX));
    gateway.session.accept(1);
    gateway.session.emit(u64::MAX, now);
    gateway.say(b"ho");
    gateway.session.finish(1);
    dialer.hear(now, &gateway.send(now, usize::MAX));
    assert!(dialer.session.is_finished(1) && gateway.session.is_finished(1));
    dialer.session.release(1);
    gateway.session.release(1);

    dialer.session.ping(7);
    gateway.hear(now, &dialer.send(now, usize::MAX));
    dialer.hear(now, &gateway.send(now, usize::MAX));

    dialer.session.ping(8);
    gateway.hear(now, &dialer.send(now, 5));
    // The rest went into a connection that was already dead.
    dialer.send(now, usize::MAX);
    dialer.sent.truncate(gateway.session.received() as usize);
    let told = (dialer.session.received(), gateway.session.received());
    assert!(PAGE.contains(&format!("The Hello tells {}, the Welcome {},", told.0, told.1)), "{told:?}");
    dialer.session.resume(told.1, told.0).unwrap();
    gateway.session.resume(told.0, told.1).unwrap();
    gateway.hear(now, &dialer.send(now, usize::MAX));
    dialer.hear(now, &gateway.send(now, usize::MAX));

    let said = BTreeMap::from([('>', dialer.sent), ('<', gateway.sent)]);
    assert_eq!(example(), said, "\n{said:02x?}");
}
