//! Words, truths, texts, and the bytes that texts mean.

use std::borrow::Cow;

use toml::de::DeValue;

use super::{Got, Layer, Reader, Text, last};
use crate::config::bytes::{BytesError, has_wide_escape, unescape, unhex};
use crate::config::keys::{DefaultValue, Kind};
use crate::config::tree::Written;
use crate::config::variables::Part;

/// How much a beat may send, and how much of an answer may be asked for, in bytes.
const BYTES_MAX: usize = 1024;

impl Reader<'_> {
    /// One of the words of a key, by its index.
    pub fn choice(&mut self, layer: &Layer<'_, '_>, name: &'static str) -> Got<usize> {
        let index = |words: &[&str], word: &str| words.iter().position(|known| *known == word);
        let fallback = match layer.scope.key(name).map(|key| (&key.kind, key.default)) {
            Some((Kind::Choice(words), DefaultValue::Word(word))) => index(words, word).unwrap_or(0),
            _ => 0,
        };
        self.read(layer, name, fallback, |reader, key, written| {
            let span = &written.value.span();
            let Kind::Choice(words) = key.kind else { return None };
            let listed = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
            let text = reader.string(last(name), &format!("one of {listed}"), written.value.get_ref(), span)?;
            if let Some(found) = index(words, &text.value) {
                return Some(found);
            }
            let mut help = format!("known: {listed}");
            if text.is_plain() {
                let lower = text.value.to_ascii_lowercase().replace('_', "-");
                let near = words.iter().min_by_key(|word| strsim::damerau_levenshtein(&lower, word));
                if let Some(near) = near.filter(|near| strsim::damerau_levenshtein(&lower, near) <= 2) {
                    help = format!("did you mean \"{near}\"? {help}");
                }
            }
            reader.error(span, format!("`{}` cannot be {}", last(name), text.quoted()), help);
            None
        })
    }

    pub fn flag(&mut self, layer: &Layer<'_, '_>, name: &'static str) -> Got<bool> {
        self.read(layer, name, false, |reader, _, written| {
            let span = &written.value.span();
            match written.value.get_ref() {
                DeValue::Boolean(value) => Some(*value),
                DeValue::String(text) => {
                    let text = reader.text(text, span)?;
                    match (text.is_plain(), text.value.as_str()) {
                        (false, "true") => return Some(true),
                        (false, "false") => return Some(false),
                        (true, word @ ("true" | "false")) => {
                            reader.error(span, format!("`{}` is in quotes: write {word}", last(name)), "");
                        }
                        _ => reader.error(
                            span,
                            format!("`{}` must be true or false, not {}", last(name), text.quoted()),
                            "",
                        ),
                    }
                    None
                }
                other => {
                    reader.wrong_type(last(name), "true or false", other, span);
                    None
                }
            }
        })
    }

    /// Text as it is, if written.
    pub fn optional_text(&mut self, layer: &Layer<'_, '_>, name: &'static str) -> Got<Option<Text>> {
        self.read(layer, name, None, |reader, _, written| {
            reader.string(last(name), "text", written.value.get_ref(), &written.value.span()).map(Some)
        })
    }

    /// Every text of a list, or the one that stands alone; `None`: told, or not written.
    pub fn texts(&mut self, layer: &Layer<'_, '_>, name: &'static str, expected: &str) -> Got<Option<Vec<Text>>> {
        self.read(layer, name, None, |reader, _, written| {
            let DeValue::Array(list) = written.value.get_ref() else {
                return reader
                    .string(last(name), expected, written.value.get_ref(), &written.value.span())
                    .map(|text| Some(vec![text]));
            };
            let texts: Vec<_> = list
                .iter()
                .filter_map(|value| reader.string(last(name), expected, value.get_ref(), &value.span()))
                .collect();
            (texts.len() == list.len()).then_some(Some(texts))
        })
    }

    /// Lets the caller read a value of its own kind; the origin is kept as of any other.
    pub fn any<T>(
        &mut self,
        layer: &Layer<'_, '_>,
        name: &'static str,
        parse: impl FnOnce(&mut Self, &Written<'_>) -> Option<T>,
    ) -> Got<Option<T>> {
        self.read(layer, name, None, |reader, _, written| parse(reader, written).map(Some))
    }

    /// The bytes of `send`, or of `expect` without its `re:` form. A variable's value is taken byte for byte.
    pub fn bytes(&mut self, name: &str, text: &Text) -> Option<Vec<u8>> {
        let raw = self.source.text.get(text.span.clone()).unwrap_or("");
        if let Some(escape) = has_wide_escape(raw) {
            let message =
                format!("`{name}` has `{escape}` in double quotes, which TOML reads as a character of two bytes");
            self.error(&text.span.clone(), message, "write it in single quotes, or as hex:…");
            return None;
        }
        let read = match text.value.strip_prefix("hex:") {
            Some(digits) => unhex(digits),
            None => text
                .parts
                .iter()
                .map(|part| match part {
                    Part::Written(text) => unescape(text).map(Cow::Owned),
                    Part::Variable { value, .. } => Ok(Cow::Borrowed(value.as_bytes())),
                })
                .collect::<Result<Vec<Cow<'_, [u8]>>, _>>()
                .map(|parts| parts.concat()),
        };
        let span = text.span.clone();
        match read {
            Ok(bytes) if bytes.is_empty() => {
                self.error(&span, format!("`{name}` is empty"), "leave it out, or say something")
            }
            Ok(bytes) if bytes.len() > BYTES_MAX => {
                self.error(&span, format!("`{name}` has {} bytes, and may have {BYTES_MAX}", bytes.len()), "");
            }
            Ok(bytes) => return Some(bytes),
            Err(error @ BytesError::NotHex) => self.error(&span, format!("`{name}` {error}"), "as in \"hex:0d0a\""),
            Err(error) => {
                self.error(&span, format!("`{name}` {error}"), "escapes are \\r \\n \\t \\\\ \\xNN; or write hex:…");
            }
        }
        None
    }
}
