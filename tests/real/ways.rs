//! Ways to a gateway that lead nowhere, and clients who vanish, with whole programs in namespaces.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::tunnel::{BEATS, DOOR, SERVICE, certificates, gateway, service, sidecar, sidecar_with, talks};
use crate::common::server::echo;
use crate::faults::net::{Namespace, Net};
use crate::faults::servers::Server;

/// For a busy machine.
const SLACK: Duration = Duration::from_millis(700);

#[test]
fn fault_42_a_gateway_is_reached_by_ipv4_when_ipv6_leads_nowhere() {
    let net = Net::new();
    let _echo = Server::start(&net.b, SERVICE, echo);
    net.a.etc("hosts", "fd77::2 gateway.test\n10.77.0.2 gateway.test\n");
    let authority = certificates();
    let gateway = gateway(&net.b, &authority, "name = \"gw-1\"\n", service());
    let fault = net.b.lose("iifname wire meta nfproto ipv6 meta l4proto tcp");
    let sidecar = sidecar(&net.a, &authority, "gateway.test:7443", BEATS);
    let held = [sidecar.held(), gateway.held()];
    let figures = sidecar.figures();
    let seconds = figures.of("link_dial_duration_seconds_sum", "site") / figures.dials("site", "ok") as f64;
    println!("IPv6 black-holed: connected after {seconds:.3} s");
    // RFC 8305 starts the next address after 250 ms; the handshake comes on top.
    assert!((0.2..4.0).contains(&seconds), "{seconds}");
    assert_eq!((figures.dials("site", "timeout"), figures.dials("site", "ok")), (0, 1));
    talks(&mut net.client(DOOR), b"by the other way");
    fault.heal();
    sidecar.until("no client is left", |figures| figures.of("connections", "site") == 0.0);
    sidecar.until_baseline(held[0]);
    gateway.until_baseline(held[1]);
}

#[test]
fn fault_42_with_the_first_of_three_gateways_silent_the_next_is_tried_before_any_wait() {
    let net = Net::new();
    let _echo = Server::start(&net.b, SERVICE, echo);
    net.b.ip(&["address", "add", "10.77.0.3/24", "dev", "wire"]);
    let authority = certificates();
    let gateway = gateway(&net.b, &authority, "name = \"gw-1\"\n", service());
    let fault = net.b.lose("iifname wire ip daddr 10.77.0.3 tcp dport 7443");
    // The first says nothing, at the second nobody listens, and the wait after a round that failed would be long.
    let more =
        format!("{BEATS}retry = {{ initial = \"20s\", max = \"20s\", jitter = \"off\", connect_timeout = \"1s\" }}\n");
    let began = Instant::now();
    let endpoints = "10.77.0.3:7443\", \"10.77.0.2:7444\", \"10.77.0.2:7443";
    let sidecar = sidecar(&net.a, &authority, endpoints, &more);
    let took = began.elapsed();
    println!("up by the third after {took:?}");
    // The wait that it is not to be.
    assert!(took < Duration::from_secs(15), "{took:?}");
    let figures = sidecar.figures();
    assert!(figures.dials("site", "timeout") >= 1 && figures.dials("site", "refused") >= 1);
    talks(&mut net.client(DOOR), b"by the third");
    fault.heal();
    gateway.until("no stream is left", |figures| figures.get("everlink_gateway_streams", &[]) == 0.0);
}

/// The client's host is gone, and nobody says so: with nothing on its way, and with bytes that it will not acknowledge.
#[test]
fn fault_34_clients_of_a_tunnel_that_vanish_are_freed_at_both_ends() {
    /// What keepalive makes of the beats: whole seconds.
    const KEEPALIVE: Duration = Duration::from_secs(4);
    let net = Net::new();
    let far = Namespace::new("c");
    net.a.join("local", "10.78.0.1/24", &far, "wire", "10.78.0.2/24");
    let _echo = Server::start(&net.b, SERVICE, echo);
    let authority = certificates();
    let gateway = gateway(&net.b, &authority, "name = \"gw-1\"\n", service());
    let forward = "[[upstreams.site.forwards]]\nlisten = \"10.78.0.1:7001\"\nservice = \"server\"\n";
    let sidecar =
        sidecar_with(&net.a, &authority, "10.77.0.2:7443", &format!("{BEATS}insecure_listen = true\n"), forward);
    let held = [sidecar.held(), gateway.held()];
    let mut near = net.client(DOOR);
    talks(&mut near, b"here to stay");
    let [mut idle, mut busy] = ["10.78.0.1:7001"; 2].map(|address| far.connect(address));
    talks(&mut idle, b"and silent");
    // It writes and does not read: its own answers are on their way when it vanishes.
    let mut reading = busy.try_clone().expect("cloned");
    let reader = std::thread::spawn(move || std::io::copy(&mut reading, &mut std::io::sink()));
    let mut writing = busy.try_clone().expect("cloned");
    let writer = std::thread::spawn(move || while writing.write_all(&[7; 16 * 1024]).is_ok() {});
    sidecar.until("all are carried", |figures| figures.of("connections", "site") == 3.0);
    std::thread::sleep(Duration::from_millis(1500));

    let faults = [net.a.lose("iifname local"), far.lose("iifname wire")];
    let from = Instant::now();
    let mut gone = [None; 2];
    sidecar.until("both are freed", |figures| {
        let open = figures.of("connections", "site");
        for (gone, left) in gone.iter_mut().zip([2.0, 1.0]) {
            if open <= left && gone.is_none() {
                *gone = Some(from.elapsed());
            }
        }
        open == 1.0
    });
    let [first, second] = gone.map(|at| at.expect("both"));
    println!("vanished: the first freed after {first:?}, the second after {second:?}");
    assert!(second <= 2 * KEEPALIVE + SLACK, "{second:?}");
    let figures = gateway.until("and at the gateway", |figures| figures.get("everlink_gateway_streams", &[]) == 1.0);
    assert_eq!(figures.get("everlink_gateway_sessions", &[]), 1.0);
    let figures = sidecar.figures();
    assert_eq!((figures.closed("site", "client_reset"), figures.all_losses("site")), (2, 0.0), "the link is well");
    talks(&mut near, b"still here");
    faults.into_iter().for_each(|fault| fault.heal());
    for stream in [&mut idle, &mut busy] {
        let _ = stream.shutdown(Shutdown::Both);
    }
    drop((idle, busy, near));
    let _ = (reader.join(), writer.join());
    sidecar.until("nobody is left", |figures| figures.of("connections", "site") == 0.0);
    sidecar.until_baseline(held[0]);
    gateway.until_baseline(held[1]);
}
