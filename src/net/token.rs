//! The file of a token: what both ends of a tunnel share.

#![forbid(unsafe_code)]

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use thiserror::Error;

/// What is shorter can be guessed: 16 bytes are 128 bits if they are random.
pub const TOKEN_MIN: usize = 16;
/// Far more than any secret needs; what is larger is another file.
pub const TOKEN_MAX: usize = 4096;

/// Why a file holds no token. No message repeats a byte of it.
#[derive(Debug, Error)]
pub enum TokenError {
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("is not a regular file")]
    NotAFile,
    #[error("holds {0} bytes, and a token has at least {TOKEN_MIN}")]
    Short(usize),
    #[error("holds more than {TOKEN_MAX} bytes, and no token does")]
    Long,
}

/// Reads a token of [`TOKEN_MIN`] to [`TOKEN_MAX`] bytes. One newline at its end, `\n` or `\r\n`, does not count:
/// editors and `echo` leave one there.
pub fn read(path: &Path) -> Result<Vec<u8>, TokenError> {
    // Without O_NONBLOCK a FIFO would hold us until someone writes to it.
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(TokenError::NotAFile);
    }
    let mut bytes = Vec::new();
    file.take(TOKEN_MAX as u64 + 3).read_to_end(&mut bytes)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    match bytes.len() {
        0..TOKEN_MIN => Err(TokenError::Short(bytes.len())),
        TOKEN_MIN..=TOKEN_MAX => Ok(bytes),
        _ => Err(TokenError::Long),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content: &[u8]) -> Result<Vec<u8>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, content).unwrap();
        read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_last_newline_does_not_count() {
        assert_eq!(of(b"0123456789abcdef\n"), Ok(b"0123456789abcdef".to_vec()));
        assert_eq!(of(b"0123456789abcdef\r\n"), Ok(b"0123456789abcdef".to_vec()));
        assert_eq!(of(b"0123456789abcde\n\n"), Ok(b"0123456789abcde\n".to_vec()));
        assert_eq!(of(b"\x000123456789abcde "), Ok(b"\x000123456789abcde ".to_vec()));
        assert_eq!(of(b"0123456789abcde\n"), Err("holds 15 bytes, and a token has at least 16".to_owned()));
        assert_eq!(of(b""), Err("holds 0 bytes, and a token has at least 16".to_owned()));
    }

    #[test]
    fn a_file_too_large_is_none() {
        let long = |length| of(&vec![b'x'; length]).map(|token| token.len());
        assert_eq!(long(TOKEN_MAX), Ok(TOKEN_MAX));
        assert_eq!(long(TOKEN_MAX + 1), Err("holds more than 4096 bytes, and no token does".to_owned()));
        assert!(long(1 << 20).is_err());
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(read(directory.path()), Err(TokenError::NotAFile)));
    }
}
