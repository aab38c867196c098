//! Swizzle-clogging: random connections stop passing bytes one after the other, and go on in another random order. (The
//! invention is FoundationDB's: outages that come and go in no order find more than any single one.)

use std::net::SocketAddr;
use std::time::Duration;

use super::relay::{How, Relay, Way};
use super::road::{QUICK, Trust, descriptors, gateway, listener, memory, sidecar};
use super::traffic::{Pace, Talk};
use crate::common::program::{Program, free_port, wait_until};
use crate::common::server::{Server, echo};

const LINKS: usize = 6;
const ROUNDS: usize = 8;

const UP: &[Way] = &[Way::Up];
const DOWN: &[Way] = &[Way::Down];
const BOTH: &[Way] = &[Way::Up, Way::Down];

fn metric(sidecar: &Program, name: &str) -> f64 {
    sidecar.metric(&format!("everlink_{name}"))
}

/// Sessions by their ids, at both gateways.
fn sessions(gateways: &[Program]) -> Vec<String> {
    let of = |gateway: &Program| gateway.status().gateway.expect("a gateway").sessions;
    let mut ids: Vec<_> = gateways.iter().flat_map(of).map(|session| session.session.id).collect();
    ids.sort();
    ids
}

#[test]
fn fault_67_links_clogged_and_released_in_random_order_lose_no_byte() {
    let seed =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("SEED={seed} clogs the same again");
    let mut random = fastrand::Rng::with_seed(seed);
    let (trust, service) = (Trust::token(), Server::start(echo));
    let ports = [free_port(), free_port()];
    let gateways = ["gw-a", "gw-b"].iter().zip(ports).map(|(name, port)| {
        Program::start(&gateway(&trust, name, port, &[("echo", service.address)], "resume.deadline = \"5m\"\n"))
    });
    let gateways: Vec<_> = gateways.collect();
    let relays = ports.map(|port| Relay::start(&[SocketAddr::from(([127, 0, 0, 1], port))]));
    let more = format!("{QUICK}pool.size = {LINKS}\nbalance = \"round-robin\"\nresume.deadline = \"5m\"\n");
    let addresses = relays.each_ref().map(|relay| relay.address);
    let sidecar = Program::start(&sidecar(&trust, &addresses, &["echo"], &more));
    sidecar.until_up("site", LINKS);
    let at_first = sessions(&gateways);
    assert_eq!(at_first.len(), LINKS);
    let ends = || [sidecar.id(), gateways[0].id(), gateways[1].id()];
    let before = ends().map(descriptors);
    let door = listener(&sidecar, "echo");
    let paces = [Pace::CHAT, Pace::CHAT, Pace { piece: 20_000, pause: Duration::from_millis(3) }];
    let talks: Vec<_> = (0..2 * LINKS).map(|n| Talk::start(door, paces[n % paces.len()])).collect();
    talks.iter().for_each(|talk| talk.until_moved(1000));
    let used = ends().map(memory);

    let (mut clogs, mut cuts) = (0, 0);
    for round in 0..ROUNDS {
        let mut all: Vec<_> = (0..2)
            .flat_map(|relay| relays[relay].connections().into_iter().map(move |number| (relay, number)))
            .collect();
        all.sort_unstable();
        random.shuffle(&mut all);
        all.truncate(random.usize(1..=all.len()));
        let mut clogged = Vec::new();
        for (relay, connection) in all {
            let ways = [UP, DOWN, BOTH][random.usize(0..3)];
            if relays[relay].clog(connection, ways, true) {
                clogged.push((relay, connection, ways));
            }
            std::thread::sleep(Duration::from_millis(random.u64(0..150)));
        }
        clogs += clogged.len();
        // Shorter than the budget or longer.
        std::thread::sleep(Duration::from_millis(random.u64(100..2500)));
        random.shuffle(&mut clogged);
        for (relay, connection, ways) in clogged {
            // One of those that were given up meanwhile may be gone.
            relays[relay].clog(connection, ways, false);
            std::thread::sleep(Duration::from_millis(random.u64(0..150)));
        }
        if random.bool() {
            cuts += relays[random.usize(0..2)].cut(How::Reset);
        }
        talks.iter().for_each(|talk| talk.until_moved(500));
        assert_eq!(sessions(&gateways), at_first, "round {round}");
    }
    let held: u64 = relays.iter().map(Relay::held).sum();
    let resumed = metric(&sidecar, "session_resumes_total{outcome=\"resumed\",upstream=\"site\"}");
    println!("{clogs} clogs that held {held} bytes, {cuts} cuts, {resumed} resumes");
    assert!(clogs >= ROUNDS && held > 0, "{clogs} clogs held {held} bytes");
    assert!(resumed >= 1.0, "some lasted longer than the budget");
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    sidecar.until_up("site", LINKS);

    wait_until("no client is left", || metric(&sidecar, "connections{upstream=\"site\"}") == 0.0);
    assert_eq!(metric(&sidecar, "connections_closed_total{reason=\"finished\",upstream=\"site\"}"), 2.0 * LINKS as f64);
    for outcome in ["unknown", "expired"] {
        assert_eq!(metric(&sidecar, &format!("session_resumes_total{{outcome=\"{outcome}\",upstream=\"site\"}}")), 0.0);
    }
    wait_until("no stream is left", || {
        service.live() == 0 && gateways.iter().all(|gateway| gateway.metric("everlink_gateway_streams") == 0.0)
    });
    wait_until("descriptors", || ends().map(descriptors).iter().zip(before).all(|(now, before)| *now <= before));
    for (now, used) in ends().map(memory).iter().zip(used) {
        assert!(*now < used + (32 << 10), "memory, KiB: {used} and then {now}");
    }
}
