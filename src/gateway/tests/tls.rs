//! Under TLS: who somebody is.

use super::*;
use crate::config::ServerTls;
use crate::net::tls::ClientTls;
use crate::net::tls::authority::{Authority, Pair};
use crate::net::transport::Transport;
use crate::session::RefusalCode;
use crate::session::hello::{Code, Hello, Secret, SessionId};
use dialer::No;

/// A gateway that asks for certificates of `clients`, and for the token as well if `with_token`.
struct Secured {
    stage: Stage,
    authority: Authority,
    clients: Authority,
}

impl Secured {
    async fn set(with_token: bool, change: impl FnOnce(&mut config::Gateway)) -> Self {
        let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
        let pair = authority.issue(&["gateway.internal"]);
        let stage = Stage::set_with(|settings| {
            settings.tls = Some(ServerTls {
                cert_file: authority.put("server.pem", &pair.cert),
                key_file: authority.put("server.key", &pair.key),
                client_ca_file: Some(authority.put("clients.pem", &clients.pem)),
            });
            if !with_token {
                settings.token_file = None;
            }
            change(settings);
        })
        .await;
        Self { stage, authority, clients }
    }

    fn issue(&self, name: &str) -> Pair {
        self.clients.issue(&[name])
    }

    async fn connect(&self, dialer: &mut Dialer, pair: Option<&Pair>) -> Result<(), No> {
        dialer.epoch += 1;
        let hello = dialer.hello();
        self.connect_by(dialer, pair, hello).await
    }

    async fn connect_by(&self, dialer: &mut Dialer, pair: Option<&Pair>, hello: Hello) -> Result<(), No> {
        let tls = ClientTls::for_tunnel(&self.authority.settings(pair)).expect("fit");
        let name = tls.server_name(&Address::Host { host: "gateway.internal".to_owned(), port: 1 }).expect("a name");
        let stream = tls.handshake(name, dialer.tcp().await).await.map_err(|_| No::Closed)?;
        dialer.greet(Transport::Tls(Box::new(stream)), hello).await
    }
}

fn code(no: Result<(), No>) -> Code {
    match no {
        Err(No::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_certificate_says_who_somebody_is_and_what_for() {
    let allow = |name: &str| Some(vec![name.to_owned()]);
    let secured = Secured::set(false, |settings| {
        let echo = settings.services["echo"].clone();
        settings.services.insert("for-a".to_owned(), Service { allow: allow("sidecar-a"), ..echo.clone() });
        settings.services.insert("for-b".to_owned(), Service { allow: allow("sidecar-b"), ..echo });
    })
    .await;
    let pair = secured.issue("sidecar-a");
    let mut dialer = secured.stage.dialer();
    dialer.token = None;
    secured.connect(&mut dialer, Some(&pair)).await.expect("welcome");
    let [mine, not_mine, nobodys] = ["for-a", "for-b", "for-c"].map(|name| dialer.open(name, b"x"));
    dialer
        .until("what is not for it is as if it were not there", |it| {
            it.seen(mine).got == b"x"
                && [not_mine, nobodys].iter().all(|id| it.seen(*id).refused == Some(RefusalCode::Service))
        })
        .await;
    assert_eq!(secured.stage.shown().sessions()[0].identity.as_deref(), Some("sidecar-a"));
    // Over a new connection, with another certificate of the same name.
    dialer.cut();
    secured
        .connect(&mut dialer, Some(&secured.issue("sidecar-a")))
        .await
        .expect("bound to the name, not the certificate");
    dialer.send(mine, b"y");
    dialer.until("it goes on", |it| it.seen(mine).got == b"xy").await;
}

#[tokio::test]
async fn a_session_is_its_makers_and_others_hear_what_strangers_hear() {
    let secured = Secured::set(false, |_| {}).await;
    let [mut owner, mut thief] = [secured.stage.dialer(), secured.stage.dialer()];
    secured.connect(&mut owner, Some(&secured.issue("sidecar-a"))).await.expect("welcome");
    let stream = owner.open("echo", b"x");
    owner.until("an echo", |it| it.seen(stream).got == b"x").await;
    // With all that the owner knows, but its certificate.
    (thief.id, thief.secret, thief.epoch) = (owner.id, owner.secret.clone(), 7);
    let refused = secured.connect(&mut thief, Some(&secured.issue("sidecar-b"))).await;
    let mut stranger = secured.stage.dialer();
    (stranger.id, stranger.secret) = (SessionId([3; 16]), Some(Secret::new([3; 32])));
    let unknown = secured.connect(&mut stranger, Some(&secured.issue("sidecar-b"))).await;
    assert_eq!(refused, unknown);
    assert_eq!(code(refused), Code::Unknown);
    owner.send(stream, b"y");
    owner.until("nothing has happened to it", |it| it.seen(stream).got == b"xy").await;
}

#[tokio::test]
async fn where_both_are_asked_for_one_is_not_enough() {
    let secured = Secured::set(true, |_| {}).await;
    let pair = secured.issue("sidecar-a");
    let mut dialer = secured.stage.dialer();
    assert_eq!(secured.connect(&mut dialer, None).await, Err(No::Closed), "no certificate");
    eventually("it is counted", || secured.stage.refused(Refusal::Tls) == 1).await;
    let token = dialer.token.take();
    assert_eq!(code(secured.connect(&mut dialer, Some(&pair)).await), Code::Denied);
    dialer.token = token;
    secured.connect(&mut dialer, Some(&pair)).await.expect("both");
}

#[tokio::test]
async fn a_proof_of_one_connection_is_worthless_on_another() {
    let secured = Secured::set(true, |_| {}).await;
    let pair = secured.issue("sidecar-a");
    let mut dialer = secured.stage.dialer();
    secured.connect(&mut dialer, Some(&pair)).await.expect("welcome");
    // A hello as it would be recorded: proven for a binding of zeros.
    dialer.epoch += 1;
    let recorded = dialer.hello().encode(dialer.secret.as_ref(), dialer.token.as_ref(), &[0; 32]);
    let tls = ClientTls::for_tunnel(&secured.authority.settings(Some(&pair))).expect("fit");
    let name = tls.server_name(&Address::Host { host: "gateway.internal".to_owned(), port: 1 }).expect("a name");
    let mut stream = tls.handshake(name, dialer.tcp().await).await.expect("TLS");
    stream.write_all(&recorded).await.expect("sent");
    stream.flush().await.expect("sent");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(answer.get(..15).map(|head| (head[8], head[14])), Some((3, 3)), "a Refusal: denied");
}

#[tokio::test]
async fn plain_bytes_on_the_tls_port_are_closed_within_the_deadline() {
    let secured = Secured::set(true, |_| {}).await;
    let plain = secured.stage.dialer();
    let hello = plain.hello().encode(None, plain.token.as_ref(), &[0; 32]);
    for (n, bytes) in [hello, b"GET / HTTP/1.1\r\n\r\n".to_vec()].iter().enumerate() {
        let mut tcp = plain.tcp().await;
        tcp.write_all(bytes).await.expect("sent");
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("it is closed");
        // At most a TLS alert: nothing of ours.
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
        eventually("it is counted", || secured.stage.refused(Refusal::Tls) == n as u64 + 1).await;
    }
}

#[tokio::test]
async fn an_identity_has_its_share_of_the_sessions() {
    let secured = Secured::set(false, |settings| settings.limits.sessions_per_identity = 1).await;
    let [a, b] = ["sidecar-a", "sidecar-b"].map(|name| secured.issue(name));
    let mut dialers = [secured.stage.dialer(), secured.stage.dialer(), secured.stage.dialer()];
    let [one, two, three] = &mut dialers;
    secured.connect(one, Some(&a)).await.expect("room");
    assert_eq!(code(secured.connect(two, Some(&a)).await), Code::Busy);
    secured.connect(three, Some(&b)).await.expect("another's share");
}
