//! Hosts that run short: of descriptors, of ports.

use std::time::Instant;

use super::setting::{LISTENER, PING, RETRY_MAX, SERVER, SLACK, busy_during, talks, up, upstream};
use crate::common::PATIENCE;
use crate::faults::net::{Net, until};
use crate::faults::program::Program;
use crate::faults::servers::{Server, answering};

#[test]
fn fault_36_37_out_of_descriptors() {
    let net = Net::new();
    let (server, mut everlink, _) = up(&net, PING, answering);
    let (held, all) = (everlink.held(), everlink.process().all_descriptors());

    // Those that are open stay open; no other can be had.
    everlink.process().limit_descriptors(3);
    server.end_all();
    let mut queued = net.client(LISTENER);
    let busy = busy_during(&everlink, || {
        everlink.until("dials fail for want of descriptors", |f| f.dials("test", "local") >= 6);
        everlink.until("accepts fail, too", |f| f.get("everlink_accept_errors_total", &[]) >= 3.0);
    });
    assert!(busy < 0.5, "{busy} of a core");
    let figures = everlink.figures();
    assert_eq!((figures.dials("test", "ok"), figures.of("upstream_up", "test")), (2, 0.0));
    assert!(everlink.is_running());
    println!("out of descriptors: {:.0} % of a core, {all} open", busy * 100.0);

    everlink.process().limit_descriptors(1024);
    let from = Instant::now();
    everlink.until("the upstream is up", |f| f.of("upstream_up", "test") == 1.0);
    assert!(from.elapsed() <= RETRY_MAX + SLACK, "back after {:?}", from.elapsed());
    talks(&mut queued, b"hello");
    drop(queued);
    everlink.until("the pool is whole", |f| f.links("test", "up") == 2 && f.of("connections", "test") == 0.0);
    everlink.until_baseline(held);
}

#[test]
fn fault_38_ports_exhausted() {
    let net = Net::new();
    let _server = Server::start(&net.b, SERVER, answering);
    net.a.sysctl("net.ipv4.ip_local_port_range=40000 40015");
    // A first beat that was late on a busy host costs no port for a minute.
    net.a.sysctl("net.ipv4.tcp_tw_reuse=1");
    let everlink = Program::start(&net.a, &upstream("test", LISTENER, SERVER, PING, "pool = { size = 32 }"));
    everlink.until_up("test", 16);
    let busy = busy_during(&everlink, || {
        everlink.until("the others go on trying", |f| f.dials("test", "local") >= 80);
    });
    println!("16 ports for 32 links: {:.0} % of a core", busy * 100.0);
    assert!(busy < 0.5, "{busy} of a core");
    let figures = everlink.until("between two rounds", |f| f.links("test", "waiting") == 16);
    let held = everlink.held();
    assert_eq!(figures.links("test", "up"), 16);
    assert_eq!((figures.of("upstream_up", "test"), figures.all_losses("test")), (1.0, 0.0));
    assert_eq!(figures.dials("test", "ok"), 16);
    talks(&mut net.client(LISTENER), b"hello");

    net.a.sysctl("net.ipv4.ip_local_port_range=40000 50000");
    let from = Instant::now();
    everlink.until_up("test", 32);
    assert!(from.elapsed() <= RETRY_MAX + SLACK, "back after {:?}", from.elapsed());
    everlink.until("nobody is connected", |f| f.of("connections", "test") == 0.0);
    until("a descriptor for each link more, and no other", PATIENCE, || {
        everlink.process().descriptors() <= held.descriptors + 16
    });
}
