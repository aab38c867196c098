//! Connections in use and the clients who come for them: limits, storms, shortages, edits and removals.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::process::{ServerProcess, alone, announce};
use common::server::{Server, deaf, echo, tutorial};
use common::sockets::{Keepalive, descriptors, keepalive_at, keepalive_towards};
use common::{Counts, Everlink, PATIENCE, always_until, eventually, nobody, ping_lines, upstream};
use everlink::config::Upstream;
use everlink::metrics::{CloseReason, DialOutcome, LinkState, LossReason, RefuseReason};
use everlink::net::descriptors::Descriptors;
use everlink::workers::Layout;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn says_and_hears(mut client: &TcpStream, what: &[u8]) {
    client.write_all(what).expect("sent");
    let mut heard = vec![0; what.len()];
    client.read_exact(&mut heard).expect("answered");
    assert_eq!(heard, what);
}

/// What a client reads until its connection ends, and how it ended.
fn end_of(mut client: &TcpStream) -> Result<Vec<u8>, ErrorKind> {
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).map(|_| rest).map_err(|error| error.kind())
}

fn with_beats(endpoint: SocketAddr) -> Upstream {
    let mut settings = upstream(endpoint);
    settings.heartbeat.interval = MS(200);
    settings.heartbeat.beat = ping_lines();
    settings
}

#[test]
#[ignore = "a server in a process of its own; run by the tests whose own descriptors are counted"]
fn server_process() {
    let server = Server::start(common::server::lines);
    announce(server.address);
    loop {
        std::thread::sleep(PATIENCE);
    }
}

// ---- removal ----

#[tokio::test]
async fn fault_53_a_removed_upstream_closes_its_listener_drains_its_connections_and_then_resets_them() {
    let server = Server::start(echo);
    let mut everlink = Everlink::start(upstream(server.address));
    everlink.drain_within(MS(4000));
    everlink.until_up(2).await;
    let (status, address) = (everlink.upstream.clone(), everlink.address());
    let (leaving, staying) = (everlink.connect(), everlink.connect());
    says_and_hears(&leaving, b"x");
    says_and_hears(&staying, b"x");
    let series = |everlink: &Everlink| {
        let families = everlink.status.metrics.gather();
        let labels = families.iter().flat_map(|family| family.get_metric()).flat_map(|metric| metric.get_label());
        labels.filter(|label| label.name() == "upstream" && label.value() == "test").count()
    };
    assert!(series(&everlink) > 0);
    let removed = Instant::now();
    everlink.change(Vec::new()).unwrap_or_else(|_| panic!("nothing to bind"));
    eventually("the listener is closed", || TcpStream::connect(address).is_err()).await;
    eventually("its links are gone", || server.live() == 2).await;
    // Whoever is there may finish.
    says_and_hears(&staying, b"still carried");
    says_and_hears(&leaving, b"and this one ends in time");
    assert!(removed.elapsed() < MS(4000), "the machine is too slow to say anything: {:?}", removed.elapsed());
    leaving.shutdown(Shutdown::Write).expect("half-closed");
    assert_eq!(end_of(&leaving), Ok(Vec::new()));
    let ended = tokio::task::spawn_blocking(move || end_of(&staying)).await.expect("read");
    assert_eq!(ended, Err(ErrorKind::ConnectionReset));
    assert!(removed.elapsed() >= MS(4000), "{:?}", removed.elapsed());
    eventually("the series are gone", || series(&everlink) == 0).await;
    let closed = || (status.closed(CloseReason::Finished), status.closed(CloseReason::Drained));
    // Who knocked to see whether the listener is closed may have been let in, and has ended in order as well.
    eventually("each end has its reason", || closed().0 >= 1 && closed().1 == 1).await;
    assert!(everlink.status.upstreams().is_empty());
    eventually("and so is every task of it", || everlink.tasks() == 0).await;
}

/// More of them than links: whoever has none yet came before the upstream went, and its server answers.
#[tokio::test]
async fn who_waits_when_its_upstream_goes_is_served_if_the_server_answers() {
    for _ in 0..10 {
        let server = Server::start(echo);
        let mut everlink = Everlink::start(upstream(server.address));
        everlink.until_up(2).await;
        let (status, clients) = (everlink.upstream.clone(), (0..20).map(|_| everlink.connect()).collect::<Vec<_>>());
        everlink.change(Vec::new()).unwrap_or_else(|_| panic!("nothing to bind"));
        for client in &clients {
            says_and_hears(client, b"a connection of its own");
        }
        drop(clients);
        let refused = || (status.refused(RefuseReason::LinkDown), status.refused(RefuseReason::Limit));
        assert_eq!(refused(), (0, 0));
        eventually("the upstream is gone", || everlink.status.upstreams().is_empty() && everlink.tasks() == 0).await;
    }
}

#[tokio::test]
async fn who_waits_when_its_upstream_goes_is_refused_if_the_server_does_not_answer() {
    let mut settings = upstream(nobody());
    settings.limits.wait = Duration::from_secs(60);
    let mut everlink = Everlink::start(settings);
    let status = everlink.upstream.clone();
    let client = everlink.connect();
    eventually("it waits", || status.metrics.waiting.get() == 1).await;
    everlink.change(Vec::new()).unwrap_or_else(|_| panic!("nothing to bind"));
    assert_eq!(end_of(&client), Ok(Vec::new()));
    eventually("counted", || status.refused(RefuseReason::LinkDown) == 1).await;
}

#[tokio::test]
async fn an_upstream_that_comes_back_under_its_name_is_not_disturbed_by_what_drains() {
    let server = Server::start(echo);
    let mut everlink = Everlink::start(upstream(server.address));
    everlink.until_up(2).await;
    let client = everlink.connect();
    says_and_hears(&client, b"x");
    let again = everlink.settings();
    everlink.change(Vec::new()).unwrap_or_else(|_| panic!("nothing to bind"));
    everlink.change(again).unwrap_or_else(|errors| panic!("{}", errors[0]));
    let new = everlink.of("test");
    eventually("up again", || new.links_in(LinkState::Up) == 2 && new.is_up()).await;
    says_and_hears(&client, b"of the old one, and still carried");
    drop(client);
    eventually("the old one is gone", || everlink.upstream.metrics.connections.get() == 0).await;
    let (begun, endpoint) = (Instant::now(), everlink.endpoint_up(server.address));
    let well = || new.is_up() && new.links_in(LinkState::Up) == 2;
    always_until("the new one stays up", well, || begun.elapsed() > MS(300)).await;
    assert_eq!(endpoint, 1);
    assert!(everlink.status.upstreams().contains_key("test"));
}

// ---- keepalive ----

#[tokio::test]
async fn fault_34_a_client_that_vanishes_is_left_to_the_keepalive_of_the_heartbeat() {
    let server = Server::start(echo);
    let mut settings = upstream(server.address);
    settings.heartbeat.interval = Duration::from_secs(7);
    settings.heartbeat.timeout = MS(1500);
    settings.heartbeat.misses = 4;
    let mut everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    let client = everlink.connect();
    says_and_hears(&client, b"x");
    everlink.until_up(2).await;
    eventually("all accepted", || server.peers().len() == 3).await;
    let here = client.local_addr().expect("bound");
    let peers = server.peers();
    assert_eq!(keepalive_towards(here), Some(Keepalive::seconds(7, 2, 4)), "the client's, in whole seconds");
    for peer in &peers {
        // Set on those that have lived for a second.
        eventually("the upstream's", || keepalive_at(*peer) == Some(Keepalive::seconds(7, 2, 4))).await;
    }
    // An edit reaches what is in use, what is warm, and who comes later.
    everlink.edit(|settings| {
        settings.heartbeat.interval = Duration::from_secs(20);
        settings.heartbeat.misses = 2;
    });
    let new = Some(Keepalive::seconds(20, 2, 2));
    eventually("in use: the client", || keepalive_towards(here) == new).await;
    for peer in &peers {
        eventually("in use and warm: the upstream", || keepalive_at(*peer) == new).await;
    }
    assert_eq!(server.connections(), 3, "and nothing was redialled");
    says_and_hears(&client, b"or dropped");
    eventually("a client of later", || {
        let later = everlink.connect();
        says_and_hears(&later, b"x");
        keepalive_towards(later.local_addr().expect("bound")) == new
    })
    .await;
    // Which connection that is may change yet: those of the clients above are going.
    let last = || server.peers().pop().is_some_and(|last| !peers.contains(&last) && keepalive_at(last) == new);
    eventually("and a dial of later", last).await;
}

// ---- limits ----

#[tokio::test]
async fn with_wait_off_only_a_link_that_is_down_turns_clients_away() {
    let server = Server::start(tutorial);
    let address = server.address;
    let mut settings = upstream(address);
    settings.pool.size = 1;
    settings.limits.wait = Duration::ZERO;
    let everlink = Everlink::start(settings);
    everlink.until_up(1).await;
    // More at once than the pool holds: each is owed a dial, not a refusal.
    let clients: Vec<_> = (0..50).map(|_| everlink.connect()).collect();
    for client in &clients {
        says_and_hears(client, b"x");
    }
    assert_eq!(everlink.refused(RefuseReason::LinkDown), 0);
    drop(clients);
    drop(server);
    eventually("down", || !everlink.is_up() && everlink.dials(DialOutcome::Refused) > 0).await;
    let (begun, client) = (Instant::now(), everlink.connect());
    assert_eq!(end_of(&client), Ok(Vec::new()));
    assert!(begun.elapsed() < Duration::from_secs(2), "at once: {:?}", begun.elapsed());
    eventually("counted", || everlink.refused(RefuseReason::LinkDown) == 1).await;
}

#[tokio::test]
async fn an_idle_connection_is_reset_after_its_time_and_a_busy_one_is_not() {
    let server = Server::start(echo);
    let mut settings = upstream(server.address);
    settings.heartbeat.timeout = MS(100);
    settings.limits.idle_timeout = Some(MS(2000));
    let mut everlink = Everlink::start(settings);
    let (idle, busy) = (everlink.connect(), everlink.connect());
    says_and_hears(&idle, b"x");
    let silent = Instant::now();
    let ended = tokio::task::spawn_blocking(move || (end_of(&idle), silent.elapsed()));
    while !ended.is_finished() {
        says_and_hears(&busy, b"x");
        tokio::time::sleep(MS(5)).await;
    }
    let (ended, after) = ended.await.expect("read");
    assert_eq!(ended, Err(ErrorKind::ConnectionReset));
    assert!(after >= MS(2000), "{after:?}");
    eventually("counted", || (everlink.closed(CloseReason::Idle), everlink.clients()) == (1, 1)).await;
    everlink.edit(|settings| settings.limits.idle_timeout = None);
    let begun = Instant::now();
    let kept = || everlink.clients() == 1;
    always_until("an edit lifts the limit", kept, || begun.elapsed() > MS(4000)).await;
    says_and_hears(&busy, b"x");
}

// ---- storms and shortages: counted in processes of their own ----

#[test]
fn fault_35_a_storm_of_clients_is_capped_counted_and_harms_no_link() {
    alone("a_storm", 4096);
}

#[tokio::test]
#[ignore = "counts its process's descriptors; run by the test above"]
async fn a_storm() {
    const CAP: usize = 50;
    const STORM: usize = 800;
    let server = ServerProcess::start("server_process");
    let mut settings = with_beats(server.address);
    settings.limits.connections = CAP;
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    let before = descriptors().len();
    let clients: Vec<_> = (0..STORM).map(|_| everlink.connect()).collect();
    let metrics = &everlink.upstream.metrics;
    eventually("all are counted", || metrics.connections_total.get() == STORM as u64).await;
    eventually("the rest is refused", || everlink.refused(RefuseReason::Limit) == (STORM - CAP) as u64).await;
    assert_eq!(everlink.clients(), CAP);
    eventually("the others are carried", || metrics.connections.get() == CAP as i64).await;
    everlink.until_up(2).await;
    // Two for each of those carried, at most one that was dialled for it in vain and is closing, and one for each refused
    // that is still read to its end.
    let held = descriptors().len() - before - STORM;
    assert!(held <= 3 * CAP + 32 + 4, "{held} descriptors");
    let beats = metrics.rtt.get_sample_count();
    eventually("links beat on", || metrics.rtt.get_sample_count() >= beats + 6).await;
    let lost = [LossReason::Heartbeat, LossReason::Closed, LossReason::Error].map(|reason| everlink.losses(reason));
    assert_eq!((metrics.beats_missed.get(), lost), (0, [0, 0, 0]));
    let mut served = 0;
    for client in clients {
        // Those refused read an end, those carried an answer.
        let mut answer = [0; 3];
        let said = (&client).write_all(b"hi\n");
        match (&client).read(&mut answer) {
            Ok(3) if said.is_ok() => served += 1,
            Ok(0) | Err(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(served, CAP);
    eventually("all have left", || everlink.clients() == 0).await;
    says_and_hears(&everlink.connect(), b"welcome\n");
}

#[test]
fn fault_36_out_of_descriptors_accepting_backs_off_links_go_on_and_clients_are_served_in_the_end() {
    alone("out_of_descriptors", 256);
}

#[tokio::test]
#[ignore = "uses up its process's descriptors; run by the test above"]
async fn out_of_descriptors() {
    let server = ServerProcess::start("server_process");
    let everlink = Everlink::start_on(with_beats(server.address), Layout::Separate(1));
    everlink.until_up(2).await;
    let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let sockets: Vec<_> = (0..3).map(|_| socket()).collect();
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    let address = everlink.address().into();
    let begun = Instant::now();
    sockets.iter().for_each(|socket| socket.connect(&address).expect("queued"));
    let errors = &everlink.status.metrics.accept_errors;
    let beats = everlink.upstream.metrics.rtt.get_sample_count();
    eventually("refused by the kernel again and again", || errors.get() >= 6).await;
    // 10, 20, 40, 80 and 160 ms lie between six tries.
    assert!(begun.elapsed() >= MS(310), "{:?}", begun.elapsed());
    eventually("beats go on", || everlink.upstream.metrics.rtt.get_sample_count() >= beats + 10).await;
    assert_eq!((everlink.links(LinkState::Up), everlink.is_up()), (2, true));
    drop(hoard);
    for socket in sockets {
        let client = TcpStream::from(socket);
        client.set_read_timeout(Some(PATIENCE)).expect("set");
        says_and_hears(&client, b"served late\n");
    }
    let settled = errors.get();
    for _ in 0..20 {
        says_and_hears(&everlink.connect(), b"as ever\n");
    }
    assert_eq!(errors.get(), settled);
}

#[test]
fn fault_36_the_last_descriptors_are_not_for_clients() {
    alone("few_descriptors", 4096);
}

#[tokio::test]
#[ignore = "lowers the limit of its whole process; run by the test above"]
async fn few_descriptors() {
    let server = ServerProcess::start("server_process");
    // As if the limit were 200: 64 are kept back, a client and its connection have two, and the links theirs.
    Descriptors::shared().set_limit(200);
    let everlink = Everlink::start(with_beats(server.address));
    everlink.until_up(2).await;
    let clients: Vec<_> = (0..150).map(|_| everlink.connect()).collect();
    eventually("refused", || everlink.refused(RefuseReason::Limit) > 0 && everlink.clients() <= 70).await;
    let carried = || everlink.upstream.metrics.connections.get();
    eventually("all have their answer", || {
        carried() as u64 + everlink.refused(RefuseReason::Limit) == 150 && carried() > 30
    })
    .await;
    everlink.until_up(2).await;
    drop(clients);
    eventually("all have left", || everlink.clients() == 0).await;
    for _ in 0..20 {
        says_and_hears(&everlink.connect(), b"served\n");
    }
}

#[test]
fn after_a_day_of_trouble_every_descriptor_and_task_is_given_back() {
    alone("a_day_of_trouble", 4096);
}

#[tokio::test]
#[ignore = "counts its process's descriptors; run by the test above"]
async fn a_day_of_trouble() {
    let before = descriptors().len();
    let mute = Arc::new(AtomicBool::new(false));
    for layout in [Layout::Separate(2), Layout::Shared(2)] {
        let is_mute = mute.clone();
        let handle = move |stream: TcpStream| {
            if is_mute.load(Ordering::SeqCst) { deaf(stream) } else { common::server::lines(stream) }
        };
        let server = Server::start(handle.clone());
        let address = server.address;
        let mut settings = with_beats(address);
        settings.heartbeat.timeout = MS(200);
        settings.limits.wait = MS(300);
        settings.limits.connections = 60;
        settings.endpoints.push(common::at(nobody(), 2));
        let mut everlink = Everlink::start_on(settings, layout);
        everlink.until_up(2).await;
        let idle_tasks = everlink.tasks();
        for round in 0..4 {
            let clients: Vec<_> = (0..80).map(|_| everlink.connect()).collect();
            for (n, client) in clients.iter().enumerate() {
                let _ = { client }.write_all(b"hello\n");
                match n % 4 {
                    0 => drop(client.shutdown(Shutdown::Write)),
                    1 => drop(everlink::net::socket::reset_on_close(client)),
                    _ => {}
                }
            }
            match round {
                0 => server.end_all(),
                1 => everlink.edit(|settings| settings.pool.size = 9),
                2 => mute.store(true, Ordering::SeqCst),
                _ => {}
            }
            eventually("some are carried", || everlink.upstream.metrics.bytes[0].get() > 0).await;
            drop(clients);
            mute.store(false, Ordering::SeqCst);
            eventually("all have left", || {
                // A deaf one would never end by itself.
                server.end_all();
                everlink.clients() == 0
            })
            .await;
            everlink.edit(|settings| settings.pool.size = 2);
        }
        eventually("at rest", || everlink.links(LinkState::Up) == 2).await;
        eventually("as many tasks as at first", || everlink.tasks() == idle_tasks).await;
        assert_eq!(everlink.upstream.metrics.waiting.get(), 0);
        assert_eq!(everlink.links(LinkState::InUse), 0);
        everlink.remove();
        let status = everlink.status.clone();
        eventually("nothing is left", || status.upstreams().is_empty() && everlink.tasks() == 0).await;
        drop(everlink);
        drop(server);
    }
    eventually("every descriptor is back", || descriptors().len() <= before).await;
}
