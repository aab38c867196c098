//! Presets and their servers: what proves a Redis, a memcached, an SMTP server, and what their clients get to see.

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::server::Server;
use common::{Everlink, always_until, connect_to, eventually, ping_lines, upstream};
use everlink::config::{Beat, Upstream};
use everlink::metrics::{DialOutcome, LinkState, LossReason};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A line server: what it answers to each line, after saying `greeting`; counts the lines of each connection.
fn lines(
    greeting: &'static [u8],
    answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> (Server, Arc<Mutex<HashMap<SocketAddr, usize>>>) {
    let counts: Arc<Mutex<HashMap<SocketAddr, usize>>> = Arc::default();
    let counted = counts.clone();
    let server = Server::start(move |mut stream| {
        let peer = stream.peer_addr()?;
        stream.write_all(greeting)?;
        let mut reader = std::io::BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        while std::io::BufRead::read_line(&mut reader, &mut line)? > 0 {
            *counted.lock().expect("unpoisoned").entry(peer).or_default() += 1;
            match answer(line.trim_end()) {
                Some(answer) => stream.write_all(&answer)?,
                None => return Ok(()),
            }
            line.clear();
        }
        Ok(())
    });
    (server, counts)
}

fn preset(server: &Server, beat: Beat) -> Upstream {
    let mut settings = upstream(server.address);
    settings.heartbeat.interval = MS(200);
    settings.heartbeat.timeout = MS(1000);
    settings.heartbeat.beat = beat;
    settings
}

#[tokio::test]
async fn a_redis_is_proven_by_pong_and_by_noauth_and_not_while_it_loads() {
    let said: Arc<Mutex<&'static [u8]>> = Arc::new(Mutex::new(b"-LOADING Redis is loading the dataset in memory\r\n"));
    let says = said.clone();
    let (server, _) = lines(b"", move |line| match line {
        "PING" => Some(says.lock().expect("unpoisoned").to_vec()),
        "GET x" => Some(b"$-1\r\n".to_vec()),
        other => panic!("asked {other:?}"),
    });
    let everlink = Everlink::start(preset(&server, Beat::Redis));
    let loading = || everlink.dials(DialOutcome::Refused) >= 4;
    always_until("not up while it loads", || !everlink.is_up() && everlink.links(LinkState::Up) == 0, loading).await;
    let error = everlink.upstream.links()[0].view().last_error.clone().unwrap_or_default();
    assert!(error.contains("LOADING"), "{error}");

    *said.lock().expect("unpoisoned") = b"+PONG\r\n";
    everlink.until_up(2).await;
    *said.lock().expect("unpoisoned") = b"-NOAUTH Authentication required.\r\n";
    let beats = everlink.upstream.metrics.rtt.get_sample_count();
    eventually("guarded is as good", || everlink.upstream.metrics.rtt.get_sample_count() >= beats + 6).await;
    assert_eq!(everlink.upstream.metrics.beats_missed.get(), 0);
    let mut client = everlink.connect();
    client.write_all(b"GET x\r\n").expect("sent");
    let mut answer = [0; 5];
    client.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"$-1\r\n");

    // It restarts in place, say, and loads again: misses, and in the end a loss.
    *said.lock().expect("unpoisoned") = b"-LOADING Redis is loading the dataset in memory\r\n";
    eventually("misses add up", || everlink.losses(LossReason::Heartbeat) >= 2).await;
    eventually("down", || !everlink.is_up() || everlink.upstream.metrics.connections.get() > 0).await;
    *said.lock().expect("unpoisoned") = b"+PONG\r\n";
    everlink.until_up(2).await;
}

#[tokio::test]
async fn a_memcached_is_proven_by_its_version() {
    let (server, _) = lines(b"", |line| match line {
        "version" => Some(b"VERSION 1.6.21\r\n".to_vec()),
        "get x" => Some(b"END\r\n".to_vec()),
        other => panic!("asked {other:?}"),
    });
    let everlink = Everlink::start(preset(&server, Beat::Memcached));
    everlink.until_up(2).await;
    eventually("beats are answered", || everlink.upstream.metrics.rtt.get_sample_count() >= 6).await;
    let mut client = everlink.connect();
    client.write_all(b"get x\r\n").expect("sent");
    let mut answer = [0; 5];
    client.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"END\r\n");
    assert_eq!(everlink.upstream.metrics.beats_missed.get(), 0);
}

#[tokio::test]
async fn an_smtp_server_is_asked_five_times_at_most_and_greets_each_client_once() {
    let greeting = b"220-mail.example ESMTP\r\n220 no spam\r\n";
    let quits = Arc::new(AtomicUsize::new(0));
    let quitting = quits.clone();
    let (server, noops) = lines(greeting, move |line| match line {
        "NOOP" => Some(b"250 2.0.0 Ok\r\n".to_vec()),
        "QUIT" => {
            quitting.fetch_add(1, Ordering::SeqCst);
            None
        }
        other => panic!("asked {other:?}"),
    });
    let everlink = Everlink::start(preset(&server, Beat::Smtp));
    everlink.until_up(2).await;
    let greets = |everlink: &Everlink| {
        let mut client = everlink.connect();
        client.write_all(b"QUIT\r\n").expect("sent");
        client.shutdown(Shutdown::Write).expect("half-closed");
        let mut all = Vec::new();
        client.read_to_end(&mut all).expect("read");
        assert_eq!(all, greeting, "the greeting once, and no byte of a beat");
    };
    greets(&everlink);
    everlink.until_up(2).await;
    let ready = || everlink.links(LinkState::Up) + everlink.links(LinkState::Suspect) == 2;
    always_until("a link is always there", ready, || everlink.losses(LossReason::Aged) >= 3).await;
    greets(&everlink);
    // Two were the clients'.
    eventually("those renewed have taken their leave", || quits.load(Ordering::SeqCst) >= 2 + 3).await;
    // The last line is QUIT, whoever says it.
    let most = noops.lock().expect("unpoisoned").values().copied().max().unwrap_or(0);
    assert!((5..=6).contains(&most), "{most}");
    assert_eq!((everlink.upstream.metrics.reconnects.get(), everlink.is_up()), (0, true));
    assert_eq!(everlink.upstream.metrics.beats_missed.get(), 0);
}

/// Postfix's `postscreen` greets after six seconds and turns away whoever speaks before.
#[tokio::test]
async fn an_smtp_server_that_greets_late_is_never_spoken_to_before() {
    let early = Arc::new(AtomicUsize::new(0));
    let seen = early.clone();
    let server = Server::start(move |mut stream| {
        stream.set_read_timeout(Some(MS(700)))?;
        let mut buffer = [0; 64];
        if matches!(stream.read(&mut buffer), Ok(1..)) {
            seen.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        stream.set_read_timeout(None)?;
        stream.write_all(b"220 at last\r\n")?;
        while stream.read(&mut buffer)? > 0 {
            stream.write_all(b"250 Ok\r\n")?;
        }
        Ok(())
    });
    let mut settings = preset(&server, Beat::Smtp);
    settings.heartbeat.interval = MS(250);
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    // Taken and refilled: the refill may be used at once, but not be spoken to at once.
    for _ in 0..3 {
        let mut client = everlink.connect();
        let mut greeting = [0; 13];
        client.read_exact(&mut greeting).expect("greeted");
        assert_eq!(&greeting, b"220 at last\r\n");
    }
    let beats = everlink.upstream.metrics.rtt.get_sample_count();
    eventually("all beat again", || everlink.upstream.metrics.rtt.get_sample_count() >= beats + 8).await;
    assert_eq!(early.load(Ordering::SeqCst), 0);
    assert_eq!(everlink.losses(LossReason::Protocol), 0);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_understood_with_beats_of_ones_own() {
    let server = Server::start(|mut stream| {
        std::thread::sleep(MS(60));
        stream.write_all(b"welcome\n")?;
        let mut buffer = [0; 64];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                count if &buffer[..count] == b"ping\n" => stream.write_all(b"pong\n")?,
                count => stream.write_all(&buffer[..count])?,
            }
        }
    });
    let mut settings = preset(&server, ping_lines());
    settings.heartbeat.interval = MS(300);
    let everlink = Everlink::start(settings);
    everlink.until_up(2).await;
    eventually("beats are answered", || everlink.upstream.metrics.rtt.get_sample_count() >= 6).await;
    let mut client = connect_to(everlink.address());
    client.write_all(b"hello\n").expect("sent");
    let mut all = [0; 14];
    client.read_exact(&mut all).expect("read");
    assert_eq!(&all, b"welcome\nhello\n");
}
