use std::future::poll_fn;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UnixStream};
use tokio::time::timeout;

use super::*;
use crate::config::{self, Address};
use crate::net::tls::ClientTls;
use crate::net::tls::authority::Authority;
use crate::net::tls::server::ServerTls;

const HANG: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

/// Certificates for both ends.
struct Place {
    gateway: ServerTls,
    dialer: ClientTls,
    _authority: Authority,
}

impl Place {
    fn new() -> Self {
        let authority = Authority::new("ca");
        let pair = authority.issue(&["gateway.internal"]);
        let gateway = ServerTls::new(&config::ServerTls {
            cert_file: authority.put("server.pem", &pair.cert),
            key_file: authority.put("server.key", &pair.key),
            client_ca_file: Some(authority.put("clients.pem", &authority.pem)),
        })
        .unwrap();
        let dialer = ClientTls::for_tunnel(&authority.settings(Some(&authority.issue(&["sidecar"])))).unwrap();
        Self { gateway, dialer, _authority: authority }
    }

    /// The dialer's end and the gateway's.
    async fn tls(&self) -> (Wire, Wire) {
        let (near, far) = sockets().await;
        let name = self.dialer.server_name(&Address::Host { host: "gateway.internal".to_owned(), port: 1 }).unwrap();
        let (near, far) = tokio::join!(self.dialer.handshake(name, near), self.gateway.accept(far));
        (Wire::from_transport(Transport::Tls(Box::new(near.unwrap()))).unwrap(), far.unwrap())
    }
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

async fn plain() -> (Wire, Wire) {
    let (near, far) = sockets().await;
    (Wire::from_transport(Transport::Tcp(near)).unwrap(), Wire::plain(far))
}

/// Bytes of which no two places look alike.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

/// One end of an exchange: what it has sent and received so far.
struct End {
    send: Vec<u8>,
    sent: usize,
    expect: Vec<u8>,
    received: usize,
    buffer: Vec<u8>,
    random: fastrand::Rng,
    /// How large its reads and writes are; each is one of these.
    sizes: Vec<usize>,
    key_updates: bool,
}

impl End {
    fn new(seed: u64, send: &[u8], expect: &[u8], sizes: &[usize]) -> Self {
        let (send, expect, sizes) = (send.to_vec(), expect.to_vec(), sizes.to_vec());
        let random = fastrand::Rng::with_seed(seed);
        Self { send, sent: 0, expect, received: 0, buffer: vec![0; MIB], random, sizes, key_updates: false }
    }

    /// Writes and reads what can be, until `enough` says so or both directions are done.
    async fn run(&mut self, wire: &mut Wire, enough: impl Fn(&Self) -> bool) {
        let mut done = false;
        while !done && !enough(self) {
            let size = self.sizes[self.random.usize(..self.sizes.len())];
            done = poll_fn(|context| self.step(wire, context, size)).await;
            if self.key_updates && self.random.u8(..) == 0 {
                wire.tls.as_mut().unwrap().refresh_traffic_keys().unwrap();
            }
            if self.random.bool() {
                tokio::task::yield_now().await;
            }
        }
    }

    fn step(&mut self, wire: &mut Wire, context: &mut Context<'_>, size: usize) -> Poll<bool> {
        let mut moved = false;
        let next = &self.send[self.sent..];
        if !next.is_empty() {
            let (one, two) = next[..size.min(next.len())].split_at(size.min(next.len()) / 3);
            let written = match self.random.bool() {
                true => wire.poll_write(context, one),
                false => wire.poll_write_vectored(context, &[IoSlice::new(one), IoSlice::new(two)]),
            };
            if let Poll::Ready(written) = written {
                self.sent += written.unwrap();
                moved = true;
            }
        }
        let flushed = wire.poll_flush(context).map(Result::unwrap).is_ready();
        if self.received < self.expect.len()
            && let Poll::Ready(length) = wire.poll_read(context, &mut self.buffer[..size])
        {
            let length = length.unwrap();
            assert!(length > 0, "no end before the end, at {}", self.received);
            assert!(self.expect[self.received..].starts_with(&self.buffer[..length]), "at {}", self.received);
            self.received += length;
            moved = true;
        }
        let done = flushed && self.sent == self.send.len() && self.received == self.expect.len();
        if done || moved { Poll::Ready(done) } else { Poll::Pending }
    }
}

const LARGE: &[usize] = &[256 << 10];
const MIXED: &[usize] = &[1, 5, 1000, 4096, 16 << 10, 65_535, 64 << 10, 256 << 10];

async fn exchange((mut near, mut far): (Wire, Wire), ends: (&[usize], &[usize]), key_updates: bool) {
    let (up, down) = (bytes(1, 5 * MIB), bytes(2, 3 * MIB + 17));
    let (mut one, mut two) = (End::new(3, &up, &down, ends.0), End::new(4, &down, &up, ends.1));
    (one.key_updates, two.key_updates) = (key_updates, key_updates);
    let both = async { tokio::join!(one.run(&mut near, |_| false), two.run(&mut far, |_| false)) };
    timeout(HANG, both).await.expect("nobody hangs");
}

#[tokio::test]
async fn bytes_go_both_ways_whole_whatever_the_sizes() {
    let place = Place::new();
    for ends in [(LARGE, LARGE), (LARGE, MIXED), (MIXED, MIXED)] {
        exchange(plain().await, ends, false).await;
        exchange(place.tls().await, ends, false).await;
    }
}

#[tokio::test]
async fn new_keys_on_the_way_disturb_nothing() {
    exchange(Place::new().tls().await, (MIXED, MIXED), true).await;
}

/// Small socket buffers, so that a reader that does not read is soon felt.
fn narrow(wire: &Wire) {
    let socket = socket2::SockRef::from(wire.tcp());
    socket.set_send_buffer_size(16 << 10).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_and_no_more_than_64_kib_wait_encrypted() {
    let place = Place::new();
    for (mut near, mut far) in [plain().await, place.tls().await] {
        narrow(&near);
        narrow(&far);
        let all = bytes(5, 4 * MIB);
        let mut writer = End::new(6, &all, &[], LARGE);
        // Until nothing goes: the reader has not begun.
        let stuck = async {
            loop {
                let done = poll_fn(|context| Poll::Ready(writer.step(&mut near, context, 256 << 10))).await;
                match done {
                    Poll::Ready(_) => {}
                    // What the kernel moves across loopback it moves at once.
                    Poll::Pending => break,
                }
            }
        };
        timeout(HANG, stuck).await.expect("it ends");
        assert!(writer.sent < 2 * MIB, "{}", writer.sent);
        if let Some(tls) = &mut near.tls {
            let waiting = tls.process_new_packets().unwrap().tls_bytes_to_write();
            assert!(waiting > 0 && waiting <= AHEAD + 1024, "{waiting}");
        }
        let mut reader = End::new(7, &[], &all, &[1000, 30_000]);
        let both = async { tokio::join!(writer.run(&mut near, |_| false), reader.run(&mut far, |_| false)) };
        timeout(HANG, both).await.expect("nobody hangs");
    }
}

/// Goes on in a runtime of its own thread, from wherever the end stands.
fn elsewhere(parked: Parked, mut end: End, enough: usize) -> std::thread::JoinHandle<(Parked, End)> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut wire = parked.unpark().unwrap();
            timeout(HANG, end.run(&mut wire, |end| end.received >= enough)).await.expect("nobody hangs");
            (wire.park().unwrap(), end)
        })
    })
}

#[tokio::test]
async fn a_wire_moves_between_runtimes_in_the_middle_of_a_transfer_and_loses_nothing() {
    let place = Place::new();
    for (near, mut far) in [plain().await, place.tls().await] {
        let (up, down) = (bytes(8, 4 * MIB), bytes(9, 4 * MIB));
        let mut end = End::new(10, &up, &down, MIXED);
        let mut other = End::new(11, &down, &up, MIXED);
        let task = tokio::spawn(async move {
            timeout(HANG, other.run(&mut far, |_| false)).await.expect("nobody hangs");
            (other.sent, other.received)
        });
        let mut parked = near.park().unwrap();
        for stop in (1..=8).map(|part| part * MIB / 2) {
            let thread = elsewhere(parked, end, stop);
            (parked, end) = tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
        }
        let mut wire = parked.unpark().unwrap();
        timeout(HANG, end.run(&mut wire, |_| false)).await.expect("nobody hangs");
        assert_eq!((end.sent, end.received), (4 * MIB, 4 * MIB));
        assert_eq!(task.await.unwrap(), (4 * MIB, 4 * MIB));
    }
}

#[tokio::test]
async fn what_is_decrypted_and_what_waits_encrypted_goes_along() {
    let (mut near, mut far) = Place::new().tls().await;
    narrow(&near);
    poll_fn(|context| near.poll_write(context, &[7; 10_000])).await.unwrap();
    let mut one = [0];
    poll_fn(|context| far.poll_read(context, &mut one)).await.unwrap();
    // The rest of the record is in rustls now, and not in the socket any more.
    far = far.park().unwrap().unpark().unwrap();
    let mut rest = vec![0; 256 << 10];
    let length = poll_fn(|context| far.poll_read(context, &mut rest)).await.unwrap();
    assert_eq!(rest[..length], [7; 9_999]);

    let mut taken = 0;
    while let Poll::Ready(written) = poll_fn(|context| Poll::Ready(near.poll_write(context, &[8; 256 << 10]))).await {
        let written = written.unwrap();
        assert!(written <= AHEAD, "{written}");
        taken += written;
    }
    near = near.park().unwrap().unpark().unwrap();
    let mut got = 0;
    let both = async {
        let flushed = poll_fn(|context| near.poll_flush(context));
        let read = async {
            while got < taken {
                let length = poll_fn(|context| far.poll_read(context, &mut rest)).await.unwrap();
                assert!(length > 0 && rest[..length].iter().all(|byte| *byte == 8));
                got += length;
            }
        };
        tokio::join!(flushed, read).0
    };
    timeout(HANG, both).await.expect("nobody hangs").unwrap();
    assert_eq!(got, taken);
}

#[tokio::test]
async fn both_ends_export_the_same_secrets_and_every_connection_others() {
    let place = Place::new();
    let (near, far) = place.tls().await;
    let (other, _other_far) = place.tls().await;
    assert!(near.is_tls() && far.is_tls());
    assert_eq!(near.binding().unwrap(), far.binding().unwrap());
    assert_ne!(near.binding().unwrap(), other.binding().unwrap());
    assert_ne!(near.binding().unwrap(), [0; 32]);
    let secret = |wire: &Wire, id: u8| wire.session_secret(&[id; 16]).unwrap().unwrap();
    assert_eq!(secret(&near, 1), secret(&far, 1));
    let all = [secret(&near, 1), secret(&near, 2), secret(&other, 1), near.binding().unwrap()];
    assert!((0..4).all(|one| (0..one).all(|two| all[one] != all[two])));

    let (near, _far) = plain().await;
    assert!(!near.is_tls());
    assert_eq!(near.binding().unwrap(), [0; 32]);
    assert_eq!(near.session_secret(&[1; 16]).unwrap(), None);
}

#[tokio::test]
async fn the_end_of_the_peer_is_an_end_said_or_not_and_what_came_before_is_read() {
    let place = Place::new();
    for size in [100, 256 << 10] {
        let mut buffer = vec![0; size];
        let (mut near, mut far) = place.tls().await;
        poll_fn(|context| near.poll_write(context, b"last words")).await.unwrap();
        near.tls.as_mut().unwrap().send_close_notify();
        poll_fn(|context| near.poll_flush(context)).await.unwrap();
        for expected in [10, 0, 0] {
            assert_eq!(poll_fn(|context| far.poll_read(context, &mut buffer)).await.unwrap(), expected);
        }

        for (mut near, mut far) in [plain().await, place.tls().await] {
            poll_fn(|context| near.poll_write(context, b"last words")).await.unwrap();
            drop(near);
            for expected in [10, 0, 0] {
                assert_eq!(poll_fn(|context| far.poll_read(context, &mut buffer)).await.unwrap(), expected);
            }
        }
    }
}

/// The most that can come at once of what rustls held back and what follows it.
#[tokio::test]
async fn a_large_record_that_lacks_a_byte_and_those_behind_it_come_out_whole() {
    let (mut near, mut far) = Place::new().tls().await;
    let all = bytes(12, 10 * (16 << 10));
    let mut records = Vec::new();
    let tls = near.tls.as_mut().unwrap();
    tls.set_buffer_limit(None);
    tls.writer().write_all(&all).unwrap();
    while tls.wants_write() {
        tls.write_tls(&mut records).unwrap();
    }
    let (mut first, rest) = records.split_at(5 + (16 << 10) + 1 + 16 - 1);
    let tls = far.tls.as_mut().unwrap();
    while !first.is_empty() {
        tls.read_tls(&mut first).unwrap();
        assert_eq!(tls.process_new_packets().unwrap().plaintext_bytes_to_read(), 0);
    }
    let mut buffer = vec![0; 256 << 10];
    let mut got: Vec<u8> = Vec::new();
    near.tcp.write_all(rest).await.unwrap();
    while got.len() < all.len() {
        let length = poll_fn(|context| far.poll_read(context, &mut buffer)).await.unwrap();
        got.extend(&buffer[..length]);
    }
    assert!(got == all);
}

#[tokio::test]
async fn fault_09_an_end_within_a_record_gives_nothing_of_it() {
    let (mut near, mut far) = Place::new().tls().await;
    let mut record = Vec::new();
    let tls = near.tls.as_mut().unwrap();
    tls.writer().write_all(&[1; 1000]).unwrap();
    tls.write_tls(&mut record).unwrap();
    near.tcp.write_all(&record[..record.len() - 1]).await.unwrap();
    near.tcp.shutdown().await.unwrap();
    let mut buffer = vec![0; 256 << 10];
    assert_eq!(poll_fn(|context| far.poll_read(context, &mut buffer)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_byte_changed_on_the_way_is_an_error_and_the_peer_hears_of_it() {
    let place = Place::new();
    for size in [100, 256 << 10] {
        let (mut near, mut far) = place.tls().await;
        let mut record = Vec::new();
        let tls = near.tls.as_mut().unwrap();
        tls.writer().write_all(&[1; 1000]).unwrap();
        tls.write_tls(&mut record).unwrap();
        record[500] ^= 1;
        near.tcp.write_all(&record).await.unwrap();
        let mut buffer = vec![0; size];
        let error = poll_fn(|context| far.poll_read(context, &mut buffer)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let heard = timeout(HANG, poll_fn(|context| near.poll_read(context, &mut buffer))).await;
        let heard = heard.expect("it hears").unwrap_err();
        assert!(heard.to_string().contains("BadRecordMac"), "{heard}");
        assert!(poll_fn(|context| far.poll_write(context, b"x")).await.is_err());
    }
}

#[tokio::test]
async fn a_wire_tells_its_ends_its_state_and_its_peers_name() {
    let (near, far) = Place::new().tls().await;
    assert_eq!(near.peer(), far.local());
    assert_eq!(near.local(), far.peer());
    assert!(near.peer().is_some() && near.local() != near.peer());
    assert_eq!(far.identity().map(Identity::as_str), Some("sidecar"));
    assert_eq!(near.identity(), None);
    #[cfg(target_os = "linux")]
    {
        assert_eq!(near.tcp_info().unwrap().state, crate::net::kernel::TcpState::Established);
        assert!(near.set_notsent_lowat(64 << 10).unwrap());
    }
    let mut far = far;
    near.reset_on_close().unwrap();
    drop(near);
    let error = poll_fn(|context| far.poll_read(context, &mut [0; 10])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_unix_socket_is_no_wire_and_comes_back() {
    let (one, _two) = UnixStream::pair().unwrap();
    assert!(matches!(Wire::from_transport(Transport::Unix(one)), Err(Transport::Unix(_))));
}
