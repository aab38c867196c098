//! An HTTP connection from its first byte to its answers, in slices of any size.

use std::cell::{Cell, OnceCell};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use everlink::metrics::Metrics;
use everlink::status::Status;
use everlink::{config, http};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

const CONFIG: &str = "[upstreams.chat]\nlisten = \"127.0.0.1:7000\"\nendpoints = [\"a.internal:8080\"]\n";

struct World {
    status: Arc<Status>,
    runtime: Runtime,
}

impl World {
    fn new() -> Self {
        let loaded = config::parse("c", CONFIG, &|_| None).unwrap_or_else(|report| panic!("{report}"));
        let status = Status::new(Metrics::new().unwrap_or_else(|error| panic!("{error}")), 1);
        status.add_upstream(&loaded.config.upstreams["chat"]);
        // Time passes only when nothing else can happen: a deadline is reached at once, and never too early.
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        Self { status, runtime: runtime.unwrap_or_else(|error| panic!("{error}")) }
    }
}

thread_local! {
    static WORLD: OnceCell<World> = const { OnceCell::new() };
}

/// The first byte: bits 0 – 2 how the slices grow, bit 3 whether the client ends or falls silent, bit 4 our address, bit 5
/// `public_status`.
pub fn run(input: &[u8]) -> usize {
    let Some((&how, bytes)) = input.split_first() else { return 0 };
    let local = if how & 16 == 0 { IpAddr::from([127, 0, 0, 1]) } else { IpAddr::from([10, 0, 0, 1]) };
    let client = Client { bytes, how, reads: 0, said: Vec::new() };
    let answers = WORLD.with(|world| {
        let World { status, runtime } = world.get_or_init(World::new);
        let said = Cell::new(Vec::new());
        let stream = Lent { client, back: &said };
        runtime.block_on(http::serve_connection(stream, local, status.clone(), how & 32 != 0));
        said.take()
    });
    bytes.len() + check(&answers, bytes.len())
}

/// What the client may do: say its bytes, and listen.
struct Client<'a> {
    bytes: &'a [u8],
    how: u8,
    reads: usize,
    said: Vec<u8>,
}

/// Gives what was said back when the server is through with it.
struct Lent<'a> {
    client: Client<'a>,
    back: &'a Cell<Vec<u8>>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.back.set(std::mem::take(&mut self.client.said));
    }
}

impl AsyncRead for Lent<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let client = &mut self.client;
        if client.bytes.is_empty() && client.how & 8 != 0 {
            return Poll::Pending;
        }
        client.reads += 1;
        let most = match client.how & 7 {
            0 => usize::MAX,
            1 => 1,
            step => client.reads * usize::from(step) % 97 + 1,
        };
        let (now, later) = client.bytes.split_at(client.bytes.len().min(most).min(buffer.remaining()));
        buffer.put_slice(now);
        client.bytes = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lent<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.client.said.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Every answer is whole and one of those that there are. How many bytes had to be made for them: a body that only HEAD
/// asked for has been made, too.
fn check(mut answers: &[u8], asked: usize) -> usize {
    let (mut made, mut count) = (0, 0);
    while !answers.is_empty() {
        let end = answers.windows(4).position(|four| four == b"\r\n\r\n");
        let Some(end) = end else { panic!("half a head: {}", answers.escape_ascii()) };
        let head = str::from_utf8(&answers[..end]).unwrap_or_else(|error| panic!("{error}"));
        answers = &answers[end + 4..];
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|line| line.get(..3));
        let known = ["200", "400", "403", "404", "405", "413", "414", "415", "431", "503"];
        assert!(status.is_some_and(|status| known.contains(&status)), "{head}");
        let lines: Vec<_> = lines.filter_map(|line| line.split_once(": ")).collect();
        assert!(lines.iter().all(|(name, value)| !(name.is_empty() || value.contains(char::is_control))), "{head}");
        let length = lines.iter().find(|(name, _)| *name == "Content-Length").map(|(_, value)| value.parse::<usize>());
        let Some(Ok(length)) = length else { panic!("no length: {head}") };
        // The answer to HEAD has no body; then the next answer, or nothing, stands here.
        if !(answers.is_empty() || answers.starts_with(b"HTTP/1.1 ")) {
            assert!(answers.len() >= length, "{} of {length} bytes: {head}", answers.len());
            answers = &answers[length..];
        }
        let closes = lines.contains(&("Connection", "close"));
        assert!(!closes || answers.is_empty(), "it goes on after {head}");
        made += end + 4 + length;
        count += 1;
    }
    // The shortest request: "GET / HTTP/1.1", a Host, an empty line.
    assert!(count <= asked / 16 + 1, "{count} answers to {asked} bytes");
    made
}
