//! Buffers that are full: who is held up, and who is not; and what that costs in memory.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::relay::{How, Limit, Way};
use super::road::{CALM, Plan, QUICK, Road, Trust, connect_to, memory, talks};
use super::traffic::{Pace, Talk, check, fill};
use crate::common::program::wait_until;
use crate::common::server::Server;

/// First acknowledgements do not come, then there is no connection at all, and the client goes on writing: it is held up,
/// and nothing is dropped.
#[test]
fn fault_28_a_full_retention_stops_the_reading_and_drops_nothing() {
    const BUFFER: f64 = (1 << 20) as f64;
    let more = format!("{CALM}resume.buffer = \"1MiB\"\n");
    let road = Plan { sidecar: &more, gateway: "resume.buffer = \"1MiB\"\n", ..Plan::default() }.build();
    let before = road.held();
    // So many that it is not their windows that end first.
    let talks: Vec<_> = (0..12).map(|_| Talk::start(road.listener("echo"), Pace::BULK)).collect();
    talks.iter().for_each(|talk| talk.until_moved(1 << 20));
    assert_eq!(road.of("session_buffer_bytes"), BUFFER);
    let kept = || road.of("session_unacknowledged_bytes");
    road.relay.stall(Way::Down);
    wait_until("the retention is full", || kept() > BUFFER * 0.9);
    road.relay.refuse(true);
    road.relay.cut(How::Reset);
    wait_until("lost", || road.losses() >= 1.0);
    // Until nobody can write any more.
    let sent = || talks.iter().map(Talk::sent).sum::<u64>();
    let mut last = (sent(), Instant::now());
    wait_until("the clients are held up", || {
        if sent() != last.0 {
            last = (sent(), Instant::now());
        }
        last.1.elapsed() > Duration::from_millis(500)
    });
    assert!(kept() <= BUFFER * 1.05, "{} bytes kept, {BUFFER} allowed", kept());
    assert!(kept() > BUFFER * 0.5, "{} bytes kept, for nobody has acknowledged them", kept());
    let used = [memory(road.sidecar.id()), memory(road.gateway().id())];
    println!("{} bytes were kept, memory {used:?} KiB", kept());
    road.relay.go_on();
    road.relay.refuse(false);
    talks.iter().for_each(|talk| talk.until_moved(1 << 20));
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 2 << 20));
    road.until_baseline(before);
}

/// Takes a pause after each byte, and reads on to the end when told to.
fn reads_slowly(mut stream: TcpStream, hurry: Arc<AtomicBool>) -> u64 {
    let mut at = 0;
    let mut byte = [0];
    while !hurry.load(Ordering::SeqCst) {
        stream.read_exact(&mut byte).expect("a byte");
        let mut due = [0];
        fill(3, at, &mut due);
        assert_eq!(byte, due, "byte {at}");
        at += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the rest");
    let mut due = vec![0; rest.len()];
    fill(3, at, &mut due);
    assert!(rest == due, "the rest is not what was sent");
    at + rest.len() as u64
}

#[test]
fn fault_29_a_slow_reader_stalls_nobody_but_itself() {
    const LONG: usize = 40 << 20;
    let service = Server::start(|mut stream| {
        let mut answer = vec![0; LONG];
        fill(3, 0, &mut answer);
        stream.write_all(&answer)
    });
    let road = Plan { services: &[("library", service.address)], ..Plan::default() }.build();
    let before = road.held();
    let hurry = Arc::<AtomicBool>::default();
    let (slow, told) = (road.connect("library"), hurry.clone());
    let slow = std::thread::spawn(move || reads_slowly(slow, told));
    wait_until("the stream is full", || {
        let moved = road.relay.moved(Way::Down);
        std::thread::sleep(Duration::from_millis(200));
        moved > 200_000 && road.relay.moved(Way::Down) < moved + 10_000
    });
    let talks = [Pace::BULK, Pace::CHAT].map(|pace| Talk::start(road.listener("echo"), pace));
    let began = Instant::now();
    talks[0].until_moved(100 << 20);
    talks[1].until_moved(10_000);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "100 MiB there and back took {took:?}");
    println!("100 MiB there and back beside a stalled reader: {took:?}");
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    let used = memory(road.sidecar.id());
    assert!(used < 80 << 10, "{used} KiB");
    hurry.store(true, Ordering::SeqCst);
    assert_eq!(slow.join().expect("no panic"), LONG as u64, "nothing was dropped");
    assert_eq!(road.losses(), 0.0);
    road.until_baseline(before);
}

/// Sends to everybody as much as they take, or reads from nobody; on one thread.
struct Flood {
    address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    came: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Flood {
    fn start(sends: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let _ = socket2::SockRef::from(&listener).set_recv_buffer_size(8 << 10);
        let address = listener.local_addr().expect("an address");
        let (open, came, stop) = (Arc::<Mutex<Vec<TcpStream>>>::default(), Arc::default(), Arc::default());
        let made = Self { address, open, came, stop };
        let (open, came, stop) = (made.open.clone(), made.came.clone(), made.stop.clone());
        std::thread::spawn(move || {
            let bytes = vec![7; 64 * 1024];
            for mut stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let _ = socket2::SockRef::from(&stream).set_send_buffer_size(64 << 10);
                stream.set_nonblocking(true).expect("set");
                while sends && matches!(stream.write(&bytes), Ok(1..)) {}
                open.lock().expect("unpoisoned").push(stream);
                came.fetch_add(1, Ordering::SeqCst);
            }
        });
        made
    }

    /// Sends on.
    fn push(&self) {
        let bytes = vec![7; 64 * 1024];
        for stream in self.open.lock().expect("unpoisoned").iter_mut() {
            while matches!(stream.write(&bytes), Ok(1..)) {}
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

#[test]
fn fault_30_a_thousand_stalled_streams_are_bounded_and_hold_nobody_up() {
    const STREAMS: usize = 1000;
    everlink::net::kernel::raise_descriptor_limit().expect("raised");
    let (flood, deaf) = (Flood::start(true), Flood::start(false));
    let more = format!("{CALM}limits.connections = 2048\n");
    let services = [("flood", flood.address), ("deaf", deaf.address)];
    let road =
        Plan { services: &services, sidecar: &more, gateway: "limits.streams = 2048\n", ..Plan::default() }.build();
    let before = road.held();
    let at_first = [memory(road.sidecar.id()), memory(road.gateway().id())];
    let mut clients = Vec::new();
    let bytes = vec![9; 64 * 1024];
    for n in 0..STREAMS {
        // Half of them do not read, and half of them are not read.
        let mut client = connect_to(road.listener(if n % 2 == 0 { "flood" } else { "deaf" }));
        // What the tests' own ends take counts for the host as well.
        let _ = socket2::SockRef::from(&client).set_recv_buffer_size(8 << 10);
        let _ = socket2::SockRef::from(&client).set_send_buffer_size(8 << 10);
        client.set_nonblocking(true).expect("set");
        if n % 2 == 1 {
            while matches!(client.write(&bytes), Ok(1..)) {}
        }
        clients.push(client);
    }
    wait_until("all are there", || flood.came.load(Ordering::SeqCst) + deaf.came.load(Ordering::SeqCst) == STREAMS);
    // Whatever they take.
    wait_until("all stand still", || {
        let moved = [Way::Up, Way::Down].map(|way| road.relay.moved(way));
        flood.push();
        for client in clients.iter_mut().skip(1).step_by(2) {
            while matches!(client.write(&bytes), Ok(1..)) {}
        }
        std::thread::sleep(Duration::from_millis(300));
        let later = [Way::Up, Way::Down].map(|way| road.relay.moved(way));
        // Kernels grow the buffers of those who do not read now and then.
        moved.iter().zip(later).all(|(moved, later)| later < moved + 300_000)
    });
    let stalled = [memory(road.sidecar.id()), memory(road.gateway().id())];
    println!("memory, KiB: {at_first:?} before, {stalled:?} with {STREAMS} stalled streams");
    for (at_first, stalled) in at_first.into_iter().zip(stalled) {
        // `limits.windows` is 64 MiB, and replay has its 16.
        assert!(stalled < at_first + (84 << 10), "{at_first} and then {stalled} KiB");
    }
    // Nor do kernels hold much: what the host has for TCP is for all.
    let moved = [Way::Up, Way::Down].map(|way| road.relay.moved(way) / (STREAMS as u64 / 2));
    println!("bytes for each stalled stream, windows and kernels: {moved:?}");
    assert!(moved.iter().all(|bytes| *bytes < 512 << 10), "{moved:?}");
    let talks_on = [Pace::BULK, Pace::CHAT].map(|pace| Talk::start(road.listener("echo"), pace));
    let began = Instant::now();
    talks_on[0].until_moved(50 << 20);
    talks_on[1].until_moved(10_000);
    println!("50 MiB there and back beside them: {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(20));
    let mut late = road.connect("echo");
    talks(&mut late, b"and a new one");
    // They come through a loss as well.
    assert_eq!(road.relay.cut(How::Reset), 1);
    wait_until("resumed", || road.resumes("resumed") == 1.0);
    talks(&mut late, b"afterwards");
    talks_on.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    wait_until("all but the talks are still there", || road.of("connections") as usize == STREAMS + 1);
    drop(late);
    drop(clients);
    drop(flood.open.lock().expect("unpoisoned").drain(..));
    drop(deaf.open.lock().expect("unpoisoned").drain(..));
    road.until_baseline(before);
    let later = [memory(road.sidecar.id()), memory(road.gateway().id())];
    println!("memory, KiB: {later:?} when they are gone");
}

#[test]
fn fault_35_past_its_limit_of_connections_a_sidecar_refuses_and_goes_on() {
    let more = format!("{CALM}limits.connections = 3\n");
    let road = Plan { sidecar: &more, ..Plan::default() }.build();
    let before = road.held();
    let mut clients: Vec<_> = (0..3).map(|_| road.connect("echo")).collect();
    clients.iter_mut().for_each(|client| talks(client, b"in"));
    let mut fourth = road.connect("echo");
    let refused = fourth.read(&mut [0]);
    assert!(matches!(&refused, Ok(0)) || refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    wait_until("counted", || road.count("connections_refused_total", "reason=\"limit\"") == 1.0);
    clients.pop();
    wait_until("there is room", || road.of("connections") == 2.0);
    talks(&mut road.connect("echo"), b"in");
    clients.iter_mut().for_each(|client| talks(client, b"still in"));
    drop(clients);
    road.until_baseline(before);
}

/// The handshake stands still after any number of bytes: the dial has its time, the gateway has its own, and both get
/// everything back.
#[test]
fn fault_17_a_handshake_that_stalls_at_any_byte_is_given_up_in_time() {
    const LINKS: usize = 20;
    let quick = QUICK.replace("connect_timeout = \"2s\"", "connect_timeout = \"500ms\"");
    let more = format!("{quick}pool.size = {LINKS}\nresume.deadline = \"5m\"\n");
    let road = Plan {
        trust: Trust::certificates(),
        sidecar: &more,
        gateway: "resume.deadline = \"5m\"\nlimits = { pending_per_address = 256 }\n",
        ..Plan::default()
    }
    .build();
    road.until_up();
    let before = road.held();
    let talks_on: Vec<_> = (0..LINKS).map(|_| Talk::start(road.listener("echo"), Pace::CHAT)).collect();
    talks_on.iter().for_each(|talk| talk.until_moved(300));
    // A handshake has about 2 KiB each way, and the hello follows it.
    let limits: Vec<_> = [Way::Up, Way::Down]
        .iter()
        .flat_map(|way| (0..1800).step_by(45).map(move |at| Limit(*way, at, How::Silence)))
        .collect();
    let due = limits.len() as u64;
    road.relay.limit(limits);
    assert_eq!(road.relay.cut(How::Reset), LINKS);
    wait_until("all have stalled", || road.relay.limits_left() == 0 && road.relay.silenced() >= due / 2);
    talks_on.iter().for_each(|talk| talk.until_moved(300));
    assert!(road.count("link_dials_total", "outcome=\"timeout\"") >= due as f64 / 2.0);
    // The relay holds the gateway's ends open, so it is the gateway's own time that ends them.
    wait_until("nobody is pending any more", || {
        road.gateway().metric("everlink_gateway_handshakes_pending") == 0.0 && road.refusals("timeout") >= 1.0
    });
    println!("{} stalled, {} timed out at the gateway", road.relay.silenced(), road.refusals("timeout"));
    talks_on.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    road.relay.go_on();
    road.until_baseline(before);
}

/// Nobody who only connects keeps an honest sidecar out.
#[test]
fn fault_18_hundreds_of_silent_peers_keep_no_sidecar_out() {
    let mut road = Road::new();
    let gateway = SocketAddr::from(([127, 0, 0, 1], road.port));
    let before = road.held();
    let silent: Vec<_> = (0..300).map(|_| connect_to(gateway)).collect();
    wait_until("they are pending", || road.gateway().metric("everlink_gateway_handshakes_pending") >= 60.0);
    assert_eq!(road.relay.cut(How::Reset), 1);
    let lost = Instant::now();
    let mut client = road.connect("echo");
    talks(&mut client, b"let me in");
    println!("served after {:?}", lost.elapsed());
    assert!(lost.elapsed() < Duration::from_secs(8), "{:?}", lost.elapsed());
    assert!(road.refusals("pending") >= 1.0, "the excess is dropped");
    wait_until("their time is up", || road.gateway().metric("everlink_gateway_handshakes_pending") == 0.0);
    drop((silent, client));
    road.until_baseline(before);
    road.kill_gateway();
}

/// The whole of what a slow client has asked for arrives, through losses, however small its window.
#[test]
fn a_long_answer_survives_losses_byte_by_byte() {
    const LONG: usize = 64 << 20;
    let service = Server::start(|mut stream| {
        let mut answer = vec![0; LONG];
        fill(3, 0, &mut answer);
        stream.write_all(&answer)
    });
    let road =
        Plan { trust: Trust::certificates(), services: &[("library", service.address)], ..Plan::default() }.build();
    let before = road.held();
    let mut client = road.connect("library");
    let seen = Arc::<std::sync::atomic::AtomicU64>::default();
    let (over, counting) = (Arc::<AtomicBool>::default(), seen.clone());
    let told = over.clone();
    let reader = std::thread::spawn(move || {
        let all = check(3, &mut client, &counting);
        told.store(true, Ordering::SeqCst);
        all
    });
    let mut cuts = 0;
    while !over.load(Ordering::SeqCst) && cuts < 10 {
        let goal = seen.load(Ordering::SeqCst) + (4 << 20);
        wait_until("bytes flow", || seen.load(Ordering::SeqCst) >= goal || over.load(Ordering::SeqCst));
        cuts += road.relay.cut(if cuts % 2 == 0 { How::Reset } else { How::End });
    }
    assert_eq!(reader.join().expect("no panic").expect("the whole answer"), LONG as u64);
    assert!(cuts >= 3, "{cuts} cuts");
    road.until_baseline(before);
}
