use std::future::poll_fn;
use std::net::IpAddr;
use std::path::Path;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, UnixListener};

use super::connect::{is_to_itself, telling};
use super::*;
use crate::config::Tls;
use crate::link::resolve::Sources;
use crate::link::resolve::nameserver::{Nameserver, Reply};
use crate::metrics::DialOutcome;
use crate::net::tls::authority::{Authority, serve};
use crate::net::tls::server::ServerTls;
use crate::net::wire::Wire;

const AMPLE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(400);

fn options(connect_timeout: Duration) -> DialOptions {
    DialOptions { connect_timeout, tls: None, known_as: None }
}

fn with_tls(connect_timeout: Duration, settings: &Tls) -> DialOptions {
    DialOptions { tls: Some(Arc::new(ClientTls::new(settings).unwrap())), ..options(connect_timeout) }
}

fn endpoint(name: &str, address: Address) -> Endpoint {
    Endpoint { name: name.to_owned(), address, priority: 1 }
}

fn literal(address: SocketAddr) -> Endpoint {
    endpoint(&address.to_string(), Address::Ip(address))
}

fn unix(path: &Path) -> Endpoint {
    endpoint("unix", Address::Unix(path.to_owned()))
}

async fn listen(ip: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Holds a port and does not listen on it, so that nobody else can either.
fn refusing(ip: &str) -> (Socket, SocketAddr) {
    refusing_at(SocketAddr::new(ip.parse().unwrap(), 0))
}

fn refusing_at(address: SocketAddr) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Listens, but its queue is full: the kernel drops every further SYN.
fn silent(ip: &str) -> (Socket, Vec<std::net::TcpStream>, SocketAddr) {
    silent_by(refusing(ip))
}

fn silent_by((socket, address): (Socket, SocketAddr)) -> (Socket, Vec<std::net::TcpStream>, SocketAddr) {
    socket.listen(0).unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queue.push(stream);
    }
    (socket, queue, address)
}

/// Reads no file of this host, and so asks 127.0.0.1.
fn resolver_at(port: u16) -> Resolver {
    let missing = std::path::PathBuf::from("/nonexistent/file");
    Resolver::new(Sources { resolv_conf: missing.clone(), hosts: missing, port })
}

fn resolver(server: &Nameserver) -> Resolver {
    resolver_at(server.address.port())
}

/// For endpoints that need none.
fn no_resolver() -> Resolver {
    resolver_at(9)
}

fn named(port: u16) -> Endpoint {
    endpoint("db.example:1", Address::Host { host: "db.example".to_owned(), port })
}

async fn fails(target: &Endpoint, options: &DialOptions) -> DialError {
    dial(target, options, &no_resolver()).await.unwrap_err()
}

#[tokio::test]
async fn a_dialled_socket_is_set_up_and_carries_bytes() {
    let (listener, address) = listen("127.0.0.1").await;
    let mut dialled = dial(&literal(address), &options(AMPLE), &no_resolver()).await.unwrap();
    assert_eq!(dialled.address, Some(address));
    assert!(dialled.connect_rtt > Duration::ZERO && dialled.connect_rtt < AMPLE);
    let socket = SockRef::from(&dialled.transport);
    assert!(socket.tcp_nodelay().unwrap());
    assert!(!socket.keepalive().unwrap(), "only a connection that lives for a while needs it");
    let beat = crate::config::Beat::Kernel;
    let heartbeat = crate::config::Heartbeat {
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(3),
        misses: 3,
        beat,
        in_use: crate::config::InUse::Off,
    };
    dialled.transport.sustain(&heartbeat).unwrap();
    let socket = SockRef::from(&dialled.transport);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(5));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(3));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    let (mut far, _) = listener.accept().await.unwrap();
    dialled.transport.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    far.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
}

#[tokio::test]
async fn a_refused_port_is_refused_by_name_address_and_advice() {
    let (_held, address) = refusing("127.0.0.1");
    let error = fails(&endpoint("orders:9000", Address::Ip(address)), &options(AMPLE)).await;
    assert_eq!(error.outcome(), DialOutcome::Refused);
    assert_eq!(
        error.to_string(),
        format!("orders:9000 ({address}): Connection refused: is the server up, and is this its port?")
    );
}

#[tokio::test]
async fn fault_15_a_silent_address_times_out_in_the_time_given() {
    let (_listener, _queue, address) = silent("127.0.0.1");
    let begun = Instant::now();
    let error = fails(&literal(address), &options(SHORT)).await;
    let took = begun.elapsed();
    assert_eq!(error.outcome(), DialOutcome::Timeout);
    assert!(took >= SHORT && took < AMPLE, "{took:?}");
    assert!(error.to_string().contains("did not answer within 400ms: is it up"), "{error}");
}

/// Passes on what clients say, but only so many bytes of the answer; then it is silent.
async fn stalling(server: SocketAddr, after: u64) -> SocketAddr {
    let (listener, address) = listen("127.0.0.1").await;
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (from_server, mut to_server) = TcpStream::connect(server).await.unwrap().into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        tokio::io::copy(&mut from_server.take(after), &mut to_client).await.unwrap();
        std::future::pending::<()>().await;
    });
    address
}

#[tokio::test]
async fn fault_17_a_handshake_that_stalls_at_any_byte_ends_in_the_time_given() {
    let authority = Authority::new("ca");
    let server = serve(&authority.issue(&["127.0.0.1"]), None).await;
    let options = with_tls(SHORT, &authority.settings(None));
    for after in [0, 1, 5, 6, 127, 400] {
        let relay = stalling(server, after).await;
        let begun = Instant::now();
        let error = fails(&literal(relay), &options).await;
        let took = begun.elapsed();
        assert_eq!(error.outcome(), DialOutcome::Timeout, "{error}");
        assert!(matches!(error, DialError::Timeout { stage: Stage::Tls, .. }), "{error}");
        assert!(took >= SHORT && took < AMPLE, "after {after} bytes: {took:?}");
    }
}

#[tokio::test]
async fn tls_failures_are_their_own_outcome() {
    let authority = Authority::new("ca");
    let server = serve(&authority.issue(&["127.0.0.1"]), None).await;
    let good = with_tls(AMPLE, &authority.settings(None));
    let mut dialled = dial(&literal(server), &good, &no_resolver()).await.unwrap();
    assert!(!dialled.transport.is_plain());
    assert!(dialled.transport.tcp_info().is_ok(), "the socket underneath is TCP");
    dialled.transport.write_all(b"ping").await.unwrap();
    dialled.transport.flush().await.unwrap();
    dialled.transport.read_exact(&mut [0; 4]).await.unwrap();

    let stranger = with_tls(AMPLE, &Authority::new("other").settings(None));
    let error = fails(&literal(server), &stranger).await;
    assert_eq!(error.outcome(), DialOutcome::Tls);
    assert!(error.to_string().contains("TLS failed: its certificate is signed by nobody trusted here"), "{error}");
}

#[tokio::test]
async fn fault_42_a_silent_ipv6_address_delays_ipv4_by_the_stagger_only() {
    let port = crate::port::free_port();
    let (_v6, _queue, v6) = silent_by(refusing_at((std::net::Ipv6Addr::LOCALHOST, port).into()));
    let _v4 = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let server = Nameserver::start(|_, _| Reply::addresses(&["::1", "127.0.0.1"])).await;
    let begun = Instant::now();
    let dialled = dial(&named(v6.port()), &options(AMPLE), &resolver(&server)).await.unwrap();
    let took = begun.elapsed();
    assert!(dialled.address.is_some_and(|address| address.is_ipv4()));
    assert!(took >= Duration::from_millis(250) && took < AMPLE / 2, "{took:?}");
    assert!(dialled.connect_rtt < Duration::from_millis(250), "the winner's own round trip: {:?}", dialled.connect_rtt);
}

#[tokio::test]
async fn fault_42_a_refusing_address_costs_nothing_and_the_next_is_used() {
    let (_listener, address) = listen("127.0.0.1").await;
    let server = Nameserver::start(|_, _| Reply::addresses(&["127.0.0.2", "127.0.0.3", "127.0.0.1"])).await;
    let dialled = dial(&named(address.port()), &options(AMPLE), &resolver(&server)).await.unwrap();
    assert_eq!(dialled.address, Some(address));
}

#[tokio::test]
async fn when_all_addresses_fail_the_refusal_is_reported_not_the_missing_route() {
    let (_held, address) = refusing("127.0.0.1");
    // The documentation prefix: out of reach, or without an address of its family, on any host.
    let unreachable = socket_fails_aside("2001:db8::1").await;
    let server = Nameserver::start(|_, _| Reply::addresses(&["2001:db8::1", "127.0.0.1"])).await;
    let error = dial(&named(address.port()), &options(AMPLE), &resolver(&server)).await.unwrap_err();
    if unreachable {
        assert_eq!(error.outcome(), DialOutcome::Refused);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}

/// Whether this host says at once that it cannot reach an address.
async fn socket_fails_aside(ip: &str) -> bool {
    match connect(SocketAddr::new(ip.parse().unwrap(), 9)).await {
        Err(error) => telling(&error) == 0,
        Ok(_) => false,
    }
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_counted_as_resolve() {
    let server = Nameserver::start(|_, _| Reply::Code(hickory_resolver::proto::op::ResponseCode::NXDomain)).await;
    let error = dial(&named(80), &options(AMPLE), &resolver(&server)).await.unwrap_err();
    assert_eq!(error.outcome(), DialOutcome::Resolve);
    assert!(error.to_string().starts_with("db.example:1: db.example does not exist in DNS"), "{error}");
}

#[tokio::test]
async fn a_silent_nameserver_uses_up_the_same_time_limit() {
    let server = Nameserver::start(|_, _| Reply::Silence).await;
    let begun = Instant::now();
    let error = dial(&named(80), &options(SHORT), &resolver(&server)).await.unwrap_err();
    assert_eq!(error.outcome(), DialOutcome::Resolve);
    assert!(begun.elapsed() < AMPLE);
}

#[tokio::test]
async fn a_tunnels_link_is_a_wire_and_elsewhere_its_gateway_keeps_its_name() {
    let authority = Authority::new("ca");
    let pair = authority.issue(&["gateway.internal"]);
    let gateway = ServerTls::new(&crate::config::ServerTls {
        cert_file: authority.put("server.pem", &pair.cert),
        key_file: authority.put("server.key", &pair.key),
        client_ca_file: None,
    })
    .unwrap();
    let (listener, address) = listen("127.0.0.1").await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut wire) = gateway.accept(stream).await else { continue };
            poll_fn(|context| wire.poll_write(context, b"welcome")).await.unwrap();
        }
    });
    let tunnel = ClientTls::for_tunnel(&authority.settings(None)).unwrap();
    let by_address = DialOptions { tls: Some(Arc::new(tunnel)), ..options(AMPLE) };
    let error = fails(&literal(address), &by_address).await;
    assert!(error.to_string().contains("not for 127.0.0.1"), "{error}");

    let known_as = Some(Address::Host { host: "gateway.internal".to_owned(), port: 1 });
    let by_name = DialOptions { known_as, ..by_address };
    let dialled = dial(&literal(address), &by_name, &no_resolver()).await.unwrap();
    let mut wire = Wire::from_transport(dialled.transport).unwrap();
    let mut got = [0; 7];
    assert_eq!(poll_fn(|context| wire.poll_read(context, &mut got)).await.unwrap(), 7);
    assert_eq!(&got, b"welcome");
}

#[tokio::test]
async fn a_tunnel_to_a_server_that_is_no_gateway_is_a_failure_of_tls_with_the_reason() {
    let authority = Authority::new("ca");
    let server = serve(&authority.issue(&["127.0.0.1"]), None).await;
    let tunnel = ClientTls::for_tunnel(&authority.settings(None)).unwrap();
    let options = DialOptions { tls: Some(Arc::new(tunnel)), ..options(AMPLE) };
    let error = fails(&literal(server), &options).await;
    assert_eq!(error.outcome(), DialOutcome::Tls);
    assert!(error.to_string().contains("TLS failed: it speaks none of the protocols offered (ALPN)"), "{error}");
}

#[tokio::test]
async fn a_dropped_dial_closes_its_connection() {
    let (listener, address) = listen("127.0.0.1").await;
    let authority = Authority::new("ca");
    let options = with_tls(AMPLE, &authority.settings(None));
    let dialling = tokio::spawn(async move { dial(&literal(address), &options, &no_resolver()).await.is_ok() });
    let (mut far, _) = listener.accept().await.unwrap();
    let mut hello = [0; 5];
    far.read_exact(&mut hello).await.unwrap();
    dialling.abort();
    assert!(dialling.await.unwrap_err().is_cancelled());
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn unix_sockets_are_dialled_plain_and_under_tls() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.sock");
    let error = fails(&unix(&path), &options(AMPLE)).await;
    assert_eq!(error.outcome(), DialOutcome::Refused);
    assert!(error.to_string().ends_with("is the server up, and is this its socket?"), "{error}");

    let listener = UnixListener::bind(&path).unwrap();
    let dialled = dial(&unix(&path), &options(AMPLE), &no_resolver()).await.unwrap();
    assert!(matches!(dialled, Dialled { transport: Transport::Unix(_), address: None, .. }));
    drop(listener.accept().await.unwrap());

    let authority = Authority::new("ca");
    let server = serve(&authority.issue(&["localhost"]), None).await;
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let _ = copy_bidirectional(&mut client, &mut TcpStream::connect(server).await.unwrap()).await;
    });
    let tls = with_tls(AMPLE, &authority.settings(None));
    let dialled = dial(&unix(&path), &tls, &no_resolver()).await.unwrap();
    assert!(matches!(dialled.transport, Transport::TlsUnix(_)));
    assert_eq!(dialled.transport.tcp_fd(), None);
}

#[test]
fn fault_37_and_38_shortages_of_our_own_are_counted_as_local_with_their_cure() {
    let target = literal("127.0.0.1:1".parse().unwrap());
    let said = |code: i32| {
        let error = DialError::connecting(&target, "127.0.0.1:1", AMPLE, io::Error::from_raw_os_error(code));
        (error.outcome(), error.to_string())
    };
    for (code, cure) in [
        (libc::EMFILE, "raise its limit (ulimit -n"),
        (libc::ENFILE, "raise fs.file-max"),
        (libc::EADDRNOTAVAIL, "widen net.ipv4.ip_local_port_range"),
        (libc::ENOBUFS, "out of memory for sockets"),
        (libc::EPERM, "this host forbids it"),
        (libc::EACCES, "this host forbids it"),
    ] {
        let (outcome, message) = said(code);
        assert_eq!(outcome, DialOutcome::Local, "{message}");
        assert!(message.contains(cure), "{message}");
    }
    for code in [libc::ECONNREFUSED, libc::ECONNRESET, libc::EHOSTUNREACH, libc::ENETUNREACH] {
        assert_eq!(said(code).0, DialOutcome::Refused);
    }
    assert_eq!(said(libc::ETIMEDOUT).0, DialOutcome::Timeout);
}

/// Runs the test named below in a process of its own, whose descriptors can be used up without harm to the others.
#[test]
fn fault_37_out_of_descriptors_a_dial_says_so_and_works_again_when_some_are_free() {
    let inner = "link::dial::tests::out_of_descriptors";
    let script = format!("ulimit -n 64; exec \"$0\" --exact {inner} --ignored --test-threads 1");
    let this = std::env::current_exe().unwrap();
    let output = std::process::Command::new("sh").arg("-c").arg(script).arg(this).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
#[ignore = "uses up its process's descriptors; run by the test above"]
async fn out_of_descriptors() {
    let (_listener, address) = listen("127.0.0.1").await;
    let server = Nameserver::start(|_, _| Reply::addresses(&["127.0.0.1"])).await;
    let resolver = resolver(&server);
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    for target in [literal(address), named(address.port())] {
        let error = dial(&target, &options(AMPLE), &resolver).await.unwrap_err();
        assert_eq!(error.outcome(), DialOutcome::Local, "{error}");
        let told = ["Too many open files (os error 24)", "this process is out of descriptors"];
        assert!(told.iter().any(|words| error.to_string().contains(words)), "{error}");
    }
    drop(hoard);
    for target in [literal(address), named(address.port())] {
        dial(&target, &options(AMPLE), &resolver).await.unwrap();
    }
}

#[tokio::test]
async fn a_socket_connected_to_itself_counts_as_refused() {
    // Simultaneous open: a socket bound to a port dials that very port.
    let (held, address) = refusing("127.0.0.1");
    held.connect(&address.into()).unwrap();
    assert_eq!(held.local_addr().unwrap().as_socket(), held.peer_addr().unwrap().as_socket(), "the trap is real");
    held.set_nonblocking(true).unwrap();
    let stream = TcpStream::from_std(held.into()).unwrap();
    assert!(is_to_itself(&stream, address).unwrap());
    let (_listener, address) = listen("127.0.0.1").await;
    let stream = TcpStream::connect(address).await.unwrap();
    assert!(!is_to_itself(&stream, address).unwrap());
}
