//! The one way to change a running everlink from outside: a unix socket for its own user and root.
//!
//! A client sends one line of JSON, gets one line of JSON, and is done. Loopback is no proof of who asks; a unix
//! socket's peer is told by the kernel.

#![forbid(unsafe_code)]

mod bind;
pub mod protocol;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::link::drill;
pub use bind::{AdminListener, BindError, Trace};
use protocol::{Answer, REQUEST_LIMIT, Request};

/// Connections at once; one more is told so and closed.
const CONNECTIONS: usize = 8;
/// For a request to come, and for its answer to go.
const LINE_WITHIN: Duration = Duration::from_secs(5);
/// For what was asked. A reload resolves nothing and dials nothing, so this is ample. What is cut off here is not
/// undone: it may still complete, and the answer says so.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// An answer that is still being found.
pub type Pending<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// What a running everlink does when told to.
pub trait Commands: Send + Sync {
    /// Reads the configuration again and applies what differs. [`Answer::reloaded`], or [`Answer::refused`] while
    /// draining. Must go on to its end though the future is dropped at the deadline.
    fn reload(&self) -> Pending<'_>;

    /// Cuts every running wait of this upstream's links short, failed links included. [`Answer::retried`], or
    /// [`Answer::refused`] if there is no such upstream.
    fn retry<'a>(&'a self, upstream: &'a str) -> Pending<'a>;

    /// Begins or ends a rehearsed outage on one link of this upstream. [`Answer::drilling`], [`Answer::stopped`], or
    /// [`Answer::refused`].
    fn drill<'a>(&'a self, upstream: &'a str, asked: drill::Asked) -> Pending<'a>;
}

/// Serves until `end`. Connections under way then are dropped. The socket's file goes with the listener.
pub async fn serve(listener: AdminListener, commands: Arc<dyn Commands>, end: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = end.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (commands, end, owner) = (commands.clone(), end.clone(), listener.owner());
        let place = places.clone().try_acquire_owned();
        let peer = stream.peer_cred().map(|peer| peer.uid());
        tokio::spawn(async move {
            serve_one(stream, peer, owner, place.is_ok(), &*commands, &end).await;
            drop(place);
        });
    }
}

/// `peer`: the uid of who asks, as the kernel tells it. Who has asked is answered even after `end`: what was asked may be
/// what ends this socket.
async fn serve_one(
    mut stream: UnixStream,
    peer: io::Result<u32>,
    owner: u32,
    has_place: bool,
    commands: &dyn Commands,
    end: &CancellationToken,
) {
    let answer = match peer {
        Ok(uid) if !may_command(uid, owner) => {
            tracing::warn!(uid, "a stranger asked on the admin socket and was refused");
            Answer::refused(format!("uid {uid} may not command this process; be uid {owner} or root"))
        }
        Err(error) => {
            tracing::warn!(%error, "nobody knows who asked on the admin socket");
            Answer::refused("the kernel does not tell who is asking".to_owned())
        }
        Ok(_) if !has_place => Answer::refused(format!("{CONNECTIONS} admin connections are open; try again")),
        Ok(_) => match timeout(LINE_WITHIN, asked(&mut stream, end)).await {
            Ok(Ok(Some(line))) => answer(&line, commands).await,
            Ok(Ok(None)) => Answer::refused(format!("a request is one line of at most {REQUEST_LIMIT} bytes")),
            Ok(Err(_)) => return,
            Err(_) => Answer::refused(format!("no request within {} s", LINE_WITHIN.as_secs())),
        },
    };
    // Whoever does not take the answer has done without it.
    let _ = timeout(LINE_WITHIN, async {
        stream.write_all(answer.line().as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
}

/// The request. Errors: the client closed before the line ended, or nobody answers here any more.
async fn asked(stream: &mut UnixStream, end: &CancellationToken) -> io::Result<Option<Vec<u8>>> {
    tokio::select! {
        biased;
        line = request_line(stream) => line,
        () = end.cancelled() => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// Root, or the user this process runs as.
fn may_command(uid: u32, owner: u32) -> bool {
    uid == 0 || uid == owner
}

/// One line without its end; `None` if it is too long.
/// Errors: the client closed before the line ended.
async fn request_line(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut piece = [0; 512];
    loop {
        let n = stream.read(&mut piece).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&piece[..n]);
        let end = line.iter().position(|&byte| byte == b'\n');
        match end {
            Some(end) if end < REQUEST_LIMIT => {
                line.truncate(end);
                return Ok(Some(line));
            }
            None if line.len() < REQUEST_LIMIT => {}
            _ => return Ok(None),
        }
    }
}

async fn answer(line: &[u8], commands: &dyn Commands) -> Answer {
    let request = match Request::parse(line) {
        Ok(request) => request,
        Err(why) => return Answer::refused(why),
    };
    let (name, pending) = match &request {
        Request::Reload => ("reload", commands.reload()),
        Request::Retry { upstream } => ("retry", commands.retry(upstream)),
        Request::Drill { upstream, kind, time, by } => match drill::Asked::read(kind, time.as_deref(), by.as_deref()) {
            Ok(asked) => ("drill", commands.drill(upstream, asked)),
            Err(why) => return Answer::refused(why),
        },
    };
    match timeout(COMMAND_WITHIN, pending).await {
        Ok(answer) => {
            tracing::info!(command = name, ok = answer.ok, "an admin command was answered");
            answer
        }
        Err(_) => Answer::refused(format!(
            "no result within {} s; it may still come, see the log or /status",
            COMMAND_WITHIN.as_secs()
        )),
    }
}

#[cfg(test)]
#[path = "admin/tests.rs"]
mod tests;
