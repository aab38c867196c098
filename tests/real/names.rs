//! Names that lead elsewhere while links stand, with a nameserver of the tests' own.

use std::time::{Duration, Instant};

use super::tunnel::{BEATS, DOOR, SERVICE, certificates, gateway, service, sidecar_with, talks};
use crate::common::server::echo;
use crate::faults::net::{Namespace, Net, until};
use crate::faults::program::Figures;
use crate::faults::servers::{Nameserver, Server, answering};

/// Two answers without the old address, each within 33 s of the one before, and the first question within 30 s.
const NOTICED: Duration = Duration::from_secs(100);

fn planned_only(figures: &Figures, upstream: &str) {
    let planned = (figures.losses(upstream, "reload") + figures.losses(upstream, "aged")) as f64;
    assert_eq!((figures.all_losses(upstream), figures.of("link_reconnects_total", upstream)), (planned, 0.0));
}

/// The same gateway, and the same server, under another address.
#[test]
fn fault_41_links_follow_their_name_to_another_address_and_nobody_notices() {
    let net = Net::new();
    net.b.ip(&["address", "add", "10.77.0.3/24", "dev", "wire"]);
    let _echo = Server::start(&net.b, SERVICE, echo);
    let [first, second] = ["10.77.0.2:9100", "10.77.0.3:9100"].map(|at| Server::start(&net.b, at, answering));
    let dns = Nameserver::start(&net.b, "10.77.0.2");
    dns.set("far.test", &["10.77.0.2"]);
    net.a.etc("resolv.conf", "nameserver 10.77.0.2\noptions timeout:1 attempts:1\n");
    let authority = certificates();
    let gateway = gateway(&net.b, &authority, "name = \"gw-1\"\n", service());
    let direct = "[upstreams.plain]\nlisten = \"127.0.0.1:7001\"\nendpoints = [\"far.test:9100\"]\n\
                  heartbeat = { interval = \"1s\", timeout = \"500ms\", misses = 3, send = \"ping\", expect = \"pong\" }\n";
    let sidecar = sidecar_with(&net.a, &authority, "far.test:7443", BEATS, direct);
    sidecar.until_up("plain", 2);
    let [mut through, mut beside] = [DOOR, "127.0.0.1:7001"].map(|door| net.client(door));
    talks(&mut through, b"over the first address");
    talks(&mut beside, b"over the first address");
    sidecar.until_up("plain", 2);

    // A nameserver that is silent, or has lost the name, moves nobody; what it then says does.
    dns.be_silent(true);
    dns.set("far.test", &["10.77.0.3"]);
    let from = Instant::now();
    until("it is asked in vain", NOTICED, || sidecar.log().contains("DNS failed"));
    planned_only(&sidecar.figures(), "site");
    dns.be_silent(false);
    sidecar.until_within(2 * NOTICED, "the session has moved", |figures| figures.losses("site", "reload") == 1);
    let figures = sidecar.until_within(NOTICED, "so have both warm links", |f| f.losses("plain", "reload") == 2);
    println!("all moved within {:?}", from.elapsed());
    planned_only(&figures, "site");
    planned_only(&figures, "plain");
    assert_eq!(figures.get("everlink_session_resumes_total", &[("upstream", "site"), ("outcome", "resumed")]), 1.0);
    talks(&mut through, b"over the second");
    talks(&mut beside, b"still over the first");
    assert_eq!((first.connections(), second.connections()), (3, 2));
    assert!(sidecar.log().contains("far.test does not lead to 10.77.0.2 any more"), "{}", sidecar.log());

    // The first address may go now: the session has nothing there any more.
    net.b.ip(&["address", "del", "10.77.0.2/24", "dev", "wire"]);
    net.b.ip(&["address", "replace", "10.77.0.3/24", "dev", "wire"]);
    talks(&mut through, b"and without the first");
    let figures = gateway.figures();
    assert_eq!(figures.get("everlink_gateway_sessions", &[]), 1.0);
}

/// Another gateway, which does not know the session: what runs stays and is not cut, what is new goes there.
#[test]
fn fault_41_a_name_that_leads_to_another_gateway_is_for_new_streams_and_those_that_run_stay() {
    let net = Net::new();
    let other = Namespace::new("c");
    net.a.join("other", "10.78.0.1/24", &other, "wire", "10.78.0.2/24");
    let echoes = [&net.b, &other].map(|place| Server::start(place, SERVICE, echo));
    let dns = Nameserver::start(&net.b, "10.77.0.2");
    dns.set("far.test", &["10.77.0.2"]);
    net.a.etc("resolv.conf", "nameserver 10.77.0.2\noptions timeout:1 attempts:1\n");
    let authority = certificates();
    let gateways = [(&net.b, "gw-1"), (&other, "gw-2")]
        .map(|(place, name)| gateway(place, &authority, &format!("name = \"{name}\"\n"), service()));
    // A drain would cut after a second; nobody here is in one.
    let more = format!("{BEATS}[drain]\ntimeout = \"1s\"\n[defaults.limits]\nwait = \"5s\"\n");
    let sidecar = sidecar_with(&net.a, &authority, "far.test:7443", BEATS, more.trim_start_matches(BEATS));
    let mut old = net.client(DOOR);
    talks(&mut old, b"at the first gateway");
    let before = sidecar.held();

    dns.set("far.test", &["10.78.0.2"]);
    let sessions = |at: usize| gateways[at].figures().get("everlink_gateway_sessions", &[]);
    until("a link to the other gateway stands", 2 * NOTICED, || sessions(1) == 1.0);
    sidecar.until("the old link takes no more", |figures| figures.links("site", "draining") == 1);
    std::thread::sleep(Duration::from_secs(3));
    talks(&mut old, b"still at the first");
    let mut new = net.client(DOOR);
    talks(&mut new, b"at the second");
    assert_eq!(echoes.each_ref().map(Server::connections), [1, 1]);
    assert!(sidecar.log().contains("far.test leads to another gateway now"), "{}", sidecar.log());
    let figures = sidecar.figures();
    assert_eq!((figures.all_losses("site"), figures.closed("site", "drained")), (0.0, 0));

    // Its last stream ends, and it with it.
    drop(old);
    until("the first gateway has no session left", 2 * NOTICED, || sessions(0) == 0.0);
    sidecar.until("one link is left", |figures| figures.links("site", "draining") == 0);
    talks(&mut new, b"and on");
    sidecar.until_baseline(before);
}
