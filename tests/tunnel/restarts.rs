//! The programs at the two ends: killed, restarted, stopped, drained, and gone for too long.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::relay::How;
use super::road::{CALM, Plan, QUICK, Road, connect_to, descriptors, end_of, is_reset, memory, talks};
use super::traffic::{Pace, Talk};
use crate::common::program::{Program, send, wait_until};
use crate::common::server::{Server, deaf};

/// Counts the connections that end by a reset.
fn counting_resets() -> (Server, Arc<AtomicUsize>) {
    let resets = Arc::<AtomicUsize>::default();
    let count = resets.clone();
    let server = Server::start(move |mut stream| {
        stream.write_all(b"hello")?;
        if is_reset(&end_of(&mut stream)) {
            count.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    });
    (server, resets)
}

fn greeted(road: &Road, service: &str) -> std::net::TcpStream {
    let mut client = road.connect(service);
    let mut hello = [0; 5];
    client.read_exact(&mut hello).expect("greeted");
    client
}

#[test]
fn fault_04_a_gateway_that_was_killed_knows_no_session_and_clients_hear_so_at_once() {
    let mut road = Road::new();
    let before = road.held();
    let mut clients: Vec<_> = (0..5).map(|_| road.connect("echo")).collect();
    clients.iter_mut().for_each(|client| talks(client, b"hello"));
    road.kill_gateway();
    wait_until("noticed", || road.losses() == 1.0);
    // They wait, for the gateway may only be cut off.
    assert_eq!((road.of("connections"), road.closed("gateway_restarted")), (5.0, 0.0));
    road.start_gateway();
    let back = Instant::now();
    for client in &mut clients {
        let ended = end_of(client);
        assert!(is_reset(&ended), "{ended:?}");
    }
    let took = back.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    wait_until("counted", || road.closed("gateway_restarted") == 5.0);
    assert_eq!((road.resumes("unknown"), road.refusals("unknown")), (1.0, 1.0));
    drop(clients);
    road.until_up();
    talks(&mut road.connect("echo"), b"as if nothing had been");
    road.until_baseline(before);
    println!("clients heard {took:?} after the gateway's return");
}

#[test]
fn a_client_who_waits_has_its_gateway_dialled_whatever_the_backoff_has_come_to() {
    let retry = "retry = { initial = \"1m\", max = \"1m\", jitter = \"off\", connect_timeout = \"2s\" }\nlimits.wait = \"20s\"\n";
    let mut road = Plan { sidecar: retry, ..Plan::default() }.build();
    let before = road.held();
    road.kill_gateway();
    wait_until("the next dial is far off", || road.of("link_retry_delay_seconds") > 30.0);
    road.start_gateway();
    talks(&mut road.connect("echo"), b"not in a minute");
    road.until_baseline(before);
}

#[test]
fn fault_06_the_gateway_frees_everything_of_a_sidecar_that_was_killed() {
    for silent in [false, true] {
        let (service, resets) = counting_resets();
        let more = format!("{QUICK}resume.deadline = \"2s\"\n");
        let plan = Plan { services: &[("greeter", service.address)], sidecar: &more, ..Plan::default() };
        let road = plan.build();
        let before = road.held().descriptors[1];
        let clients: Vec<_> = (0..20).map(|_| greeted(&road, "greeter")).collect();
        let talk = Talk::start(road.listener("echo"), Pace::BULK);
        talk.until_moved(100_000);
        assert_eq!(road.at_gateway().streams, 21);
        if silent {
            // Its end is not heard of, either.
            assert_eq!(road.relay.forget(), 1);
        }
        let Road { sidecar, gateway, relay, echo, .. } = road;
        let (killed, gateway) = (Instant::now(), gateway.expect("it runs"));
        drop(sidecar);
        wait_until("the connection is lost", || !gateway.status().gateway.expect("one").sessions[0].connected);
        assert_eq!(resets.load(Ordering::SeqCst), 0, "the session may come back");
        wait_until("the session is gone", || gateway.metric("everlink_gateway_sessions") == 0.0);
        let took = killed.elapsed();
        // The budget is 1.4 s, for a killed process needs none of it, and the deadline 2 s.
        assert!((2..10).contains(&took.as_secs()), "{took:?}");
        wait_until("every service hears a reset", || resets.load(Ordering::SeqCst) == 20 && echo.live() == 0);
        drop(relay);
        // The connection of the session itself has gone, too.
        wait_until("descriptors", || descriptors(gateway.id()) == before - 1);
        assert_eq!(gateway.metric("everlink_gateway_streams"), 0.0);
        drop((clients, talk));
        gateway.stop();
    }
}

const PATIENT: &str = "heartbeat = { interval = \"2s\", timeout = \"1s\", misses = 3 }\n\
     retry = { initial = \"100ms\", max = \"1s\", stable_after = \"1s\", connect_timeout = \"2s\" }\n";

#[test]
fn fault_13_a_gateway_that_stands_still_for_less_than_the_budget_loses_nothing() {
    let road = Plan { sidecar: PATIENT, ..Plan::default() }.build();
    let before = road.held();
    let session = road.session();
    let talks: Vec<_> = [Pace::BULK, Pace::CHAT].map(|pace| Talk::start(road.listener("echo"), pace)).into();
    talks.iter().for_each(|talk| talk.until_moved(5000));
    for (pause, losses) in [(300, 0.0), (3000, f64::INFINITY)] {
        send("STOP", road.gateway().id());
        std::thread::sleep(Duration::from_millis(pause));
        send("CONT", road.gateway().id());
        talks.iter().for_each(|talk| talk.until_moved(5000));
        // After the longer one a second connection may hold the session: suspicion is cheap.
        assert!(road.losses() <= losses, "{} losses after {pause} ms", road.losses());
        assert_eq!(road.session(), session);
    }
    assert!(road.of("heartbeats_missed_total") >= 1.0, "the longer one was noticed");
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    road.until_baseline(before);
}

#[test]
fn fault_13_a_gateway_that_stands_still_for_longer_is_given_up_and_found_again() {
    let road = Plan { sidecar: QUICK, ..Plan::default() }.build();
    let (before, session) = (road.held(), road.session());
    let talks: Vec<_> = [Pace::BULK, Pace::CHAT].map(|pace| Talk::start(road.listener("echo"), pace)).into();
    talks.iter().for_each(|talk| talk.until_moved(5000));
    let stopped = Instant::now();
    send("STOP", road.gateway().id());
    wait_until("given up", || road.lost("heartbeat") >= 1.0);
    let took = stopped.elapsed();
    assert!(took < Duration::from_secs(6), "given up after {took:?}, the budget is 1.4 s");
    std::thread::sleep(Duration::from_secs(1));
    send("CONT", road.gateway().id());
    wait_until("resumed", || road.resumes("resumed") >= 1.0);
    talks.iter().for_each(|talk| talk.until_moved(5000));
    assert_eq!(road.session(), session);
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    road.until_baseline(before);
}

#[test]
fn fault_14_a_sidecar_that_stood_still_for_longer_than_the_budget_blames_nobody() {
    let road = Plan { sidecar: QUICK, ..Plan::default() }.build();
    let (before, session) = (road.held(), road.session());
    let talks: Vec<_> = [Pace::BULK, Pace::CHAT].map(|pace| Talk::start(road.listener("echo"), pace)).into();
    talks.iter().for_each(|talk| talk.until_moved(5000));
    send("STOP", road.sidecar.id());
    wait_until("the gateway gives the connection up", || !road.at_gateway().sessions[0].connected);
    std::thread::sleep(Duration::from_secs(1));
    send("CONT", road.sidecar.id());
    wait_until("resumed", || road.resumes("resumed") >= 1.0);
    talks.iter().for_each(|talk| talk.until_moved(5000));
    assert!(road.sidecar.metric("everlink_process_stalls_total") >= 1.0);
    assert_eq!(road.lost("heartbeat"), 0.0, "it was not the gateway that was silent");
    assert_eq!(road.session(), session);
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    road.until_baseline(before);
}

#[test]
fn fault_27_after_the_deadline_both_ends_reset_and_forget() {
    let (service, resets) = counting_resets();
    let more = format!("{CALM}resume.deadline = \"2s\"\n");
    let road = Plan { services: &[("greeter", service.address)], sidecar: &more, ..Plan::default() }.build();
    let before = road.held();
    let old = road.session();
    let mut clients: Vec<_> = (0..10).map(|_| greeted(&road, "greeter")).collect();
    let talk = Talk::start(road.listener("echo"), Pace::BULK);
    talk.until_moved(1 << 20);
    let used = [memory(road.sidecar.id()), memory(road.gateway().id())];
    road.relay.refuse(true);
    let cut = Instant::now();
    assert_eq!(road.relay.cut(How::Reset), 1);
    for client in &mut clients {
        let ended = end_of(client);
        assert!(is_reset(&ended), "{ended:?}");
    }
    let took = cut.elapsed();
    assert!((1900..10_000).contains(&took.as_millis()), "{took:?}, the deadline is 2 s");
    assert_eq!(talk.error().kind(), std::io::ErrorKind::ConnectionReset);
    wait_until("counted", || road.closed("resume_expired") == 11.0 && road.resumes("expired") == 1.0);
    wait_until("the gateway has forgotten", || road.gateway().metric("everlink_gateway_sessions") == 0.0);
    wait_until("every service hears a reset", || resets.load(Ordering::SeqCst) == 10);
    assert_eq!(road.of("session_unacknowledged_bytes"), 0.0);
    drop(clients);
    road.relay.refuse(false);
    road.until_up();
    assert_ne!(road.session(), old);
    talks(&mut road.connect("echo"), b"a new session");
    road.until_baseline(before);
    for (now, used) in [memory(road.sidecar.id()), memory(road.gateway().id())].into_iter().zip(used) {
        assert!(now < used + (8 << 10), "memory, KiB: {used} and then {now}");
    }
}

/// Sixty sessions find their gateway gone: they come back, not all at once, and in no second wave either.
#[test]
fn fault_49_many_sessions_return_spread() {
    const SESSIONS: usize = 60;
    let more = format!(
        "{}pool.size = {SESSIONS}\n",
        CALM.replace("initial = \"100ms\", max = \"1s\"", "initial = \"3s\", max = \"3s\"")
    );
    let mut road = Plan { sidecar: &more, ..Plan::default() }.build();
    road.until_up();
    let before = road.held();
    // Long enough to have earned a fresh start.
    std::thread::sleep(Duration::from_millis(1200));
    let dials = road.relay.accepted() as usize;
    road.kill_gateway();
    road.start_gateway();
    wait_until("all are back", || road.of("link_reconnects_total") == SESSIONS as f64);
    assert_eq!(road.at_gateway().sessions.len(), SESSIONS);
    let arrivals = road.relay.arrivals().split_off(dials);
    let first = arrivals[0];
    let mut bins = std::collections::BTreeMap::<u128, usize>::new();
    for at in &arrivals {
        *bins.entry((*at - first).as_millis() / 100).or_default() += 1;
    }
    println!("dials in each tenth of a second: {bins:?}");
    assert!(bins.len() >= 4, "{bins:?}");
    assert!(bins.values().all(|dials| *dials <= SESSIONS / 2), "{bins:?}");
    assert_eq!(road.losses(), SESSIONS as f64);
    road.until_up();
    road.until_baseline(before);
}

#[test]
fn fault_62_a_sidecar_in_drain_serves_until_its_clients_are_done() {
    let road = Road::new();
    let mut client = road.connect("echo");
    talks(&mut client, b"before");
    let address = road.listener("echo");
    send("TERM", road.sidecar.id());
    wait_until("not ready any more", || road.sidecar.get("/readyz").0 == 503);
    talks(&mut client, b"still here");
    let mut late = connect_to(address);
    talks(&mut late, b"the application is finishing");
    drop(late);
    client.shutdown(Shutdown::Write).expect("ended");
    assert_eq!(end_of(&mut client).expect("an end in order"), 0);
    let Road { sidecar, gateway, .. } = road;
    let log = sidecar.left();
    assert!(!log.contains("\"level\":\"ERROR\""), "{log}");
    let gateway = gateway.expect("it runs");
    // Its session is done with, not waited for.
    wait_until("the session is over", || gateway.metric("everlink_gateway_sessions") == 0.0);
    wait_until("told", || gateway.log().contains("\"done\""));
    gateway.stop();
}

#[test]
fn fault_62_a_gateway_in_drain_takes_no_session_accepts_resumes_and_resets_what_is_left() {
    let (service, resets) = counting_resets();
    let road = Plan { services: &[("greeter", service.address)], ..Plan::default() }.build();
    let mut stays = greeted(&road, "greeter");
    let mut finishes = road.connect("echo");
    talks(&mut finishes, b"before");
    send("TERM", road.gateway().id());
    let told = Instant::now();
    wait_until("the sidecar is told", || road.sidecar.logged("takes no new streams").is_some());
    talks(&mut finishes, b"in drain");
    // A resume is let in.
    assert!(road.relay.cut(How::Reset) >= 1);
    wait_until("resumed", || road.resumes("resumed") == 1.0);
    talks(&mut finishes, b"after a resume");
    finishes.shutdown(Shutdown::Write).expect("ended");
    assert_eq!(end_of(&mut finishes).expect("an end in order"), 0);
    // There is no other gateway: a new session is refused.
    wait_until("refused", || road.refusals("draining") >= 1.0);
    let ended = end_of(&mut stays);
    assert!(is_reset(&ended), "{ended:?}");
    let took = told.elapsed();
    assert!((4500..8000).contains(&(took.as_millis() as u64)), "{took:?}, drain.timeout is 5 s");
    wait_until("counted", || road.closed("drained") == 1.0 && road.closed("finished") == 1.0);
    wait_until("the service hears it", || resets.load(Ordering::SeqCst) == 1);
    let Road { sidecar, gateway, .. } = road;
    gateway.expect("it ran").left();
    sidecar.stop();
}

/// Loops are served while others wait: a client that comes in the outage waits outside and is served after it.
#[test]
fn fault_03_a_client_who_comes_in_an_outage_waits_and_is_served() {
    let more = format!("{CALM}limits.wait = \"20s\"\n");
    let mut road = Plan { sidecar: &more, ..Plan::default() }.build();
    let address = road.listener("echo");
    let before = road.held();
    road.kill_gateway();
    wait_until("noticed", || road.losses() == 1.0);
    let waiting = std::thread::spawn(move || talks(&mut connect_to(address), b"when you are back"));
    wait_until("a client waits", || road.of("connections_waiting") == 1.0);
    road.start_gateway();
    waiting.join().expect("served");
    road.until_up();
    road.until_baseline(before);
    assert_eq!(road.count("connections_refused_total", "reason=\"link_down\""), 0.0);

    // And for whom nobody comes is refused in time.
    road.edit_sidecar(&format!("{CALM}limits.wait = \"300ms\"\n"), &["echo"]);
    road.until_up();
    wait_until("the edit is in force", || road.sidecar.status().config.generation == 2);
    road.kill_gateway();
    wait_until("noticed", || road.losses() == 2.0);
    let mut refused = road.connect("echo");
    assert!(end_of(&mut refused).map_or(true, |count| count == 0));
    wait_until("counted", || road.count("connections_refused_total", "reason=\"link_down\"") == 1.0);
}

/// Whoever holds the port of a gateway and never answers costs a dial its time and no more.
#[test]
fn a_gateway_that_never_answers_is_given_up_in_time() {
    let silent = Server::start(deaf);
    let trust = super::road::Trust::token();
    let sidecar = Program::start(&super::road::sidecar(&trust, &[silent.address], &["echo"], QUICK));
    wait_until("given up a few times", || {
        sidecar.metric("everlink_link_dials_total{outcome=\"timeout\",upstream=\"site\"}") >= 2.0
    });
    assert!(silent.connections() <= 5);
    sidecar.stop();
}
