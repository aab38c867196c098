//! One GET over HTTP/1.1, enough to ask an everlink and no more.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// For all of it: name, connection, request, answer.
pub const WITHIN: Duration = Duration::from_secs(2);
/// The status of a thousand upstreams has about 10 MiB.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;
const HEADERS_LIMIT: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum GetError {
    #[error("\"{url}\" is not a URL that can be asked: {why}; write http://HOST:PORT")]
    Url { url: String, why: &'static str },
    #[error("{host} cannot be resolved: {cause}")]
    Resolve { host: String, cause: io::Error },
    #[error("{host} does not answer: {cause}; is everlink running, and is this its http.listen?")]
    Io { host: String, cause: io::Error },
    #[error("{host} did not answer within 2 s")]
    Late { host: String },
    #[error("{host} answers, but not as everlink does: {why}")]
    Answer { host: String, why: &'static str },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body's first line, safe to print.
    pub fn first_line(&self) -> String {
        let line = self.body.split(|&b| b == b'\n').next().unwrap_or_default();
        crate::log::escape(line.trim_ascii_end())
    }
}

/// Asks for `path` below `url`. Blocks for at most [`WITHIN`].
pub fn get(url: &str, path: &str) -> Result<Answer, GetError> {
    let target = Target::parse(url)?;
    let deadline = Instant::now() + WITHIN;
    let host = target.authority.clone();
    let failed = |cause: io::Error| match cause.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => GetError::Late { host: host.clone() },
        _ => GetError::Io { host: host.clone(), cause },
    };
    let mut stream = connect(&target, deadline, &failed)?;
    let request = format!(
        "GET {}{path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: everlink/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        target.base,
        target.authority,
        env!("CARGO_PKG_VERSION")
    );
    stream.set_write_timeout(Some(left(deadline))).map_err(&failed)?;
    stream.write_all(request.as_bytes()).map_err(&failed)?;
    let bytes = read_all(&mut stream, deadline).map_err(&failed)?;
    answer(&bytes).map_err(|why| GetError::Answer { host: host.clone(), why })
}

/// A URL taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// `HOST:PORT` as written, for the Host header and for messages.
    authority: String,
    host: String,
    port: u16,
    /// What stands before our paths, without a slash at its end.
    base: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, GetError> {
        let bad = |why| GetError::Url { url: crate::log::escape(url), why };
        if !url.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("it holds characters that belong in no URL"));
        }
        let rest = match url.split_once("://") {
            None => url,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(bad("only http is spoken")),
        };
        let (authority, base) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if base.contains(['?', '#']) || authority.contains(['?', '#', '@']) {
            return Err(bad("it has more than a host, a port and a path"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(|| bad("its bracket is not closed"))?,
            None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => 80,
            Some(digits) => digits.parse().map_err(|_| bad("its port is no port"))?,
            None => return Err(bad("its port is no port")),
        };
        if host.is_empty() {
            return Err(bad("its host is missing"));
        }
        Ok(Self {
            authority: authority.to_owned(),
            host: host.to_owned(),
            port,
            base: base.trim_end_matches('/').to_owned(),
        })
    }
}

fn left(deadline: Instant) -> Duration {
    // Zero would mean "no timeout" to the socket.
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

fn connect(target: &Target, deadline: Instant, failed: &impl Fn(io::Error) -> GetError) -> Result<TcpStream, GetError> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in resolve(target, deadline)? {
        match TcpStream::connect_timeout(&address, left(deadline)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// The resolver of the system knows no deadline, so a thread asks it and may be left behind.
fn resolve(target: &Target, deadline: Instant) -> Result<Vec<SocketAddr>, GetError> {
    let (tell, told) = mpsc::channel();
    let asked = (target.host.clone(), target.port);
    let ask = move || drop(tell.send(asked.to_socket_addrs().map(Iterator::collect)));
    let failed = |cause| GetError::Resolve { host: target.host.clone(), cause };
    std::thread::Builder::new().name("resolve".to_owned()).spawn(ask).map_err(failed)?;
    match told.recv_timeout(left(deadline)) {
        Ok(addresses) => addresses.map_err(failed),
        Err(_) => Err(GetError::Late { host: target.authority.clone() }),
    }
}

fn read_all(stream: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left(deadline)))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(n) if bytes.len() + n <= ANSWER_LIMIT => bytes.extend_from_slice(&piece[..n]),
            Ok(_) => return Err(io::Error::new(ErrorKind::FileTooLarge, "the answer has more than 64 MiB")),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads a whole answer, the connection having been closed behind it.
fn answer(bytes: &[u8]) -> Result<Answer, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_LIMIT];
    let mut head = httparse::Response::new(&mut headers);
    let end = match head.parse(bytes) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Err("the answer is cut short"),
        Err(_) => return Err("this is not HTTP"),
    };
    let status = head.code.ok_or("the answer has no status")?;
    let header = |name: &str| head.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value);
    let rest = &bytes[end..];
    let body = if header("transfer-encoding").is_some() {
        // everlink never does this, but a proxy before it may.
        unchunked(rest).ok_or("its chunks are malformed")?
    } else if let Some(length) = header("content-length") {
        let length = std::str::from_utf8(length).ok().and_then(|text| text.trim().parse::<usize>().ok());
        rest.get(..length.ok_or("its Content-Length is no number")?).ok_or("the answer is cut short")?.to_vec()
    } else {
        rest.to_vec()
    };
    Ok(Answer { status, body })
}

fn unchunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(&bytes[..end]).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn target(url: &str) -> (String, u16, String) {
        let target = Target::parse(url).unwrap();
        (target.host, target.port, target.base)
    }

    #[test]
    fn urls_are_taken_apart() {
        assert_eq!(target("http://127.0.0.1:9900"), ("127.0.0.1".into(), 9900, String::new()));
        assert_eq!(target("http://[::1]:9900/"), ("::1".into(), 9900, String::new()));
        assert_eq!(target("HTTP://pod.internal/everlink/"), ("pod.internal".into(), 80, "/everlink".into()));
        assert_eq!(target("localhost:9900"), ("localhost".into(), 9900, String::new()));
    }

    #[test]
    fn urls_that_cannot_be_asked_say_why() {
        for (url, why) in [
            ("https://a:1", "only http"),
            ("http://", "host is missing"),
            ("http://a:b", "no port"),
            ("http://a:70000", "no port"),
            ("http://[::1", "bracket"),
            ("http://u@a:1", "more than a host"),
            ("http://a:1/?x", "more than a host"),
            ("http://a b", "no URL"),
        ] {
            let text = Target::parse(url).unwrap_err().to_string();
            assert!(text.contains(why) && text.ends_with("write http://HOST:PORT"), "{text}");
        }
    }

    #[test]
    fn answers_are_read_by_length_by_chunks_and_to_the_end() {
        let body = |text: &str| answer(text.as_bytes()).map(|a| (a.status, String::from_utf8(a.body).unwrap()));
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokX"), Ok((200, "ok".into())));
        assert_eq!(body("HTTP/1.0 503 No\r\n\r\nno\n"), Ok((503, "no\n".into())));
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1;a=b\r\n!\r\n0\r\n\r\n";
        assert_eq!(body(chunks), Ok((200, "ok!".into())));
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok"), Err("the answer is cut short"));
        assert_eq!(
            body("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"),
            Err("its chunks are malformed")
        );
        assert_eq!(body("SSH-2.0-x\r\n"), Err("this is not HTTP"));
        assert_eq!(body(""), Err("the answer is cut short"));
    }

    #[test]
    fn a_server_that_drips_is_given_up_after_2_s() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(b"H").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let start = Instant::now();
        let error = get(&url, "/livez").unwrap_err();
        assert!(matches!(error, GetError::Late { .. }), "{error}");
        assert!(start.elapsed() >= WITHIN && start.elapsed() < WITHIN * 2, "{:?}", start.elapsed());
    }

    #[test]
    fn nobody_there_is_told_with_what_to_look_at() {
        let url = format!("http://{}", crate::port::nobody());
        let text = get(&url, "/livez").unwrap_err().to_string();
        assert!(text.contains("refused") && text.contains("is everlink running"), "{text}");
    }
}
