//! What a stranger may say before it has proven anything, and what it gets for that.

use super::*;
use crate::session::hello::{Code, LONGEST, Token, VERSIONS};
use dialer::No;
use handshake::WITHIN;

/// Sends `bytes`, then reads to the end: what came, if not a reset.
async fn say(stage: &Stage, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = stage.dialer().tcp().await;
    tcp.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("it is closed");
    answer
}

fn refused_with(no: Result<(), No>) -> (Code, bool) {
    match no {
        Err(No::Refused(refusal)) => (refusal.code, refusal.name.is_some()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_does_not_know_the_token_is_denied_and_learns_no_name() {
    let stage = Stage::set().await;
    let mut dialer = stage.dialer();
    dialer.token = None;
    assert_eq!(refused_with(dialer.connect().await), (Code::Denied, false), "none");
    dialer.token = Some(Token::new(b"another token of sixteen bytes").expect("long enough"));
    assert_eq!(refused_with(dialer.connect().await), (Code::Denied, false), "a wrong one");
    assert_eq!(stage.refused(Refusal::Denied), 2);
    dialer.token = stage.dialer().token;
    dialer.connect().await.expect("the right one");
    assert_eq!(dialer.welcome.as_ref().map(|welcome| welcome.name.as_str()), Some("gw-1"));
}

#[tokio::test]
async fn a_token_that_has_changed_is_asked_for_from_the_next_hello_on() {
    let stage = Stage::set().await;
    let mut known = stage.dialer();
    known.connect().await.expect("welcome");
    assert!(stage.gateway.reload_files().is_empty(), "nothing has changed");
    let path = stage.files.path().join("token");
    std::fs::write(&path, "short").expect("written");
    assert!(matches!(&stage.gateway.reload_files()[..], [Reread { what: "token file", news: News::Unusable(_) }]));
    assert!(stage.gateway.reload_files().is_empty(), "told once");
    std::fs::write(&path, TOKEN).expect("written");
    assert_eq!(stage.gateway.reload_files(), [Reread { what: "token file", news: News::PutBack }]);
    assert!(stage.gateway.reload_files().is_empty(), "that as well");
    std::fs::write(&path, "a new token of sixteen bytes\n").expect("written");
    assert_eq!(stage.gateway.reload_files(), [Reread { what: "token file", news: News::Used }]);
    assert_eq!(refused_with(stage.dialer().connect().await), (Code::Denied, false));
    let mut dialer = stage.dialer();
    dialer.token = Some(Token::new(b"a new token of sixteen bytes").expect("long enough"));
    dialer.connect().await.expect("the newline does not count");
    let stream = known.open("echo", b"still here");
    known.until("a session that stood goes on", |it| it.seen(stream).got == b"still here").await;
}

#[tokio::test]
async fn another_version_hears_our_range_once() {
    let stage = Stage::set().await;
    let mut dialer = stage.dialer();
    let mut hello = dialer.hello();
    hello.versions = (VERSIONS.1 + 1, VERSIONS.1 + 3);
    match dialer.connect_by(hello).await {
        Err(No::Refused(refusal)) => {
            assert_eq!((refusal.code, refusal.versions, refusal.name), (Code::Version, VERSIONS, None));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.refused(Refusal::Version), 1);
    stage.is_empty().await;
}

#[tokio::test]
async fn what_is_no_hello_is_closed_without_a_word() {
    let stage = Stage::set().await;
    let whole = stage.dialer().hello().encode(None, stage.dialer().token.as_ref(), &[0; 32]);
    let with_length = |length: usize| {
        let mut bytes = whole.clone();
        bytes[12..14].copy_from_slice(&u16::try_from(length).expect("two bytes").to_le_bytes());
        bytes
    };
    let welcome = [&b"everlink\x02\x01\x01\x00"[..], &[20, 0, 0, 0, 0, 0, 0, 0]].concat();
    let frames_first = [&[1, 0, 0, 0, 4, 0, 0, 4][..], b"data"].concat();
    let strangers = [
        ("too long", with_length(LONGEST + 1)),
        ("far too long", with_length(usize::from(u16::MAX))),
        ("too short for its fields", with_length(whole.len() - 80)),
        ("no head", with_length(13)),
        ("another message", welcome),
        ("frames before the hello", frames_first),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n".to_vec()),
        ("SSH", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()),
        ("SOCKS", vec![5, 1, 0]),
        ("TLS", [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[0; 64]].concat()),
        ("zeros", vec![0; 8192]),
    ];
    for (n, (what, bytes)) in strangers.iter().enumerate() {
        assert_eq!(say(&stage, bytes).await, b"", "{what}");
        eventually(what, || stage.refused(Refusal::Malformed) == n as u64 + 1).await;
    }
    assert_eq!(stage.violations("hello"), strangers.len() as u64);
    stage.is_empty().await;
}

#[tokio::test]
async fn who_looks_and_leaves_is_no_trouble() {
    let stage = Stage::set().await;
    for _ in 0..3 {
        let tcp = tokio::net::TcpStream::connect(stage.address).await.expect("it listens");
        drop(tcp);
    }
    stage.is_empty().await;
    stage.dialer().connect().await.expect("welcome");
    assert!(Refusal::ALL.iter().all(|reason| stage.refused(*reason) == 0));
}

#[tokio::test(start_paused = true)]
async fn fault_17_a_byte_a_second_has_one_deadline_in_all() {
    let stage = Stage::set().await;
    let begun = tokio::time::Instant::now();
    let mut tcp = stage.dialer().tcp().await;
    let hello = stage.dialer().hello().encode(None, stage.dialer().token.as_ref(), &[0; 32]);
    let mut sent = 0;
    for byte in hello {
        let ended = tokio::time::timeout(Duration::from_secs(1), tcp.read_u8()).await;
        if ended.is_ok() {
            break;
        }
        let _ = tcp.write_all(&[byte]).await;
        sent += 1;
    }
    assert!((4..=5).contains(&sent), "closed after {sent} bytes");
    assert!(begun.elapsed() < WITHIN + Duration::from_secs(1));
    eventually("it is counted", || stage.refused(Refusal::Timeout) == 1).await;
}

#[tokio::test]
async fn a_hello_in_single_bytes_is_a_hello() {
    let stage = Stage::set().await;
    let mut tcp = stage.dialer().tcp().await;
    tcp.set_nodelay(true).expect("set");
    for byte in stage.dialer().hello().encode(None, stage.dialer().token.as_ref(), &[0; 32]) {
        tcp.write_all(&[byte]).await.expect("sent");
        tokio::task::yield_now().await;
    }
    let mut head = [0; 9];
    tcp.read_exact(&mut head).await.expect("an answer");
    assert_eq!(&head, b"everlink\x02", "a Welcome");
}

#[tokio::test]
async fn fault_18_silent_peers_do_not_keep_an_honest_dialer_out() {
    let stage = Stage::set_with(|settings| {
        settings.limits.pending = 256;
        settings.limits.pending_per_address = 64;
    })
    .await;
    let mut silent = Vec::new();
    for n in 0..300 {
        let mut dialer = stage.dialer();
        // Six addresses of fifty each: the bound of all is reached, not that of an address.
        dialer.from = Some([127, 0, 1, n as u8 / 50 + 1].into());
        silent.push(dialer.tcp().await);
    }
    let pending = || stage.gateway.shared.status.metrics.pending.get();
    eventually("as many as may be are pending", || pending() == 256 && stage.refused(Refusal::Pending) >= 44).await;
    // The oldest have had their second before an honest dialer's try is over.
    let begun = Instant::now();
    let mut honest = stage.dialer();
    while honest.connect().await.is_err() {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(stage.refused(Refusal::Timeout), 0, "not only when the deadline has freed places");
    let stream = honest.open("echo", b"hello");
    honest.until("the echo", |it| it.seen(stream).got == b"hello").await;
    drop(silent);
    eventually("all places are free again", || pending() == 0).await;
}

#[tokio::test]
async fn fault_18_one_address_has_its_share_and_no_more() {
    let stage = Stage::set_with(|settings| settings.limits.pending_per_address = 4).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(stage.dialer().tcp().await);
    }
    eventually("six were closed", || stage.refused(Refusal::Pending) == 6).await;
    assert_eq!(stage.gateway.shared.status.metrics.pending.get(), 4);
    let mut other = stage.dialer();
    other.from = Some([127, 0, 0, 9].into());
    other.connect().await.expect("another address has its own");
}
