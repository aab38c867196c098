//! Whether the names of endpoints still lead to where their links are.
//!
//! While a link stands, the name that led to its address is asked for again: when its answer may be kept no longer, but
//! not more often than every 30 s and at least every 5 min. A link whose address is gone from the answers is to move,
//! while the connection it has still stands.
//!
//! **When an address is gone.** Not when one answer is without it: a name may have many addresses and show a few of them,
//! others each time, and links would wander with it. It is gone when two answers in a row were without it. A name that
//! brings an address back, one that was missing, or one that links were told to leave, shows that it has that habit: then
//! twice as many answers are needed, at most 16, until nothing has come back for an hour. So a link follows a rotating
//! name a few times at first, and then seldom.
//!
//! What tells nothing changes nothing: a question that failed, the last good answer in place of one, an answer in which
//! the other family, or what was one too many, may be what is missing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use super::resolve::{Answer, ResolveError, Resolver};
use crate::clock::{self, sleep_until_or_never};
use crate::config::{Address, Upstream};

/// Between two questions for one name, whatever its TTL; up to a tenth more, so that many do not ask as one.
const BETWEEN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(300));
/// For a name that has no TTL, as in `/etc/hosts`, and after a question that failed.
const WITHOUT_TTL: Duration = Duration::from_secs(60);
/// Answers in a row without an address after which it is gone …
const ENOUGH: u32 = 2;
/// … and so many at most, of a name that brings addresses back.
const ENOUGH_MOST: u32 = 16;
/// A name has given the habit up when nothing has come back for so long.
const HABIT: Duration = Duration::from_secs(3600);
/// Of one question.
const WITHIN: Duration = Duration::from_secs(5);

/// A link that stands, and the name that led to its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Led {
    pub link: u64,
    pub host: String,
    pub address: IpAddr,
}

/// What an answer means for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its address is gone. Said again as long as the link stays there.
    Gone,
    /// And it has come back, before the link had left.
    Back,
}

/// The names of an upstream.
pub struct Names {
    resolver: Resolver,
    names: BTreeMap<String, Name>,
    asking: Option<Asking>,
}

type Asking = Pin<Box<dyn Future<Output = (String, Result<Answer, ResolveError>)> + Send>>;

impl Names {
    pub fn new(resolver: &Resolver, upstream: &Upstream) -> Self {
        let mut names = Self { resolver: resolver.clone(), names: BTreeMap::new(), asking: None };
        names.follow(upstream);
        names
    }

    /// The names as configured now. What is known of one that stays is kept.
    pub fn follow(&mut self, upstream: &Upstream) {
        let hosts = upstream.endpoints.iter().filter_map(|endpoint| match &endpoint.address {
            Address::Host { host, .. } => Some(host.clone()),
            Address::Ip(_) | Address::Unix(_) => None,
        });
        let hosts: BTreeSet<String> = hosts.collect();
        self.names.retain(|host, _| hosts.contains(host));
        for host in hosts {
            self.names.entry(host).or_insert_with(|| Name::new(clock::now() + BETWEEN.0.mul_f64(fastrand::f64())));
        }
    }

    /// Asks when it is time to, and returns when links are to be told something. `standing` says which there are.
    /// Cancel safe.
    pub async fn told(&mut self, standing: impl Fn() -> Vec<Led>) -> Vec<(u64, Verdict)> {
        loop {
            if let Some(asking) = &mut self.asking {
                let (host, outcome) = asking.await;
                self.asking = None;
                let told = self.answered(&host, outcome, &standing());
                if !told.is_empty() {
                    return told;
                }
                continue;
            }
            let next = self.names.iter().min_by_key(|(_, name)| name.due).map(|(host, name)| (host.clone(), name.due));
            sleep_until_or_never(next.as_ref().map(|(_, due)| *due)).await;
            let Some((host, _)) = next else { continue };
            if standing().iter().any(|led| led.host == host) {
                let resolver = self.resolver.clone();
                self.asking = Some(Box::pin(async move {
                    let answer = resolver.resolve(&host, 0, WITHIN).await;
                    (host, answer)
                }));
            } else if let Some(name) = self.names.get_mut(&host) {
                name.ask_after(BETWEEN.0);
            }
        }
    }

    fn answered(&mut self, host: &str, outcome: Result<Answer, ResolveError>, standing: &[Led]) -> Vec<(u64, Verdict)> {
        // It may have been edited away.
        let Some(name) = self.names.get_mut(host) else { return Vec::new() };
        let Ok(answer) = outcome else {
            name.ask_after(WITHOUT_TTL);
            return Vec::new();
        };
        name.ask_after(answer.ttl.unwrap_or(WITHOUT_TTL));
        if answer.stale.is_some() {
            return Vec::new();
        }
        let there: Vec<IpAddr> = answer.addresses.iter().map(|address| address.ip()).collect();
        name.answered(clock::now(), &there, answer.whole, standing.iter().filter(|led| led.host == host))
    }
}

/// One name, and what its answers were like. Pure.
#[derive(Debug)]
struct Name {
    due: Instant,
    enough: u32,
    /// When an address last came back.
    returned: Option<Instant>,
    /// Links whose address is missing, and in how many answers it was.
    missing: HashMap<u64, (IpAddr, u32)>,
    /// Addresses that links were told to leave.
    left: BTreeSet<IpAddr>,
}

impl Name {
    fn new(due: Instant) -> Self {
        Self { due, enough: ENOUGH, returned: None, missing: HashMap::new(), left: BTreeSet::new() }
    }

    fn ask_after(&mut self, ttl: Duration) {
        let wait = ttl.clamp(BETWEEN.0, BETWEEN.1);
        self.due = clock::now() + wait.mul_f64(1.0 + 0.1 * fastrand::f64());
    }

    /// `whole`: no address is missing for want of a nameserver's word.
    fn answered<'a>(
        &mut self,
        now: Instant,
        there: &[IpAddr],
        whole: bool,
        links: impl Iterator<Item = &'a Led>,
    ) -> Vec<(u64, Verdict)> {
        if self.returned.is_some_and(|at| now.saturating_duration_since(at) >= HABIT) {
            (self.enough, self.returned) = (ENOUGH, None);
        }
        let left = self.left.len();
        self.left.retain(|address| !there.contains(address));
        let mut returned = self.left.len() < left;
        let before = std::mem::take(&mut self.missing);
        let mut told = Vec::new();
        for Led { link, address, .. } in links {
            let was = before.get(link).filter(|(missing, _)| missing == address).map_or(0, |(_, times)| *times);
            if there.contains(address) {
                returned |= was > 0;
                if was >= self.enough {
                    told.push((*link, Verdict::Back));
                }
                continue;
            }
            let times = if whole { was.saturating_add(1) } else { was };
            self.missing.insert(*link, (*address, times));
            if whole && times >= self.enough {
                self.left.insert(*address);
                told.push((*link, Verdict::Gone));
            }
        }
        if returned {
            self.enough = (self.enough * 2).min(ENOUGH_MOST);
            self.returned = Some(now);
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::memory::{self, Habits};

    struct Nobody;

    impl memory::Tap for Nobody {
        fn stands(&mut self, _: usize, _: usize) {}
        fn wrote(&mut self, _: usize, _: usize, _: &[u8]) {}
        fn read(&mut self, _: usize, _: usize, _: usize) {}
        fn cut(&mut self, _: usize, _: usize, _: u64) {}
        fn closed(&mut self, _: usize, _: usize) {}
    }

    #[tokio::test(start_paused = true)]
    async fn fault_41_a_changed_answer_is_told_within_two_questions_and_nothing_else_is() {
        let _running = memory::begin(1, Vec::new(), Habits::calm(), Box::new(Nobody));
        let lead = |address: &str| memory::net(|network| network.names.insert("far.test".to_owned(), ip(address)));
        lead("10.0.0.1");
        let mut upstream = crate::http::example::tunnel("site");
        upstream.endpoints[0].address = Address::Host { host: "far.test".to_owned(), port: 7443 };
        let mut names = Names::new(&Resolver::default(), &upstream);
        let standing = || vec![Led { link: 7, host: "far.test".to_owned(), address: ip("10.0.0.1") }];
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, names.told(standing)).await.is_err(), "nothing has changed");
        lead("10.0.0.2");
        assert!(tokio::time::timeout(hour, names.told(Vec::new)).await.is_err(), "nobody stands there");
        let from = clock::now();
        assert_eq!(names.told(standing).await, [(7, Verdict::Gone)]);
        let took = clock::since(from);
        assert!(took > WITHOUT_TTL && took < BETWEEN.0 + 2 * WITHOUT_TTL, "{took:?}");
        lead("10.0.0.1");
        assert_eq!(names.told(standing).await, [(7, Verdict::Back)]);
        upstream.endpoints.clear();
        names.follow(&upstream);
        assert!(tokio::time::timeout(hour, names.told(standing)).await.is_err(), "there is no name any more");
    }

    /// One link, wherever it stands.
    struct Bench {
        name: Name,
        now: Instant,
        at: IpAddr,
    }

    impl Bench {
        fn new(at: &str) -> Self {
            Self { name: Name::new(Instant::now()), now: Instant::now(), at: ip(at) }
        }

        /// A minute later: what an answer of these addresses means for the link.
        fn answer(&mut self, there: &[&str], whole: bool) -> Option<Verdict> {
            self.now += Duration::from_secs(60);
            let there: Vec<IpAddr> = there.iter().map(|text| ip(text)).collect();
            let led = Led { link: 1, host: "gateway".to_owned(), address: self.at };
            let told = self.name.answered(self.now, &there, whole, std::iter::once(&led));
            told.first().map(|(_, verdict)| *verdict)
        }

        fn whole(&mut self, there: &[&str]) -> Option<Verdict> {
            self.answer(there, true)
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn fault_41_an_address_is_gone_after_two_answers_without_it() {
        let mut bench = Bench::new("10.0.0.1");
        assert_eq!(bench.whole(&["10.0.0.1"]), None);
        assert_eq!(bench.whole(&["10.0.0.2"]), None, "one answer may be chance");
        assert_eq!(bench.whole(&["10.0.0.2"]), Some(Verdict::Gone));
        assert_eq!(bench.whole(&["10.0.0.2"]), Some(Verdict::Gone), "as long as the link stays there");
        bench.at = ip("10.0.0.2");
        assert_eq!(bench.whole(&["10.0.0.2"]), None);
        assert!(bench.name.missing.is_empty());
    }

    #[test]
    fn an_address_among_others_is_there_and_one_that_comes_back_is_told_to_a_link_that_has_not_left() {
        let mut bench = Bench::new("10.0.0.1");
        assert_eq!(bench.whole(&["10.0.0.9", "10.0.0.1"]), None);
        bench.whole(&["10.0.0.2"]);
        assert_eq!(bench.whole(&["10.0.0.2"]), Some(Verdict::Gone));
        assert_eq!(bench.whole(&["10.0.0.1"]), Some(Verdict::Back));
        assert_eq!(bench.whole(&["10.0.0.1"]), None);
    }

    #[test]
    fn what_is_not_whole_says_nothing_of_what_is_missing() {
        let mut bench = Bench::new("2001:db8::1");
        for _ in 0..9 {
            assert_eq!(bench.answer(&["10.0.0.2"], false), None);
        }
        assert_eq!(bench.whole(&["10.0.0.2"]), None);
        assert_eq!(bench.answer(&["10.0.0.2"], false), None);
        assert_eq!(bench.whole(&["10.0.0.2"]), Some(Verdict::Gone), "the name has no IPv6 any more");
    }

    /// A name that shows one of four addresses, another each minute: a day of it moves a link a few times and no more.
    #[test]
    fn a_link_does_not_wander_with_a_name_that_rotates() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
            let mut bench = Bench::new(addresses[0]);
            let mut moves = [0, 0];
            for minute in 0..24 * 60 {
                let shown = addresses[random.usize(0..4)];
                if bench.whole(&[shown]) == Some(Verdict::Gone) {
                    moves[usize::from(minute >= 60)] += 1;
                    bench.at = ip(shown);
                }
            }
            assert!(
                moves[0] <= 5 && moves[1] <= 24,
                "seed {seed}: {moves:?} moves in the first hour, and in the day after it"
            );
        }
    }

    #[test]
    fn a_name_that_stays_put_for_an_hour_is_believed_as_soon_as_at_first() {
        let mut bench = Bench::new("10.0.0.1");
        for _ in 0..4 {
            bench.whole(&["10.0.0.2"]);
            bench.whole(&["10.0.0.1"]);
        }
        assert_eq!(bench.name.enough, ENOUGH_MOST);
        for _ in 0..60 {
            assert_eq!(bench.whole(&["10.0.0.1"]), None);
        }
        assert_eq!(bench.whole(&["10.0.0.2"]), None);
        assert_eq!(bench.whole(&["10.0.0.2"]), Some(Verdict::Gone));
    }
}
