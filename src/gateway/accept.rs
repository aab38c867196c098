//! Accepting dialers. Whatever a dialer does or leaves undone happens in a task of its own, never here.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::pending::{Bounds, Full, Pending};
use super::shared::Phase;
use super::{Shared, handshake};
use crate::clock;
use crate::metrics::Refusal;
use crate::net::accepting::{self, BATCH, Pause};
use crate::net::descriptors::{self, Descriptors};
use crate::net::kernel;
use crate::net::socket;
use crate::net::tcp::Unbound;
use crate::workers::of_process;

/// So many handshakes may use the descriptors kept back, or sessions whose streams have all others could not be resumed.
const FROM_RESERVE: usize = 16;

/// Who may be in the hall between the door and a session.
#[derive(Default)]
pub struct Hall {
    pending: Mutex<Waiting>,
    from_reserve: std::sync::atomic::AtomicUsize,
}

#[derive(Default)]
struct Waiting {
    pending: Pending,
    leave: std::collections::HashMap<u64, CancellationToken>,
}

/// A place among the pending, until dropped.
pub struct Slot {
    shared: Arc<Shared>,
    number: u64,
    leave: CancellationToken,
}

/// A descriptor, until dropped.
pub struct Held {
    _held: descriptors::Held,
    reserve: Option<Arc<Shared>>,
}

/// What a connection occupies while it is pending.
pub struct Occupied {
    pub slot: Slot,
    pub held: Held,
}

impl Slot {
    /// Takes a place; another connection may have to go for it.
    fn take(shared: &Arc<Shared>, peer: SocketAddr) -> Result<Self, Full> {
        let limits = shared.settings().limits.clone();
        let bounds = Bounds { all: limits.pending, of_address: limits.pending_per_address };
        let leave = CancellationToken::new();
        let mut waiting = shared.hall.waiting();
        let entered = waiting.pending.enter(peer.ip(), bounds, clock::now())?;
        waiting.leave.insert(entered.number, leave.clone());
        let gone = entered.instead_of.and_then(|number| waiting.leave.remove(&number));
        drop(waiting);
        match gone {
            Some(gone) => {
                gone.cancel();
                shared.refusals.count(Refusal::Pending, None, "the oldest dialer not yet proven made room for another");
            }
            None => shared.status.metrics.pending.inc(),
        }
        Ok(Self { shared: shared.clone(), number: entered.number, leave })
    }

    /// Another needs the place more.
    pub async fn told_to_leave(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut waiting = self.shared.hall.waiting();
        if waiting.pending.leave(self.number) {
            waiting.leave.remove(&self.number);
            drop(waiting);
            self.shared.status.metrics.pending.dec();
        }
    }
}

impl Held {
    /// `None`: there is none left, not even of the reserve.
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        use std::sync::atomic::Ordering::Relaxed;
        let all = Descriptors::shared();
        if let Some(held) = all.try_take(1) {
            return Some(Self { _held: held, reserve: None });
        }
        let count = &shared.hall.from_reserve;
        let one_more = |used| (used < FROM_RESERVE).then_some(used + 1);
        count.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(Self { _held: all.take(1), reserve: Some(shared.clone()) })
    }

    /// Only for sessions that go on: their old connection's descriptor comes back.
    pub fn is_of_reserve(&self) -> bool {
        self.reserve.is_some()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(shared) = &self.reserve {
            shared.hall.from_reserve.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

impl Hall {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts until stopped, and then what the queue still holds, unless the process leaves: its successor may have the queue.
pub async fn accept(shared: Arc<Shared>, listener: Arc<TcpListener>, stop: CancellationToken) {
    let ready = match kernel::await_clients(listener.clone()) {
        Ok(ready) => ready,
        Err(error) => return tracing::error!(%error, "the gateway cannot wait for dialers"),
    };
    let mut pause = Pause::default();
    loop {
        let mut guard = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            guard = ready.readable() => match guard {
                Ok(guard) => guard,
                Err(error) => return tracing::error!(%error, "the gateway cannot wait for dialers"),
            },
        };
        for _ in 0..BATCH {
            match accept_one(&listener) {
                Ok((tcp, peer)) => {
                    pause.end();
                    arrive(&shared, Unbound::Kernel(tcp), peer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready();
                    break;
                }
                // The dialer gave up while it was queued.
                Err(error) if accepting::is_the_peers(&error) => {}
                Err(error) => {
                    shared.process.metrics.accept_errors.inc();
                    tracing::warn!(%error, pause = ?pause.time(), "the gateway cannot accept; trying again");
                    pause.pass(&stop).await;
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
    while shared.phase() != Phase::Cut
        && let Ok((tcp, peer)) = accept_one(&listener)
    {
        arrive(&shared, Unbound::Kernel(tcp), peer);
    }
}

fn accept_one(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, peer) = kernel::accept(listener.as_raw_fd())?;
    let tcp = TcpStream::from(socket);
    let peer = peer.map_or_else(|| tcp.peer_addr(), Ok)?;
    // Inherited, unless it came to a socket that was passed before we were there.
    let _ = socket::nodelay(&tcp).and_then(|()| socket::apply_keepalive(&tcp, &socket::Keepalive::LOCAL));
    Ok((tcp, peer))
}

/// One dialer, to the next thread in turn; a new session stays there.
pub fn arrive(shared: &Arc<Shared>, tcp: Unbound, peer: SocketAddr) {
    let refused = |why| shared.refusals.count(Refusal::Pending, Some(peer), why);
    let Some(held) = Held::take(shared) else {
        return refused("no descriptor is left for it: raise the limit of this process (ulimit -n, LimitNOFILE)");
    };
    let Ok(slot) = Slot::take(shared, peer) else {
        return refused("too many dialers have not proven themselves yet (limits.pending, limits.pending_per_address)");
    };
    let task = handshake::receive(shared.clone(), tcp, Occupied { slot, held });
    if let Some(worker) = shared.next_worker() {
        worker.spawn(of_process(task));
    }
}
