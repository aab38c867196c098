//! Memory that is nearly used up: by many, and by one who says that much is to come.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::groups::Group;
use crate::common::program::{Program, wait_until};
use crate::common::server::Server;
use crate::tunnel::relay::Way;
use crate::tunnel::road::{Plan, QUICK, Road, connect_to, end_of, memory, talks};
use crate::tunnel::traffic::{Pace, Talk};

/// What the gateway may use in all, and what its sessions may hold of that.
const ALLOWED: u64 = 112 << 20;
const HELD: u64 = 32 << 20;

/// Clients whose bytes nobody reads at the far end; returns when none of them gets rid of another byte.
fn stalled(road: &Road, count: usize) -> Vec<TcpStream> {
    let bytes = vec![7; 64 * 1024];
    let mut clients: Vec<_> = (0..count).map(|_| connect_to(road.listener("deaf"))).collect();
    clients.iter().for_each(|client| client.set_nonblocking(true).expect("set"));
    wait_until("nobody's bytes are taken any more", || {
        let write = |client: &mut TcpStream| {
            let mut taken = 0;
            while let Ok(count @ 1..) = client.write(&bytes) {
                taken += count;
            }
            taken
        };
        let taken: usize = clients.iter_mut().map(write).sum();
        std::thread::sleep(Duration::from_millis(300));
        taken == 0
    });
    clients
}

#[test]
fn fault_59_short_of_memory_a_gateway_turns_new_sessions_away_and_serves_those_it_has() {
    const LINKS: usize = 4;
    const CLIENTS: usize = 600;
    everlink::net::kernel::raise_descriptor_limit().expect("raised");
    let group = Group::new("memory");
    let enter = group.enter();
    let stays = Arc::new(AtomicBool::new(true));
    let deaf = {
        let stays = stays.clone();
        Server::start(move |_stream| {
            while stays.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        })
    };
    let more = |links: usize| format!("{QUICK}pool.size = {links}\n");
    let mut road = Plan {
        services: &[("deaf", deaf.address)],
        sidecar: &more(LINKS),
        gateway: &format!("limits.memory = \"{}MiB\"\n", HELD >> 20),
        wrappers: [&[], &enter],
        ..Plan::default()
    }
    .build();
    group.limit_memory(ALLOWED);
    wait_until("all links up", || road.at_gateway().sessions.len() == LINKS);
    let (at_first, before) = (memory(road.gateway().id()), road.held());
    let talk = Talk::start(road.listener("echo"), Pace::CHAT);
    talk.until_moved(1000);

    let clients = stalled(&road, CLIENTS);
    // More links: each would be a session.
    road.edit_sidecar(&more(2 * LINKS), &["echo", "deaf"]);
    wait_until("new sessions are turned away", || road.refusals("busy") >= 3.0);
    std::thread::sleep(Duration::from_secs(2));
    println!(
        "{} clients whose bytes nobody reads: {} KiB, {} KiB at first; the group holds {} MiB of {}; {} turned away",
        clients.len(),
        memory(road.gateway().id()),
        at_first,
        group.memory() >> 20,
        ALLOWED >> 20,
        road.refusals("busy")
    );
    assert_eq!(road.at_gateway().sessions.len(), LINKS);
    let most = memory(road.gateway().id());
    assert!(most < at_first + (HELD >> 10) + (24 << 10), "memory, KiB: {at_first} and then {most}");
    assert_eq!(group.killed(), 0);
    // Those that are there are served, and so are new streams of theirs.
    talk.until_moved(5000);
    talks(&mut road.connect("echo"), b"a stream more");
    assert_eq!(road.losses(), 0.0);

    let leave = |clients: Vec<TcpStream>| {
        drop(clients);
        stays.store(false, Ordering::SeqCst);
        wait_until("the service has gone away from all", || deaf.live() == 0);
        deaf.end_all();
        stays.store(true, Ordering::SeqCst);
    };
    leave(clients);
    wait_until("there is room again", || road.at_gateway().sessions.len() == 2 * LINKS);
    road.until_up();
    assert!(talk.finish() > 0);
    road.edit_sidecar(&more(LINKS), &["echo", "deaf"]);
    wait_until("the pool is what it was", || road.at_gateway().sessions.len() == LINKS);
    road.until_up();

    // The allocator may keep all of it for the next time, and that there is a next time shows that it is no leak.
    leave(stalled(&road, CLIENTS));
    road.until_idle();
    let again = memory(road.gateway().id());
    assert!(again < most + (8 << 10), "memory, KiB: {most} and then {again}");
    let now = road.held();
    assert!(now.descriptors.iter().zip(before.descriptors).all(|(now, before)| *now <= before), "{before:?}, {now:?}");
    assert_eq!(group.killed(), 0);
}

/// Lets a process have so much address space more than it has.
fn limit_space(program: &Program, more: u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).expect("a living process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("told");
    let used: u64 = line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number");
    let pid = Pid::from_raw(i32::try_from(program.id()).expect("a process id"));
    let maximum = getrlimit(Resource::As).maximum;
    prlimit(pid, Resource::As, Rlimit { current: Some((used << 10) + more), maximum }).expect("limited");
}

#[test]
fn fault_59_a_length_that_memory_would_not_hold_is_refused_before_it_is_asked_for() {
    const ROUNDS: usize = 12;
    // An end that is told nonsense drops the session, and the other one keeps it for so long.
    let more = format!("{QUICK}resume.deadline = \"2s\"\n");
    let mut road = Plan { sidecar: &more, ..Plan::default() }.build();
    let mut client = road.connect("echo");
    talks(&mut client, b"before");
    drop(client);
    road.until_idle();
    let before = road.held();
    // Enough for what it does, and less than a frame of the greatest length that can be said.
    for program in [&road.sidecar, road.gateway()] {
        limit_space(program, 12 << 20);
    }
    let (due, way) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (armed, down) = (due.clone(), way.clone());
    road.relay.rewrite(move |way, offset, bytes| {
        let wanted = if down.load(Ordering::SeqCst) { Way::Down } else { Way::Up };
        // At rest, whatever is sent begins with a frame: its stream (4 bytes), its length (3), its type.
        if way == wanted && offset > 0 && bytes.len() >= 8 && armed.swap(false, Ordering::SeqCst) {
            bytes[4..7].copy_from_slice(&[0xff; 3]);
        }
    });
    let violations = |program: &Program| {
        let all = program.metrics().0;
        all.iter().filter(|(series, _)| series.contains("protocol_violations")).map(|(_, count)| count).sum::<f64>()
    };
    for round in 0..ROUNDS {
        let mut client = road.connect("echo");
        talks(&mut client, b"well");
        way.store(round % 2 == 1, Ordering::SeqCst);
        due.store(true, Ordering::SeqCst);
        let end = if round % 2 == 1 { &road.sidecar } else { road.gateway() };
        let (known, talk) = (violations(end), client.write_all(b"ill"));
        assert!(talk.is_ok());
        wait_until("it is a violation", || violations(end) > known);
        assert!(end_of(&mut client).is_err(), "the session is over, and its streams with it");
        road.until_up();
    }
    assert!(!due.load(Ordering::SeqCst), "each length was rewritten");
    talks(&mut road.connect("echo"), b"both live");
    road.until_baseline(before);
    assert!(road.sidecar.is_running() && road.gateway.as_mut().is_some_and(Program::is_running));
}
