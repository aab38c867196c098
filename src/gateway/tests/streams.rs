//! Streams and the services they reach.

use super::*;
use crate::net::proxy_protocol::{self, Parsed};
use crate::session::RefusalCode;
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
    assert_eq!(stage.gateway.clients(), Clients { open: 0, came: 0 });
    let stream = dialer.open("echo", b"x");
    dialer.until("the session goes on", |it| it.seen(stream).got == b"x").await;
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
}

#[tokio::test]
async fn a_service_that_is_down_refuses_only_its_own_streams() {
    let (address, listener) = server().await;
    drop(listener);
    let stage = Stage::set_with(|settings| {
        settings.services.insert("down".to_owned(), service(address));
        let path = Address::Unix("/nowhere/socket".into());
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

#[tokio::test]
async fn an_open_that_is_taken_back_gives_its_dial_up() {
    // A host whose SYNs nobody answers would do; a name that no nameserver answers is the same to the stream.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let files = tempfile::tempdir().expect("a directory");
    let (resolv_conf, hosts) = (files.path().join("resolv.conf"), files.path().join("hosts"));
    std::fs::write(&resolv_conf, "nameserver 127.0.0.1\n").expect("written");
    std::fs::write(&hosts, "").expect("written");
    let port = silent.local_addr().expect("bound").port();
    let resolver = Resolver::new(crate::link::resolve::Sources { resolv_conf, hosts, port });
    let mut stage = Stage::set().await;
    let address = Address::Host { host: "service.internal".to_owned(), port: 80 };
    stage.settings.services.insert("slow".to_owned(), Service { address, ..service(stage.echo) });
    stage.restart_with(&resolver);
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let stream = dialer.open("slow", b"x");
    let mut asked = [0; 512];
    tokio::select! {
        question = silent.recv(&mut asked) => drop(question.expect("asked")),
        () = dialer.until("never", |_| false) => unreachable!(),
    }
    let open = stage.gateway.shared.sessions.open();
    assert_eq!(open, 1, "its place is taken while the dial lasts");
    dialer.session.reset(stream, crate::session::ResetCode::Reset);
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
    let resolver = Resolver::new(crate::link::resolve::Sources { resolv_conf, hosts, port: 53 });
    let mut stage = Stage::set().await;
    let port = stage.echo.port();
    for name in ["rebound", "mixed"] {
        let address = Address::Host { host: name.to_owned(), port };
        stage.settings.services.insert(name.to_owned(), Service { address, ..service(stage.echo) });
    }
    stage.restart_with(&resolver);
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let [rebound, mixed] = ["rebound", "mixed"].map(|name| dialer.open(name, b"x"));
    dialer
        .until("one is refused, the other goes to the address that may be", |it| {
            it.seen(rebound).refused == Some(RefusalCode::Unreachable) && it.seen(mixed).got == b"x"
        })
        .await;
}
