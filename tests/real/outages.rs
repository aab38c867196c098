//! What networks do to a tunnel, in namespaces joined by a wire: bytes that are checked one by one, and times that are told.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::tunnel::{BEATS, DOOR, LINK, both, certificates, gateway, in_the_end, nothing_was_lost, resumed, sidecar};
use crate::common::server::echo;
use crate::faults::net::{Fault, Namespace, Net, until};
use crate::faults::program::Program;
use crate::faults::servers::{Seen, Server, send_pattern};
use crate::traffic::{Pace, Talk};

/// The echo service, in the gateway's namespace.
const SERVICE: &str = "127.0.0.1:9000";

fn service() -> SocketAddr {
    SERVICE.parse().expect("an address")
}

/// Bytes that go there and come back in the long test. A few gigabytes take a few minutes.
const BULK: u64 = 384 << 20;

fn talk(net: &Net, pace: Pace) -> Talk {
    Talk::over(net.client(DOOR), pace)
}

#[test]
fn fault_08_a_transfer_both_ways_under_a_reset_every_200_ms_arrives_whole() {
    let net = Net::new();
    let _echo = Server::start(&net.b, SERVICE, echo);
    let (sidecar, gateway, _authority) = both(&net, service(), BEATS);
    let held = [sidecar.held(), gateway.held()];
    let began = Instant::now();
    let talks: Vec<_> = (0..3).map(|_| talk(&net, Pace::BULK)).collect();
    let moved = || talks.iter().map(Talk::moved).sum::<u64>();
    let mut cuts = 0;
    while moved() < BULK {
        std::thread::sleep(Duration::from_millis(200));
        // Only what carries something can be reset.
        if sidecar.figures().links("site", "up") == 1 {
            let fault = net.b.reset(LINK);
            until("a packet is met", Duration::from_secs(5), || fault.packets() > 0);
            fault.heal();
            cuts += 1;
        }
        assert!(began.elapsed() < Duration::from_secs(150), "{} MiB in {:?}", moved() >> 20, began.elapsed());
    }
    let all: u64 = talks.into_iter().map(Talk::finish).sum();
    println!("{} MiB there and back in {:?}, {cuts} cuts, {} resumes", all >> 20, began.elapsed(), resumed(&sidecar));
    assert!(cuts >= 10 && resumed(&sidecar) >= 10, "{cuts} cuts");
    assert!(sidecar.figures().losses("site", "reset") >= cuts / 2, "lost by resets");
    in_the_end(&sidecar, &gateway, held);
}

/// A client that sends, a service that checks; and the other way round, on another stream.
#[test]
fn a_silent_cut_of_ten_seconds_in_mid_transfer_loses_nothing_and_is_soon_over_after_it() {
    let net = Net::new();
    let [up, down] = [std::sync::Arc::<Seen>::default(), std::sync::Arc::default()];
    let (seeing, stop) = (up.clone(), std::sync::Arc::<std::sync::atomic::AtomicBool>::default());
    let stopped = stop.clone();
    // One connection is for one direction.
    let _service = Server::start(&net.b, SERVICE, move |mut stream| {
        let mut back = stream.try_clone()?;
        let stop = stopped.clone();
        let sender = std::thread::spawn(move || send_pattern(&mut back, &stop));
        seeing.read(&mut stream)?;
        sender.join().map(drop).map_err(|_| std::io::Error::other("it panicked"))
    });
    let (sidecar, gateway, _authority) = both(&net, service(), BEATS);
    let mut client = net.client(DOOR);
    let mut reading = client.try_clone().expect("cloned");
    let seeing = down.clone();
    let reader = std::thread::spawn(move || seeing.read(&mut reading));
    let stopped = stop.clone();
    let writer = std::thread::spawn(move || send_pattern(&mut client, &stopped));
    let flows = |seen: &Seen| seen.bytes.load(std::sync::atomic::Ordering::SeqCst) > 100_000;
    until("bytes flow both ways", Duration::from_secs(10), || flows(&up) && flows(&down));

    let cut = net.cut();
    let began = Instant::now();
    sidecar.until("it is noticed", |figures| figures.losses("site", "heartbeat") == 1);
    let noticed = began.elapsed();
    assert!(noticed < Duration::from_millis(2500 + 2000), "noticed after {noticed:?}, the budget is 2.5 s");
    std::thread::sleep(Duration::from_secs(10).saturating_sub(began.elapsed()));
    let healed = cut.heal();
    until("bytes flow both ways", Duration::from_secs(10), || {
        up.first_after(healed).is_some() && down.first_after(healed).is_some()
    });
    let after = |seen: &Seen| seen.first_after(healed).expect("it flows") - healed;
    println!("noticed after {noticed:?}; {:?} after the heal bytes moved up, {:?} down", after(&up), after(&down));
    for seen in [&up, &down] {
        assert!(after(seen) < Duration::from_millis(4500), "{:?}", after(seen));
    }
    std::thread::sleep(Duration::from_millis(500));
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let sent = writer.join().expect("no panic");
    reader.join().expect("no panic").expect("an end in order");
    until("all has arrived", Duration::from_secs(10), || up.ended.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(up.bytes.load(std::sync::atomic::Ordering::SeqCst), sent, "not one byte was lost");
    for seen in [&up, &down] {
        assert!(
            !seen.wrong.load(std::sync::atomic::Ordering::SeqCst)
                && seen.ended.load(std::sync::atomic::Ordering::SeqCst)
        );
    }
    nothing_was_lost(&sidecar, &gateway);
}

#[test]
fn twenty_cuts_behind_an_address_that_leads_to_two_gateways_in_turn_lose_no_stream() {
    const LINKS: usize = 4;
    let net = Net::new();
    let c = Namespace::new("c");
    net.a.join("other", "10.78.0.1/24", &c, "wire", "10.78.0.2/24");
    net.a.nft(
        "table ip shared { chain out { type nat hook output priority -100;\n\
         ip daddr 10.99.0.1 tcp dport 7443 dnat to numgen inc mod 2 map { 0 : 10.77.0.2, 1 : 10.78.0.2 }\n}\n\
         chain sent { type nat hook postrouting priority 100; oifname other masquerade\n}\n}\n",
    );
    // Somewhere to send to, until it is another address.
    net.a.ip(&["route", "add", "10.99.0.1/32", "via", "10.77.0.2"]);
    let services = [Server::start(&net.b, SERVICE, echo), Server::start(&c, SERVICE, echo)];
    let authority = certificates();
    let gateways = [(&net.b, "gw-b", "10.77.0.2"), (&c, "gw-c", "10.78.0.2")].map(|(place, name, address)| {
        gateway(place, &authority, &format!("name = \"{name}\"\nadvertise = \"{address}:7443\"\n"), service())
    });
    let more = format!("{BEATS}pool.size = {LINKS}\n");
    let sidecar = sidecar(&net.a, &authority, "10.99.0.1:7443", &more);
    sidecar.until("all links up", |figures| figures.links("site", "up") == LINKS);
    let sessions = || gateways.each_ref().map(|gateway| gateway.figures().get("everlink_gateway_sessions", &[]));
    assert_eq!(sessions(), [2.0, 2.0], "both in turn");
    let talks: Vec<_> = (0..2 * LINKS).map(|_| talk(&net, Pace::CHAT)).collect();
    talks.iter().for_each(|talk| talk.until_moved(1000));
    for round in 0..20 {
        let before = resumed(&sidecar);
        let faults = [net.b.reset(LINK), c.reset(LINK)];
        until("packets are met", Duration::from_secs(5), || faults.iter().all(|fault| fault.packets() > 0));
        sidecar.until("all are lost", |figures| figures.links("site", "up") < LINKS);
        faults.into_iter().for_each(Fault::heal);
        sidecar.until("all links up", |figures| figures.links("site", "up") == LINKS);
        assert!(resumed(&sidecar) > before, "round {round}");
        talks.iter().for_each(|talk| talk.until_moved(500));
    }
    println!("{} resumes, {} dials", resumed(&sidecar), sidecar.figures().dials("site", "ok"));
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    assert_eq!(sessions(), [2.0, 2.0], "each session is where it was");
    let figures = sidecar.until("no client is left", |figures| figures.of("connections", "site") == 0.0);
    assert_eq!(figures.closed("site", "finished"), 2 * LINKS, "no stream was lost");
    for outcome in ["expired", "refused"] {
        let labels = [("upstream", "site"), ("outcome", outcome)];
        assert_eq!(figures.get("everlink_session_resumes_total", &labels), 0.0, "{outcome}");
    }
    drop(services);
}

/// How busy the process is through `act`: the share of a processor.
fn busy_during(program: &Program<'_>, act: impl FnOnce()) -> f64 {
    let (cpu, from) = (program.process().cpu(), Instant::now());
    act();
    (program.process().cpu() - cpu).as_secs_f64() / from.elapsed().as_secs_f64()
}

#[test]
fn fault_43_a_session_survives_its_interface_going_and_returning() {
    let net = Net::new();
    let _echo = Server::start(&net.b, SERVICE, echo);
    let (sidecar, gateway, _authority) = both(&net, service(), BEATS);
    let held = [sidecar.held(), gateway.held()];
    let talks = [talk(&net, Pace::BULK), talk(&net, Pace::CHAT)];
    talks.iter().for_each(|talk| talk.until_moved(100_000));
    net.unplug();
    sidecar.until("lost", |figures| figures.of("upstream_up", "site") == 0.0);
    let busy = busy_during(&sidecar, || std::thread::sleep(Duration::from_secs(3)));
    assert!(busy < 0.2, "{busy} of a processor while nobody can be reached");
    assert!(sidecar.figures().all_losses("site") >= 1.0);
    net.plug_in();
    let back = Instant::now();
    talks.iter().for_each(|talk| talk.until_moved(10_000));
    println!("bytes moved {:?} after its return; busy meanwhile: {busy}", back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(8), "{:?}", back.elapsed());
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    in_the_end(&sidecar, &gateway, held);
}

#[test]
fn fault_23_a_smaller_mtu_and_a_black_hole_for_large_packets_lose_nothing() {
    let net = Net::new();
    let _echo = Server::start(&net.b, SERVICE, echo);
    let (sidecar, gateway, _authority) = both(&net, service(), BEATS);
    let held = [sidecar.held(), gateway.held()];
    let talks = [talk(&net, Pace::BULK), talk(&net, Pace::CHAT)];
    talks.iter().for_each(|talk| talk.until_moved(100_000));
    for mtu in ["1300", "576", "1500"] {
        for end in [&net.a, &net.b] {
            end.ip(&["link", "set", "wire", "mtu", mtu]);
        }
        talks.iter().for_each(|talk| talk.until_moved(100_000));
    }
    // What is large vanishes, and nobody says so; beats are small, but behind it.
    let began = Instant::now();
    let holes = [&net.a, &net.b].map(|end| end.lose("iifname wire meta length > 600"));
    sidecar.until("it is declared dead", |figures| figures.all_losses("site") >= 1.0);
    let noticed = began.elapsed();
    // With one direction stuck the other may have nothing large to say.
    assert!(holes.iter().map(Fault::packets).sum::<u64>() > 0, "the holes met no packet");
    drop(holes);
    talks.iter().for_each(|talk| talk.until_moved(100_000));
    println!("declared dead after {noticed:?}");
    assert!(noticed < Duration::from_secs(8), "{noticed:?}");
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    in_the_end(&sidecar, &gateway, held);
}

#[test]
fn fault_19_lost_packets_lose_no_byte_and_a_few_of_them_no_link() {
    const PATIENT: &str = "heartbeat = { interval = \"2s\", timeout = \"1500ms\", misses = 3 }\n";
    let net = Net::new();
    let _echo = Server::start(&net.b, SERVICE, echo);
    let (sidecar, gateway, _authority) = both(&net, service(), PATIENT);
    let held = [sidecar.held(), gateway.held()];
    let talks = [talk(&net, Pace::BULK), talk(&net, Pace::CHAT)];
    talks.iter().for_each(|talk| talk.until_moved(100_000));
    for percent in [1, 5, 20] {
        let (moved, before) = (talks[0].moved(), sidecar.figures().all_losses("site"));
        let faults = [&net.a, &net.b].map(|end| end.lose(&format!("iifname wire numgen random mod 100 < {percent}")));
        std::thread::sleep(Duration::from_secs(4));
        faults.into_iter().for_each(Fault::heal);
        let losses = sidecar.figures().all_losses("site") - before;
        println!("{percent} %: {} KiB there and back in 4 s, {losses} losses", (talks[0].moved() - moved) >> 10);
        assert!(percent == 20 || losses == 0.0, "{losses} false deaths at {percent} %");
        talks.iter().for_each(|talk| talk.until_moved(20_000));
    }
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    in_the_end(&sidecar, &gateway, held);
}

/// Megabytes are on their way when the path becomes slow: most of them are dropped by its small queue. With the numbers that
/// everybody has who writes none.
#[test]
fn fault_21_a_path_that_becomes_a_slow_one_is_not_taken_for_dead() {
    const USUAL: &str = "retry.initial = \"500ms\"\n";
    let net = Net::new();
    let _echo = Server::start(&net.b, SERVICE, echo);
    let (sidecar, gateway, _authority) = both(&net, service(), USUAL);
    let held = [sidecar.held(), gateway.held()];
    let talks = [talk(&net, Pace::BULK), talk(&net, Pace::CHAT)];
    talks.iter().for_each(|talk| talk.until_moved(100_000));
    let slow = "qdisc add dev wire root tbf rate 64kbit burst 3000 latency 3s";
    for end in [&net.a, &net.b] {
        end.tc(&slow.split(' ').collect::<Vec<_>>());
    }
    let beats = |figures: &crate::faults::program::Figures| figures.of("heartbeat_rtt_seconds_count", "site");
    let (before, moved) = (beats(&sidecar.figures()), talks[0].moved());
    std::thread::sleep(Duration::from_secs(15));
    let figures = sidecar.figures();
    println!(
        "{} KiB there and back in 15 s, {} beats answered, {} missed",
        (talks[0].moved() - moved) >> 10,
        beats(&figures) - before,
        figures.of("heartbeats_missed_total", "site")
    );
    assert_eq!(figures.losses("site", "heartbeat"), 0, "a slow link full of data is not a dead one");
    println!("{} losses of other kinds", figures.all_losses("site"));
    let waits = [&net.a, &net.b].map(|end| {
        let waits = end.held_by_queue();
        end.tc(&["qdisc", "del", "dev", "wire", "root"]);
        waits
    });
    println!("the queues have waited {waits:?} times");
    // What comes back depends on what the first of a million bytes' holes was, and on the kernel's congestion control.
    assert!(waits.iter().sum::<u64>() > 20, "the path was not slow");
    talks.iter().for_each(|talk| talk.until_moved(100_000));
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    in_the_end(&sidecar, &gateway, held);
}

/// Nobody tells the gateway anything: neither an end nor a reset.
#[test]
fn fault_06_a_sidecar_whose_network_vanishes_with_it_is_freed_at_the_gateway() {
    let net = Net::new();
    let echo = Server::start(&net.b, SERVICE, echo);
    let authority = certificates();
    let gateway = gateway(&net.b, &authority, "name = \"gw-1\"\n", service());
    let held = gateway.held();
    {
        let more = format!("{BEATS}resume.deadline = \"2s\"\n");
        let sidecar = sidecar(&net.a, &authority, "10.77.0.2:7443", &more);
        let clients: Vec<TcpStream> = (0..5).map(|_| net.client(DOOR)).collect();
        gateway.until("all are there", |figures| figures.get("everlink_gateway_streams", &[]) == 5.0);
        let cut = net.cut();
        drop((sidecar, clients));
        gateway.until("the session is gone", |figures| figures.get("everlink_gateway_sessions", &[]) == 0.0);
        assert_eq!(echo.connections(), 5);
        cut.heal();
    }
    gateway.until_baseline(held);
}
