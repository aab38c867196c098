//! Which endpoint to dial, and which have lately failed. Pure.
//!
//! An endpoint that failed is put at the end of every order until a scout, one extra link, has found it well again: a dead
//! endpoint must not cost each dial a connect timeout.

use std::time::{Duration, Instant};

use crate::config::{Balance, Endpoint, Retry};
use crate::link::backoff;

/// What is known of one endpoint.
#[derive(Debug)]
struct Known {
    endpoint: Endpoint,
    /// Dials failed in a row.
    failed: u32,
    /// When a scout may try it again.
    retry_at: Option<Instant>,
    /// Connections to it, warm and in use.
    connections: usize,
    /// Those of them that have proven themselves.
    proven: usize,
}

/// The endpoints of one upstream.
#[derive(Debug)]
pub struct Endpoints {
    known: Vec<Known>,
    balance: Balance,
    turn: usize,
    random: fastrand::Rng,
}

impl Endpoints {
    pub fn new(endpoints: &[Endpoint], balance: Balance, seed: u64) -> Self {
        let mut made = Self { known: Vec::new(), balance, turn: 0, random: fastrand::Rng::with_seed(seed) };
        made.replace(endpoints, balance);
        made
    }

    /// Takes an edited list; what is known of those that stay is kept.
    pub fn replace(&mut self, endpoints: &[Endpoint], balance: Balance) {
        let mut old = std::mem::take(&mut self.known);
        self.balance = balance;
        self.known = endpoints
            .iter()
            .map(|endpoint| match old.iter().position(|known| known.endpoint.address == endpoint.address) {
                Some(at) => Known { endpoint: endpoint.clone(), ..old.swap_remove(at) },
                None => Known { endpoint: endpoint.clone(), failed: 0, retry_at: None, connections: 0, proven: 0 },
            })
            .collect();
    }

    pub fn contains(&self, endpoint: &Endpoint) -> bool {
        self.find(endpoint).is_some()
    }

    /// The endpoints in the order in which a dial should try them.
    pub fn order(&mut self) -> Vec<Endpoint> {
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn;
        let count = self.known.len().max(1);
        let mut order: Vec<usize> = (0..self.known.len()).collect();
        let ill = |known: &Known| known.failed > 0;
        match self.balance {
            Balance::Priority => order.sort_by_key(|&i| (ill(&self.known[i]), self.known[i].endpoint.priority)),
            Balance::RoundRobin => {
                order.sort_by_key(|&i| (ill(&self.known[i]), (i + count - turn % count) % count));
            }
            Balance::LeastConnections => {
                let key = |i: usize| (self.known[i].connections, (i + count - turn % count) % count);
                order.sort_by_key(|&i| (ill(&self.known[i]), key(i)));
            }
        }
        order.into_iter().map(|i| self.known[i].endpoint.clone()).collect()
    }

    /// A dial to this endpoint came to nothing.
    pub fn failed(&mut self, endpoint: &Endpoint, retry: &Retry, now: Instant) {
        if let Some(i) = self.find(endpoint) {
            let known = &mut self.known[i];
            known.failed = known.failed.saturating_add(1);
            known.retry_at = Some(now + backoff::after_failures(retry, known.failed, &mut self.random));
        }
    }

    /// It answers again, and has stood as long as the balance asks.
    pub fn recovered(&mut self, endpoint: &Endpoint) {
        if let Some(i) = self.find(endpoint) {
            self.known[i].failed = 0;
            self.known[i].retry_at = None;
        }
    }

    /// Operators and edits clear the memory of failures.
    pub fn forget_failures(&mut self) {
        for known in &mut self.known {
            known.failed = 0;
            known.retry_at = None;
        }
    }

    /// Whether the endpoint counts as failing.
    pub fn is_failing(&self, endpoint: &Endpoint) -> bool {
        self.find(endpoint).is_some_and(|i| self.known[i].failed > 0)
    }

    pub fn connected(&mut self, endpoint: &Endpoint) {
        if let Some(i) = self.find(endpoint) {
            self.known[i].connections += 1;
        }
    }

    pub fn proven(&mut self, endpoint: &Endpoint) {
        if let Some(i) = self.find(endpoint) {
            self.known[i].proven += 1;
        }
    }

    /// A connection is gone, proven or not. Returns how many proven ones are left.
    pub fn disconnected(&mut self, endpoint: &Endpoint, proven: bool) -> usize {
        let Some(i) = self.find(endpoint) else { return 0 };
        let known = &mut self.known[i];
        known.connections = known.connections.saturating_sub(1);
        known.proven = known.proven.saturating_sub(usize::from(proven));
        known.proven
    }

    /// A failing endpoint whose time for a scout has come, if another one is well (else the links themselves find out);
    /// with priorities only one better than the best that is well. Marks it as being tried.
    pub fn scout(&mut self, now: Instant) -> Option<Endpoint> {
        let best = self.known.iter().filter(|known| known.failed == 0).map(|known| known.endpoint.priority).min()?;
        let due = self.known.iter_mut().find(|known| {
            let wanted = self.balance != Balance::Priority || known.endpoint.priority <= best;
            wanted && known.retry_at.is_some_and(|at| at <= now)
        })?;
        due.retry_at = None;
        Some(due.endpoint.clone())
    }

    /// When to ask for a scout again.
    pub fn next_scout(&self) -> Option<Instant> {
        if self.known.iter().all(|known| known.failed > 0) {
            return None;
        }
        self.known.iter().filter_map(|known| known.retry_at).min()
    }

    /// Whether a link to `endpoint` should move, because a better one is well.
    pub fn is_outdone(&self, endpoint: &Endpoint) -> bool {
        self.balance == Balance::Priority
            && self.known.iter().any(|known| known.failed == 0 && known.endpoint.priority < endpoint.priority)
    }

    fn find(&self, endpoint: &Endpoint) -> Option<usize> {
        self.known.iter().position(|known| known.endpoint.address == endpoint.address)
    }
}

/// How long a scout's link must stand before its endpoint counts as well.
pub fn standing_time(balance: Balance, retry: &Retry) -> Duration {
    if balance == Balance::Priority { retry.stable_after } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Address, Jitter};

    fn endpoint(name: &str, priority: u32) -> Endpoint {
        Endpoint { name: name.into(), address: Address::Host { host: name.into(), port: 1 }, priority }
    }

    fn retry() -> Retry {
        Retry {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(30),
            multiplier: 2.0,
            jitter: Jitter::Off,
            attempts: None,
            stable_after: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
        }
    }

    fn names(order: &[Endpoint]) -> Vec<&str> {
        order.iter().map(|endpoint| endpoint.name.as_str()).collect()
    }

    #[test]
    fn the_best_priority_comes_first_until_it_fails() {
        let (a, b) = (endpoint("a", 1), endpoint("b", 2));
        let mut all = Endpoints::new(&[b.clone(), a.clone()], Balance::Priority, 0);
        assert_eq!(names(&all.order()), ["a", "b"]);
        let now = Instant::now();
        all.failed(&a, &retry(), now);
        assert_eq!(names(&all.order()), ["b", "a"], "a dead one costs no dial its timeout");
        assert!(!all.is_outdone(&b));
        assert_eq!(all.scout(now), None, "not before its backoff");
        let due = all.next_scout().expect("one is due");
        assert_eq!(all.scout(due), Some(a.clone()));
        assert_eq!(all.scout(due), None, "one scout at a time");
        all.recovered(&a);
        assert_eq!(names(&all.order()), ["a", "b"]);
        assert!(all.is_outdone(&b));
    }

    #[test]
    fn with_all_failing_the_links_themselves_find_out() {
        let (a, b) = (endpoint("a", 1), endpoint("b", 2));
        let mut all = Endpoints::new(&[a.clone(), b.clone()], Balance::Priority, 0);
        let now = Instant::now();
        all.failed(&a, &retry(), now);
        all.failed(&b, &retry(), now);
        assert_eq!(all.next_scout(), None);
        assert_eq!(all.scout(now + Duration::from_secs(60)), None);
        assert_eq!(names(&all.order()), ["a", "b"]);
    }

    #[test]
    fn round_robin_takes_turns_and_least_connections_evens_out() {
        let list = [endpoint("a", 1), endpoint("b", 1), endpoint("c", 1)];
        let mut all = Endpoints::new(&list, Balance::RoundRobin, 0);
        let firsts: Vec<_> = (0..6).map(|_| all.order()[0].name.clone()).collect();
        assert_eq!(firsts, ["b", "c", "a", "b", "c", "a"]);

        let mut all = Endpoints::new(&list, Balance::LeastConnections, 0);
        for _ in 0..30 {
            let first = all.order()[0].clone();
            all.connected(&first);
        }
        assert!(all.known.iter().all(|known| known.connections == 10));
    }

    #[test]
    fn an_edit_keeps_what_is_known_of_those_that_stay() {
        let (a, b, c) = (endpoint("a", 1), endpoint("b", 2), endpoint("c", 3));
        let mut all = Endpoints::new(&[a.clone(), b.clone()], Balance::Priority, 0);
        all.failed(&a, &retry(), Instant::now());
        for _ in 0..2 {
            all.connected(&b);
            all.proven(&b);
        }
        all.connected(&b);
        all.replace(&[c, b.clone(), a.clone()], Balance::Priority);
        assert_eq!(names(&all.order()), ["b", "c", "a"]);
        assert_eq!(all.disconnected(&b, false), 2);
        assert_eq!(all.disconnected(&b, true), 1);
        assert!(all.is_failing(&a));
    }
}
