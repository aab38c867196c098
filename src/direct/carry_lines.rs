//! One client and one connection with beats between their lines: [`LineMode`] joined to two sockets.
//!
//! Bytes pass through memory here, for each has to be looked at; the protocols this is for speak in lines, not in bulk.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::carry::upstream_gone;
use super::in_use::{Order, Registered};
use super::line::{Event, LineMode};
use crate::clock::sleep_until_or_never;
use crate::config::{self, Beat, InUse, Upstream};
use crate::metrics::{CloseReason, Direction, UpstreamMetrics};
use crate::net::rehearsal::OnItsWay;
use crate::net::transport::Transport;

/// A side is read only while less than this waits for the other.
const AHEAD: usize = 64 * 1024;

struct Lines {
    registered: Registered,
    client: Transport,
    upstream: Transport,
    mode: LineMode,
    to_upstream: Outgoing,
    to_client: Outgoing,
    client_ended: bool,
    upstream_ended: bool,
    /// The upstream's side is to go through a drill.
    rehearsal: Option<OnItsWay>,
}

/// Bytes on their way to one side.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    /// A TLS sink has taken bytes that its socket has not.
    unflushed: bool,
    shut: bool,
}

/// Carries until the end and closes both sockets: in order, or both with a reset. Follows edits of the heartbeat.
/// `banner`: what the server said before the client came.
pub async fn carry(
    registered: Registered,
    (client, upstream): (Transport, Transport),
    banner: Vec<u8>,
    mode: LineMode,
    mut settings: watch::Receiver<Arc<Upstream>>,
    metrics: &UpstreamMetrics,
) -> CloseReason {
    let mut lines = Lines {
        registered,
        client,
        upstream,
        mode,
        to_upstream: Outgoing::default(),
        to_client: Outgoing::default(),
        client_ended: false,
        upstream_ended: false,
        rehearsal: None,
    };
    lines.mode.from_server(Instant::now(), &banner, &mut lines.to_client.bytes);
    let reason = loop {
        if let Some(rehearsal) = lines.rehearsal.take() {
            lines.upstream = lines.upstream.rehearsed(rehearsal.rehearsal());
        }
        let deadline = lines.mode.next_deadline();
        tokio::select! {
            biased; // what has arrived is read before anyone is judged
            done = std::future::poll_fn(|cx| lines.poll(cx, deadline, metrics)) => if let Some(reason) = done {
                break reason;
            },
            changed = settings.changed() => {
                if changed.is_err() {
                    break CloseReason::Drained;
                }
                lines.retune(&settings.borrow_and_update().heartbeat);
            }
            () = sleep_until_or_never(deadline) => if lines.tick(metrics) {
                break CloseReason::Dead;
            },
        }
    };
    lines.registered.close(reason, [&lines.client, &lines.upstream]);
    reason
}

impl Lines {
    /// An edit: new numbers at once, new words when no answer is owed; `in_use = "off"` ends the beats.
    fn retune(&mut self, heartbeat: &config::Heartbeat) {
        self.mode.retime(heartbeat.into());
        match &heartbeat.beat {
            Beat::Exchange { send, expect } if heartbeat.in_use == InUse::Line => {
                // Words that do not fit were refused with the file.
                let _ = self.mode.reword(send.clone(), expect.clone());
            }
            _ => self.mode.stop(),
        }
    }

    /// True when the far end is dead.
    fn tick(&mut self, metrics: &UpstreamMetrics) -> bool {
        loop {
            match self.mode.tick(Instant::now(), &mut self.to_upstream.bytes, &mut self.to_client.bytes) {
                Event::None => return false,
                Event::Beat => metrics.beats_sent.inc(),
                Event::Missed { .. } => metrics.beat_missed(),
                Event::Dead { .. } => {
                    metrics.beat_missed();
                    return true;
                }
            }
        }
    }

    /// Moves what can be moved. Ready at the end, or with `None` when the next deadline is no longer `deadline`.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
        metrics: &UpstreamMetrics,
    ) -> Poll<Option<CloseReason>> {
        self.registered.carried.woken_by(cx.waker());
        match self.registered.carried.order() {
            Order::Dead => return Poll::Ready(Some(CloseReason::Dead)),
            Order::Vanished => return Poll::Ready(Some(CloseReason::ClientReset)),
            Order::Idle => return Poll::Ready(Some(CloseReason::Idle)),
            Order::Drained => return Poll::Ready(Some(CloseReason::Drained)),
            Order::Reset => return Poll::Ready(Some(CloseReason::UpstreamReset)),
            Order::Rehearse => {
                self.rehearsal = self.registered.carried.take_rehearsal();
                return Poll::Ready(None);
            }
            Order::None | Order::EmptyPipe => {}
        }
        self.upstream.drive(cx);
        loop {
            let (up, down) = (self.poll_up(cx, metrics), self.poll_down(cx, metrics));
            if let Poll::Ready(Err(_)) = up {
                return Poll::Ready(Some(CloseReason::ClientReset));
            }
            if let Poll::Ready(Err(error)) = down {
                return Poll::Ready(Some(upstream_gone(&error)));
            }
            if self.to_upstream.poll_write(cx, &mut self.upstream, self.client_ended).is_err() {
                return Poll::Ready(Some(CloseReason::UpstreamReset));
            }
            if self.to_client.poll_write(cx, &mut self.client, self.upstream_ended).is_err() {
                return Poll::Ready(Some(CloseReason::ClientReset));
            }
            if self.to_upstream.shut && self.to_client.shut {
                return Poll::Ready(Some(CloseReason::Finished));
            }
            if up.is_pending() && down.is_pending() {
                let stands = self.mode.next_deadline() == deadline;
                return if stands { Poll::Pending } else { Poll::Ready(None) };
            }
        }
    }

    /// Reads the client once.
    fn poll_up(&mut self, cx: &mut Context<'_>, metrics: &UpstreamMetrics) -> Poll<io::Result<()>> {
        if self.client_ended || self.to_upstream.is_full() {
            return Poll::Pending;
        }
        let mut buffer = [0; 8192];
        let mut buffer = ReadBuf::new(&mut buffer);
        let now = match Pin::new(&mut self.client).poll_read(cx, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => Instant::now(),
        };
        if buffer.filled().is_empty() {
            self.client_ended = true;
            self.mode.client_ended();
        } else {
            self.mode.from_client(now, buffer.filled(), &mut self.to_upstream.bytes);
            metrics.moved(Direction::Sent, buffer.filled().len() as u64);
            self.registered.moved(true, false);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads the server once.
    fn poll_down(&mut self, cx: &mut Context<'_>, metrics: &UpstreamMetrics) -> Poll<io::Result<()>> {
        if self.upstream_ended || self.to_client.is_full() {
            return Poll::Pending;
        }
        let mut buffer = [0; 8192];
        let mut buffer = ReadBuf::new(&mut buffer);
        let now = match Pin::new(&mut self.upstream).poll_read(cx, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => Instant::now(),
        };
        if buffer.filled().is_empty() {
            self.upstream_ended = true;
            self.mode.server_ended(&mut self.to_client.bytes);
        } else {
            let before = self.to_client.bytes.len();
            if let Some(trip) = self.mode.from_server(now, buffer.filled(), &mut self.to_client.bytes) {
                metrics.beat_answered(trip);
            }
            let passed = self.to_client.bytes.len().saturating_sub(before);
            metrics.moved(Direction::Received, passed as u64);
            self.registered.moved(false, true);
        }
        Poll::Ready(Ok(()))
    }
}

impl Outgoing {
    fn is_full(&self) -> bool {
        self.bytes.len() - self.written >= AHEAD
    }

    /// Writes what the sink takes; then, if the source has ended, passes the end on. Pending is `Ok`: the waker is set.
    fn poll_write(&mut self, cx: &mut Context<'_>, sink: &mut Transport, source_ended: bool) -> io::Result<()> {
        while self.written < self.bytes.len() {
            match Pin::new(&mut *sink).poll_write(cx, &self.bytes[self.written..]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(count)) => self.written += count,
            }
        }
        if self.written > 0 {
            self.bytes = Vec::new();
            self.written = 0;
            self.unflushed = !sink.is_plain();
        }
        if self.unflushed {
            match Pin::new(&mut *sink).poll_flush(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(flushed) => flushed?,
            }
            self.unflushed = false;
        }
        if source_ended && !self.shut {
            match Pin::new(sink).poll_shutdown(cx) {
                Poll::Ready(Err(error)) if error.kind() != io::ErrorKind::NotConnected => return Err(error),
                Poll::Ready(_) => self.shut = true,
                Poll::Pending => {}
            }
        }
        Ok(())
    }
}
