//! A wire on which nothing comes through any more, both ways or one, and nobody says so.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::setting::{
    BUDGET, KEEPALIVE, LISTENER, NONE, PING, RETRY_MAX, SERVER, SLACK, TIMEOUT, carried, end_of, fill, is_reset, talks,
    up, usual,
};
use crate::common::PATIENCE;
use crate::common::server::echo;
use crate::faults::net::{Net, until};
use crate::faults::program::Program;
use crate::faults::servers::{Server, answering};

#[test]
fn fault_10_black_hole_idle() {
    let net = Net::new();
    let (_server, everlink, held) = up(&net, PING, answering);
    let down_before = everlink.figures().of("link_downtime_seconds_total", "test");

    let cut = net.cut();
    let from = Instant::now();
    everlink.until("both links are dead", |f| f.losses("test", "heartbeat") == 2);
    let noticed = from.elapsed();
    assert!(noticed <= BUDGET + SLACK, "noticed after {noticed:?}");
    everlink.until("dials time out", |f| f.dials("test", "timeout") >= 4 && f.of("upstream_up", "test") == 0.0);
    let dark = from.elapsed() - noticed;

    let healed = cut.heal();
    let figures = everlink.until_back(2, 2);
    let back = healed.elapsed();
    assert!(back <= RETRY_MAX + SLACK, "back after {back:?}");
    println!("idle, beats: noticed after {noticed:?}, back {back:?} after the heal");
    assert_eq!(figures.all_losses("test"), 2.0);
    assert!(figures.of("heartbeats_missed_total", "test") >= 6.0);
    let downtime = figures.of("link_downtime_seconds_total", "test") - down_before;
    assert!(downtime >= dark.as_secs_f64() - 0.1, "down for {downtime} s, at least {dark:?} of it seen");
    assert!(downtime <= (from.elapsed() - noticed + SLACK).as_secs_f64(), "down for {downtime} s");
    everlink.until_baseline(held);
    talks(&mut net.client(LISTENER), b"hello");
}

#[test]
fn fault_10_black_hole_idle_without_beats() {
    let net = Net::new();
    let (_server, everlink, held) = up(&net, NONE, echo);

    let cut = net.cut();
    let from = Instant::now();
    everlink.until("links are suspect first", |f| f.links("test", "suspect") > 0);
    everlink.until("both links are dead", |f| f.losses("test", "heartbeat") == 2);
    let noticed = from.elapsed();
    // Keepalive is set on a connection that has lived for a second.
    let latest = everlink::net::socket::SUSTAIN_AFTER + KEEPALIVE;
    assert!(noticed <= latest + SLACK, "noticed after {noticed:?}");

    let healed = cut.heal();
    let figures = everlink.until_back(2, 2);
    let back = healed.elapsed();
    assert!(back <= RETRY_MAX + SLACK, "back after {back:?}");
    println!("idle, keepalive: noticed after {noticed:?}, back {back:?} after the heal");
    assert_eq!(figures.all_losses("test"), 2.0);
    assert_eq!(figures.of("heartbeats_sent_total", "test"), 0.0);
    everlink.until_baseline(held);
}

#[test]
fn fault_11_black_hole_with_data_in_flight() {
    let net = Net::new();
    let (_server, everlink, held) = up(&net, NONE, echo);
    let mut client = carried(&net, &everlink);

    let cut = net.cut();
    let from = Instant::now();
    client.write_all(&[7; 100_000]).expect("sent");
    assert!(is_reset(end_of(&mut client)), "the client is told by a reset");
    let judged = from.elapsed();
    assert!(judged >= BUDGET, "not before the budget: {judged:?}");
    // `misses` retransmissions at 0.2, 0.6 and 1.4 s, then a look every `timeout`.
    assert!(judged <= BUDGET + TIMEOUT + SLACK, "judged after {judged:?}");
    println!("in use, data in flight: judged dead after {judged:?}");
    let figures = everlink.until("a death that everlink finds is a loss", |f| {
        f.closed("test", "dead") == 1 && f.losses("test", "heartbeat") == 1
    });
    assert_eq!(figures.get("everlink_endpoint_losses_total", &[("endpoint", SERVER)]), 1.0);
    assert_eq!(figures.of("connections", "test"), 0.0);

    cut.heal();
    let mut client = net.client(LISTENER);
    talks(&mut client, b"hello");
    drop(client);
    everlink.until("the pool is whole", |f| f.links("test", "up") == 2 && f.of("connections", "test") == 0.0);
    everlink.until_baseline(held);
}

/// Looks at TCP are a timeout apart, but not when one would come after the end of the budget.
#[test]
fn fault_11_with_a_long_timeout_data_in_flight_is_judged_within_a_second_of_the_budget() {
    let net = Net::new();
    let _server = Server::start(&net.b, SERVER, echo);
    let beats = "interval = \"2s\", timeout = \"8s\", misses = 1";
    let text = usual(NONE).replace("interval = \"500ms\", timeout = \"300ms\", misses = 3", beats);
    let everlink = Program::start(&net.a, &text);
    everlink.until_up("test", 2);
    let mut client = net.client(LISTENER);
    talks(&mut client, b"hello");
    let _cut = net.cut();
    let from = Instant::now();
    client.write_all(&[7; 100_000]).expect("sent");
    assert!(is_reset(end_of(&mut client)), "the client is told by a reset");
    let (judged, budget) = (from.elapsed(), Duration::from_secs(10));
    // What counts is the last acknowledgement, a moment before the cut.
    let (least, most) = (budget - Duration::from_millis(600), budget + Duration::from_secs(1) + SLACK);
    assert!(judged > least && judged <= most, "judged after {judged:?}");
}

#[test]
fn fault_11_a_server_that_does_not_read_is_kept_until_it_is_dead() {
    let net = Net::new();
    let (reads, read) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicUsize>::default());
    let (may, count) = (reads.clone(), read.clone());
    let _server = Server::start(&net.b, SERVER, move |mut stream| {
        while !may.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                bytes => count.fetch_add(bytes, Ordering::SeqCst),
            };
        }
    });
    let everlink = Program::start(&net.a, &usual(NONE));
    everlink.until_up("test", 2);
    let held = everlink.held();
    let mut clients = [net.client(LISTENER), net.client(LISTENER)];
    let filled = clients.each_mut().map(fill);
    let stalled = Instant::now();
    // This fault is the passing of time.
    std::thread::sleep(3 * BUDGET);
    let figures = everlink.figures();
    assert_eq!((figures.of("connections", "test"), figures.all_losses("test")), (2.0, 0.0));
    let kept = stalled.elapsed();

    let cut = net.cut();
    let from = Instant::now();
    everlink.until("both are judged dead", |f| f.closed("test", "dead") == 2 && f.losses("test", "heartbeat") >= 2);
    let judged = from.elapsed();
    // Probes of a shut window are at most a second apart here; three have to fail, and a look has to see it.
    assert!(judged >= BUDGET && judged <= Duration::from_secs(4) + TIMEOUT + SLACK, "judged after {judged:?}");
    println!("in use, window shut: kept for {kept:?} alive, judged dead {judged:?} after the cut");
    assert!(clients.iter_mut().all(|client| is_reset(end_of(client))));
    cut.heal();

    everlink.until_up("test", 2);
    // Of many at once three lines a second are told.
    assert!(everlink.log().contains("connection in use was dead"), "{}", everlink.log());
    let mut client = net.client(LISTENER);
    let again = fill(&mut client);
    assert!(filled.iter().all(|bytes| *bytes > 100_000) && again > 100_000);
    reads.store(true, Ordering::SeqCst);
    client.shutdown(Shutdown::Write).expect("half-closed");
    end_of(&mut client).expect("an end in order");
    until("the reader gets all", PATIENCE, || read.load(Ordering::SeqCst) as u64 >= again);
    drop((client, clients));
    everlink.until("the pool is whole", |f| f.links("test", "up") == 2 && f.of("connections", "test") == 0.0);
    everlink.until_baseline(held);
}

#[test]
fn fault_12_one_way_loss() {
    let net = Net::new();
    let (_server, everlink, held) = up(&net, PING, answering);
    for (round, direction) in ["to the server", "from the server"].into_iter().enumerate() {
        let mut client = carried(&net, &everlink);
        let fault = if round == 0 { net.lose_from_a() } else { net.lose_from_b() };
        let from = Instant::now();
        client.write_all(b"is anybody there?").expect("sent");
        // Two warm links, and the one in use.
        everlink.until("all are dead", |f| f.losses("test", "heartbeat") == 3 * (round + 1));
        let noticed = from.elapsed();
        // A look that finds bytes in flight, one a budget later that finds the same.
        assert!(noticed <= BUDGET + 2 * TIMEOUT + SLACK, "{direction}: noticed after {noticed:?}");
        println!("loss {direction}: noticed after {noticed:?}");
        // What the server sent may still have come.
        let _ = end_of(&mut client);
        assert_eq!(everlink.figures().closed("test", "dead"), round + 1);
        fault.heal();
        everlink.until_back(2, 2 * (round + 1));
        talks(&mut net.client(LISTENER), b"hello");
        everlink.until_up("test", 2);
    }
    everlink.until_baseline(held);
}
