//! Any bytes at all, as a peer's: into the parser, and into a session that has streams.

use std::time::{Duration, Instant};

use everlink::session::inbound::{Inbound, Piece};
use everlink::session::{Incoming, Limits, Opening, Session, Violation};

const LIMITS: Limits = Limits { buffer: 1 << 20, peer_buffer: 1 << 20, windows: 8 << 20, streams: 64 };
/// Windows aside, more than this a session must never hold, whatever comes.
const FLAT: u64 = 3 << 20;

/// The first byte: bit 0 which end we are, bit 1 whether our connection takes anything, bits 2 – 4 the size of slices.
pub fn run(input: &[u8]) -> usize {
    let Some((&how, bytes)) = input.split_first() else { return 0 };
    let slice = [1, 2, 7, 8, 9, 64, 1000, usize::MAX][usize::from(how >> 2 & 7)];
    let whole = pieces(bytes, usize::MAX);
    assert_eq!(pieces(bytes, slice), whole, "in slices of {slice} it is something else");
    let judged = session(bytes, slice, how & 1 != 0, how & 2 != 0);
    // What the parser refuses, no session takes.
    assert!(whole.2.is_none() || judged.is_err());
    // In slices of a byte each is an event.
    4 * bytes.len() + 64
}

/// What the parser finds: frames with their payloads, bytes taken, and how it ended.
type Found = (Vec<(u32, u8, Vec<u8>)>, u64, Option<Violation>);

fn pieces(bytes: &[u8], slice: usize) -> Found {
    let mut inbound = Inbound::default();
    let mut frames: Vec<(u32, u8, Vec<u8>)> = Vec::new();
    for mut part in bytes.chunks(slice.min(bytes.len().max(1))) {
        loop {
            match inbound.take(&mut part) {
                Ok(None) => break,
                Ok(Some(Piece::Data { stream, bytes, begins })) => match (begins, frames.last_mut()) {
                    (None, Some(frame)) => frame.2.extend_from_slice(bytes),
                    (_, _) => frames.push((stream, 4, bytes.to_vec())),
                },
                Ok(Some(Piece::Frame { stream, kind })) => {
                    frames.push((stream, kind as u8, inbound.payload().to_vec()));
                }
                Ok(Some(Piece::Skipped)) => frames.push((0, 0, Vec::new())),
                Err(violation) => return (frames, inbound.received(), Some(violation)),
            }
        }
        assert!(part.is_empty(), "bytes left");
    }
    assert_eq!(inbound.received(), bytes.len() as u64);
    (frames, inbound.received(), None)
}

/// A session whose owner admits every stream, passes the bytes of every other one on, and writes if its connection does.
fn session(bytes: &[u8], slice: usize, dialer: bool, writes: bool) -> Result<(), Violation> {
    let mut now = Instant::now();
    let mut session = Session::new(dialer, LIMITS, now);
    if dialer {
        for _ in 0..3 {
            assert!(session.open(Opening::to("s"), (), now).is_ok());
        }
        write(&mut session, now);
    }
    let mut taken = 0;
    for part in bytes.chunks(slice.min(bytes.len().max(1))) {
        // A driver does not read while the session would not have it.
        match session.may_read(now) {
            Err(None) => return Ok(()),
            Err(Some(at)) => now = now.max(at),
            Ok(()) => {}
        }
        let mut rest = part;
        while let Some(incoming) = session.receive(now, &mut rest)? {
            taken += 1;
            match incoming {
                Incoming::Open { stream, opening } => {
                    session.admit(stream, &opening, (), now);
                    if stream % 3 == 0 { session.accept(stream) } else { session.finish(stream) }
                }
                Incoming::Reset { stream, .. } | Incoming::Refused { stream, .. } => {
                    assert!(session.release(stream).is_some(), "the end of no stream");
                }
                Incoming::Data { stream, bytes } => {
                    assert!(session.get(stream).is_some(), "data of no stream");
                    if stream % 2 == 1 {
                        session.pass(stream, bytes.len());
                    }
                }
                Incoming::Fin { stream } if session.is_finished(stream) => {
                    session.release(stream);
                }
                _ => {}
            }
        }
        assert!(rest.is_empty(), "bytes left");
        if writes {
            write(&mut session, now);
        } else {
            // It takes nothing: what is to be said waits in its slots.
            session.emit(64 * 1024, now);
        }
        assert!(session.streams() <= LIMITS.streams);
        assert!(session.memory() <= LIMITS.windows + FLAT, "{} bytes held", session.memory());
        now += Duration::from_millis(1);
    }
    assert_eq!(session.received(), bytes.len() as u64);
    assert!(taken <= 3 * bytes.len() + 1);
    Ok(())
}

fn write<T>(session: &mut Session<T>, now: Instant) {
    session.emit(u64::MAX, now);
    loop {
        let count = session.next().len();
        if count == 0 {
            return;
        }
        session.sent(count);
    }
}
