//! The whole road on one machine: the servers that a configuration names, inside this process, and a client that talks to
//! one of them through the tunnel.
//!
//! Each server answers `ping` with `pong` and echoes everything else, as plain as the server of a tutorial. They can be
//! stopped for a while, to see the links fall and return. A gateway named in the file runs in this process as well, so a
//! tunnel's link can be cut and healed before one's eyes, while the client tells that nothing was lost.

#![forbid(unsafe_code)]

mod keys;
mod server;
mod tally;
mod welcome;
mod witness;

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::config::{Address, Config, Forward, ListenAddress};
use crate::listener::cure;
use keys::Keys;
pub use server::Server;
use witness::Witness;

/// How long a cut lasts, and how long a stopped server stays away.
pub const OUTAGE: Duration = Duration::from_secs(10);

/// How long the welcome waits for the tunnel's first answer.
const WELCOME_WITHIN: Duration = Duration::from_secs(3);

/// The variable that names the demo's token file, and where that is if it is not set: as the shipped `config.toml` has it.
pub const TOKEN: (&str, &str) = ("EVERLINK_TOKEN_FILE", "/tmp/everlink-demo.token");

/// What was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Cut the links of tunnels for [`OUTAGE`].
    Cut,
    /// End.
    Quit,
}

/// The servers, the client and the keys of a demo that runs.
pub struct Demo {
    servers: Vec<Server>,
    witness: Option<Witness>,
    keys: Keys,
    welcome: String,
}

impl Demo {
    /// Starts the servers that this configuration names. Errors: for people, which of them cannot listen.
    pub async fn start(config: &Config, path: &Path) -> Result<Self, String> {
        let mut servers = Vec::new();
        for address in addresses(config) {
            let server = Server::start(address).await;
            let told = |error| format!("the demo's server cannot listen on {address}: {error}{}", cure(&error));
            servers.push(server.map_err(told)?);
            tracing::info!(%address, "the demo's echo server listens");
        }
        let keys = Keys::from_terminal();
        let program = std::env::args_os().next().map(|name| name.to_string_lossy().into_owned());
        let program = program.as_deref().unwrap_or("everlink");
        let welcome = welcome::welcome(config, path, program, keys.are_heard(), witnessed(config).is_some());
        Ok(Self { servers, witness: None, keys, welcome })
    }

    /// To be called when everything listens: starts the client, and says what can be tried once it is answered.
    pub fn begin(&mut self, config: &Config) {
        self.witness = witnessed(config).map(Witness::start);
        let answered = self.witness.as_ref().map(Witness::answered);
        let welcome = self.welcome.clone();
        tokio::spawn(async move {
            if let Some(answered) = answered {
                let _ = tokio::time::timeout(WELCOME_WITHIN, answered).await;
            }
            tell(&welcome);
        });
    }

    /// The next key that is not the demo's own affair.
    pub async fn next(&mut self) -> Key {
        loop {
            match self.keys.next().await.as_str() {
                "c" => return Key::Cut,
                "q" => return Key::Quit,
                "s" => {
                    tell(&format!("the echo server is away for {} s", OUTAGE.as_secs()));
                    self.servers.iter().for_each(|server| server.go_away_for(OUTAGE));
                }
                "" => {}
                _ => tell(welcome::KEYS),
            }
        }
    }

    /// The client leaves, and says what it has seen.
    pub async fn end(&mut self) {
        if let Some(witness) = self.witness.take() {
            tell(&witness.end().await);
        }
    }
}

/// [`Demo::end`], if there is a demo.
pub async fn end(demo: &mut Option<Demo>) {
    if let Some(demo) = demo {
        demo.end().await;
    }
}

/// The next key of the demo, if there is one; never ready otherwise.
pub async fn next(demo: &mut Option<Demo>) -> Key {
    match demo {
        Some(demo) => demo.next().await,
        None => std::future::pending().await,
    }
}

/// Says it to whoever watches: on a terminal so that it stands out from the log, elsewhere as lines of the log.
pub fn tell(text: &str) {
    if !io::stdout().is_terminal() {
        text.lines().for_each(|line| tracing::info!("{}", line.trim()));
        return;
    }
    let (bold, plain) = if crate::cli::colours() { ("\x1b[1;36m", "\x1b[0m") } else { ("", "") };
    let (first, rest) = text.split_once('\n').map_or((text, None), |(first, rest)| (first, Some(rest)));
    let rest = rest.map_or_else(String::new, |rest| format!("{rest}\n"));
    // A terminal that has gone is no reason to panic.
    let _ = write!(io::stdout().lock(), "{bold}demo: {first}{plain}\n{rest}");
}

/// The loopback addresses that a configuration's endpoints and services name: those this process may serve itself. What a
/// tunnel dials is the gateway's.
pub fn addresses(config: &Config) -> Vec<SocketAddr> {
    let direct = config.upstreams.values().filter(|upstream| upstream.tunnel.is_none());
    let endpoints = direct.flat_map(|upstream| &upstream.endpoints).map(|endpoint| &endpoint.address);
    let services = config.gateway.iter().flat_map(|gateway| gateway.services.values()).map(|service| &service.address);
    let mut all: Vec<_> = endpoints
        .chain(services)
        .filter_map(|address| match address {
            Address::Ip(address) if address.ip().is_loopback() => Some(*address),
            _ => None,
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

/// Where a client reaches one of [`addresses`] through a tunnel of this process: the first such door.
fn witnessed(config: &Config) -> Option<SocketAddr> {
    let (gateway, servers) = (config.gateway.as_ref()?, addresses(config));
    let echoes = |service: &str| match gateway.services.get(service).map(|service| &service.address) {
        Some(Address::Ip(address)) => servers.contains(address),
        _ => false,
    };
    let forwards = config.upstreams.values().filter_map(|upstream| upstream.tunnel.as_ref()).flat_map(|t| &t.forwards);
    let plain = |forward: &&Forward| forward.accept_proxy_protocol.is_empty() && echoes(&forward.service);
    let doors = forwards.filter(plain).flat_map(|forward| &forward.listen);
    doors.into_iter().find_map(|door| match door {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    })
}

/// Makes a random token for the demo's tunnel, readable by this user alone, unless there is one. Errors: the file cannot be
/// made.
pub fn provide_token(path: &Path) -> io::Result<()> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system has no random numbers"))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(mut file) => writeln!(file, "{text}"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
