//! The network between the two ends: a relay that resets, ends, stalls, forgets, cuts, slices, delays and throttles what
//! passes, and counts what it did.

#[path = "../common/cut.rs"]
mod cut;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::world::locked;
use cut::reset_on_close;

pub use cut::{How, Way};

/// Bytes read at once, few so that weather changes soon, and so many such pieces wait to be written.
const PIECE: usize = 16 * 1024;
const PIECES: usize = 4;
/// Writes that one spell of slicing may cost; afterwards bytes pass as they come.
const SLICES: u64 = 10_000;

/// What the path is like; all of it at once, for all connections.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Nothing passes, by direction.
    pub stalled: [bool; 2],
    /// New connections are reset at once.
    pub refusing: bool,
    /// Bytes of a slice; 0: as they come.
    pub slice: usize,
    /// Each piece is held for so long, and up to so much longer.
    pub delay: Duration,
    pub jitter: Duration,
    /// Bytes a second in each direction of a connection; 0: as fast as it goes.
    pub rate: u64,
}

struct Shared {
    target: Mutex<SocketAddr>,
    weather: watch::Sender<Weather>,
    live: Mutex<HashMap<u64, Arc<Live>>>,
    accepted: AtomicU64,
    /// Connections that were cut, by whatever way, or forgotten.
    cut: AtomicU64,
    /// Pieces that met bad weather: were held, sliced, delayed or throttled.
    touched: AtomicU64,
    slices: AtomicU64,
}

/// One connection.
struct Live {
    cut: watch::Sender<Option<How>>,
    /// Direction, bytes still to pass and what then.
    limit: Mutex<Option<(Way, usize, How)>>,
    forgotten: AtomicBool,
}

/// Runs as long as its runtime does.
#[derive(Clone)]
pub struct Relay {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Relay {
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            weather: watch::Sender::default(),
            live: Mutex::default(),
            accepted: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            touched: AtomicU64::new(0),
            slices: AtomicU64::new(0),
        });
        tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared })
    }

    /// From now on connections lead there.
    pub fn lead_to(&self, target: SocketAddr) {
        *locked(&self.shared.target) = target;
    }

    pub fn weather(&self, weather: Weather) {
        self.shared.slices.store(0, Ordering::Relaxed);
        self.shared.weather.send_replace(weather);
    }

    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    pub fn cuts(&self) -> u64 {
        self.shared.cut.load(Ordering::Relaxed)
    }

    pub fn touched(&self) -> u64 {
        self.shared.touched.load(Ordering::Relaxed)
    }

    /// Cuts every connection of this moment; how many those were.
    pub fn cut(&self, how: How) -> usize {
        let live: Vec<_> = locked(&self.shared.live).values().cloned().collect();
        live.iter().filter(|live| live.end(how, &self.shared)).count()
    }

    /// Cuts every connection of this moment after so many more bytes in a direction; how many those are.
    pub fn cut_after(&self, way: Way, bytes: usize, how: How) -> usize {
        let live = locked(&self.shared.live);
        live.values().for_each(|live| *locked(&live.limit) = Some((way, bytes, how)));
        live.len()
    }

    /// Limits that were not met are met no more.
    pub fn no_limits(&self) {
        locked(&self.shared.live).values().for_each(|live| *locked(&live.limit) = None);
    }
}

impl Live {
    /// Whether it was not cut before.
    fn end(&self, how: How, shared: &Shared) -> bool {
        let first = match how {
            How::Silence => !self.forgotten.swap(true, Ordering::Relaxed),
            How::Reset | How::End => self.cut.send_replace(Some(how)).is_none(),
        };
        shared.cut.fetch_add(u64::from(first), Ordering::Relaxed);
        // Whoever waits for better weather looks again.
        shared.weather.send_modify(|_| {});
        first
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut number = 0;
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        if shared.weather.borrow().refusing {
            reset_on_close(&client);
            shared.touched.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        number += 1;
        let live = Arc::new(Live {
            cut: watch::Sender::new(None),
            limit: Mutex::default(),
            forgotten: AtomicBool::new(false),
        });
        locked(&shared.live).insert(number, live.clone());
        let shared = shared.clone();
        tokio::spawn(async move {
            let _ = carry(client, &live, &shared).await;
            locked(&shared.live).remove(&number);
        });
    }
}

async fn carry(client: TcpStream, live: &Live, shared: &Shared) -> io::Result<()> {
    let target = *locked(&shared.target);
    let server = cut::connect(&client, target).await?;
    let ((client_read, client_write), (server_read, server_write)) = (client.into_split(), server.into_split());
    let (mut up, mut down) = (
        Pump { way: Way::Up, from: client_read, to: server_write, live, shared },
        Pump { way: Way::Down, from: server_read, to: client_write, live, shared },
    );
    let mut due = live.cut.subscribe();
    let how = tokio::select! {
        biased;
        how = async { due.wait_for(Option::is_some).await.ok().and_then(|how| *how) } => how,
        // A reset at one end is one at the other.
        ended = async { tokio::try_join!(up.run(), down.run()) } => ended.err().map(|_| How::Reset),
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
    live: &'a Live,
    shared: &'a Shared,
}

impl Pump<'_> {
    async fn run(&mut self) -> io::Result<()> {
        let (sender, pieces) = mpsc::channel(PIECES);
        let (way, live, shared) = (self.way, self.live, self.shared);
        let reading = read(&mut self.from, sender, way, live, shared);
        let writing = write(&mut self.to, pieces, way, live, shared);
        tokio::try_join!(reading, writing).map(drop)
    }
}

async fn read(
    from: &mut OwnedReadHalf,
    pieces: mpsc::Sender<(Instant, Vec<u8>)>,
    way: Way,
    live: &Live,
    shared: &Shared,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(count) => {
                let weather = *shared.weather.borrow();
                let jitter = weather.jitter.mul_f64(fastrand::f64());
                let due = Instant::now() + weather.delay + jitter;
                if pieces.send((due, buffer[..count].to_vec())).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) => {
                // Not even a reset passes a path that is silent.
                return if may_pass(way, live, shared).await { Err(error) } else { Ok(()) };
            }
        }
    }
}

async fn write(
    to: &mut OwnedWriteHalf,
    mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>,
    way: Way,
    live: &Live,
    shared: &Shared,
) -> io::Result<()> {
    while let Some((due, piece)) = pieces.recv().await {
        if due > Instant::now() {
            // Else it would be held until the timer's next tick, a millisecond.
            tokio::time::sleep_until(due).await;
        }
        let mut rest = &piece[..];
        while !rest.is_empty() {
            if !may_pass(way, live, shared).await {
                break;
            }
            let weather = *shared.weather.borrow();
            let slicing = weather.slice > 0 && shared.slices.fetch_add(1, Ordering::Relaxed) < SLICES;
            let mut count = if slicing { rest.len().min(weather.slice) } else { rest.len() };
            if weather.rate > 0 {
                count = count.min((weather.rate / 20).max(1) as usize);
                tokio::time::sleep(Duration::from_secs_f64(count as f64 / weather.rate as f64)).await;
            }
            let limit = *locked(&live.limit);
            if let Some((limited, left, how)) = limit.filter(|limit| limit.0 == way) {
                count = count.min(left);
                if count == 0 {
                    *locked(&live.limit) = None;
                    live.end(how, shared);
                    continue;
                }
                *locked(&live.limit) = Some((limited, left - count, how));
            }
            to.write_all(&rest[..count]).await?;
            let bad = slicing || weather.rate > 0 || !weather.delay.is_zero();
            shared.touched.fetch_add(u64::from(bad), Ordering::Relaxed);
            rest = &rest[count..];
            if slicing {
                // So that each slice is a segment of its own, and nobody else starves.
                tokio::task::yield_now().await;
            }
        }
    }
    if may_pass(way, live, shared).await { to.shutdown().await } else { Ok(()) }
}

/// Waits while the path is silent. False: this connection is forgotten for good.
async fn may_pass(way: Way, live: &Live, shared: &Shared) -> bool {
    if shared.weather.borrow().stalled[way as usize] {
        shared.touched.fetch_add(1, Ordering::Relaxed);
    }
    let mut weather = shared.weather.subscribe();
    let forgotten = || live.forgotten.load(Ordering::Relaxed);
    let _ = weather.wait_for(|weather| !weather.stalled[way as usize] || forgotten()).await;
    !forgotten()
}
