//! Metrics, health and status over HTTP/1.1: GET and HEAD only, on a thread of its own.
//!
//! The thread shares no lock with the data path and does not wait for it, so a scrape never slows a link and a stuck
//! data loop can still be told. It also ticks [`Status::ticks`], the clock by which `/livez` judges the data loops.
//! The server is our own since common ones accept what is refused here: bare line feeds, two framings of one body.

#![forbid(unsafe_code)]

mod accept;
mod chunked;
mod connection;
#[cfg(test)]
pub mod example;
mod gate;
mod head;
pub mod health;
pub mod openmetrics;
mod page;
pub mod report;
pub mod request;
mod response;
mod route;
mod slots;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::status::Status;
use connection::{Limits, Service, converse};
use slots::{Phase, Slots};

/// The kernel keeps at most about twice this of an answer that a client does not read. Without a bound it would grow
/// to several MiB a slow reader, charged to the memory of this container.
const SEND_BUFFER: usize = 128 * 1024;
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How often the clock of `/livez` moves on. Every tick wakes a thread of an idle program, twice for the timer's sake: at one
/// a second that and [the workers'](crate::workers) signs of life were a quarter of what an idle program costs.
const TICK: Duration = Duration::from_secs(5);

/// The thread that serves. Dropping it ends the thread without waiting; see [`HttpThread::stop`].
pub struct HttpThread {
    orders: mpsc::UnboundedSender<Vec<std::net::TcpListener>>,
    thread: Option<JoinHandle<()>>,
}

/// Serves `status` on every listener. `public_status` is read anew for each request, so a reload just stores it.
/// With no listener the thread runs all the same: it keeps the clock of `/livez`.
///
/// Errors: no thread, or no epoll instance, to be had.
pub fn serve(
    listeners: Vec<std::net::TcpListener>,
    status: Arc<Status>,
    public_status: Arc<AtomicBool>,
) -> io::Result<HttpThread> {
    serve_within(Limits::default(), listeners, status, public_status)
}

fn serve_within(
    limits: Limits,
    listeners: Vec<std::net::TcpListener>,
    status: Arc<Status>,
    public_status: Arc<AtomicBool>,
) -> io::Result<HttpThread> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (orders, inbox) = mpsc::unbounded_channel();
    let service = Arc::new(Service::new(status, public_status, limits));
    let thread = std::thread::Builder::new().name("http".to_owned()).spawn(move || {
        runtime.block_on(run(listeners, inbox, service));
        // A connection may still hold a task; none is worth waiting for.
        runtime.shutdown_background();
    })?;
    Ok(HttpThread { orders, thread: Some(thread) })
}

impl HttpThread {
    /// Serves on these listeners from now on and on no other. To keep an address, pass a clone of its listener again.
    /// What the queue of a listener that goes still holds is served; open connections stay.
    pub fn rebind(&self, listeners: Vec<std::net::TcpListener>) {
        // Fails only when the thread has ended.
        let _ = self.orders.send(listeners);
    }

    #[cfg(test)]
    fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Closes every listener and connection and waits for the thread, which takes no longer than writing one scrape
    /// into memory.
    pub fn stop(self) {
        let Self { orders, thread } = self;
        drop(orders);
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// A connection just accepted, and our own address on it.
type Arrival = (TcpStream, IpAddr);

async fn run(
    listeners: Vec<std::net::TcpListener>,
    mut orders: mpsc::UnboundedReceiver<Vec<std::net::TcpListener>>,
    service: Arc<Service>,
) {
    let (arrivals, mut arriving) = mpsc::channel::<Arrival>(service.limits.connections);
    let mut accepting = accept_on(listeners, &arrivals);
    let slots = Arc::new(Mutex::new(Slots::new(service.limits.connections)));
    let mut connections = JoinSet::new();
    let mut tick = ticks();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(listeners) => std::mem::replace(&mut accepting, accept_on(listeners, &arrivals)).cancel(),
                None => return,
            },
            _ = tick.tick() => {
                service.status.ticks.fetch_add(TICK.as_secs(), Ordering::Relaxed);
            }
            Some((stream, local)) = arriving.recv() => {
                let open = Open::take(&slots);
                connections.spawn(serve_one(stream, local, service.clone(), open));
                // Its request may already be here. Let it be read before the next arrival, or a burst would take the
                // whole of those it has just brought in for idle, and send a probe among them away unheard.
                tokio::task::yield_now().await;
            }
            Some(ended) = connections.join_next() => if ended.is_err_and(|error| error.is_panic()) {
                service.status.metrics.task_panics.inc();
            },
        }
    }
}

/// Not faster after a stop: were the time in which the process stood still made up for, every data loop would seem to have
/// slept.
fn ticks() -> Interval {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// Starts serving on each; cancelling the token ends all of them.
fn accept_on(listeners: Vec<std::net::TcpListener>, arrivals: &mpsc::Sender<Arrival>) -> CancellationToken {
    let end = CancellationToken::new();
    for listener in listeners {
        match listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)) {
            Ok(listener) => {
                tokio::spawn(accept(listener, arrivals.clone(), end.clone()));
            }
            Err(error) => tracing::error!(%error, "an HTTP listener cannot be served"),
        }
    }
    end
}

async fn accept(listener: TcpListener, arrivals: mpsc::Sender<Arrival>, end: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = end.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => arrive(stream, &arrivals).await,
            Err(error) if is_fleeting(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Who is in the queue has been promised an answer by the kernel.
    while let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await {
        arrive(stream, &arrivals).await;
    }
}

/// The connection, not the listener, was at fault (accept(2), "Error handling").
fn is_fleeting(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | TimedOut)
}

async fn arrive(stream: TcpStream, arrivals: &mpsc::Sender<Arrival>) {
    // Without an address of its own a connection counts as one from outside.
    let local = stream.local_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip());
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
    let _ = arrivals.send((stream, local)).await;
}

/// Serves one connection that has been made elsewhere, with the limits of every other: how the fuzzer and tests outside of
/// this module get at it. `local`: our own address on it.
#[doc(hidden)]
pub async fn serve_connection<S>(stream: S, local: IpAddr, status: Arc<Status>, public_status: bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = Service::new(status, Arc::new(AtomicBool::new(public_status)), Limits::default());
    converse(stream, local, &service, |_| {}).await;
}

async fn serve_one(stream: TcpStream, local: IpAddr, service: Arc<Service>, open: Open) {
    tokio::select! {
        () = open.evicted.cancelled() => {}
        () = converse(stream, local, &service, |phase| open.enter(phase)) => {}
    }
}

/// A connection's place among those open, given back when dropped.
struct Open {
    id: u64,
    evicted: CancellationToken,
    slots: Arc<Mutex<Slots<CancellationToken>>>,
}

impl Open {
    fn take(slots: &Arc<Mutex<Slots<CancellationToken>>>) -> Self {
        let evicted = CancellationToken::new();
        let (id, victim) = lock(slots).admit(evicted.clone());
        if let Some(victim) = victim {
            victim.cancel();
        }
        Self { id, evicted, slots: slots.clone() }
    }

    fn enter(&self, phase: Phase) {
        lock(&self.slots).enter(self.id, phase);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.slots).leave(self.id);
    }
}

/// Only this thread ever takes it, so it is never waited for.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "http/server_tests.rs"]
mod tests;
