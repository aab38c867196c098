//! The upstreams that run, and how they change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::config::{self, Config};
use crate::lifecycle::Clients;
use crate::link::drill;
use crate::listener::{Arrivals, Owner};
use crate::metrics::{Metrics, Mode};
use crate::net::renewal::Reread;
use crate::surroundings::Surroundings;
use crate::upstream::{self, Files, Upstream};

/// Names longer than this are nobody's slip of the pen, in bytes.
const COMPARED_MAX: usize = 256;

/// By name.
#[derive(Default)]
pub struct Upstreams {
    running: HashMap<String, Arc<dyn Upstream>>,
    /// Removed ones, while clients of theirs may stay.
    leaving: Vec<Arc<dyn Upstream>>,
}

impl Upstreams {
    /// Reads the files that `new` names and `old` does not, or for another use. What is wrong is told to `errors`.
    pub fn prepare(&self, old: &Config, new: &Config, errors: &mut Vec<String>) -> BTreeMap<String, Files> {
        let mut made = BTreeMap::new();
        for (name, settings) in &new.upstreams {
            let same = |old: &Arc<config::Upstream>| is_same_mode(old, settings) && Files::are_the_same(old, settings);
            if old.upstreams.get(name).is_some_and(same) {
                continue;
            }
            match Files::read(settings) {
                Ok(files) => {
                    made.insert(name.clone(), files);
                }
                Err(fault) => errors.push(format!("{name}: {fault}")),
            }
        }
        made
    }

    /// Starts and changes what differs. Those that are not wanted any more, or not in that mode, are returned: they run on
    /// until [let go](Self::let_go).
    pub fn change<'a>(
        &mut self,
        old: &Config,
        new: &Config,
        mut files: BTreeMap<String, Files>,
        around: impl Fn() -> Surroundings<'a>,
    ) -> Vec<Arc<dyn Upstream>> {
        let mut gone = Vec::new();
        for (name, settings) in &new.upstreams {
            let files = files.remove(name);
            let have_changed = files.is_some();
            let before = old.upstreams.get(name).filter(|before| is_same_mode(before, settings));
            match self.running.get(name).zip(before) {
                Some((upstream, before)) => {
                    if let Some(files) = files {
                        upstream.take_files(files);
                    }
                    if before != settings {
                        upstream.apply(settings);
                    }
                }
                None => {
                    gone.extend(self.running.remove(name));
                    let upstream = upstream::start(settings, files.unwrap_or_default(), around());
                    self.running.insert(name.clone(), upstream);
                }
            }
            // Last, for a start forgets the series of a predecessor.
            if let Some(upstream) = self.running.get(name).filter(|_| have_changed) {
                show_files(&around().status.metrics, name, &**upstream);
            }
        }
        gone.extend(self.running.extract_if(|name, _| !new.upstreams.contains_key(name)).map(|(_, upstream)| upstream));
        gone
    }

    /// Ends them; their clients may stay until `drain.timeout`.
    pub fn let_go(&mut self, gone: Vec<Arc<dyn Upstream>>) {
        self.leaving.retain(|upstream| upstream.clients() > 0);
        for upstream in gone {
            upstream.remove();
            self.leaving.push(upstream);
        }
    }

    /// Whom the listeners bring their clients to.
    pub fn arrivals(&self) -> HashMap<Owner, Arc<dyn Arrivals>> {
        let of_one = |(name, upstream): (&String, &Arc<dyn Upstream>)| {
            let owner = |forward| Owner { upstream: name.clone(), forward };
            upstream.arrivals().into_iter().enumerate().map(|(n, arrivals)| (owner(n), arrivals)).collect::<Vec<_>>()
        };
        self.running.iter().flat_map(of_one).collect()
    }

    /// Shows the addresses that were really bound.
    pub fn show_listening(&self, mut listening: HashMap<Owner, Vec<String>>) {
        for (name, upstream) in &self.running {
            let of = |forward| Owner { upstream: name.clone(), forward };
            let all = (0..upstream.arrivals().len()).map(|n| listening.remove(&of(n)).unwrap_or_default());
            upstream.status().listens(all.collect());
        }
    }

    /// What has become of changed files, by upstream.
    pub fn reload_files(&self, metrics: &Metrics) -> Vec<(String, Reread)> {
        let mut all = Vec::new();
        for (name, upstream) in &self.running {
            let reread = upstream.reload_files();
            show_files(metrics, name, &**upstream);
            if reread.iter().any(Reread::is_used) {
                // Perhaps what they hold is what the links were waiting for.
                upstream.retry();
            }
            all.extend(reread.into_iter().map(|reread| (name.clone(), reread)));
        }
        all
    }

    /// Cuts the waits of one upstream's links short, or of all. Returns how many waited; `None`: there is no such upstream.
    pub fn retry(&self, upstream: Option<&str>) -> Option<usize> {
        let of = |upstream: &Arc<dyn Upstream>| {
            let waiting = upstream.status().links().iter().filter(|link| link.view().is_waiting()).count();
            upstream.retry();
            waiting
        };
        match upstream {
            Some(name) => self.running.get(name).map(of),
            None => Some(self.running.values().map(of).sum()),
        }
    }

    /// This machine was suspended: no link waits for its timers.
    pub fn woken(&self) {
        self.running.values().chain(&self.leaving).for_each(|upstream| upstream.woken());
    }

    /// Begins a drill of one upstream. Errors: why not, for people.
    pub fn drill(&self, upstream: &str, order: drill::Order) -> Result<drill::Begun, String> {
        self.named(upstream)?.drill(order)
    }

    /// Ends the drill of one upstream. Returns what ended, for people. Errors: there is none.
    pub fn stop_drill(&self, upstream: &str) -> Result<String, String> {
        self.named(upstream)?.stop_drill()
    }

    fn named(&self, upstream: &str) -> Result<&dyn Upstream, String> {
        self.running.get(upstream).map(Arc::as_ref).ok_or_else(|| self.unknown(upstream))
    }

    /// Begins the same at each upstream in tunnel mode. Returns what is done, for people.
    pub fn drill_tunnels(&self, order: drill::Order) -> Vec<String> {
        let tunnels = self.running.values().filter(|upstream| upstream.status().metrics.mode == Mode::Tunnel);
        tunnels.map(|upstream| upstream.drill(order).map_or_else(|why| why, |begun| begun.told)).collect()
    }

    /// Ends every drill.
    pub fn stop_drills(&self) {
        for upstream in self.running.values().chain(&self.leaving) {
            let _ = upstream.stop_drill();
        }
    }

    /// That there is no such upstream, with the name that was meant, if one is near.
    pub fn unknown(&self, upstream: &str) -> String {
        let distance = |name: &&String| strsim::damerau_levenshtein(&name.to_lowercase(), &upstream.to_lowercase());
        // What is compared takes time by the product of the lengths; no name is so long.
        let names = self.running.keys().filter(|_| upstream.len() <= COMPARED_MAX);
        match names.min_by_key(|name| (distance(name), (*name).clone())) {
            Some(near) if distance(&near) <= (near.len() / 3).max(1) => {
                format!("there is no upstream {upstream}; is {near} meant?")
            }
            _ => format!("there is no upstream {upstream}"),
        }
    }

    /// How many links an upstream has.
    pub fn links_of(&self, upstream: &str) -> Option<usize> {
        self.running.get(upstream).map(|upstream| upstream.status().links().len())
    }

    /// Clients of those that were removed under this name, while they may stay.
    pub fn leaving_clients(&self, upstream: &str) -> usize {
        let of_it = self.leaving.iter().filter(|leaving| leaving.status().name == upstream);
        of_it.map(|leaving| leaving.clients()).sum()
    }

    /// Clients of all, removed ones included while theirs may stay.
    pub fn clients(&self) -> Clients {
        let mut clients = Clients::default();
        for upstream in self.running.values().chain(&self.leaving) {
            clients.open += upstream.clients();
            clients.came += upstream.status().metrics.connections_total.get();
        }
        clients
    }

    /// Resets what is left, and ends all; returns how many connections that were.
    pub fn stop(&mut self) -> usize {
        let all: Vec<_> = self.running.drain().map(|(_, upstream)| upstream).collect();
        let cut = all.iter().chain(&self.leaving).map(|upstream| upstream.cut()).sum();
        self.let_go(all);
        cut
    }
}

fn is_same_mode(one: &config::Upstream, other: &config::Upstream) -> bool {
    Mode::of(one) == Mode::of(other)
}

fn show_files(metrics: &Metrics, name: &str, upstream: &dyn Upstream) {
    metrics.show_unusable_files(name, upstream.are_files_unusable());
    let ends = upstream.tls().map_or((None, None), |tls| (tls.client_not_after(), tls.ca_not_after()));
    for (role, end) in [("client", ends.0), ("ca", ends.1)] {
        match end {
            Some(end) => metrics.certificate_not_after(role, name).set(end as f64),
            None => metrics.remove_certificate(role, name),
        }
    }
}
