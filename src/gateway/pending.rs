//! Connections that have not proven anything yet: how many there may be, and who makes room. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Whoever is honest has proven itself by then, on all but the longest ways.
const SPARED: Duration = Duration::from_secs(1);

/// How many may be pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub all: usize,
    /// From one address; of IPv6 from one network of /64, which is what one host is given.
    pub of_address: usize,
}

/// There is no room, and nobody has had time enough to be closed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Who was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    pub number: u64,
    /// The number of the one to close for it.
    pub instead_of: Option<u64>,
}

/// The connections, oldest first.
#[derive(Debug, Default)]
pub struct Pending {
    last: u64,
    all: BTreeMap<u64, (IpAddr, Instant)>,
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
}

impl Pending {
    /// One more, at `now`. At a bound the oldest that has had more than a second makes room: of the same address if it is
    /// that address's share, else of all.
    pub fn enter(&mut self, address: IpAddr, bounds: Bounds, now: Instant) -> Result<Entered, Full> {
        let address = network(address);
        let had_time = |number: &u64| {
            self.all.get(number).is_some_and(|(_, since)| now.saturating_duration_since(*since) > SPARED)
        };
        let of_address = self.by_address.get(&address);
        let oldest = if of_address.is_some_and(|of_address| of_address.len() >= bounds.of_address) {
            Some(of_address.and_then(BTreeSet::first))
        } else if self.all.len() >= bounds.all {
            Some(self.all.keys().next())
        } else {
            None
        };
        let instead_of = match oldest {
            Some(oldest) => Some(oldest.copied().filter(had_time).ok_or(Full)?),
            None => None,
        };
        if let Some(number) = instead_of {
            self.leave(number);
        }
        self.last += 1;
        self.all.insert(self.last, (address, now));
        self.by_address.entry(address).or_default().insert(self.last);
        Ok(Entered { number: self.last, instead_of })
    }

    /// It has proven itself, or is gone. False: it had been closed for another.
    pub fn leave(&mut self, number: u64) -> bool {
        let Some((address, _)) = self.all.remove(&number) else { return false };
        if let Some(of_address) = self.by_address.get_mut(&address) {
            of_address.remove(&number);
            if of_address.is_empty() {
                self.by_address.remove(&address);
            }
        }
        true
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { all: 4, of_address: 2 };

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn entered(number: u64, instead_of: Option<u64>) -> Result<Entered, Full> {
        Ok(Entered { number, instead_of })
    }

    #[test]
    fn the_share_of_an_address_is_made_room_for_by_its_own_oldest() {
        let start = Instant::now();
        let mut pending = Pending::default();
        assert_eq!(pending.enter(ip("10.0.0.9"), BOUNDS, start), entered(1, None));
        assert_eq!(pending.enter(ip("10.0.0.1"), BOUNDS, start), entered(2, None));
        assert_eq!(pending.enter(ip("10.0.0.1"), BOUNDS, start), entered(3, None));
        assert_eq!(pending.enter(ip("10.0.0.1"), BOUNDS, start + SPARED), Err(Full), "a second each is theirs");
        let later = start + SPARED + Duration::from_millis(1);
        assert_eq!(pending.enter(ip("10.0.0.1"), BOUNDS, later), entered(4, Some(2)));
        assert_eq!(pending.enter(ip("::ffff:10.0.0.1"), BOUNDS, later), entered(5, Some(3)), "the same address");
        assert_eq!(pending.enter(ip("10.0.0.1"), BOUNDS, later), Err(Full));
        assert!(!pending.leave(2), "closed already");
        assert!(pending.leave(4));
        assert_eq!(pending.enter(ip("10.0.0.1"), BOUNDS, later), entered(6, None));
        assert_eq!(pending.all.len(), 3);
    }

    #[test]
    fn at_the_bound_of_all_the_oldest_of_all_goes() {
        let start = Instant::now();
        let mut pending = Pending::default();
        for n in 1..=4u8 {
            let address = IpAddr::from([10, 0, 0, n]);
            assert_eq!(pending.enter(address, BOUNDS, start), entered(n.into(), None));
        }
        assert_eq!(pending.enter(ip("10.0.0.9"), BOUNDS, start), Err(Full));
        assert_eq!(pending.enter(ip("10.0.0.9"), BOUNDS, start + 2 * SPARED), entered(5, Some(1)));
        assert_eq!(pending.all.len(), BOUNDS.all);
        (2..=5).for_each(|number| assert!(pending.leave(number)));
        assert!(pending.all.is_empty() && pending.by_address.is_empty(), "nothing is remembered of who left");
    }

    #[test]
    fn of_ipv6_a_whole_network_of_64_bits_is_one_address() {
        let start = Instant::now();
        let mut pending = Pending::default();
        for host in ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"] {
            assert!(pending.enter(ip(host), BOUNDS, start).is_ok());
        }
        assert_eq!(pending.enter(ip("2001:db8:0:1::3"), BOUNDS, start), Err(Full));
        assert!(pending.enter(ip("2001:db8:0:2::1"), BOUNDS, start).is_ok());
    }
}
