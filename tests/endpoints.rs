//! Several endpoints, TLS to them, and unix sockets on either side.

mod common;
#[path = "common/tls.rs"]
mod tls;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::server::{Server, deaf, echo, tutorial};
use common::{Counts, Everlink, PATIENCE, always_until, at, eventually, nobody, ping_lines, ping_pong, upstream};
use everlink::config::{Address, Balance, Endpoint, Jitter, ListenAddress, Upstream};
use everlink::metrics::{CloseReason, DialOutcome, LinkState, LossReason};
use everlink::workers::Layout;
use tls::{Authority, Pair, acceptor, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MS: fn(u64) -> Duration = Duration::from_millis;

fn says_and_hears(mut client: impl Read + Write, what: &[u8]) {
    client.write_all(what).expect("sent");
    let mut heard = vec![0; what.len()];
    client.read_exact(&mut heard).expect("answered");
    assert_eq!(heard, what);
}

/// Endpoints in this order, the first the best.
fn in_order(endpoints: &[SocketAddr]) -> Upstream {
    let mut settings = upstream(endpoints[0]);
    settings.endpoints = endpoints.iter().zip(1..).map(|(address, priority)| at(*address, priority)).collect();
    settings
}

/// Where the links stand.
fn standing(everlink: &Everlink, endpoint: SocketAddr) -> usize {
    let there = |view: &everlink::status::LinkView| view.endpoint.as_deref() == Some(&endpoint.to_string());
    everlink.upstream.links().iter().filter(|link| link.view().state == LinkState::Up && there(&link.view())).count()
}

// ---- which endpoint ----

#[tokio::test]
async fn fault_42_with_the_first_of_three_dead_the_next_is_tried_before_any_wait() {
    let server = Server::start(echo);
    let mut settings = in_order(&[nobody(), server.address, nobody()]);
    settings.retry.initial = PATIENCE * 2;
    settings.retry.max = PATIENCE * 2;
    settings.retry.jitter = Jitter::Off;
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    assert_eq!(standing(&everlink, server.address), 2);
    assert!(everlink.dials(DialOutcome::Refused) >= 1);
    assert_eq!(everlink.endpoint_up(server.address), 1);
    assert!(everlink.upstream.links().iter().all(|link| link.view().attempt == 1), "it is one and the same try");
}

#[tokio::test]
async fn with_priorities_all_stand_at_the_best_fall_to_the_next_and_return_when_it_has_stood() {
    let (mut best, second) = (Some(Server::start(echo)), Server::start(echo));
    let address = best.as_ref().expect("running").address;
    let mut settings = in_order(&[address, second.address]);
    settings.pool.size = 3;
    settings.retry.stable_after = MS(1500);
    let everlink = Everlink::start(settings);
    everlink.until_up(3).await;
    assert_eq!((standing(&everlink, address), second.connections()), (3, 0));

    drop(best.take());
    eventually("all at the second", || standing(&everlink, second.address) == 3).await;
    eventually("as shown", || everlink.endpoint_up(address) == 0 && everlink.endpoint_up(second.address) == 1).await;

    let returned = Instant::now();
    best = Some(Server::start_at(address, echo));
    let best = best.as_ref().expect("running");
    eventually("a scout has come", || best.connections() == 1).await;
    // While the scout stands, nobody follows: neither a link nor what is dialled for a client.
    while returned.elapsed() < MS(1400) {
        says_and_hears(everlink.connect(), b"hello");
        assert!(best.connections() == 1 || returned.elapsed() >= MS(1500), "after {:?}", returned.elapsed());
        tokio::time::sleep(MS(20)).await;
    }
    eventually("all are back", || standing(&everlink, address) == 3).await;
    assert!(returned.elapsed() >= MS(1500), "{:?}", returned.elapsed());
    assert_eq!(everlink.upstream.links().len(), 3, "the scout has left");
    eventually("the second is left", || everlink.endpoint_up(second.address) == 0).await;
    assert!(everlink.is_up() && everlink.upstream.events_of("recovered") == 1);
}

#[tokio::test]
async fn a_move_back_is_planned_and_no_moment_is_without_a_ready_link() {
    let (mut best, second) = (Some(Server::start(echo)), Server::start(echo));
    let address = best.as_ref().expect("running").address;
    let mut settings = in_order(&[address, second.address]);
    settings.retry.stable_after = MS(300);
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    drop(best.take());
    eventually("both at the second", || standing(&everlink, second.address) == 2).await;
    let (reconnects, outages) = (everlink.upstream.metrics.reconnects.get(), everlink.upstream.outages.load().len());
    let _best = Server::start_at(address, echo);
    let ready = || everlink.links(LinkState::Up) >= 2 && everlink.is_up();
    always_until("both are ready", ready, || standing(&everlink, address) == 2).await;
    assert_eq!(everlink.upstream.metrics.reconnects.get(), reconnects);
    assert_eq!(everlink.upstream.outages.load().len(), outages);
}

#[tokio::test]
async fn scouts_that_fail_are_told_ever_fewer_like_any_other_attempt() {
    let server = Server::start(echo);
    let mut settings = in_order(&[nobody(), server.address]);
    (settings.retry.initial, settings.retry.max, settings.retry.jitter) = (MS(100), MS(100), Jitter::Off);
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    eventually("many have gone", || everlink.dials(DialOutcome::Refused) >= 40).await;
    let told = everlink.upstream.events().iter().filter(|event| event.kind == "dial_failed").count();
    // 1, 2, 4, 8, 16, 32, and what the links themselves met.
    assert!((1..=8).contains(&told), "{told} lines");
}

#[tokio::test]
async fn an_endpoint_that_falls_while_its_scout_stands_is_tried_again_later() {
    let second = Server::start(echo);
    let address = nobody();
    let mut settings = in_order(&[address, second.address]);
    settings.retry.stable_after = PATIENCE * 2;
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    // Let in, and cut while on trial: at once, and when it has stood too long for that to be a failed dial.
    for trial in [MS(0), MS(2200), MS(0)] {
        let fleeting = Server::start_at(address, echo);
        eventually("a scout has come and been let in", || {
            fleeting.connections() >= 1 && everlink.endpoint_up(address) == 1
        })
        .await;
        let begun = Instant::now();
        eventually("it has stood for a while", || begun.elapsed() >= trial).await;
        drop(fleeting);
        eventually("the scout was cut", || everlink.endpoint_up(address) == 0).await;
    }
    assert_eq!(standing(&everlink, second.address), 2);
}

/// With the worse of two endpoints failing and the better one well nobody is to be sent anywhere.
#[tokio::test]
async fn an_endpoint_that_failed_and_is_not_wanted_costs_nothing() {
    let (best, second) = (nobody(), nobody());
    let mut settings = in_order(&[best, second]);
    settings.retry.stable_after = MS(10);
    let everlink = Everlink::start_on(settings, Layout::Separate(1));
    eventually("both were refused", || everlink.dials(DialOutcome::Refused) >= 8).await;
    let _best = Server::start_at(best, echo);
    everlink.until_up(2).await;
    // Carried, so that the keeper is awake.
    let client = everlink.connect();
    says_and_hears(&client, b"x");
    let busy = || everlink.workers()[0].metrics().worker_total_busy_duration(0);
    let (begun, before) = (Instant::now(), busy());
    eventually("a second passes", || begun.elapsed() >= MS(1000)).await;
    let busy = busy() - before;
    assert!(busy < begun.elapsed() / 4, "an idle upstream keeps its thread busy for {busy:?} of a second");
}

#[tokio::test]
async fn an_endpoint_that_hangs_up_a_little_later_is_left_for_the_next() {
    let hasty = Server::start(|_stream| {
        std::thread::sleep(MS(150));
        Ok(())
    });
    let second = Server::start(echo);
    let settings = in_order(&[hasty.address, second.address]);
    let everlink = Everlink::start(settings);
    eventually("both at the second", || standing(&everlink, second.address) == 2).await;
    let tried = hasty.connections();
    let begun = Instant::now();
    let alone = || standing(&everlink, second.address) == 2;
    always_until("they stay", alone, || begun.elapsed() >= MS(1500)).await;
    // Scouts, one at a time, 20 to 200 ms and the 150 ms of their stay apart.
    assert!(hasty.connections() - tried <= 15, "{}", hasty.connections() - tried);
}

#[tokio::test]
async fn round_robin_and_least_connections_spread() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let servers: Vec<_> = (0..3).map(|_| Server::start(echo)).collect();
        let mut settings = in_order(&servers.iter().map(|server| server.address).collect::<Vec<_>>());
        settings.balance = balance;
        settings.pool.size = 6;
        let everlink = Everlink::start(settings);
        everlink.until_up(6).await;
        let spread = servers.iter().map(|server| standing(&everlink, server.address)).collect::<Vec<_>>();
        assert_eq!(spread, [2, 2, 2], "{balance:?}");
        // Thirty clients stay.
        let mut clients = Vec::new();
        for _ in 0..30 {
            let client = everlink.connect();
            says_and_hears(&client, b"x");
            clients.push(client);
        }
        everlink.until_up(6).await;
        eventually("all are accepted", || servers.iter().map(Server::live).sum::<usize>() == 36).await;
        let live: Vec<_> = servers.iter().map(Server::live).collect();
        assert!(live.iter().all(|live| (9..=15).contains(live)), "{balance:?}: {live:?}");
    }
}

#[tokio::test]
async fn with_round_robin_a_dead_endpoint_is_left_out_and_returns() {
    let mut servers: Vec<_> = (0..2).map(|_| Server::start(echo)).collect();
    let mut settings = in_order(&servers.iter().map(|server| server.address).collect::<Vec<_>>());
    settings.balance = Balance::RoundRobin;
    settings.pool.size = 4;
    (settings.retry.initial, settings.retry.max) = (MS(1000), MS(1000));
    let everlink = Everlink::start(settings);
    everlink.until_up(4).await;
    let gone = servers.pop().expect("two").address;
    eventually("all at the other", || standing(&everlink, servers[0].address) == 4).await;
    let refused = everlink.dials(DialOutcome::Refused);
    for _ in 0..20 {
        says_and_hears(everlink.connect(), b"x");
    }
    // Each dial of a client would have met it; only scouts do.
    assert!(everlink.dials(DialOutcome::Refused) - refused < 10);
    let again = Server::start_at(gone, echo);
    eventually("it is well again", || everlink.upstream.events_of("recovered") == 1).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let client = everlink.connect();
        says_and_hears(&client, b"x");
        clients.push(client);
    }
    eventually("it is used", || again.live() >= 3).await;
}

#[tokio::test]
async fn after_an_outage_of_all_the_slower_ones_are_found_as_well() {
    let (first, second) = (nobody(), nobody());
    let mut settings = in_order(&[first, second]);
    settings.balance = Balance::RoundRobin;
    let everlink = Everlink::start(settings);
    eventually("both were refused", || everlink.dials(DialOutcome::Refused) >= 8).await;
    let _first = Server::start_at(first, echo);
    everlink.until_up(2).await;
    // No client comes, no link moves: the scouts alone find it.
    let _second = Server::start_at(second, echo);
    eventually("well again", || everlink.upstream.events_of("recovered") == 1).await;
}

#[tokio::test]
async fn an_endpoint_removed_by_an_edit_loses_its_warm_links_at_once_and_clients_keep_theirs() {
    let (first, second) = (Server::start(echo), Server::start(echo));
    let mut everlink = Everlink::start(in_order(&[first.address, second.address]));
    everlink.until_up(2).await;
    let client = everlink.connect();
    says_and_hears(&client, b"before");
    everlink.until_up(2).await;
    eventually("all accepted", || first.live() == 3).await;
    let removed = first.address;
    everlink.edit(|settings| settings.endpoints.retain(|endpoint| endpoint.name != removed.to_string()));
    eventually("moved", || standing(&everlink, second.address) == 2).await;
    eventually("closed", || first.live() == 1).await;
    says_and_hears(&client, b"after");
    assert_eq!(everlink.losses(LossReason::Reload), 2);
    assert_eq!((everlink.upstream.metrics.reconnects.get(), everlink.upstream.outages.load().len()), (0, 0));
    let series = |name: &str| {
        let families = everlink.status.metrics.gather();
        families
            .iter()
            .flat_map(|family| family.get_metric())
            .any(|metric| metric.get_label().iter().any(|label| label.name() == "endpoint" && label.value() == name))
    };
    assert!(!series(&removed.to_string()) && series(&second.address.to_string()));

    // It comes back while the client still uses it.
    everlink.edit(|settings| settings.endpoints.insert(0, at(removed, 1)));
    assert_eq!(everlink.endpoint_up(removed), 1);
    let another = everlink.connect();
    says_and_hears(&another, b"x");
    eventually("used again", || first.live() >= 2 && standing(&everlink, removed) >= 1).await;
    drop(client);
    eventually("the client is gone", || everlink.clients() == 1).await;
    assert_eq!(everlink.endpoint_up(removed), 1, "what stands there now counts");
}

#[tokio::test]
async fn a_dial_to_an_endpoint_that_is_removed_meanwhile_is_never_used() {
    // Listens and accepts, but the proof takes its time: the edit comes in between.
    let (slow, second) = (Server::start(deaf), Server::start(tutorial));
    let mut settings = in_order(&[slow.address, second.address]);
    settings.heartbeat.beat = ping_pong();
    settings.heartbeat.timeout = PATIENCE;
    let mut everlink = Everlink::start(settings);
    eventually("connected", || slow.connections() == 2).await;
    everlink.edit(|settings| {
        settings.endpoints.remove(0);
    });
    everlink.until_up(2).await;
    assert_eq!(standing(&everlink, second.address), 2);
    assert_eq!(everlink.losses(LossReason::Reload), 0, "what was not proven was not lost");
}

// ---- TLS ----

fn under_tls(address: SocketAddr, authority: &Authority) -> Upstream {
    Upstream { tls: Some(authority.settings(None)), ..upstream(address) }
}

#[tokio::test]
async fn clients_speak_plain_text_and_the_endpoint_hears_tls() {
    let authority = Authority::new("ca");
    let address = serve(&authority.issue(&["127.0.0.1"]), None).await;
    let mut settings = under_tls(address, &authority);
    settings.heartbeat.interval = MS(200);
    settings.heartbeat.beat = common::ping_pong();
    if let everlink::config::Beat::Exchange { expect, .. } = &mut settings.heartbeat.beat {
        // The server is an echo.
        *expect = everlink::config::Expect::Prefix(b"ping".to_vec());
    }
    let everlink = Arc::new(Everlink::start(settings));
    everlink.until_up(2).await;
    eventually("beats pass", || everlink.upstream.metrics.rtt.get_sample_count() >= 6).await;
    let clients = everlink.clone();
    tokio::task::spawn_blocking(move || {
        for _ in 0..20 {
            let client = clients.connect();
            says_and_hears(&client, b"GET / HTTP/1.1\r\n");
            says_and_hears(&client, &vec![b'x'; 300_000][..900]);
        }
    })
    .await
    .expect("served");
    assert_eq!((everlink.dials(DialOutcome::Tls), everlink.upstream.metrics.beats_missed.get()), (0, 0));
}

#[tokio::test]
async fn an_endpoint_nobody_vouches_for_is_counted_as_tls_and_never_used() {
    let authority = Authority::new("ca");
    let address = serve(&authority.issue(&["127.0.0.1"]), None).await;
    let everlink = Everlink::start(under_tls(address, &Authority::new("another")));
    let often = || everlink.dials(DialOutcome::Tls) >= 4;
    always_until("it is not up", || !everlink.is_up(), often).await;
    assert_eq!(everlink.dials(DialOutcome::Ok), 0);
    let error = everlink.upstream.links()[0].view().last_error.clone().unwrap_or_default();
    assert!(error.contains("signed by nobody trusted here"), "{error}");
}

/// A TLS server on threads of tokio's; what `serve` does with each connection is its own.
async fn tls_server<F: Future<Output = ()> + Send + 'static>(
    pair: &Pair,
    serve: impl Fn(tokio_rustls::server::TlsStream<tokio::net::TcpStream>) -> F + Send + 'static,
) -> SocketAddr {
    let acceptor = acceptor(pair, None);
    let listener = tokio::net::TcpListener::bind(common::local()).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Shaken one after the other: the tests are few.
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(serve(stream));
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_09_a_tls_server_that_ends_without_a_farewell_is_a_reset_to_the_client() {
    let authority = Authority::new("ca");
    let address = tls_server(&authority.issue(&["127.0.0.1"]), |mut stream| async move {
        let mut how = [0; 1];
        if stream.read_exact(&mut how).await.is_err() {
            return;
        }
        let _ = stream.write_all(b"half of the ans").await;
        let _ = stream.flush().await;
        if how[0] == b'o' {
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut [0; 1]).await;
        } else {
            // The end of TCP without TLS's own: anybody on the path could have sent it.
            let (mut tcp, _) = stream.into_inner();
            let _ = tcp.shutdown().await;
            let _ = tcp.read(&mut [0; 1]).await;
        }
    })
    .await;
    let everlink = Everlink::start(under_tls(address, &authority));
    let mut client = everlink.connect();
    client.write_all(b"o").expect("sent");
    let mut all = Vec::new();
    client.read_to_end(&mut all).expect("an end in order is passed on as such");
    assert_eq!(all, b"half of the ans");
    client.shutdown(Shutdown::Write).expect("half-closed");
    eventually("finished", || everlink.closed(CloseReason::Finished) == 1).await;

    let mut client = everlink.connect();
    client.write_all(b"x").expect("sent");
    let mut all = Vec::new();
    let error = client.read_to_end(&mut all).expect_err("never a silent end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    eventually("counted", || everlink.closed(CloseReason::UpstreamReset) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_server_that_cuts_idle_links_without_a_farewell_is_not_down() {
    let authority = Authority::new("ca");
    let cuts = Arc::new(AtomicUsize::new(0));
    let counted = cuts.clone();
    let address = tls_server(&authority.issue(&["127.0.0.1"]), move |mut stream| {
        let counted = counted.clone();
        async move {
            let _ = tokio::time::timeout(MS(2300), stream.read(&mut [0; 1])).await;
            counted.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let everlink = Everlink::start(under_tls(address, &authority));
    everlink.until_up(2).await;
    let cut = || cuts.load(Ordering::SeqCst) >= 2 && everlink.losses(LossReason::Closed) >= 2;
    always_until("up", || everlink.is_up(), cut).await;
    always_until("up", || everlink.is_up(), || everlink.links(LinkState::Up) == 2).await;
}

/// What a full socket refused has to follow when the socket takes it, although the client says nothing more. A unix socket
/// holds about 200 KiB; which upload ends with its last record held back cannot be known, so many lengths are tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_bytes_of_an_upload_reach_a_slow_tls_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("server.sock");
    let authority = Authority::new("ca");
    let acceptor = acceptor(&authority.issue(&["localhost"]), None);
    let listener = tokio::net::UnixListener::bind(&path).expect("bound");
    let read_now = Arc::new(tokio::sync::Notify::new());
    let told = read_now.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, told) = (acceptor.clone(), told.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut length = [0; 4];
                if stream.read_exact(&mut length).await.is_err() {
                    return;
                }
                told.notified().await;
                let mut rest = vec![0; u32::from_le_bytes(length) as usize];
                if stream.read_exact(&mut rest).await.is_ok() {
                    let _ = stream.write_all(b"all of it").await;
                    let _ = stream.read(&mut rest).await;
                }
            });
        }
    });
    let mut settings = under_tls(nobody(), &authority);
    settings.endpoints[0].address = Address::Unix(path);
    settings.pool.size = 1;
    let everlink = Everlink::start(settings);
    everlink.until_up(1).await;
    let sent = &everlink.upstream.metrics.bytes[0];
    for length in (120..360).step_by(8).map(|kib| kib * 1024_u32) {
        let (mut client, before) = (everlink.connect(), sent.get());
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        client.write_all(&length.to_le_bytes()).expect("sent");
        client.write_all(&vec![7; length as usize]).expect("sent");
        // All taken, or as much as there is room for.
        let (mut last, mut since) = (before, Instant::now());
        eventually("nothing moves any more", || {
            if std::mem::replace(&mut last, sent.get()) != last || last == before {
                since = Instant::now();
            }
            last - before == u64::from(length) + 4 || since.elapsed() > MS(100)
        })
        .await;
        read_now.notify_one();
        let mut answer = [0; 9];
        client.read_exact(&mut answer).unwrap_or_else(|error| panic!("{length} bytes did not all come: {error}"));
        assert_eq!(&answer, b"all of it");
    }
}

// ---- unix ----

fn listening_on(path: &std::path::Path, endpoint: SocketAddr) -> Upstream {
    Upstream { listen: vec![ListenAddress::Unix(path.to_owned())], ..upstream(endpoint) }
}

fn connect_unix(path: &std::path::Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

#[tokio::test]
async fn a_unix_listener_is_private_serves_and_leaves_no_path_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("chat.sock");
    // Left by a process that is gone.
    drop(UnixListener::bind(&path).expect("bound"));
    assert!(path.exists());
    let server = Server::start(echo);
    let mut everlink = Everlink::start(listening_on(&path, server.address));
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = connect_unix(&path);
    says_and_hears(&client, b"hello");
    client.shutdown(Shutdown::Write).expect("half-closed");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("an end");
    eventually("finished", || everlink.closed(CloseReason::Finished) == 1).await;
    everlink.remove();
    eventually("the path is gone", || !path.exists()).await;
    assert_eq!(std::fs::read_dir(directory.path()).expect("there").count(), 0);
}

#[tokio::test]
async fn a_unix_path_in_use_refuses_the_change_and_its_owner_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("chat.sock");
    let owner = UnixListener::bind(&path).expect("bound");
    let server = Server::start(echo);
    let mut everlink = Everlink::start(upstream(server.address));
    let mut all = everlink.settings();
    all[0].listen.push(ListenAddress::Unix(path.clone()));
    let errors = everlink.change(all).expect_err("refused");
    assert!(errors[0].to_string().contains(&path.display().to_string()), "{}", errors[0]);
    let _visitor = UnixStream::connect(&path).expect("the owner's");
    owner.accept().expect("reached");
    assert!(path.exists());
    says_and_hears(everlink.connect(), b"still served");
}

#[tokio::test]
async fn the_path_of_a_successor_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("chat.sock");
    let server = Server::start(echo);
    let mut everlink = Everlink::start(listening_on(&path, server.address));
    std::fs::remove_file(&path).expect("removed");
    let _successor = UnixListener::bind(&path).expect("bound");
    everlink.remove();
    let status = everlink.status.clone();
    eventually("gone", || status.upstreams().is_empty()).await;
    drop(everlink);
    assert!(path.exists(), "it is somebody else's by now");
}

#[tokio::test]
async fn a_unix_endpoint_is_proven_carries_and_is_found_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("server.sock");
    let mut settings = upstream(nobody());
    settings.endpoints =
        vec![Endpoint { name: format!("unix:{}", path.display()), address: Address::Unix(path.clone()), priority: 1 }];
    settings.heartbeat.interval = MS(200);
    settings.heartbeat.beat = ping_lines();
    let everlink = Everlink::start(settings);
    eventually("nobody there yet", || everlink.dials(DialOutcome::Refused) >= 2).await;
    let open: Arc<Mutex<Vec<UnixStream>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let serve = |listener: UnixListener| {
        let (open, stop) = (open.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                open.lock().expect("unpoisoned").push(stream.try_clone().expect("cloned"));
                std::thread::spawn(move || {
                    let reader = std::io::BufReader::new(&stream);
                    for line in std::io::BufRead::lines(reader).map_while(Result::ok) {
                        let answer = if line == "ping" { "pong\n".to_owned() } else { format!("{line}\n") };
                        let _ = (&stream).write_all(answer.as_bytes());
                    }
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        })
    };
    let thread = serve(UnixListener::bind(&path).expect("bound"));
    everlink.until_up(2).await;
    eventually("beats pass", || everlink.upstream.metrics.rtt.get_sample_count() >= 6).await;
    says_and_hears(everlink.connect(), b"hello\n");
    eventually("left", || everlink.clients() == 0).await;

    stop.store(true, Ordering::SeqCst);
    drop(UnixStream::connect(&path));
    thread.join().expect("ended");
    std::fs::remove_file(&path).expect("removed");
    for stream in open.lock().expect("unpoisoned").drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
    eventually("down", || !everlink.is_up()).await;
    stop.store(false, Ordering::SeqCst);
    let _thread = serve(UnixListener::bind(&path).expect("bound again"));
    everlink.until_up(2).await;
    says_and_hears(everlink.connect(), b"again\n");
}
