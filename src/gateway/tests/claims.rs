//! Sessions that outlive their connections, and who may go on with them.

use super::*;
use crate::session::hello::{Code, Secret, SessionId};
use dialer::No;

fn code(no: Result<(), No>) -> Code {
    match no {
        Err(No::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n * 7 + n / 251) as u8).collect()
}

#[tokio::test]
async fn a_new_session_reaches_a_service_and_hears_its_echo() {
    let stage = Stage::set().await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let welcome = dialer.welcome.clone().expect("welcome");
    assert_eq!((welcome.received, welcome.streams, welcome.advertise), (0, 1024, None));
    assert_eq!(
        (welcome.resume, welcome.beats),
        (stage.settings.resume, dialer.beats),
        "none of its own, so the dialer's"
    );
    let [one, other] = [dialer.open("echo", b"one"), dialer.open("echo", b"other")];
    dialer.until("both echoes", |it| it.seen(one).got == b"one" && it.seen(other).got == b"other").await;
    eventually("both streams are shown", || stage.gateway.clients() == Clients { open: 2, came: 2 }).await;
    dialer.session.finish(one);
    dialer.until("the end comes back", |it| it.seen(one).fin).await;
    assert!(!dialer.seen(other).fin);
    let shown = stage.shown().sessions();
    assert_eq!((shown.len(), shown[0].identity.clone(), shown[0].connection().connected), (1, None, true));
}

#[tokio::test]
async fn fault_07_resets_in_the_middle_lose_no_byte_and_double_none() {
    let stage = Stage::set().await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let sent = bytes(3 << 20);
    let streams = [dialer.open("echo", &sent), dialer.open("echo", &sent)];
    for cut in 1..6 {
        let some = cut * sent.len() / 8;
        dialer.until("some came back", |it| streams.iter().any(|stream| it.seen(*stream).got.len() >= some)).await;
        dialer.cut();
        dialer.connect().await.expect("welcome back");
    }
    dialer.until("all came back", |it| streams.iter().all(|stream| it.seen(*stream).got.len() >= sent.len())).await;
    for stream in streams {
        assert!(dialer.seen(stream).got == sent, "not the bytes that were sent");
        dialer.session.finish(stream);
    }
    dialer.until("in order to the end", |it| streams.iter().all(|stream| it.seen(*stream).fin)).await;
    let shown = stage.shown().sessions();
    let view = shown[0].figures.view();
    assert_eq!((view.resumes, view.epoch), (5, 6));
}

#[tokio::test]
async fn a_connection_is_brought_to_the_thread_that_has_its_session() {
    let status = example::status();
    let workers = crate::workers::Workers::start(crate::workers::Layout::Separate(3), &status).expect("threads");
    let mut stage = Stage::set().await;
    stage.workers = workers.handles().to_vec();
    stage.restart_with(&Resolver::default());
    let mut dialers = [stage.dialer(), stage.dialer()];
    for dialer in &mut dialers {
        dialer.connect().await.expect("welcome");
        let stream = dialer.open("echo", b"x");
        // Each comes to the next thread in turn.
        for n in 1..=7 {
            dialer.until("an echo", |it| it.seen(stream).got.len() == n).await;
            if n % 2 == 0 {
                dialer.cut();
            }
            dialer.connect().await.expect("welcome back");
            dialer.send(stream, b"x");
        }
    }
    drop((dialers, stage));
    workers.stop();
}

#[tokio::test]
async fn fault_26_the_newest_proven_epoch_wins_and_the_older_connection_is_closed() {
    let stage = Stage::set().await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let stream = dialer.open("echo", b"before ");
    dialer.until("an echo", |it| it.seen(stream).got == b"before ").await;
    // Half open: the gateway has no reason to think that it is gone.
    let mut old = dialer.connection.take().expect("connected");
    dialer.connect().await.expect("welcome back");
    dialer.send(stream, b"after");
    dialer.until("it goes on", |it| it.seen(stream).got == b"before after").await;
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, old.read_to_end(&mut rest)).await;
    assert!(closed.is_ok() && rest.is_empty(), "the old one is closed, and nothing more was said over it");
}

#[tokio::test]
async fn fault_26_an_old_or_reused_epoch_is_superseded_and_touches_nothing() {
    let stage = Stage::set().await;
    let mut dialer = stage.dialer();
    dialer.epoch = 4;
    dialer.connect().await.expect("welcome");
    let stream = dialer.open("echo", b"before ");
    dialer.until("an echo", |it| it.seen(stream).got == b"before ").await;
    let held = dialer.connection.take();
    for epoch in [5, 4, 1, 0] {
        let mut hello = dialer.hello();
        hello.epoch = epoch;
        match dialer.connect_by(hello).await {
            Err(No::Refused(refusal)) => {
                assert_eq!((refusal.code, refusal.name.as_deref()), (Code::Superseded, Some("gw-1")));
            }
            other => panic!("{epoch}: {other:?}"),
        }
    }
    assert_eq!(stage.refused(Refusal::Superseded), 4);
    dialer.connection = held;
    dialer.send(stream, b"after");
    dialer.until("the connection stands", |it| it.seen(stream).got == b"before after").await;
}

#[tokio::test]
async fn never_heard_of_not_proven_and_ended_get_the_same_answer() {
    let stage = Stage::set_with(|settings| settings.resume.deadline = Duration::from_millis(50)).await;
    let mut owner = stage.dialer();
    owner.connect().await.expect("welcome");
    let mut answers = Vec::new();
    let mut try_with = async |id, secret, epoch| {
        let mut dialer = stage.dialer();
        (dialer.id, dialer.secret, dialer.epoch) = (id, secret, epoch);
        match dialer.connect().await {
            Err(No::Refused(refusal)) => answers.push(refusal.encode()),
            other => panic!("{other:?}"),
        }
    };
    let wrong = Some(Secret::new([9; 32]));
    try_with(SessionId([7; 16]), wrong.clone(), 1).await;
    try_with(SessionId([7; 16]), None, 1).await;
    try_with(owner.id, wrong.clone(), 9).await;
    // Not even that its epoch is old is told to who has no proof.
    try_with(owner.id, wrong, 0).await;
    try_with(owner.id, None, 9).await;
    assert_eq!(stage.gateway.shared.sessions.all().len(), 1, "nobody else's claim touches it");
    owner.cut();
    stage.is_empty().await;
    try_with(owner.id, owner.secret.clone(), 9).await;
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    assert_eq!(stage.refused(Refusal::Unknown), 6);
}

#[tokio::test]
async fn fault_04_after_a_restart_the_same_name_says_unknown() {
    let (before, after) = (Stage::set().await, Stage::set().await);
    let mut dialer = before.dialer();
    dialer.connect().await.expect("welcome");
    let incarnation = dialer.welcome.as_ref().map(|welcome| welcome.incarnation);
    dialer.gateway = after.address;
    match dialer.connect().await {
        Err(No::Refused(refusal)) => assert_eq!((refusal.code, refusal.name.as_deref()), (Code::Unknown, Some("gw-1"))),
        other => panic!("{other:?}"),
    }
    let mut another = after.dialer();
    another.connect().await.expect("welcome");
    assert_ne!(another.welcome.map(|welcome| welcome.incarnation), incarnation);
}

#[tokio::test]
async fn an_offset_that_cannot_be_ends_the_session_and_nothing_hangs() {
    for far_off in [u64::MAX, 1 << 40] {
        let stage = Stage::set().await;
        let mut dialer = stage.dialer();
        dialer.connect().await.expect("welcome");
        let stream = dialer.open("echo", b"x");
        dialer.until("an echo", |it| it.seen(stream).got == b"x").await;
        let mut hello = dialer.hello();
        (hello.epoch, hello.received) = (9, far_off);
        assert_eq!(code(dialer.connect_by(hello).await), Code::Unknown);
        assert_eq!(stage.violations("resume"), 1);
        stage.is_empty().await;
    }
}

/// A Hello that its dialer has given up may arrive late, when more has been acknowledged over the connection that held on.
#[tokio::test]
async fn a_claim_from_before_what_was_acknowledged_is_turned_away_and_harms_nothing() {
    let stage = Stage::set().await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let sent = bytes(1 << 20);
    let stream = dialer.open("echo", &sent);
    dialer.until("all came back", |it| it.seen(stream).got.len() == sent.len()).await;
    // What came was acknowledged on the way, each 128 KiB.
    let mut hello = dialer.hello();
    (hello.epoch, hello.received) = (9, 1);
    assert_eq!(code(dialer.connect_by(hello).await), Code::Superseded);
    assert_eq!((stage.violations("resume"), stage.gateway.shared.sessions.all().len()), (0, 1));
    dialer.connect().await.expect("the session lives");
}

#[tokio::test]
async fn sessions_have_their_bound_and_come_back_when_one_ends() {
    let mut stage = Stage::set_with(|settings| {
        settings.limits.sessions = 2;
        settings.resume.deadline = Duration::from_millis(50);
    })
    .await;
    let [mut one, mut two, mut three] = [stage.dialer(), stage.dialer(), stage.dialer()];
    one.connect().await.expect("room");
    two.connect().await.expect("room");
    match three.connect().await {
        Err(No::Refused(refusal)) => {
            assert_eq!((refusal.code, refusal.retry_after), (Code::Busy, refusals::BUSY_FOR));
        }
        other => panic!("{other:?}"),
    }
    one.connect().await.expect("who goes on needs no room");
    two.cut();
    eventually("its place is free", || stage.gateway.shared.sessions.all().len() == 1).await;
    three.connect().await.expect("room again");
    stage.change(|settings| settings.limits.memory = 1 << 20);
    assert_eq!(code(stage.dialer().connect().await), Code::Busy, "no memory left");
    assert_eq!(stage.refused(Refusal::Busy), 2);
}

#[tokio::test]
async fn a_violation_ends_the_session_with_a_reset_all_around() {
    let stage = Stage::set().await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let stream = dialer.open("echo", b"x");
    dialer.until("an echo", |it| it.seen(stream).got == b"x").await;
    let connection = dialer.connection.as_mut().expect("connected");
    // An empty DATA frame.
    connection.write_all(&[1, 0, 0, 0, 0, 0, 0, 4]).await.expect("sent");
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await.expect("it is closed");
    assert_eq!(end.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
    assert_eq!(stage.violations("empty_data"), 1);
    stage.is_empty().await;
    assert_eq!(code(dialer.connect().await), Code::Unknown);
}
