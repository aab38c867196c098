//! `realm LISTEN SERVER [SECONDS]`: realm's core, as its own program runs it: tokio's default runtime and default options,
//! or a TCP keepalive of three probes, so many seconds apart.

#![forbid(unsafe_code)]

use std::error::Error;

use realm_core::endpoint::{BindOpts, ConnectOpts, Endpoint, RemoteAddr};

fn main() -> Result<(), Box<dyn Error>> {
    let mut addresses = std::env::args().skip(1);
    let mut address = || addresses.next().ok_or("usage: realm LISTEN SERVER [SECONDS]");
    let (laddr, raddr) = (address()?.parse()?, RemoteAddr::SocketAddr(address()?.parse()?));
    let seconds = addresses.next().map_or(Ok(0), |word| word.parse())?;
    let endpoint = Endpoint {
        laddr,
        raddr,
        bind_opts: BindOpts::default(),
        conn_opts: ConnectOpts { tcp_keepalive: seconds, tcp_keepalive_probe: 3, ..ConnectOpts::default() },
        extra_raddrs: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(realm_core::tcp::run_tcp(endpoint))?)
}
