//! TCP connections, one by one and several in a race.

use std::io;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep_until};

use crate::link::attempts::Attempts;
use crate::link::race::{Race, Step};
use crate::net::socket;

/// A connection, and how long its connect call took.
pub type Connected = (TcpStream, Duration);

/// Races the addresses. When all fail, the most telling failure is reported: that a host has no IPv6 says nothing about
/// an endpoint whose IPv4 address refuses.
pub async fn race(addresses: Vec<SocketAddr>) -> Result<(SocketAddr, Connected), (Option<SocketAddr>, io::Error)> {
    let mut race = Race::new(addresses, Instant::now());
    let mut attempts = Attempts::new();
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut worst: Option<(SocketAddr, io::Error)> = None;
    loop {
        let (number, outcome) = match race.step(Instant::now()) {
            Step::Start(address) => {
                attempts.start(tried.len(), connect(address));
                tried.push(address);
                continue;
            }
            Step::WaitUntil(at) => tokio::select! {
                done = attempts.next() => done,
                () = sleep_until(at) => continue,
            },
            Step::Wait => attempts.next().await,
            Step::Lost => {
                return Err(match worst {
                    Some((address, error)) => (Some(address), error),
                    None => (None, io::Error::from(io::ErrorKind::AddrNotAvailable)),
                });
            }
        };
        match outcome {
            Ok(connected) => return Ok((tried[number], connected)),
            Err(error) => {
                race.failed(Instant::now());
                if worst.as_ref().is_none_or(|(_, worst)| telling(&error) >= telling(worst)) {
                    worst = Some((tried[number], error));
                }
            }
        }
    }
}

/// Failures that only mean "not by this family from here" tell the least.
pub fn telling(error: &io::Error) -> u8 {
    let aside = matches!(
        error.raw_os_error(),
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
    );
    u8::from(!aside)
}

/// One TCP connection. The way of every refill, some 10,000 times a second, so it makes few system calls: what keeps a
/// connection alive for long ([`socket::sustain`]) is set on those that live for a second.
pub async fn connect(address: SocketAddr) -> io::Result<Connected> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket::nodelay(&socket)?;
    socket::suit_loopback(&socket, address.ip());
    let begun = Instant::now();
    let stream = socket.connect(address).await?;
    let connect_rtt = begun.elapsed();
    if is_to_itself(&stream, address)? {
        let _ = socket::reset_on_close(&stream);
        return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
    }
    Ok((stream, connect_rtt))
}

/// TCP lets a socket connect to itself when the kernel happens to give it the very port it dials, on this host and with
/// nobody listening. It would echo for ever and keep the server from its port.
pub fn is_to_itself(stream: &TcpStream, address: SocketAddr) -> io::Result<bool> {
    Ok(ephemeral_ports().contains(&address.port()) && stream.local_addr()? == address)
}

/// The ports the kernel gives to those who dial.
fn ephemeral_ports() -> &'static std::ops::RangeInclusive<u16> {
    static PORTS: OnceLock<std::ops::RangeInclusive<u16>> = OnceLock::new();
    PORTS.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let mut numbers = text.split_whitespace().map(str::parse::<u16>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(last))) => first..=last,
            _ => 1024..=u16::MAX,
        }
    })
}
