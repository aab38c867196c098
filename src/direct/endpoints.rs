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
    /// Connections to it: warm, in use, being made.
    connections: usize,
    /// Those of them that are proven.
    live: usize,
}

/// The endpoints of one upstream.
#[derive(Debug)]
pub struct Endpoints {
    known: Vec<Known>,
    /// Removed by an edit, but with connections still open: one that comes back is found to have them.
    leaving: Vec<Known>,
    balance: Balance,
    turn: usize,
    random: fastrand::Rng,
}

impl Endpoints {
    pub fn new(endpoints: &[Endpoint], balance: Balance, seed: u64) -> Self {
        let mut made =
            Self { known: Vec::new(), leaving: Vec::new(), balance, turn: 0, random: fastrand::Rng::with_seed(seed) };
        made.replace(endpoints, balance);
        made
    }

    /// Takes an edited list; what is known of those that stay is kept.
    pub fn replace(&mut self, endpoints: &[Endpoint], balance: Balance) {
        let mut old = std::mem::take(&mut self.known);
        old.append(&mut self.leaving);
        self.balance = balance;
        self.known = endpoints
            .iter()
            .map(|endpoint| match old.iter().position(|known| known.endpoint.address == endpoint.address) {
                Some(at) => Known { endpoint: endpoint.clone(), ..old.swap_remove(at) },
                None => Known { endpoint: endpoint.clone(), failed: 0, retry_at: None, connections: 0, live: 0 },
            })
            .collect();
        old.retain(|known| known.connections > 0);
        self.leaving = old;
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

    /// Dials failed in a row, of links and scouts together.
    pub fn failures(&self, endpoint: &Endpoint) -> u32 {
        self.find(endpoint).map_or(0, |i| self.known[i].failed)
    }

    /// Whether the endpoint counts as failing.
    #[cfg(test)]
    fn is_failing(&self, endpoint: &Endpoint) -> bool {
        self.find(endpoint).is_some_and(|i| self.known[i].failed > 0)
    }

    /// Whether every endpoint counts as failing: then whoever gets through clears its name, for no scout will.
    pub fn are_all_failing(&self) -> bool {
        self.known.iter().all(|known| known.failed > 0)
    }

    /// A connection to it is being made, and still to be proven.
    pub fn dialled(&mut self, endpoint: &Endpoint) {
        if let Some(known) = self.counted(endpoint) {
            known.connections += 1;
        }
    }

    /// A connection to it is proven.
    pub fn proven(&mut self, endpoint: &Endpoint) {
        if let Some(known) = self.counted(endpoint) {
            known.live += 1;
        }
    }

    /// A connection to it is gone, or came to nothing. `proven`: it was.
    pub fn disconnected(&mut self, endpoint: &Endpoint, proven: bool) {
        if let Some(known) = self.counted(endpoint) {
            known.connections = known.connections.saturating_sub(1);
            known.live = known.live.saturating_sub(usize::from(proven));
        }
        self.leaving.retain(|known| known.connections > 0);
    }

    /// Whether a proven connection to it stands.
    pub fn is_live(&self, endpoint: &Endpoint) -> bool {
        self.find(endpoint).is_some_and(|i| self.known[i].live > 0)
    }

    fn counted(&mut self, endpoint: &Endpoint) -> Option<&mut Known> {
        let mut all = self.known.iter_mut().chain(&mut self.leaving);
        all.find(|known| known.endpoint.address == endpoint.address)
    }

    /// A failing endpoint whose time for a scout has come, if another one is well (else the links themselves find out);
    /// with priorities only one better than the best that is well. Marks it as being tried.
    pub fn scout(&mut self, now: Instant) -> Option<Endpoint> {
        let due = |known: &&Known| known.retry_at.is_some_and(|at| at <= now);
        let endpoint = self.worth_scouting().find(due)?.endpoint.clone();
        if let Some(i) = self.find(&endpoint) {
            self.known[i].retry_at = None;
        }
        Some(endpoint)
    }

    /// When to ask for a scout again.
    pub fn next_scout(&self) -> Option<Instant> {
        self.worth_scouting().filter_map(|known| known.retry_at).min()
    }

    /// A scout is back. If it brought nothing, whatever the cause, the next one waits as after any other failure.
    pub fn scouted(&mut self, endpoint: &Endpoint, retry: &Retry, now: Instant) {
        if self.find(endpoint).is_some_and(|i| self.known[i].failed > 0 && self.known[i].retry_at.is_none()) {
            self.failed(endpoint, retry, now);
        }
    }

    fn worth_scouting(&self) -> impl Iterator<Item = &Known> {
        let best = self.known.iter().filter(|known| known.failed == 0).map(|known| known.endpoint.priority).min();
        let by_priority = self.balance == Balance::Priority;
        let wanted = move |known: &&Known| best.is_some_and(|best| !by_priority || known.endpoint.priority <= best);
        self.known.iter().filter(|known| known.failed > 0).filter(wanted)
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
        assert!(!all.are_all_failing(), "a scout's first connection clears no name");
        all.scouted(&a, &retry(), due);
        assert!(all.next_scout().is_some_and(|next| next > due), "one that brought nothing is followed by another");
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
            all.dialled(&first);
        }
        assert!(all.known.iter().all(|known| known.connections == 10));
    }

    #[test]
    fn an_edit_keeps_what_is_known_of_those_that_stay() {
        let (a, b, c) = (endpoint("a", 1), endpoint("b", 2), endpoint("c", 3));
        let mut all = Endpoints::new(&[a.clone(), b.clone()], Balance::Priority, 0);
        all.failed(&a, &retry(), Instant::now());
        all.dialled(&b);
        all.replace(&[c, b.clone(), a.clone()], Balance::Priority);
        assert_eq!(names(&all.order()), ["b", "c", "a"]);
        assert_eq!(all.known[1].connections, 1);
        assert!(all.is_failing(&a));
    }
    #[test]
    fn an_endpoint_nobody_would_move_to_asks_for_no_scout() {
        let (a, b) = (endpoint("a", 1), endpoint("b", 2));
        let mut all = Endpoints::new(&[a.clone(), b.clone()], Balance::Priority, 0);
        let now = Instant::now();
        all.failed(&a, &retry(), now);
        all.failed(&b, &retry(), now);
        all.recovered(&a);
        assert_eq!(all.next_scout(), None, "or the keeper would never sleep");
        assert_eq!(all.scout(now + Duration::from_secs(60)), None);
    }

    #[test]
    fn an_endpoint_that_comes_back_has_the_connections_it_left_with() {
        let (a, b) = (endpoint("a", 1), endpoint("b", 1));
        let mut all = Endpoints::new(&[a.clone(), b.clone()], Balance::LeastConnections, 0);
        all.dialled(&b);
        all.proven(&b);
        all.replace(std::slice::from_ref(&a), Balance::LeastConnections);
        assert!(!all.contains(&b) && !all.is_live(&b));
        all.replace(&[a.clone(), b.clone()], Balance::LeastConnections);
        assert!(all.is_live(&b));
        all.dialled(&b);
        all.proven(&b);
        all.disconnected(&b, true);
        assert!(all.is_live(&b), "the old one's end is not the new one's");
        all.disconnected(&b, true);
        assert!(!all.is_live(&b));
        all.dialled(&b);
        all.replace(&[a], Balance::LeastConnections);
        all.disconnected(&b, false);
        assert!(all.leaving.is_empty(), "nothing is kept of what has gone for good");
    }
}
