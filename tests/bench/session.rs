//! Times of the session core: `cargo bench --bench session`.

mod pair;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use everlink::config::{Beats, Resume};
use everlink::session::frame::{Kind, PAYLOAD_MAX};
use everlink::session::hello::{Answer, Hello, Received, Secret, SessionId, Token, VERSIONS, Welcome};
use everlink::session::inbound::Inbound;
use everlink::session::outbound::Outbound;
use pair::{Pair, drain, fill, frame, receive};

const MIB: u64 = 1 << 20;
/// Bytes that one read of the link brings.
const READ: usize = 64 * 1024;

/// A mebibyte of DATA frames is cut up, in reads of 64 KiB.
fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Bytes(MIB));
    for payload in [64, 1024, 16 * 1024, PAYLOAD_MAX] {
        let one = frame(1, Kind::Data, &vec![0x5a; payload]);
        let bytes = one.repeat(MIB as usize / one.len());
        group.bench_function(format!("frames of {payload} bytes"), |b| {
            b.iter(|| {
                let mut inbound = Inbound::default();
                for mut read in bytes.chunks(READ) {
                    while let Some(piece) = inbound.take(&mut read).expect("sound") {
                        black_box(piece);
                    }
                }
            });
        });
    }
    group.finish();
}

/// A mebibyte is framed, handed to a connection and acknowledged.
fn outbound(c: &mut Criterion) {
    let mut group = c.benchmark_group("outbound");
    group.throughput(Throughput::Bytes(MIB));
    for payload in [64, 16 * 1024, PAYLOAD_MAX] {
        group.bench_function(format!("frames of {payload} bytes"), |b| {
            let mut out = Outbound::default();
            b.iter(|| {
                for _ in 0..MIB as usize / payload {
                    let count = black_box(out.slot(payload)).len();
                    out.commit(1, count);
                }
                while let count @ 1.. = black_box(out.next()).len() {
                    out.sent(count);
                }
                out.acknowledge(out.written()).expect("sent");
            });
        });
    }
    group.finish();
}

/// A new connection takes over and gets 8 MiB again.
fn replay(c: &mut Criterion) {
    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Bytes(8 * MIB));
    group.bench_function("8 MiB", |b| {
        let mut out = Outbound::default();
        while out.written() < 8 * MIB {
            let count = out.slot(PAYLOAD_MAX).len();
            out.commit(1, count);
        }
        out.sent(out.written() as usize);
        b.iter(|| {
            out.rewind(0).expect("all is kept");
            while let count @ 1.. = black_box(out.next()).len().min(READ) {
                out.sent(count);
            }
        });
    });
    group.finish();
}

/// Every one of many streams sends a small frame in its turn, to the other end and with all that follows.
fn streams(c: &mut Criterion) {
    let mut group = c.benchmark_group("a turn of all streams");
    for count in [1_u64, 64, 1000] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count} streams"), |b| {
            let mut pair = Pair::default();
            let streams: Vec<_> = (0..count).map(|_| pair.open()).collect();
            b.iter(|| {
                pair.wait(Duration::from_millis(10));
                for stream in &streams {
                    assert!(fill(&mut pair.near, *stream, 512) > 0);
                }
                pair.carry_far();
                pair.near.ping(1);
                pair.carry_far();
                pair.carry_near();
            });
        });
    }
    group.finish();
}

/// A stream opens, carries a request and its answer, and ends.
fn request(c: &mut Criterion) {
    c.bench_function("a stream of one request", |b| {
        let mut pair = Pair::default();
        let mut clock = 0;
        b.iter(|| {
            pair.wait(Duration::from_millis(10));
            let stream = pair.open();
            fill(&mut pair.near, stream, 64);
            pair.near.finish(stream);
            pair.carry_far();
            fill(&mut pair.far, stream, 64);
            pair.far.finish(stream);
            clock += 1;
            pair.far.ping(clock);
            pair.near.ping(clock);
            pair.carry_near();
            pair.carry_far();
            pair.carry_near();
            pair.near.release(stream);
            pair.far.release(stream);
        });
    });
}

/// A thousand small frames are acknowledged one by one.
fn ack(c: &mut Criterion) {
    let mut group = c.benchmark_group("ack");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("a thousand", |b| {
        let prepare = || {
            let mut pair = Pair::default();
            let stream = pair.open();
            let before = pair.near.written().0;
            (0..1000).for_each(|_| assert_eq!(fill(&mut pair.near, stream, 1), 1));
            drain(&mut pair.near, pair.now);
            let acks: Vec<_> = (1..=1000).map(|n| frame(0, Kind::Ack, &(before + 9 * n).to_le_bytes())).collect();
            (pair, acks.concat())
        };
        b.iter_batched_ref(prepare, |(pair, acks)| receive(&mut pair.near, acks, pair.now), BatchSize::SmallInput);
    });
    group.finish();
}

/// What opens every connection.
fn hello(c: &mut Criterion) {
    const BINDING: [u8; 32] = [0xb1; 32];
    let (secret, token) = (Secret::new([0x5e; 32]), Token::new(b"a token of some length").expect("long enough"));
    let beats = Beats { interval: Duration::from_secs(5), timeout: Duration::from_secs(3), misses: 3 };
    let resume = Resume { deadline: Duration::from_secs(60), buffer: 16 << 20 };
    let session = SessionId([0x1d; 16]);
    let hello = Hello { versions: VERSIONS, session, epoch: 7, received: 9, nonce: [0xce; 32], beats, resume };
    let welcome = Welcome {
        version: 1,
        session,
        epoch: 7,
        received: 9,
        nonce: [0xcf; 32],
        incarnation: [0x1c; 16],
        beats,
        resume,
        streams: 1024,
        name: "gw-1".to_owned(),
        advertise: None,
    };
    let bytes = hello.encode(Some(&secret), Some(&token), &BINDING);
    let answer = welcome.encode(&secret, &BINDING, &bytes);
    let mut group = c.benchmark_group("hello");
    group.bench_function("encode", |b| b.iter(|| hello.encode(Some(&secret), Some(&token), &BINDING)));
    group.bench_function("parse and prove", |b| {
        b.iter(|| {
            let (received, _) = Received::parse(black_box(&bytes)).expect("sound").expect("whole");
            assert!(received.proves_token(&token, &BINDING) && received.proves_session(&secret, &BINDING));
        });
    });
    group.bench_function("welcome, encode", |b| b.iter(|| welcome.encode(&secret, &BINDING, &bytes)));
    group.bench_function("welcome, parse and prove", |b| {
        b.iter(|| match Answer::parse(black_box(&answer)) {
            Ok(Some((Answer::Welcome(welcome), _))) => assert!(welcome.is_proven(&secret, &BINDING, &bytes)),
            other => panic!("no welcome: {other:?}"),
        });
    });
    group.finish();
}

criterion_group! {
    name = session;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = parse, outbound, replay, streams, request, ack, hello
}
criterion_main!(session);
