//! Clients who come, wait, are refused, and go.

use super::*;
use crate::listener::Arrivals;
use crate::tunnel::forward::Forward;

#[tokio::test]
async fn a_client_is_carried_and_counted_until_it_is_gone() {
    let stage = Stage::up().await;
    let client = stage.carried().await;
    assert_eq!((stage.hub.present.count(), stage.hub.streams()), (1, 1));
    assert_eq!(stage.hub.status.metrics.connections.get(), 1);
    drop(client);
    stage.is_quiet().await;
    assert_eq!(stage.closed(CloseReason::Finished), 1);
}

#[tokio::test]
async fn one_more_than_the_session_takes_is_refused_and_not_passed_around() {
    let stage = Stage::set_with(|gateway| gateway.limits.streams = 1, |_| {}).await;
    stage.is_up().await;
    let first = stage.carried().await;
    ends(&mut stage.client().await).await;
    assert_eq!((stage.refused(RefuseReason::Limit), stage.hub.streams(), stage.hub.present.count()), (1, 1, 1));
    drop(first);
    stage.is_quiet().await;
    drop(stage.carried().await);
    stage.is_quiet().await;
}

#[tokio::test]
async fn who_comes_before_the_link_waits_for_it() {
    let stage = Stage::set().await;
    let mut early = stage.client().await;
    assert_eq!(say(&mut early, b"early").await, b"early");
    drop(early);
    stage.is_quiet().await;
}

#[tokio::test]
async fn who_comes_again_stands_where_it_stood_and_is_refused_in_time() {
    let wait = Duration::from_millis(300);
    let nowhere = |upstream: &mut config::Upstream| {
        upstream.endpoints = Vec::new();
        upstream.limits.wait = wait;
    };
    let stage = Stage::set_with(|_| {}, nowhere).await;
    let mut first = stage.client().await;
    let slot = Slot::new(99, 0);
    stage.hub.opened(&slot);
    let mut second = stage.client().await;
    eventually("the second waits", || stage.hub.status.metrics.waiting.get() == 1).await;
    for client in slot.close() {
        stage.hub.enter(client);
    }
    assert_eq!(stage.hub.status.metrics.waiting.get(), 2);
    let now = Instant::now();
    assert!(stage.hub.expire(now).is_none_or(|at| at <= now + wait), "the first one's time is looked at first");
    ends(&mut first).await;
    ends(&mut second).await;
    assert_eq!(stage.refused(RefuseReason::LinkDown), 2);
    stage.is_quiet().await;
}

#[tokio::test]
async fn fault_05_nobodys_wait_runs_while_the_only_gateway_drains() {
    let wait = Duration::from_millis(300);
    let stage = Stage::set_with(|_| {}, |upstream| upstream.limits.wait = wait).await;
    stage.is_up().await;
    let first = stage.carried().await;
    let old = stage.slot();
    stage.gateway.drain();
    eventually("it is told", || old.leaving.load(Ordering::Acquire)).await;
    let mut second = stage.client().await;
    eventually("the second waits", || stage.hub.status.metrics.waiting.get() == 1).await;
    assert_eq!(stage.hub.expire(Instant::now() + PATIENCE), None);
    assert_eq!(stage.refused(RefuseReason::LinkDown), 0);
    drop(first);
    let over = Instant::now();
    ends(&mut second).await;
    assert!(over.elapsed() >= wait, "it had its time");
    assert_eq!(stage.refused(RefuseReason::LinkDown), 1);
}

#[tokio::test]
async fn a_link_that_is_over_gives_a_client_back() {
    let stage = Stage::up().await;
    let slot = Slot::new(99, 0);
    slot.open.store(true, Ordering::Release);
    assert!(slot.close().is_empty());
    assert!(!slot.is_open());
    let (mut client, arrived) = arrival().await;
    stage.slot().leaving.store(true, Ordering::Release);
    stage.hub.arrive(arrived, "echo".into(), 0);
    eventually("it waits", || stage.hub.status.metrics.waiting.get() == 1).await;
    stage.hub.opened(&slot);
    assert_eq!(stage.hub.status.metrics.waiting.get(), 1, "it came back and waits on");
    stage.stop.cancel();
    ends(&mut client).await;
    assert_eq!(stage.hub.present.count(), 0);
}

/// A forward that trusts the loopback's proxies, and a client at it.
async fn at_the_door(stage: &Stage) -> TcpStream {
    let networks = vec!["127.0.0.0/8".parse().expect("a network")];
    let forward = config::Forward { listen: Vec::new(), service: "echo".into(), accept_proxy_protocol: networks };
    let (client, arrived) = arrival().await;
    Forward::new(&stage.hub, &forward).arrive(arrived, 0);
    client
}

#[tokio::test]
async fn a_proxys_header_is_taken_off_in_whatever_pieces_it_comes() {
    let stage = Stage::up().await;
    let mut client = at_the_door(&stage).await;
    client.write_all(b"PROXY TCP4 192.0.2.1 ").await.expect("sent");
    eventually("it has its place", || stage.hub.present.count() == 1).await;
    client.write_all(b"192.0.2.2 4000 80\r\nfirst").await.expect("sent");
    let mut answer = [0; 5];
    client.read_exact(&mut answer).await.expect("answered");
    assert_eq!(&answer, b"first");
    drop(client);
    stage.is_quiet().await;
}

#[tokio::test]
async fn who_says_nothing_at_a_proxys_door_holds_a_place_and_no_more_than_there_are() {
    let stage = Stage::set_with(|_| {}, |upstream| upstream.limits.connections = 2).await;
    let silent = [at_the_door(&stage).await, at_the_door(&stage).await];
    eventually("they are counted", || stage.hub.present.count() == 2).await;
    ends(&mut at_the_door(&stage).await).await;
    assert_eq!(stage.refused(RefuseReason::Limit), 1);
    drop(silent);
    stage.is_quiet().await;
    let mut wrong = at_the_door(&stage).await;
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    assert!(!matches!(wrong.read(&mut [0; 1]).await, Ok(1..)));
    stage.is_quiet().await;
    assert_eq!(stage.refused(RefuseReason::Limit), 4);
}
