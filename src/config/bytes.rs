//! The text of `send` and `expect`, and the bytes it means.

use super::variables::protect;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BytesError {
    #[error("has `\\{0}`, which is no escape")]
    Escape(char),
    #[error("ends in a lone `\\`")]
    Lone,
    #[error("has `\\x` without two hexadecimal digits")]
    Hex,
    #[error("is not hexadecimal: after `hex:` come pairs of the digits 0-9 and a-f")]
    NotHex,
}

/// Reads `\r \n \t \\ \xNN`; anything else stands for its UTF-8 bytes.
pub(super) fn unescape(text: &str) -> Result<Vec<u8>, BytesError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let mut tail = rest[at + 1..].chars();
        bytes.push(match tail.next() {
            Some('r') => b'\r',
            Some('n') => b'\n',
            Some('t') => b'\t',
            Some('\\') => b'\\',
            Some('x') => {
                let digits = tail.as_str().get(..2).ok_or(BytesError::Hex)?;
                tail = tail.as_str()[2..].chars();
                pair(digits.as_bytes()).ok_or(BytesError::Hex)?
            }
            Some(other) => return Err(BytesError::Escape(other)),
            None => return Err(BytesError::Lone),
        });
        rest = tail.as_str();
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// Reads pairs of hexadecimal digits; blanks between pairs are allowed.
pub(super) fn unhex(text: &str) -> Result<Vec<u8>, BytesError> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    if !digits.len().is_multiple_of(2) {
        return Err(BytesError::NotHex);
    }
    digits.chunks(2).map(|digits| pair(digits).ok_or(BytesError::NotHex)).collect()
}

fn pair(digits: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    match digits {
        [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    }
}

/// The text that means these bytes in `send` and `expect`, before it is quoted for TOML.
pub(super) fn written(bytes: &[u8]) -> String {
    let plain = std::str::from_utf8(bytes).ok().filter(|text| {
        !text.starts_with("hex:")
            && !text.starts_with("re:")
            && text.chars().all(|c| !c.is_control() || matches!(c, '\r' | '\n' | '\t'))
    });
    match plain {
        Some(text) => protect(&text.replace('\\', "\\\\")),
        None => bytes.iter().fold("hex:".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}

/// Whether a string in double quotes names a byte above 127 by `\x`, which TOML reads as a character of two bytes.
pub(super) fn has_wide_escape(raw: &str) -> Option<&str> {
    let mut rest = raw.strip_prefix('"')?;
    while let Some(at) = rest.find('\\') {
        let escape = &rest[at..];
        if escape.starts_with("\\x") && escape.as_bytes().get(2).is_some_and(|digit| !(b'0'..=b'7').contains(digit)) {
            return escape.get(..4);
        }
        rest = escape.get(2..).unwrap_or("");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_become_bytes() {
        assert_eq!(unescape(r"PING\r\n\t\\\x00\xFFé"), Ok(b"PING\r\n\t\\\x00\xff\xc3\xa9".to_vec()));
        assert_eq!(unescape("a\r\n"), Ok(b"a\r\n".to_vec()));
        assert_eq!(unhex("0a 0B"), Ok(vec![10, 11]));
    }

    #[test]
    fn a_wrong_escape_is_named() {
        assert_eq!(unescape(r"\q"), Err(BytesError::Escape('q')));
        assert_eq!(unescape("a\\"), Err(BytesError::Lone));
        for text in [r"\x", r"\x1", r"\xg0", r"\x1é"] {
            assert_eq!(unescape(text), Err(BytesError::Hex), "{text}");
        }
        for text in ["0", "0g", "é0"] {
            assert_eq!(unhex(text), Err(BytesError::NotHex), "{text}");
        }
    }

    #[test]
    fn a_byte_that_toml_would_make_a_character_is_seen() {
        assert_eq!(has_wide_escape(r#""a\xff""#), Some("\\xff"));
        assert_eq!(has_wide_escape(r#""a\\xff\x7f""#), None);
        assert_eq!(has_wide_escape(r"'\xff'"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_for_bytes_means_them(bytes: Vec<u8>) {
            let text = written(&bytes).replace("$${", "${");
            let read = match text.strip_prefix("hex:") {
                Some(digits) => unhex(digits),
                None => unescape(&text),
            };
            prop_assert_eq!(read, Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in r#"["\\xfé0-9a-z]{0,12}"#) {
            let _ = (unescape(&text), unhex(&text), has_wide_escape(&text));
        }
    }
}
