//! What goes and comes again: connections, clients, the interface, the network in the middle of a transfer.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::setting::{
    BUDGET, KEEPALIVE, LISTENER, NONE, PING, RETRY_MAX, SERVER, SLACK, TIMEOUT, busy_during, carried, end_of, is_reset,
    talks, up, upstream,
};
use crate::common::PATIENCE;
use crate::common::server::echo;
use crate::faults::net::{Namespace, Net, until};
use crate::faults::program::Program;
use crate::faults::servers::{Seen, Server, answering, send_pattern};

#[test]
fn fault_07_a_reset_is_told_as_one_and_redialled() {
    let net = Net::new();
    let (server, everlink, held) = up(&net, PING, answering);
    let mut client = carried(&net, &everlink);

    let fault = net.b.reset("iifname wire tcp dport 9000");
    client.write_all(b"anybody there?").expect("sent");
    assert!(is_reset(end_of(&mut client)), "the client hears of it as a reset");
    let figures = everlink.until("both links are lost", |f| f.losses("test", "reset") == 2);
    assert_eq!(figures.closed("test", "upstream_reset"), 1);
    everlink.until("dials are refused", |f| f.dials("test", "refused") >= 2 && f.of("upstream_up", "test") == 0.0);
    fault.heal();
    let figures = everlink.until_back(2, 2);
    assert_eq!(figures.all_losses("test"), 2.0);
    assert!(server.connections() >= 5);
    everlink.until_baseline(held);
}

#[test]
fn fault_34_a_client_that_vanishes_is_freed() {
    let net = Net::new();
    let far = Namespace::new("c");
    net.a.join("local", "10.78.0.1/24", &far, "wire", "10.78.0.2/24");
    let _echo = Server::start(&net.b, SERVER, echo);
    let _flood = Server::start(&net.b, "10.77.0.2:9001", |mut stream| {
        loop {
            stream.write_all(&[7; 16 * 1024])?;
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let open = "insecure_listen = true";
    let config = upstream("quiet", "10.78.0.1:7000", SERVER, NONE, open)
        + &upstream("flood", "10.78.0.1:7001", "10.77.0.2:9001", NONE, open);
    let everlink = Program::start(&net.a, &config);
    everlink.until_up("flood", 2);
    everlink.until_up("quiet", 2);
    let held = everlink.held();

    // Alive and not reading: kept.
    let stalled = far.connect("10.78.0.1:7001");
    std::thread::sleep(3 * BUDGET);
    assert_eq!(everlink.figures().of("connections", "flood"), 1.0);
    let mut reading = far.connect("10.78.0.1:7001");
    reading.read_exact(&mut [0; 100_000]).expect("it flows");
    let mut copy = reading.try_clone().expect("cloned");
    let reader = std::thread::spawn(move || end_of(&mut copy));
    let mut quiet = far.connect("10.78.0.1:7000");
    talks(&mut quiet, b"hello");

    let faults = [net.a.lose("iifname local"), far.lose("iifname wire")];
    let from = Instant::now();
    let mut gone = [None; 3];
    everlink.until("all are freed", |f| {
        let now = from.elapsed();
        let open = f.of("connections", "flood");
        let freed = [open <= 1.0, open == 0.0, f.of("connections", "quiet") == 0.0];
        for (gone, freed) in gone.iter_mut().zip(freed) {
            if freed && gone.is_none() {
                *gone = Some(now);
            }
        }
        freed == [true; 3]
    });
    let [first, second, idle] = gone.map(|at| at.expect("all are"));
    println!(
        "vanished clients: with bytes in flight freed after {first:?}, with a shut window {second:?}, idle {idle:?}"
    );
    assert!(idle <= KEEPALIVE + SLACK, "idle: {idle:?}");
    assert!(first <= BUDGET + TIMEOUT + SLACK, "with bytes in flight: {first:?}");
    assert!(second <= Duration::from_secs(4) + TIMEOUT + SLACK, "with a shut window: {second:?}");
    let figures = everlink.figures();
    assert_eq!((figures.closed("flood", "client_reset"), figures.closed("quiet", "client_reset")), (2, 1));
    assert_eq!((figures.all_losses("flood"), figures.all_losses("quiet")), (0.0, 0.0), "the upstreams are well");
    faults.into_iter().for_each(|fault| fault.heal());
    drop(stalled);
    let _ = reading.shutdown(Shutdown::Both);
    let _ = reader.join();
    everlink.until_up("flood", 2);
    everlink.until_up("quiet", 2);
    everlink.until_baseline(held);
}

#[test]
fn fault_43_the_interface_goes_and_returns() {
    let net = Net::new();
    let (_server, everlink, held) = up(&net, PING, answering);
    let mut client = carried(&net, &everlink);

    net.unplug();
    let from = Instant::now();
    client.write_all(b"anybody there?").expect("sent");
    let mut noticed = Duration::ZERO;
    let busy = busy_during(&everlink, || {
        everlink.until("both links are lost", |f| f.links("test", "up") + f.links("test", "suspect") == 0);
        noticed = from.elapsed();
        everlink.until("dials find no way", |f| f.dials("test", "refused") >= 6);
        assert!(is_reset(end_of(&mut client)));
    });
    println!("interface down: links lost after {noticed:?}, {:.0} % of a core", busy * 100.0);
    assert!(noticed <= BUDGET + SLACK, "noticed after {noticed:?}");
    assert!(busy < 0.5, "{busy} of a core");
    let figures = everlink.until("counted", |f| f.closed("test", "dead") == 1);
    assert_eq!((figures.of("upstream_up", "test"), figures.dials("test", "local")), (0.0, 0));

    net.plug_in();
    let from = Instant::now();
    everlink.until_up("test", 2);
    assert!(from.elapsed() <= RETRY_MAX + SLACK, "back after {:?}", from.elapsed());
    talks(&mut net.client(LISTENER), b"hello");
    everlink.until_up("test", 2);
    everlink.until_baseline(held);
}

/// What an outage of `length` in mid-transfer did: how long after the heal bytes moved again, sent and received.
fn cut_in_mid_transfer(length: Duration) -> (Duration, Duration) {
    let net = Net::new();
    let received = Arc::new(Seen::default());
    let seen = received.clone();
    let _sink = Server::start(&net.b, SERVER, move |mut stream| seen.read(&mut stream));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let _source = Server::start(&net.b, "10.77.0.2:9001", move |mut stream| {
        send_pattern(&mut stream, &stopped);
        end_of(&mut stream)
    });
    // The heartbeat's defaults, whose budget is 14 s.
    let config = format!(
        "[upstreams.up]\nlisten = \"{LISTENER}\"\nendpoints = [\"{SERVER}\"]\n\
         [upstreams.down]\nlisten = \"127.0.0.1:7001\"\nendpoints = [\"10.77.0.2:9001\"]\n"
    );
    let everlink = Program::start(&net.a, &config);
    everlink.until_up("up", 2);
    everlink.until_up("down", 2);
    let (mut writer, mut reader) = (net.client(LISTENER), net.client("127.0.0.1:7001"));
    let delivered = Arc::new(Seen::default());
    let (stopped, seen) = (stop.clone(), delivered.clone());
    let writing = std::thread::spawn(move || (send_pattern(&mut writer, &stopped), writer));
    let reading = std::thread::spawn(move || seen.read(&mut reader).map(|()| reader));
    // Long enough in use for the bound on retransmissions to be set.
    let (from, lived) = (Instant::now(), everlink::net::socket::SUSTAIN_AFTER + Duration::from_millis(500));
    until("bytes flow", PATIENCE, || {
        let flow = |seen: &Seen| seen.bytes.load(Ordering::SeqCst) > 1_000_000;
        flow(&received) && flow(&delivered) && from.elapsed() > lived
    });

    let cut = net.cut();
    std::thread::sleep(length);
    let healed = cut.heal();
    let moved = [&received, &delivered].map(|seen| {
        until("bytes move again", PATIENCE, || seen.first_after(healed).is_some());
        seen.first_after(healed).expect("some") - healed
    });
    stop.store(true, Ordering::SeqCst);
    let (sent, _writer) = writing.join().expect("written");
    until("the server reads the end", PATIENCE, || received.ended.load(Ordering::SeqCst));
    let _reader = reading.join().expect("read").expect("to the end");
    assert_eq!(received.bytes.load(Ordering::SeqCst), sent, "after {length:?}");
    assert!(delivered.ended.load(Ordering::SeqCst));
    for seen in [&received, &delivered] {
        assert!(!seen.wrong.load(Ordering::SeqCst), "a byte differs after {length:?}");
    }
    let figures = everlink.figures();
    assert_eq!((figures.closed("up", "dead"), figures.closed("down", "dead")), (0, 0));
    (moved[0], moved[1])
}

#[test]
fn a_silent_cut_in_mid_transfer_loses_nothing_and_bytes_soon_move_again() {
    std::thread::scope(|scope| {
        let cuts = [2, 4, 7, 10].map(|seconds| {
            let length = Duration::from_secs(seconds);
            (length, scope.spawn(move || cut_in_mid_transfer(length)))
        });
        for (length, cut) in cuts {
            let (sent, received) = cut.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            println!("cut of {length:?}: bytes to the server move {sent:?} after the heal, from it {received:?}");
            // 1.5 s on a quiet machine; 5.6 s after the cut of 7 s if TCP's own backoff were all there is. What the server
            // sends waits for the server's own retransmission.
            assert!(sent <= Duration::from_secs(4), "{sent:?} after a cut of {length:?}");
        }
    });
}
