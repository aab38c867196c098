//! Strangers' words made safe for a line of log, a terminal, or a table.

use std::fmt::Write;

/// The most characters of a value that are shown. A field is for a name or a reason, not for a payload.
pub const VALUE_LIMIT: usize = 256;

/// `text` on one line: control characters, characters that turn the direction of writing, and bytes that are not
/// UTF-8 become visible (`\n`, `\x1b`, `\u{202e}`, `\xff`); quotes and backslashes are escaped. At most
/// [`VALUE_LIMIT`] characters, the last one `…` if some are missing.
pub fn escape(text: impl AsRef<[u8]>) -> String {
    let mut out = Capped::new(VALUE_LIMIT);
    for chunk in text.as_ref().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.push(&format!("\\{c}")),
                c => out.push_visible(c),
            }
        }
        for byte in chunk.invalid() {
            out.push(&format!("\\x{byte:02x}"));
        }
    }
    out.text
}

/// [`escape`] for a table or a sentence: quotes and backslashes stay as they are.
pub fn printable(text: &str) -> String {
    visible(text, VALUE_LIMIT)
}

/// `text` with what is not visible made so, quotes and backslashes left as they are.
pub(super) fn visible(text: &str, limit: usize) -> String {
    let mut out = Capped::new(limit);
    text.chars().for_each(|c| out.push_visible(c));
    out.text
}

/// A JSON string of at most `limit` characters of `text`, with the quotes. It reads back as the text, but on the way
/// holds nothing that a terminal would obey.
pub(super) fn json_string(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for (n, c) in text.chars().enumerate() {
        if n + 1 == limit && text.chars().nth(limit).is_some() {
            out.push('…');
            break;
        }
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if is_hidden(c) => {
                // Writing into a String cannot fail.
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Control characters, and the Unicode ones that are invisible or reorder what stands around them.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A text that stops growing at a limit, never in the middle of an escape.
struct Capped {
    text: String,
    room: usize,
    /// Bytes of the last piece.
    last: usize,
    full: bool,
}

impl Capped {
    fn new(limit: usize) -> Self {
        Self { text: String::new(), room: limit, last: 0, full: false }
    }

    fn push_visible(&mut self, c: char) {
        match c {
            '\n' => self.push("\\n"),
            '\r' => self.push("\\r"),
            '\t' => self.push("\\t"),
            c if c.is_ascii_control() => self.push(&format!("\\x{:02x}", u32::from(c))),
            c if is_hidden(c) => self.push(&format!("\\u{{{:x}}}", u32::from(c))),
            c => self.push(c.encode_utf8(&mut [0; 4])),
        }
    }

    fn push(&mut self, piece: &str) {
        let length = piece.chars().count();
        if self.full {
            return;
        }
        if length <= self.room {
            self.text.push_str(piece);
            self.room -= length;
            self.last = piece.len();
            return;
        }
        self.full = true;
        if self.room == 0 {
            self.text.truncate(self.text.len() - self.last);
        }
        self.text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_or_ends_a_line_gets_through() {
        assert_eq!(escape("a\nb\r\tc"), "a\\nb\\r\\tc");
        assert_eq!(escape("\x1b[31m\u{7f}\u{9b}"), "\\x1b[31m\\x7f\\u{9b}");
        assert_eq!(escape("user\u{202e}gpj"), "user\\u{202e}gpj");
        assert_eq!(escape("\"\\"), "\\\"\\\\");
        assert_eq!(escape(b"a\xff\0"), "a\\xff\\x00");
        assert_eq!(escape("grün ☃"), "grün ☃");
    }

    #[test]
    fn a_value_ends_at_256_characters() {
        assert_eq!(escape("x".repeat(256)), "x".repeat(256));
        assert_eq!(escape("x".repeat(257)), "x".repeat(255) + "…");
        assert_eq!(escape("\n".repeat(1000)), "\\n".repeat(127) + "…");
        assert_eq!(escape("\x1b".repeat(65)), "\\x1b".repeat(63) + "…");
    }

    #[test]
    fn json_strings_read_back_as_they_were() {
        for text in ["", "plain", "a\"b\\c\nd\te\x1bf\u{9b}g\u{202e}h\u{e0001}i", "☃"] {
            let json = json_string(text, VALUE_LIMIT);
            assert!(!json.chars().any(is_hidden), "{json:?}");
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
        assert_eq!(json_string(&"x".repeat(9), 8), format!("\"{}…\"", "x".repeat(7)));
        assert_eq!(json_string(&"x".repeat(8), 8), format!("\"{}\"", "x".repeat(8)));
    }
}
