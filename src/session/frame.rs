//! Frames: how streams share one byte stream. Pure.
//!
//! Every frame begins with a header of 8 bytes, little-endian: stream u32, payload length u24, kind u8. The table of kinds
//! stands in `PROTOCOL.md`; a test holds the two together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::violation::Violation;
use crate::config::Beats;

/// Bytes of a header.
pub const HEADER: usize = 8;
/// The longest frame, header included: 256 KiB. Frames of 64 KiB cost 11 – 23 % of the throughput (measured).
pub const FRAME_MAX: usize = 256 * 1024;
/// The longest payload of DATA.
pub const PAYLOAD_MAX: usize = FRAME_MAX - HEADER;
/// The longest payload of any other frame: an OPEN with the longest name and two IPv6 addresses has 299 bytes.
pub const CONTROL_MAX: usize = 512;
/// From here on a kind that is not known is skipped; below, it is a violation.
pub const IGNORABLE: u8 = 0x80;
/// An OPEN that has passed so many gateways goes round in a circle.
pub const HOPS_MAX: u8 = 8;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Open = 1,
    Opened = 2,
    Refused = 3,
    Data = 4,
    Credit = 5,
    Fin = 6,
    Reset = 7,
    Ping = 8,
    Pong = 9,
    Ack = 10,
    Tune = 11,
    GoAway = 12,
}

impl Kind {
    pub const ALL: [Self; 12] = [
        Self::Open,
        Self::Opened,
        Self::Refused,
        Self::Data,
        Self::Credit,
        Self::Fin,
        Self::Reset,
        Self::Ping,
        Self::Pong,
        Self::Ack,
        Self::Tune,
        Self::GoAway,
    ];

    /// `None`: not a kind of this version.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "OPEN",
            Self::Opened => "OPENED",
            Self::Refused => "REFUSED",
            Self::Data => "DATA",
            Self::Credit => "CREDIT",
            Self::Fin => "FIN",
            Self::Reset => "RESET",
            Self::Ping => "PING",
            Self::Pong => "PONG",
            Self::Ack => "ACK",
            Self::Tune => "TUNE",
            Self::GoAway => "GOAWAY",
        }
    }

    /// It speaks of one stream; the others carry stream 0.
    pub fn is_of_stream(self) -> bool {
        !matches!(self, Self::Ping | Self::Pong | Self::Ack | Self::Tune | Self::GoAway)
    }

    /// Payload lengths allowed, both ends included.
    pub fn lengths(self) -> (usize, usize) {
        match self {
            Self::Data => (1, PAYLOAD_MAX),
            Self::Open => (9, CONTROL_MAX),
            Self::Opened | Self::Fin => (0, 0),
            Self::Refused | Self::Reset => (1, 1),
            Self::Credit => (4, 4),
            Self::Ping | Self::Pong | Self::Ack => (8, 8),
            Self::Tune => (12, 12),
            Self::GoAway => (5, 5),
        }
    }
}

/// The first 8 bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub stream: u32,
    /// Bytes of payload, 0 – 16,777,215.
    pub length: u32,
    pub kind: u8,
}

impl Header {
    pub fn encode(self) -> [u8; HEADER] {
        let [s0, s1, s2, s3] = self.stream.to_le_bytes();
        let [l0, l1, l2, _] = self.length.to_le_bytes();
        [s0, s1, s2, s3, l0, l1, l2, self.kind]
    }

    pub fn decode(bytes: [u8; HEADER]) -> Self {
        let [s0, s1, s2, s3, l0, l1, l2, kind] = bytes;
        Self { stream: u32::from_le_bytes([s0, s1, s2, s3]), length: u32::from_le_bytes([l0, l1, l2, 0]), kind }
    }

    /// Holds the header against the bounds, before anything is allocated or stored. `Ok(None)`: to be skipped.
    pub fn check(self) -> Result<Option<Kind>, Violation> {
        let length = self.length as usize;
        let Some(kind) = Kind::from_byte(self.kind) else {
            return match self.kind >= IGNORABLE {
                true if length <= PAYLOAD_MAX => Ok(None),
                true => Err(Violation::Length),
                false => Err(Violation::Kind),
            };
        };
        let (least, most) = kind.lengths();
        if kind == Kind::Data && length == 0 {
            return Err(Violation::Empty);
        }
        if !(least..=most).contains(&length) {
            return Err(Violation::Length);
        }
        if kind.is_of_stream() == (self.stream == 0) {
            return Err(Violation::Stream);
        }
        Ok(Some(kind))
    }
}

/// What OPEN says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Bytes of this stream that the opener takes before it gives CREDIT. The session that opens says how many.
    pub window: u32,
    /// Gateways passed before this one.
    pub hops: u8,
    /// The service's name at the gateway, 1 – 255 bytes.
    pub service: String,
    /// The client, and the address it came to, where known.
    pub client: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
}

impl Opening {
    /// Of a stream to `service`, from a client of this very program.
    pub fn to(service: &str) -> Self {
        Self { window: 0, hops: 0, service: service.to_owned(), client: None, local: None }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(self.window.to_le_bytes());
        bytes.push(self.hops);
        let service = &self.service.as_bytes()[..self.service.len().min(255)];
        bytes.push(service.len() as u8);
        bytes.extend(service);
        put_address(&mut bytes, self.client);
        put_address(&mut bytes, self.local);
        bytes
    }

    /// Errors: [`Violation::Open`] for anything but exactly one opening.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, Violation> {
        let bytes = &mut bytes;
        let window = u32::from_le_bytes(take(bytes)?);
        let [hops, length] = take(bytes)?;
        let service = take_slice(bytes, usize::from(length))?;
        let service = std::str::from_utf8(service).map_err(|_| Violation::Open)?;
        if service.is_empty() || service.chars().any(char::is_control) {
            return Err(Violation::Open);
        }
        let service = service.to_owned();
        let (client, local) = (take_address(bytes)?, take_address(bytes)?);
        if !bytes.is_empty() {
            return Err(Violation::Open);
        }
        Ok(Self { window, hops, service, client, local })
    }
}

fn put_address(bytes: &mut Vec<u8>, address: Option<SocketAddr>) {
    match address.map(|address| (address.ip().to_canonical(), address.port())) {
        None => bytes.push(0),
        Some((IpAddr::V4(ip), port)) => {
            bytes.push(4);
            bytes.extend(ip.octets());
            bytes.extend(port.to_le_bytes());
        }
        Some((IpAddr::V6(ip), port)) => {
            bytes.push(6);
            bytes.extend(ip.octets());
            bytes.extend(port.to_le_bytes());
        }
    }
}

fn take_slice<'b>(bytes: &mut &'b [u8], count: usize) -> Result<&'b [u8], Violation> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(Violation::Open)?;
    *bytes = rest;
    Ok(taken)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Violation> {
    take_slice(bytes, N)?.try_into().map_err(|_| Violation::Open)
}

fn take_address(bytes: &mut &[u8]) -> Result<Option<SocketAddr>, Violation> {
    let [family] = take(bytes)?;
    let ip: IpAddr = match family {
        0 => return Ok(None),
        4 => Ipv4Addr::from(take::<4>(bytes)?).into(),
        6 => Ipv6Addr::from(take::<16>(bytes)?).into(),
        _ => return Err(Violation::Open),
    };
    Ok(Some(SocketAddr::new(ip, u16::from_le_bytes(take(bytes)?))))
}

/// The payload of TUNE.
pub fn encode_beats(beats: &Beats) -> [u8; 12] {
    let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&ms(beats.interval));
    bytes[4..8].copy_from_slice(&ms(beats.timeout));
    bytes[8..].copy_from_slice(&beats.misses.to_le_bytes());
    bytes
}

/// Errors: [`Violation::Tune`] for numbers that no configuration may hold.
pub fn decode_beats(bytes: [u8; 12]) -> Result<Beats, Violation> {
    let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = bytes;
    let beats = Beats {
        interval: Duration::from_millis(u32::from_le_bytes([a0, a1, a2, a3]).into()),
        timeout: Duration::from_millis(u32::from_le_bytes([b0, b1, b2, b3]).into()),
        misses: u32::from_le_bytes([c0, c1, c2, c3]),
    };
    let sane = (200..=3_600_000).contains(&beats.interval.as_millis())
        && (50..=60_000).contains(&beats.timeout.as_millis())
        && (1..=100).contains(&beats.misses);
    if sane { Ok(beats) } else { Err(Violation::Tune) }
}

/// Why the acceptor did not open a stream: the payload of REFUSED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RefusalCode {
    /// No such service, or not for this identity: the two are not told apart.
    Service = 1,
    /// The service could not be reached.
    Unreachable = 2,
    /// Too many streams.
    Limit = 3,
    /// The gateway is draining.
    Draining = 4,
    /// Too many hops: a circle.
    Hops = 5,
}

impl RefusalCode {
    /// A code of a later version counts as unreachable.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Service,
            3 => Self::Limit,
            4 => Self::Draining,
            5 => Self::Hops,
            _ => Self::Unreachable,
        }
    }
}

/// Why a stream ended without an orderly end: the payload of RESET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ResetCode {
    /// The connection behind the stream was reset.
    Reset = 1,
    /// It was cut at the end of a drain.
    Drained = 2,
    /// It moved no byte for too long.
    Idle = 3,
    /// The end that sends this could not go on.
    Error = 4,
}

impl ResetCode {
    /// A code of a later version counts as a plain reset.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            2 => Self::Drained,
            3 => Self::Idle,
            4 => Self::Error,
            _ => Self::Reset,
        }
    }
}

/// Why no new streams are wanted: the code of GOAWAY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum GoAwayCode {
    /// The gateway is draining.
    Draining = 1,
    /// The dialer has no more use for the session: it may be forgotten with its last stream.
    Done = 2,
}

impl GoAwayCode {
    /// A code of a later version counts as draining.
    pub fn from_byte(byte: u8) -> Self {
        if byte == 2 { Self::Done } else { Self::Draining }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address() -> impl Strategy<Value = Option<SocketAddr>> {
        prop_oneof![
            Just(None),
            (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| Some(SocketAddr::from((ip, port)))),
            // An IPv4 address in IPv6's clothes comes back as what it is.
            (any::<[u8; 16]>(), any::<u16>())
                .prop_filter("mapped", |(ip, _)| Ipv6Addr::from(*ip).to_ipv4_mapped().is_none())
                .prop_map(|(ip, port)| Some(SocketAddr::from((ip, port)))),
        ]
    }

    proptest! {
        #[test]
        fn a_header_comes_back_as_it_was(stream: u32, length in 0u32..1 << 24, kind: u8) {
            let header = Header { stream, length, kind };
            prop_assert_eq!(Header::decode(header.encode()), header);
        }

        #[test]
        fn an_opening_comes_back_as_it_was(
            window: u32, hops: u8, service in "[a-z0-9][a-z0-9_.-]{0,254}", client in address(), local in address()
        ) {
            let opening = Opening { window, hops, service, client, local };
            let bytes = opening.encode();
            prop_assert!(bytes.len() <= CONTROL_MAX);
            prop_assert_eq!(Opening::decode(&bytes), Ok(opening));
            prop_assert_eq!(Opening::decode(&bytes[..bytes.len() - 1]), Err(Violation::Open));
            prop_assert_eq!(Opening::decode(&[&bytes[..], &[0]].concat()), Err(Violation::Open));
        }

        #[test]
        fn no_bytes_make_an_opening_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Opening::decode(&bytes);
        }
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_before_anything_is_stored() {
        let check = |stream, length, kind| Header { stream, length, kind }.check();
        assert_eq!(check(1, 0, 4), Err(Violation::Empty));
        assert_eq!(check(1, PAYLOAD_MAX as u32, 4), Ok(Some(Kind::Data)));
        assert_eq!(check(1, PAYLOAD_MAX as u32 + 1, 4), Err(Violation::Length));
        assert_eq!(check(1, (1 << 24) - 1, 1), Err(Violation::Length));
        assert_eq!(check(0, 7, 8), Err(Violation::Length), "a PING has 8 bytes");
        assert_eq!(check(3, 8, 8), Err(Violation::Stream), "a PING is no stream's");
        assert_eq!(check(0, 1, 4), Err(Violation::Stream));
        assert_eq!(check(0, 0, 13), Err(Violation::Kind));
        assert_eq!(check(0, PAYLOAD_MAX as u32, 0x80), Ok(None));
        assert_eq!(check(0, (1 << 24) - 1, 0xff), Err(Violation::Length));
    }

    #[test]
    fn beats_out_of_range_are_no_tuning() {
        let beats = |interval, timeout, misses| Beats {
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(timeout),
            misses,
        };
        let sane = beats(200, 60_000, 100);
        assert_eq!(decode_beats(encode_beats(&sane)), Ok(sane));
        for wild in [beats(199, 50, 1), beats(200, 49, 1), beats(200, 50, 0), beats(3_600_001, 50, 1)] {
            assert_eq!(decode_beats(encode_beats(&wild)), Err(Violation::Tune));
        }
    }
}
