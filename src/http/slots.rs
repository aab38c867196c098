//! Who may stay when more connect than there is room for.
//!
//! The newest is always let in, for it may be the probe that decides whether we live. The oldest idle connection makes
//! room; if none is idle, the one whose answer has been under way longest, since it is the slowest reader.

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing, or sending us a request, however slowly.
    Idle,
    /// Waiting for our answer or reading it.
    Served,
}

/// The connections that are open; `H` is what closes one.
#[derive(Debug)]
pub struct Slots<H> {
    limit: usize,
    clock: u64,
    open: Vec<Slot<H>>,
}

#[derive(Debug)]
struct Slot<H> {
    id: u64,
    phase: Phase,
    /// When the phase began, in steps of `clock`.
    since: u64,
    handle: H,
}

impl<H> Slots<H> {
    /// `limit`: at least 1.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), clock: 0, open: Vec::new() }
    }

    /// Lets a connection in, idle; gives its id and the handle of the one that has to go for it.
    pub fn admit(&mut self, handle: H) -> (u64, Option<H>) {
        let evicted = if self.open.len() >= self.limit { self.evict() } else { None };
        self.clock += 1;
        let id = self.clock;
        self.open.push(Slot { id, phase: Phase::Idle, since: id, handle });
        (id, evicted)
    }

    /// A connection goes on to something else.
    pub fn enter(&mut self, id: u64, phase: Phase) {
        self.clock += 1;
        if let Some(slot) = self.open.iter_mut().find(|slot| slot.id == id) {
            (slot.phase, slot.since) = (phase, self.clock);
        }
    }

    /// A connection has ended. One that had been sent away is not known any more, which is fine.
    pub fn leave(&mut self, id: u64) {
        self.open.retain(|slot| slot.id != id);
    }

    fn evict(&mut self) -> Option<H> {
        let (victim, _) = self.open.iter().enumerate().min_by_key(|(_, slot)| (slot.phase, slot.since))?;
        Some(self.open.remove(victim).handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_idle_makes_room() {
        let mut slots = Slots::new(3);
        let (a, _) = slots.admit("a");
        slots.admit("b");
        slots.admit("c");
        // `a` has been served and is idle again, so `b` has now been idle longest.
        slots.enter(a, Phase::Served);
        slots.enter(a, Phase::Idle);
        assert_eq!(slots.admit("d").1, Some("b"));
        assert_eq!(slots.admit("e").1, Some("c"));
        assert_eq!(slots.open.len(), 3);
    }

    #[test]
    fn one_being_served_goes_only_when_none_is_idle() {
        let mut slots = Slots::new(2);
        let (a, _) = slots.admit("a");
        slots.enter(a, Phase::Served);
        let (b, _) = slots.admit("b");
        let (c, evicted) = slots.admit("c");
        assert_eq!(evicted, Some("b"));
        slots.enter(c, Phase::Served);
        assert_eq!(slots.admit("d").1, Some("a"));
        slots.leave(b);
        assert_eq!(slots.open.len(), 2);
    }

    #[test]
    fn who_left_frees_a_place() {
        let mut slots = Slots::new(1);
        let (a, _) = slots.admit("a");
        slots.leave(a);
        assert!(slots.open.is_empty());
        assert_eq!(slots.admit("b").1, None);
    }
}
