//! Durations, sizes, counts and ratios.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use toml::de::DeValue;

use super::quantities::{Bounds, SIZE, TIME};
use super::{Got, Layer, Reader, last};
use crate::config::keys::{DefaultValue, Kind};

/// A number, or a word by its place in the list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::config) enum Ratio {
    Number(f64),
    Word(usize),
}

/// The whole numbers that are taken, and the word that stands for no limit.
pub(in crate::config) struct Count {
    pub min: u64,
    pub max: u64,
    pub word: Option<&'static str>,
}

impl Count {
    fn contains(&self, number: u64) -> bool {
        (self.min..=self.max).contains(&number)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number of {} to {}", self.min, self.max)?;
        self.word.map_or(Ok(()), |word| write!(f, ", or \"{word}\""))
    }
}

impl Reader<'_> {
    /// A duration; `None` for "off".
    pub fn time(&mut self, layer: &Layer<'_, '_>, name: &'static str) -> Got<Option<Duration>> {
        let fallback = match layer.scope.key(name).map(|key| key.default) {
            Some(DefaultValue::Time(time)) => Some(time),
            _ => None,
        };
        self.read(layer, name, fallback, |reader, key, written| {
            let Kind::Time { min, max, off } = key.kind else { return None };
            reader.quantity(&TIME, &Bounds { min, max, off }, key, written)
        })
    }

    /// A number of bytes.
    pub fn size(&mut self, layer: &Layer<'_, '_>, name: &'static str) -> Got<u64> {
        let fallback = match layer.scope.key(name).map(|key| key.default) {
            Some(DefaultValue::Size(bytes)) => bytes,
            _ => 0,
        };
        self.read(layer, name, fallback, |reader, key, written| {
            let Kind::Size { min, max } = key.kind else { return None };
            reader.quantity(&SIZE, &Bounds { min, max, off: false }, key, written).flatten()
        })
    }

    /// A whole number; `None` for the word that stands for no limit.
    pub fn count(&mut self, layer: &Layer<'_, '_>, name: &'static str) -> Got<Option<u64>> {
        let fallback = match layer.scope.key(name).map(|key| key.default) {
            Some(DefaultValue::Count(count)) => Some(count),
            _ => None,
        };
        self.read(layer, name, fallback, |reader, key, written| match key.kind {
            Kind::Count { min, max, word } => {
                let range = Count { min, max, word };
                reader.count_of(last(name), &range, written.value.get_ref(), &written.value.span())
            }
            _ => None,
        })
    }

    /// What is written at `name`, `Some(None)` for the word. `None`: it is wrong, and that has been told.
    pub fn count_of(
        &mut self,
        name: &str,
        range: &Count,
        value: &DeValue<'_>,
        span: &Range<usize>,
    ) -> Option<Option<u64>> {
        let word = range.word;
        let (digits, radix) = match value {
            DeValue::Integer(number) => (number.as_str().to_owned(), number.radix()),
            DeValue::String(written) => {
                let text = self.text(written, span)?;
                if Some(text.value.as_str()) == word {
                    return Some(None);
                }
                let is_number = !text.value.is_empty() && text.value.bytes().all(|byte| byte.is_ascii_digit());
                if text.is_plain() {
                    let (message, help) = if is_number {
                        (format!("`{name}` is a number in quotes: write {}", text.value.trim()), String::new())
                    } else if text.value == "off" && word.is_some() {
                        (format!("`{name}` cannot be \"off\": write \"{}\"", word.unwrap_or_default()), String::new())
                    } else {
                        (format!("`{name}` must be {range}, not {}", text.quoted()), String::new())
                    };
                    self.error(span, message, help);
                    return None;
                }
                // The value stays out of the message: it came from a variable.
                let number = text.value.parse().ok().filter(|number| is_number && range.contains(*number));
                if number.is_none() {
                    self.error(span, format!("`{name}` from {} is not {range}", text.quoted()), "");
                }
                return number.map(Some);
            }
            DeValue::Float(number) => {
                self.error(span, format!("`{name}` is {}, and must be {range}", number.as_str()), "");
                return None;
            }
            other => {
                self.wrong_type(name, &range.to_string(), other, span);
                return None;
            }
        };
        let number = i128::from_str_radix(&digits, radix).ok();
        match number.and_then(|number| u64::try_from(number).ok()).filter(|number| range.contains(*number)) {
            Some(number) => Some(Some(number)),
            None => {
                let none = number.is_some_and(|number| number <= 0);
                match word.filter(|_| none) {
                    Some(word) => {
                        self.error(span, format!("`{name}` is {digits}: write \"{word}\" for no limit"), "");
                    }
                    None => self.error(span, format!("`{name}` is {}, and must be {range}", shorten(&digits)), ""),
                }
                None
            }
        }
    }

    /// A number, or one of the words, by its index.
    pub fn ratio(&mut self, layer: &Layer<'_, '_>, name: &'static str) -> Got<Ratio> {
        let fallback = match layer.scope.key(name).map(|key| (key.default, &key.kind)) {
            Some((DefaultValue::Ratio(ratio), _)) => Ratio::Number(ratio),
            _ => Ratio::Word(0),
        };
        self.read(layer, name, fallback, |reader, key, written| {
            let span = &written.value.span();
            let last = last(name);
            let Kind::Ratio { min, max, words } = key.kind else { return None };
            let range = key.range();
            let number: f64 = match written.value.get_ref() {
                DeValue::Float(number) => number.as_str().replace('_', "").parse().unwrap_or(f64::NAN),
                DeValue::Integer(number) => {
                    i128::from_str_radix(number.as_str(), number.radix()).map_or(f64::NAN, |number| number as f64)
                }
                value => {
                    let expected = if words.is_empty() { "a number" } else { "a number or a word" };
                    let text = reader.string(last, expected, value, span)?;
                    if let Some(index) = words.iter().position(|word| *word == text.value) {
                        return Some(Ratio::Word(index));
                    }
                    let number = text.value.parse::<f64>().ok();
                    match number {
                        Some(number) if !text.is_plain() && (min..=max).contains(&number) => {
                            return Some(Ratio::Number(number));
                        }
                        Some(number) if text.is_plain() && number.is_finite() => {
                            let message = format!("`{last}` is a number in quotes: write {}", shorten(&text.value));
                            reader.error(span, message, format!("it takes {range}"));
                        }
                        _ => reader.error(
                            span,
                            format!("`{last}` cannot be {}", text.quoted()),
                            format!("it takes {range}"),
                        ),
                    }
                    return None;
                }
            };
            if (min..=max).contains(&number) {
                return Some(Ratio::Number(number));
            }
            if number <= 0.0 && words.contains(&"off") {
                reader.error(
                    span,
                    format!("`{last}` is {number}: write \"off\" to switch it off"),
                    format!("it takes {range}"),
                );
            } else {
                reader.error(span, format!("`{last}` is {number}, and must be {range}"), "");
            }
            None
        })
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(24).collect()
}
