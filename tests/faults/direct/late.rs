//! Processes that stand still, packets that are lost and sent again, answers that take their time.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::setting::{
    BUDGET, LISTENER, PING, RETRY_MAX, SERVER, SLACK, busy_during, carried, talks, up, upstream, usual,
};
use crate::common::PATIENCE;
use crate::faults::net::{Net, until};
use crate::faults::program::{Figures, Program};
use crate::faults::servers::{self, Server, answering};

#[test]
fn fault_13_a_server_that_hangs() {
    let net = Net::new();
    let server = servers::process(&net.b, SERVER);
    {
        // Shorter than the budget: a miss, suspicion, and no loss.
        let patient = Program::start(&net.a, &usual(PING).replace("misses = 3", "misses = 20"));
        patient.until_up("test", 2);
        server.stop();
        patient.until("a link is suspect", |f| f.links("test", "suspect") > 0);
        server.go_on();
        assert!(patient.figures().of("heartbeats_missed_total", "test") >= 1.0);
        let sent = patient.until_up("test", 2).of("heartbeats_sent_total", "test");
        let figures = patient.until("beats go on", |f| f.of("heartbeats_sent_total", "test") >= sent + 4.0);
        assert_eq!((figures.all_losses("test"), figures.dials("test", "ok")), (0.0, 2));
    }
    let everlink = Program::start(&net.a, &usual(PING));
    everlink.until_up("test", 2);
    let held = everlink.held();

    // Longer: the kernel acknowledges for it all the while, and it is dead all the same.
    server.stop();
    let from = Instant::now();
    everlink.until("both links are dead", |f| f.losses("test", "heartbeat") == 2);
    let noticed = from.elapsed();
    assert!(noticed <= BUDGET + SLACK, "noticed after {noticed:?}");
    everlink.until("dials are not proven", |f| f.dials("test", "timeout") >= 2 && f.of("upstream_up", "test") == 0.0);
    let from = Instant::now();
    server.go_on();
    let figures = everlink.until_back(2, 2);
    let back = from.elapsed();
    assert!(back <= RETRY_MAX + SLACK, "back after {back:?}");
    println!("hung server: noticed after {noticed:?}, back {back:?} after it went on");
    assert_eq!(figures.all_losses("test"), 2.0);
    everlink.until_baseline(held);
}

#[test]
fn fault_14_own_pause_loses_nothing() {
    let net = Net::new();
    let (_server, everlink, _) = up(&net, PING, answering);
    let mut client = carried(&net, &everlink);
    let down = everlink.figures().of("link_downtime_seconds_total", "test");
    let held = everlink.held();

    everlink.process().stop();
    client.write_all(b"are you asleep?").expect("sent");
    // This fault is the passing of time.
    std::thread::sleep(2 * BUDGET + SLACK);
    everlink.process().go_on();
    let stalled = |f: &Figures| f.get("everlink_process_stalls_total", &[]) >= 1.0;
    let sent = everlink.until("the pause is counted", stalled).of("heartbeats_sent_total", "test");
    let figures = everlink.until("beats go on", |f| f.of("heartbeats_sent_total", "test") >= sent + 6.0);
    assert_eq!((figures.all_losses("test"), figures.dials("test", "ok")), (0.0, 3));
    assert_eq!(figures.of("link_downtime_seconds_total", "test"), down);
    let mut answer = [0; 15];
    client.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"are you asleep?");
    everlink.until_baseline(held);
}

#[test]
fn fault_15_lost_syns_harm_nobody_else() {
    let net = Net::new();
    let _servers = [Server::start(&net.b, SERVER, answering), Server::start(&net.b, "10.77.0.2:9001", answering)];
    let fault = net.b.lose("iifname wire tcp dport 9001 tcp flags & (syn | ack) == syn");
    let config = usual(PING) + &upstream("ill", "127.0.0.1:7001", "10.77.0.2:9001", PING, "");
    let everlink = Program::start(&net.a, &config);
    everlink.until("the other's dials fail", |f| f.links("test", "up") == 2 && f.links("ill", "waiting") == 2);
    let held = everlink.held();
    let mut took = Vec::new();
    while everlink.figures().dials("ill", "timeout") < 6 {
        let from = Instant::now();
        talks(&mut net.client(LISTENER), b"hello");
        took.push(from.elapsed());
    }
    took.sort();
    println!(
        "beside an upstream whose SYNs vanish: the slowest clients took {:?}",
        &took[took.len().saturating_sub(5)..]
    );
    // Some may be the host's work. Each of the six dials that time out would have held one up for half a second.
    let late = took.iter().filter(|took| **took >= Duration::from_millis(250)).count();
    assert!(late <= 2, "{late} of {}: {took:?}", took.len());
    let busy = busy_during(&everlink, || {
        everlink.until("dials go on", |f| f.dials("ill", "timeout") >= 10);
    });
    assert!(busy < 0.5, "{busy} of a core");
    let figures = everlink.figures();
    assert_eq!((figures.dials("ill", "ok"), figures.of("upstream_up", "ill")), (0, 0.0));
    assert_eq!((figures.of("upstream_up", "test"), figures.all_losses("test")), (1.0, 0.0));
    fault.heal();
    let healed = Instant::now();
    everlink.until_up("ill", 2);
    assert!(healed.elapsed() <= RETRY_MAX + SLACK, "back after {:?}", healed.elapsed());
    everlink.until("everybody is gone", |f| f.of("connections", "test") == 0.0 && f.links("test", "up") == 2);
    // The two links of the ill one have been added to what there was.
    let now = everlink.process().descriptors();
    assert!(now <= held.descriptors + 2, "{now} and {} before", held.descriptors);
}

#[test]
fn fault_47_answers_around_the_threshold_make_no_storm() {
    let net = Net::new();
    let slow = Arc::new(AtomicBool::new(false));
    let late = slow.clone();
    let _server = Server::start(&net.b, SERVER, move |mut stream| {
        let mut random = fastrand::Rng::new();
        let mut buffer = [0; 64];
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            // Around `timeout`, or around the budget.
            let delay = if late.load(Ordering::SeqCst) { 1300..1500 } else { 250..350 };
            std::thread::sleep(Duration::from_millis(random.u64(delay)));
            for _ in 0..count / 4 {
                stream.write_all(b"pong")?;
            }
        }
    });
    let from = Instant::now();
    let everlink = Program::start(&net.a, &usual(PING));
    let figures = everlink.until("some answers are late", |f| f.of("heartbeats_missed_total", "test") >= 6.0);
    assert_eq!(figures.losses("test", "heartbeat"), 0, "late answers are answers");
    let held = everlink.held();
    for round in 0..4 {
        slow.store(round % 2 == 0, Ordering::SeqCst);
        std::thread::sleep(BUDGET);
    }
    let seconds = from.elapsed().as_secs_f64();
    let figures = everlink.figures();
    let dials = figures.of("link_dials_total", "test");
    let lines = everlink.log().lines().count();
    println!("flapping for {seconds:.1} s: {dials} dials, {} losses, {lines} lines of log", figures.all_losses("test"));
    // Two links, none of which can be dialled, found dead and lost more than twice a second.
    assert!(dials <= 4.0 * seconds, "{dials} dials in {seconds} s");
    assert!((lines as f64) < 8.0 * seconds + 20.0, "{lines} lines of log in {seconds} s");
    assert!(figures.of("link_reconnects_total", "test") <= figures.all_losses("test"));
    assert!(figures.losses("test", "heartbeat") >= 1, "some were later than the budget");
    // As long as they are late, descriptors come and go.
    everlink.until("both links", |f| f.links("test", "up") + f.links("test", "suspect") == 2);
    until("descriptors", PATIENCE, || everlink.process().descriptors() <= held.descriptors);
}
