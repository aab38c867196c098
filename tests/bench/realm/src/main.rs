//! `realm LISTEN SERVER`: realm's core, as its own program runs it: tokio's default runtime and default options.

#![forbid(unsafe_code)]

use std::error::Error;

use realm_core::endpoint::{BindOpts, ConnectOpts, Endpoint, RemoteAddr};

fn main() -> Result<(), Box<dyn Error>> {
    let mut addresses = std::env::args().skip(1);
    let mut address = || addresses.next().ok_or("usage: realm LISTEN SERVER");
    let endpoint = Endpoint {
        laddr: address()?.parse()?,
        raddr: RemoteAddr::SocketAddr(address()?.parse()?),
        bind_opts: BindOpts::default(),
        conn_opts: ConnectOpts::default(),
        extra_raddrs: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(realm_core::tcp::run_tcp(endpoint))?)
}
