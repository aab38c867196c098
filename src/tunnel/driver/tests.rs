//! Two drivers over real sockets.

mod long_path;

use std::net::SocketAddr;
use std::sync::Mutex;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::metrics::LossReason;
use crate::net::transport::Transport;
use crate::net::wire::Wire;
use crate::session::{Opening, RefusalCode, Violation};

const MS: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Seen {
    closed: Mutex<Vec<CloseReason>>,
}

impl Observer for Seen {
    fn moved(&self, _: u64, _: u64) {}
    fn closed(&self, reason: CloseReason) {
        self.closed.lock().unwrap().push(reason);
    }
    fn beat_sent(&self) {}
    fn beat_missed(&self) {}
    fn beat_answered(&self, _: Duration) {}
    fn received(&self) {}
    fn violation(&self, violation: Violation) {
        panic!("{violation}");
    }
}

fn settings() -> Settings {
    Settings {
        beats: Beats { interval: 500 * MS, timeout: 300 * MS, misses: 3 },
        idle_timeout: None,
        buffer: 16 << 20,
        peer_buffer: 16 << 20,
        windows: 64 << 20,
        streams: 1024,
        budget: None,
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

enum Ask {
    Open(TcpStream),
    /// Both ends get a new connection.
    Cut,
}

/// A whole road: `ask` opens streams at the near end, the far end dials `service`.
struct Road {
    ask: mpsc::UnboundedSender<Ask>,
    near: Arc<Seen>,
    far: Arc<Seen>,
    task: tokio::task::JoinHandle<(usize, usize)>,
}

impl Road {
    async fn to(service: SocketAddr) -> Self {
        let (ask, mut asked) = mpsc::unbounded_channel();
        let (near_seen, far_seen) = (Arc::<Seen>::default(), Arc::<Seen>::default());
        let (seen, seen_far) = (near_seen.clone(), far_seen.clone());
        let task = tokio::spawn(async move {
            let mut near = Driver::near(settings(), seen);
            let mut far = Driver::far(settings(), seen_far);
            let (a, b) = pair().await;
            near.attach(Wire::plain(a), 0, Vec::new(), MS).unwrap();
            far.attach(Wire::plain(b), 0, Vec::new(), MS).unwrap();
            let mut dials = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    asked = asked.recv() => match asked {
                        None => return (near.streams(), far.streams()),
                        Some(Ask::Open(client)) => {
                            let local = Local { transport: Transport::Tcp(client), guard: Box::new(()) };
                            assert!(near.open(Opening::to("echo"), local).is_ok());
                        }
                        Some(Ask::Cut) => {
                            let (told_far, told_near) = (near.freeze(), far.freeze());
                            far.drop_wire();
                            let (a, b) = pair().await;
                            far.attach(Wire::plain(b), told_far, Vec::new(), MS).unwrap();
                            near.attach(Wire::plain(a), told_near, Vec::new(), MS).unwrap();
                        }
                    },
                    event = near.next() => panic!("near: {event:?}"),
                    event = far.next() => match event {
                        Event::Open { stream, opening } => {
                            assert_eq!(opening.service, "echo");
                            dials.spawn(async move { (stream, TcpStream::connect(service).await) });
                        }
                        other => panic!("far: {other:?}"),
                    },
                    Some(Ok((stream, dialled))) = dials.join_next(), if !dials.is_empty() => match dialled {
                        Ok(service) => {
                            far.accept(stream, Local { transport: Transport::Tcp(service), guard: Box::new(()) });
                        }
                        Err(_) => far.refuse(stream, RefusalCode::Unreachable),
                    },
                }
            }
        });
        Self { ask, near: near_seen, far: far_seen, task }
    }

    async fn open(&self) -> TcpStream {
        let (client, ours) = pair().await;
        self.ask.send(Ask::Open(ours)).ok().unwrap();
        client
    }

    /// Ends the road; nothing may be left.
    async fn end(self) {
        drop(self.ask);
        assert_eq!(self.task.await.unwrap(), (0, 0), "streams are left");
    }
}

/// A server that sends back what it reads, and ends when the client does.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| ((at * 31 + seed * 7 + at / 251) % 256) as u8).collect()
}

async fn exchange(client: TcpStream, bytes: Vec<u8>) {
    let (mut read, mut write) = client.into_split();
    let sent = bytes.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    read.read_to_end(&mut got).await.unwrap();
    writer.await.unwrap();
    assert!(got == bytes, "{} bytes came back for {}", got.len(), bytes.len());
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !is() {
            tokio::time::sleep(5 * MS).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

#[tokio::test]
async fn bytes_and_ends_cross_both_ways_whole() {
    let road = Road::to(echo().await).await;
    let clients = (0..20).map(|n| (n, n * 37_000)).collect::<Vec<_>>();
    let mut tasks = tokio::task::JoinSet::new();
    for (seed, length) in clients {
        let client = road.open().await;
        tasks.spawn(exchange(client, pattern(length, seed)));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let (near, far) = (road.near.clone(), road.far.clone());
    until("every stream is over", || near.closed.lock().unwrap().len() == 20 && far.closed.lock().unwrap().len() == 20)
        .await;
    assert!(near.closed.lock().unwrap().iter().all(|reason| *reason == CloseReason::Finished));
    road.end().await;
}

#[tokio::test]
async fn fault_07_connections_that_come_and_go_lose_not_a_byte() {
    let road = Road::to(echo().await).await;
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..8 {
        let client = road.open().await;
        tasks.spawn(exchange(client, pattern(3_000_000, seed)));
    }
    let mut cuts = 0;
    while !tasks.is_empty() {
        tokio::select! {
            done = tasks.join_next() => done.unwrap().unwrap(),
            () = tokio::time::sleep(7 * MS) => {
                cuts += 1;
                road.ask.send(Ask::Cut).ok().unwrap();
            }
        }
    }
    assert!(cuts > 2, "{cuts}");
    let far = road.far.clone();
    until("every stream is over", || far.closed.lock().unwrap().len() == 8).await;
    road.end().await;
}

#[tokio::test]
async fn a_service_that_cannot_be_had_is_a_reset() {
    let road = Road::to(crate::port::nobody()).await;
    let mut client = road.open().await;
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(*road.near.closed.lock().unwrap(), [CloseReason::Refused]);
    road.end().await;
}

#[tokio::test]
async fn fault_33_a_reset_at_one_end_is_a_reset_at_the_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let road = Road::to(listener.local_addr().unwrap()).await;
    let mut client = road.open().await;
    client.write_all(b"hello").await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    let mut got = [0; 5];
    service.read_exact(&mut got).await.unwrap();
    crate::net::socket::reset_on_close(&service).unwrap();
    drop(service);
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    road.end().await;
}

#[tokio::test]
async fn fault_29_a_reader_that_stalls_holds_up_nobody_else() {
    let road = Road::to(echo().await).await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut client = road.open().await;
        let (bytes, mut written) = (pattern(65_536, 3), 0);
        // Until the road takes no more: nobody reads what comes back.
        while let Ok(Ok(count)) = tokio::time::timeout(200 * MS, client.write(&bytes)).await {
            written += count;
        }
        assert!(written > 0);
        stalled.push(client);
    }
    let client = road.open().await;
    tokio::time::timeout(Duration::from_secs(20), exchange(client, pattern(500_000, 9))).await.unwrap();
    drop(stalled);
    let (near, far) = (road.near.clone(), road.far.clone());
    until("all are over", || near.closed.lock().unwrap().len() == 5 && far.closed.lock().unwrap().len() == 5).await;
    road.end().await;
}

/// Whose host is gone: nothing is heard from it any more, not even an acknowledgement.
#[tokio::test]
async fn fault_34_a_client_who_vanishes_with_bytes_on_their_way_is_found_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let road = Road::to(listener.local_addr().unwrap()).await;
    let mut client = road.open().await;
    client.write_all(b"hello").await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    service.read_exact(&mut [0; 5]).await.unwrap();
    let drop_all = socket2::SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
    SockRef::from(&client).attach_filter(&[drop_all]).unwrap();
    service.write_all(b"are you there?").await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(20), service.read(&mut [0; 8])).await.expect("it is told");
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(*road.near.closed.lock().unwrap(), [CloseReason::ClientReset]);
    road.end().await;
}

#[tokio::test]
async fn fault_33_a_reset_is_passed_on_though_the_service_reads_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let road = Road::to(listener.local_addr().unwrap()).await;
    let mut client = road.open().await;
    let bytes = pattern(65_536, 3);
    while let Ok(Ok(_)) = tokio::time::timeout(200 * MS, client.write(&bytes)).await {}
    let (service, _) = listener.accept().await.unwrap();
    crate::net::socket::reset_on_close(&client).unwrap();
    drop(client);
    let (near, far) = (road.near.clone(), road.far.clone());
    until("both ends know", || near.closed.lock().unwrap().len() == 1 && far.closed.lock().unwrap().len() == 1).await;
    drop(service);
    road.end().await;
}

/// A near end whose peer never reads, and a client who goes on talking a little. Returns when it was given up.
async fn given_up(mut near: Driver, mut client: TcpStream) -> Duration {
    let talk = tokio::spawn(async move {
        while client.write_all(b"anybody there?").await.is_ok() {
            tokio::time::sleep(20 * MS).await;
        }
    });
    let began = Instant::now();
    let given_up = async {
        loop {
            match near.next().await {
                Event::Lost { reason, .. } => {
                    assert_eq!(reason, LossReason::Heartbeat);
                    return began.elapsed();
                }
                Event::Suspect | Event::Recovered => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let took = tokio::time::timeout(Duration::from_secs(20), given_up).await.expect("it is given up");
    talk.abort();
    took
}

async fn talking() -> (Driver, TcpStream, TcpStream) {
    let mut near = Driver::near(settings(), Arc::<Seen>::default());
    let (a, peer) = pair().await;
    near.attach(Wire::plain(a), 0, Vec::new(), MS).unwrap();
    let (client, local) = pair().await;
    let local = Local { transport: Transport::Tcp(local), guard: Box::new(()) };
    assert!(near.open(Opening::to("echo"), local).is_ok());
    (near, client, peer)
}

/// Its kernel acknowledges all the while, and there is always something more to be acknowledged.
#[tokio::test]
async fn fault_13_a_peer_that_hangs_is_given_up_within_the_budget_however_clients_talk_on() {
    let (near, client, _peer) = talking().await;
    let took = given_up(near, client).await;
    assert!(took < settings().beats.budget() + 5000 * MS, "{took:?}");
}

/// A claim that nobody answers must not keep a dead connection.
#[tokio::test]
async fn fault_13_a_peer_that_hangs_is_given_up_while_a_claim_is_under_way() {
    let (mut near, client, _peer) = talking().await;
    near.freeze();
    let took = given_up(near, client).await;
    assert!(took < settings().beats.budget() + 5000 * MS, "{took:?}");
}

/// What comes meanwhile waits in the kernel: it is a sign of life, though nobody reads it.
#[tokio::test]
async fn a_connection_that_is_not_read_is_not_given_up_while_bytes_come() {
    let (mut near, client, mut peer) = talking().await;
    near.freeze();
    let peer = tokio::spawn(async move {
        for _ in 0..30 {
            peer.write_all(b"x").await.unwrap();
            tokio::time::sleep(100 * MS).await;
        }
        peer
    });
    let took = given_up(near, client).await;
    assert!(took > 3000 * MS, "{took:?}, and bytes came for three seconds");
    drop(peer);
}

/// A gateway that grants a claim closes the old connection, and its answer comes a moment later: no loss, unless the claim
/// comes to nothing.
#[tokio::test]
async fn a_reset_while_a_claim_is_under_way_is_a_loss_only_if_the_claim_fails() {
    for granted in [true, false] {
        let (mut near, mut client, peer) = talking().await;
        let received = near.freeze();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        client.write_all(b"into the void").await.unwrap();
        let quiet = tokio::time::timeout(400 * MS, near.next()).await;
        assert!(quiet.is_err() && near.has_wire(), "{quiet:?}");
        if granted {
            let (a, mut peer) = pair().await;
            near.attach(Wire::plain(a), received, Vec::new(), MS).unwrap();
            let mut bytes = vec![0; 256];
            let count = tokio::select! {
                count = peer.read(&mut bytes) => count.unwrap(),
                event = near.next() => panic!("{event:?}"),
            };
            assert!(count > 0, "what was said is said again");
        } else {
            near.thaw();
            assert!(matches!(near.next().await, Event::Lost { reason: LossReason::Reset, .. }));
        }
    }
}
