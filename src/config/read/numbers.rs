//! Durations, sizes, counts and ratios.

use std::ops::Range;
use std::time::Duration;

use toml::de::DeValue;

use super::{Got, Layer, Reader, last};
use crate::config::keys::{DefaultValue, Key, Kind};
use crate::config::units::{self, UnitError, show_duration, show_size};

/// A number, or a word by its place in the list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::config) enum Ratio {
    Number(f64),
    Word(usize),
}

impl Reader<'_> {
    /// A duration; `None` for "off".
    pub fn time(&mut self, layer: &Layer<'_, '_>, name: &'static str) -> Got<Option<Duration>> {
        let fallback = match layer.scope.key(name).map(|key| key.default) {
            Some(DefaultValue::Time(time)) => Some(time),
            _ => None,
        };
        self.read(layer, name, fallback, |reader, key, written| {
            let span = &written.value.span();
            let (min, max, off) = match key.kind {
                Kind::Time { min, max, off } => (min, max, off),
                _ => return None,
            };
            let last = last(name);
            let read = match written.value.get_ref() {
                DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
                    Ok(0) => Ok(Duration::ZERO),
                    Ok(number) if number < 0 => Err(UnitError::Negative),
                    Ok(number) => Err(u64::try_from(number).map_or(UnitError::NoUnit(None), units::bare_duration)),
                    Err(_) => Err(UnitError::NoUnit(None)),
                },
                DeValue::Float(number) if number.as_str().starts_with('-') => Err(UnitError::Negative),
                DeValue::Float(number) => Err(match units::fraction(number.as_str()) {
                    UnitError::Fraction(meant) => UnitError::NoUnit(meant),
                    other => other,
                }),
                value => {
                    let text = reader.string(last, "a duration such as \"5s\"", value, span)?;
                    if text.value == "off" {
                        if !off {
                            let help = format!("it takes {}", key.range());
                            reader.error(span, format!("`{last}` cannot be switched off"), help);
                            return None;
                        }
                        return Some(None);
                    }
                    if !text.is_plain() {
                        // Nothing of what a variable holds is repeated.
                        let read = units::duration(&text.value).ok().filter(|time| (min..=max).contains(time));
                        if read.is_none() {
                            let message = format!("`{last}` from {} is no duration it can take", text.quoted());
                            reader.error(span, message, format!("it takes {}", key.range()));
                        }
                        return read.map(Some);
                    }
                    match text.value.as_str() {
                        "0" => Ok(Duration::ZERO),
                        text => units::duration(text),
                    }
                }
            };
            match read {
                Ok(time) if (min..=max).contains(&time) => Some(Some(time)),
                Ok(time) if time.is_zero() && off => {
                    reader.error(span, format!("`{last}` is 0: write \"off\" to switch it off"), off_help(key));
                    None
                }
                Ok(time) => {
                    let range = format!("{} to {}", show_duration(min), show_duration(max));
                    reader.error(span, format!("`{last}` is {}, and must be {range}", show_duration(time)), "");
                    None
                }
                Err(UnitError::Negative) if off => {
                    reader.error(span, format!("`{last}` is negative: write \"off\" to switch it off"), off_help(key));
                    None
                }
                Err(error @ UnitError::Negative) => {
                    reader.error(span, format!("`{last}` {error}"), format!("it takes {}", key.range()));
                    None
                }
                Err(error) => {
                    reader.error(span, format!("`{last}` {error}"), "units are ms, s, m, h");
                    None
                }
            }
        })
    }

    /// A number of bytes.
    pub fn size(&mut self, layer: &Layer<'_, '_>, name: &'static str) -> Got<u64> {
        let fallback = match layer.scope.key(name).map(|key| key.default) {
            Some(DefaultValue::Size(bytes)) => bytes,
            _ => 0,
        };
        self.read(layer, name, fallback, |reader, key, written| {
            let span = &written.value.span();
            let Kind::Size { min, max } = key.kind else { return None };
            let last = last(name);
            let read = match written.value.get_ref() {
                DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) if number < 0 => Err(UnitError::Negative),
                    Ok(0) => Ok(0),
                    Ok(number) => Err(u64::try_from(number).map_or(UnitError::NoUnit(None), units::bare_size)),
                    Err(_) => Err(UnitError::NoUnit(None)),
                },
                DeValue::Float(number) if number.as_str().starts_with('-') => Err(UnitError::Negative),
                DeValue::Float(number) => Err(match units::fraction_of_size(number.as_str()) {
                    UnitError::Fraction(meant) => UnitError::NoUnit(meant),
                    other => other,
                }),
                value => {
                    let text = reader.string(last, "a size such as \"16MiB\"", value, span)?;
                    if !text.is_plain() {
                        // Nothing of what a variable holds is repeated.
                        let read = units::size(&text.value).ok().filter(|bytes| (min..=max).contains(bytes));
                        if read.is_none() {
                            let message = format!("`{last}` from {} is no size it can take", text.quoted());
                            reader.error(span, message, format!("it takes {}", key.range()));
                        }
                        return read;
                    }
                    match text.value.as_str() {
                        "off" => {
                            let help = format!("it takes {}", key.range());
                            reader.error(span, format!("`{last}` cannot be switched off"), help);
                            return None;
                        }
                        "0" => Ok(0),
                        text => units::size(text),
                    }
                }
            };
            match read {
                Ok(bytes) if (min..=max).contains(&bytes) => return Some(bytes),
                Ok(bytes) => {
                    let range = key.range();
                    reader.error(span, format!("`{last}` is {}, and must be {range}", show_size(bytes)), "");
                }
                Err(error @ UnitError::Negative) => {
                    reader.error(span, format!("`{last}` {error}"), format!("it takes {}", key.range()));
                }
                Err(error) => reader.error(span, format!("`{last}` {error}"), "units are B, KiB, MiB, GiB, TiB"),
            }
            None
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
                reader.count_of(last(name), min, max, word, written.value.get_ref(), &written.value.span())
            }
            _ => None,
        })
    }

    pub fn count_of(
        &mut self,
        name: &str,
        min: u64,
        max: u64,
        word: Option<&str>,
        value: &DeValue<'_>,
        span: &Range<usize>,
    ) -> Option<Option<u64>> {
        let range = match word {
            Some(word) => format!("a whole number of {min} to {max}, or \"{word}\""),
            None => format!("a whole number of {min} to {max}"),
        };
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
                let number = text.value.parse().ok().filter(|number| is_number && (min..=max).contains(number));
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
                self.wrong_type(name, &range, other, span);
                return None;
            }
        };
        let number = i128::from_str_radix(&digits, radix).ok();
        match number.and_then(|number| u64::try_from(number).ok()).filter(|number| (min..=max).contains(number)) {
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

fn off_help(key: &Key) -> String {
    format!("it takes {}", key.range())
}

fn shorten(text: &str) -> String {
    text.chars().take(24).collect()
}
