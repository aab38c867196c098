//! "5s", "1m30s", "16MiB": what people write for a time or a size, and back.

use std::fmt;
use std::time::Duration;

/// Why a text is no duration or size. Holds what to write instead where that can be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("needs a unit{}", instead(.0))]
    NoUnit(Option<Suggestion>),
    #[error("is a fraction{}", instead(.0))]
    Fraction(Option<Suggestion>),
    #[error("is negative")]
    Negative,
    #[error("has the unit \"{unit}\", which is not known{}", instead(.suggestion))]
    UnknownUnit { unit: String, suggestion: Option<Suggestion> },
    #[error("has a blank in it{}", instead(.0))]
    Blank(Option<Suggestion>),
    #[error("names its units out of order: the largest comes first, each once")]
    Order,
    #[error("is too large to count")]
    TooLarge,
    #[error("is not {0}")]
    Other(&'static str),
}

/// The text meant, and what it says in words if that helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    pub text: String,
    pub words: Option<String>,
}

impl Suggestion {
    fn new(text: String) -> Option<Self> {
        Some(Self { text, words: None })
    }
}

fn instead(suggestion: &Option<Suggestion>) -> String {
    match suggestion {
        Some(Suggestion { text, words: Some(words) }) => format!(": write \"{text}\" for {words}"),
        Some(Suggestion { text, words: None }) => format!(": write \"{text}\""),
        None => String::new(),
    }
}

/// Milliseconds of each unit, the largest first.
const TIMES: &[(&str, u64)] = &[("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZES: &[(&str, u64)] = &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// What people write for a unit, and the one that is known.
const OTHER_TIMES: &[(&str, &str)] = &[
    ("sec", "s"),
    ("secs", "s"),
    ("second", "s"),
    ("seconds", "s"),
    ("min", "m"),
    ("mins", "m"),
    ("minute", "m"),
    ("minutes", "m"),
    ("hr", "h"),
    ("hrs", "h"),
    ("hour", "h"),
    ("hours", "h"),
    ("msec", "ms"),
    ("millis", "ms"),
    ("milliseconds", "ms"),
];
const OTHER_SIZES: &[(&str, &str)] = &[
    ("t", "TiB"),
    ("tb", "TiB"),
    ("ti", "TiB"),
    ("g", "GiB"),
    ("gb", "GiB"),
    ("gi", "GiB"),
    ("m", "MiB"),
    ("mb", "MiB"),
    ("mi", "MiB"),
    ("k", "KiB"),
    ("kb", "KiB"),
    ("ki", "KiB"),
    ("bytes", "B"),
];

/// The units of one kind of quantity.
struct Units {
    /// The largest first, each in the smallest.
    known: &'static [(&'static str, u64)],
    /// What others write, and which of ours is meant.
    others: &'static [(&'static str, &'static str)],
    example: &'static str,
}

const OF_TIME: Units = Units { known: TIMES, others: OTHER_TIMES, example: "a duration such as \"5s\"" };
const OF_SIZE: Units = Units { known: SIZES, others: OTHER_SIZES, example: "a size such as \"16MiB\"" };

/// Reads whole numbers of ms, s, m and h, the largest unit first: "5s", "1m30s". Whole milliseconds always.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let ms = quantity(text, &OF_TIME).map_err(|error| match (error, text) {
        (UnitError::NoUnit(_), text) => text.parse().map_or(UnitError::NoUnit(None), bare_duration),
        (UnitError::Fraction(_), text) => fraction(text),
        (UnitError::UnknownUnit { unit, suggestion: None }, text) if matches!(unit.as_str(), "d" | "day" | "days") => {
            let hours = text.trim_end_matches(unit.as_str()).parse::<u64>().ok().and_then(|days| days.checked_mul(24));
            let suggestion = hours.and_then(|hours| Suggestion::new(format!("{hours}h")));
            UnitError::UnknownUnit { unit, suggestion }
        }
        (error, _) => error,
    })?;
    Ok(Duration::from_millis(ms))
}

/// Reads whole numbers of B, KiB, MiB, GiB and TiB, the largest unit first: "64MiB".
pub fn size(text: &str) -> Result<u64, UnitError> {
    quantity(text, &OF_SIZE).map_err(|error| match error {
        UnitError::NoUnit(_) => text.parse().map_or(UnitError::NoUnit(None), bare_size),
        UnitError::Fraction(_) => fraction_of_size(text),
        error => error,
    })
}

/// What to write for a number that stands where a size belongs. Below 1,024, MiB were likely meant; else bytes.
pub fn bare_size(number: u64) -> UnitError {
    let text = if number < 1024 { format!("{number}MiB") } else { show_size(number) };
    UnitError::NoUnit(Suggestion::new(text))
}

/// What to write for a size with a fraction: "1.5GiB" is "1536MiB". Without a unit, MiB were likely meant.
pub fn fraction_of_size(text: &str) -> UnitError {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => Some(1u64 << 20),
        unit => {
            let lower = unit.to_ascii_lowercase();
            let meant = OTHER_SIZES.iter().find(|(name, _)| *name == lower).map_or(unit, |(_, meant)| meant);
            SIZES.iter().find(|(name, _)| *name == meant).map(|(_, bytes)| *bytes)
        }
    };
    let bytes = digits.parse::<f64>().ok().zip(unit).map(|(number, unit)| number * unit as f64);
    // What is no whole number of bytes is no suggestion.
    let whole = bytes.filter(|bytes| (1.0..1e15).contains(bytes) && bytes.fract() == 0.0);
    UnitError::Fraction(whole.and_then(|bytes| Suggestion::new(show_size(bytes as u64))))
}

/// What to write for a number that stands where a duration belongs. From 100 on, milliseconds were likely meant.
pub fn bare_duration(number: u64) -> UnitError {
    let (unit, word) = if number < 100 { ("s", "second") } else { ("ms", "millisecond") };
    let plural = if number == 1 { "" } else { "s" };
    let words = Some(format!("{} {word}{plural}", in_words(number)));
    UnitError::NoUnit(Some(Suggestion { text: format!("{number}{unit}"), words }))
}

/// What to write for a number with a fraction, with or without a unit.
pub fn fraction(text: &str) -> UnitError {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => Some(1000.0),
        unit => TIMES.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms as f64),
    };
    let ms = digits.parse::<f64>().ok().zip(unit).map(|(number, unit)| (number * unit).round());
    let whole = ms.filter(|ms| (1.0..1e12).contains(ms)).map(|ms| Duration::from_millis(ms as u64));
    UnitError::Fraction(whole.and_then(|whole| Suggestion::new(show_duration(whole))))
}

/// The shortest text that [`duration`] reads as the same: "1m30s". Anything below a millisecond is cut off.
pub fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), TIMES, "0s")
}

/// The same for bytes: the largest unit that divides them.
pub fn show_size(bytes: u64) -> String {
    let (unit, factor) =
        SIZES.iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor)).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / factor)
}

fn show(mut amount: u64, units: &[(&str, u64)], zero: &str) -> String {
    let mut text = String::new();
    for (unit, factor) in units {
        if amount >= *factor {
            text += &format!("{}{unit}", amount / factor);
            amount %= factor;
        }
    }
    if text.is_empty() { zero.to_owned() } else { text }
}

fn quantity(text: &str, units: &Units) -> Result<u64, UnitError> {
    if text.len() > 1 && text.starts_with('-') && text[1..].starts_with(|c: char| c.is_ascii_digit()) {
        return Err(UnitError::Negative);
    }
    if !text.starts_with(|c: char| c.is_ascii_digit()) || !text.is_ascii() {
        return Err(UnitError::Other(units.example));
    }
    if text.contains(' ') {
        let joined = text.replace(' ', "");
        let suggestion = quantity(&joined, units).ok().and_then(|_| Suggestion::new(joined));
        return Err(UnitError::Blank(suggestion));
    }
    if text.contains(['.', ',']) {
        return Err(UnitError::Fraction(None));
    }
    let mut total = 0u64;
    let mut rest = text;
    let mut smallest = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        if number.is_empty() {
            return Err(UnitError::Other(units.example));
        }
        let number: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if unit.is_empty() {
            return Err(UnitError::NoUnit(None));
        }
        let Some((_, factor)) = units.known.iter().find(|(name, _)| *name == unit) else {
            return Err(unknown_unit(text, number, unit, units));
        };
        if *factor >= smallest {
            return Err(UnitError::Order);
        }
        smallest = *factor;
        total = number.checked_mul(*factor).and_then(|part| total.checked_add(part)).ok_or(UnitError::TooLarge)?;
        rest = tail;
    }
    Ok(total)
}

/// A unit that is meant for a known one gets it suggested, in the simple case of one number and one unit.
fn unknown_unit(text: &str, number: u64, unit: &str, units: &Units) -> UnitError {
    if !unit.chars().all(|c| c.is_ascii_alphabetic()) {
        return UnitError::Other(units.example);
    }
    let lower = unit.to_ascii_lowercase();
    let same = |(name, _): &&(&str, u64)| name.eq_ignore_ascii_case(unit);
    let meant = units.known.iter().find(same).map(|(name, _)| *name);
    let meant = meant.or_else(|| units.others.iter().find(|(name, _)| *name == lower).map(|(_, unit)| *unit));
    let alone = text.len() == text.find(unit).unwrap_or(0) + unit.len();
    let suggestion = meant.filter(|_| alone).and_then(|meant| Suggestion::new(format!("{number}{meant}")));
    UnitError::UnknownUnit { unit: unit.to_owned(), suggestion }
}

fn in_words(number: u64) -> impl fmt::Display {
    const WORDS: [&str; 13] =
        ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    match usize::try_from(number).ok().and_then(|index| WORDS.get(index)) {
        Some(word) => (*word).to_owned(),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(text: &str) -> Result<u64, String> {
        duration(text).map(|d| d.as_millis() as u64).map_err(|error| error.to_string())
    }

    #[test]
    fn durations_are_whole_numbers_with_units() {
        assert_eq!(ms("250ms"), Ok(250));
        assert_eq!(ms("5s"), Ok(5000));
        assert_eq!(ms("1m30s"), Ok(90_000));
        assert_eq!(ms("2h"), Ok(7_200_000));
        assert_eq!(ms("1h2m3s4ms"), Ok(3_723_004));
        assert_eq!(ms("0s"), Ok(0));
    }

    #[test]
    fn a_duration_that_is_none_says_what_to_write() {
        let told = |text| ms(text).unwrap_err();
        assert_eq!(told("5"), "needs a unit: write \"5s\" for five seconds");
        assert_eq!(told("1"), "needs a unit: write \"1s\" for one second");
        assert_eq!(told("500"), "needs a unit: write \"500ms\" for 500 milliseconds");
        assert_eq!(told("1m30"), "needs a unit");
        assert_eq!(told("2.5s"), "is a fraction: write \"2s500ms\"");
        assert_eq!(told("0,5s"), "is a fraction");
        assert_eq!(told("5 s"), "has a blank in it: write \"5s\"");
        assert_eq!(told("5sec"), "has the unit \"sec\", which is not known: write \"5s\"");
        assert_eq!(told("5S"), "has the unit \"S\", which is not known: write \"5s\"");
        assert_eq!(told("2d"), "has the unit \"d\", which is not known: write \"48h\"");
        assert_eq!(told("5us"), "has the unit \"us\", which is not known");
        assert_eq!(told("-5s"), "is negative");
        assert_eq!(told("30s1m"), "names its units out of order: the largest comes first, each once");
        assert_eq!(told("1s1s"), "names its units out of order: the largest comes first, each once");
        assert_eq!(told("99999999999999999999s"), "is too large to count");
        assert_eq!(told("9999999999999999h"), "is too large to count");
        for text in ["", "s", "soon", "five", "5s!", "٣s", "-"] {
            assert_eq!(told(text), "is not a duration such as \"5s\"", "{text:?}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("512B"), Ok(512));
        assert_eq!(size("2TiB"), Ok(2 << 40));
        let told = |text| size(text).unwrap_err().to_string();
        assert_eq!(told("16"), "needs a unit: write \"16MiB\"");
        assert_eq!(told("16777216"), "needs a unit: write \"16MiB\"");
        assert_eq!(told("70000"), "needs a unit: write \"70000B\"");
        assert_eq!(told("1.5GiB"), "is a fraction: write \"1536MiB\"");
        assert_eq!(told("0.5gb"), "is a fraction: write \"512MiB\"");
        assert_eq!(told("0.0000001KiB"), "is a fraction");
        assert_eq!(size("16mb").unwrap_err().to_string(), "has the unit \"mb\", which is not known: write \"16MiB\"");
        assert_eq!(show_size(64 << 20), "64MiB");
        assert_eq!(show_size(1025), "1025B");
        assert_eq!(show_size(0), "0B");
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(ms in 0u64..10_000_000_000, bytes: u64) {
            prop_assert_eq!(duration(&show_duration(Duration::from_millis(ms))), Ok(Duration::from_millis(ms)));
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in ".{0,12}") {
            let _ = (duration(&text), size(&text), fraction(&text), fraction_of_size(&text));
        }
    }
}
