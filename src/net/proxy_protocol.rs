//! The PROXY protocol: a header before a connection's first byte that says who its client is.
//!
//! Versions 1 (a line of text) and 2 (binary) are read, version 2 is written, as in HAProxy's `doc/proxy-protocol.txt`.
//! Pure: who may send a header, and how long it may take, is the caller's to say. A receiver knows from its
//! configuration whether a header comes; it never guesses.

#![forbid(unsafe_code)]

mod crc32c;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use self::crc32c::crc32c;

/// The longest header that is read, its fixed part included. The specification allows 65,551 bytes; what is sent stays
/// within some hundreds.
pub const LONGEST: usize = 4096;

/// The longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;
const LINE_START: &[u8] = b"PROXY ";

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part of version 2.
const FIXED: usize = 16;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

const TYPE_CRC32C: u8 = 0x03;
/// Ours, of the range for applications: one byte, how many everlinks the connection has come through. Others use this
/// type too (Google's private service connect, with 8 bytes), so one of another length is not ours and is skipped.
const TYPE_HOPS: u8 = 0xe0;

/// What the bytes at the start of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// The start of a header; ask again with more.
    NeedMore,
    /// All of one.
    Header {
        /// The client. `None`: the header does not say, so the connection's own peer holds.
        source: Option<SocketAddr>,
        /// Where the client connected to. There exactly if `source` is.
        destination: Option<SocketAddr>,
        /// Bytes of the header. What follows is payload, whatever it looks like.
        length: usize,
        /// How many everlinks the connection came through, if an everlink sent the header.
        hops: Option<u8>,
    },
}

/// Not a header; the connection has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY protocol header: {0}")]
pub struct Malformed(pub &'static str);

/// Reads a header from all that has come so far on a connection. Errors: as soon as the bytes show them.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    match bytes.first() {
        None => Ok(Parsed::NeedMore),
        Some(b'P') => parse_line(bytes),
        Some(_) => parse_binary(bytes),
    }
}

fn parse_line(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if bytes.iter().zip(LINE_START).any(|(byte, due)| byte != due) {
        return Err(Malformed("it begins like neither version"));
    }
    let seen = bytes.get(..LONGEST_LINE).unwrap_or(bytes);
    let Some(end) = seen.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return more_of_line(seen);
    };
    match (seen.get(end), seen.get(end + 1)) {
        (Some(b'\r'), Some(b'\n')) => {}
        (Some(b'\r'), None) => return more_of_line(seen),
        _ => return Err(Malformed("a carriage return or a line feed alone")),
    }
    let text = bytes.get(LINE_START.len()..end).unwrap_or_default();
    let addresses = line_addresses(text)?;
    Ok(header(addresses, end + 2, None))
}

fn more_of_line(seen: &[u8]) -> Result<Parsed, Malformed> {
    if seen.len() < LONGEST_LINE { Ok(Parsed::NeedMore) } else { Err(Malformed("no line end within 107 bytes")) }
}

type Addresses = Option<(SocketAddr, SocketAddr)>;

fn header(addresses: Addresses, length: usize, hops: Option<u8>) -> Parsed {
    let (source, destination) = addresses.unzip();
    Parsed::Header { source, destination, length, hops }
}

fn line_addresses(text: &[u8]) -> Result<Addresses, Malformed> {
    // Whatever follows UNKNOWN has no meaning, nor need it be text.
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        return Ok(None);
    }
    let text = str::from_utf8(text).map_err(|_| Malformed("a line that is not text"))?;
    let mut words = text.split(' ');
    let mut next = || words.next().ok_or(Malformed("a line without all its parts"));
    let read: fn(&str) -> Result<IpAddr, Malformed> = match next()? {
        "TCP4" => |word| word.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| Malformed("not an IPv4 address")),
        // `::ffff:192.0.2.1` is what `inet_ntop` makes of such an address, and so what HAProxy sends.
        "TCP6" => |word| word.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| Malformed("not an IPv6 address")),
        _ => return Err(Malformed("neither TCP4, TCP6 nor UNKNOWN")),
    };
    let (source, destination) = (read(next()?)?, read(next()?)?);
    let (source_port, destination_port) = (port(next()?)?, port(next()?)?);
    if words.next().is_some() {
        return Err(Malformed("a line with more than its parts"));
    }
    Ok(Some((SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port))))
}

fn port(word: &str) -> Result<u16, Malformed> {
    // `parse` alone would take `+80` and `080`.
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| plain).ok_or(Malformed("not a port"))
}

fn parse_binary(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if bytes.iter().zip(SIGNATURE).any(|(byte, due)| byte != due) {
        return Err(Malformed("it begins like neither version"));
    }
    let Some(&command) = bytes.get(12) else { return Ok(Parsed::NeedMore) };
    match command {
        LOCAL | PROXY => {}
        0x22..=0x2f => return Err(Malformed("a command that is not assigned")),
        _ => return Err(Malformed("not version 2")),
    }
    let Some(&family) = bytes.get(13) else { return Ok(Parsed::NeedMore) };
    // The family of a LOCAL header has no meaning.
    if command == PROXY && (family >> 4 > 3 || family & 0xf > 2) {
        return Err(Malformed("a family or protocol that is not assigned"));
    }
    let Some(&[high, low]) = bytes.get(14..FIXED) else { return Ok(Parsed::NeedMore) };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST {
        return Err(Malformed("longer than 4,096 bytes"));
    }
    let block = Block::of(command, family);
    if length < FIXED + block.needs() {
        return Err(Malformed("shorter than its addresses"));
    }
    let Some(whole) = bytes.get(..length) else { return Ok(Parsed::NeedMore) };
    let (addresses, hops) = block.read(whole)?;
    Ok(header(addresses, length, hops))
}

/// What the bytes after the fixed part of version 2 hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Addresses of 4 bytes, two ports, and then extensions.
    Inet { stream: bool },
    /// Addresses of 16 bytes, two ports, and then extensions.
    Inet6 { stream: bool },
    /// Two paths of 108 bytes, and then extensions.
    Unix,
    /// Extensions at once, if the bytes happen to be any.
    Extensions,
    /// Nothing that has a meaning.
    Opaque,
}

impl Block {
    fn of(command: u8, family: u8) -> Self {
        match (command, family) {
            (_, UNSPECIFIED) => Self::Extensions,
            (PROXY, 0x11 | 0x12) => Self::Inet { stream: family == TCP4 },
            (PROXY, 0x21 | 0x22) => Self::Inet6 { stream: family == TCP6 },
            (PROXY, 0x31 | 0x32) => Self::Unix,
            // LOCAL, or half of the family is unspecified.
            _ => Self::Opaque,
        }
    }

    /// The least bytes it takes.
    fn needs(self) -> usize {
        match self {
            Self::Inet { .. } => 12,
            Self::Inet6 { .. } => 36,
            Self::Unix => 216,
            Self::Extensions | Self::Opaque => 0,
        }
    }

    fn read(self, whole: &[u8]) -> Result<(Addresses, Option<u8>), Malformed> {
        let block = whole.get(FIXED..).unwrap_or_default();
        let addresses = match self {
            Self::Inet { stream: true } => inet::<4>(block),
            Self::Inet6 { stream: true } => inet::<16>(block),
            // A datagram's sender, or a path: no address that a TCP connection could have come from.
            _ => None,
        };
        let hops = match (self, read_extensions(whole, FIXED + self.needs())) {
            (Self::Opaque, _) => None,
            (Self::Extensions, Err(Fault::PastEnd)) => None,
            (_, found) => found.map_err(Fault::malformed)?,
        };
        Ok((addresses, hops))
    }
}

/// Both addresses, then both ports.
fn inet<const N: usize>(block: &[u8]) -> Addresses
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk()?;
    let (destination_port, _) = rest.split_first_chunk()?;
    let address = |ip: &[u8; N], port: &[u8; 2]| SocketAddr::new(IpAddr::from(*ip), u16::from_be_bytes(*port));
    Some((address(source, source_port), address(destination, destination_port)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    PastEnd,
    Checksum,
}

impl Fault {
    fn malformed(self) -> Malformed {
        match self {
            Self::PastEnd => Malformed("an extension that goes past the header's end"),
            Self::Checksum => Malformed("a checksum that is not the header's"),
        }
    }
}

/// Walks over type, length and value of each extension from `at` on, checks a checksum where one is, and returns the hops.
fn read_extensions(whole: &[u8], mut at: usize) -> Result<Option<u8>, Fault> {
    let (mut hops, mut checksum) = (None, None);
    while at < whole.len() {
        let Some(&[kind, high, low]) = whole.get(at..at + 3) else { return Err(Fault::PastEnd) };
        let end = at + 3 + usize::from(u16::from_be_bytes([high, low]));
        let value = whole.get(at + 3..end).ok_or(Fault::PastEnd)?;
        match (kind, value) {
            // Of several the largest: this number is there to end loops.
            (TYPE_HOPS, &[count]) => hops = hops.max(Some(count)),
            (TYPE_CRC32C, value) => {
                // With a second one neither could be right of the other.
                let value = <[u8; 4]>::try_from(value).ok().filter(|_| checksum.is_none());
                checksum = Some((at + 3, u32::from_be_bytes(value.ok_or(Fault::Checksum)?)));
            }
            _ => {}
        }
        at = end;
    }
    let Some((place, told)) = checksum else { return Ok(hops) };
    // Taken over the whole header, with zeros where the checksum itself stands.
    let cleared = whole.iter().enumerate().map(|(at, &byte)| if (place..place + 4).contains(&at) { 0 } else { byte });
    if crc32c(cleared) == told { Ok(hops) } else { Err(Fault::Checksum) }
}

/// A header of version 2, to be written whole before anything else. LOCAL unless both addresses are known: then the
/// service sees the connection as ours. Where one is IPv4 and the other IPv6, the former is told as `::ffff:a.b.c.d`.
/// `hops`: how many everlinks the connection has come through, this one included; `None` leaves it out.
pub fn emit_v2(source: Option<SocketAddr>, destination: Option<SocketAddr>, hops: Option<u8>) -> Vec<u8> {
    let (command, family, mut block) = match source.zip(destination) {
        None => (LOCAL, UNSPECIFIED, Vec::new()),
        Some((source, destination)) => {
            let (family, mut block) = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    (TCP4, [source.octets(), destination.octets()].concat())
                }
                (source, destination) => (TCP6, [mapped(source), mapped(destination)].concat()),
            };
            block.extend(source.port().to_be_bytes());
            block.extend(destination.port().to_be_bytes());
            (PROXY, family, block)
        }
    };
    if let Some(hops) = hops {
        block.extend([TYPE_HOPS, 0, 1, hops]);
    }
    // 40 bytes at most.
    let [low, high, ..] = block.len().to_le_bytes();
    [&SIGNATURE[..], &[command, family, high, low], &block].concat()
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
