//! A chunked body, read only to be thrown away, but read strictly.

use super::head::Refusal;
use super::request::BODY_LIMIT;

/// Chunk extensions and trailers mean nothing to us; this is all the room they get.
const LINE_LIMIT: u32 = 1024;
const TRAILER_LINES: u32 = 64;

/// Takes a chunked body byte by byte, so that it costs the same however it is cut.
#[derive(Debug, Default)]
pub struct Chunked {
    at: At,
    total: u64,
    line: u32,
    trailers: u32,
}

#[derive(Debug, Default, Clone, Copy)]
enum At {
    #[default]
    SizeStart,
    Size(u64),
    Extension(u64),
    SizeLineFeed(u64),
    Data(u64),
    DataReturn,
    DataLineFeed,
    TrailerStart,
    Trailer,
    TrailerLineFeed,
    LastLineFeed,
    End,
}

impl Chunked {
    /// Takes what has come. `true`: the body has ended; what follows is not looked at.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<bool, Refusal> {
        for &byte in bytes {
            self.at = self.step(byte)?;
            if matches!(self.at, At::End) {
                return Ok(true);
            }
        }
        Ok(matches!(self.at, At::End))
    }

    fn step(&mut self, byte: u8) -> Result<At, Refusal> {
        const BAD: Refusal = Refusal::BadRequest("the chunked body is malformed");
        self.line += 1;
        if !matches!(self.at, At::Data(_)) && self.line > LINE_LIMIT {
            return Err(BAD);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).map(u64::from);
        Ok(match (self.at, byte) {
            (At::SizeStart, _) => At::Size(digit(byte).ok_or(BAD)?),
            (At::Size(size) | At::Extension(size), b'\r') => {
                self.total = self.total.saturating_add(size);
                if self.total > BODY_LIMIT {
                    return Err(Refusal::BodyTooLarge);
                }
                At::SizeLineFeed(size)
            }
            (At::Size(size), b';') => At::Extension(size),
            // 15 digits fit in 64 bits, whatever they are; longer ones are nobody's chunk.
            (At::Size(size), _) if size < 1 << 56 => At::Size(size * 16 + digit(byte).ok_or(BAD)?),
            (At::Extension(size), _) if byte == b'\t' || (byte >= b' ' && byte != 0x7f) => At::Extension(size),
            (At::SizeLineFeed(size), b'\n') => {
                self.line = 0;
                if size == 0 { At::TrailerStart } else { At::Data(size) }
            }
            (At::Data(1), _) => {
                self.line = 0;
                At::DataReturn
            }
            (At::Data(left), _) => {
                self.line = 0;
                At::Data(left - 1)
            }
            (At::DataReturn, b'\r') => At::DataLineFeed,
            (At::DataLineFeed, b'\n') => {
                self.line = 0;
                At::SizeStart
            }
            (At::TrailerStart, b'\r') => At::LastLineFeed,
            (At::TrailerStart, _) if byte.is_ascii_graphic() && self.trailers < TRAILER_LINES => {
                self.trailers += 1;
                At::Trailer
            }
            (At::Trailer, b'\r') => At::TrailerLineFeed,
            (At::Trailer, _) if byte == b'\t' || (byte >= b' ' && byte != 0x7f) => At::Trailer,
            (At::TrailerLineFeed, b'\n') => {
                self.line = 0;
                At::TrailerStart
            }
            (At::LastLineFeed, b'\n') | (At::End, _) => At::End,
            _ => return Err(BAD),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Result<bool, Refusal> {
        let at_once = Chunked::default().feed(bytes);
        let mut slowly = Chunked::default();
        let mut by_byte = Ok(false);
        for byte in bytes {
            by_byte = slowly.feed(&[*byte]);
            if by_byte != Ok(false) {
                break;
            }
        }
        assert_eq!(at_once, by_byte, "the cut decides over {:?}", String::from_utf8_lossy(bytes));
        at_once
    }

    #[test]
    fn well_formed_bodies_end_where_they_should() {
        assert_eq!(whole(b"0\r\n\r\n"), Ok(true));
        assert_eq!(whole(b"5\r\nhello\r\n0\r\n\r\n"), Ok(true));
        assert_eq!(whole(b"A;name=\"v\"\r\n0123456789\r\n00\r\nTrailer: x\r\n\r\n"), Ok(true));
        assert_eq!(whole(b"5\r\nhello\r\n0\r\n"), Ok(false));
    }

    #[test]
    fn malformed_bodies_are_refused() {
        for bytes in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"0x5\r\nhello",
            b" 5\r\n",
            b"5 \r\n",
            b"5\nhello",
            b"5\r\nhelloX",
            b"5\r\nhello\n",
            b"0\r\n\n",
            b"0\r\nTrailer: x\n",
            b"5;a\nb\r\n",
            b"FFFFFFFFFFFFFFFFF\r\n",
        ] {
            assert!(matches!(whole(bytes), Err(Refusal::BadRequest(_))), "{:?}", String::from_utf8_lossy(bytes));
        }
        let endless = [b"5;".as_slice(), &[b'a'; 2000]].concat();
        assert!(matches!(whole(&endless), Err(Refusal::BadRequest(_))));
    }

    #[test]
    fn the_sum_of_the_chunks_has_a_limit() {
        let mut bytes = b"8000\r\n".to_vec();
        bytes.extend([b'x'; 0x8000]);
        bytes.extend(b"\r\n8000\r\n");
        bytes.extend([b'x'; 0x8000]);
        bytes.extend(b"\r\n");
        assert_eq!(whole(&[&bytes[..], b"0\r\n\r\n"].concat()), Ok(true));
        assert_eq!(whole(&[&bytes[..], b"1\r\n"].concat()), Err(Refusal::BodyTooLarge));
        assert_eq!(whole(b"FFFFFFFFFFFFFF\r\n"), Err(Refusal::BodyTooLarge));
    }
}
