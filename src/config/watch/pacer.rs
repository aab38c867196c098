//! When to tell about a burst of changes. Time comes in, a time goes out.

use std::time::{Duration, Instant};

/// How long a save may take from its first step (a temporary file, say) to its last. Editors need a few milliseconds;
/// a person does not feel a tenth of a second.
pub(super) const DEBOUNCE: Duration = Duration::from_millis(100);

/// How long a file has to look the same where only its looks tell that it was changed: its writer may not be done.
/// Together with the poll it keeps such a change within two seconds.
pub(super) const SETTLE: Duration = Duration::from_millis(500);

/// A burst without a pause is not waited for any longer than this.
const LONGEST_DEBOUNCE: Duration = Duration::from_millis(300);

/// Nor is a file that never looks the same.
const LONGEST_SETTLE: Duration = Duration::from_secs(2);

/// Later changes are told at least so far apart: a reload is not free, and each may log.
pub(super) const SPACING: Duration = Duration::from_secs(1);

/// How far a change can be trusted to be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Notice {
    /// Something was created, or looks different: it may still be written to.
    Unsure,
    /// A writer closed the file, or a name was moved or removed: whoever did it is done.
    Whole,
}

#[derive(Debug, Clone, Copy)]
struct Burst {
    began: Instant,
    at: Instant,
    notice: Notice,
}

/// Gathers the changes of a burst into one, and spaces bursts out.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    burst: Option<Burst>,
    told: Option<Instant>,
}

impl Pacer {
    /// Something has changed, or may have.
    pub(super) fn notice(&mut self, now: Instant, notice: Notice) {
        let Some(burst) = &mut self.burst else {
            let wait = if notice == Notice::Whole { DEBOUNCE } else { SETTLE };
            self.burst = Some(Burst { began: now, at: now + wait, notice });
            return;
        };
        match (burst.notice, notice) {
            // Whole changes follow each other: wait for their pause.
            (Notice::Whole, Notice::Whole) => {
                burst.at = (now + DEBOUNCE).min(burst.began + LONGEST_DEBOUNCE).max(burst.at)
            }
            // What was unsure has now ended well; the wait of whole changes begins here.
            (Notice::Unsure, Notice::Whole) => {
                *burst = Burst { began: now, at: burst.at.min(now + DEBOUNCE), notice: Notice::Whole };
            }
            (_, Notice::Unsure) => {}
        }
    }

    /// When to look and to tell; `None` while nothing was noticed.
    pub(super) fn due(&self) -> Option<Instant> {
        let burst = self.burst?;
        Some(self.told.map_or(burst.at, |told| burst.at.max(told + SPACING)))
    }

    /// True where the looks of a file must be the same twice before they are trusted.
    pub(super) fn is_unsure(&self) -> bool {
        self.burst.is_some_and(|burst| burst.notice == Notice::Unsure)
    }

    /// A file still looks different each time: waits another while. False when the wait has been long enough.
    pub(super) fn put_off(&mut self, now: Instant) -> bool {
        let Some(burst) = &mut self.burst else { return false };
        let may = now < burst.began + LONGEST_SETTLE;
        if may {
            burst.at = now + SETTLE;
        }
        may
    }

    /// The burst is over; `told`: it came to something, so that the next is spaced from it.
    pub(super) fn end(&mut self, now: Instant, told: bool) {
        self.burst = None;
        if told {
            self.told = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Plays notices (in milliseconds) and gives the times of telling up to `until`.
    fn play(notices: &[(u32, Notice)], until: u32) -> Vec<u32> {
        let start = Instant::now();
        let mut pacer = Pacer::default();
        let mut told = Vec::new();
        for ms in 0..=until {
            let now = start + MS * ms;
            if pacer.due().is_some_and(|due| due <= now) {
                pacer.end(now, true);
                told.push(ms);
            }
            notices.iter().filter(|notice| notice.0 == ms).for_each(|notice| pacer.notice(now, notice.1));
        }
        told
    }

    #[test]
    fn a_single_change_is_told_once_after_the_debounce() {
        assert_eq!(play(&[(5, Notice::Whole)], 5000), [105]);
        assert_eq!(play(&[(5, Notice::Unsure)], 5000), [505]);
        assert!(play(&[], 5000).is_empty());
    }

    #[test]
    fn the_steps_of_one_save_are_one_change() {
        assert_eq!(play(&[(0, Notice::Unsure), (3, Notice::Whole), (4, Notice::Whole)], 5000), [104]);
        assert_eq!(play(&[(0, Notice::Whole), (80, Notice::Whole)], 5000), [180]);
        assert_eq!(
            play(&[(0, Notice::Whole), (50, Notice::Unsure)], 5000),
            [100],
            "a look does not delay a whole change"
        );
    }

    #[test]
    fn a_storm_is_told_at_once_and_then_at_most_once_a_second() {
        let storm: Vec<_> = (0..300).map(|step| (step * 10, Notice::Whole)).collect();
        assert_eq!(play(&storm, 10_000), [300, 1300, 2300, 3300]);
    }

    #[test]
    fn changes_far_apart_are_not_delayed() {
        assert_eq!(play(&[(0, Notice::Whole), (2000, Notice::Whole), (2300, Notice::Whole)], 5000), [100, 2100, 3100]);
    }

    #[test]
    fn a_burst_that_came_to_nothing_does_not_delay_the_next() {
        let start = Instant::now();
        let mut pacer = Pacer::default();
        pacer.notice(start, Notice::Whole);
        pacer.end(start + DEBOUNCE, false);
        pacer.notice(start + DEBOUNCE, Notice::Whole);
        assert_eq!(pacer.due(), Some(start + DEBOUNCE * 2));
    }

    #[test]
    fn a_file_that_keeps_changing_is_waited_for_but_not_for_ever() {
        let start = Instant::now();
        let mut pacer = Pacer::default();
        assert!(!pacer.put_off(start), "there is nothing to wait for");
        pacer.notice(start, Notice::Unsure);
        let mut looks = 0;
        while let Some(due) = pacer.due().filter(|_| pacer.is_unsure()) {
            looks += 1;
            if !pacer.put_off(due) {
                assert!(due >= start + LONGEST_SETTLE && due <= start + LONGEST_SETTLE + SETTLE);
                break;
            }
            assert_eq!(pacer.due(), Some(due + SETTLE));
        }
        assert_eq!(looks, 4);
    }
}
