//! How sessions, and the gateway itself, come to their ends.

use super::*;
use crate::session::hello::Code;
use crate::session::{GoAwayCode, ResetCode};
use dialer::No;
use tokio::net::TcpStream;

/// A session with one stream to a service that the test itself is.
async fn with_stream(stage: &mut Stage, change: impl FnOnce(&mut Dialer)) -> (Dialer, u32, TcpStream) {
    let listener = Listener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    stage.change(|settings| {
        settings.services.insert("mine".to_owned(), service(address));
    });
    let mut dialer = stage.dialer();
    change(&mut dialer);
    dialer.connect().await.expect("welcome");
    let stream = dialer.open("mine", b"x");
    let mut accept = Box::pin(listener.accept());
    let mut service = tokio::select! {
        accepted = &mut accept => accepted.expect("accepted").0,
        () = dialer.until("never", |_| false) => unreachable!(),
    };
    assert_eq!(service.read_u8().await.expect("its byte"), b'x');
    dialer.until("it is open", |it| it.seen(stream).opened).await;
    (dialer, stream, service)
}

async fn is_reset(service: &mut TcpStream) {
    let end = tokio::time::timeout(PATIENCE, service.read(&mut [0; 16])).await.expect("it ends");
    assert_eq!(
        end.map_err(|error| error.kind()),
        Err(std::io::ErrorKind::ConnectionReset),
        "an end would pass for whole"
    );
}

#[tokio::test]
async fn fault_27_when_the_deadline_passes_services_are_reset_and_everything_is_freed() {
    let mut stage = Stage::set_with(|settings| settings.resume.deadline = Duration::from_millis(100)).await;
    let (mut dialer, _, mut service) = with_stream(&mut stage, |_| {}).await;
    dialer.cut();
    is_reset(&mut service).await;
    stage.is_empty().await;
    assert_eq!(stage.told("sessions_ended"), ["sessions_ended_total{reason=\"expired\"} 1"]);
    assert_eq!(stage.told("session_losses").len(), 1, "{:?}", stage.told("session_losses"));
    match dialer.connect().await {
        Err(No::Refused(refusal)) => assert_eq!(refusal.code, Code::Unknown),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn fault_27_the_smaller_deadline_holds_and_is_told() {
    let mut stage = Stage::set().await;
    let deadline = Duration::from_millis(100);
    let (mut dialer, _, mut service) = with_stream(&mut stage, |dialer| dialer.resume.deadline = deadline).await;
    assert_eq!(dialer.welcome.as_ref().map(|welcome| welcome.resume.deadline), Some(deadline));
    dialer.cut();
    is_reset(&mut service).await;
}

#[tokio::test]
async fn fault_06_a_dialer_that_falls_silent_is_given_up_within_budget_and_deadline() {
    let mut stage = Stage::set_with(|settings| {
        settings.heartbeat = Some(quick_beats());
        settings.resume.deadline = Duration::from_millis(200);
    })
    .await;
    let (mut dialer, _, mut service) = with_stream(&mut stage, |_| {}).await;
    assert_eq!(dialer.welcome.as_ref().map(|welcome| welcome.beats), Some(quick_beats()));
    dialer.mute = true;
    is_reset(&mut service).await;
    stage.is_empty().await;
}

#[tokio::test]
async fn a_lost_connection_is_shown_and_so_is_its_return() {
    let mut stage = Stage::set().await;
    let (mut dialer, stream, mut service) = with_stream(&mut stage, |_| {}).await;
    let shown = stage.shown().sessions()[0].clone();
    dialer.cut();
    eventually("it waits", || !shown.connection().connected).await;
    service.write_all(b"meanwhile").await.expect("taken");
    dialer.connect().await.expect("welcome back");
    dialer.until("what came meanwhile", |it| it.seen(stream).got == b"meanwhile").await;
    assert!(shown.connection().connected && shown.figures.view().last_outage.is_some());
}

#[tokio::test]
async fn a_dialer_that_is_done_is_not_waited_for() {
    let mut stage = Stage::set().await;
    let (mut dialer, _, mut service) = with_stream(&mut stage, |_| {}).await;
    dialer.session.go_away(GoAwayCode::Done, Duration::ZERO);
    dialer.until("it is said", |it| !it.session.has_words() && it.session.unsent() == 0).await;
    // The stream is still there: what the dialer said is not yet true.
    service.write_all(b"y").await.expect("taken");
    dialer.until("and works", |it| it.streams.values().any(|seen| seen.got == b"y")).await;
    dialer.cut();
    is_reset(&mut service).await;
    stage.is_empty().await;
}

#[tokio::test]
async fn fault_05_a_drain_refuses_what_is_new_resumes_what_is_not_and_ends_with_the_last_stream() {
    let mut stage = Stage::set().await;
    let (mut dialer, stream, mut service) = with_stream(&mut stage, |_| {}).await;
    let shown = stage.shown();
    let unread = || shown.sessions().iter().map(|session| session.figures.view().unacknowledged).sum::<u64>();
    let before = unread();
    stage.gateway.drain();
    eventually("it is said", || unread() > before).await;
    // The dialer has not read it yet.
    let crossing = dialer.open("echo", b"x");
    dialer.until("it is told", |it| it.go_away == Some(GoAwayCode::Draining)).await;
    dialer.until("what crossed it is taken", |it| it.seen(crossing).opened).await;
    assert!(stage.shown().is_draining());
    match stage.dialer().connect().await {
        Err(No::Refused(refusal)) => {
            assert_eq!((refusal.code, refusal.retry_after), (Code::Busy, COME_BACK.1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.refused(Refusal::Draining), 1);
    dialer.session.finish(crossing);
    dialer.until("it is over", |it| it.seen(crossing).fin).await;
    assert!(!dialer.session.can_open(), "whoever has read it opens nothing");
    dialer.cut();
    dialer.go_away = None;
    dialer.connect().await.expect("who goes on is welcome");
    dialer.until("it is told again", |it| it.go_away == Some(GoAwayCode::Draining)).await;
    assert_eq!(stage.gateway.clients().open, 1);
    // The service ends, the client ends: the last bytes arrive before the session goes.
    service.write_all(b"the last words").await.expect("taken");
    service.shutdown().await.expect("ended");
    dialer.session.finish(stream);
    dialer.until("the end", |it| it.seen(stream).fin).await;
    assert_eq!(dialer.seen(stream).got, b"the last words");
    let sessions = stage.gateway.shared.sessions.clone();
    dialer.until("the session ends by itself", |_| sessions.all().is_empty()).await;
    assert_eq!(stage.gateway.clients().open, 0);
    stage.is_empty().await;
}

#[tokio::test]
async fn fault_05_the_last_bytes_of_a_stream_outlive_the_connection_they_were_lost_with() {
    let mut stage = Stage::set().await;
    let (mut dialer, stream, mut service) = with_stream(&mut stage, |_| {}).await;
    stage.gateway.drain();
    dialer.session.finish(stream);
    dialer.until("its end is said", |it| !it.session.has_words() && it.session.unsent() == 0).await;
    assert_eq!(service.read(&mut [0; 16]).await.expect("the end"), 0);
    // From here on the dialer reads nothing.
    service.write_all(b"the last words").await.expect("taken");
    service.shutdown().await.expect("ended");
    let shown = stage.shown().sessions()[0].clone();
    eventually("the stream is over at the gateway", || shown.figures.view().streams == 0).await;
    assert_eq!(stage.gateway.clients().open, 1, "and yet waited for");
    dialer.cut();
    dialer.connect().await.expect("the session is still there");
    dialer.until("the last words", |it| it.seen(stream).fin).await;
    assert_eq!(dialer.seen(stream).got, b"the last words");
    let sessions = stage.gateway.shared.sessions.clone();
    dialer.until("now it ends", |_| sessions.all().is_empty()).await;
}

#[tokio::test]
async fn what_is_left_at_the_end_of_a_drain_is_reset_and_counted() {
    let mut stage = Stage::set().await;
    let (mut dialer, stream, mut service) = with_stream(&mut stage, |_| {}).await;
    stage.gateway.drain();
    assert_eq!(stage.gateway.cut(), 1);
    dialer.until("it is told why", |it| it.seen(stream).reset == Some(ResetCode::Drained)).await;
    is_reset(&mut service).await;
    stage.is_empty().await;
}

#[tokio::test]
async fn a_stream_that_only_waits_for_an_acknowledgement_is_waited_for_and_not_counted_as_cut() {
    let mut stage = Stage::set().await;
    let (mut dialer, stream, mut service) = with_stream(&mut stage, |_| {}).await;
    let shown = stage.shown().sessions()[0].clone();
    dialer.session.finish(stream);
    dialer.until("its end is said", |it| !it.session.has_words() && it.session.unsent() == 0).await;
    // From here on the dialer reads nothing, and so acknowledges nothing.
    service.shutdown().await.expect("ended");
    eventually("the stream is over at the gateway", || shown.figures.view().streams == 0).await;
    stage.gateway.drain();
    assert_eq!(stage.gateway.clients().open, 1, "it is waited for");
    assert_eq!(stage.gateway.cut(), 0, "and no client loses anything");
}

#[tokio::test]
async fn last_bytes_that_were_lost_with_the_connection_count_as_cut() {
    let mut stage = Stage::set().await;
    let (mut dialer, stream, mut service) = with_stream(&mut stage, |_| {}).await;
    let shown = stage.shown().sessions()[0].clone();
    dialer.session.finish(stream);
    dialer.until("its end is said", |it| !it.session.has_words() && it.session.unsent() == 0).await;
    service.write_all(b"the last words").await.expect("taken");
    service.shutdown().await.expect("ended");
    eventually("the stream is over at the gateway", || shown.figures.view().streams == 0).await;
    dialer.cut();
    eventually("it waits", || !shown.connection().connected).await;
    stage.gateway.drain();
    assert_eq!(stage.gateway.cut(), 1);
}

#[tokio::test]
async fn a_gateway_that_is_removed_drains_and_its_series_go_last() {
    let mut stage = Stage::set().await;
    stage.drain.send_replace(Duration::from_millis(300));
    let (mut dialer, stream, mut service) = with_stream(&mut stage, |_| {}).await;
    stage.gateway.serve(Vec::new());
    stage.gateway.remove();
    assert!(stage.status.gateway().is_some(), "a stream is left");
    dialer.until("cut in the end", |it| it.seen(stream).reset == Some(ResetCode::Drained)).await;
    is_reset(&mut service).await;
    eventually("it is shown no more", || stage.status.gateway().is_none()).await;
    eventually("nobody listens", || std::net::TcpStream::connect(stage.address).is_err()).await;
}

#[tokio::test]
async fn numbers_follow_an_edit_in_place_and_the_dialers_follow_a_tune() {
    let mut stage = Stage::set().await;
    let mut dialer = stage.dialer();
    dialer.connect().await.expect("welcome");
    let stream = dialer.open("echo", b"x");
    dialer.until("an echo", |it| it.seen(stream).got == b"x").await;
    // Its own numbers, told live: a silent dialer is now noticed at once.
    dialer.session.tune(quick_beats());
    dialer.until("it is said", |it| !it.session.has_words() && it.session.unsent() == 0).await;
    stage.change(|settings| settings.resume.deadline = Duration::from_millis(100));
    dialer.mute = true;
    stage.is_empty().await;
}

#[tokio::test]
async fn sockets_that_stay_are_served_through_a_change_of_the_others() {
    let stage = Stage::set().await;
    let one = crate::net::socket::bind_listener(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = one.local_addr().expect("bound");
    stage.gateway.serve(vec![one.try_clone().expect("a clone")]);
    eventually("the first is closed", || std::net::TcpStream::connect(stage.address).is_err()).await;
    for _ in 0..3 {
        stage.gateway.serve(vec![one.try_clone().expect("a clone")]);
        let mut dialer = Dialer::new(address);
        dialer.connect().await.expect("welcome");
    }
}
