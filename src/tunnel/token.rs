//! The token that both ends of a tunnel share, from its file.

use std::path::Path;

use crate::session::hello::Token;

/// A token is a line, not a book.
const LONGEST: u64 = 64 * 1024;

/// Reads it; a last newline does not count. Errors: why it cannot be used, with the file's name and the cure.
pub fn read(path: &Path) -> Result<Token, String> {
    let shown = path.display();
    let size = std::fs::metadata(path).map_err(|error| format!("token_file {shown}: {error}"))?;
    if !size.is_file() || size.len() > LONGEST {
        return Err(format!("token_file {shown} is no file of at most 64 KiB"));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("token_file {shown}: {error}"))?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Token::new(line).map_err(|_| {
        format!("token_file {shown} holds {} bytes: a token has at least 16; make one with openssl rand -hex 32", line.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_newline_does_not_count_and_a_short_token_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let read_as = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path)
        };
        let plain = read_as("0123456789abcdef").unwrap();
        assert!(read_as("0123456789abcdef\n").unwrap().is_same(&plain));
        assert!(!read_as("0123456789abcdeg\n").unwrap().is_same(&plain));
        let short = read_as("0123456789abcde\n").err().unwrap();
        assert!(short.contains("15 bytes") && short.contains("openssl"), "{short}");
        assert!(read(directory.path()).is_err() && read(&directory.path().join("none")).is_err());
    }
}
