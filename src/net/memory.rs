//! A network, and processes on it, in memory and on one thread: for simulations of the whole. Only tests have it.
//!
//! Sockets behave as the kernel's do where it matters here: bytes take their time and arrive in order, in slices; the peer's
//! kernel acknowledges them whether its process runs or not; a full window stops the sender; a close with bytes unread is a
//! reset; a reset comes behind the bytes that have arrived; what stands still while a way is clogged goes on when it is
//! released. The clock is tokio's paused one, chance comes from one seed, and nothing else decides anything.

#![forbid(unsafe_code)]

mod connection;
mod socket;
mod tasks;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use fastrand::Rng;

use connection::Connection;
pub use connection::{Cut, Habits};
pub use socket::Socket;
pub use tasks::{as_process, dispatch, of, of_process};

/// The process of clients, services and strangers: it is always there.
pub const USERS: usize = 0;
/// The end that dialled.
pub const NEAR: usize = 0;

thread_local! {
    static NETWORK: RefCell<Option<Network>> = const { RefCell::new(None) };
}

/// Who looks at what crosses the ways between near ends and gateways. `side`: whose bytes they are.
pub trait Tap {
    /// A connection stands.
    fn stands(&mut self, connection: usize, gateway: usize);
    fn wrote(&mut self, connection: usize, side: usize, bytes: &[u8]);
    /// `side` took so many bytes of its peer's out of its socket.
    fn read(&mut self, connection: usize, side: usize, count: usize);
    /// The connection broke behind so many of its bytes.
    fn cut(&mut self, connection: usize, side: usize, delivered: u64);
    /// The socket is closed.
    fn closed(&mut self, connection: usize, side: usize);
}

struct Listener {
    process: usize,
    queue: VecDeque<Socket>,
    waker: Option<Waker>,
}

/// A process: whether it is stopped, and which of its tasks would run.
#[derive(Default)]
struct Process {
    stopped: bool,
    waiting: Vec<u64>,
}

/// See the module.
pub struct Network {
    pub random: Rng,
    pub start: Instant,
    pub habits: Habits,
    /// Where names lead.
    pub names: BTreeMap<String, IpAddr>,
    tap: Option<Box<dyn Tap>>,
    connections: BTreeMap<usize, Connection>,
    next: usize,
    listeners: BTreeMap<SocketAddr, Listener>,
    /// Gateways, each by its two addresses; all else is beside whoever dials it.
    gateways: Vec<[SocketAddr; 2]>,
    /// Of each gateway: whether the ways there and back stand still.
    clogged: Vec<[bool; 2]>,
    processes: Vec<Process>,
    /// When gateways were dialled.
    pub dials: Vec<Instant>,
    pump: Option<Waker>,
    stirred: bool,
}

/// The network lives as long as this.
pub struct Running(());

impl Drop for Running {
    fn drop(&mut self) {
        drop(NETWORK.take());
        tasks::forget();
    }
}

/// Makes the network of this thread; inside a runtime whose clock is paused.
pub fn begin(seed: u64, gateways: Vec<[SocketAddr; 2]>, habits: Habits, tap: Box<dyn Tap>) -> Running {
    fastrand::seed(seed);
    tasks::forget();
    let start = tokio::time::Instant::now().into_std();
    let clogged = vec![[false; 2]; gateways.len()];
    let network = Network {
        random: Rng::with_seed(seed ^ 0x5eed),
        start,
        habits,
        names: BTreeMap::new(),
        tap: Some(tap),
        connections: BTreeMap::new(),
        next: 1,
        listeners: BTreeMap::new(),
        gateways,
        clogged,
        processes: vec![Process::default()],
        dials: Vec::new(),
        pump: None,
        stirred: false,
    };
    NETWORK.set(Some(network));
    Running(())
}

/// Does something with the network; `None`: this thread has none.
fn with<R>(act: impl FnOnce(&mut Network) -> R) -> Option<R> {
    // A thread that ends, or a waker that is dropped inside, needs none.
    NETWORK.try_with(|network| network.try_borrow_mut().ok()?.as_mut().map(act)).ok().flatten()
}

/// The same for the simulation, which has one.
pub fn net<R>(act: impl FnOnce(&mut Network) -> R) -> R {
    with(act).expect("a network")
}

/// The simulation's time, if there is one.
pub fn now() -> Option<Instant> {
    let running = NETWORK.try_with(|network| network.try_borrow().map_or(true, |network| network.is_some()));
    running.unwrap_or(false).then(|| tokio::time::Instant::now().into_std())
}

fn present() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// When the simulation began: what beats are put on a grid by.
pub fn origin() -> Option<Instant> {
    with(|network| network.start)
}

/// Bytes by the seed. False: this is no simulation.
pub fn fill(bytes: &mut [u8]) -> bool {
    with(|network| network.random.fill(bytes)).is_some()
}

/// The addresses of a name, in a simulation.
pub fn addresses(host: &str) -> Option<Vec<IpAddr>> {
    with(|network| network.names.get(host).map(|address| vec![*address])).flatten()
}

/// The way of a dial in a simulation.
pub fn connect(address: SocketAddr) -> Option<impl Future<Output = io::Result<(Socket, Duration)>> + Send> {
    with(|_| ())?;
    Some(dial(tasks::current(), address))
}

async fn dial(process: usize, address: SocketAddr) -> io::Result<(Socket, Duration)> {
    let begun = present();
    with(|network| {
        // Those of users are none of everlink's.
        if process != USERS && network.gateway_at(address).is_some() {
            network.dials.push(begun);
        }
    });
    // A SYN that is lost comes again (RFC 6298).
    let mut again = Duration::from_secs(1);
    loop {
        if let Some(takes) = with(|network| network.round_trip(address)).flatten() {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            match with(|network| network.establish(process, address)) {
                Some(Ok(Some(socket))) => return Ok((socket, present() - begun)),
                Some(Ok(None)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(io::ErrorKind::NetworkDown.into()),
            }
        }
        tokio::time::sleep(again).await;
        again *= 2;
    }
}

/// A dialer who comes to `address`; `None`: nobody listens there any more.
pub async fn accept(address: SocketAddr) -> Option<Socket> {
    poll_fn(|context| {
        let next = with(|network| {
            let Some(listener) = network.listeners.get_mut(&address) else { return Poll::Ready(None) };
            match listener.queue.pop_front() {
                Some(socket) => Poll::Ready(Some(socket)),
                None => {
                    listener.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        });
        next.unwrap_or(Poll::Ready(None))
    })
    .await
}

/// Moves what is due, for ever.
pub async fn pump() {
    loop {
        let due = net(|network| network.step(present()));
        let stirred = poll_fn(|context| {
            net(|network| {
                if std::mem::take(&mut network.stirred) {
                    return Poll::Ready(());
                }
                network.pump = Some(context.waker().clone());
                Poll::Pending
            })
        });
        tokio::select! {
            biased;
            () = stirred => {}
            () = crate::clock::sleep_until_or_never(due) => {}
        }
    }
}

impl Network {
    // ---- processes ----

    /// Another process.
    pub fn process(&mut self) -> usize {
        self.processes.push(Process::default());
        self.processes.len() - 1
    }

    /// Stops a process, or lets it go on: none of its tasks runs meanwhile, while its kernel goes on.
    pub fn stop(&mut self, process: usize, stopped: bool) {
        let process = &mut self.processes[process];
        process.stopped = stopped;
        if !stopped {
            process.waiting.drain(..).for_each(tasks::ring);
        }
    }

    /// The process is gone, and the kernel closes what it had. What it still does has no effect. Comes back: sockets that
    /// nobody has accepted, to be dropped.
    pub fn kill(&mut self, process: usize) -> Vec<Socket> {
        self.stop(process, false);
        let now = present();
        let mut queued = Vec::new();
        self.listeners.retain(|_, listener| {
            let stays = listener.process != process;
            if !stays {
                queued.extend(listener.queue.drain(..));
                if let Some(waker) = listener.waker.take() {
                    waker.wake();
                }
            }
            stays
        });
        for connection in self.connections.values_mut() {
            for side in 0..2 {
                if connection.processes[side] == process {
                    connection.abandon(side, now, self.random.bool());
                }
            }
        }
        self.stir();
        queued
    }

    // ---- the network ----

    pub fn listen(&mut self, process: usize, address: SocketAddr) {
        self.listeners.insert(address, Listener { process, queue: VecDeque::new(), waker: None });
    }

    /// Of a gateway: the way there (`NEAR`) or back stands still, or goes on.
    pub fn clog(&mut self, gateway: usize, side: usize, clogged: bool) {
        self.clogged[gateway][side] = clogged;
        self.stir();
    }

    /// The same of one connection.
    pub fn clog_connection(&mut self, connection: usize, side: usize, clogged: bool) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.clogged[side] = clogged;
        }
        self.stir();
    }

    /// Breaks a connection behind so many more bytes of `side`.
    pub fn cut_after(&mut self, connection: usize, side: usize, bytes: u64, cut: Cut) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.cut_after(side, bytes, cut);
        }
        self.stir();
    }

    /// Everything goes on as well as it can, also what is dialled from now on.
    pub fn heal(&mut self) {
        self.clogged.fill([false; 2]);
        self.habits = Habits::calm();
        for connection in self.connections.values_mut() {
            connection.heal();
        }
        self.stir();
    }

    /// The connections between near ends and gateways that stand.
    pub fn links(&self) -> Vec<usize> {
        let links = self.connections.iter().filter(|(_, connection)| connection.gateway.is_some());
        links.map(|(number, _)| *number).collect()
    }

    /// Connections of all kinds of which an end is open.
    pub fn open(&self) -> Vec<String> {
        self.connections.iter().map(|(number, connection)| format!("{number}: {connection}")).collect()
    }

    fn stir(&mut self) {
        self.stirred = true;
        if let Some(pump) = self.pump.take() {
            pump.wake();
        }
    }

    fn gateway_at(&self, address: SocketAddr) -> Option<usize> {
        self.gateways.iter().position(|addresses| addresses.contains(&address))
    }

    /// How long a connect takes; `None`: it is lost.
    fn round_trip(&mut self, address: SocketAddr) -> Option<Duration> {
        match self.gateway_at(address) {
            None => Some(Duration::ZERO),
            Some(gateway) if self.clogged[gateway] != [false; 2] => None,
            Some(_) => Some(self.habits.latency(&mut self.random) * 2),
        }
    }

    /// `Ok(None)`: the connect was lost after all.
    fn establish(&mut self, process: usize, address: SocketAddr) -> io::Result<Option<Socket>> {
        let gateway = self.gateway_at(address);
        if gateway.is_some_and(|gateway| self.clogged[gateway] != [false; 2]) {
            return Ok(None);
        }
        let Some(listener) = self.listeners.get_mut(&address) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let number = self.next;
        self.next += 1;
        let port = 10_000 + (number % 50_000) as u16;
        let from = SocketAddr::from(([10, 0, 0, 100 + (process % 100) as u8], port));
        let mut connection = Connection::new([from, address], [process, listener.process], gateway, present());
        if gateway.is_some() {
            self.habits.endow(&mut connection, &mut self.random);
        }
        self.connections.insert(number, connection);
        listener.queue.push_back(Socket::new(number, 1, [from, address]));
        if let Some(waker) = listener.waker.take() {
            waker.wake();
        }
        if let (Some(gateway), Some(tap)) = (gateway, &mut self.tap) {
            tap.stands(number, gateway);
        }
        Ok(Some(Socket::new(number, NEAR, [from, address])))
    }

    /// A client of the process and the socket it comes by.
    pub fn pair(&mut self, client: usize, process: usize) -> (Socket, Socket) {
        let number = self.next;
        self.next += 1;
        let addresses = [([192, 0, 2, 1], 1 + (number % 60_000) as u16).into(), ([127, 0, 0, 1], 7000).into()];
        self.connections.insert(number, Connection::new(addresses, [client, process], None, present()));
        (Socket::new(number, NEAR, addresses), Socket::new(number, 1, addresses))
    }

    /// Moves what is due; says when something will be next.
    fn step(&mut self, now: Instant) -> Option<Instant> {
        self.stirred = false;
        let mut due: Option<Instant> = None;
        for (number, connection) in &mut self.connections {
            let Some(gateway) = connection.gateway else { continue };
            let clogged = self.clogged[gateway];
            let next = connection.step(now, clogged, |side, delivered| {
                if let Some(tap) = &mut self.tap {
                    tap.cut(*number, side, delivered);
                }
            });
            due = due.into_iter().chain(next).min();
        }
        due
    }
}
