//! Links that come, leave, and are told to go.

use std::task::{Context, Waker};

use super::*;
use crate::link::drill::Order;
use crate::net::rehearsal::Kind;
use crate::session::hello::Token;
use crate::surroundings::Surroundings;
use crate::upstream::{self, Files};

#[tokio::test]
async fn a_link_that_leaves_ends_with_its_last_stream() {
    let stage = Stage::up().await;
    let client = stage.carried().await;
    let old = stage.slot();
    old.tell(order::DRAIN);
    eventually("another link stands", || stage.hub.slots().iter().any(|slot| slot.id != old.id && slot.is_open()))
        .await;
    assert!(stage.hub.slots().iter().any(|slot| slot.id == old.id), "its stream stays");
    drop(client);
    // Long before the drain is over.
    let begun = Instant::now();
    eventually("the old link is gone", || stage.hub.slots().iter().all(|slot| slot.id != old.id)).await;
    assert!(begun.elapsed() < *stage.drain.borrow() / 2);
    stage.is_quiet().await;
}

#[tokio::test]
async fn fault_61_a_keeper_that_is_started_again_begins_anew_and_nobody_is_counted_for_ever() {
    let stage = Stage::up().await;
    let mut client = stage.carried().await;
    let old = stage.slot();
    stage.keeper.abort();
    assert!(client.read_u8().await.is_err());
    stage.is_gone(&old).await;
    assert_eq!(stage.closed(CloseReason::Error), 1);
    tokio::spawn(Keeper::new(stage.hub.clone(), stage.drain.subscribe()).run(stage.stop.clone()));
    stage.has_another(&old).await;
    assert_ne!(stage.slot().id, old.id);
    assert_eq!(stage.hub.status.links().len(), 1);
    drop(stage.carried().await);
    stage.is_quiet().await;
}

#[tokio::test]
async fn an_edit_that_brings_the_right_token_revives_a_link_that_had_failed() {
    let stage = Stage::set().await;
    let mut settings = config::Upstream { name: "other".to_owned(), ..config::Upstream::clone(&stage.hub.current()) };
    settings.retry.attempts = Some(1);
    let token = |text: &str| Some(Arc::new(Token::new(text.as_bytes()).expect("long enough")));
    let around = Surroundings {
        status: &stage.hub.process,
        resolver: &Resolver::default(),
        workers: &[Handle::current()],
        drain: stage.drain.subscribe(),
    };
    let wrong = Files { tls: None, token: token("not what the gateway has") };
    let other = upstream::start(&Arc::new(settings), wrong, around);
    let links = |state: LinkState| other.status().metrics.links[state.index()].get();
    eventually("it has failed", || links(LinkState::Failed) == 1).await;
    other.take_files(Files { tls: None, token: token(TOKEN) });
    eventually("it is up", || links(LinkState::Up) == 1).await;
    other.remove();
}

/// Connections are accepted, and go on to `gateway` only when told.
async fn slow_way_to(gateway: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (go, gone) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut gone = gone.clone();
            tokio::spawn(async move {
                gone.wait_for(|go| *go).await.expect("told");
                let mut far = TcpStream::connect(gateway).await.expect("connected");
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, go)
}

fn address_of(stage: &Stage) -> SocketAddr {
    match stage.hub.current().endpoints[0].address {
        Address::Ip(address) => address,
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_endpoint_that_is_removed_takes_its_link_with_it_when_the_last_stream_ends() {
    let (stage, other) = (Stage::up().await, Stage::up().await);
    let mut client = stage.carried().await;
    let old = stage.slot();
    let new = address_of(&other);
    stage.change(|upstream| upstream.endpoints = vec![endpoint(new)]);
    stage.has_another(&old).await;
    assert_eq!(say(&mut client, b"still here").await, b"still here");
    drop(client);
    eventually("only the new one is left", || stage.hub.slots().iter().all(|slot| slot.id != old.id)).await;
    drop(stage.carried().await);
    stage.is_quiet().await;
}

#[tokio::test]
async fn an_endpoint_that_is_removed_while_it_is_dialled_carries_nobody() {
    let other = Stage::up().await;
    let (slow, go) = slow_way_to(address_of(&other)).await;
    let stage = Stage::set_with(|_| {}, |upstream| upstream.endpoints = vec![endpoint(slow)]).await;
    eventually("it is dialled", || go.receiver_count() > 1).await;
    let first = stage.slot();
    let new = address_of(&other);
    stage.change(|upstream| upstream.endpoints = vec![endpoint(new)]);
    tokio::time::sleep(Duration::from_millis(20)).await; // the link has heard of it
    go.send_replace(true);
    stage.has_another(&first).await;
    let at = |link: &Arc<crate::status::LinkStatus>| link.view().endpoint.clone();
    eventually("the link is at the new endpoint", || {
        stage.hub.status.links().iter().map(at).eq([Some(new.to_string())])
    })
    .await;
    drop(stage.carried().await);
}

#[tokio::test]
async fn edits_do_not_keep_a_connection_from_coming_of_age() {
    let stage = Stage::set_with(|_| {}, |upstream| upstream.pool.max_age = Some(Duration::from_millis(300))).await;
    stage.is_up().await;
    let mut client = stage.carried().await;
    let metrics = &stage.hub.status.metrics;
    let deadline = Instant::now() + PATIENCE;
    while metrics.losses[LossReason::Aged.index()].get() == 0 {
        assert!(Instant::now() < deadline, "it never moves");
        stage.change(|upstream| upstream.limits.waiting += 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(say(&mut client, b"moved").await, b"moved");
    assert_eq!(metrics.reconnects.get(), 0, "a planned move is none");
}

/// Whoever is told of a drill may measure at once what it does.
#[tokio::test]
async fn a_drill_is_told_once_its_link_goes_through_it() {
    let stage = Stage::up().await;
    let mut client = stage.carried().await;
    let late = Duration::from_millis(100);
    let begun = stage.hub.drill(Order { kind: Kind::Delay(late), time: 10 * PATIENCE }).expect("a link is up");
    let mut in_force = Box::pin(begun.in_force());
    let at_once = in_force.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(at_once.is_pending(), "told before its link could take note");
    in_force.await;
    let said = Instant::now();
    assert_eq!(say(&mut client, b"late").await, b"late");
    assert!(said.elapsed() >= 2 * late, "{:?}", said.elapsed());
}

#[tokio::test]
async fn dials_that_others_take_the_place_of_are_counted() {
    let hurried = |upstream: &mut config::Upstream| {
        let heartbeat = &mut upstream.heartbeat;
        (heartbeat.interval, heartbeat.timeout, heartbeat.misses) =
            (Duration::from_millis(200), Duration::from_millis(50), 2);
        upstream.retry.connect_timeout = 10 * PATIENCE;
    };
    let stage = Stage::set_with(|_| {}, hurried).await;
    stage.is_up().await;
    let mut client = stage.carried().await;
    stage.hub.drill(Order { kind: Kind::Blackhole, time: 10 * PATIENCE }).expect("a link is up");
    let timeouts = || stage.hub.status.metrics.dials[DialOutcome::Timeout.index()].get();
    eventually("it is counted", || timeouts() > 0).await;
    stage.hub.stop_drill().expect("it is on");
    assert_eq!(say(&mut client, b"healed").await, b"healed");
}

#[tokio::test]
async fn fault_05_the_end_of_an_only_gateway_is_told_as_planned_and_becomes_trouble_when_none_takes_its_place() {
    let stage = Stage::up().await;
    stage.gateway.drain();
    eventually("the upstream is down", || !stage.hub.is_up()).await;
    let outages = stage.hub.status.outages.load_full();
    // By what the gateway said itself, or what the next link has heard of it by then.
    let known = ["its gateway drains", "the gateway is busy or draining"];
    assert!(outages.iter().map(|outage| &*outage.reason).all(|reason| known.contains(&reason)), "{outages:?}");
    eventually("none takes its place", || !stage.hub.is_unwarned()).await;
    assert!(!stage.hub.is_up());
}
