//! The clients of one upstream who wait for a link, whoever came first before all others. Pure, but for the gauge.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use prometheus::IntGauge;

/// A client who may wait.
pub trait Waits {
    /// When it was accepted.
    fn accepted(&self) -> Instant;
}

/// See the module.
#[derive(Debug)]
pub struct Waiting<C> {
    clients: VecDeque<C>,
    closed: bool,
    gauge: IntGauge,
}

impl<C: Waits> Waiting<C> {
    /// `gauge` shows how many there are.
    pub fn new(gauge: IntGauge) -> Self {
        Self { clients: VecDeque::new(), closed: false, gauge }
    }

    pub fn len(&self) -> usize {
        self.clients.len()
    }

    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Nobody is to be let in any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Lets a client wait. One who has waited before has its old place.
    pub fn insert(&mut self, client: C) {
        let place = self.clients.partition_point(|other| other.accepted() <= client.accepted());
        self.clients.insert(place, client);
        self.show();
    }

    /// Whoever came first.
    pub fn take_first(&mut self) -> Option<C> {
        let client = self.clients.pop_front();
        self.show();
        client
    }

    pub fn take_all(&mut self) -> VecDeque<C> {
        let clients = std::mem::take(&mut self.clients);
        self.show();
        clients
    }

    /// Those who have waited for `wait`, and when the next one will have.
    pub fn take_late(&mut self, now: Instant, wait: Duration) -> (Vec<C>, Option<Instant>) {
        let late = self.clients.partition_point(|client| client.accepted() + wait <= now);
        let late = self.clients.drain(..late).collect();
        self.show();
        (late, self.clients.front().map(|client| client.accepted() + wait))
    }

    /// Nobody waits any more, and nobody will be let in. Returns those who did.
    pub fn close(&mut self) -> VecDeque<C> {
        self.closed = true;
        self.take_all()
    }

    fn show(&self) {
        self.gauge.set(self.clients.len() as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Client(u32, Instant);

    impl Waits for Client {
        fn accepted(&self) -> Instant {
            self.1
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn whoever_came_first_is_served_first_and_refused_first() {
        let gauge = IntGauge::new("waiting", "clients").unwrap();
        let (mut waiting, start) = (Waiting::new(gauge.clone()), Instant::now());
        let client = |second| Client(second, start + SECOND * second);
        for second in [1, 2, 4, 0, 3] {
            waiting.insert(client(second));
        }
        assert_eq!(gauge.get(), 5);
        assert_eq!(waiting.take_first(), Some(client(0)), "who comes again has its old place");
        let (late, next) = waiting.take_late(start + SECOND * 12, SECOND * 10);
        assert_eq!((late, next), (vec![client(1), client(2)], Some(start + SECOND * 13)));
        assert_eq!((waiting.len(), gauge.get()), (2, 2));
        assert_eq!(waiting.take_late(start + SECOND * 12, SECOND * 10), (vec![], Some(start + SECOND * 13)));
        assert!(!waiting.is_closed());
        assert_eq!(waiting.close(), [client(3), client(4)]);
        assert!(waiting.is_closed() && waiting.is_empty() && gauge.get() == 0);
        assert_eq!(waiting.take_late(start, SECOND), (vec![], None));
    }

    #[test]
    fn two_of_the_same_moment_keep_their_order() {
        let (mut waiting, now) = (Waiting::new(IntGauge::new("waiting", "clients").unwrap()), Instant::now());
        waiting.insert(Client(1, now));
        waiting.insert(Client(2, now));
        assert_eq!(waiting.take_all(), [Client(1, now), Client(2, now)]);
    }
}
