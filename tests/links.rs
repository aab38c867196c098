//! The life of links over real sockets: absent, hung, silent, flapping and restarted servers; renewal and retuning.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use common::process::{ServerProcess, announce};
use common::server::{Server, echo, tutorial};
use common::{Counts, Everlink, PATIENCE, always_until, eventually, named, nobody, ping_lines, ping_pong, upstream};
use everlink::config::{Jitter, Upstream};
use everlink::metrics::{DialOutcome, LinkState, LossReason, RefuseReason};
use everlink::status::UpstreamStatus;
use everlink::workers::Layout;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A tutorial upstream whose beats are quick.
fn beating(endpoint: SocketAddr, interval: u64, timeout: u64) -> Upstream {
    let mut settings = upstream(endpoint);
    settings.heartbeat.interval = MS(interval);
    settings.heartbeat.timeout = MS(timeout);
    settings.heartbeat.beat = ping_pong();
    settings
}

/// The same for a server that may find several beats in one read.
fn beating_in_lines(endpoint: SocketAddr, interval: u64, timeout: u64) -> Upstream {
    let mut settings = beating(endpoint, interval, timeout);
    settings.heartbeat.beat = ping_lines();
    settings
}

fn says_and_hears(client: &mut TcpStream, what: &[u8]) {
    client.write_all(what).expect("sent");
    let mut heard = vec![0; what.len()];
    client.read_exact(&mut heard).expect("answered");
    assert_eq!(heard, what);
}

#[tokio::test]
async fn fault_01_an_absent_upstream_is_no_reason_not_to_start() {
    let address = nobody();
    let mut settings = upstream(address);
    settings.retry.jitter = Jitter::Off;
    let begun = Instant::now();
    let everlink = Everlink::start(settings);
    eventually("both links have tried several times", || everlink.dials(DialOutcome::Refused) >= 8).await;
    // 20, 40 and 80 ms lie between four tries of one link.
    assert!(begun.elapsed() >= MS(140), "a backoff lies between two tries");
    assert!(!everlink.is_up());
    let down = everlink.links(LinkState::Waiting) + everlink.links(LinkState::Connecting);
    assert_eq!(down, 2);
    everlink.upstream.metrics.refresh();
    assert!(everlink.endpoint_up(address) == 0 && everlink.losses(LossReason::Closed) == 0, "nothing was lost");
    eventually("the wait is shown", || everlink.upstream.metrics.retry_delay.get() >= 0.02).await;
    let _server = Server::start_at(address, echo);
    everlink.until_up(2).await;
    assert!(everlink.is_up());
    assert_eq!(everlink.upstream.metrics.reconnects.get(), 0, "what never stood does not come up again");
    assert_eq!(everlink.upstream.metrics.retry_delay.get(), 0.0);
}

#[tokio::test]
async fn the_wait_shown_is_that_of_a_link_that_waits_whatever_others_do() {
    // One connection is let in, every other is ended at once.
    let first = AtomicBool::new(true);
    let server = Server::start(move |stream| if first.swap(false, Ordering::SeqCst) { echo(stream) } else { Ok(()) });
    let mut settings = upstream(server.address);
    settings.retry.initial = Duration::from_secs(20);
    settings.retry.max = Duration::from_secs(20);
    settings.retry.jitter = Jitter::Off;
    let everlink = Everlink::start(settings);
    let shown = || everlink.upstream.metrics.retry_delay.get();
    let apart = || everlink.links(LinkState::Up) == 1 && everlink.links(LinkState::Waiting) == 1;
    eventually("one up, one waits", || apart() && shown() > 19.0).await;
    // The one that is up is handed out and its place refilled in vain: it waits as well.
    let mut client = everlink.connect();
    says_and_hears(&mut client, b"hello");
    eventually("both wait", || everlink.links(LinkState::Waiting) == 2 && shown() > 19.0).await;
}

#[test]
#[ignore = "a server in a process of its own; run by the tests that stop it"]
fn server_process() {
    let server = Server::start(common::server::lines);
    announce(server.address);
    loop {
        std::thread::sleep(PATIENCE);
    }
}

#[tokio::test]
async fn fault_13_a_hang_shorter_than_the_budget_is_no_loss() {
    let server = ServerProcess::start("server_process");
    let everlink = Everlink::start(beating_in_lines(server.address, 500, 1500));
    everlink.until_up(2).await;
    let dials = everlink.dials(DialOutcome::Ok);
    server.freeze();
    eventually("suspicion", || everlink.links(LinkState::Suspect) > 0).await;
    assert!(everlink.is_up(), "suspicion is not death");
    server.thaw();
    everlink.until_up(2).await;
    assert!(everlink.upstream.metrics.beats_missed.get() > 0);
    assert_eq!((everlink.losses(LossReason::Heartbeat), everlink.dials(DialOutcome::Ok)), (0, dials), "no flap");
    says_and_hears(&mut everlink.connect(), b"still the same links\n");
}

#[tokio::test]
async fn fault_13_a_hang_longer_than_the_budget_is_noticed_within_it_and_is_down_until_answers_come() {
    let server = ServerProcess::start("server_process");
    let mut settings = beating_in_lines(server.address, 500, 300);
    settings.limits.wait = MS(200);
    let budget = settings.heartbeat.budget();
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    let freezing = Instant::now();
    server.freeze();
    let frozen = Instant::now();
    eventually("both are lost", || everlink.losses(LossReason::Heartbeat) == 2).await;
    let took = frozen.elapsed();
    assert!(freezing.elapsed() >= MS(900), "three timeouts at least: {took:?}");
    assert!(took < budget + Duration::from_secs(2), "{took:?} with a budget of {budget:?}");
    eventually("down", || !everlink.is_up() && everlink.endpoint_up(server.address) == 0).await;
    // The kernel of a frozen process still accepts; that proves nothing.
    let redials = || everlink.dials(DialOutcome::Timeout) >= 6;
    always_until("down, and seen so", || !everlink.is_up() && everlink.endpoint_up(server.address) == 0, redials).await;
    assert_eq!(everlink.upstream.outages.load().len(), 1, "one outage, not one for each redial");
    // Nor is a client joined to a connection that nobody has proven.
    let mut client = everlink.connect();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("refused in order");
    assert_eq!(everlink.refused(RefuseReason::LinkDown), 1);
    everlink.upstream.metrics.refresh();
    server.thaw();
    everlink.until_up(2).await;
    assert!(everlink.is_up());
    assert_eq!(everlink.upstream.metrics.reconnects.get(), 2);
    let outages = everlink.upstream.outages.load_full();
    assert!(outages.len() == 1 && outages[0].until.is_some(), "{outages:?}");
}

/// Listens, but its queue is full: the kernel drops every further SYN.
fn silent() -> (socket2::Socket, Vec<TcpStream>, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&common::local().into()).expect("bound");
    socket.listen(0).expect("listening");
    let address = socket.local_addr().expect("bound").as_socket().expect("an address");
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, MS(200)) {
        queue.push(stream);
    }
    (socket, queue, address)
}

#[tokio::test]
async fn fault_15_a_dropped_syn_costs_its_own_upstream_a_timeout_and_no_other_anything() {
    let (_listener, _queue, address) = silent();
    let server = Server::start(echo);
    let mut mute = named("mute", address);
    mute.retry.connect_timeout = MS(300);
    // One thread for both, so that whoever blocked it would be seen.
    let everlink = Everlink::start_all(vec![named("well", server.address), mute], Layout::Separate(1));
    everlink.until_up(2).await;
    let mute = everlink.of("mute");
    let mut took = Vec::new();
    while mute.dials(DialOutcome::Timeout) < 4 {
        let begun = Instant::now();
        says_and_hears(&mut everlink.connect(), b"unaffected");
        took.push(begun.elapsed());
        tokio::time::sleep(MS(5)).await;
    }
    // Not the slowest, which may be the host's work: whoever blocks the thread does so nearly all the time.
    took.sort();
    assert!(took[took.len() / 2] < MS(100), "nobody waited for the other's timeout: {took:?}");
    assert!(!mute.is_up() && mute.dials(DialOutcome::Ok) == 0);
    assert_eq!((everlink.losses(LossReason::Error), everlink.is_up()), (0, true));
}

/// The moments at which a server was dialled; it ends each connection after `stay`.
fn hanging_up(stay: Duration) -> (Server, Arc<Mutex<Vec<Instant>>>) {
    let dialled: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let moments = dialled.clone();
    let server = Server::start(move |_stream| {
        moments.lock().expect("unpoisoned").push(Instant::now());
        std::thread::sleep(stay);
        Ok(())
    });
    (server, dialled)
}

async fn backs_off_from(stay: Duration) {
    let (server, dialled) = hanging_up(stay);
    let mut settings = upstream(server.address);
    settings.pool.size = 1;
    settings.retry.initial = MS(50);
    settings.retry.max = MS(400);
    settings.retry.jitter = Jitter::Off;
    let _everlink = Everlink::start(settings);
    eventually("dialled again and again", || dialled.lock().expect("unpoisoned").len() >= 6).await;
    let dialled = dialled.lock().expect("unpoisoned").clone();
    let gaps: Vec<_> = dialled.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (gap, wait) in gaps.iter().zip([50, 100, 200, 400, 400]) {
        assert!(*gap >= MS(wait), "a wait of {wait} ms was cut short: {gaps:?}");
    }
}

#[tokio::test]
async fn fault_16_accepted_then_closed_grows_the_backoff() {
    backs_off_from(Duration::ZERO).await;
}

#[tokio::test]
async fn fault_16_accepted_and_closed_a_little_later_grows_the_backoff_as_well() {
    backs_off_from(MS(100)).await;
}

#[tokio::test]
async fn fault_16_accepted_then_closed_is_never_up_and_counts_as_refused_once() {
    let (server, dialled) = hanging_up(Duration::ZERO);
    let everlink = Everlink::start(beating(server.address, 1000, 3000));
    let often = || dialled.lock().expect("unpoisoned").len() >= 12;
    always_until("it is not up", || !everlink.is_up() && everlink.endpoint_up(server.address) == 0, often).await;
    eventually("counted", || everlink.dials(DialOutcome::Refused) >= 12).await;
    assert_eq!(everlink.dials(DialOutcome::Ok), 0, "one dial has one outcome");
    assert!(everlink.upstream.outages.load().is_empty(), "what was never up does not go down");
}

/// Answers each `ping` after a while, as a far server does: beats and answers overlap.
fn distant(delay: Arc<AtomicUsize>) -> Server {
    Server::start(move |mut stream| {
        let mut buffer = [0; 64];
        loop {
            let pings = stream.read(&mut buffer)? / 4;
            if pings == 0 {
                return Ok(());
            }
            for _ in 0..pings {
                let (mut stream, delay) = (stream.try_clone()?, delay.load(Ordering::SeqCst) as u64);
                std::thread::spawn(move || {
                    std::thread::sleep(MS(delay));
                    let _ = stream.write_all(b"pong");
                });
            }
        }
    })
}

#[tokio::test]
async fn fault_47_answers_that_take_nearly_the_budget_flap_quietly() {
    let delay = Arc::new(AtomicUsize::new(0));
    let server = distant(delay.clone());
    // Dead after 5 unanswered: 1.5 s. Answers take four timeouts.
    let mut settings = beating(server.address, 300, 300);
    settings.heartbeat.misses = 5;
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    delay.store(1_100, Ordering::SeqCst);
    let metrics = &everlink.upstream.metrics;
    eventually("both flap", || metrics.beats_missed.get() >= 24).await;
    assert_eq!(everlink.losses(LossReason::Heartbeat), 0);
    assert_eq!(everlink.dials(DialOutcome::Ok), 2, "nobody redials");
    assert!(everlink.is_up());
    let told = everlink.upstream.events_of("suspect");
    assert!((1..=2).contains(&told), "told once for each link, not for each flap: {told}");
}

#[tokio::test]
async fn fault_47_answers_that_take_longer_than_the_budget_make_no_storm_of_redials() {
    let delay = Arc::new(AtomicUsize::new(0));
    let server = distant(delay.clone());
    let mut settings = beating(server.address, 200, 100);
    settings.retry.initial = MS(200);
    settings.retry.max = Duration::from_secs(2);
    settings.retry.jitter = Jitter::Off;
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    delay.store(450, Ordering::SeqCst);
    eventually("lost", || everlink.losses(LossReason::Heartbeat) == 2).await;
    let (begun, before) = (Instant::now(), server.connections());
    eventually("redialled", || everlink.dials(DialOutcome::Timeout) >= 6).await;
    // Two links; after 0.2 s, 0.4 s, 0.8 s …, each with the 0.1 s in which its proof fails.
    let redials = server.connections() - before;
    assert!(begun.elapsed() >= MS(600) && redials <= 10, "{redials} in {:?}", begun.elapsed());
    assert!(everlink.upstream.events().len() <= 16, "{:?}", everlink.upstream.events());
}

#[tokio::test]
async fn fault_54_an_edit_of_retry_numbers_touches_no_link() {
    let server = Server::start(tutorial);
    let mut everlink = Everlink::start(beating(server.address, 200, 1000));
    everlink.until_up(2).await;
    let mut client = everlink.connect();
    says_and_hears(&mut client, b"before");
    everlink.until_up(2).await;
    let (dialled, events) = (everlink.dials(DialOutcome::Ok), everlink.upstream.events().len());
    everlink.edit(|settings| {
        settings.retry.initial = Duration::from_secs(1);
        settings.retry.max = Duration::from_secs(60);
        settings.retry.attempts = Some(3);
    });
    let beats = everlink.upstream.metrics.rtt.get_sample_count();
    eventually("beats go on", || everlink.upstream.metrics.rtt.get_sample_count() >= beats + 6).await;
    says_and_hears(&mut client, b"after");
    assert_eq!((everlink.dials(DialOutcome::Ok), everlink.upstream.events().len()), (dialled, events));
    assert_eq!(everlink.links(LinkState::Up), 2);
}

#[tokio::test]
async fn an_edit_of_retry_cuts_a_wait_short_and_wakes_a_link_that_had_failed() {
    let address = nobody();
    let mut settings = upstream(address);
    settings.retry.initial = Duration::from_secs(3000);
    settings.retry.max = Duration::from_secs(3000);
    settings.retry.jitter = Jitter::Off;
    let mut everlink = Everlink::start(settings);
    eventually("both wait", || everlink.links(LinkState::Waiting) == 2).await;
    everlink.edit(|settings| settings.retry.attempts = Some(1));
    eventually("both have failed", || everlink.links(LinkState::Failed) == 2).await;
    let _server = Server::start_at(address, echo);
    everlink.edit(|settings| settings.heartbeat.misses = 4);
    everlink.until_up(2).await;
}

#[tokio::test]
async fn an_edit_of_the_heartbeat_reaches_links_without_a_redial() {
    let server = Server::start(tutorial);
    let mut everlink = Everlink::start(beating(server.address, 60_000, 1000));
    everlink.until_up(2).await;
    let (dialled, proofs) = (server.connections(), everlink.upstream.metrics.beats_sent.get());
    everlink.edit(|settings| settings.heartbeat.interval = MS(200));
    eventually("beats come", || everlink.upstream.metrics.beats_sent.get() >= proofs + 6).await;
    assert_eq!(server.connections(), dialled);
    assert_eq!(everlink.upstream.metrics.interval.get(), 0.2);
}

#[tokio::test]
async fn pool_size_follows_an_edit_up_and_down_and_keeps_what_stands() {
    let server = Server::start(echo);
    let mut everlink = Everlink::start(upstream(server.address));
    everlink.until_up(2).await;
    everlink.edit(|settings| settings.pool.size = 5);
    everlink.until_up(5).await;
    // A link without beats is up by what the kernel knows, perhaps before the server has accepted it.
    eventually("the first two were kept", || server.connections() == 5).await;
    everlink.edit(|settings| settings.pool.size = 1);
    eventually("four are gone", || everlink.links(LinkState::Up) == 1 && server.live() == 1).await;
    assert_eq!(everlink.losses(LossReason::Reload), 4);
    assert_eq!((server.connections(), everlink.upstream.metrics.reconnects.get(), everlink.is_up()), (5, 0, true));
    assert_eq!(everlink.upstream.links().len(), 1);
}

#[tokio::test]
async fn a_smaller_pool_gives_up_what_does_not_stand_first() {
    // Three get through, the rest wait for an answer that never comes.
    let through = AtomicUsize::new(0);
    let server = Server::start(move |stream| {
        if through.fetch_add(1, Ordering::SeqCst) < 3 {
            return tutorial(stream);
        }
        common::server::deaf(stream)
    });
    let mut settings = beating(server.address, 1000, 30_000);
    settings.pool.size = 12;
    let mut everlink = Everlink::start(settings);
    eventually("three up", || everlink.links(LinkState::Up) == 3 && server.connections() == 12).await;
    everlink.edit(|settings| settings.pool.size = 3);
    eventually("three are left", || everlink.upstream.links().len() == 3).await;
    assert_eq!(everlink.links(LinkState::Up), 3);
}

#[tokio::test]
async fn max_age_renews_an_idle_link_before_the_old_one_closes() {
    // At each end the server looks how many connections everlink had made by then.
    let (watched, lives) = (Arc::new(OnceLock::<Arc<UpstreamStatus>>::new()), Arc::new(Mutex::new(Vec::new())));
    let (watching, seen) = (watched.clone(), lives.clone());
    let server = Server::start(move |stream| {
        let ended = tutorial(stream);
        if let Some(upstream) = watching.get() {
            let mut lives = seen.lock().expect("unpoisoned");
            let before = lives.len() as u64;
            lives.push(upstream.dials(DialOutcome::Ok) - before);
        }
        ended
    });
    let mut settings = beating(server.address, 5000, 1000);
    settings.pool.max_age = Some(MS(300));
    let everlink = Everlink::start(settings);
    let _ = watched.set(everlink.upstream.clone());
    everlink.until_up(2).await;
    let ready = || everlink.links(LinkState::Up) == 2 && everlink.is_up();
    always_until("both are ready", ready, || everlink.losses(LossReason::Aged) >= 8).await;
    eventually("the server saw the ends", || lives.lock().expect("unpoisoned").len() >= 8).await;
    let lives = lives.lock().expect("unpoisoned").clone();
    assert!(lives.iter().all(|live| *live >= 3), "two others stand whenever one ends: {lives:?}");
    assert_eq!(everlink.upstream.metrics.reconnects.get(), 0);
    assert!(everlink.upstream.outages.load().is_empty());
}

#[tokio::test]
async fn the_renewal_of_an_only_link_is_no_outage() {
    let server = Server::start(tutorial);
    let mut settings = beating(server.address, 5000, 1000);
    (settings.pool.max_age, settings.pool.size) = (Some(MS(300)), 1);
    let everlink = Everlink::start(settings);
    everlink.until_up(1).await;
    eventually("it was renewed", || everlink.losses(LossReason::Aged) >= 4).await;
    assert!(everlink.upstream.outages.load().is_empty());
}

#[tokio::test]
async fn a_renewal_that_fails_leaves_the_old_link_in_service() {
    let server = Server::start(tutorial);
    let address = server.address;
    let mut settings = beating(address, 200, 1000);
    settings.pool.max_age = Some(MS(1500));
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    let beats = everlink.upstream.metrics.rtt.get_sample_count();
    server.refuse();
    eventually("renewals fail", || everlink.dials(DialOutcome::Refused) >= 2).await;
    eventually("beats go on", || everlink.upstream.metrics.rtt.get_sample_count() >= beats + 10).await;
    assert_eq!((everlink.links(LinkState::Up), everlink.is_up()), (2, true));
    says_and_hears(&mut everlink.connect(), b"served");
}

#[tokio::test]
async fn a_server_that_cuts_idle_connections_teaches_their_age_and_is_never_down() {
    let server = Server::start(|mut stream| {
        stream.set_read_timeout(Some(MS(4000)))?;
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..count])?;
        }
        Ok(())
    });
    let everlink = Everlink::start(upstream(server.address));
    everlink.until_up(2).await;
    let learned = || everlink.upstream.learned_max_age().is_some();
    always_until("idle cuts are no outage", || everlink.is_up(), learned).await;
    let age = everlink.upstream.learned_max_age().expect("learned");
    assert!(age >= MS(3000) && age <= MS(3700), "0.8 × the shortest: {age:?}");
    let cut = everlink.losses(LossReason::Closed);
    assert!(cut >= 3, "{cut}");
    // The links that stand when it is learned may be older already.
    let aged = everlink.losses(LossReason::Aged);
    always_until("up", || everlink.is_up(), || everlink.losses(LossReason::Aged) >= aged + 4).await;
    assert!(everlink.losses(LossReason::Closed) <= cut + 2, "renewed before they are cut");
    assert!(everlink.upstream.outages.load().is_empty());
    // The backoff of one that was cut is none.
    assert!(everlink.upstream.links().iter().all(|link| link.view().attempt == 1));
}

#[tokio::test]
async fn a_client_who_waits_is_worth_a_dial_whatever_the_backoff_has_come_to() {
    let address = nobody();
    let mut settings = upstream(address);
    settings.retry.initial = Duration::from_secs(30);
    settings.retry.max = Duration::from_secs(30);
    settings.retry.jitter = Jitter::Off;
    settings.retry.attempts = Some(2);
    settings.limits.wait = Duration::from_secs(20);
    let everlink = Everlink::start(settings);
    eventually("both have tried", || everlink.links(LinkState::Waiting) == 2).await;
    let mut client = everlink.connect();
    eventually("it is tried again and again", || everlink.dials(DialOutcome::Refused) >= 4).await;
    let told = || everlink.upstream.events().iter().filter(|event| event.kind == "dial_failed").count();
    assert_eq!(told(), 2, "that it fails again is no news");
    let _server = Server::start_at(address, echo);
    says_and_hears(&mut client, b"at last");
    // Such tries are not those that are numbered: there are still two of those.
    everlink.until_up(1).await;
    assert_eq!(everlink.links(LinkState::Failed), 0);
    assert!(everlink.upstream.links().iter().all(|link| link.view().attempt <= 2));
}

/// MariaDB ends those that do not log in by a reset.
#[tokio::test]
async fn a_server_that_resets_idle_connections_teaches_their_age_as_well() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(MS(4000))).expect("set");
                let _ = stream.read(&mut [0; 64]);
                // Closed by a reset.
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set");
            });
        }
    });
    let everlink = Everlink::start(upstream(address));
    eventually("it is learned", || everlink.upstream.learned_max_age().is_some()).await;
    assert!(everlink.losses(LossReason::Reset) >= 3);
    eventually("both stand", || everlink.links(LinkState::Up) == 2).await;
    let aged = everlink.losses(LossReason::Aged);
    always_until("and stay", || everlink.is_up(), || everlink.losses(LossReason::Aged) >= aged + 4).await;
}

/// PostgreSQL: what it was when it accepted a connection, it is for that connection.
#[tokio::test]
async fn links_made_while_a_server_came_back_are_made_again_once_it_has_stood_for_a_moment() {
    let server = Server::start(tutorial);
    let address = server.address;
    let everlink = Everlink::start(upstream(address));
    everlink.until_up(2).await;
    drop(server);
    eventually("it is gone", || everlink.dials(DialOutcome::Refused) >= 2 && !everlink.is_up()).await;
    let down = everlink.upstream.links();
    assert!(down.iter().any(|link| link.view().last_error.is_some()), "it is told why");

    let starting = Arc::new(AtomicBool::new(true));
    let still = starting.clone();
    let server = Server::start_at(address, move |mut stream| {
        let starting = still.load(Ordering::SeqCst);
        stream.read_exact(&mut [0; 4])?;
        stream.write_all(if starting { b"wait" } else { b"pong" })
    });
    everlink.until_up(2).await;
    let of_the_start = server.connections();
    starting.store(false, Ordering::SeqCst);
    let made = || server.connections() >= of_the_start + 2 && everlink.losses(LossReason::Aged) >= 2;
    always_until("they are made again, with nobody the wiser", || everlink.is_up(), made).await;
    for _ in 0..4 {
        let mut client = everlink.connect();
        client.write_all(b"ping").expect("sent");
        let mut heard = [0; 4];
        client.read_exact(&mut heard).expect("answered");
        assert_eq!(&heard, b"pong");
    }
    everlink.until_up(2).await;
    let links = everlink.upstream.links();
    assert!(
        links.iter().all(|link| link.view().last_error.is_none()),
        "an old trouble is not shown of a link that is up"
    );
}

#[tokio::test]
async fn restarts_of_a_server_teach_no_age() {
    let mut server = Some(Server::start(echo));
    let address = server.as_ref().expect("running").address;
    let everlink = Everlink::start(upstream(address));
    for _ in 0..3 {
        everlink.until_up(2).await;
        let (up, cuts) = (Instant::now(), everlink.losses(LossReason::Closed));
        // Old enough to be a timer's work, and of the same age each time.
        eventually("they have aged", || up.elapsed() >= MS(2200)).await;
        let refused = everlink.dials(DialOutcome::Refused);
        drop(server.take());
        eventually("both are cut", || everlink.losses(LossReason::Closed) == cuts + 2).await;
        eventually("nobody answers", || everlink.dials(DialOutcome::Refused) > refused).await;
        server = Some(Server::start_at(address, echo));
    }
    everlink.until_up(2).await;
    assert_eq!(everlink.upstream.learned_max_age(), None);
}

#[tokio::test]
async fn a_cut_is_a_refill_until_a_dial_fails_and_then_an_outage() {
    let server = Server::start(echo);
    let address = server.address;
    let mut settings = upstream(address);
    settings.retry.attempts = Some(1);
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    let up = Instant::now();
    eventually("they have aged", || up.elapsed() >= MS(2200)).await;
    drop(server);
    eventually("the attempts are used up", || everlink.links(LinkState::Failed) == 2).await;
    eventually("and that is down", || !everlink.is_up()).await;
    assert_eq!(everlink.upstream.outages.load().len(), 1);
}

#[tokio::test]
async fn up_stays_through_hand_outs_and_refills_and_falls_with_a_loss() {
    let server = Server::start(tutorial);
    let address = server.address;
    let mut settings = beating(address, 500, 300);
    settings.pool.size = 1;
    let everlink = Everlink::start(settings);
    everlink.until_up(1).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = everlink.connect();
        says_and_hears(&mut client, b"hi");
        assert!(everlink.is_up() && everlink.endpoint_up(address) == 1);
        clients.push(client);
    }
    eventually("all are in use", || everlink.links(LinkState::InUse) == 20).await;
    always_until(
        "up while they leave",
        || everlink.is_up(),
        || {
            clients.pop();
            clients.is_empty()
        },
    )
    .await;
    eventually("none is in use", || everlink.links(LinkState::InUse) == 0).await;
    let metrics = &everlink.upstream.metrics;
    assert!(everlink.upstream.outages.load().is_empty());
    assert_eq!(metrics.reconnects.get(), 0, "a refill is no reconnect");

    everlink.until_up(1).await;
    let down_before = downtime(&everlink);
    let falls = Instant::now();
    drop(server);
    eventually("down", || !everlink.is_up() && everlink.endpoint_up(address) == 0).await;
    let fell = Instant::now();
    eventually("time passes", || fell.elapsed() >= MS(300)).await;
    let _server = Server::start_at(address, tutorial);
    everlink.until_up(1).await;
    eventually("up again", || everlink.is_up() && everlink.endpoint_up(address) == 1).await;
    let down = downtime(&everlink) - down_before;
    assert!(down >= 0.29 && down <= falls.elapsed().as_secs_f64(), "{down}");
    assert_eq!(metrics.reconnects.get(), 1);
    let steady = downtime(&everlink);
    assert_eq!(downtime(&everlink), steady, "up does not count");
}

/// As a scrape reads it.
fn downtime(everlink: &Everlink) -> f64 {
    everlink.upstream.metrics.refresh();
    let name = "everlink_link_downtime_seconds_total";
    let families = everlink.status.metrics.gather();
    let family = families.iter().find(|family| family.name() == name).expect("registered");
    family.get_metric()[0].get_counter().get_value()
}

#[tokio::test]
async fn links_by_state_always_add_up() {
    let server = Server::start(tutorial);
    let address = server.address;
    let mut everlink = Everlink::start(beating(address, 200, 100));
    let states = [
        LinkState::Connecting,
        LinkState::Up,
        LinkState::Suspect,
        LinkState::Waiting,
        LinkState::Draining,
        LinkState::Failed,
    ];
    let gauges = |everlink: &Everlink| states.map(|state| everlink.links(state)).iter().sum::<i64>();
    let settled = |everlink: &Everlink, links: usize| {
        everlink.upstream.links().len() == links && gauges(everlink) == links as i64
    };
    eventually("two", || settled(&everlink, 2)).await;
    for size in [5, 1, 8, 3] {
        everlink.edit(|settings| settings.pool.size = size);
        let clients: Vec<_> = (0..10).map(|_| everlink.connect()).collect();
        eventually("as many as asked for", || settled(&everlink, size)).await;
        drop(clients);
        server.end_all();
        eventually("again", || settled(&everlink, size)).await;
    }
    drop(server);
    eventually("all wait", || everlink.links(LinkState::Waiting) + everlink.links(LinkState::Connecting) == 3).await;
    let status = everlink.upstream.clone();
    everlink.remove();
    eventually("none", || states.iter().all(|state| status.links_in(*state) == 0)).await;
}

#[tokio::test]
async fn one_outcome_is_counted_for_each_dial_and_a_reconnect_only_after_a_loss() {
    let server = Server::start(tutorial);
    // Beats that no busy host makes late: a link lost by one would be a fourth reconnect.
    let mut settings = beating(server.address, 5000, 5000);
    settings.pool.size = 3;
    let everlink = Everlink::start(settings);
    everlink.until_up(3).await;
    for _ in 0..30 {
        says_and_hears(&mut everlink.connect(), b"x");
    }
    everlink.until_up(3).await;
    let all = [
        DialOutcome::Ok,
        DialOutcome::Resolve,
        DialOutcome::Refused,
        DialOutcome::Timeout,
        DialOutcome::Tls,
        DialOutcome::Local,
    ];
    let dials = || all.map(|outcome| everlink.dials(outcome)).iter().sum::<u64>();
    eventually("each dial has one outcome", || dials() == server.connections() as u64).await;
    assert_eq!(everlink.upstream.metrics.reconnects.get(), 0);
    server.end_all();
    eventually("each came back once", || everlink.upstream.metrics.reconnects.get() == 3).await;
    everlink.until_up(3).await;
}

/// What the shown round trip says is that of the last beat, not of the connect.
#[tokio::test]
async fn the_round_trip_shown_follows_the_beats() {
    let delay = Arc::new(AtomicUsize::new(0));
    let server = distant(delay.clone());
    let everlink = Everlink::start(beating(server.address, 200, 3000));
    everlink.until_up(2).await;
    delay.store(150, Ordering::SeqCst);
    let shown = || everlink.upstream.links().iter().all(|link| link.view().rtt.is_some_and(|rtt| rtt >= MS(150)));
    eventually("slower now", shown).await;
}
