//! Warm links whose name leads elsewhere: they are renewed, one by one, while they still serve.

use std::net::SocketAddr;

use super::Pool;
use crate::config::Address;
use crate::link::names::{Led, Names};
use crate::metrics::LinkState;

impl Pool {
    /// The names to be asked for.
    pub fn names(&self) -> Names {
        Names::new(&self.resolver, &self.current())
    }

    /// The warm links that names led to where they are. Connections in use are their clients'.
    pub fn led(&self) -> Vec<Led> {
        let settings = self.current();
        let host = |endpoint: &str| {
            let endpoint = settings.endpoints.iter().find(|known| known.name == endpoint)?;
            match &endpoint.address {
                Address::Host { host, .. } => Some(host.clone()),
                Address::Ip(_) | Address::Unix(_) => None,
            }
        };
        let links = self.status.links();
        let led = links.iter().filter_map(|link| {
            let view = link.view();
            let warm = matches!(view.state, LinkState::Up | LinkState::Suspect);
            let host = host(view.endpoint.as_deref()?).filter(|_| warm)?;
            let address: SocketAddr = view.address.as_deref()?.parse().ok()?;
            Some(Led { link: link.id, host, address: address.ip() })
        });
        led.collect()
    }
}
