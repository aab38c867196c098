//! What may be written for a key, what holds if nothing is, and the bounds that several keys share.

use std::fmt;
use std::time::Duration;

use crate::config::units::{show_duration, show_size};

/// What may be written for a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Text,
    /// Text that becomes bytes: `\r \n \t \\ \xNN`, or `hex:0a0b`.
    Bytes,
    /// A path.
    File,
    Bool,
    Choice(&'static [&'static str]),
    /// A whole number, or the word.
    Count {
        min: u64,
        max: u64,
        word: Option<&'static str>,
    },
    /// A number, or one of the words.
    Ratio {
        min: f64,
        max: f64,
        words: &'static [&'static str],
    },
    /// A duration with its unit, or "off".
    Time {
        min: Duration,
        max: Duration,
        off: bool,
    },
    /// A number of bytes with its unit.
    Size {
        min: u64,
        max: u64,
    },
    /// One address to dial.
    Address,
    /// One address to listen at or a list of them, or "off".
    Listeners {
        off: bool,
    },
    /// Addresses to dial: texts, or tables with `address` and `priority`.
    Endpoints,
    /// A list of texts.
    Texts,
    /// A list of networks: an address, a slash, and how many bits of it count.
    Networks,
}

impl Kind {
    /// What values are taken: "200ms to 1h", "1 to 100", "direct, tunnel". Empty if the type says it all.
    pub fn range(&self) -> String {
        match self {
            Self::Choice(words) => words.join(", "),
            Self::Count { min, max, word } => with_words(format!("{min} to {max}"), word.as_slice()),
            Self::Ratio { min, max, words } => with_words(format!("{min} to {max}"), words),
            Self::Time { min, max, off } => {
                let range = format!("{} to {}", show_duration(*min), show_duration(*max));
                with_words(range, if *off { &["off"] } else { &[] })
            }
            Self::Size { min, max } => format!("{} to {}", show_size(*min), show_size(*max)),
            Self::Listeners { off: true } => "addresses, or \"off\"".to_owned(),
            _ => String::new(),
        }
    }
}

fn with_words(range: String, words: &[&str]) -> String {
    words.iter().fold(range, |range, word| format!("{range}, or \"{word}\""))
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Bytes => "text with escapes, or hex:…",
            Self::File => "path",
            Self::Bool => "true or false",
            Self::Choice(_) => "word",
            Self::Count { .. } => "whole number",
            Self::Ratio { .. } => "number",
            Self::Time { .. } => "duration",
            Self::Listeners { .. } => "address or list",
            Self::Endpoints => "list of addresses",
            Self::Texts => "list of texts",
            Self::Size { .. } => "size",
            Self::Address => "address",
            Self::Networks => "list of networks",
        })
    }
}

/// What holds if a key is not written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DefaultValue {
    /// It must be written.
    Required,
    /// Nothing.
    Unset,
    Off,
    Time(Duration),
    Size(u64),
    Count(u64),
    Ratio(f64),
    Word(&'static str),
    Bool(bool),
    Empty,
}

impl fmt::Display for DefaultValue {
    /// As it would be written in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required | Self::Unset => Ok(()),
            Self::Off => f.write_str("\"off\""),
            Self::Time(time) => write!(f, "\"{}\"", show_duration(*time)),
            Self::Size(bytes) => write!(f, "\"{}\"", show_size(*bytes)),
            Self::Count(count) => count.fmt(f),
            Self::Ratio(ratio) => write!(f, "{ratio:?}"),
            Self::Word(word) => write!(f, "\"{word}\""),
            Self::Bool(value) => value.fmt(f),
            Self::Empty => f.write_str("[]"),
        }
    }
}

/// Counts end here: more of anything is a slip of the pen.
pub(super) const MANY: u64 = 1_000_000;
pub(super) const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
/// How long a session may outlive its connection. Below a second no redial is sure to be in time; after an hour
/// nobody waits for those streams any more.
pub(super) const DEADLINE: Kind = time(ms(1000), HOUR);
/// What is kept for replay: not less than one frame of 256 KiB, not more than a link of 10 Gbit/s has under way in 0.8 s.
pub(super) const BUFFER: Kind = size(256 << 10, GIB);

pub(super) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) const fn time(min: Duration, max: Duration) -> Kind {
    Kind::Time { min, max, off: false }
}

pub(super) const fn time_or_off(min: Duration, max: Duration) -> Kind {
    Kind::Time { min, max, off: true }
}

pub(super) const fn size(min: u64, max: u64) -> Kind {
    Kind::Size { min, max }
}

pub(super) const fn count(max: u64) -> Kind {
    Kind::Count { min: 1, max, word: None }
}
