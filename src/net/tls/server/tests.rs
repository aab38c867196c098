use std::future::poll_fn;
use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType, date_time_ymd};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::*;
use crate::config::Address;
use crate::net::tls::authority::{Authority, Pair, acceptor};
use crate::net::tls::{self, ClientTls};

const HANG: Duration = Duration::from_secs(20);

fn gateway(authority: &Authority, pair: &Pair, clients: Option<&Authority>) -> ServerTls {
    ServerTls::new(&settings(authority, pair, clients)).unwrap()
}

fn settings(authority: &Authority, pair: &Pair, clients: Option<&Authority>) -> config::ServerTls {
    config::ServerTls {
        cert_file: authority.put("server.pem", &pair.cert),
        key_file: authority.put("server.key", &pair.key),
        client_ca_file: clients.map(|clients| authority.put("clients.pem", &clients.pem)),
    }
}

fn dialer(authority: &Authority, pair: Option<&Pair>) -> ClientTls {
    ClientTls::for_tunnel(&authority.settings(pair)).unwrap()
}

/// Both ends of a fresh connection.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

/// What the gateway says of a dialer, and what the dialer hears: under TLS 1.3 often only after its handshake.
async fn meet(gateway: &ServerTls, dialer: &ClientTls) -> (io::Result<Wire>, io::Result<()>) {
    let (near, far) = sockets().await;
    let near = async {
        let name = dialer.server_name(&Address::Host { host: "gateway.internal".to_owned(), port: 1 }).unwrap();
        let mut stream = dialer.handshake(name, near).await?;
        stream.read_exact(&mut [0]).await.map(drop)
    };
    let far = async {
        let mut wire = gateway.accept(far).await?;
        poll_fn(|context| wire.poll_write(context, b"x")).await?;
        Ok(wire)
    };
    timeout(HANG, async { tokio::join!(far, near) }).await.expect("nobody hangs")
}

/// The gateway refuses with these words; what the dialer makes of it.
async fn refuses(gateway: &ServerTls, dialer: &ClientTls, with: &str) -> String {
    let (said, heard) = meet(gateway, dialer).await;
    assert_eq!(explain(&said.unwrap_err()), with);
    tls::explain(&heard.unwrap_err())
}

#[tokio::test]
async fn a_dialer_with_a_certificate_is_known_by_its_name_in_tls_13_with_the_fastest_suite() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let gateway = gateway(&authority, &authority.issue(&["gateway.internal"]), Some(&clients));
    let dialer = dialer(&authority, Some(&clients.issue(&["sidecar-a", "other"])));
    for _ in 0..2 {
        let (near, far) = sockets().await;
        let name = dialer.server_name(&Address::Host { host: "gateway.internal".to_owned(), port: 1 }).unwrap();
        let (wire, stream) = tokio::join!(gateway.accept(far), dialer.handshake(name, near));
        assert_eq!(wire.unwrap().identity().unwrap().as_str(), "sidecar-a");
        let mut stream = stream.unwrap();
        // A ticket would come right behind the handshake; the gateway has closed, so all there is has come.
        let _ = stream.read(&mut [0]).await;
        let session = stream.get_ref().1;
        assert_eq!(session.tls13_tickets_received(), 0);
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        let suite = session.negotiated_cipher_suite().map(|suite| suite.suite());
        assert_eq!(suite, Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256));
        assert_eq!(session.alpn_protocol(), Some(TUNNEL_PROTOCOL));
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full), "never resumed");
    }
}

#[tokio::test]
async fn without_a_client_ca_a_dialer_has_no_name_and_needs_none() {
    let authority = Authority::new("ca");
    let gateway = gateway(&authority, &authority.issue(&["gateway.internal"]), None);
    assert!(!gateway.asks_for_certificate());
    let (wire, heard) = meet(&gateway, &dialer(&authority, None)).await;
    heard.unwrap();
    assert_eq!(wire.unwrap().identity(), None);
}

#[tokio::test]
async fn fault_55_dialers_whose_certificate_will_not_do_are_refused_with_the_reason() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let gateway = gateway(&authority, &authority.issue(&["gateway.internal"]), Some(&clients));
    let dialer = |pair: Option<&Pair>| dialer(&authority, pair);
    let heard =
        refuses(&gateway, &dialer(None), "it shows no certificate: set tls.cert_file and tls.key_file there").await;
    assert!(heard.contains("CertificateRequired") && heard.contains("client certificate"), "{heard}");

    let unknown =
        "its certificate is signed by nobody trusted here: set gateway.tls.client_ca_file to the CA that signed it";
    let stranger = dialer(Some(&authority.issue(&["sidecar"])));
    assert!(refuses(&gateway, &stranger, unknown).await.contains("UnknownCA"));

    let servers = clients.issue_with(&["sidecar"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let purpose = "its certificate is not meant for clients (extended key usage): issue one for clientAuth";
    refuses(&gateway, &dialer(Some(&servers)), purpose).await;

    let nameless = clients.issue_with(&[], |params| {
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    });
    let name = "its certificate has no URI or DNS name among its subject alternative names: issue one that has";
    refuses(&gateway, &dialer(Some(&nameless)), name).await;
}

/// An everlink would not even show it, so the dialer here is another program.
#[tokio::test]
async fn fault_55_an_expired_certificate_and_one_of_the_future_are_refused() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let gateway = gateway(&authority, &authority.issue(&["gateway.internal"]), Some(&clients));
    let dated = |from: i32, to: i32| {
        clients.issue_with(&["sidecar"], |params: &mut CertificateParams| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        })
    };
    for (pair, said) in [
        (dated(2020, 2021), "its certificate has expired: renew it there"),
        (dated(2090, 2091), "its certificate is not valid yet: compare both hosts' clocks"),
    ] {
        let config = foreign(&authority, &[&rustls::version::TLS13], &[TUNNEL_PROTOCOL], Some(&pair));
        assert_eq!(explain(&accepts(&gateway, config).await.0.unwrap_err()), said);
    }
}

/// A dialer that is not ours.
fn foreign(
    authority: &Authority,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&[u8]],
    pair: Option<&Pair>,
) -> ClientConfig {
    use rustls_pki_types::pem::PemObject;
    let mut trusted = RootCertStore::empty();
    trusted.add(authority.root()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(trusted);
    let mut config = match pair {
        Some(pair) => {
            let chain = vec![rustls_pki_types::CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
            let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// What the gateway says, and the dialer's own handshake.
async fn accepts(gateway: &ServerTls, dialer: ClientConfig) -> (io::Result<Wire>, io::Result<()>) {
    let (near, far) = sockets().await;
    let near = async {
        let connector = TlsConnector::from(Arc::new(dialer));
        connector.connect("gateway.internal".try_into().unwrap(), near).await.map(drop)
    };
    timeout(HANG, async { tokio::join!(gateway.accept(far), near) }).await.expect("nobody hangs")
}

#[tokio::test]
async fn a_dialer_of_tls_12_and_one_that_asks_for_another_protocol_or_none_hear_an_alert() {
    let authority = Authority::new("ca");
    let gateway = gateway(&authority, &authority.issue(&["gateway.internal"]), None);
    let (said, heard) =
        accepts(&gateway, foreign(&authority, &[&rustls::version::TLS12], &[TUNNEL_PROTOCOL], None)).await;
    assert_eq!(explain(&said.unwrap_err()), "it does not speak TLS 1.3");
    assert!(tls::explain(&heard.unwrap_err()).starts_with("it speaks no version of TLS"));

    let both = [&rustls::version::TLS13, &rustls::version::TLS12];
    for alpn in [&[][..], &[&b"h2"[..], b"http/1.1"], &[b"everlink/2"], &[b"everlink/"]] {
        let (said, heard) = accepts(&gateway, foreign(&authority, &both, alpn, None)).await;
        let said = explain(&said.unwrap_err());
        assert_eq!(said, "it does not ask for everlink/1 (ALPN): only everlink's own dialers are served here");
        let heard = tls::explain(&heard.unwrap_err());
        assert!(heard.starts_with("it speaks none of the protocols offered (ALPN)"), "{alpn:?}: {heard}");
    }
    let several = foreign(&authority, &both, &[b"h2", TUNNEL_PROTOCOL], None);
    accepts(&gateway, several).await.0.unwrap();
}

#[tokio::test]
async fn a_server_that_is_no_gateway_is_refused_by_the_dialer() {
    let authority = Authority::new("ca");
    let pair = authority.issue(&["gateway.internal"]);
    let dialer = dialer(&authority, None);
    let against = async |acceptor: tokio_rustls::TlsAcceptor| {
        let (near, far) = sockets().await;
        let name = dialer.server_name(&Address::Host { host: "gateway.internal".to_owned(), port: 1 }).unwrap();
        let (_, heard) = tokio::join!(acceptor.accept(far), dialer.handshake(name, near));
        tls::explain(&heard.unwrap_err())
    };
    let said = against(acceptor(&pair, None)).await;
    assert!(said.starts_with("it speaks none of the protocols offered (ALPN)"), "{said}");
    let mut silent = ServerConfig::clone(acceptor(&pair, None).config());
    silent.alpn_protocols.clear();
    let said = against(Arc::new(silent).into()).await;
    assert!(said.starts_with("it does not speak everlink/1 (ALPN)"), "{said}");
    let mut old = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(acceptor(&pair, None).config().cert_resolver.clone());
    old.alpn_protocols = vec![TUNNEL_PROTOCOL.to_vec()];
    let said = against(Arc::new(old).into()).await;
    assert!(said.starts_with("it speaks no version of TLS that is offered here"), "{said}");
}

#[tokio::test]
async fn what_is_no_tls_ends_in_an_error_at_once() {
    let authority = Authority::new("ca");
    let gateway = gateway(&authority, &authority.issue(&["gateway.internal"]), None);
    let noise: Vec<u8> = (0..64 << 10).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.9\r\n",
        &[5, 1, 0, 0, 0],
        &[0; 4096],
        &[22, 3, 1, 0xff, 0xff, 1],
        // A ClientHello of 16 MiB.
        &[22, 3, 1, 0, 8, 1, 0xff, 0xff, 0xff, 3, 3, 0, 0],
        &noise,
    ] {
        let (mut near, far) = sockets().await;
        let talk = async {
            let _ = near.write_all(bytes).await;
            near.shutdown().await
        };
        let (said, _) = timeout(HANG, async { tokio::join!(gateway.accept(far), talk) }).await.expect("nobody hangs");
        explain(&said.unwrap_err());
    }
    let (mut near, far) = sockets().await;
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let said = timeout(HANG, gateway.accept(far)).await.expect("it does not wait for the end").unwrap_err();
    assert_eq!(explain(&said), "it does not speak TLS");
}

/// The bytes of a whole ClientHello of ours.
fn client_hello(authority: &Authority) -> Vec<u8> {
    let config = Arc::new(foreign(authority, &[&rustls::version::TLS13], &[TUNNEL_PROTOCOL], None));
    let mut connection = rustls::ClientConnection::new(config, "gateway.internal".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut hello).unwrap();
    }
    hello
}

#[tokio::test]
async fn fault_17_an_end_at_any_byte_of_the_handshake_is_an_error() {
    let authority = Authority::new("ca");
    let gateway = gateway(&authority, &authority.issue(&["gateway.internal"]), None);
    let hello = client_hello(&authority);
    for length in 0..=hello.len() {
        let (mut near, far) = sockets().await;
        near.write_all(&hello[..length]).await.unwrap();
        near.shutdown().await.unwrap();
        let said = timeout(HANG, gateway.accept(far)).await.expect("nobody hangs").unwrap_err();
        assert_eq!(explain(&said), "it closed the connection in the middle of the handshake", "{length}");
    }
}

#[tokio::test]
async fn a_hello_in_pieces_of_a_byte_works() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let gateway = gateway(&authority, &authority.issue(&["gateway.internal"]), Some(&clients));
    let dialer = dialer(&authority, Some(&clients.issue(&["sidecar"])));
    let (relay, far) = sockets().await;
    let (near, relayed) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        relay.set_nodelay(true).unwrap();
        let (mut from_near, mut to_near) = tokio::io::split(relayed);
        let (mut from_far, mut to_far) = relay.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_far, &mut to_near).await });
        while let Ok(byte) = from_near.read_u8().await {
            to_far.write_u8(byte).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let name = dialer.server_name(&Address::Host { host: "gateway.internal".to_owned(), port: 1 }).unwrap();
    let (wire, stream) = timeout(HANG, async { tokio::join!(gateway.accept(far), dialer.handshake(name, near)) })
        .await
        .expect("nobody hangs");
    assert_eq!(wire.unwrap().identity().unwrap().as_str(), "sidecar");
    stream.unwrap();
}

#[tokio::test]
async fn fault_55_a_rotated_pair_holds_for_the_next_handshake_and_a_half_written_one_changes_nothing() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let gateway = gateway(&old, &old.issue(&["gateway.internal"]), None);
    let (of_old, of_new) = (dialer(&old, None), dialer(&new, None));
    assert_eq!(gateway.reload(), Ok(Renewed::Same), "nothing has changed");
    let pair = new.issue_with(&["gateway.internal"], |params| params.not_after = date_time_ymd(2040, 1, 1));
    for half in [&pair.cert, &pair.cert[..pair.cert.len() / 2], ""] {
        old.put("server.pem", half);
        assert!(gateway.reload().is_err());
        assert_eq!(gateway.reload(), Ok(Renewed::Same), "told already");
        meet(&gateway, &of_old).await.1.unwrap();
    }
    old.put("server.pem", &pair.cert);
    old.put("server.key", &pair.key);
    assert_eq!(gateway.reload(), Ok(Renewed::Others));
    assert_eq!(gateway.not_after(), Some(2_208_988_800), "2040-01-01");
    meet(&gateway, &of_new).await.1.unwrap();
    assert!(meet(&gateway, &of_old).await.1.is_err());
}

#[tokio::test]
async fn a_rotated_client_ca_holds_for_the_next_handshake() {
    let (authority, old, new) = (Authority::new("ca"), Authority::new("old"), Authority::new("new"));
    let gateway = gateway(&authority, &authority.issue(&["gateway.internal"]), Some(&old));
    let end = gateway.client_ca_not_after().unwrap();
    assert!(end > unix_now());
    let dialer = dialer(&authority, Some(&new.issue(&["sidecar"])));
    assert!(meet(&gateway, &dialer).await.0.is_err());
    authority.put("clients.pem", "no certificate");
    let fault = gateway.reload().unwrap_err();
    assert_eq!(fault.file, File::ClientCa);
    assert!(meet(&gateway, &dialer).await.0.is_err());
    authority.put("clients.pem", &format!("{}{}", old.pem, new.pem));
    assert_eq!(gateway.reload(), Ok(Renewed::Others));
    meet(&gateway, &dialer).await.1.unwrap();
}

#[test]
fn every_unusable_file_is_named_with_the_reason() {
    let authority = Authority::new("ca");
    let good = settings(&authority, &authority.issue(&["gateway.internal"]), Some(&authority));
    assert_eq!(inspect(&good), Ok(Vec::new()));
    let says = |file: File, message: &str| {
        let fault = inspect(&good).unwrap_err();
        assert_eq!(ServerTls::new(&good).err().as_ref(), Some(&fault), "both give the same verdict");
        assert_eq!(fault.file, file);
        assert!(fault.message.contains(message), "{}", fault.message);
    };
    authority.put("clients.pem", "no pem at all");
    says(File::ClientCa, "clients.pem holds no certificate");
    std::fs::remove_file(authority.path("clients.pem")).unwrap();
    says(File::ClientCa, "does not exist: put it there or correct tls.client_ca_file");
    authority.put("clients.pem", &authority.pem);
    authority.put("server.key", &authority.issue(&["x"]).key);
    says(File::Key, "is the key of another certificate than");
}
