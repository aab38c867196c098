//! How long to wait before a redial. Pure.

use std::time::Duration;

use crate::config::{Jitter, Retry};

/// A link that had stood redials first within this time, so that many links lost at once do not all dial at once.
const FIRST_SPREAD: Duration = Duration::from_secs(1);

/// No jittered wait is shorter than this, so that a refusing peer is never dialled in a tight loop.
const SHORTEST: Duration = Duration::from_millis(10);

/// The wait before the first redial of a link that had stood: anywhere up to a second, or `initial` if that is shorter.
pub fn after_standing(retry: &Retry, random: &mut fastrand::Rng) -> Duration {
    FIRST_SPREAD.min(retry.initial).mul_f64(random.f64())
}

/// The wait after `failed` tries in a row (1 for the first): `initial × multiplier^(failed − 1)`, capped at `max`, then
/// jittered. Jitter is taken from the capped wait, so the spread stays at the cap.
pub fn after_failures(retry: &Retry, failed: u32, random: &mut fastrand::Rng) -> Duration {
    let exponent = i32::try_from(failed.saturating_sub(1)).unwrap_or(i32::MAX);
    // The product may reach infinity; the comparison with the cap is then still right.
    let grown = retry.initial.as_secs_f64() * retry.multiplier.powi(exponent);
    let whole = if grown < retry.max.as_secs_f64() { Duration::from_secs_f64(grown) } else { retry.max };
    match retry.jitter {
        Jitter::Off => whole,
        Jitter::Full => whole.mul_f64(random.f64()).max(SHORTEST.min(whole)),
        Jitter::Share(share) => whole.mul_f64(1.0 - share * random.f64()).max(SHORTEST.min(whole)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(jitter: Jitter) -> Retry {
        Retry {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(30),
            multiplier: 2.0,
            jitter,
            attempts: None,
            stable_after: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn without_jitter_the_wait_doubles_up_to_the_cap() {
        let mut random = fastrand::Rng::with_seed(1);
        let waits: Vec<_> = (1..=8).map(|n| after_failures(&retry(Jitter::Off), n, &mut random).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        assert_eq!(after_failures(&retry(Jitter::Off), u32::MAX, &mut random), Duration::from_secs(30));
    }

    #[test]
    fn the_spread_does_not_vanish_at_the_cap() {
        for (jitter, low) in [(Jitter::Full, 0.0), (Jitter::Share(0.5), 15.0)] {
            let mut random = fastrand::Rng::with_seed(7);
            let waits: Vec<_> =
                (0..1000).map(|_| after_failures(&retry(jitter), 20, &mut random).as_secs_f64()).collect();
            let (least, most) = waits.iter().fold((f64::MAX, 0f64), |(l, m), &w| (l.min(w), m.max(w)));
            assert!(least >= low && least < low + 1.0, "{jitter:?} begins at {least}");
            assert!(most > 29.0 && most <= 30.0, "{jitter:?} ends at {most}");
        }
    }

    #[test]
    fn a_link_that_stood_redials_within_a_second() {
        let mut random = fastrand::Rng::with_seed(3);
        let slow = Retry { initial: Duration::from_secs(3), jitter: Jitter::Off, ..retry(Jitter::Off) };
        for _ in 0..1000 {
            assert!(after_standing(&slow, &mut random) <= Duration::from_secs(1));
        }
    }
}
