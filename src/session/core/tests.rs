//! Two sessions that talk to each other without a connection between them.

use super::*;

/// What one end says goes to the other, whose owner takes every stream and ends what has come to its ends.
fn talk(from: &mut Session<()>, to: &mut Session<()>, now: Instant) {
    from.emit(u64::MAX, now);
    while !from.next().is_empty() {
        let bytes = from.next().to_vec();
        from.sent(bytes.len());
        let mut rest = &bytes[..];
        while let Some(incoming) = to.receive(now, &mut rest).unwrap() {
            match incoming {
                Incoming::Open { stream, opening } => {
                    to.admit(stream, &opening, (), now);
                    to.finish(stream);
                }
                Incoming::Fin { stream } if to.is_finished(stream) => {
                    to.release(stream);
                }
                Incoming::Refused { stream, code } => panic!("stream {stream} is refused: {code:?}"),
                _ => {}
            }
        }
    }
}

#[test]
fn a_stream_that_is_over_makes_room_before_the_next_is_opened() {
    let now = Instant::now();
    let limits = Limits { buffer: 1 << 20, peer_buffer: 1 << 20, windows: 1 << 20, streams: 1 };
    let (mut dialer, mut gateway) = (Session::new(true, limits, now), Session::new(false, limits, now));
    let first = dialer.open(Opening::to("s"), (), now).unwrap();
    talk(&mut dialer, &mut gateway, now);
    talk(&mut gateway, &mut dialer, now);
    // Its end waits to be said while the next stream is opened.
    dialer.finish(first);
    assert!(dialer.is_finished(first) && dialer.release(first).is_some());
    let next = dialer.open(Opening::to("s"), (), now).unwrap();
    talk(&mut dialer, &mut gateway, now);
    talk(&mut gateway, &mut dialer, now);
    assert!(gateway.get(next).is_some() && gateway.streams() == 1);
}

#[test]
fn what_waits_to_be_opened_when_a_goaway_comes_is_opened_before_it_is_acknowledged() {
    let now = Instant::now();
    let limits = Limits { buffer: 4096, peer_buffer: 4096, windows: 1 << 20, streams: 100 };
    let (mut dialer, mut gateway) = (Session::new(true, limits, now), Session::new(false, limits, now));
    let first = dialer.open(Opening::to("s"), (), now).unwrap();
    dialer.emit(u64::MAX, now);
    dialer.fill(first, 4096, |(), slot| (slot.len(), ()));
    // No room to keep more for replay.
    let waiting = dialer.open(Opening::to("s"), (), now).unwrap();
    dialer.emit(u64::MAX, now);
    assert!(dialer.is_full() && !dialer.unopened.is_empty());
    gateway.go_away(GoAwayCode::Draining, Duration::ZERO);
    talk(&mut gateway, &mut dialer, now);
    assert!(!dialer.can_open() && dialer.open(Opening::to("s"), (), now).is_err());
    // The connection breaks. The Hello's offset is behind the GOAWAY, and the OPENs come only then.
    gateway.resume(dialer.received(), 0).unwrap();
    dialer.resume(0, dialer.received()).unwrap();
    assert!(!gateway.is_owed() && !gateway.is_go_away_heard());
    dialer.ping(1);
    talk(&mut dialer, &mut gateway, now);
    assert!(gateway.get(waiting).is_some());
    talk(&mut gateway, &mut dialer, now);
    dialer.ping(2);
    talk(&mut dialer, &mut gateway, now);
    assert!(gateway.is_go_away_heard());
}

#[test]
fn acknowledgements_and_credit_may_wait_unless_the_peer_soon_has_none() {
    let now = Instant::now();
    let limits = Limits { buffer: 1 << 20, peer_buffer: 1 << 20, windows: 4 << 20, streams: 1 };
    let (mut dialer, mut gateway) = (Session::new(true, limits, now), Session::new(false, limits, now));
    let stream = dialer.open(Opening::to("s"), (), now).unwrap();
    // `count` bytes arrive and are passed on.
    let mut passes = |gateway: &mut Session<()>, count: usize| {
        dialer.emit(u64::MAX, now);
        dialer.fill(stream, count, |(), slot| (slot.len(), ()));
        while !dialer.next().is_empty() {
            let bytes = dialer.next().to_vec();
            dialer.sent(bytes.len());
            let mut rest = &bytes[..];
            while let Some(incoming) = gateway.receive(now, &mut rest).unwrap() {
                match incoming {
                    Incoming::Open { stream, opening } => gateway.admit(stream, &opening, (), now),
                    Incoming::Data { stream, bytes } => gateway.pass(stream, bytes.len()),
                    _ => {}
                }
            }
        }
        (gateway.has_words(), gateway.may_wait())
    };
    assert_eq!(passes(&mut gateway, 16 * 1024), (true, false), "all that it could send was sent");
    gateway.emit(u64::MAX, now);
    assert!(!gateway.has_words());
    assert_eq!(passes(&mut gateway, 15 * 1024), (false, true));
    assert_eq!(passes(&mut gateway, 1024), (true, true), "a quarter of 64 KiB");
    assert_eq!(passes(&mut gateway, 17 * 1024), (true, false), "half of it");
    gateway.emit(u64::MAX, now);
    assert_eq!(passes(&mut gateway, 16 * 1024), (true, true));
    gateway.ping(1);
    assert!(!gateway.may_wait());
    gateway.emit(u64::MAX, now);
    gateway.finish(stream);
    assert!(gateway.has_words() && !gateway.may_wait());
}

/// What a session comes to keep whose peer takes whatever comes and acknowledges nothing, while all may keep `memory`.
fn kept(memory: u64) -> u64 {
    let now = Instant::now();
    let limits = Limits { buffer: 16 << 20, peer_buffer: 16 << 20, windows: 64 << 20, streams: 4 };
    let mut session = Session::new(true, limits, now);
    let stream = session.open(Opening::to("echo"), (), now).expect("room");
    session.emit(u64::MAX, now);
    session.streams.get_mut(&stream).expect("open").credit = u64::MAX;
    loop {
        session.set_spare(memory.saturating_sub(session.memory()));
        let most = session.quota(stream, u64::MAX);
        if most == 0 {
            return session.unacknowledged();
        }
        session.fill(stream, most, |(), slot| (slot.len(), ()));
    }
}

#[test]
fn fault_59_where_memory_is_used_up_little_is_kept_for_replay_and_it_is_kept_to() {
    let always = REPLAY_ALWAYS - 4096..=REPLAY_ALWAYS + 4096;
    assert!(always.contains(&kept(0)), "{}", kept(0));
    assert!(kept(u64::MAX) > REPLAY_LEAST - 4096);
    for memory in [1 << 20, 3 << 19, 2 << 20] {
        let kept = kept(memory);
        assert!(kept > memory / 4 && kept <= memory, "{kept} of {memory}");
    }
}
