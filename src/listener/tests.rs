use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::http::example;
use crate::port::nobody;

/// Keeps whoever arrives.
struct Kept {
    settings: watch::Sender<Arc<config::Upstream>>,
    arrived: Mutex<Vec<(Arrived, usize)>>,
    /// The worker it would have; out of range: any.
    preferred: AtomicUsize,
}

impl Kept {
    fn new() -> Arc<Self> {
        let settings = watch::Sender::new(Arc::new(example::tunnel("site")));
        Arc::new(Self { settings, arrived: Mutex::default(), preferred: AtomicUsize::new(usize::MAX) })
    }

    fn len(&self) -> usize {
        self.arrived.lock().expect("whole").len()
    }

    /// The next who arrives, and the worker that accepted.
    async fn next(&self) -> (Arrived, usize) {
        until("somebody arrives", || self.len() > 0).await;
        self.arrived.lock().expect("whole").remove(0)
    }
}

impl Arrivals for Kept {
    fn arrive(self: Arc<Self>, client: Arrived, worker: usize) {
        self.arrived.lock().expect("whole").push((client, worker));
    }

    fn settings(&self) -> watch::Receiver<Arc<config::Upstream>> {
        self.settings.subscribe()
    }

    fn accept_failed(&self) {}

    fn preferred_worker(&self) -> Option<usize> {
        Some(self.preferred.load(Ordering::Relaxed))
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn any_port() -> ListenAddress {
    ListenAddress::Tcp(([127, 0, 0, 1], 0).into())
}

/// Listeners of one upstream in tunnel mode.
struct Stage {
    listeners: Listeners,
    workers: Vec<Handle>,
    /// By service.
    kept: HashMap<&'static str, Arc<Kept>>,
}

impl Stage {
    fn set() -> Self {
        Self::with(Passed::default())
    }

    fn with(passed: Passed) -> Self {
        // Workers of one runtime: only the number is of interest.
        Self { listeners: Listeners::with(passed), workers: vec![Handle::current(); 3], kept: HashMap::new() }
    }

    /// Changes to these forwards; returns the addresses of each.
    fn change(&mut self, forwards: &[(&'static str, ListenAddress)]) -> Vec<Vec<String>> {
        let mut upstream = example::tunnel("site");
        let tunnel = upstream.tunnel.as_mut().expect("a tunnel");
        let listen = |address: &ListenAddress| vec![address.clone()];
        tunnel.forwards = forwards
            .iter()
            .map(|(service, address)| config::Forward {
                listen: listen(address),
                service: (*service).to_owned(),
                accept_proxy_protocol: Vec::new(),
            })
            .collect();
        let owner = |forward| Owner { upstream: "site".to_owned(), forward };
        let mut targets: HashMap<Owner, Arc<dyn Arrivals>> = HashMap::new();
        for (forward, (service, _)) in forwards.iter().enumerate() {
            targets.insert(owner(forward), self.kept.entry(service).or_insert_with(Kept::new).clone());
        }
        let prepared = self.listeners.prepare(&Wanted::of(&upstream), &self.workers).expect("bound");
        let mut listening = self.listeners.commit(prepared, &targets, &self.workers);
        (0..forwards.len()).map(|forward| listening.remove(&owner(forward)).unwrap_or_default()).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.listeners.close();
    }
}

#[tokio::test]
async fn a_client_comes_to_its_forward_with_both_addresses() {
    let directory = tempfile::tempdir().expect("made");
    let path = directory.path().join("cache.sock");
    let mut stage = Stage::set();
    let addresses = stage.change(&[("postgres", any_port()), ("cache", ListenAddress::Unix(path.clone()))]);
    assert_eq!(addresses[1], [format!("unix:{}", path.display())]);

    let client = TcpStream::connect(&addresses[0][0]).expect("connected");
    let (arrived, _) = stage.kept["postgres"].next().await;
    assert_eq!(arrived.peer, client.local_addr().ok());
    assert_eq!(arrived.local, client.peer_addr().ok());

    let _client = UnixStream::connect(&path).expect("connected");
    let (arrived, _) = stage.kept["cache"].next().await;
    assert_eq!((arrived.peer, arrived.local), (None, None));
    assert!(matches!(arrived.socket, Socket::Unix(_)));
    assert_eq!(stage.kept["postgres"].len(), 0);
}

#[tokio::test]
async fn a_forward_that_is_added_or_goes_leaves_the_others_where_they_are() {
    let mut stage = Stage::set();
    let before = stage.change(&[("postgres", any_port()), ("cache", any_port())]);
    // In front of the others: their numbers change, they do not.
    let after = stage.change(&[("mail", any_port()), ("postgres", any_port()), ("cache", any_port())]);
    assert_eq!(after[1..], before[..]);
    for (service, address) in [("mail", &after[0]), ("postgres", &after[1]), ("cache", &after[2])] {
        let _client = TcpStream::connect(&address[0]).expect("connected");
        stage.kept[service].next().await;
    }
    let left = stage.change(&[("cache", any_port())]);
    assert_eq!(left[0], before[1]);
    until("the others are closed", || TcpStream::connect(&before[0][0]).is_err()).await;
}

#[tokio::test]
async fn two_forwards_can_swap_their_ports() {
    let mut stage = Stage::set();
    let [one, other] = [nobody(), nobody()];
    stage.change(&[("postgres", ListenAddress::Tcp(one)), ("cache", ListenAddress::Tcp(other))]);
    stage.change(&[("postgres", ListenAddress::Tcp(other)), ("cache", ListenAddress::Tcp(one))]);
    let _client = TcpStream::connect(one).expect("connected");
    stage.kept["cache"].next().await;
}

#[tokio::test]
async fn clients_are_accepted_on_the_worker_that_is_preferred_also_when_that_changes() {
    let mut stage = Stage::set();
    let kept = stage.kept.entry("postgres").or_insert_with(Kept::new).clone();
    kept.preferred.store(2, Ordering::Relaxed);
    let address = stage.change(&[("postgres", any_port())])[0][0].clone();
    for preferred in [2, 1, 0] {
        kept.preferred.store(preferred, Ordering::Relaxed);
        stage.change(&[("postgres", any_port())]);
        // The task before may still take the first.
        until("accepted there", || {
            let _client = TcpStream::connect(&address).expect("connected");
            kept.arrived.lock().expect("whole").drain(..).any(|(_, worker)| worker == preferred)
        })
        .await;
    }
    kept.preferred.store(7, Ordering::Relaxed);
    stage.change(&[("postgres", any_port())]);
    let _client = TcpStream::connect(&address).expect("connected");
    kept.next().await;
}

/// A socket as the service manager has it, and as it is passed.
fn from_manager() -> (std::net::TcpListener, SocketAddr, Passed) {
    let manager = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    manager.set_nonblocking(true).expect("set");
    let fd = manager.try_clone().expect("cloned").into();
    let address = manager.local_addr().expect("an address");
    let (passed, faults) = Passed::of([("unit".to_owned(), Ok(fd))]);
    assert!(faults.is_empty(), "{faults:?}");
    (manager, address, passed)
}

#[tokio::test]
async fn who_waits_at_a_passed_socket_is_served_like_all_others() {
    let (_manager, address, passed) = from_manager();
    let early = TcpStream::connect(address).expect("the manager listens");
    let mut stage = Stage::with(passed);
    assert_eq!(stage.change(&[("postgres", ListenAddress::Tcp(address))]), [[address.to_string()]]);
    let kept = stage.kept["postgres"].clone();
    for client in [early, TcpStream::connect(address).expect("connected")] {
        let (arrived, _) = kept.next().await;
        assert_eq!(arrived.peer, client.local_addr().ok());
        let Socket::Tcp(socket) = &arrived.socket else { panic!("{arrived:?}") };
        let options = socket2::SockRef::from(socket);
        assert!(options.tcp_nodelay().expect("told") && options.keepalive().expect("told"));
    }
}

#[tokio::test]
async fn on_leaving_the_queue_of_a_passed_socket_is_left_to_the_next_and_that_of_another_is_served() {
    let (manager, address, passed) = from_manager();
    let mut stage = Stage::with(passed.clone());
    let both = stage.change(&[("postgres", ListenAddress::Tcp(address)), ("cache", any_port())]);
    assert!(!stage.listeners.hold(), "one is our own");
    let late = TcpStream::connect(address).expect("it still listens");
    let _client = TcpStream::connect(&both[1][0]).expect("connected");
    stage.kept["cache"].next().await;
    stage.listeners.close();
    until("our own is closed", || TcpStream::connect(&both[1][0]).is_err()).await;
    assert_eq!(stage.kept["postgres"].len(), 0);

    let mut next = Stage::with(passed);
    next.change(&[("postgres", ListenAddress::Tcp(address))]);
    let (arrived, _) = next.kept["postgres"].next().await;
    assert_eq!(arrived.peer, late.local_addr().ok());
    assert!(next.listeners.hold(), "nobody can come any more");
    assert!(manager.accept().is_err(), "nobody is left over");
}

#[tokio::test]
async fn a_passed_socket_that_an_edit_drops_is_found_again_by_the_next() {
    let (_manager, address, passed) = from_manager();
    let mut stage = Stage::with(passed);
    stage.change(&[("postgres", ListenAddress::Tcp(address))]);
    let bound = Arc::downgrade(&stage.listeners.open.values().next().expect("open").bound);
    stage.change(&[("cache", any_port())]);
    until("it is let go", || bound.strong_count() == 0).await;
    stage.change(&[("cache", ListenAddress::Tcp(address))]);
    let _client = TcpStream::connect(address).expect("connected");
    stage.kept["cache"].next().await;
}

#[tokio::test]
async fn the_file_of_a_passed_socket_stays() {
    let directory = tempfile::tempdir().expect("made");
    let path = directory.path().join("chat.sock");
    let manager = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    let (passed, _) = Passed::of([("unit".to_owned(), Ok(manager.try_clone().expect("cloned").into()))]);
    let mut stage = Stage::with(passed);
    stage.change(&[("postgres", ListenAddress::Unix(path.clone()))]);
    let _client = UnixStream::connect(&path).expect("connected");
    stage.kept["postgres"].next().await;
    let task = Arc::downgrade(&stage.listeners.open.values().next().expect("open").bound);
    stage.listeners.close();
    until("it is let go", || task.strong_count() == 0).await;
    assert!(path.exists());
}
