//! Whose answers the server still owes. It answers in the order it was asked, so counting is enough.

use std::collections::VecDeque;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    Clients,
}

/// The answers the server still owes, the oldest first. Takes eight bytes for each answer due to us, however many
/// the client is waiting for.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// For each answer due to us: how many of the client's come between it and the one due to us before it.
    clients_before: VecDeque<u64>,
    /// How many of the client's come after the last one due to us.
    clients_after: u64,
}

impl Due {
    pub(super) fn ask(&mut self, whose: Whose) {
        match whose {
            Whose::Ours => self.clients_before.push_back(std::mem::take(&mut self.clients_after)),
            Whose::Clients => self.clients_after = self.clients_after.saturating_add(1),
        }
    }

    /// To whom the next answer goes; `None` when none is owed.
    pub(super) fn next(&self) -> Option<Whose> {
        match self.clients_before.front() {
            Some(0) => Some(Whose::Ours),
            Some(_) => Some(Whose::Clients),
            None => (self.clients_after > 0).then_some(Whose::Clients),
        }
    }

    /// The next answer has come.
    pub(super) fn answered(&mut self) {
        match self.clients_before.front_mut() {
            Some(0) => {
                self.clients_before.pop_front();
            }
            Some(clients) => *clients -= 1,
            None => self.clients_after = self.clients_after.saturating_sub(1),
        }
    }

    /// How many answers are due to us.
    pub(super) fn ours(&self) -> usize {
        self.clients_before.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counting_gives_the_order_a_plain_queue_gives(steps in proptest::collection::vec(0u8..3, 0..200)) {
            let mut plain = VecDeque::new();
            let mut due = Due::default();
            for step in steps {
                match step {
                    0 | 1 => {
                        let whose = if step == 0 { Whose::Ours } else { Whose::Clients };
                        plain.push_back(whose);
                        due.ask(whose);
                    }
                    _ => {
                        plain.pop_front();
                        due.answered();
                    }
                }
                prop_assert_eq!(due.next(), plain.front().copied());
                prop_assert_eq!(due.ours(), plain.iter().filter(|whose| **whose == Whose::Ours).count());
                prop_assert_eq!(due.is_empty(), plain.is_empty());
            }
        }
    }
}
