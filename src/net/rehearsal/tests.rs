//! With sockets of the kernel's, and real time: what it buffers and drops is what this is about.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::net::transport::Transport;

const LONG: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(30);

async fn pair() -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (Transport::Tcp(dialled), far)
}

/// Bytes that tell their places.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n / 7 + n * 31) as u8).collect()
}

async fn reads_nothing(stream: &mut (impl AsyncRead + Unpin)) {
    let read = timeout(Duration::from_millis(50), stream.read(&mut [0; 16])).await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn a_black_hole_holds_every_byte_and_loses_none() {
    let (near, mut far) = pair().await;
    far.write_all(b"already here").await.unwrap();
    let hole = Rehearsal::new(Kind::Blackhole, LONG);
    let mut near = near.rehearsed(&hole);
    far.write_all(&bytes(10_000)).await.unwrap();
    near.write_all(&bytes(20_000)).await.unwrap();
    reads_nothing(&mut near).await;
    reads_nothing(&mut far).await;
    // What the kernel's buffer takes is taken, and no more.
    let most = timeout(Duration::from_millis(50), near.write_all(&vec![0; 1 << 20])).await;
    assert!(most.is_err());
    // The kernel lets the peer wait for its acknowledgement, too.
    let info = kernel::tcp_info(far.as_raw_fd()).unwrap();
    assert!(info.unacked > 0, "{info:?}");
    hole.end();
    let (mut there, mut back) = (vec![0; 64 << 10], vec![0; 10_012]);
    let healed = async { tokio::join!(far.read_exact(&mut there), near.read_exact(&mut back)) };
    let (sent, received) = timeout(PATIENCE, healed).await.unwrap();
    sent.unwrap();
    received.unwrap();
    assert_eq!((&back[..12], &back[12..]), (&b"already here"[..], &bytes(10_000)[..]));
    assert!(there[..20_000] == bytes(20_000) && there[20_000..].iter().all(|byte| *byte == 0));
    near.flush().await.unwrap();
    let Transport::Tcp(mut near) = near.settled() else { panic!("it left a trace") };
    near.write_all(b"as any other").await.unwrap();
    far.read_exact(&mut there[..12]).await.unwrap();
    assert_eq!(&there[..12], b"as any other");
}

#[tokio::test]
async fn it_is_in_force_when_nobody_is_left_who_does_not_know() {
    let hole = Rehearsal::new(Kind::Blackhole, LONG);
    let at_once = || timeout(Duration::ZERO, hole.in_force());
    at_once().await.expect("nobody is to know");
    let (one, other) = (hole.on_its_way(), hole.on_its_way());
    assert!(at_once().await.is_err());
    assert!(Arc::ptr_eq(one.rehearsal(), &hole));
    drop(one);
    assert!(at_once().await.is_err());
    let (known, ()) = tokio::join!(timeout(PATIENCE, hole.in_force()), async { drop(other) });
    known.expect("woken");
    at_once().await.expect("all know");
}

#[tokio::test]
async fn it_ends_by_itself() {
    let (near, mut far) = pair().await;
    let mut near = near.rehearsed(&Rehearsal::new(Kind::Blackhole, Duration::from_millis(300)));
    let begun = Instant::now();
    near.write_all(b"x").await.unwrap();
    let mut byte = [0; 1];
    // The read keeps the task awake, as that of any owner does.
    let echo = async {
        far.read_exact(&mut byte).await.unwrap();
        far.write_all(b"y").await.unwrap();
    };
    let mut back = [0; 1];
    let (read, ()) = timeout(PATIENCE, async { tokio::join!(near.read_exact(&mut back), echo) }).await.unwrap();
    read.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!((byte, back), (*b"x", *b"y"));
}

#[tokio::test]
async fn a_connection_given_up_in_the_dark_tells_its_peer_nothing_until_the_end() {
    let (near, mut far) = pair().await;
    let hole = Rehearsal::new(Kind::Blackhole, LONG);
    let near = near.rehearsed(&hole);
    near.reset_on_close().unwrap();
    drop(near);
    reads_nothing(&mut far).await;
    hole.end();
    let read = timeout(PATIENCE, far.read(&mut [0; 16])).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// Without beats a link is proven by keepalive alone, which the kernel answers whatever a program does.
#[tokio::test]
async fn the_kernels_own_keepalive_finds_the_hole() {
    let (near, mut far) = pair().await;
    let keepalive =
        super::super::socket::Keepalive { idle: Duration::from_secs(1), spacing: Duration::from_secs(1), count: 1 };
    super::super::socket::apply_keepalive(&near, &keepalive).unwrap();
    let mut near = near.rehearsed(&Rehearsal::new(Kind::Blackhole, LONG));
    let read = timeout(PATIENCE, near.read(&mut [0; 16])).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    // A kernel that gives up sends a reset, which in an outage nobody would hear.
    assert_eq!(far.read(&mut [0; 16]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_delay_makes_every_byte_so_much_later_and_keeps_them_in_order() {
    const BY: Duration = Duration::from_millis(150);
    let (near, mut far) = pair().await;
    let mut near = near.rehearsed(&Rehearsal::new(Kind::Delay(BY), LONG));
    let begun = Instant::now();
    // Both ways, many pieces.
    let mut answer = vec![0; 3_000];
    for piece in bytes(3_000).chunks(100) {
        near.write_all(piece).await.unwrap();
    }
    let echo = async {
        let mut asked = vec![0; 3_000];
        far.read_exact(&mut asked).await.unwrap();
        assert!(begun.elapsed() >= BY, "{:?}", begun.elapsed());
        assert!(asked == bytes(3_000));
        far.write_all(&asked).await.unwrap();
    };
    let (read, ()) = timeout(PATIENCE, async { tokio::join!(near.read_exact(&mut answer), echo) }).await.unwrap();
    read.unwrap();
    assert!(begun.elapsed() >= 2 * BY, "{:?}", begun.elapsed());
    assert!(answer == bytes(3_000));
    // Ends are late as well, and come after the bytes.
    let begun = Instant::now();
    near.write_all(b"last").await.unwrap();
    let ends = async { (near.shutdown().await, near.read(&mut [0; 16]).await) };
    let echo = async {
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert!(rest == b"last" && begun.elapsed() >= BY, "{:?}", begun.elapsed());
        drop(far);
    };
    let ((shut, read), ()) = timeout(PATIENCE, async { tokio::join!(ends, echo) }).await.unwrap();
    assert_eq!((shut.unwrap(), read.unwrap()), ((), 0));
    assert!(begun.elapsed() >= 2 * BY, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_delay_keeps_bounded_bytes_on_their_way() {
    let (near, mut far) = pair().await;
    let delay = Rehearsal::new(Kind::Delay(Duration::from_secs(10)), LONG);
    let mut near = near.rehearsed(&delay);
    let all = bytes(32 << 20);
    let flood = timeout(Duration::from_millis(300), near.write_all(&all));
    assert!(flood.await.is_err(), "32 MiB fit on the way");
    let Transport::Rehearsed(inside) = &near else { panic!("it is not rehearsed") };
    assert!(format!("{inside:?}").contains("over: false"));
    // What was taken comes, in order, when it is over.
    delay.end();
    drop(all);
    let mut taken = Vec::new();
    let reads = async { far.read_to_end(&mut taken).await };
    let ends = async { near.shutdown().await };
    let (read, shut) = timeout(PATIENCE, async { tokio::join!(reads, ends) }).await.unwrap();
    read.unwrap();
    shut.unwrap();
    assert_eq!(taken.len(), 4 << 20);
    assert!(taken == bytes(4 << 20));
}

/// Whoever reads and writes at once, in pieces of any size, while a drill comes and goes: the same bytes.
#[tokio::test]
async fn bytes_that_a_drill_meets_in_mid_transfer_come_once_and_in_order() {
    for kind in [Kind::Blackhole, Kind::Delay(Duration::from_millis(30))] {
        let (mut near, mut far) = pair().await;
        let all = bytes(8 << 20);
        let (mut read, mut write) = far.split();
        let mut got = Vec::new();
        let echo = async { tokio::io::copy(&mut read, &mut write).await };
        let mut sent = 0;
        let mut rehearsed = None;
        let mut buffer = vec![0; 64 << 10];
        let mine = async {
            while got.len() < all.len() {
                if sent > 1 << 20 && rehearsed.is_none() {
                    let rehearsal = Rehearsal::new(kind, Duration::from_millis(200));
                    near = near.rehearsed(&rehearsal);
                    rehearsed = Some(rehearsal);
                }
                std::future::poll_fn(|context| {
                    near.drive(context);
                    let mut moved = false;
                    let piece = &all[sent..(sent + 10_007).min(all.len())];
                    if !piece.is_empty()
                        && let std::task::Poll::Ready(count) = std::pin::Pin::new(&mut near).poll_write(context, piece)
                    {
                        sent += count.unwrap();
                        moved = true;
                    }
                    let mut buffer = tokio::io::ReadBuf::new(&mut buffer);
                    if std::pin::Pin::new(&mut near).poll_read(context, &mut buffer).is_ready() {
                        assert!(!buffer.filled().is_empty());
                        got.extend_from_slice(buffer.filled());
                        moved = true;
                    }
                    if moved { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
                })
                .await;
            }
            near.shutdown().await.unwrap();
        };
        let ((), copied) = timeout(PATIENCE, async { tokio::join!(mine, echo) }).await.unwrap();
        copied.unwrap();
        assert!(got == all, "{kind:?}");
        assert!(rehearsed.is_some(), "nothing was rehearsed");
    }
}
