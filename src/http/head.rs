//! Where the head of a request ends, and whether it is fit to be read at all.
//!
//! The scan looks at each byte once however slowly they come, so a client that sends one byte a packet costs no more
//! than its bytes. It refuses what lenient parsers disagree about, since disagreement is how requests are smuggled.

/// The longest request line without its line end; longer is 414.
pub const LINE_LIMIT: usize = 8 * 1024;
/// The longest head, its empty line included; longer is 431.
pub const HEAD_LIMIT: usize = 16 * 1024;
/// The most header lines; more is 431.
pub const HEADERS_LIMIT: usize = 64;

/// Why a request gets no answer of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 400, with what is wrong.
    BadRequest(&'static str),
    /// 413: a body of more than 64 KiB.
    BodyTooLarge,
    /// 414.
    LineTooLong,
    /// 415: a coding of the body that we do not know.
    UnknownCoding,
    /// 431: more than 16 KiB or 64 headers.
    HeadTooLarge,
    /// Not HTTP (a TLS hello): closed without a word, which the peer could not read anyway.
    NotHttp,
}

/// How far the scan of one head has come.
#[derive(Debug, Default)]
pub struct HeadScan {
    at: usize,
    line_start: usize,
    lines: usize,
}

impl HeadScan {
    /// Goes on where the last call stopped; `buffer` begins with the request and has only grown since.
    /// `Some(n)`: the head is the first `n` bytes.
    pub fn feed(&mut self, buffer: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(&byte) = buffer.get(self.at) {
            let after_return = self.at > self.line_start && buffer[self.at - 1] == b'\r';
            match byte {
                // 22 is the record type of a TLS handshake.
                0x16 if self.at == 0 => return Err(Refusal::NotHttp),
                b'\n' if !after_return => return Err(Refusal::BadRequest("a line ends in a bare line feed")),
                b'\n' => {
                    let line = &buffer[self.line_start..self.at - 1];
                    if self.lines == 0 {
                        check_version(line)?;
                    } else if line.is_empty() {
                        return Ok(Some(self.at + 1));
                    } else if self.lines > HEADERS_LIMIT {
                        return Err(Refusal::HeadTooLarge);
                    }
                    self.lines += 1;
                    self.line_start = self.at + 1;
                }
                _ if after_return => return Err(Refusal::BadRequest("a carriage return without its line feed")),
                b'\r' => {}
                _ if self.lines == 0 && self.at >= LINE_LIMIT => return Err(Refusal::LineTooLong),
                _ => {}
            }
            self.at += 1;
            if self.at >= HEAD_LIMIT {
                return Err(Refusal::HeadTooLarge);
            }
        }
        Ok(None)
    }
}

/// Told as soon as the line is there: a client of HTTP/0.9 sends nothing more and waits.
fn check_version(line: &[u8]) -> Result<(), Refusal> {
    if line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0") {
        return Ok(());
    }
    Err(Refusal::BadRequest("the request line does not end in HTTP/1.1 or HTTP/1.0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        HeadScan::default().feed(bytes)
    }

    #[test]
    fn the_head_ends_at_the_empty_line_however_it_is_cut() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next";
        let end = bytes.len() - b"GET /next".len();
        for cut in 0..bytes.len() {
            let mut scan = HeadScan::default();
            let first = scan.feed(&bytes[..cut]).unwrap();
            assert_eq!(first, (cut >= end).then_some(end), "cut at {cut}");
            if first.is_none() {
                assert_eq!(scan.feed(bytes), Ok(Some(end)), "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_bare_line_feed_is_refused_wherever_it_stands() {
        for bytes in [
            &b"\n"[..],
            b"GET / HTTP/1.1\n",
            b"GET / HTTP/1.1\r\nHost: a\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\n",
            b"GET / HTTP/1.1\r\n\n",
        ] {
            assert!(matches!(scan(bytes), Err(Refusal::BadRequest(_))), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_carriage_return_alone_is_refused() {
        assert!(matches!(scan(b"GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n"), Err(Refusal::BadRequest(_))));
        assert!(matches!(scan(b"GET / HTTP/1.1\r\r\n"), Err(Refusal::BadRequest(_))));
    }

    #[test]
    fn a_line_of_8_kib_passes_and_one_byte_more_does_not() {
        let line = |n: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(n - "GET / HTTP/1.1".len()));
        assert_eq!(scan(line(LINE_LIMIT).as_bytes()), Ok(None));
        assert_eq!(scan(line(LINE_LIMIT + 1).as_bytes()), Err(Refusal::LineTooLong));
        assert_eq!(scan(&vec![b'a'; LINE_LIMIT + 1]), Err(Refusal::LineTooLong));
    }

    #[test]
    fn sixty_four_headers_pass_and_one_more_does_not() {
        let head = |n: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(n));
        assert_eq!(scan(head(64).as_bytes()), Ok(Some(head(64).len())));
        assert_eq!(scan(head(65).as_bytes()), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn a_head_past_16_kib_is_refused_before_it_ends() {
        let mut bytes = b"GET / HTTP/1.1\r\nHost: ".to_vec();
        bytes.resize(HEAD_LIMIT, b'a');
        assert_eq!(scan(&bytes), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn a_tls_hello_is_known_by_its_first_byte() {
        assert_eq!(scan(&[0x16, 3, 1, 0, 200]), Err(Refusal::NotHttp));
    }

    #[test]
    fn other_versions_are_refused_at_their_first_line() {
        for line in ["GET /\r\n", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.2\r\n", "GET / http/1.1\r\n", "\r\n"] {
            assert!(matches!(scan(line.as_bytes()), Err(Refusal::BadRequest(_))), "{line:?}");
        }
    }
}
