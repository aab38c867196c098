//! From an endpoint's host to its addresses, asked anew at every dial.
//!
//! Order: a literal address, `/etc/hosts`, `localhost`, DNS as `/etc/resolv.conf` says. There is no cache of answers:
//! a changed record is seen by the next dial. Two things stand in for one: dials that ask for the same host at the same
//! time share one question, and when DNS fails the last good answer serves on, so that a dead nameserver does not take
//! living upstreams down.

mod ask;
mod files;
#[cfg(test)]
pub(super) mod nameserver;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use ask::Lack;
use files::{Hosts, ResolvConf, Watched};

/// Addresses kept of one answer. A race at 250 ms each would not get further in any connect timeout in use.
const ANSWER_MAX: usize = 32;
/// Hosts whose last good answer is remembered: 1,024 upstreams of 16 endpoints.
const REMEMBERED_MAX: usize = 16_384;
/// How old a last good answer may be when no nameserver can tell (RFC 8767 suggests one to three days).
const GOOD_WITHOUT_DNS: Duration = Duration::from_secs(24 * 60 * 60);
/// And when DNS says that there is nothing: long enough for a nameserver that restarts empty, short enough that an
/// address given to someone else is not dialled for long.
const GOOD_AGAINST_DNS: Duration = Duration::from_secs(5 * 60);

/// Finds addresses. Clones share everything; usable from any number of runtimes, each of which may vanish.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

/// Where a resolver reads what it goes by.
#[derive(Debug, Clone)]
pub struct Sources {
    pub resolv_conf: PathBuf,
    pub hosts: PathBuf,
    /// The port nameservers listen on.
    pub port: u16,
}

impl Default for Sources {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into(), port: 53 }
    }
}

/// The addresses of a host.
#[derive(Debug, Clone)]
pub struct Answer {
    /// At least one, at most 32, IPv6 before IPv4, each family in the order of its source.
    pub addresses: Vec<SocketAddr>,
    /// Set when DNS failed and these are the last good addresses: how it failed.
    pub stale: Option<ResolveError>,
    /// How long DNS lets the answer be kept; `None`: it is not from DNS.
    pub ttl: Option<Duration>,
    /// Nothing is left out, and nothing is missing that a slow or broken nameserver may yet have told, such as the other
    /// family.
    pub whole: bool,
}

/// Why a host has no addresses.
#[derive(Debug, Clone, Error)]
pub enum ResolveError {
    #[error("{host} does not exist in DNS: check its spelling and the search domains in {resolv_conf}")]
    NoSuchName { host: String, resolv_conf: String },
    #[error("{host} exists in DNS but has no address: check its A and AAAA records")]
    NoAddress { host: String },
    #[error("DNS could not tell the address of {host} ({answer}): check the nameservers in {resolv_conf}")]
    Failed { host: String, answer: String, resolv_conf: String },
    #[error(
        "no nameserver told the address of {host} within {within:?}: check that those in {resolv_conf} can be reached"
    )]
    Silent { host: String, within: Duration, resolv_conf: String },
    #[error("cannot ask for the address of {host}: {source}")]
    Local { host: String, source: Arc<io::Error> },
    #[error("{host} is no host name: labels have 1 to 63 characters, a name at most 253")]
    BadName { host: String },
}

impl ResolveError {
    /// DNS has spoken, and there is nothing.
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::NoSuchName { .. } | Self::NoAddress { .. })
    }

    /// This process or host could not even ask.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local { .. })
    }
}

struct Shared {
    sources: Sources,
    hosts: Mutex<Watched<Hosts>>,
    resolv_conf: Mutex<Watched<ResolvConf>>,
    remembered: Mutex<HashMap<String, LastGood>>,
    flights: Mutex<HashMap<String, watch::Receiver<Option<Outcome>>>>,
}

type Outcome = Result<Told, ResolveError>;

/// What DNS told.
#[derive(Debug, Clone)]
struct Told {
    addresses: Arc<[IpAddr]>,
    ttl: Duration,
    whole: bool,
}

#[derive(Debug, Clone)]
struct LastGood {
    addresses: Arc<[IpAddr]>,
    at: Instant,
    /// That it stands in for DNS has been logged.
    told: bool,
}

impl LastGood {
    fn serves(&self, error: &ResolveError, now: Instant) -> bool {
        let limit = if error.is_denial() { GOOD_AGAINST_DNS } else { GOOD_WITHOUT_DNS };
        now.saturating_duration_since(self.at) <= limit
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new(Sources::default())
    }
}

impl Resolver {
    /// Never fails: files are read when asked, and a missing `resolv.conf` means the nameserver on this host.
    pub fn new(sources: Sources) -> Self {
        let shared = Shared {
            hosts: Mutex::new(Watched::new(&sources.hosts, Hosts::parse)),
            resolv_conf: Mutex::new(Watched::new(&sources.resolv_conf, ResolvConf::parse)),
            sources,
            remembered: Mutex::default(),
            flights: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The addresses of `host`, each with `port`, in at most `within`. While a last good answer is at hand, DNS gets
    /// half of that, so that time is left to dial. Dropping the future closes its sockets.
    pub async fn resolve(&self, host: &str, port: u16, within: Duration) -> Result<Answer, ResolveError> {
        let fresh = |addresses: &[IpAddr]| Answer {
            addresses: with_port(addresses, port),
            stale: None,
            ttl: None,
            whole: true,
        };
        if let Ok(literal) = host.parse::<IpAddr>() {
            return Ok(fresh(&[literal]));
        }
        #[cfg(test)]
        if let Some(addresses) = crate::net::memory::addresses(host) {
            return Ok(fresh(&addresses));
        }
        if let Some(addresses) = self.shared.without_dns(host) {
            return Ok(fresh(&addresses));
        }
        let asked = Instant::now();
        let fallback = locked(&self.shared.remembered).get(host).cloned();
        let patience = if fallback.is_some() { within / 2 } else { within };
        let outcome = match timeout_at(asked + patience, self.shared.question(host)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let resolv_conf = self.shared.resolv_conf_name();
                Err(ResolveError::Silent { host: host.to_owned(), within: patience, resolv_conf })
            }
        };
        match outcome {
            Ok(told) => {
                self.shared.remember(host, &told.addresses);
                Ok(Answer { ttl: Some(told.ttl), whole: told.whole, ..fresh(&told.addresses) })
            }
            Err(error) => match fallback.filter(|last| last.serves(&error, Instant::now())) {
                Some(last) => {
                    self.shared.tell_once(host, &error);
                    Ok(Answer { stale: Some(error), ..fresh(&last.addresses) })
                }
                None => Err(error),
            },
        }
    }
}

impl Shared {
    /// What `/etc/hosts` says, and what `localhost` means without it (RFC 6761, section 6.3).
    fn without_dns(&self, host: &str) -> Option<Vec<IpAddr>> {
        let hosts = locked(&self.hosts).current();
        if let Some(addresses) = hosts.addresses(host) {
            return Some(bounded(addresses));
        }
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        (name == "localhost" || name.ends_with(".localhost"))
            .then(|| vec![IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)])
    }

    /// Asks DNS, or joins whoever is asking for the same host. Whoever asks may be dropped at any moment, with its
    /// runtime; the next in line then asks.
    async fn question(&self, host: &str) -> Outcome {
        loop {
            let flight = {
                let mut flights = locked(&self.flights);
                match flights.get(host) {
                    Some(joined) => Err(joined.clone()),
                    None => {
                        let (outcome, joined) = watch::channel(None);
                        flights.insert(host.to_owned(), joined);
                        Ok(Flight { shared: self, host, outcome })
                    }
                }
            };
            match flight {
                Ok(flight) => {
                    let outcome = self.ask(host).await;
                    flight.outcome.send_replace(Some(outcome.clone()));
                    return outcome;
                }
                Err(mut joined) => {
                    if let Ok(outcome) = joined.wait_for(Option::is_some).await
                        && let Some(outcome) = outcome.clone()
                    {
                        return outcome;
                    }
                }
            }
        }
    }

    async fn ask(&self, host: &str) -> Outcome {
        let conf = locked(&self.resolv_conf).current();
        let mut worst: Option<Lack> = None;
        for candidate in conf.candidates(host) {
            let lack = match Name::from_str_relaxed(&candidate) {
                Ok(name) => match ask::addresses(&name, self.sources.port, &conf).await {
                    Ok(found) => {
                        let addresses = bounded(&found.addresses);
                        let whole = found.whole && found.addresses.iter().all(|address| addresses.contains(address));
                        return Ok(Told { addresses: addresses.into(), ttl: found.ttl, whole });
                    }
                    Err(lack) => lack,
                },
                // Too long with this search domain; as it stands it may be fine.
                Err(_) => continue,
            };
            // Nameservers that are silent, or a host out of descriptors, will not know the next name either.
            let hopeless = matches!(lack, Lack::Silent | Lack::Local(_));
            worst = Some(worst.map_or(lack.clone(), |worst| worst.or_worse(lack)));
            if hopeless {
                break;
            }
        }
        Err(self.error(host, worst, &conf))
    }

    fn error(&self, host: &str, lack: Option<Lack>, conf: &ResolvConf) -> ResolveError {
        let host = host.to_owned();
        let resolv_conf = self.resolv_conf_name();
        match lack {
            None => ResolveError::BadName { host },
            Some(Lack::NoSuchName) => ResolveError::NoSuchName { host, resolv_conf },
            Some(Lack::NoAddress) => ResolveError::NoAddress { host },
            Some(Lack::Failed(answer)) => ResolveError::Failed { host, answer, resolv_conf },
            Some(Lack::Silent) => {
                let within = conf.timeout * conf.attempts as u32;
                ResolveError::Silent { host, within, resolv_conf }
            }
            Some(Lack::Local(source)) => ResolveError::Local { host, source },
        }
    }

    fn resolv_conf_name(&self) -> String {
        self.sources.resolv_conf.display().to_string()
    }

    fn remember(&self, host: &str, addresses: &Arc<[IpAddr]>) {
        let mut remembered = locked(&self.remembered);
        if !remembered.contains_key(host) && remembered.len() >= REMEMBERED_MAX {
            let oldest = remembered.iter().min_by_key(|(_, last)| last.at).map(|(host, _)| host.clone());
            oldest.and_then(|host| remembered.remove(&host));
        }
        let last = LastGood { addresses: addresses.clone(), at: Instant::now(), told: false };
        if remembered.insert(host.to_owned(), last).is_some_and(|before| before.told) {
            tracing::info!(host, "DNS answers again");
        }
    }

    /// One line an outage, not one a dial.
    fn tell_once(&self, host: &str, error: &ResolveError) {
        if let Some(last) = locked(&self.remembered).get_mut(host)
            && !std::mem::replace(&mut last.told, true)
        {
            tracing::warn!(host, %error, "DNS failed; the last addresses it gave serve on");
        }
    }
}

/// A question under way, known to others until it is answered or dropped.
struct Flight<'a> {
    shared: &'a Shared,
    host: &'a str,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        locked(&self.shared.flights).remove(self.host);
    }
}

/// A panic elsewhere leaves these maps whole: each change is one call.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with_port(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
}

/// No address twice, IPv6 first, and at most [`ANSWER_MAX`], of which each family keeps half if it needs it.
fn bounded(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut families = [Vec::new(), Vec::new()];
    for address in addresses {
        let family = &mut families[usize::from(address.is_ipv4())];
        if family.len() < ANSWER_MAX && !family.contains(address) {
            family.push(*address);
        }
    }
    let [mut v6, mut v4] = families;
    v6.truncate(ANSWER_MAX - v4.len().min(ANSWER_MAX / 2));
    v4.truncate(ANSWER_MAX - v6.len());
    v6.append(&mut v4);
    v6
}

#[cfg(test)]
mod tests;
