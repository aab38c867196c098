//! The text of a file and its places: lines and columns for people.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// Longer lines are shown as a window of about this many characters.
const SHOWN: usize = 160;

/// What was read.
pub(super) struct Source {
    /// As the user named the file.
    pub name: Arc<str>,
    pub text: String,
    /// Where each line starts, in bytes.
    starts: Vec<usize>,
    /// The line masked last: a long one may hold many problems.
    masked: RefCell<(usize, Rc<str>)>,
}

/// A stretch of one line, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1; a tab is one.
    pub column: usize,
    /// The line as shown: secrets and control characters masked, cut if very long.
    pub shown: String,
    /// Characters of `shown` before the marks.
    pub before: usize,
    /// How many characters are marked; at least 1.
    pub width: usize,
    /// What is to be said beside the marks; empty for the main place.
    pub label: String,
}

impl Source {
    pub fn new(name: &str, text: String) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name: name.into(), text, starts, masked: RefCell::new((0, "".into())) }
    }

    /// The line, from 1, that holds this byte.
    pub fn line_of(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).max(1)
    }

    /// The text of a line without its end and without a byte order mark.
    pub fn line(&self, line: usize) -> &str {
        let range = self.range_of(line);
        &self.text[range]
    }

    /// Where in the text [`Self::line`] is.
    pub fn range_of(&self, line: usize) -> Range<usize> {
        let index = line.saturating_sub(1);
        let mut start = self.starts.get(index).copied().unwrap_or(self.text.len());
        let end = self.starts.get(index + 1).map_or(self.text.len(), |next| next - 1);
        if start == 0 && self.text.starts_with('\u{feff}') {
            start = '\u{feff}'.len_utf8();
        }
        let text = self.text.get(start..end).unwrap_or("");
        start..start + text.strip_suffix('\r').unwrap_or(text).len()
    }

    /// A place to show. Offsets outside the text or within a character are moved to the nearest place before.
    pub fn place(&self, span: &Range<usize>, label: &str) -> Place {
        let line = self.line_of(span.start.min(self.text.len()));
        let range = self.range_of(line);
        let text = &self.text[range.clone()];
        let from = boundary(text, span.start.saturating_sub(range.start));
        let to = boundary(text, span.end.saturating_sub(range.start)).max(from);
        let before = text[..from].chars().count();
        let marked = text[from..to].chars().count().max(1);
        let (shown, shown_before, width) = window(&self.masked(line, text), before, marked);
        Place { line, column: before + 1, shown, before: shown_before, width, label: label.to_owned() }
    }

    fn masked(&self, line: usize, text: &str) -> Rc<str> {
        let mut last = self.masked.borrow_mut();
        if last.0 != line {
            *last = (line, mask(text).into());
        }
        last.1.clone()
    }
}

fn boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// Cuts a long line around what is marked, and makes it fit to be printed.
fn window(masked: &str, before: usize, marked: usize) -> (String, usize, usize) {
    let total = masked.chars().count();
    let before = before.min(total);
    let marked = marked.min(SHOWN / 2).min((total - before).max(1));
    let skip = if total > SHOWN { before.saturating_sub(SHOWN / 4) } else { 0 };
    let mut shown: String = masked.chars().skip(skip).take(SHOWN).map(printable).collect();
    let mut shown_before = before - skip;
    if skip > 0 {
        shown.insert(0, '…');
        shown_before += 1;
    }
    if total > skip + SHOWN {
        shown.push('…');
    }
    (shown, shown_before, marked)
}

/// Control characters and marks that turn the direction of text could rewrite a terminal's picture of the message.
pub(super) fn printable(c: char) -> char {
    let turns = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    if (c.is_control() && c != '\t') || turns { '\u{fffd}' } else { c }
}

/// Whether a key by this name would hold a secret itself, rather than name a file that does.
pub(super) fn is_secret_name(name: &str) -> bool {
    const WORDS: [&str; 8] =
        ["token", "password", "passwd", "passphrase", "secret", "credential", "credentials", "private_key"];
    let name = name.to_ascii_lowercase().replace('-', "_");
    name == "key"
        || name == "api_key"
        || name == "apikey"
        || WORDS.iter().any(|word| {
            name.strip_suffix(word).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
                || name.strip_prefix(word).is_some_and(|rest| rest.starts_with('_') && !rest.ends_with("_file"))
        })
}

/// Hides what follows a key that looks like a secret, to the end of the line, unless it is only a variable.
fn mask(text: &str) -> String {
    if text.contains("-----BEGIN") {
        let head = text.split_once('=').map_or("", |(head, _)| head);
        return format!("{head}= ***");
    }
    for (at, _) in text.match_indices('=') {
        let name = text[..at].trim_end().trim_end_matches(['"', '\'']);
        let start = name
            .rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'))
            .map_or(0, |before| before + name[before..].chars().next().map_or(0, char::len_utf8));
        if !is_secret_name(&name[start..]) {
            continue;
        }
        let value = text[at + 1..].trim();
        let variable = value.strip_prefix("\"${").and_then(|rest| rest.strip_suffix("}\""));
        if !variable.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')) {
            return format!("{}= ***", &text[..at]);
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(text: &str) -> Source {
        Source::new("config.toml", text.to_owned())
    }

    #[test]
    fn a_column_counts_characters_not_bytes() {
        let s = source("a = \"é\"\nü = x\n");
        let place = s.place(&(14..15), "");
        assert_eq!((place.line, place.column, place.width, place.shown.as_str()), (2, 5, 1, "ü = x"));
    }

    #[test]
    fn a_byte_order_mark_and_carriage_returns_are_no_part_of_a_line() {
        let s = source("\u{feff}a = 1\r\nb = 2\r\n");
        let place = s.place(&(3..4), "");
        assert_eq!((place.line, place.column, place.shown.as_str()), (1, 1, "a = 1"));
        let place = s.place(&(14..15), "");
        assert_eq!((place.line, place.column, place.shown.as_str()), (2, 5, "b = 2"));
    }

    #[test]
    fn a_place_past_the_end_is_the_end() {
        let s = source("a = [");
        let place = s.place(&(5..5), "");
        assert_eq!((place.line, place.column, place.width), (1, 6, 1));
        assert_eq!(s.place(&(900..910), "").line, 1);
    }

    #[test]
    fn a_long_line_is_cut_around_what_is_marked() {
        let s = source(&format!("{}X{}", "a".repeat(500), "b".repeat(500)));
        let place = s.place(&(500..501), "");
        assert_eq!(place.column, 501);
        assert!(place.shown.chars().count() < SHOWN + 3);
        assert_eq!(place.shown.chars().nth(place.before), Some('X'));
    }

    #[test]
    fn secrets_are_masked() {
        for (text, shown) in [
            ("token = \"hunter2\" # hunter2", "token = ***"),
            ("x = { password = \"hunter2\" }", "x = { password = ***"),
            ("db-password='hunter2'", "db-password= ***"),
            ("key_file = \"-----BEGIN KEY", "key_file = ***"),
            ("token_file = \"/run/token\"", "token_file = \"/run/token\""),
            ("token = \"${TOKEN}\"", "token = \"${TOKEN}\""),
            ("token = \"${TOKEN:-hunter2}\"", "token = ***"),
            ("interval = \"5s\"", "interval = \"5s\""),
        ] {
            assert_eq!(mask(text), shown, "{text}");
        }
    }

    #[test]
    fn nothing_reaches_a_terminal_that_could_steer_it() {
        let s = source("a = \"\u{1b}[2Jx\u{202e}\"");
        assert_eq!(s.place(&(0..1), "").shown, "a = \"\u{fffd}[2Jx\u{fffd}\"");
    }

    proptest! {
        #[test]
        fn any_span_of_any_text_has_a_place(text in "[a=\"\r\n\té\u{feff}$]{0,40}", start in 0usize..60, length in 0usize..60) {
            let place = source(&text).place(&(start..start + length), "");
            prop_assert!(place.before <= place.shown.chars().count());
        }
    }
}
