//! The network between a sidecar and a gateway: a relay that can cut, stall, slice, delay and rewrite what passes.

#[path = "../common/cut.rs"]
mod cut;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use cut::{PIECE, reset_on_close};

pub use cut::{How, Way};

/// The connection is cut after so many bytes in this direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub Way, pub u64, pub How);

/// Changes bytes: their direction, the offset of the first in its connection, and themselves.
type Rewrite = Box<dyn Fn(Way, u64, &mut [u8]) + Send + Sync>;

#[derive(Default)]
struct Shared {
    targets: Mutex<Vec<SocketAddr>>,
    live: Mutex<HashMap<u64, Arc<Live>>>,
    limits: Mutex<VecDeque<Limit>>,
    /// New connections stand still, too.
    stalled: [AtomicBool; 2],
    /// New connections are reset at once.
    refusing: AtomicBool,
    /// Bytes of a slice; 0: as they come.
    slice: AtomicUsize,
    /// Milliseconds that each piece is held.
    delay: AtomicU64,
    rewrite: Mutex<Option<Rewrite>>,
    accepted: AtomicU64,
    arrivals: Mutex<Vec<Instant>>,
    silenced: AtomicU64,
    cuts: AtomicU64,
    moved: [AtomicU64; 2],
    held: AtomicU64,
    pieces: AtomicU64,
    offsets: Mutex<Vec<Limit>>,
}

/// One connection.
struct Live {
    cut: watch::Sender<Option<How>>,
    stalled: [AtomicBool; 2],
    changed: Notify,
}

/// Runs until dropped.
pub struct Relay {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Relay {
    /// Each new connection goes to the next of these, in turn.
    pub fn start(targets: &[SocketAddr]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = everlink::net::socket::bind_listener(crate::common::local()).expect("bound");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        *locked(&shared.targets) = targets.to_vec();
        runtime.spawn(accept(listener, shared.clone()));
        Self { address, shared, runtime: Some(runtime) }
    }

    /// Connections taken so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections cut so far.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// When each connection came.
    pub fn arrivals(&self) -> Vec<Instant> {
        locked(&self.shared.arrivals).clone()
    }

    /// Connections that fell silent by a limit.
    pub fn silenced(&self) -> u64 {
        self.shared.silenced.load(Ordering::SeqCst)
    }

    /// Connections that stand.
    pub fn live(&self) -> usize {
        locked(&self.shared.live).len()
    }

    /// Bytes passed on so far, of all connections.
    pub fn moved(&self, way: Way) -> u64 {
        self.shared.moved[way as usize].load(Ordering::SeqCst)
    }

    /// Cuts every connection; how many those were.
    pub fn cut(&self, how: How) -> usize {
        let live: Vec<_> = locked(&self.shared.live).values().cloned().collect();
        live.iter().filter(|live| live.cut.send_replace(Some(how)).is_none()).count()
    }

    /// The next connections are cut after so many bytes each, in the order in which they come.
    pub fn limit(&self, limits: impl IntoIterator<Item = Limit>) {
        locked(&self.shared.limits).extend(limits);
    }

    /// Limits that no connection has met yet.
    pub fn limits_left(&self) -> usize {
        locked(&self.shared.limits).len()
    }

    /// In this direction nothing passes any more, on no connection; nobody is told.
    pub fn stall(&self, way: Way) {
        self.shared.stalled[way as usize].store(true, Ordering::SeqCst);
    }

    /// What was stalled goes on.
    pub fn go_on(&self) {
        for way in [Way::Up, Way::Down] {
            self.shared.stalled[way as usize].store(false, Ordering::SeqCst);
        }
        for live in locked(&self.shared.live).values() {
            for way in [Way::Up, Way::Down] {
                live.stalled[way as usize].store(false, Ordering::SeqCst);
            }
        }
        self.wake();
    }

    /// The connections of this moment pass nothing any more, and nobody is told; new ones do. How many those were.
    pub fn forget(&self) -> usize {
        let live = locked(&self.shared.live);
        let ways = live.values().filter(|live| {
            let were = live.stalled.each_ref().map(|stalled| stalled.swap(true, Ordering::SeqCst));
            were == [false, false]
        });
        ways.count()
    }

    /// The connections of this moment, each by a number of its own.
    pub fn connections(&self) -> Vec<u64> {
        locked(&self.shared.live).keys().copied().collect()
    }

    /// This connection passes nothing any more in these directions, and nobody is told; or goes on. False: it is over.
    pub fn clog(&self, connection: u64, ways: &[Way], clogged: bool) -> bool {
        let Some(live) = locked(&self.shared.live).get(&connection).cloned() else { return false };
        for way in ways {
            live.stalled[*way as usize].store(clogged, Ordering::SeqCst);
        }
        live.changed.notify_waiters();
        true
    }

    /// Pieces in which bytes were passed on so far, both ways.
    pub fn pieces(&self) -> u64 {
        self.shared.pieces.load(Ordering::SeqCst)
    }

    /// The limits that were met, each with the offset at which its connection really ended.
    pub fn met(&self) -> Vec<Limit> {
        locked(&self.shared.offsets).clone()
    }

    /// Bytes that came and were held by a clog, of all connections.
    pub fn held(&self) -> u64 {
        self.shared.held.load(Ordering::SeqCst)
    }

    /// From now on new connections are reset as soon as they are there, or no more.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::SeqCst);
    }

    /// Bytes pass in pieces of so many, 0 as they come, each held for so long.
    pub fn slice(&self, bytes: usize, delay: Duration) {
        self.shared.slice.store(bytes, Ordering::SeqCst);
        self.shared.delay.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Changes what passes.
    pub fn rewrite(&self, rewrite: impl Fn(Way, u64, &mut [u8]) + Send + Sync + 'static) {
        *locked(&self.shared.rewrite) = Some(Box::new(rewrite));
    }

    fn wake(&self) {
        for live in locked(&self.shared.live).values() {
            live.changed.notify_waiters();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("registered");
    while let Ok((client, _)) = listener.accept().await {
        locked(&shared.arrivals).push(Instant::now());
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        if shared.refusing.load(Ordering::SeqCst) {
            reset_on_close(&client);
            continue;
        }
        let target = {
            let targets = locked(&shared.targets);
            targets[number as usize % targets.len()]
        };
        let limit = locked(&shared.limits).pop_front();
        let stalled = std::array::from_fn(|way| AtomicBool::new(shared.stalled[way].load(Ordering::SeqCst)));
        let live = Arc::new(Live { cut: watch::Sender::new(None), stalled, changed: Notify::new() });
        locked(&shared.live).insert(number, live.clone());
        let shared = shared.clone();
        tokio::spawn(async move {
            let _ = carry(client, target, limit, &live, &shared).await;
            locked(&shared.live).remove(&number);
        });
    }
}

async fn carry(
    client: TcpStream,
    target: SocketAddr,
    limit: Option<Limit>,
    live: &Live,
    shared: &Shared,
) -> io::Result<()> {
    let server = cut::connect(&client, target).await?;
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let limits = |way| limit.filter(|limit| limit.0 == way);
    let mut due = live.cut.subscribe();
    let (mut up, mut down) = (
        Pump { way: Way::Up, from: client_read, to: server_write, limit: limits(Way::Up), live, shared },
        Pump { way: Way::Down, from: server_read, to: client_write, limit: limits(Way::Down), live, shared },
    );
    let how = {
        let both = async { tokio::try_join!(up.run(), down.run()) };
        tokio::select! {
            biased;
            how = async { due.wait_for(Option::is_some).await.ok().and_then(|how| *how) } => {
                shared.cuts.fetch_add(1, Ordering::SeqCst);
                how
            }
            // A reset at one end is one at the other.
            ended = both => ended.err().map(|_| How::Reset),
        }
    };
    if let Some(how) = how {
        cut::cut(how, [(up.from, up.to), (down.from, down.to)]).await;
    }
    Ok(())
}

/// One direction of a connection.
struct Pump<'a> {
    way: Way,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    limit: Option<Limit>,
    live: &'a Live,
    shared: &'a Shared,
}

impl Pump<'_> {
    async fn run(&mut self) -> io::Result<()> {
        let mut offset = 0;
        let mut buffer = vec![0; PIECE];
        loop {
            if self.cut_if_due(offset) {
                return Ok(());
            }
            let mut count = self.from.read(&mut buffer).await?;
            self.until_it_may_pass(count).await;
            if count == 0 {
                return self.to.shutdown().await;
            }
            if let Some(Limit(_, limit, _)) = self.limit {
                count = count.min((limit - offset) as usize);
            }
            let bytes = &mut buffer[..count];
            if let Some(rewrite) = &*locked(&self.shared.rewrite) {
                rewrite(self.way, offset, bytes);
            }
            let slice = self.shared.slice.load(Ordering::SeqCst);
            for piece in bytes.chunks(if slice == 0 { usize::MAX } else { slice }) {
                let delay = self.shared.delay.load(Ordering::SeqCst);
                if delay > 0 {
                    tokio::time::sleep(Duration::from_millis(delay)).await;
                }
                self.to.write_all(piece).await?;
                self.shared.pieces.fetch_add(1, Ordering::SeqCst);
                self.shared.moved[self.way as usize].fetch_add(piece.len() as u64, Ordering::SeqCst);
            }
            offset += count as u64;
        }
    }

    fn cut_if_due(&mut self, offset: u64) -> bool {
        let Some(Limit(_, _, how)) = self.limit.filter(|limit| offset >= limit.1) else { return false };
        locked(&self.shared.offsets).push(Limit(self.way, offset, how));
        if how == How::Silence {
            self.limit = None;
            self.shared.silenced.fetch_add(1, Ordering::SeqCst);
            self.live.stalled.iter().for_each(|stalled| stalled.store(true, Ordering::SeqCst));
            return false;
        }
        self.live.cut.send_replace(Some(how));
        true
    }

    async fn until_it_may_pass(&self, bytes: usize) {
        let mut told = false;
        loop {
            let changed = self.live.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.live.stalled[self.way as usize].load(Ordering::SeqCst)
                && !self.shared.stalled[self.way as usize].load(Ordering::SeqCst)
            {
                return;
            }
            if !std::mem::replace(&mut told, true) {
                self.shared.held.fetch_add(bytes as u64, Ordering::SeqCst);
            }
            changed.await;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
