//! Two gateways, and sessions that live at one of them.

use std::io::Read;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use super::relay::{How, Relay};
use super::road::{CALM, Trust, connect_to, end_of, gateway, is_reset, listener, sidecar, talks};
use super::traffic::{Pace, Talk};
use crate::common::program::{Program, free_port, send, wait_until};
use crate::common::server::{Server, echo};

/// A gateway, and the way on which it says it is reached.
struct Instance {
    program: Option<Program>,
    way: Relay,
    port: u16,
    name: &'static str,
}

impl Instance {
    fn start(trust: &Trust, name: &'static str, service: SocketAddr) -> Self {
        let port = free_port();
        let way = Relay::start(&[SocketAddr::from(([127, 0, 0, 1], port))]);
        let mut made = Self { program: None, way, port, name };
        made.start_again(trust, service);
        made
    }

    fn start_again(&mut self, trust: &Trust, service: SocketAddr) {
        let advertise = match trust {
            Trust::Certificates(_) => format!("advertise = \"{}\"\n", self.way.address),
            Trust::Token(_) => String::new(),
        };
        let text = gateway(trust, self.name, self.port, &[("echo", service)], &advertise);
        self.program = Some(Program::start(&text));
    }

    fn program(&self) -> &Program {
        self.program.as_ref().expect("it runs")
    }

    fn sessions(&self) -> usize {
        self.program().status().gateway.expect("a gateway").sessions.len()
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
}

/// Two gateways, and a sidecar with a way to each, in this order.
fn two_gateways(more: &str) -> (Trust, Server, [Instance; 2], Program) {
    let (trust, service) = (Trust::token(), Server::start(echo));
    let both = ["gw-a", "gw-b"].map(|name| Instance::start(&trust, name, service.address));
    let ways = [both[0].way.address, both[1].way.address];
    let sidecar = Program::start(&sidecar(&trust, &ways, &["echo"], more));
    (trust, service, both, sidecar)
}

fn metric(sidecar: &Program, name: &str) -> f64 {
    sidecar.metric(&format!("everlink_{name}"))
}

const RESUMED: &str = "session_resumes_total{outcome=\"resumed\",upstream=\"site\"}";
const LINKS: usize = 4;

/// Both gateways stand behind one address that leads to either in turn.
fn cut_again_and_again(trust: Trust, cuts: usize) {
    let service = Server::start(echo);
    let [a, b] = ["gw-a", "gw-b"].map(|name| Instance::start(&trust, name, service.address));
    let (to_a, to_b) = match &trust {
        Trust::Certificates(_) => (a.way.address, b.way.address),
        Trust::Token(_) => (a.address(), b.address()),
    };
    let front = Relay::start(&[to_a, to_b]);
    let more = format!("{CALM}pool.size = {LINKS}\n");
    let sidecar = Program::start(&sidecar(&trust, &[front.address], &["echo"], &more));
    sidecar.until_up("site", LINKS);
    assert!(a.sessions() > 0 && b.sessions() > 0, "both are used");
    let sessions = || {
        let links = sidecar.upstream("site").links;
        links.iter().map(|link| link.session.as_ref().map(|session| session.id.clone())).collect::<Vec<_>>()
    };
    let at_first = sessions();
    let door = listener(&sidecar, "echo");
    let talks: Vec<_> = (0..2 * LINKS).map(|_| Talk::start(door, Pace::CHAT)).collect();
    talks.iter().for_each(|talk| talk.until_moved(1000));
    let mut cut = 0;
    for _ in 0..cuts {
        let resumed = metric(&sidecar, RESUMED);
        let now = [&front, &a.way, &b.way].map(|relay| relay.cut(How::Reset));
        assert!(now.iter().sum::<usize>() > 0);
        cut += now.iter().sum::<usize>();
        wait_until("all are back", || metric(&sidecar, RESUMED) >= resumed + LINKS as f64);
        sidecar.until_up("site", LINKS);
        talks.iter().for_each(|talk| talk.until_moved(500));
    }
    assert!(cut >= cuts * LINKS, "{cut}");
    assert_eq!(sessions(), at_first, "each session has found its own gateway every time");
    assert_eq!(a.sessions() + b.sessions(), LINKS);
    for outcome in ["unknown", "expired"] {
        assert_eq!(metric(&sidecar, &format!("session_resumes_total{{outcome=\"{outcome}\",upstream=\"site\"}}")), 0.0);
    }
    let by_themselves = a.way.accepted() + b.way.accepted();
    println!("{} connections by the common address, {by_themselves} by the gateways' own", front.accepted());
    if let Trust::Certificates(_) = trust {
        assert!(by_themselves >= 20, "resumes go by the address that is advertised");
        assert!(front.accepted() < 40, "{}", front.accepted());
    } else {
        assert_eq!(by_themselves, 0, "without TLS nothing is advertised");
    }
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    wait_until("no client is left", || metric(&sidecar, "connections{upstream=\"site\"}") == 0.0);
    assert_eq!(metric(&sidecar, "connections_closed_total{reason=\"finished\",upstream=\"site\"}"), 2.0 * LINKS as f64);
}

#[test]
fn a_session_finds_its_own_gateway_behind_a_common_address_by_what_it_advertises() {
    cut_again_and_again(Trust::certificates(), 20);
}

#[test]
fn a_session_finds_its_own_gateway_behind_a_common_address_by_searching() {
    cut_again_and_again(Trust::token(), 5);
}

#[test]
fn fault_05_of_two_gateways_one_leaves_its_streams_finish_there_and_new_ones_go_to_the_other() {
    let (_trust, _service, [a, b], sidecar) = two_gateways(CALM);
    sidecar.until_up("site", 1);
    assert_eq!((a.sessions(), b.sessions()), (1, 0), "the first of the list");
    let door = listener(&sidecar, "echo");
    let talk = Talk::start(door, Pace::CHAT);
    let mut quiet = connect_to(door);
    talks(&mut quiet, b"before");
    talk.until_moved(1000);
    let leaving = a.program.expect("it runs");
    send("TERM", leaving.id());
    wait_until("a session at the other", || b.sessions() == 1);
    let mut new = connect_to(door);
    talks(&mut new, b"to the other");
    assert_eq!(b.program().metric("everlink_gateway_streams"), 1.0);
    talks(&mut quiet, b"still at the first");
    talk.until_moved(1000);
    // They end in order, all bytes there, well before the drain does.
    assert!(talk.finish() > 0);
    quiet.shutdown(Shutdown::Write).expect("ended");
    assert_eq!(end_of(&mut quiet).expect("an end in order"), 0);
    let log = leaving.left();
    assert!(log.contains("\"drained\"") || log.contains("\"done\""), "{log}");
    assert_eq!(metric(&sidecar, "connections_closed_total{reason=\"drained\",upstream=\"site\"}"), 0.0);
    assert_eq!(metric(&sidecar, "connections_closed_total{reason=\"finished\",upstream=\"site\"}"), 2.0);
    assert_eq!(metric(&sidecar, "upstream_up{upstream=\"site\"}"), 1.0);
    assert_eq!(metric(&sidecar, "link_downtime_seconds_total{upstream=\"site\"}").floor(), 0.0);
    talks(&mut new, b"and nobody was in the way");
}

/// The gateway is not there any more, and another is: new streams go there at once, the old ones wait for their own.
#[test]
fn while_a_session_is_searched_for_new_clients_go_to_another_gateway() {
    let more = format!("{CALM}pool.size = 2\nbalance = \"round-robin\"\nresume.deadline = \"5s\"\n");
    let (trust, service, [mut a, b], sidecar) = two_gateways(&more);
    sidecar.until_up("site", 2);
    assert_eq!((a.sessions(), b.sessions()), (1, 1));
    let door = listener(&sidecar, "echo");
    let mut clients = [connect_to(door), connect_to(door)];
    clients.iter_mut().for_each(|client| talks(client, b"in"));
    a.program = None;
    wait_until("one link is lost", || metric(&sidecar, "links{state=\"up\",upstream=\"site\"}") == 1.0);
    for _ in 0..3 {
        talks(&mut connect_to(door), b"served by the other");
    }
    // Whose gateway has gone for good hears of it when the time is up; the other has not noticed anything.
    let ended: Vec<bool> = clients
        .iter_mut()
        .map(|client| {
            client.set_read_timeout(Some(Duration::from_secs(8))).expect("set");
            is_reset(&client.read(&mut [0]).map(|count| count as u64))
        })
        .collect();
    assert_eq!(ended.iter().filter(|reset| **reset).count(), 1, "{ended:?}");
    wait_until("counted", || {
        metric(&sidecar, "connections_closed_total{reason=\"resume_expired\",upstream=\"site\"}") == 1.0
    });
    a.start_again(&trust, service.address);
    sidecar.until_up("site", 2);
}

/// The same with a single link, as it is by default: it searches on for its streams, and finds its gateway again.
#[test]
fn with_one_link_new_clients_go_to_another_gateway_too_and_the_session_is_found_again() {
    let (_trust, _service, [a, b], sidecar) = two_gateways(&format!("{CALM}limits.wait = \"20s\"\n"));
    sidecar.until_up("site", 1);
    assert_eq!((a.sessions(), b.sessions()), (1, 0), "the first of the list");
    let door = listener(&sidecar, "echo");
    let mut old = connect_to(door);
    talks(&mut old, b"at the first");
    a.way.refuse(true);
    assert_eq!(a.way.cut(How::Reset), 1);
    // Who comes before that is the lost session's, and waits for it.
    wait_until("the loss is noticed", || {
        metric(&sidecar, "link_losses_total{reason=\"reset\",upstream=\"site\"}") == 1.0
    });
    let mut new = connect_to(door);
    talks(&mut new, b"at the other");
    assert_eq!((a.sessions(), b.sessions()), (1, 1));
    assert_eq!(metric(&sidecar, "connections_refused_total{reason=\"link_down\",upstream=\"site\"}"), 0.0);
    a.way.refuse(false);
    talks(&mut old, b"found again");
    assert_eq!(metric(&sidecar, RESUMED), 1.0);
    // It is for what it carries, and ends with that.
    talks(&mut connect_to(door), b"at the other, too");
    assert_eq!(a.program().metric("everlink_gateway_streams"), 1.0);
    drop(old);
    wait_until("the old session is over", || a.sessions() == 0);
    talks(&mut new, b"on and on");
    sidecar.until_up("site", 1);
    wait_until("both have finished", || {
        metric(&sidecar, "connections_closed_total{reason=\"finished\",upstream=\"site\"}") == 2.0
    });
}
