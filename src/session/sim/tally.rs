//! What a run has reached: frames by kind, and where connections were cut.

use std::collections::BTreeMap;

use super::wire::Side;
use crate::session::frame::{HEADER, Header, Kind};

/// Where a connection was cut, and what else must have been tried for a run to prove anything.
pub type Counts = BTreeMap<&'static str, u64>;

pub const MARKS: [&str; 20] = [
    "cut between frames",
    "cut in a header",
    "cut in a payload",
    "cut in a hello",
    "cut in a welcome",
    "cut in a replay",
    "resumed",
    "bytes replayed",
    "claim superseded",
    "claim behind what is acknowledged",
    "older welcome while a newer hello is out",
    "older welcome taken after all",
    "claim cancelled by a byte",
    "claim with the old connection alive",
    "old connection dropped with bytes unread",
    "loss found by silence",
    "reader stalled for good",
    "reset before it was opened",
    "late data of a stream that is over",
    "replay limit reached",
];

pub fn merge(into: &mut Counts, from: &Counts) {
    for (mark, count) in from {
        *into.entry(mark).or_default() += count;
    }
}

/// Follows one side's session bytes, each once, and knows the frame at their end.
#[derive(Default)]
pub struct Walker {
    at: u64,
    header: Vec<u8>,
    left: usize,
}

impl Walker {
    /// `bytes` were handed to a connection from `offset` on; it lost all behind `cut`. Counts where in a frame that is.
    pub fn walk(&mut self, offset: u64, bytes: &[u8], cut: Option<usize>, counts: &mut Counts, side: Side) {
        let known = (self.at.saturating_sub(offset) as usize).min(bytes.len());
        if cut.is_some_and(|cut| cut < known) {
            *counts.entry("cut in a replay").or_default() += 1;
        }
        let mut rest = &bytes[known..];
        let mut until_cut = cut.and_then(|cut| cut.checked_sub(known));
        loop {
            let step = if self.left > 0 { self.left } else { HEADER - self.header.len() }.min(rest.len());
            if let Some(cut) = until_cut {
                if cut < step || cut == 0 {
                    let place = match (cut, self.left, self.header.len()) {
                        (0, 0, 0) => "cut between frames",
                        (_, 0, _) => "cut in a header",
                        _ => "cut in a payload",
                    };
                    *counts.entry(place).or_default() += 1;
                    until_cut = None;
                } else {
                    until_cut = Some(cut - step);
                }
            }
            if step == 0 {
                break;
            }
            let (part, after) = rest.split_at(step);
            rest = after;
            self.at += step as u64;
            if self.left > 0 {
                self.left -= step;
                continue;
            }
            self.header.extend_from_slice(part);
            if let Ok(header) = <[u8; HEADER]>::try_from(&self.header[..]) {
                let header = Header::decode(header);
                self.left = header.length as usize;
                self.header.clear();
                let kind = Kind::from_byte(header.kind).unwrap_or_else(|| panic!("{header:?} from {side}"));
                *counts.entry(kind.name()).or_default() += 1;
            }
        }
    }
}
