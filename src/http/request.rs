//! One request: what its head says, checked.

use super::head::{HEADERS_LIMIT, Refusal};

/// The largest body that is read and thrown away; more is 413.
pub const BODY_LIMIT: u64 = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    /// Answered with 405 wherever it goes.
    Other,
}

/// What follows the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    None,
    /// So many bytes, at least one and at most [`BODY_LIMIT`].
    Length(u64),
    Chunked,
}

/// A request worth an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// As sent, nothing decoded: no path of ours has anything to decode.
    pub path: String,
    pub query: String,
    /// All `Accept` lines, joined by commas.
    pub accept: String,
    /// Empty only where HTTP/1.0 left it out.
    pub host: String,
    pub body: Body,
    /// The client sends its body only when told to.
    pub expects_continue: bool,
    /// The connection ends with the answer.
    pub close: bool,
}

impl Request {
    /// Reads a whole head, as the scan of heads found it.
    pub fn parse(head: &[u8]) -> Result<Self, Refusal> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_LIMIT];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(Refusal::BadRequest("the head is cut short")),
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
            Err(_) => return Err(Refusal::BadRequest("the head is malformed")),
        }
        let old = parsed.version == Some(0);
        let target = parsed.path.unwrap_or_default();
        let method = match parsed.method.unwrap_or_default() {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "CONNECT" => return Err(Refusal::BadRequest("this is no proxy: CONNECT is not served")),
            _ => Method::Other,
        };
        check_target(method, target)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = &*parsed.headers;

        let host = match all(headers, "host").as_slice() {
            [] if old => String::new(),
            [] => return Err(Refusal::BadRequest("the Host header is missing")),
            [host] => checked_host(host)?,
            _ => return Err(Refusal::BadRequest("there is more than one Host header")),
        };
        let body = body(headers, old)?;
        if method != Method::Other {
            let coded = all(headers, "content-encoding").iter().any(|v| !v.eq_ignore_ascii_case(b"identity"));
            if coded {
                return Err(Refusal::UnknownCoding);
            }
            if matches!(body, Body::Length(n) if n > BODY_LIMIT) {
                return Err(Refusal::BodyTooLarge);
            }
        }
        let accept: Vec<_> = all(headers, "accept").iter().map(|v| String::from_utf8_lossy(v).into_owned()).collect();
        let wants_close = all(headers, "connection")
            .iter()
            .flat_map(|v| v.split(|&b| b == b','))
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
        Ok(Self {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            accept: accept.join(","),
            host,
            body,
            expects_continue: !all(headers, "expect").is_empty(),
            // What a body leaves behind never becomes the next request.
            close: old || wants_close || body != Body::None,
        })
    }

    /// Whether the query holds `key`, with or without a value.
    pub fn asks(&self, key: &str) -> bool {
        self.query.split('&').any(|part| part.split('=').next() == Some(key))
    }

    /// The first value of `key` in the query, as it stands there.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.query.split('&').find_map(|part| part.split_once('=').filter(|(k, _)| *k == key)).map(|(_, value)| value)
    }
}

fn all<'h>(headers: &[httparse::Header<'h>], name: &str) -> Vec<&'h [u8]> {
    headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value.trim_ascii()).collect()
}

fn check_target(method: Method, target: &str) -> Result<(), Refusal> {
    if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(Refusal::BadRequest("the target holds bytes that belong in no target"));
    }
    // OPTIONS * is well formed, and gets its 405.
    if target.starts_with('/') || (target == "*" && method == Method::Other) {
        return Ok(());
    }
    Err(Refusal::BadRequest("the target is not a path"))
}

fn checked_host(host: &[u8]) -> Result<String, Refusal> {
    let fit = |b: &u8| b.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(b);
    if host.iter().all(fit) {
        return Ok(String::from_utf8_lossy(host).into_owned());
    }
    Err(Refusal::BadRequest("the Host header is not a host"))
}

fn body(headers: &[httparse::Header<'_>], old: bool) -> Result<Body, Refusal> {
    let lengths = all(headers, "content-length");
    let codings = all(headers, "transfer-encoding");
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Body::None),
        ([_, ..], [_, ..]) => Err(Refusal::BadRequest("Content-Length and Transfer-Encoding exclude each other")),
        ([length], []) => match content_length(length) {
            Some(0) => Ok(Body::None),
            Some(n) => Ok(Body::Length(n)),
            None => Err(Refusal::BadRequest("Content-Length is not a number")),
        },
        (_, []) => Err(Refusal::BadRequest("there is more than one Content-Length")),
        ([], _) if old => Err(Refusal::BadRequest("HTTP/1.0 has no Transfer-Encoding")),
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Body::Chunked),
        ([], codings) => {
            let mut names: Vec<_> =
                codings.iter().flat_map(|v| v.split(|&b| b == b',')).map(<[u8]>::trim_ascii).collect();
            let last = names.pop().unwrap_or_default();
            let chunked = |name: &[u8]| name.eq_ignore_ascii_case(b"chunked");
            if names.iter().any(|name| chunked(name)) || last.is_empty() {
                return Err(Refusal::BadRequest("chunked is not the last transfer coding, or stands twice"));
            }
            Err(Refusal::UnknownCoding)
        }
    }
}

/// Digits only: `+5`, `5, 5` and `0x5` mean different things to different readers. Past `u64` it is merely too large.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let grown = |n: u64, digit: &u8| n.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(value.iter().fold(0, grown))
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy;

    use super::super::head::HeadScan;
    use super::*;

    fn parse(lines: &str) -> Result<Request, Refusal> {
        Request::parse(format!("{lines}\r\n\r\n").replace("\r\n", "\n").replace('\n', "\r\n").as_bytes())
    }

    fn bad(lines: &str) {
        let got = parse(lines);
        assert!(matches!(got, Err(Refusal::BadRequest(_))), "{lines:?} gave {got:?}");
    }

    #[test]
    fn an_ordinary_request_is_read_whole() {
        let request =
            parse("GET /readyz?verbose HTTP/1.1\nHost: localhost:9900\nAccept: a/b\naccept: c/d;q=0.1").unwrap();
        assert_eq!(request.method, Method::Get);
        assert_eq!(request.path, "/readyz");
        assert!(request.asks("verbose") && !request.asks("verb"));
        assert_eq!(request.accept, "a/b,c/d;q=0.1");
        assert_eq!(request.host, "localhost:9900");
        assert!(!request.close);
    }

    #[test]
    fn a_query_is_taken_apart_and_never_decoded() {
        let request = parse("GET /status?brief&whole=a,b&whole=c&d=%41= HTTP/1.1\nHost: a").unwrap();
        assert!(request.asks("brief") && request.asks("whole"));
        assert_eq!((request.value("whole"), request.value("d")), (Some("a,b"), Some("%41=")));
        assert_eq!((request.value("brief"), request.value("who")), (None, None));
    }

    #[test]
    fn connections_end_when_asked_and_with_http_1_0() {
        assert!(parse("GET / HTTP/1.1\nHost: a\nConnection: x, Close").unwrap().close);
        assert!(parse("GET / HTTP/1.0\nConnection: keep-alive").unwrap().close);
    }

    #[test]
    fn the_host_must_be_there_once_and_be_one() {
        bad("GET / HTTP/1.1");
        bad("GET / HTTP/1.1\nHost: a\nHost: a");
        bad("GET / HTTP/1.1\nHost: a/b");
        bad("GET / HTTP/1.1\nHost: a b");
        assert!(parse("GET / HTTP/1.1\nHost: [::1]:9900").is_ok());
    }

    #[test]
    fn targets_that_are_no_paths_are_bad() {
        bad("GET http://a/ HTTP/1.1\nHost: a");
        bad("CONNECT a:1 HTTP/1.1\nHost: a");
        bad("GET * HTTP/1.1\nHost: a");
        bad("GET /#x HTTP/1.1\nHost: a");
        bad("GET /\u{e9} HTTP/1.1\nHost: a");
        bad("GET  / HTTP/1.1\nHost: a");
        assert_eq!(parse("OPTIONS * HTTP/1.1\nHost: a").unwrap().method, Method::Other);
    }

    #[test]
    fn malformed_headers_are_bad() {
        bad("GET / HTTP/1.1\nHost : a");
        bad("GET / HTTP/1.1\nHost: a\n folded: b");
        bad("GET / HTTP/1.1\nHost: a\nX: a\0b");
        bad("GET / HTTP/1.1\nHost: a\n: b");
    }

    #[test]
    fn two_ways_to_frame_a_body_are_one_too_many() {
        bad("GET / HTTP/1.1\nHost: a\nContent-Length: 5\nTransfer-Encoding: chunked");
        bad("GET / HTTP/1.1\nHost: a\nContent-Length: 5\nContent-Length: 5");
        bad("GET / HTTP/1.1\nHost: a\nContent-Length: 5, 5");
        bad("GET / HTTP/1.1\nHost: a\nContent-Length: +5");
        bad("GET / HTTP/1.1\nHost: a\nContent-Length:");
        bad("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked, gzip");
        bad("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked");
        bad("GET / HTTP/1.0\nHost: a\nTransfer-Encoding: chunked");
    }

    #[test]
    fn bodies_are_measured_and_end_the_connection() {
        let with = |header: &str| parse(&format!("GET / HTTP/1.1\nHost: a\n{header}"));
        assert_eq!(with("Content-Length: 0").unwrap().body, Body::None);
        let small = with("Content-Length: 65536").unwrap();
        assert_eq!((small.body, small.close), (Body::Length(65536), true));
        assert_eq!(with("Content-Length: 65537"), Err(Refusal::BodyTooLarge));
        assert_eq!(with("Content-Length: 99999999999999999999999999"), Err(Refusal::BodyTooLarge));
        assert_eq!(with("Transfer-Encoding: Chunked").unwrap().body, Body::Chunked);
        assert_eq!(with("Transfer-Encoding: gzip, chunked"), Err(Refusal::UnknownCoding));
        assert_eq!(with("Transfer-Encoding: rot13"), Err(Refusal::UnknownCoding));
        assert_eq!(with("Content-Encoding: br"), Err(Refusal::UnknownCoding));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_and_no_cut_changes_the_verdict(
            pieces in proptest::collection::vec(
                proptest::prop_oneof![
                    proptest::sample::select(vec![
                        "GET ", "HEAD ", "/", "/metrics", "?", " HTTP/1.1", " HTTP/1.0", "\r\n", "\r\n\r\n", "\n", "\r", "Host: a",
                        "Content-Length: ", "5", "Transfer-Encoding: chunked", "Accept: */*;q=", "Connection: close", ":", ",", "\0",
                    ]).prop_map(|s: &str| s.as_bytes().to_vec()),
                    proptest::collection::vec(proptest::num::u8::ANY, 0..4),
                ],
                0..24,
            ),
            cut in 0usize..200,
        ) {
            let bytes = pieces.concat();
            let whole = HeadScan::default().feed(&bytes);
            let mut scan = HeadScan::default();
            let first = scan.feed(&bytes[..cut.min(bytes.len())]);
            let parted = if first == Ok(None) { scan.feed(&bytes) } else { first };
            proptest::prop_assert_eq!(&whole, &parted);
            if let Ok(Some(end)) = whole {
                let _ = Request::parse(&bytes[..end]);
            }
        }
    }
}
