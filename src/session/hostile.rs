//! Peers that mean ill, each named for its row of the list of bad input: what must not be sent is a violation by name,
//! and no flood makes memory grow, even with our own writes blocked.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::frame::{CONTROL_MAX, Header, Kind, Opening, PAYLOAD_MAX, RefusalCode};
use super::window::{INITIAL, LARGEST};
use super::{Incoming, Limits, ResetCode, Session, Violation};

const LIMITS: Limits = Limits { buffer: 1 << 20, peer_buffer: 1 << 20, windows: 8 << 20, streams: 64 };
/// More than this a session must never hold, whatever comes: windows aside.
const FLAT: u64 = 3 << 20;

fn gateway() -> (Session<()>, Instant) {
    let now = Instant::now();
    (Session::new(false, LIMITS, now), now)
}

fn dialer() -> (Session<()>, Instant) {
    let now = Instant::now();
    (Session::new(true, LIMITS, now), now)
}

fn frame(stream: u32, kind: Kind, payload: &[u8]) -> Vec<u8> {
    raw(stream, kind as u8, payload.len() as u32, payload)
}

fn raw(stream: u32, kind: u8, length: u32, payload: &[u8]) -> Vec<u8> {
    [&Header { stream, length, kind }.encode()[..], payload].concat()
}

fn open(stream: u32) -> Vec<u8> {
    let opening = Opening { window: 65_536, ..Opening::to("s") };
    frame(stream, Kind::Open, &opening.encode())
}

/// Takes all of `bytes` as an owner does who admits every stream and passes nothing on. How many events came.
fn take(session: &mut Session<()>, now: Instant, mut bytes: &[u8]) -> Result<usize, Violation> {
    let mut events = 0;
    while let Some(incoming) = session.receive(now, &mut bytes)? {
        events += 1;
        match incoming {
            Incoming::Open { stream, opening } => session.admit(stream, &opening, (), now),
            Incoming::Reset { stream, .. } | Incoming::Refused { stream, .. } => {
                session.release(stream);
            }
            _ => {}
        }
    }
    Ok(events)
}

fn refused(session: &mut Session<()>, now: Instant, bytes: &[u8]) -> Violation {
    take(session, now, bytes).expect_err("it was taken")
}

/// What the session has to say, with its connection open.
fn said(session: &mut Session<()>, now: Instant) -> Vec<u8> {
    session.emit(u64::MAX, now);
    let mut bytes = Vec::new();
    while !session.next().is_empty() {
        let count = session.next().len();
        bytes.extend(session.next());
        session.sent(count);
    }
    bytes
}

/// A dialer with stream 1 open and known to the peer.
fn with_stream() -> (Session<()>, Instant) {
    let (mut session, now) = dialer();
    assert_eq!(session.open(Opening::to("s"), (), now), Ok(1));
    said(&mut session, now);
    (session, now)
}

#[test]
fn row_length_over_the_maximum_zero_or_all_ones() {
    for length in [PAYLOAD_MAX as u32 + 1, (1 << 24) - 1] {
        let (mut session, now) = gateway();
        take(&mut session, now, &open(1)).unwrap();
        assert_eq!(refused(&mut session, now, &raw(1, Kind::Data as u8, length, &[])), Violation::Length);
    }
    let (mut session, now) = gateway();
    take(&mut session, now, &open(1)).unwrap();
    assert_eq!(refused(&mut session, now, &raw(1, Kind::Data as u8, 0, &[])), Violation::Empty);
    for kind in Kind::ALL {
        let (least, most) = kind.lengths();
        for length in [least.checked_sub(1), Some(most + 1)].into_iter().flatten().filter(|length| *length > 0) {
            let (mut session, now) = gateway();
            let stream = kind.is_of_stream().into();
            let header = raw(stream, kind as u8, length as u32, &[]);
            assert_eq!(refused(&mut session, now, &header), Violation::Length, "{} of {length}", kind.name());
            assert_eq!(session.memory(), 0);
        }
    }
}

#[test]
fn row_first_data_bigger_than_the_initial_credit_right_behind_open() {
    let (mut session, now) = gateway();
    let bytes = [open(1), raw(1, Kind::Data as u8, INITIAL + 1, &[])].concat();
    assert_eq!(refused(&mut session, now, &bytes), Violation::Window);
    let (mut session, now) = gateway();
    let bytes = [open(1), frame(1, Kind::Data, &vec![0; INITIAL as usize])].concat();
    assert_eq!(take(&mut session, now, &bytes), Ok(2));
    assert_eq!(refused(&mut session, now, &frame(1, Kind::Data, &[0])), Violation::Window, "not one byte more");
}

#[test]
fn row_credit_overflow_zero_unknown_and_closed_streams() {
    let credit = |stream, more: u32| frame(stream, Kind::Credit, &more.to_le_bytes());
    for more in [0, u32::MAX, 4 * LARGEST as u32] {
        let (mut session, now) = with_stream();
        assert_eq!(refused(&mut session, now, &credit(1, more)), Violation::Credit, "{more}");
    }
    let (mut session, now) = with_stream();
    assert_eq!(refused(&mut session, now, &credit(2, 1)), Violation::Stream);
    session = with_stream().0;
    session.reset(1, ResetCode::Reset);
    for _ in 0..100 {
        assert_eq!(take(&mut session, now, &credit(1, u32::MAX)), Ok(1), "late news");
    }
    let (mut session, now) = gateway();
    let opening = Opening { window: u32::MAX, ..Opening::to("s") };
    assert_eq!(refused(&mut session, now, &frame(1, Kind::Open, &opening.encode())), Violation::Credit);
}

#[test]
fn row_ack_beyond_what_was_sent() {
    let (mut session, now) = with_stream();
    let sent = session.unacknowledged();
    // Written, and not sent.
    session.ping(1);
    session.emit(1 << 20, now);
    for beyond in [sent + 1, u64::MAX] {
        assert_eq!(refused(&mut session, now, &frame(0, Kind::Ack, &beyond.to_le_bytes())), Violation::Ack);
    }
    let mut session = with_stream().0;
    assert_eq!(take(&mut session, now, &frame(0, Kind::Ack, &sent.to_le_bytes())), Ok(1));
    assert_eq!(take(&mut session, now, &frame(0, Kind::Ack, &[0; 8])), Ok(1), "late news");
    assert_eq!(session.acknowledged(), sent);
}

#[test]
fn row_resume_offsets_beyond_behind_and_near_the_end_of_numbers() {
    let (mut session, now) = with_stream();
    let sent = session.unacknowledged();
    take(&mut session, now, &frame(0, Kind::Ack, &5u64.to_le_bytes())).unwrap();
    for offset in [0, 4, sent + 1, u64::MAX - 1, u64::MAX] {
        assert!(!session.can_resume(offset));
        assert_eq!(session.resume(offset, 0), Err(Violation::Resume));
        assert_eq!((session.acknowledged(), session.unsent()), (5, 0), "nothing has changed");
    }
    assert_eq!(session.resume(5, 0), Ok(sent - 5));
    assert_eq!(session.unsent(), sent - 5);
}

#[test]
fn row_data_over_the_window_after_fin_and_for_unknown_streams() {
    let data = |stream| frame(stream, Kind::Data, b"x");
    let (mut session, now) = gateway();
    assert_eq!(refused(&mut session, now, &data(1)), Violation::Stream);
    for after in [frame(1, Kind::Data, b"x"), frame(1, Kind::Fin, &[])] {
        let (mut session, now) = gateway();
        take(&mut session, now, &[open(1), data(1), frame(1, Kind::Fin, &[])].concat()).unwrap();
        assert_eq!(refused(&mut session, now, &after), Violation::AfterFin);
    }
    let (mut session, now) = gateway();
    take(&mut session, now, &open(9)).unwrap();
    session.reset(9, ResetCode::Error);
    assert_eq!(take(&mut session, now, &[data(9), data(3)].concat()), Ok(2), "late, or never there: dropped");
    assert_eq!(session.memory(), 0);
}

#[test]
fn row_anything_after_a_reset_or_a_refusal() {
    for end in [frame(1, Kind::Reset, &[1]), frame(1, Kind::Refused, &[1])] {
        for kind in [Kind::Data, Kind::Fin, Kind::Reset, Kind::Credit] {
            let (mut session, now) = with_stream();
            // Its owner has work left, and has not released it.
            let mut input = &end[..];
            while session.receive(now, &mut input).unwrap().is_some() {}
            assert_eq!((session.quota(1, 1000), session.is_finished(1)), (0, false));
            let after = frame(1, kind, &[1, 1, 1, 1][..kind.lengths().0.max(usize::from(kind == Kind::Data))]);
            assert_eq!(refused(&mut session, now, &after), Violation::AfterFin, "{}", kind.name());
        }
    }
}

#[test]
fn row_reused_identifiers() {
    for used in [1, 4, 5] {
        let (mut session, now) = gateway();
        take(&mut session, now, &open(5)).unwrap();
        session.release(5);
        assert_eq!(refused(&mut session, now, &open(used)), Violation::Reused);
    }
}

#[test]
fn row_frames_of_the_wrong_role_or_before_the_open() {
    let (mut session, now) = dialer();
    assert_eq!(refused(&mut session, now, &open(1)), Violation::Role);
    for (kind, payload) in [(Kind::Opened, &[][..]), (Kind::Refused, &[1])] {
        let (mut session, now) = gateway();
        take(&mut session, now, &open(1)).unwrap();
        assert_eq!(refused(&mut session, now, &frame(1, kind, payload)), Violation::Role);
    }
    // The peer cannot know of a stream whose OPEN has not left.
    for (kind, payload) in [(Kind::Opened, &[][..]), (Kind::Data, b"x"), (Kind::Reset, &[1])] {
        let (mut session, now) = dialer();
        session.open(Opening::to("s"), (), now).unwrap();
        assert_eq!(refused(&mut session, now, &frame(1, kind, payload)), Violation::Stream);
    }
}

#[test]
fn row_tiny_data_is_counted_and_read_later() {
    let mut limits = LIMITS;
    limits.windows = 1 << 30;
    let now = Instant::now();
    let mut session = Session::<()>::new(false, limits, now);
    take(&mut session, now, &open(1)).unwrap();
    let tiny = frame(1, Kind::Data, b"x");
    let mut taken = 0;
    while session.may_read(now).is_ok() {
        take(&mut session, now, &tiny).unwrap();
        session.pass(1, 1);
        said(&mut session, now);
        taken += 1;
        if taken % 1000 == 0 {
            let all = session.unacknowledged() + session.acknowledged();
            take(&mut session, now, &frame(0, Kind::Ack, &all.to_le_bytes())).unwrap();
        }
        assert!(taken <= 200_000, "never held up");
    }
    assert!(matches!(session.may_read(now), Err(Some(at)) if at > now));
    assert_eq!(session.may_read(now + Duration::from_secs(1)), Ok(()));
}

#[test]
fn row_ping_flood_with_our_writes_blocked() {
    let (mut session, now) = gateway();
    let ping = |clock: u64| frame(0, Kind::Ping, &clock.to_le_bytes());
    let mut clock = 0;
    let end = loop {
        clock += 1;
        if let Err(violation) = take(&mut session, now, &ping(clock)) {
            break violation;
        }
        session.emit(1, now);
        assert!(session.unsent() < 2048, "{} after {clock}", session.unsent());
    };
    assert_eq!((end, clock), (Violation::Flood, 4001));
    // At the pace that is borne, for an hour: one slot, and the newest wins.
    let (mut session, start) = gateway();
    for tick in 0..3600 * 100 {
        let now = start + Duration::from_millis(10 * tick);
        take(&mut session, now, &ping(tick)).unwrap();
        session.emit(1, now);
    }
    assert!(session.memory() <= 4096, "{}", session.memory());
    let last = said(&mut session, start);
    let pong = frame(0, Kind::Pong, &(3600 * 100 - 1u64).to_le_bytes());
    assert!(last.windows(pong.len()).any(|bytes| bytes == pong), "the newest is answered");
}

#[test]
fn row_peer_that_reads_and_never_acknowledges() {
    let (mut session, start) = gateway();
    let mut now = start;
    let mut peak = 0;
    let end = loop {
        now += Duration::from_millis(10);
        if let Err(violation) = take(&mut session, now, &frame(0, Kind::Ping, &[0; 8])) {
            break violation;
        }
        said(&mut session, now);
        peak = peak.max(session.memory());
        assert!(peak < FLAT, "{peak}");
    };
    assert_eq!(end, Violation::Unacknowledged);
    // At the very last moment it may still do so.
    let all = session.unacknowledged();
    take(&mut session, now, &frame(0, Kind::Ack, &all.to_le_bytes())).unwrap();
    assert_eq!(take(&mut session, now, &frame(0, Kind::Ping, &[0; 8])), Ok(1));
}

#[test]
fn row_open_flood_with_our_writes_blocked() {
    let (mut session, now) = gateway();
    let mut next = 0;
    let mut reads = 0;
    // The owner reads 64 KiB whenever it may; its connection takes nothing.
    for second in 0..600 {
        let now = now + Duration::from_secs(second);
        while session.may_read(now).is_ok() {
            let bytes: Vec<u8> = (0..3800).flat_map(|more| open(next + more + 1)).collect();
            next += 3800;
            take(&mut session, now, &bytes).unwrap();
            session.emit(1, now);
            reads += 1;
            assert!(reads < 200, "never held up");
        }
        assert!(session.streams() <= LIMITS.streams);
        assert!(session.memory() - session.windows() < FLAT, "{}", session.memory());
    }
    assert_eq!(session.may_read(now + Duration::from_secs(3600)), Err(None), "until something was sent");
    let words = said(&mut session, now).len();
    assert!(words <= 2 * 16_384 * 9, "{words}");
    assert_eq!(session.may_read(now + Duration::from_secs(3600)), Ok(()));
}

#[test]
fn row_open_and_reset_flood_with_our_writes_blocked() {
    let (mut session, now) = gateway();
    // A slot counts until its owner has released it: what the peer has reset is work all the same.
    let mut input = (1..=1000).flat_map(|id| [open(id), frame(id, Kind::Reset, &[1])].concat()).collect::<Vec<_>>();
    let mut rest = &input[..];
    let mut resets = 0;
    while let Some(incoming) = session.receive(now, &mut rest).unwrap() {
        match incoming {
            Incoming::Open { stream, opening } => session.admit(stream, &opening, (), now),
            Incoming::Reset { .. } => resets += 1,
            _ => {}
        }
    }
    assert_eq!((session.streams(), resets), (LIMITS.streams, LIMITS.streams));
    // And with an owner quick to accept and to release, for ten minutes.
    for id in session.ids() {
        session.release(id);
    }
    let mut next = 1000;
    for tick in 0..600_000u64 {
        let now = now + Duration::from_secs(5) + Duration::from_millis(tick);
        next += 1;
        input = open(next);
        take(&mut session, now, &input).unwrap();
        session.accept(next);
        take(&mut session, now, &frame(next, Kind::Reset, &[1])).unwrap();
        session.emit(1, now);
    }
    assert!(session.listed() <= 2 * LIMITS.streams + 65, "{}", session.listed());
    assert!(session.memory() - session.windows() < FLAT);
}

#[test]
fn row_credit_ack_and_skipped_frames_flood_with_our_writes_blocked() {
    let floods = [
        frame(1, Kind::Credit, &1u32.to_le_bytes()),
        frame(0, Kind::Ack, &[0; 8]),
        frame(0, Kind::GoAway, &[1, 0, 0, 0, 0]),
        raw(0, 0x80, 0, &[]),
        frame(7, Kind::Data, b"late"),
    ];
    for flood in floods {
        let (mut session, now) = gateway();
        take(&mut session, now, &open(8)).unwrap();
        take(&mut session, now, &open(9)).unwrap();
        let mut taken = 0;
        while session.may_read(now).is_ok() {
            take(&mut session, now, &flood).unwrap();
            session.emit(1, now);
            taken += 1;
            assert!(taken <= 200_001, "never held up: {flood:?}");
        }
        let held = session.memory() - session.windows();
        assert!(held < 4096, "{held} for {flood:?}");
    }
    // Bytes without end that nobody wants: ACKs do not pile up either.
    let (mut session, now) = gateway();
    let skipped = raw(0, 0xff, PAYLOAD_MAX as u32, &vec![0; PAYLOAD_MAX]);
    for _ in 0..1000 {
        take(&mut session, now, &skipped).unwrap();
        session.emit(1, now);
    }
    assert!(session.memory() < 4096, "{}", session.memory());
}

#[test]
fn row_a_peer_that_keeps_nothing_gets_no_storm_of_acknowledgements() {
    let now = Instant::now();
    let mut session = Session::<()>::new(false, Limits { peer_buffer: 0, ..LIMITS }, now);
    take(&mut session, now, &open(1)).unwrap();
    assert!(!session.has_words());
    assert_eq!(said(&mut session, now), b"");
}

#[test]
fn row_unknown_kinds() {
    let (mut session, now) = gateway();
    assert_eq!(take(&mut session, now, &raw(77, 0x80, 3, b"new")), Ok(1));
    assert_eq!(take(&mut session, now, &raw(0, 0xff, PAYLOAD_MAX as u32, &vec![0; PAYLOAD_MAX])), Ok(1));
    assert_eq!(session.memory(), 0);
    for (kind, length, violation) in [
        (0, 0, Violation::Kind),
        (13, 0, Violation::Kind),
        (0x7f, 1, Violation::Kind),
        (0xff, PAYLOAD_MAX as u32 + 1, Violation::Length),
    ] {
        let (mut session, now) = gateway();
        assert_eq!(refused(&mut session, now, &raw(1, kind, length, &[])), violation, "{kind}");
    }
}

#[test]
fn row_open_target_empty_not_utf8_or_with_control_characters() {
    let payload = |service: &[u8]| [&[0, 1, 0, 0, 0, service.len() as u8][..], service, &[0, 0]].concat();
    for service in [&b""[..], b"\xff\xfe", b"a\nb", b"a\0", b"\x7f", "\u{85}".as_bytes()] {
        let (mut session, now) = gateway();
        let bytes = match payload(service) {
            short if short.len() < 9 => [short, vec![0; 1]].concat(),
            long => long,
        };
        assert_eq!(refused(&mut session, now, &frame(1, Kind::Open, &bytes)), Violation::Open, "{service:?}");
    }
    for spoilt in [[payload(b"s"), vec![0]].concat(), [&payload(b"s")[..8], &[5]].concat(), vec![255; CONTROL_MAX]] {
        let (mut session, now) = gateway();
        assert!(take(&mut session, now, &frame(1, Kind::Open, &spoilt)).is_err());
        assert_eq!((session.streams(), session.memory()), (0, 0));
    }
    // A name is a name, whatever it looks like: the gateway's list decides.
    for name in ["169.254.169.254", "::1", "../x", "no such thing"] {
        let (mut session, now) = gateway();
        assert_eq!(take(&mut session, now, &frame(1, Kind::Open, &payload(name.as_bytes()))), Ok(1));
    }
}

#[test]
fn row_too_many_streams_hops_and_a_gateway_that_leaves() {
    let (mut session, now) = gateway();
    let opening = Opening { window: 1, hops: 8, ..Opening::to("s") };
    take(&mut session, now, &frame(1, Kind::Open, &opening.encode())).unwrap();
    session.go_away(super::GoAwayCode::Draining, Duration::from_secs(1));
    let mut words = said(&mut session, now);
    // It crosses the GOAWAY, and is taken; so is one behind an ACK for less.
    let told = |end: usize| frame(0, Kind::Ack, &(end as u64).to_le_bytes());
    take(&mut session, now, &open(2)).unwrap();
    let end = words.windows(8).position(|bytes| bytes == &frame(0, Kind::GoAway, &[1, 0, 0, 0, 0])[..8]).unwrap() + 13;
    take(&mut session, now, &told(end - 1)).unwrap();
    take(&mut session, now, &open(3)).unwrap();
    assert_eq!((session.streams(), session.is_go_away_heard()), (2, false));
    // Whoever has read it is to open nothing.
    take(&mut session, now, &told(end)).unwrap();
    take(&mut session, now, &open(4)).unwrap();
    assert_eq!((session.streams(), session.is_go_away_heard()), (2, true));
    words.extend(said(&mut session, now));
    for (stream, code) in [(1, RefusalCode::Hops), (4, RefusalCode::Draining)] {
        let refusal = frame(stream, Kind::Refused, &[code as u8]);
        assert!(words.windows(refusal.len()).any(|bytes| bytes == refusal), "{code:?}");
    }
}

#[test]
fn clients_that_come_and_go_during_an_outage_leave_nothing_behind() {
    let (mut session, now) = dialer();
    for _ in 0..10_000 {
        let id = session.open(Opening::to("s"), (), now).unwrap();
        session.finish(id);
        session.reset(id, ResetCode::Reset);
    }
    assert!(!session.has_words());
    assert_eq!(said(&mut session, now), b"");
}

#[test]
fn for_beats_alone_no_acknowledgement_is_owed() {
    let (mut session, now) = gateway();
    take(&mut session, now, &[open(1), frame(1, Kind::Data, &vec![0; INITIAL as usize])].concat()).unwrap();
    // A CREDIT is due; before it is written the stream needs none any more.
    session.pass(1, INITIAL as usize);
    take(&mut session, now, &frame(1, Kind::Fin, &[])).unwrap();
    session.ping(1);
    assert!(!said(&mut session, now).is_empty());
    assert!(!session.is_owed());
    session.finish(1);
    said(&mut session, now);
    assert!(session.is_owed());
}

/// A few hundred bytes of what an honest dialer says.
fn honest() -> Vec<u8> {
    let (mut session, now) = dialer();
    for round in 0..5 {
        let id = session.open(Opening::to("service"), (), now).unwrap();
        session.emit(u64::MAX, now);
        session.fill(id, 50, |(), slot| (slot.len().min(50), ()));
        session.finish(id);
        session.ping(round);
        session.emit(u64::MAX, now);
    }
    said(&mut session, now)
}

proptest! {
    #[test]
    fn random_bytes_end_in_a_violation_or_in_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..4000), dials: bool) {
        let now = Instant::now();
        let mut session = Session::<()>::new(dials, LIMITS, now);
        let _ = take(&mut session, now, &bytes);
        session.emit(1, now);
        prop_assert!(session.memory() < FLAT + LIMITS.windows);
    }

    #[test]
    fn mutated_streams_of_frames_never_panic_and_stay_within_bounds(
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8), cut in any::<usize>()
    ) {
        let mut bytes = honest();
        let length = bytes.len();
        for (place, value) in changes {
            bytes[place % length] = value;
        }
        bytes.drain(..cut % 20);
        let (mut session, now) = gateway();
        let _ = take(&mut session, now, &bytes);
        said(&mut session, now);
        prop_assert!(session.windows() <= LIMITS.windows);
        prop_assert!(session.memory() < FLAT + LIMITS.windows);
        prop_assert!(session.streams() <= LIMITS.streams);
    }

    /// Whatever is granted, filled, cut and resumed: the offsets of both ends never contradict each other, and a resume
    /// from any offset between what is acknowledged and what was sent gives the same bytes again.
    #[test]
    fn offsets_of_a_session_hold_together(steps in proptest::collection::vec((0u8..6, any::<u16>()), 1..200)) {
        let (mut session, now) = dialer();
        session.open(Opening::to("s"), (), now).unwrap();
        let mut all = said(&mut session, now);
        take(&mut session, now, &frame(1, Kind::Credit, &(8u32 << 20).to_le_bytes())).unwrap();
        let mut sent = all.len() as u64;
        for (what, number) in steps {
            let acked = session.acknowledged();
            match what {
                0 => {
                    let quota = session.quota(1, number.into());
                    session.fill(1, quota, |(), slot| {
                        slot.fill(number as u8);
                        (slot.len(), ())
                    });
                }
                1 => session.ping(number.into()),
                2 => session.emit(number.into(), now),
                3 => {
                    let next = session.next();
                    let next = &next[..next.len().min(number.into())];
                    let (count, known) = (next.len(), (all.len() as u64 - sent) as usize);
                    prop_assert_eq!(&next[..count.min(known)], &all[sent as usize..][..count.min(known)]);
                    all.extend(&next[count.min(known)..]);
                    session.sent(count);
                    sent += count as u64;
                }
                4 => {
                    let offset = acked + u64::from(number) % (all.len() as u64 - acked + 1);
                    prop_assert_eq!(session.resume(offset, session.received()), Ok(all.len() as u64 - offset));
                    sent = offset;
                }
                _ => {
                    let offset = acked + u64::from(number) % (all.len() as u64 - acked + 1);
                    take(&mut session, now, &frame(0, Kind::Ack, &offset.to_le_bytes())).unwrap();
                    sent = sent.max(offset);
                }
            }
            prop_assert!(session.acknowledged() <= all.len() as u64);
            prop_assert_eq!(session.unsent(), session.acknowledged() + session.unacknowledged() - sent);
            prop_assert!(session.unacknowledged() <= session.replay_limit() + 8 + 16 * 400);
        }
    }
}
