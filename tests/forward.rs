//! Clients carried over real sockets: whole and untouched, ends and resets included.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::server::{Server, deaf, echo};
use common::{Everlink, PATIENCE, eventually, narrow_client, nobody, ping_pong, upstream};
use everlink::config::{Beat, Expect};
use everlink::metrics::{CloseReason, LinkState, LossReason, RefuseReason};

fn pattern(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(length as u64);
    (0..length).map(|_| random.u8(..)).collect()
}

#[tokio::test]
async fn bytes_pass_both_ways_and_both_ends_are_carried() {
    let server = Server::start(echo);
    let everlink = Everlink::start(upstream(server.address));
    let mut client = everlink.connect();
    client.write_all(b"hello").expect("sent");
    client.shutdown(Shutdown::Write).expect("half-closed");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("answered, in order");
    assert_eq!(answer, b"hello");
    eventually("the end is counted", || everlink.closed(CloseReason::Finished) == 1).await;
    assert_eq!(everlink.upstream.metrics.connections.get(), 0);
}

#[tokio::test]
async fn megabytes_pass_both_ways_at_once_byte_for_byte() {
    let server = Server::start(echo);
    let everlink = Everlink::start(upstream(server.address));
    let sent = Arc::new(pattern(64 << 20));
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut client = everlink.connect();
        let (mut writer, bytes) = (client.try_clone().expect("cloned"), sent.clone());
        let expected = sent.clone();
        readers.push(std::thread::spawn(move || {
            let write = std::thread::spawn(move || {
                writer.write_all(&bytes).expect("sent");
                writer.shutdown(Shutdown::Write).expect("half-closed");
            });
            let mut got = Vec::new();
            client.read_to_end(&mut got).expect("read to the end");
            write.join().expect("written");
            assert!(got == *expected, "{} bytes of {} came, or they differ", got.len(), expected.len());
        }));
    }
    for reader in readers {
        reader.join().expect("intact");
    }
    eventually("all ended in order", || everlink.closed(CloseReason::Finished) == 3).await;
}

#[tokio::test]
async fn fault_32_a_half_close_keeps_the_answer_whole() {
    let server = Server::start(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question)?;
        stream.write_all(&pattern(8 << 20))
    });
    let everlink = Everlink::start(upstream(server.address));
    let mut client = everlink.connect();
    client.write_all(b"question").expect("sent");
    client.shutdown(Shutdown::Write).expect("half-closed");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("answered");
    assert!(answer == pattern(8 << 20));
}

#[tokio::test]
async fn fault_33_a_reset_is_carried_as_a_reset_both_ways() {
    let (told, heard) = std::sync::mpsc::channel();
    let server = Server::start(move |mut stream| {
        let mut byte = [0];
        let _ = stream.read(&mut byte)?;
        if byte[0] == b'r' {
            everlink::net::socket::reset_on_close(&stream)?;
            return Ok(());
        }
        let _ = told.send(stream.read(&mut byte).map_err(|error| error.kind()));
        Ok(())
    });
    let everlink = Everlink::start(upstream(server.address));

    let mut client = everlink.connect();
    client.write_all(b"x").expect("sent");
    eventually("carried", || everlink.upstream.metrics.connections.get() == 1).await;
    everlink::net::socket::reset_on_close(&client).expect("set");
    drop(client);
    let seen = heard.recv_timeout(PATIENCE).expect("the server saw its end");
    assert_eq!(seen, Err(std::io::ErrorKind::ConnectionReset));
    eventually("counted", || everlink.closed(CloseReason::ClientReset) == 1).await;
}

#[tokio::test]
async fn a_banner_of_the_server_reaches_the_client_in_order() {
    let server = Server::start(|mut stream| {
        stream.write_all(b"220 ready\r\n")?;
        echo(stream)
    });
    let everlink = Everlink::start(upstream(server.address));
    everlink.until_up(2).await;
    for _ in 0..20 {
        let mut client = everlink.connect();
        client.write_all(b"HELO\r\n").expect("sent");
        client.shutdown(Shutdown::Write).expect("half-closed");
        let mut all = String::new();
        client.read_to_string(&mut all).expect("read");
        assert_eq!(all, "220 ready\r\nHELO\r\n");
    }
}

#[tokio::test]
async fn fault_31_a_client_that_does_not_read_is_kept_and_stalls_nobody() {
    let server = Server::start(|mut stream| {
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        if kind[0] == b'b' {
            loop {
                stream.write_all(&[7; 65536])?;
            }
        }
        stream.write_all(&kind)?;
        echo(stream)
    });
    let everlink = Everlink::start(upstream(server.address));
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut client = everlink.connect();
        client.write_all(b"b").expect("sent");
        stalled.push(client);
    }
    let received = &everlink.upstream.metrics.bytes[1];
    let mut last = 0;
    // Until nothing moves any more: every buffer on the way is full.
    eventually("all are stalled", || {
        let now = received.get();
        std::thread::sleep(Duration::from_millis(200));
        std::mem::replace(&mut last, now) == now && now > 0
    })
    .await;
    for _ in 0..50 {
        let mut client = everlink.connect();
        client.write_all(b"x").expect("sent");
        let mut answer = [0];
        client.read_exact(&mut answer).expect("answered");
    }
    assert_eq!(everlink.closed(CloseReason::Dead), 0);
    // They go on as soon as they are read.
    for mut client in stalled {
        let mut some = vec![0; 4 << 20];
        client.read_exact(&mut some).expect("the rest comes");
        assert!(some.iter().all(|&b| b == 7));
    }
}

#[tokio::test]
async fn fault_03_a_client_waits_for_a_link_that_is_down_and_then_is_closed() {
    let mut settings = upstream(nobody());
    settings.limits.wait = Duration::from_secs(2);
    settings.limits.waiting = 2;
    let everlink = Everlink::start(settings);
    let clients: Vec<_> = (0..3).map(|_| everlink.connect()).collect();
    eventually("the third is refused at once", || everlink.refused(RefuseReason::Limit) == 1).await;
    for mut client in clients {
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("closed in order");
    }
    eventually("the others in time", || everlink.refused(RefuseReason::LinkDown) == 2).await;
    assert_eq!(everlink.upstream.metrics.waiting.get(), 0);
}

#[tokio::test]
async fn fault_02_waiting_clients_are_carried_when_the_server_appears() {
    let address = nobody();
    let everlink = Everlink::start(upstream(address));
    eventually("a dial has failed", || everlink.dials(everlink::metrics::DialOutcome::Refused) > 0).await;
    let mut client = everlink.connect();
    client.write_all(b"late").expect("sent");
    let _server = Server::start_at(address, echo);
    let mut answer = [0; 4];
    client.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"late");
    assert_eq!(everlink.upstream.metrics.up.get(), 1);
}

/// Each connection answers a beat only after a while, so that hand-outs meet beats under way all the time.
#[tokio::test]
async fn ten_thousand_clients_never_see_a_byte_of_a_beat() {
    let beats = Arc::new(AtomicUsize::new(0));
    let seen = beats.clone();
    let server = Server::start(move |mut stream| {
        let mut buffer = [0; 64];
        loop {
            let count = stream.read(&mut buffer)?;
            match &buffer[..count] {
                [] => return Ok(()),
                b"ping\n" => {
                    seen.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(fastrand::u64(..15)));
                    stream.write_all(b"pong\n")?;
                }
                said => stream.write_all(said)?,
            }
        }
    });
    let mut settings = upstream(server.address);
    settings.heartbeat.interval = Duration::from_millis(20);
    settings.heartbeat.timeout = Duration::from_millis(10);
    settings.heartbeat.misses = 100;
    settings.heartbeat.beat = Beat::Exchange { send: b"ping\n".to_vec(), expect: Expect::Prefix(b"pong".to_vec()) };
    // So many that each is idle long enough to beat before its turn comes.
    settings.pool.size = 128;
    let everlink = Arc::new(Everlink::start(settings));
    let mut clients = Vec::new();
    for worker in 0..8 {
        let everlink = everlink.clone();
        clients.push(std::thread::spawn(move || {
            for n in 0..1250 {
                let mut client = everlink.connect();
                let said = format!("{worker}-{n}\n");
                client.write_all(said.as_bytes()).expect("sent");
                client.shutdown(Shutdown::Write).expect("half-closed");
                let mut heard = String::new();
                client.read_to_string(&mut heard).expect("answered");
                assert_eq!(heard, said);
            }
        }));
    }
    for client in clients {
        client.join().expect("not one byte of a beat");
    }
    assert!(everlink.upstream.metrics.beats_missed.get() > 100, "the server did answer late");
    assert!(beats.load(Ordering::Relaxed) > 1000, "and beats were under way all the time");
}

#[tokio::test]
async fn the_tutorial_works_as_it_is_told() {
    let server = Server::start(common::server::tutorial);
    let mut settings = upstream(server.address);
    settings.heartbeat.interval = Duration::from_millis(200);
    settings.heartbeat.beat = ping_pong();
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    eventually("beats are answered", || everlink.upstream.metrics.rtt.get_sample_count() >= 6).await;
    assert_eq!(everlink.upstream.metrics.beats_missed.get(), 0);
    let mut client = everlink.connect();
    client.write_all(b"ping").expect("sent");
    let mut answer = [0; 4];
    client.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"pong");
}

#[tokio::test]
async fn a_server_that_stops_answering_is_lost_by_heartbeat_and_found_again() {
    let mute = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_mute = mute.clone();
    let server = Server::start(move |mut stream| {
        let mut buffer = [0; 64];
        loop {
            if stream.read(&mut buffer)? == 0 {
                return Ok(());
            }
            if !is_mute.load(Ordering::SeqCst) {
                stream.write_all(b"pong")?;
            }
        }
    });
    let mut settings = upstream(server.address);
    settings.heartbeat.interval = Duration::from_millis(200);
    settings.heartbeat.timeout = Duration::from_millis(100);
    settings.heartbeat.beat = ping_pong();
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    mute.store(true, Ordering::SeqCst);
    eventually("both are lost", || everlink.losses(LossReason::Heartbeat) == 2).await;
    eventually("the upstream is down", || everlink.upstream.metrics.up.get() == 0).await;
    assert_eq!(everlink.links(LinkState::Up), 0);
    mute.store(false, Ordering::SeqCst);
    everlink.until_up(2).await;
    assert_eq!(everlink.upstream.metrics.reconnects.get(), 2);
    assert_eq!(everlink.upstream.metrics.up.get(), 1);
}

#[tokio::test]
async fn a_deaf_server_keeps_its_client_without_beats() {
    let server = Server::start(deaf);
    let everlink = Everlink::start(upstream(server.address));
    everlink.until_up(2).await;
    let mut client = everlink.connect();
    eventually("it has a link", || everlink.upstream.metrics.connections.get() == 1).await;
    client.set_write_timeout(Some(Duration::from_millis(300))).expect("set");
    while client.write(&[0; 65536]).is_ok() {}
    assert_eq!(everlink.upstream.metrics.connections.get(), 1);
    assert_eq!(everlink.closed(CloseReason::Dead), 0);
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_is_not_up_for_a_moment() {
    let server = Server::start(deaf);
    let mut settings = upstream(server.address);
    settings.heartbeat.timeout = Duration::from_millis(60);
    settings.heartbeat.beat = ping_pong();
    let everlink = Everlink::start(settings);
    let endpoint = server.address.to_string();
    eventually("dials that prove nothing", || {
        assert_eq!(everlink.upstream.metrics.up.get(), 0);
        assert!(!everlink.status.metrics.endpoint_figures().get("test", &endpoint).up);
        everlink.dials(everlink::metrics::DialOutcome::Timeout) >= 6
    })
    .await;
}

/// The kernel alone has the end of the answer by then. It gives up what is closed and not read when its wait between two
/// attempts has reached its bound: with that of a connection in use after three seconds, and the client read a reset.
#[tokio::test]
async fn fault_29_a_client_who_reads_late_has_the_whole_answer_though_the_server_has_gone() {
    let answer = Arc::new(pattern(150_000));
    let sent = answer.clone();
    let server = Server::start(move |mut stream| stream.write_all(&sent));
    let mut settings = upstream(server.address);
    // A short budget, so that the bound is a second.
    settings.heartbeat.interval = Duration::from_secs(1);
    settings.heartbeat.timeout = Duration::from_secs(1);
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    let mut client = narrow_client(everlink.address());
    client.shutdown(Shutdown::Write).expect("half-closed");
    eventually("both ends are over", || everlink.closed(CloseReason::Finished) == 1).await;
    // Not a wait for anything: this is the fault.
    std::thread::sleep(Duration::from_secs(5));
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("an end in order");
    assert!(got == *answer, "{} bytes of {}", got.len(), answer.len());
}
