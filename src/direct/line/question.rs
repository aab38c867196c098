//! What a beat says and what counts as its answer, as far as a single line of text can.

use std::cmp::Ordering;

use crate::config::Expect;

/// Of a server's line, the most that is held back and looked at: 1 KiB. An answer to a beat is a few bytes.
pub(super) const HELD: usize = 1024;

/// The question and its answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Question {
    pub(super) send: Vec<u8>,
    expect: Expect,
}

/// Why a beat cannot go between the lines of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("`send` must be one line for `in_use = \"line\"`: end it with \\n, and have no other \\n in it")]
    SendIsNotOneLine,
    #[error("`send` and `expect` must be text for `in_use = \"line\"`: take the NUL byte out")]
    Nul,
    #[error("`expect` accepts an empty line, so every line would be taken for an answer to a beat: make it tell more")]
    ExpectAcceptsAll,
    #[error("`expect` must be the start of one line for `in_use = \"line\"`: have no \\n before its end")]
    ExpectIsNotOneLine,
    #[error("`expect` is longer than the {HELD} bytes of a line that are looked at: give the start of the answer only")]
    ExpectTooLong,
}

/// What a line, as far as it is here, can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Answer,
    Other,
    /// More of it must come.
    Open,
}

impl Question {
    pub(super) fn new(send: Vec<u8>, expect: Expect) -> Result<Self, Unfit> {
        if send.iter().position(|byte| *byte == b'\n') != send.len().checked_sub(1) || send.is_empty() {
            return Err(Unfit::SendIsNotOneLine);
        }
        if send.contains(&0) {
            return Err(Unfit::Nul);
        }
        match &expect {
            Expect::Prefix(prefix) if prefix.is_empty() => return Err(Unfit::ExpectAcceptsAll),
            Expect::Prefix(prefix) if prefix.contains(&0) => return Err(Unfit::Nul),
            Expect::Prefix(prefix) if prefix.len() > HELD => return Err(Unfit::ExpectTooLong),
            Expect::Prefix(prefix) if prefix[..prefix.len() - 1].contains(&b'\n') => {
                return Err(Unfit::ExpectIsNotOneLine);
            }
            Expect::Pattern(pattern) if pattern.is_match(b"") => return Err(Unfit::ExpectAcceptsAll),
            Expect::Prefix(_) | Expect::Pattern(_) => {}
        }
        Ok(Self { send, expect })
    }

    /// How many bytes of a line are needed for a verdict, at most.
    pub(super) fn needed(&self) -> usize {
        match &self.expect {
            Expect::Prefix(prefix) => prefix.len(),
            Expect::Pattern(_) => HELD,
        }
    }

    /// What the line that begins with `start` is. `start` is never longer than [`needed`](Self::needed); `whole` says
    /// that it ends in the line's newline.
    ///
    /// The verdict does not hang on how the line was cut on its way. A prefix decides as soon as it is there. A
    /// pattern decides at the newline only (`pong$` matches "pong", the beginning of "pong!"), is tried with and
    /// without the line's end, and takes nothing longer than 1 KiB and nothing with a NUL in it for an answer.
    pub(super) fn judge(&self, start: &[u8], whole: bool) -> Verdict {
        match &self.expect {
            Expect::Prefix(prefix) => match start.len().cmp(&prefix.len()) {
                _ if !prefix.starts_with(&start[..start.len().min(prefix.len())]) => Verdict::Other,
                Ordering::Less => Verdict::Open,
                Ordering::Equal | Ordering::Greater => Verdict::Answer,
            },
            Expect::Pattern(_) if start.contains(&0) => Verdict::Other,
            Expect::Pattern(_) if !whole && start.len() < HELD => Verdict::Open,
            Expect::Pattern(_) if !whole => Verdict::Other,
            Expect::Pattern(pattern) => {
                let bare = start.strip_suffix(b"\n").unwrap_or(start);
                let bare = bare.strip_suffix(b"\r").unwrap_or(bare);
                if pattern.is_match(bare) || pattern.is_match(start) { Verdict::Answer } else { Verdict::Other }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Expect {
        Expect::Prefix(text.as_bytes().to_vec())
    }

    fn pattern(text: &str) -> Expect {
        Expect::Pattern(regex::bytes::Regex::new(&format!("^(?:{text})")).expect("a pattern of this test"))
    }

    fn judge(expect: Expect, line: &str) -> Verdict {
        let question = Question::new(b"ping\n".to_vec(), expect).expect("a fit question");
        let seen = &line.as_bytes()[..line.len().min(question.needed())];
        question.judge(seen, seen.ends_with(b"\n"))
    }

    #[test]
    fn only_one_line_of_text_can_be_asked_and_answered() {
        let refused =
            |send: &str, expect| Question::new(send.as_bytes().to_vec(), expect).expect_err("una fit question");
        assert_eq!(refused("", prefix("pong")), Unfit::SendIsNotOneLine);
        assert_eq!(refused("ping", prefix("pong")), Unfit::SendIsNotOneLine);
        assert_eq!(refused("user\nping\n", prefix("pong")), Unfit::SendIsNotOneLine);
        assert_eq!(refused("pi\0ng\n", prefix("pong")), Unfit::Nul);
        assert_eq!(refused("ping\n", prefix("po\0")), Unfit::Nul);
        assert_eq!(refused("ping\n", prefix("")), Unfit::ExpectAcceptsAll);
        assert_eq!(refused("ping\n", pattern(".*")), Unfit::ExpectAcceptsAll);
        assert_eq!(refused("ping\n", prefix("a\nb")), Unfit::ExpectIsNotOneLine);
        assert_eq!(refused("ping\n", prefix(&"p".repeat(HELD + 1))), Unfit::ExpectTooLong);
        assert!(Question::new(b"\n".to_vec(), prefix("pong\r\n")).is_ok());
    }

    #[test]
    fn a_prefix_decides_as_soon_as_it_is_there_and_no_sooner() {
        assert_eq!(judge(prefix("pong"), "pon"), Verdict::Open);
        assert_eq!(judge(prefix("pong"), "pong"), Verdict::Answer);
        assert_eq!(judge(prefix("pong"), "ponk"), Verdict::Other);
        assert_eq!(judge(prefix("pong"), "po\n"), Verdict::Other);
        assert_eq!(judge(prefix("pong\r\n"), "pong\r"), Verdict::Open);
        assert_eq!(judge(prefix("pong\r\n"), "pong\r\n"), Verdict::Answer);
    }

    #[test]
    fn a_pattern_decides_at_the_end_of_the_line() {
        assert_eq!(judge(pattern("pong"), "pong"), Verdict::Open);
        assert_eq!(judge(pattern("pong"), "pong!\n"), Verdict::Answer);
        assert_eq!(judge(pattern("pong$"), "pong!\n"), Verdict::Other);
        assert_eq!(judge(pattern("pong$"), "pong\r\n"), Verdict::Answer);
        assert_eq!(judge(pattern("pong\r\n"), "pong\r\n"), Verdict::Answer);
        assert_eq!(judge(pattern("p.*g"), "p\0g\n"), Verdict::Other);
        assert_eq!(judge(pattern("p+"), &"p".repeat(HELD + 1)), Verdict::Other);
    }
}
