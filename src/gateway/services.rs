//! From the name of a service to a connection: what it means, who may, and where it must not lead.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::config::{self, Address, Endpoint, Service};
use crate::link::dial::{self, DialOptions, Dialled};
use crate::link::resolve::Resolver;
use crate::net::descriptors::Descriptors;
use crate::net::identity::Identity;
use crate::net::proxy_protocol;
use crate::net::transport::Transport;
use crate::session::{Opening, RefusalCode};
use crate::tunnel::driver::Local;

/// For resolving and connecting together, at first: the default of `retry.connect_timeout`.
const WITHIN: Duration = Duration::from_secs(5);
/// Between the first two dials of one stream, and the longest between any two: a server that is back is found within a
/// second.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The service a peer asks for by `name`, if there is one and the peer may use it. The two are not told apart: who may
/// not use a service need not learn that it exists.
pub fn find<'g>(gateway: &'g config::Gateway, name: &str, identity: Option<&Identity>) -> Option<&'g Service> {
    let service = gateway.services.get(name)?;
    let may = match &service.allow {
        None => true,
        Some(allow) => identity.is_some_and(|identity| allow.iter().any(|one| one == identity.as_str())),
    };
    may.then_some(service)
}

/// Connects to `service` for a stream, and for as long as `wait` again when it cannot be reached: a server that restarts is
/// back in a moment. Errors: what the peer is told; why, is in `tell`'s hands. Dropping the future closes the socket.
pub async fn connect(
    service: Service,
    opening: &Opening,
    resolver: &Resolver,
    wait: Duration,
    tell: impl FnOnce(&str),
) -> Result<Local, RefusalCode> {
    let Some(held) = Descriptors::shared().try_take(1) else {
        tell("no descriptor is left for it: raise the limit of this process (ulimit -n, LimitNOFILE)");
        return Err(RefusalCode::Limit);
    };
    let dialled = match reach_within(&opening.service, &service.address, resolver, wait).await {
        Ok(dialled) => dialled,
        Err(why) => {
            tell(&why);
            return Err(RefusalCode::Unreachable);
        }
    };
    let mut transport = dialled.transport;
    if service.proxy_protocol {
        let hops = opening.hops.saturating_add(1);
        let header = proxy_protocol::emit_v2(opening.client, opening.local, Some(hops));
        if let Err(error) = write_whole(&mut transport, &header).await {
            tell(&format!("the PROXY protocol header could not be sent: {error}"));
            return Err(RefusalCode::Unreachable);
        }
    }
    Ok(Local { transport, guard: Box::new(held) })
}

/// Why a service is not reached.
enum Unreached {
    /// What it is may be over in a moment.
    Perhaps(String),
    /// It stays as it is until somebody mends it.
    Never(String),
}

async fn reach_within(name: &str, address: &Address, resolver: &Resolver, wait: Duration) -> Result<Dialled, String> {
    let end = Instant::now() + wait;
    let mut pause = FIRST_PAUSE;
    let mut within = WITHIN;
    loop {
        let why = match reach(name, address, resolver, within).await {
            Ok(dialled) => return Ok(dialled),
            Err(Unreached::Never(why)) => return Err(why),
            Err(Unreached::Perhaps(why)) => why,
        };
        // Not all those who wait at once, as they came at once when the server went.
        let spread = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        if Instant::now() + spread >= end {
            return Err(why);
        }
        tracing::debug!(service = name, "a stream waits for its service: {why}");
        tokio::time::sleep(spread).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        within = WITHIN.min(end.saturating_duration_since(Instant::now()));
    }
}

/// Once, all within `within`.
async fn reach(name: &str, address: &Address, resolver: &Resolver, within: Duration) -> Result<Dialled, Unreached> {
    let deadline = Instant::now() + within;
    let target = Endpoint { name: name.to_owned(), address: address.clone(), priority: 1 };
    let options = DialOptions { connect_timeout: within, tls: None, known_as: None };
    let Address::Host { host, port } = address else {
        // A literal address is the operator's word.
        return dial::dial(&target, &options, resolver).await.map_err(|error| Unreached::Perhaps(error.to_string()));
    };
    let answer = resolver.resolve(host, *port, within).await;
    let mut addresses = answer.map_err(|error| Unreached::Perhaps(format!("{name}: {error}")))?.addresses;
    addresses.retain(|address| !is_off_limits(address.ip()));
    if addresses.is_empty() {
        return Err(Unreached::Never(format!(
            "{name}: DNS leads {host} to link-local addresses only, where a host's metadata stands; write the address \
             itself if that is meant"
        )));
    }
    let dialled = dial::dial_any(&target, addresses, &options, deadline).await;
    dialled.map_err(|error| Unreached::Perhaps(error.to_string()))
}

/// AWS's metadata service; all others' are link-local.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Where a name must not lead: whoever answers DNS would reach this host's own metadata service through us.
fn is_off_limits(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address == METADATA,
    }
}

/// In one write: receivers may take what comes first for the whole.
async fn write_whole(transport: &mut Transport, header: &[u8]) -> std::io::Result<()> {
    // A fresh socket has room for some fifty bytes.
    let count = transport.write(header).await?;
    if count < header.len() { Err(std::io::ErrorKind::WriteZero.into()) } else { Ok(()) }
}
