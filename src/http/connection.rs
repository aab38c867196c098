//! One HTTP connection from its first byte to its last, every step with a deadline.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::chunked::Chunked;
use super::gate::Gate;
use super::head::{HEAD_LIMIT, HeadScan, Refusal};
use super::request::{Body, Method, Request};
use super::response::Response;
use super::route::{Context, Cost, cost, route};
use super::slots::Phase;
use crate::status::Status;

const READ_SIZE: usize = 4096;

/// How long each step may take, and how many may be at it.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// From the first byte of a request (for the first request: from the accept) to the end of its body.
    pub request: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// For writing one whole answer: as long as Prometheus waits for a scrape by default.
    pub write: Duration,
    /// After the last answer, for the client to close, so that a reset does not overtake what we said.
    pub linger: Duration,
    /// Dear answers under way at once, of each kind; how many may wait for their turn, and how long.
    pub dear: usize,
    pub dear_waiting: usize,
    pub dear_patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32,
            request: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            write: Duration::from_secs(10),
            linger: Duration::from_secs(1),
            dear: 4,
            dear_waiting: 4,
            dear_patience: Duration::from_secs(5),
        }
    }
}

/// What all connections share.
pub struct Service {
    pub status: Arc<Status>,
    pub public_status: Arc<AtomicBool>,
    pub limits: Limits,
    metrics_gate: Gate,
    report_gate: Gate,
}

impl Service {
    pub fn new(status: Arc<Status>, public_status: Arc<AtomicBool>, limits: Limits) -> Self {
        let gate = || Gate::new(limits.dear, limits.dear_waiting, limits.dear_patience);
        Self { status, public_status, metrics_gate: gate(), report_gate: gate(), limits }
    }

    fn answer(&self, request: &Request, local: IpAddr) -> Response {
        let context = Context {
            status: &self.status,
            local,
            public_status: self.public_status.load(Ordering::Relaxed),
            now: SystemTime::now(),
        };
        route(request, &context)
    }
}

/// Serves one connection until either side has had enough. `local`: our own address on it; `phase` is told what the
/// connection is doing. Dropping the future closes the connection at once.
pub async fn converse<S>(mut stream: S, local: IpAddr, service: &Service, phase: impl Fn(Phase))
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &service.limits;
    let mut buffer = Vec::new();
    let mut first = true;
    loop {
        phase(Phase::Idle);
        if !first
            && buffer.is_empty()
            && !matches!(timeout(limits.idle, fill(&mut stream, &mut buffer)).await, Ok(true))
        {
            return;
        }
        first = false;
        let deadline = Instant::now() + limits.request;
        let request = match timeout_at(deadline, next_request(&mut stream, &mut buffer)).await {
            Ok(Received::Request(request)) => request,
            Ok(Received::Refused(refusal)) => {
                phase(Phase::Served);
                if let Some(response) = Response::refusal(&refusal)
                    && send(&mut stream, &response, true, true, limits).await
                {
                    phase(Phase::Idle);
                    linger(&mut stream, limits).await;
                }
                return;
            }
            Ok(Received::Nothing) | Err(_) => return,
        };
        phase(Phase::Served);
        if !respond(&mut stream, &request, local, service).await {
            return;
        }
        if request.close {
            phase(Phase::Idle);
            return linger(&mut stream, limits).await;
        }
    }
}

/// What came of waiting for a request.
enum Received {
    Request(Request),
    Refused(Refusal),
    /// The client closed, or the connection failed.
    Nothing,
}

/// Takes one request, with its body, off the front of `buffer`, reading on as needed.
async fn next_request<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Received {
    let mut scan = HeadScan::default();
    let end = loop {
        match scan.feed(buffer) {
            Ok(Some(end)) => break end,
            Ok(None) => {}
            Err(refusal) => return Received::Refused(refusal),
        }
        if !fill(stream, buffer).await {
            return Received::Nothing;
        }
    };
    let request = match Request::parse(&buffer[..end]) {
        Ok(request) => request,
        Err(refusal) => return Received::Refused(refusal),
    };
    buffer.drain(..end);
    // A method we do not serve is told so without waiting for what it brings, and a body held back needs no waiting.
    if request.method == Method::Other || request.expects_continue {
        return Received::Request(request);
    }
    match skip_body(stream, buffer, request.body).await {
        Ok(true) => Received::Request(request),
        Ok(false) => Received::Nothing,
        Err(refusal) => Received::Refused(refusal),
    }
}

/// Reads a body and forgets it. `false`: it was cut short.
async fn skip_body<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>, body: Body) -> Result<bool, Refusal> {
    let mut chunked = Chunked::default();
    let mut left = match body {
        Body::None => return Ok(true),
        Body::Length(length) => length,
        Body::Chunked => 0,
    };
    loop {
        let ended = if body == Body::Chunked {
            chunked.feed(buffer)?
        } else {
            left = left.saturating_sub(buffer.len() as u64);
            left == 0
        };
        // What stands behind a body is dropped with it: the connection ends here.
        buffer.clear();
        if ended {
            return Ok(true);
        }
        if !fill(stream, buffer).await {
            return Ok(false);
        }
    }
}

/// Reads some more. `false`: nothing more will come.
async fn fill<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> bool {
    let mut piece = [0; READ_SIZE];
    // The scan refuses at HEAD_LIMIT, so the buffer never needs more than that and one piece.
    debug_assert!(buffer.len() <= HEAD_LIMIT + READ_SIZE);
    match stream.read(&mut piece).await {
        Ok(0) | Err(_) => false,
        Ok(n) => {
            buffer.extend_from_slice(&piece[..n]);
            true
        }
    }
}

/// Answers, with a permit held while a dear answer lies in memory. `false`: the client did not take it.
async fn respond<S: AsyncWrite + Unpin>(stream: &mut S, request: &Request, local: IpAddr, service: &Service) -> bool {
    let gate = match cost(request) {
        Cost::Small => None,
        Cost::Metrics => Some(&service.metrics_gate),
        Cost::Report => Some(&service.report_gate),
    };
    let (response, _permit) = match gate {
        None => (service.answer(request, local), None),
        Some(gate) => match gate.enter().await {
            Some(permit) => (service.answer(request, local), Some(permit)),
            None => {
                (Response::text(503, "too many are reading this at once; try again").with("Retry-After", "5"), None)
            }
        },
    };
    send(stream, &response, request.method != Method::Head, request.close, &service.limits).await
}

async fn send<S: AsyncWrite + Unpin>(
    stream: &mut S,
    response: &Response,
    with_body: bool,
    close: bool,
    limits: &Limits,
) -> bool {
    let mut head = response.head(close, SystemTime::now()).into_bytes();
    let all = async {
        // One segment for a small answer.
        if with_body && response.body.len() <= READ_SIZE {
            head.extend_from_slice(&response.body);
            stream.write_all(&head).await?;
        } else {
            stream.write_all(&head).await?;
            if with_body {
                stream.write_all(&response.body).await?;
            }
        }
        stream.flush().await
    };
    matches!(timeout(limits.write, all).await, Ok(Ok(())))
}

/// Ends in order: says that nothing more comes, then reads until the client has said so too. A reset, which closing
/// with unread bytes would cause, could take our answer from under the client's nose.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, limits: &Limits) {
    let _ = timeout(limits.linger, async {
        stream.shutdown().await?;
        let mut piece = [0; READ_SIZE];
        while stream.read(&mut piece).await? > 0 {}
        Ok::<_, std::io::Error>(())
    })
    .await;
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
