//! Listeners through reloads: moved, swapped, widened, refused, and never a client lost on the way.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::server::Server;
use common::{Counts, Everlink, connect_to, eventually, named, nobody};
use everlink::config::{ListenAddress, Upstream};
use everlink::metrics::{LinkState, RefuseReason};
use everlink::workers::Layout;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Says its name to everyone and then echoes.
fn saying(name: &'static str) -> Server {
    Server::start(move |mut stream| {
        let mut buffer = [0; 64];
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            stream.write_all(name.as_bytes())?;
        }
    })
}

fn who_serves(address: SocketAddr) -> String {
    answers(connect_to(address))
}

fn answers(mut client: TcpStream) -> String {
    client.write_all(b"?").expect("sent");
    let mut name = [0; 1];
    client.read_exact(&mut name).expect("answered");
    String::from_utf8_lossy(&name).into_owned()
}

fn listening(name: &str, endpoint: SocketAddr, addresses: &[SocketAddr]) -> Upstream {
    Upstream { listen: addresses.iter().map(|a| ListenAddress::Tcp(*a)).collect(), ..named(name, endpoint) }
}

fn on(ip: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((ip, port))
}

fn start(all: Vec<Upstream>) -> Everlink {
    Everlink::start_all(all, Layout::Separate(2))
}

fn changed(everlink: &mut Everlink, all: Vec<Upstream>) {
    everlink.change(all).unwrap_or_else(|errors| panic!("{}", errors[0]));
}

/// Clients that come one after the other, each of which has to be served, until told to stop; returns how many came.
fn visitors(address: SocketAddr) -> (Arc<AtomicBool>, std::thread::JoinHandle<usize>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let visits = std::thread::spawn(move || {
        let mut served = 0;
        while !stopped.load(Ordering::SeqCst) {
            who_serves(address);
            served += 1;
        }
        served
    });
    (stop, visits)
}

#[tokio::test]
async fn two_upstreams_swap_ports_and_no_client_meets_a_closed_one() {
    let (a, b) = (saying("a"), saying("b"));
    let (first, second) = (nobody(), nobody());
    let apart = vec![listening("a", a.address, &[first]), listening("b", b.address, &[second])];
    let swapped = vec![listening("a", a.address, &[second]), listening("b", b.address, &[first])];
    let mut everlink = start(apart.clone());
    assert_eq!((who_serves(first), who_serves(second)), ("a".into(), "b".into()));
    let visits = [visitors(first), visitors(second)];
    for _ in 0..10 {
        changed(&mut everlink, swapped.clone());
        assert_eq!((who_serves(first), who_serves(second)), ("b".into(), "a".into()));
        assert_eq!(everlink.address_of("a"), second);
        changed(&mut everlink, apart.clone());
        assert_eq!((who_serves(first), who_serves(second)), ("a".into(), "b".into()));
    }
    for (stop, visits) in visits {
        stop.store(true, Ordering::SeqCst);
        assert!(visits.join().expect("every one was served") > 0);
    }
    let refused = |name: &str| everlink.of(name).refused(RefuseReason::LinkDown);
    assert_eq!((refused("a"), refused("b")), (0, 0));
}

#[tokio::test]
async fn an_upstream_that_takes_over_anothers_address_takes_its_socket() {
    let (a, b) = (saying("a"), saying("b"));
    let address = nobody();
    let mut everlink = start(vec![listening("a", a.address, &[address])]);
    assert_eq!(who_serves(address), "a");
    let (stop, visits) = visitors(address);
    changed(&mut everlink, vec![listening("b", b.address, &[address])]);
    eventually("the new one serves", || who_serves(address) == "b").await;
    stop.store(true, Ordering::SeqCst);
    assert!(visits.join().expect("every one was served") > 0);
}

#[tokio::test]
async fn a_wildcard_and_its_specific_addresses_replace_each_other_on_one_port() {
    let a = saying("a");
    let port = nobody().port();
    let (one, two, all) = (on([127, 0, 0, 1], port), on([127, 0, 0, 2], port), on([0, 0, 0, 0], port));
    let mut everlink = start(vec![listening("a", a.address, &[one, two])]);
    assert_eq!((who_serves(one), who_serves(two)), ("a".into(), "a".into()));
    let carried = connect_to(one);
    for _ in 0..3 {
        changed(&mut everlink, vec![listening("a", a.address, &[all])]);
        assert_eq!((who_serves(one), who_serves(on([127, 0, 0, 3], port))), ("a".into(), "a".into()));
        changed(&mut everlink, vec![listening("a", a.address, &[one, two])]);
        assert_eq!((who_serves(one), who_serves(two)), ("a".into(), "a".into()));
        eventually("nobody else's address", || TcpStream::connect(on([127, 0, 0, 3], port)).is_err()).await;
    }
    assert_eq!(answers(carried), "a", "who came before stays");
}

#[tokio::test]
async fn a_port_taken_elsewhere_refuses_the_whole_change_and_everything_old_serves_on() {
    let (a, b) = (saying("a"), saying("b"));
    let taken = TcpListener::bind(nobody()).expect("bound");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("bound");
    let (first, second, fresh) = (nobody(), nobody(), nobody());
    let old = vec![listening("a", a.address, &[first]), listening("b", b.address, &[second])];
    let mut everlink = start(old.clone());
    let visits = [visitors(first), visitors(second)];
    // Everything at once: a swap, a new port, a wildcard in place of a specific address, and one that is taken.
    let wild = on([0, 0, 0, 0], first.port());
    let wrong = vec![listening("a", a.address, &[second, fresh]), listening("b", b.address, &[wild, taken.1])];
    for _ in 0..5 {
        let errors = everlink.change(wrong.clone()).expect_err("refused");
        assert_eq!(errors.len(), 1);
        let told = errors[0].to_string();
        assert!(told.contains(&taken.1.to_string()) && told.contains("another program listens there"), "{told}");
        assert_eq!((who_serves(first), who_serves(second)), ("a".into(), "b".into()));
        assert!(TcpStream::connect(fresh).is_err(), "what was bound for it is closed again");
    }
    for (stop, visits) in visits {
        stop.store(true, Ordering::SeqCst);
        assert!(visits.join().expect("every one was served") > 0);
    }
    // The taken one's owner was never disturbed, and once it leaves, the same change is taken.
    drop(taken.0);
    changed(&mut everlink, wrong);
    eventually("changed", || who_serves(first) == "b" && who_serves(second) == "a" && who_serves(fresh) == "a").await;
}

#[tokio::test]
async fn a_wildcard_that_cannot_be_bound_brings_the_specific_address_back() {
    let a = saying("a");
    let port = nobody().port();
    let one = on([127, 0, 0, 1], port);
    // Somebody else holds another specific address of that port, so the wildcard is refused.
    let _other = TcpListener::bind(on([127, 0, 0, 2], port)).expect("bound");
    let mut everlink = start(vec![listening("a", a.address, &[one])]);
    let errors = everlink.change(vec![listening("a", a.address, &[on([0, 0, 0, 0], port)])]).expect_err("refused");
    assert_eq!(errors.len(), 1);
    assert_eq!(who_serves(one), "a");
    assert_eq!(everlink.address_of("a"), one);
}

#[tokio::test]
async fn clients_queued_in_a_closing_listener_are_served() {
    let a = saying("a");
    let (old, new) = (nobody(), nobody());
    let all = vec![listening("a", a.address, &[old])];
    let mut everlink = Everlink::start_all(all, Layout::Separate(1));
    everlink.until_up(2).await;
    // The only thread is busy, so that whoever comes is queued by the kernel.
    let busy = Arc::new(AtomicBool::new(true));
    let still = busy.clone();
    let blocked = Arc::new(AtomicUsize::new(0));
    let begun = blocked.clone();
    everlink.workers()[0].spawn(async move {
        begun.store(1, Ordering::SeqCst);
        while still.load(Ordering::SeqCst) {
            std::thread::sleep(MS(1));
        }
    });
    eventually("the thread is busy", || blocked.load(Ordering::SeqCst) == 1).await;
    let queued: Vec<_> = (0..40).map(|_| connect_to(old)).collect();
    changed(&mut everlink, vec![listening("a", a.address, &[new])]);
    busy.store(false, Ordering::SeqCst);
    let queued = queued.into_iter().map(answers).collect::<Vec<_>>();
    assert!(queued.iter().all(|name| name == "a"), "{queued:?}");
    eventually("closed", || TcpStream::connect(old).is_err()).await;
    assert_eq!(who_serves(new), "a");
    assert_eq!(everlink.links(LinkState::Draining), 0);
}

#[tokio::test]
async fn a_port_the_kernel_picks_is_told_and_kept() {
    let (a, b) = (saying("a"), saying("b"));
    let any = common::local();
    let mut everlink = start(vec![listening("a", a.address, &[any]), listening("b", b.address, &[any])]);
    let (first, second) = (everlink.address_of("a"), everlink.address_of("b"));
    assert_eq!((who_serves(first), who_serves(second)), ("a".into(), "b".into()));
    let mut all = everlink.settings();
    all[0].pool.size = 3;
    changed(&mut everlink, all);
    assert_eq!((everlink.address_of("a"), who_serves(first)), (first, "a".into()));
}
