//! Bytes as they arrive, cut into frames without being copied. Pure.
//!
//! The parser may stop and go on at any byte, also in the middle of a header, and on another connection. Data is handed
//! on as it comes, without waiting for a whole frame; only small frames are gathered.

use super::frame::{CONTROL_MAX, HEADER, Header, Kind};
use super::violation::Violation;

/// Where in a frame the next byte belongs.
enum At {
    Header { have: usize },
    Data { stream: u32, left: usize },
    Small { header: Header, kind: Kind },
    Skip { left: usize },
}

/// The parser of one direction.
pub struct Inbound {
    at: At,
    header: [u8; HEADER],
    small: Vec<u8>,
    received: u64,
}

/// What the parser found.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'b> {
    /// Data of a stream. `begins`: with it a frame of so many bytes of data begins.
    Data { stream: u32, bytes: &'b [u8], begins: Option<u32> },
    /// A whole frame of another kind; its payload is in [`Inbound::payload`].
    Frame { stream: u32, kind: Kind },
    /// A frame of a kind to be skipped has ended.
    Skipped,
}

impl Default for Inbound {
    fn default() -> Self {
        Self { at: At::Header { have: 0 }, header: [0; HEADER], small: Vec::new(), received: 0 }
    }
}

impl Inbound {
    /// Bytes taken so far, over all connections.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The payload of the frame last found.
    pub fn payload(&self) -> &[u8] {
        &self.small
    }

    /// Takes bytes from the front of `input` until something is found; `None`: all are taken. Errors: what was found must
    /// not be there; the parser is of no use from then on.
    pub fn take<'b>(&mut self, input: &mut &'b [u8]) -> Result<Option<Piece<'b>>, Violation> {
        let mut begins = None;
        loop {
            match &mut self.at {
                At::Header { have } => {
                    let part = split(input, HEADER - *have);
                    self.received += part.len() as u64;
                    self.header[*have..*have + part.len()].copy_from_slice(part);
                    *have += part.len();
                    if *have < HEADER {
                        return Ok(None);
                    }
                    let header = Header::decode(self.header);
                    let length = header.length as usize;
                    self.at = match header.check()? {
                        None => At::Skip { left: length },
                        Some(Kind::Data) => {
                            begins = Some(header.length);
                            At::Data { stream: header.stream, left: length }
                        }
                        Some(kind) => {
                            self.small.clear();
                            At::Small { header, kind }
                        }
                    };
                }
                At::Data { stream, left } => {
                    let stream = *stream;
                    let bytes = split(input, *left);
                    self.received += bytes.len() as u64;
                    *left -= bytes.len();
                    if *left == 0 {
                        self.at = At::Header { have: 0 };
                    }
                    // A frame's beginning is told even before its first byte: it is held against the window at once.
                    return Ok((begins.is_some() || !bytes.is_empty()).then_some(Piece::Data {
                        stream,
                        bytes,
                        begins,
                    }));
                }
                At::Small { header, kind } => {
                    let (stream, kind) = (header.stream, *kind);
                    // `check` has held the length against the most a small frame may have.
                    let missing = (header.length as usize).min(CONTROL_MAX) - self.small.len();
                    let part = split(input, missing);
                    self.received += part.len() as u64;
                    self.small.extend_from_slice(part);
                    if part.len() < missing {
                        return Ok(None);
                    }
                    self.at = At::Header { have: 0 };
                    return Ok(Some(Piece::Frame { stream, kind }));
                }
                At::Skip { left } => {
                    let part = split(input, *left);
                    self.received += part.len() as u64;
                    *left -= part.len();
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.at = At::Header { have: 0 };
                    return Ok(Some(Piece::Skipped));
                }
            }
        }
    }
}

/// Cuts at most `most` bytes from the front.
fn split<'b>(input: &mut &'b [u8], most: usize) -> &'b [u8] {
    let (part, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    part
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Stream, kind and payload.
    type Found = (u32, u8, Vec<u8>);

    /// Frames and bytes found when `bytes` arrive in pieces of these sizes.
    fn found(bytes: &[u8], mut sizes: impl Iterator<Item = usize>) -> Result<Vec<Found>, Violation> {
        let mut inbound = Inbound::default();
        let mut frames: Vec<Found> = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut part = split(&mut rest, sizes.next().unwrap_or(usize::MAX).max(1));
            while let Some(piece) = inbound.take(&mut part)? {
                match piece {
                    Piece::Data { stream, bytes, begins: Some(_) } => frames.push((stream, 4, bytes.to_vec())),
                    Piece::Data { bytes, begins: None, .. } => frames.last_mut().unwrap().2.extend(bytes),
                    Piece::Frame { stream, kind } => frames.push((stream, kind as u8, inbound.payload().to_vec())),
                    Piece::Skipped => frames.push((0, 0, Vec::new())),
                }
            }
            assert!(part.is_empty());
        }
        assert_eq!(inbound.received(), bytes.len() as u64);
        Ok(frames)
    }

    fn frame(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
        [&Header { stream, length: payload.len() as u32, kind }.encode()[..], payload].concat()
    }

    fn sample() -> (Vec<u8>, Vec<Found>) {
        let frames = vec![
            (1, 4, vec![7; 3000]),
            (0, 8, vec![1; 8]),
            (1, 6, vec![]),
            (0, 0, vec![]),
            (9, 5, vec![1, 2, 3, 4]),
            (0, 10, vec![9; 8]),
            (2, 4, vec![5]),
        ];
        let bytes = frames.iter().flat_map(|(stream, kind, payload)| match kind {
            0 => frame(3, 0xAA, &[0; 77]),
            _ => frame(*stream, *kind, payload),
        });
        (bytes.collect(), frames)
    }

    #[test]
    fn fault_22_one_byte_at_a_time_is_the_same() {
        let (bytes, frames) = sample();
        assert_eq!(found(&bytes, std::iter::repeat(1)), Ok(frames.clone()));
        assert_eq!(found(&bytes, std::iter::empty()), Ok(frames));
    }

    proptest! {
        #[test]
        fn any_slicing_finds_the_same_frames(sizes in proptest::collection::vec(1usize..600, 0..200)) {
            let (bytes, frames) = sample();
            prop_assert_eq!(found(&bytes, sizes.into_iter()), Ok(frames));
        }

        #[test]
        fn random_bytes_never_panic_and_are_counted(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut inbound = Inbound::default();
            let mut rest = &bytes[..];
            while let Ok(Some(_)) = inbound.take(&mut rest) {}
            prop_assert_eq!(inbound.received() as usize, bytes.len() - rest.len());
        }
    }
}
