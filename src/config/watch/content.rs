//! Whether what was read is new. A file can be written without a change (`touch`, a ConfigMap synced again).

use std::hash::{BuildHasher, RandomState};

/// What the content of a file is beside the one read before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// To be used, if it passes the check.
    New,
    /// As before, used or refused: nothing to do or to say.
    Same,
    /// Nothing but blanks. A writer that has only truncated so far, or an emptied ConfigMap, must not take every
    /// upstream away: say so, and keep what there is.
    Empty,
}

/// The content last read, as a keyed 64-bit hash: it may hold secrets, so it is not kept.
#[derive(Debug, Default)]
pub struct LastContent {
    keys: RandomState,
    hash: Option<u64>,
}

impl LastContent {
    /// Compares with what was read last, and takes its place. The first is never [`Content::Same`].
    pub fn compare(&mut self, content: &[u8]) -> Content {
        let hash = self.keys.hash_one(content);
        let same = self.hash.replace(hash) == Some(hash);
        match () {
            () if same => Content::Same,
            () if content.iter().all(u8::is_ascii_whitespace) => Content::Empty,
            () => Content::New,
        }
    }

    /// The file could not be read, and that was said: its return is news, whatever it holds.
    pub fn forget(&mut self) {
        self.hash = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_difference_from_the_last_read_is_news() {
        let mut last = LastContent::default();
        let seen: Vec<Content> =
            ["a", "a", "b", "a", "", "", " \n", "a"].map(|text| last.compare(text.as_bytes())).into();
        use Content::{Empty, New, Same};
        assert_eq!(seen, [New, Same, New, New, Empty, Same, Empty, New]);
        last.forget();
        assert_eq!(last.compare(b"a"), New);
    }
}
