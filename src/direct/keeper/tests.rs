use std::net::SocketAddr;
use std::task::{Context, Waker};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use super::*;
use crate::config::{Address, Balance, Beat, Heartbeat, InUse, Jitter, Limits, Retry};
use crate::link::drill;
use crate::link::resolve::Resolver;
use crate::listener::client::Socket;
use crate::metrics::{DialOutcome, Label, Metrics};
use crate::net::rehearsal::Kind;
use crate::status::Status;

const SECOND: Duration = Duration::from_secs(1);

fn settings(endpoint: SocketAddr) -> Arc<config::Upstream> {
    Arc::new(config::Upstream {
        name: "test".into(),
        listen: Vec::new(),
        endpoints: vec![Endpoint { name: "only".into(), address: Address::Ip(endpoint), priority: 1 }],
        balance: Balance::Priority,
        required: false,
        heartbeat: Heartbeat {
            interval: 5 * SECOND,
            timeout: 3 * SECOND,
            misses: 3,
            beat: Beat::Kernel,
            in_use: InUse::Off,
        },
        retry: Retry {
            initial: SECOND / 20,
            max: SECOND,
            multiplier: 2.0,
            jitter: Jitter::Off,
            attempts: None,
            stable_after: 10 * SECOND,
            connect_timeout: 5 * SECOND,
        },
        pool: config::Pool { size: 2, max_age: None },
        limits: Limits { connections: 100, wait: 5 * SECOND, waiting: 100, idle_timeout: None },
        tls: None,
        tunnel: None,
    })
}

/// An echo server, and a keeper of links to it that is driven by the test.
async fn kept() -> Keeper {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let settings = settings(listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    let process = Status::new(Metrics::new().expect("metrics"), 1);
    let pool = Pool::new(&settings, &process, &Resolver::default(), &[Handle::current()], None);
    Keeper::new(pool, watch::channel(SECOND).1)
}

/// The same with both its links up.
async fn standing() -> Keeper {
    let mut keeper = kept().await;
    keeper.fill();
    until("both up", || up(&keeper.pool) == 2).await;
    keeper
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + 30 * SECOND;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(SECOND / 200).await;
    }
}

fn ids(pool: &Pool) -> Vec<u64> {
    pool.status.links().iter().map(|link| link.id).collect()
}

fn up(pool: &Pool) -> usize {
    pool.status.links().iter().filter(|link| link.view().state == LinkState::Up).count()
}

/// A local client, as its listener would bring it.
async fn client(pool: &Arc<Pool>) -> TcpStream {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
    let (socket, _) = listener.accept().expect("accepted");
    socket.set_nonblocking(true).expect("set");
    pool.arrive(Socket::Tcp(socket), 0);
    client
}

async fn is_served(mut client: TcpStream) {
    client.write_all(b"hello").await.expect("sent");
    let mut answer = [0; 5];
    client.read_exact(&mut answer).await.expect("answered");
    assert_eq!(&answer, b"hello");
}

#[tokio::test]
async fn fault_61_a_link_whose_task_panics_is_replaced_under_backoff_and_the_others_stay() {
    let mut keeper = standing().await;
    let pool = keeper.pool.clone();
    let before = ids(&pool);

    // A link that offers itself, is given a client, and panics before it has noticed.
    let slot = pool.new_slot(0);
    let doomed = LinkTask::new(&pool, &slot, 0, None);
    let id = keeper.links.spawn(async move {
        let _doomed = doomed;
        panic!("on purpose");
    });
    keeper.slots.insert(id.id(), slot);
    let ended = keeper.links.join_next_with_id().await.expect("it ended");
    keeper.panicked(&ended.expect_err("it panicked"));
    assert!(before.iter().all(|link| ids(&pool).contains(link)), "the others stay");
    until("a third in its place", || up(&pool) == 3).await;
    assert_eq!(ids(&pool).len(), 3, "and the one that panicked is gone");
    assert_eq!(keeper.slots.len(), 3);
    assert!(pool.status.events().iter().any(|event| event.kind == "panicked"));

    // Each panic in a row doubles the wait. Under a clock of its own, so that none is over before it is seen.
    tokio::time::pause();
    for expected in [SECOND / 10, SECOND / 5, SECOND * 2 / 5] {
        let id = keeper.links.spawn(async { panic!("on purpose") }).id();
        keeper.slots.insert(id, pool.new_slot(0));
        let ended = keeper.links.join_next_with_id().await.expect("it ended");
        keeper.panicked(&ended.expect_err("it panicked"));
        let shown = || pool.status.metrics.retry_delay.get() / expected.as_secs_f64();
        until("it waits", || (0.6..=1.0).contains(&shown())).await;
    }
}

/// A link learns of its client a moment after it was given it, and of its end as late.
#[tokio::test]
async fn a_client_given_to_a_link_that_is_told_to_stop_at_that_moment_is_carried_by_it() {
    let keeper = standing().await;
    let pool = keeper.pool.clone();
    let client = client(&pool).await;
    pool.close();
    keeper.slots.values().for_each(|slot| slot.tell(order::STOP));
    is_served(client).await;
    let dials = pool.status.metrics.dials[DialOutcome::Ok.index()].get();
    assert_eq!(dials, 2, "by no connection of its own");
}

#[tokio::test]
async fn a_client_given_to_a_link_whose_task_dies_comes_to_another() {
    let keeper = kept().await;
    let pool = keeper.pool.clone();
    let slot = pool.new_slot(0);
    let dying = LinkTask::new(&pool, &slot, 0, None);
    assert!(pool.offer(&slot).is_none());
    let client = client(&pool).await;
    assert_eq!(pool.status.metrics.waiting.get(), 0, "it was given to the link");
    drop(dying);
    assert_eq!(pool.status.metrics.waiting.get(), 1, "and came again");
    assert!(ids(&pool).is_empty());
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(keeper.run(stop.clone()));
    is_served(client).await;
    stop.cancel();
    keeper.await.expect("in order");
}

#[tokio::test]
async fn a_keeper_that_dies_takes_its_links_along_and_the_next_one_starts_anew() {
    let keeper = standing().await;
    let pool = keeper.pool.clone();
    let drain = keeper.drain.clone();
    drop(keeper);
    until("all gone", || ids(&pool).is_empty()).await;
    let waiting = client(&pool).await;
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(Keeper::new(pool.clone(), drain).run(stop.clone()));
    is_served(waiting).await;
    until("both up again", || up(&pool) == 2).await;
    stop.cancel();
    keeper.await.expect("in order");
    assert!(pool.process.upstreams().is_empty());
}

#[tokio::test]
async fn a_scout_that_panics_is_followed_by_another() {
    let mut keeper = kept().await;
    let mut two = config::Upstream::clone(&keeper.pool.current());
    let ill = Endpoint { name: "ill".into(), address: Address::Unix("/nowhere".into()), priority: 1 };
    two.endpoints.push(ill.clone());
    keeper.pool.apply(&Arc::new(two));
    let retry = keeper.pool.current().retry.clone();
    let now = Instant::now();
    keeper.pool.endpoints().failed(&ill, &retry, now);
    assert_eq!(keeper.pool.endpoints().scout(now + SECOND), Some(ill.clone()));
    assert_eq!(keeper.pool.endpoints().next_scout(), None);

    let id = keeper.links.spawn(async { panic!("on purpose") }).id();
    keeper.scout = Some((id, ill));
    let ended = keeper.links.join_next_with_id().await.expect("it ended");
    keeper.panicked(&ended.expect_err("it panicked"));
    assert!(keeper.pool.endpoints().next_scout().is_some(), "another goes in its time");
    assert!(keeper.scout.is_none() && keeper.slots.is_empty(), "no link takes its place");
}

/// A dial that fails wakes the keeper before it counts as over; whoever looked only then would never look again.
#[tokio::test]
async fn while_a_client_waits_the_keeper_comes_again_whatever_is_under_way() {
    let mut keeper = kept().await;
    let now = Instant::now();
    assert_eq!(keeper.dial_for_clients(now), None, "nobody waits");
    // There is no link at all, and so none to be told.
    let _client = client(&keeper.pool).await;
    let again = keeper.dial_for_clients(now).expect("a time");
    assert!(again > now && again <= now + 2 * SECOND);
    assert_eq!(keeper.dial_for_clients(now), Some(again), "not before");
    assert!(keeper.dial_for_clients(again).expect("a time") > again);
}

/// Whoever is told of a drill may measure at once what it does.
#[tokio::test]
async fn a_drill_is_told_once_the_link_and_what_it_carries_go_through_it() {
    let late = SECOND / 10;
    let keeper = kept().await;
    let (pool, stop) = (keeper.pool.clone(), CancellationToken::new());
    let runs = tokio::spawn(keeper.run(stop.clone()));
    until("both up", || up(&pool) == 2).await;
    let mut clients = [client(&pool).await, client(&pool).await];
    until("both carried", || pool.in_use.open() == 2).await;
    until("both up again", || up(&pool) == 2).await;
    let begun = pool.drill(drill::Order { kind: Kind::Delay(late), time: 100 * SECOND }).expect("a link is up");
    assert!(begun.told.contains("the connection in use that it handed out"), "{}", begun.told);
    let mut in_force = Box::pin(begun.in_force());
    let at_once = in_force.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(at_once.is_pending(), "told before anybody could take note");
    in_force.await;
    let mut longest = Duration::ZERO;
    for client in &mut clients {
        let said = Instant::now();
        client.write_all(b"hello").await.expect("sent");
        client.read_exact(&mut [0; 5]).await.expect("answered");
        longest = longest.max(said.elapsed());
    }
    assert!(longest >= 2 * late, "{longest:?}");
    stop.cancel();
    runs.await.expect("it ends");
}
