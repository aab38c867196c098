//! One upstream, and what the program asks of it, whichever its mode is: direct, to any server, or tunnel, to a gateway.
//!
//! What it reads from files is read first, which may fail; everything after that cannot.

#![forbid(unsafe_code)]

mod direct;
mod tunnel;

use std::sync::Arc;

use crate::config;
use crate::direct::keeper::Direct;
use crate::link::drill;
use crate::listener::Arrivals;
use crate::net::renewal::Reread;
use crate::net::tls::ClientTls;
use crate::session::hello::Token;
use crate::status::UpstreamStatus;
use crate::surroundings::Surroundings;
use crate::tunnel::token;
use tunnel::Tunnel;

/// A running upstream of either mode.
pub trait Upstream: Send + Sync {
    fn status(&self) -> &Arc<UpstreamStatus>;

    /// Whom its listeners bring their clients to, in the order of its forwards; in direct mode there is one.
    fn arrivals(&self) -> Vec<Arc<dyn Arrivals>>;

    /// Takes new settings of the same mode; what depends on them follows by itself.
    fn apply(&self, settings: &Arc<config::Upstream>);

    /// Takes what was read from other files: from the next dial on.
    fn take_files(&self, files: Files);

    /// TLS as the next dial will use it; `None`: plain TCP.
    fn tls(&self) -> Option<Arc<ClientTls>>;

    /// Reads the same files again, and says of each kind that looks different whether it is used from now on.
    fn reload_files(&self) -> Vec<Reread>;

    /// Whether its files, when they were last read, held what cannot be used: older content is in force then. `None`: it
    /// names no files.
    fn are_files_unusable(&self) -> Option<bool>;

    /// Cuts every wait for a redial short.
    fn retry(&self);

    /// This machine was suspended: every link is asked at once whether it lives, and every wait for a redial is over.
    fn woken(&self);

    /// Clients accepted and not yet gone.
    fn clients(&self) -> usize;

    /// Resets every connection that is carried; returns how many they were.
    fn cut(&self) -> usize;

    /// Ends the links, and lets clients stay within the drain time; the series go last.
    fn remove(&self);

    /// Rehearses an outage on the first link that is up. Errors: why not, for people.
    fn drill(&self, order: drill::Order) -> Result<drill::Begun, String>;

    /// Ends the drill that runs. Returns what ended, for people. Errors: none runs.
    fn stop_drill(&self) -> Result<String, String>;
}

/// What an upstream's files hold.
#[derive(Clone, Default)]
pub struct Files {
    pub tls: Option<Arc<ClientTls>>,
    /// Tunnel mode only.
    pub token: Option<Arc<Token>>,
}

impl Files {
    /// Reads and judges them. Errors: what is wrong with which file, in one line.
    pub fn read(settings: &config::Upstream) -> Result<Self, String> {
        let make = if settings.tunnel.is_some() { ClientTls::for_tunnel } else { ClientTls::new };
        let tls = settings.tls.as_ref().map(make).transpose().map_err(|fault| fault.to_string())?;
        let token_file = settings.tunnel.as_ref().and_then(|tunnel| tunnel.token_file.as_ref());
        let token = token_file.map(|path| token::read(path)).transpose()?;
        Ok(Self { tls: tls.map(Arc::new), token: token.map(Arc::new) })
    }

    /// Whether two settings name the same files, to be used in the same way.
    pub fn are_the_same(one: &config::Upstream, other: &config::Upstream) -> bool {
        let of_tunnel = |upstream: &config::Upstream| upstream.tunnel.as_ref().map(|tunnel| tunnel.token_file.clone());
        one.tls == other.tls && of_tunnel(one) == of_tunnel(other)
    }
}

/// Starts an upstream in its mode.
pub fn start(settings: &Arc<config::Upstream>, files: Files, around: Surroundings<'_>) -> Arc<dyn Upstream> {
    match &settings.tunnel {
        None => Arc::new(Direct::start(settings, files.tls, around)),
        Some(_) => Arc::new(Tunnel::start(settings, files, around)),
    }
}
