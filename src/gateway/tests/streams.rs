//! Streams and the services they reach.

use super::*;
use crate::link::resolve::Sources;
use crate::net::proxy_protocol::{self, Parsed};
use crate::port::nobody;
use crate::session::{Opening, RefusalCode, ResetCode};
use tokio::net::TcpStream;

/// A server that hands out its connections.
async fn server() -> (SocketAddr, Listener) {
    let listener = Listener::bind("127.0.0.1:0").await.expect("a port");
    (listener.local_addr().expect("bound"), listener)
}

async fn accepted(listener: &Listener) -> TcpStream {
    tokio::time::timeout(PATIENCE, listener.accept()).await.expect("somebody comes").expect("accepted").0
}

#[tokio::test]
async fn a_service_is_known_by_its_name_and_by_nothing_else() {
    let stage = Stage::set().await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let echo = stage.echo.to_string();
    for name in ["nobody", &echo, "169.254.169.254:80", "Echo", "echo ", "*"] {
        let stream = dialer.open(name, b"x");
        dialer.until(name, |it| it.seen(stream).refused == Some(RefusalCode::Service)).await;
    }
    assert_eq!(stage.gateway.clients().came, 0, "nobody was dialled");
    let unknown = "streams_refused_total{reason=\"unknown\",service=\"(unknown)\"} 6";
    assert_eq!(stage.told("streams_refused"), [unknown], "and no name of a peer's becomes a label");
    let stream = dialer.open("echo", b"x");
    dialer.until("the session goes on", |it| it.seen(stream).got == b"x").await;
    assert_eq!(stage.told("streams_opened"), ["streams_opened_total{service=\"echo\"} 1"]);
}

#[tokio::test]
async fn services_are_looked_up_at_every_open_and_streams_that_stand_stay() {
    let mut stage = Stage::set().await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let stands = dialer.open("echo", b"one");
    dialer.until("an echo", |it| it.seen(stands).got == b"one").await;
    stage.change(|settings| settings.services.clear());
    let late = dialer.open("echo", b"x");
    dialer.until("no such service any more", |it| it.seen(late).refused == Some(RefusalCode::Service)).await;
    dialer.send(stands, b" two");
    dialer.until("what stands goes on", |it| it.seen(stands).got == b"one two").await;
    let echo = stage.echo;
    stage.change(|settings| {
        settings.services.insert("new".to_owned(), service(echo));
    });
    let stream = dialer.open("new", b"x");
    dialer.until("a new one is there at once", |it| it.seen(stream).got == b"x").await;
    // Without a certificate nobody is anybody.
    stage.change(|settings| {
        let allow = Some(vec!["sidecar-a".to_owned()]);
        settings.services.insert("new".to_owned(), Service { allow, ..service(echo) });
    });
    let stream = dialer.open("new", b"x");
    dialer.until("not for this dialer", |it| it.seen(stream).refused == Some(RefusalCode::Service)).await;
    assert_eq!(stage.told("denied"), ["streams_refused_total{reason=\"denied\",service=\"new\"} 1"]);
    assert_eq!(stage.told("\"echo\""), [""; 0], "its series went with it");
}

#[tokio::test]
async fn a_service_that_is_down_refuses_only_its_own_streams() {
    let address = nobody();
    let stage = Stage::set_with(|settings| {
        settings.services.insert("down".to_owned(), service(address));
        let path = Address::Unix("/nowhere/socket".into());
        settings.limits.wait = Duration::ZERO;
        settings.services.insert("nowhere".to_owned(), Service { address: path, ..service(address) });
    })
    .await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let [down, nowhere, echo] = ["down", "nowhere", "echo"].map(|name| dialer.open(name, b"x"));
    dialer
        .until("each has its answer", |it| {
            [down, nowhere].iter().all(|id| it.seen(*id).refused == Some(RefusalCode::Unreachable))
                && it.seen(echo).got == b"x"
        })
        .await;
    eventually("their places are free", || stage.gateway.clients().open == 1).await;
    let refused = |name: &str| format!("streams_refused_total{{reason=\"unreachable\",service=\"{name}\"}} 1");
    assert_eq!(stage.told("streams_refused"), ["down", "nowhere"].map(refused));
}

#[tokio::test]
async fn a_stream_waits_for_a_service_that_restarts() {
    let (address, away) = (nobody(), nobody());
    let stage = Stage::set_with(|settings| {
        settings.services.insert("restarts".to_owned(), service(address));
        settings.services.insert("away".to_owned(), service(away));
        settings.limits.wait = Duration::from_secs(60);
    })
    .await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let [restarts, stays] = ["restarts", "away"].map(|name| dialer.open(name, b"x"));
    let shared = stage.gateway.shared.clone();
    dialer.until("both are dialled", |_| shared.came.load(Ordering::Relaxed) == 2).await;
    assert_eq!(dialer.seen(restarts).refused, None);
    let back = tokio::net::TcpListener::bind(address).await.expect("its address again");
    let served = tokio::spawn(async move {
        let (mut client, _) = back.accept().await.expect("a client");
        let mut byte = [0];
        client.read_exact(&mut byte).await.expect("what was said meanwhile");
        client.write_all(&byte).await.expect("answered");
        client
    });
    dialer.until("one is served", |it| it.seen(restarts).got == b"x").await;
    drop(served.await.expect("no panic"));
    assert_eq!(dialer.seen(stays).refused, None, "the other waits on");
    dialer.cut();
}

#[tokio::test]
async fn a_unix_socket_is_a_service_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("service");
    let listener = tokio::net::UnixListener::bind(&path).expect("bound");
    let stage = Stage::set_with(|settings| {
        let service = Service { address: Address::Unix(path), ..service(([127, 0, 0, 1], 1).into()) };
        settings.services.insert("unix".to_owned(), service);
    })
    .await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let stream = dialer.open("unix", b"ping");
    let serve = async {
        let (mut service, _) = listener.accept().await.expect("somebody comes");
        let mut got = [0; 4];
        service.read_exact(&mut got).await.expect("read");
        service.write_all(&got).await.expect("written");
        service
    };
    let (_service, ()) = tokio::join!(serve, dialer.until("the echo", |it| it.seen(stream).got == b"ping"));
}

#[tokio::test]
async fn a_service_is_told_who_the_client_is_before_its_first_byte() {
    let (address, listener) = server().await;
    let stage = Stage::set_with(|settings| {
        settings.services.insert("told".to_owned(), Service { proxy_protocol: true, ..service(address) });
    })
    .await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let stream = dialer.open("told", b"first");
    let read = async {
        let mut service = accepted(&listener).await;
        let mut got = Vec::new();
        while !got.ends_with(b"first") {
            assert!(service.read_buf(&mut got).await.expect("read") > 0);
        }
        (got, service)
    };
    let (got, _service) = tokio::select! {
        got = read => got,
        () = dialer.until("never", |_| false) => unreachable!(),
    };
    let Ok(Parsed::Header { source, destination, length, hops }) = proxy_protocol::parse(&got) else {
        panic!("no header: {got:?}")
    };
    assert_eq!(source, "192.0.2.7:1234".parse().ok());
    assert_eq!(destination, "192.0.2.8:80".parse().ok());
    assert_eq!((hops, &got[length..]), (Some(1), &b"first"[..]));
    assert!(dialer.seen(stream).refused.is_none());
}

/// With a service `slow` whose dial takes its full time: no nameserver answers. (A host whose SYNs nobody answers would be
/// the same to a stream.)
async fn with_slow_service(change: impl FnOnce(&mut config::Gateway)) -> (Stage, tokio::net::UdpSocket) {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let mut stage = Stage::set_with(change).await;
    let (resolv_conf, hosts) = (stage.files.path().join("resolv.conf"), stage.files.path().join("hosts"));
    std::fs::write(&resolv_conf, "nameserver 127.0.0.1\n").expect("written");
    std::fs::write(&hosts, "").expect("written");
    let port = silent.local_addr().expect("bound").port();
    let address = Address::Host { host: "service.internal".to_owned(), port: 80 };
    stage.settings.services.insert("slow".to_owned(), Service { address, ..service(stage.echo) });
    stage.restart_with(&Resolver::new(Sources { resolv_conf, hosts, port }));
    (stage, silent)
}

#[tokio::test]
async fn an_open_that_is_taken_back_gives_its_dial_up() {
    let (stage, silent) = with_slow_service(|_| {}).await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let stream = dialer.open("slow", b"x");
    let mut asked = [0; 512];
    tokio::select! {
        question = silent.recv(&mut asked) => drop(question.expect("asked")),
        () = dialer.until("never", |_| false) => unreachable!(),
    }
    assert_eq!(stage.gateway.clients().open, 1, "its place is taken while the dial lasts");
    dialer.session.reset(stream, ResetCode::Reset);
    let begun = Instant::now();
    let gateway = &stage.gateway;
    dialer.until("its place is free", |_| gateway.shared.sessions.open() == 0).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "not by the dial's own end: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_name_that_leads_to_link_local_addresses_only_is_not_followed() {
    let files = tempfile::tempdir().expect("a directory");
    let (resolv_conf, hosts) = (files.path().join("resolv.conf"), files.path().join("hosts"));
    std::fs::write(&resolv_conf, "").expect("written");
    std::fs::write(&hosts, "169.254.169.254 rebound\nfe80::1 rebound\n169.254.169.254 mixed\n127.0.0.1 mixed\n")
        .expect("written");
    let resolver = Resolver::new(Sources { resolv_conf, hosts, port: 53 });
    let echo = echo().await;
    let reach = async |name: &str| {
        let address = Address::Host { host: name.to_owned(), port: echo.port() };
        let opening = Opening::to(name);
        let mut told = String::new();
        let service = Service { address, ..service(echo) };
        let reached =
            services::connect(service, &opening, &resolver, Duration::from_secs(60), |why| told.push_str(why)).await;
        (reached.map(|local| local.transport.is_plain()), told)
    };
    let (refused, why) = reach("rebound").await;
    assert_eq!(refused, Err(RefusalCode::Unreachable));
    assert!(why.contains("link-local addresses only"), "nobody was dialled: {why}");
    assert_eq!(reach("mixed").await, (Ok(true), String::new()), "to the address that may be");
}

#[tokio::test]
async fn fault_64_opens_and_resets_free_no_place_before_their_dials_are_over() {
    let (stage, _silent) = with_slow_service(|settings| settings.limits.streams = 8).await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let mut frames = Vec::new();
    let opening = Opening { window: 16 * 1024, ..Opening::to("slow") };
    let payload = opening.encode();
    let header = |id: u32, length: usize, kind| [&id.to_le_bytes()[..], &[length as u8, 0, 0, kind]].concat();
    for id in 1..=900 {
        frames.extend(header(id, payload.len(), 1));
        frames.extend(&payload);
        frames.extend(header(id, 1, 7));
        frames.push(1);
    }
    let connection = dialer.connection.as_mut().expect("connected");
    connection.write_all(&frames).await.expect("sent");
    let shared = stage.gateway.shared.clone();
    let session = shared.sessions.all().pop().expect("one");
    let mut most = 0;
    eventually("all were read", || {
        most = most.max(session.open.load(Ordering::Relaxed));
        // Those past the bound were refused by the session itself.
        stage.shown().sessions()[0].figures.view().unacknowledged >= 800 * 9
    })
    .await;
    assert!(most <= 8, "{most} dials at once");
    assert!(shared.came.load(Ordering::Relaxed) < 100, "each freed place took a dial to its end");
    assert!(shared.budget.used() < 4 << 20);
    dialer.cut();
}

#[tokio::test]
async fn fault_64_pings_beyond_any_need_end_the_session_though_nobody_reads_the_answers() {
    let stage = Stage::set().await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let ping = [&[0, 0, 0, 0, 8, 0, 0, 8][..], &[1; 8]].concat();
    let connection = dialer.connection.as_mut().expect("connected");
    // The gateway hangs up in the middle of it.
    let _ = connection.write_all(&ping.repeat(100_000)).await;
    eventually("it is counted", || stage.violations("flood") == 1).await;
    stage.is_empty().await;
}
