//! Names that do not resolve, change, or lead nowhere.

use std::time::Instant;

use super::setting::{LISTENER, PING, RETRY_MAX, SERVER, SLACK, talks, upstream};
use crate::faults::net::Net;
use crate::faults::program::Program;
use crate::faults::servers::{Nameserver, Server, answering};

#[test]
fn fault_40_41_names_that_fail_and_change() {
    let net = Net::new();
    net.b.ip(&["address", "add", "10.77.0.3/24", "dev", "wire"]);
    let first = Server::start(&net.b, SERVER, answering);
    let second = Server::start(&net.b, "10.77.0.3:9000", answering);
    let dns = Nameserver::start(&net.b, "10.77.0.2");
    net.a.etc("resolv.conf", "nameserver 10.77.0.2\nsearch corp.test\noptions ndots:2 timeout:1 attempts:1\n");
    let everlink = Program::start(&net.a, &upstream("test", LISTENER, "orders.db:9000", PING, ""));

    // It does not exist, neither in the search domain nor as it stands.
    everlink.until("dials fail", |f| f.dials("test", "resolve") >= 4);
    let asked = dns.asked();
    assert_eq!(asked[..2], ["orders.db.corp.test", "orders.db"], "one dot is less than ndots: the domain comes first");
    assert_eq!(everlink.figures().of("upstream_up", "test"), 0.0);

    dns.set("orders.db.corp.test", &["10.77.0.2"]);
    let from = Instant::now();
    everlink.until_up("test", 2);
    assert!(from.elapsed() <= RETRY_MAX + SLACK, "up after {:?}", from.elapsed());
    assert_eq!(everlink.figures().dials("test", "ok"), 2);
    assert!(first.connections() >= 2);
    let held = everlink.held();

    // A nameserver that says nothing, and a server that ends its connections: the last good answer serves.
    dns.be_silent(true);
    first.end_all();
    everlink.until("the links were lost", |f| f.losses("test", "closed") == 2);
    let from = Instant::now();
    everlink.until_up("test", 2);
    println!("with a silent nameserver: back after {:?}", from.elapsed());
    assert!(from.elapsed() <= 2 * RETRY_MAX + SLACK, "back after {:?}", from.elapsed());
    assert!(first.connections() >= 4);
    dns.be_silent(false);

    // Another answer: what is up stays, the next dials go there.
    dns.set("orders.db.corp.test", &["10.77.0.3"]);
    let sent = everlink.figures().of("heartbeats_sent_total", "test");
    let figures = everlink.until("beats go on", |f| f.of("heartbeats_sent_total", "test") >= sent + 6.0);
    assert_eq!((figures.all_losses("test"), second.connections()), (2.0, 0), "a changed answer cuts no live link");
    let proven = figures.dials("test", "ok");
    first.end_all();
    everlink.until("the links were lost", |f| f.losses("test", "closed") == 4);
    let figures = everlink.until_back(2, 4);
    assert_eq!(figures.dials("test", "ok"), proven + 2);
    assert!(second.connections() >= 2);
    everlink.until_baseline(held);
}

#[test]
fn fault_42_black_holed_ipv6_costs_a_moment() {
    let net = Net::new();
    let _servers = [Server::start(&net.b, SERVER, answering), Server::start(&net.b, "[fd77::2]:9000", answering)];
    net.a.etc("hosts", "fd77::2 dual.test\n10.77.0.2 dual.test\n");
    let fault = net.b.lose("iifname wire meta nfproto ipv6 meta l4proto tcp");
    // A dial has time enough, however late a busy host is.
    let config = upstream("test", LISTENER, "dual.test:9000", PING, "");
    let everlink = Program::start(&net.a, &config.replace("connect_timeout = \"500ms\"", "connect_timeout = \"10s\""));
    let figures = everlink.until_up("test", 2);
    let seconds = figures.of("link_dial_duration_seconds_sum", "test") / figures.dials("test", "ok") as f64;
    println!("IPv6 black-holed: connected after {seconds:.3} s");
    // RFC 8305 starts the next address after 250 ms.
    assert!((0.2..3.0).contains(&seconds), "{seconds}");
    assert_eq!(figures.dials("test", "timeout"), 0);
    fault.heal();
    let held = everlink.held();
    talks(&mut net.client(LISTENER), b"hello");
    everlink.until("as at first", |f| f.links("test", "up") == 2 && f.of("connections", "test") == 0.0);
    everlink.until_baseline(held);
}
