use std::fs;
use std::net::SocketAddr;

use rcgen::date_time_ymd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::authority::{Authority, Pair, mode, serve};
use super::*;
use crate::config::ClientCertificate;

fn host(host: &str) -> Address {
    Address::Host { host: host.to_owned(), port: 1 }
}

async fn handshake(tls: &ClientTls, server: SocketAddr, name: &Address) -> io::Result<TlsStream<TcpStream>> {
    tls.handshake(tls.server_name(name).unwrap(), TcpStream::connect(server).await.unwrap()).await
}

/// A whole round trip: only it shows that the server took the client's certificate.
async fn echo(tls: &ClientTls, server: SocketAddr, name: &Address) -> io::Result<()> {
    let mut stream = handshake(tls, server, name).await?;
    stream.write_all(b"ping").await?;
    stream.flush().await?;
    let mut got = [0; 4];
    stream.read_exact(&mut got).await?;
    assert_eq!(&got, b"ping");
    Ok(())
}

#[tokio::test]
async fn a_server_of_the_trusted_ca_is_talked_to_in_tls_13_with_a_fast_cipher_and_the_protocol_asked_for() {
    let authority = Authority::new("ca");
    let server = serve(&authority.issue(&["chat.internal"]), None).await;
    let tls = ClientTls::new(&Tls { alpn: vec!["chat/1".to_owned()], ..authority.settings(None) }).unwrap();
    echo(&tls, server, &host("chat.internal")).await.unwrap();
    let stream = handshake(&tls, server, &host("chat.internal")).await.unwrap();
    let session = stream.get_ref().1;
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let suite = session.negotiated_cipher_suite().map(|suite| suite.suite());
    assert_eq!(suite, Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256));
    assert_eq!(session.alpn_protocol(), Some(&b"chat/1"[..]));
    assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full), "the second one is not resumed");
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused_with_the_cure() {
    let server = serve(&Authority::new("other").issue(&["chat.internal"]), None).await;
    let tls = ClientTls::new(&Authority::new("ca").settings(None)).unwrap();
    let error = echo(&tls, server, &host("chat.internal")).await.unwrap_err();
    assert_eq!(
        explain(&error),
        "its certificate is signed by nobody trusted here: set tls.ca_file to the CA that signed it"
    );
}

#[tokio::test]
async fn the_name_checked_is_the_endpoints_host_unless_server_name_says_otherwise() {
    let authority = Authority::new("ca");
    let server = serve(&authority.issue(&["chat.internal"]), None).await;
    let tls = ClientTls::new(&authority.settings(None)).unwrap();
    let error = echo(&tls, server, &host("other.internal")).await.unwrap_err();
    let said = explain(&error);
    assert!(said.starts_with("its certificate is not for other.internal but for"), "{said}");
    assert!(said.contains("chat.internal") && said.ends_with("set tls.server_name to one of its names"), "{said}");
    let settings = Tls { server_name: Some("chat.internal".to_owned()), ..authority.settings(None) };
    echo(&ClientTls::new(&settings).unwrap(), server, &host("other.internal")).await.unwrap();
}

#[tokio::test]
async fn an_address_is_looked_for_among_the_ip_sans() {
    let authority = Authority::new("ca");
    let tls = ClientTls::new(&authority.settings(None)).unwrap();
    let address = Address::Ip("127.0.0.1:1".parse().unwrap());
    let with_ip = serve(&authority.issue(&["127.0.0.1"]), None).await;
    echo(&tls, with_ip, &address).await.unwrap();
    let without = serve(&authority.issue(&["localhost"]), None).await;
    assert!(explain(&echo(&tls, without, &address).await.unwrap_err()).contains("not for 127.0.0.1"));
}

#[test]
fn a_host_no_certificate_can_name_is_an_error_that_says_so() {
    let tls = ClientTls::new(&Authority::new("ca").settings(None)).unwrap();
    let error = tls.server_name(&host("no name")).unwrap_err();
    assert_eq!(error.to_string(), "\"no name\" is no name or address a certificate can carry: set tls.server_name");
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_the_server_wants_one() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let server = serve(&authority.issue(&["chat.internal"]), Some(&clients)).await;
    let without = ClientTls::new(&authority.settings(None)).unwrap();
    assert!(echo(&without, server, &host("chat.internal")).await.is_err());
    let pair = clients.issue(&["sidecar"]);
    let with = ClientTls::new(&authority.settings(Some(&pair))).unwrap();
    echo(&with, server, &host("chat.internal")).await.unwrap();
}

#[tokio::test]
async fn fault_55_an_expired_server_and_one_that_speaks_no_tls_are_told_apart() {
    let authority = Authority::new("ca");
    let expired = authority.issue_with(&["chat.internal"], |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let tls = ClientTls::new(&authority.settings(None)).unwrap();
    let server = serve(&expired, None).await;
    let error = echo(&tls, server, &host("chat.internal")).await.unwrap_err();
    assert_eq!(explain(&error), "its certificate has expired: renew it there");

    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = plain.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let error = echo(&tls, server, &host("chat.internal")).await.unwrap_err();
    assert!(explain(&error).starts_with("its answer is not TLS"), "{}", explain(&error));
}

#[tokio::test]
async fn fault_55_a_rotated_pair_is_used_by_the_next_handshake() {
    let (authority, old, new) = (Authority::new("ca"), Authority::new("old"), Authority::new("new"));
    let server = serve(&authority.issue(&["chat.internal"]), Some(&new)).await;
    let tls = ClientTls::new(&authority.settings(Some(&old.issue(&["sidecar"])))).unwrap();
    assert!(echo(&tls, server, &host("chat.internal")).await.is_err());
    assert_eq!(tls.reload(), Ok(Renewed::Same), "nothing has changed");
    let pair = new.issue_with(&["sidecar"], |params| params.not_after = date_time_ymd(2040, 1, 1));
    authority.put("client.pem", &pair.cert);
    authority.put("client.key", &pair.key);
    assert_eq!(tls.reload(), Ok(Renewed::Others));
    assert_eq!(tls.client_not_after(), Some(2_208_988_800));
    echo(&tls, server, &host("chat.internal")).await.unwrap();
}

#[tokio::test]
async fn fault_55_a_half_written_pair_keeps_the_old_one_and_is_told_once() {
    let authority = Authority::new("ca");
    let server = serve(&authority.issue(&["chat.internal"]), Some(&authority)).await;
    let old = authority.issue(&["sidecar"]);
    let tls = ClientTls::new(&authority.settings(Some(&old))).unwrap();
    let new = authority.issue(&["sidecar"]);
    for half in [new.cert.as_str(), &new.cert[..new.cert.len() / 2], ""] {
        authority.put("client.pem", half);
        let fault = tls.reload().unwrap_err();
        assert!(fault.file != File::Ca, "{fault}");
        assert_eq!(tls.reload(), Ok(Renewed::Same), "told already");
        echo(&tls, server, &host("chat.internal")).await.unwrap();
    }
    authority.put("client.pem", &old.cert);
    assert_eq!(tls.reload(), Ok(Renewed::PutBack));
    assert_eq!(tls.reload(), Ok(Renewed::Same), "told once");
    fs::remove_file(authority.path("client.pem")).unwrap();
    assert!(tls.reload().unwrap_err().to_string().contains("does not exist"));
    echo(&tls, server, &host("chat.internal")).await.unwrap();
    authority.put("client.pem", &new.cert);
    authority.put("client.key", &new.key);
    assert_eq!(tls.reload(), Ok(Renewed::Others));
}

#[tokio::test]
async fn a_rotated_ca_holds_for_the_next_handshake() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let server = serve(&new.issue(&["chat.internal"]), None).await;
    let tls = ClientTls::new(&old.settings(None)).unwrap();
    assert!(echo(&tls, server, &host("chat.internal")).await.is_err());
    old.put("ca.pem", &format!("{}{}", old.pem, new.pem));
    assert_eq!(tls.reload(), Ok(Renewed::Others));
    echo(&tls, server, &host("chat.internal")).await.unwrap();
}

fn fault(settings: &Tls) -> (File, String) {
    let fault = inspect(settings).unwrap_err();
    assert_eq!(ClientTls::new(settings).err().as_ref(), Some(&fault), "both give the same verdict");
    (fault.file, fault.message)
}

#[test]
fn every_unusable_file_is_named_with_the_reason_and_the_cure() {
    let authority = Authority::new("ca");
    let pair = authority.issue(&["sidecar"]);
    let good = authority.settings(Some(&pair));
    assert_eq!(inspect(&good), Ok(Vec::new()));
    let dated = |from: i32, to: i32| {
        authority.issue_with(&["sidecar"], |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        })
    };
    let put_pair = |pair: &Pair| {
        authority.put("client.pem", &pair.cert);
        authority.put("client.key", &pair.key);
    };
    let (ca, cert, key) = (authority.path("ca.pem"), authority.path("client.pem"), authority.path("client.key"));
    let says = |file: File, path: &std::path::Path, rest: &str| {
        let (found, message) = fault(&good);
        assert_eq!(found, file, "{message}");
        assert!(message.starts_with(&format!("{} {rest}", path.display())), "{message}\n  is not\n{rest}");
    };

    authority.put("ca.pem", "no pem at all");
    says(File::Ca, &ca, "holds no certificate: it must be PEM");
    authority.put("ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    says(File::Ca, &ca, "is damaged: certificate 1 cannot be understood");
    fs::remove_file(&ca).unwrap();
    says(File::Ca, &ca, "does not exist: put it there or correct tls.ca_file");
    fs::create_dir(&ca).unwrap();
    says(File::Ca, &ca, "is not a regular file: correct tls.ca_file");
    fs::remove_dir(&ca).unwrap();
    authority.put("ca.pem", &authority.pem);

    authority.put("client.key", &authority.issue(&["x"]).key);
    says(File::Key, &key, "is the key of another certificate than");
    authority.put("client.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    says(File::Key, &key, "is encrypted, and nobody is there to type its password: decrypt it");
    authority.put("client.key", &pair.cert);
    says(File::Key, &key, "holds a certificate and no private key: are cert_file and key_file swapped?");
    authority.put("client.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    says(File::Key, &key, "cannot be used as a private key");
    authority.put("client.pem", &pair.key);
    says(File::Cert, &cert, "holds a private key and no certificate: are cert_file and key_file swapped?");
    put_pair(&dated(2020, 2021));
    says(File::Cert, &cert, "expired on Jan  1 00:00:00 2021 +00:00: put a renewed certificate there");
    put_pair(&dated(2090, 2091));
    says(File::Cert, &cert, "is not valid before Jan  1 00:00:00 2090 +00:00: check this host's clock");
    put_pair(&pair);
    mode(&key, 0o602);
    says(File::Key, &key, "can be written by every user: chmod o-w it");
    mode(&key, 0o644);
    assert_eq!(inspect(&good), Ok(Vec::new()), "who may read it is told where the configuration names it");
}

#[test]
fn a_fifo_in_the_place_of_a_file_holds_nobody_up() {
    let authority = Authority::new("ca");
    let settings = authority.settings(None);
    let path = authority.path("ca.pem");
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(fault(&settings).1.contains("is not a regular file"));
}

#[test]
fn certificates_near_their_end_are_worth_a_notice_seven_days_before() {
    const JANUARY_8: i64 = 2_209_593_600; // 2040-01-08 00:00:00 UTC
    const DAY: i64 = 86_400;
    let authority = Authority::new("ca");
    let pair = authority.issue_with(&["sidecar"], |params| params.not_after = date_time_ymd(2040, 1, 8));
    let contents = Contents::read(&authority.settings(Some(&pair))).unwrap();
    let notices = |now: i64| contents.judge(now).unwrap().notices;
    assert_eq!(notices(JANUARY_8 - 7 * DAY), []);
    let [notice] = &notices(JANUARY_8 - 7 * DAY + 1)[..] else { panic!("one notice") };
    assert_eq!(notice.file, File::Cert);
    assert!(notice.message.ends_with("expires on Jan  8 00:00:00 2040 +00:00: renew it"), "{}", notice.message);
    assert_eq!(contents.judge(JANUARY_8).unwrap().pair_not_after, Some(JANUARY_8));
    assert_eq!(contents.judge(JANUARY_8 + 1).unwrap_err().file, File::Cert);
}

#[test]
fn of_a_ca_bundle_the_next_end_counts_and_an_ended_root_is_only_noticed() {
    let ending = |year: i32| {
        Authority::new("ca").issue_with(&["root"], |params| {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(year, 1, 1);
        })
    };
    let authority = Authority::new("ca");
    let bundle: String = [2050, 2020, 2040].map(|year| ending(year).cert).concat();
    let settings = Tls { ca_file: Some(authority.put("bundle.pem", &bundle)), ..Tls::default() };
    assert_eq!(ClientTls::new(&settings).unwrap().ca_not_after(), Some(2_208_988_800), "2040-01-01");
    let notices = inspect(&settings).unwrap();
    assert_eq!(notices.len(), 1);
    assert!(notices[0].message.ends_with("expired on Jan  1 00:00:00 2020 +00:00: renew it"), "{notices:?}");
}

#[test]
fn without_a_ca_file_the_systems_roots_are_shared() {
    let settings = Tls::default();
    match (ClientTls::new(&settings), ClientTls::new(&settings)) {
        (Ok(tls), Ok(_)) => {
            assert_eq!(tls.ca_not_after(), None);
            assert!(Arc::ptr_eq(&system_roots().unwrap(), &system_roots().unwrap()));
        }
        (Err(fault), _) | (_, Err(fault)) => assert!(fault.message.contains("set tls.ca_file"), "{fault}"),
    }
}

#[test]
fn certificate_and_key_in_one_file_are_fine() {
    let authority = Authority::new("ca");
    let pair = authority.issue(&["sidecar"]);
    let both = authority.put("both.pem", &format!("{}{}", pair.key, pair.cert));
    let client = Some(ClientCertificate { cert_file: both.clone(), key_file: both });
    assert_eq!(inspect(&Tls { client, ..authority.settings(None) }), Ok(Vec::new()));
}
