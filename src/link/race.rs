//! Which address to try when: both families in turn, a quarter of a second apart (RFC 8305, "Happy Eyeballs").
//!
//! Pure: `now` comes in, one step goes out. Whoever asks opens the sockets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// How long an attempt runs alone before the next one starts beside it (RFC 8305, section 8: "Connection Attempt
/// Delay").
pub const STAGGER: Duration = Duration::from_millis(250);

/// A race over the addresses of one endpoint; the first to connect wins it.
#[derive(Debug)]
pub struct Race {
    waiting: VecDeque<SocketAddr>,
    running: usize,
    next_at: Instant,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Start an attempt, then ask again.
    Start(SocketAddr),
    /// Ask again at this time, or when an attempt has failed.
    WaitUntil(Instant),
    /// Ask again when an attempt has failed.
    Wait,
    /// Every attempt has failed.
    Lost,
}

impl Race {
    /// The first address may start at once; after it the families take turns.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>, now: Instant) -> Self {
        Self { waiting: interleaved(addresses), running: 0, next_at: now }
    }

    pub fn step(&mut self, now: Instant) -> Step {
        if now >= self.next_at
            && let Some(address) = self.waiting.pop_front()
        {
            self.running += 1;
            self.next_at = now + STAGGER;
            return Step::Start(address);
        }
        match (self.waiting.is_empty(), self.running) {
            (false, _) => Step::WaitUntil(self.next_at),
            (true, 0) => Step::Lost,
            (true, _) => Step::Wait,
        }
    }

    /// An attempt has failed: the next one need not wait its turn.
    pub fn failed(&mut self, now: Instant) {
        self.running = self.running.saturating_sub(1);
        self.next_at = now;
    }
}

/// Alternates between the families, beginning with the first address's, each in its own order.
fn interleaved(addresses: impl IntoIterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let mut addresses = addresses.into_iter().peekable();
    let first_is_v6 = addresses.peek().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        addresses.partition(|address| address.is_ipv6() == first_is_v6);
    let mut order = VecDeque::with_capacity(first.len() + second.len());
    while !first.is_empty() || !second.is_empty() {
        order.extend(first.pop_front());
        order.extend(second.pop_front());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// All that may start now, and the step after them.
    fn started(race: &mut Race, now: Instant) -> (Vec<String>, Step) {
        let mut started = Vec::new();
        loop {
            match race.step(now) {
                Step::Start(address) => started.push(address.to_string()),
                step => return (started, step),
            }
        }
    }

    #[test]
    fn the_families_take_turns_beginning_with_the_first_one() {
        let order = |texts: &[&str]| interleaved(addresses(texts)).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            order(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]),
            ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]
        );
        assert_eq!(order(&["1.1.1.1:1", "2.2.2.2:1", "[::1]:1"]), ["1.1.1.1:1", "[::1]:1", "2.2.2.2:1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_gets_company_after_the_stagger_and_not_before() {
        let begun = Instant::now();
        let mut race = Race::new(addresses(&["[::1]:1", "1.1.1.1:1"]), begun);
        let second_at = begun + Duration::from_millis(250);
        assert_eq!(started(&mut race, begun), (vec!["[::1]:1".to_owned()], Step::WaitUntil(second_at)));
        let early = second_at - Duration::from_millis(1);
        assert_eq!(started(&mut race, early), (vec![], Step::WaitUntil(second_at)));
        assert_eq!(started(&mut race, second_at), (vec!["1.1.1.1:1".to_owned()], Step::Wait));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_next_at_once_and_the_last_failure_loses_the_race() {
        let now = Instant::now();
        let mut race = Race::new(addresses(&["1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1"]), now);
        assert_eq!(started(&mut race, now).0, ["1.1.1.1:1"]);
        let later = now + Duration::from_millis(10);
        race.failed(later);
        assert_eq!(started(&mut race, later), (vec!["2.2.2.2:1".to_owned()], Step::WaitUntil(later + STAGGER)));
        race.failed(later);
        assert_eq!(started(&mut race, later), (vec!["3.3.3.3:1".to_owned()], Step::Wait));
        race.failed(later);
        assert_eq!(race.step(later), Step::Lost);
    }

    #[tokio::test(start_paused = true)]
    async fn a_race_without_addresses_is_lost_from_the_start() {
        assert_eq!(Race::new([], Instant::now()).step(Instant::now()), Step::Lost);
    }
}
