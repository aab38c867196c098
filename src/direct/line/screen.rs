//! The server's lines on their way to the client, without the answers that are due to us.
//!
//! Boundary --first byte--> Plain | Candidate      Candidate --it is no answer, or the client's--> Plain
//! Candidate --it is our answer--> Dropping         Plain, Dropping --newline--> Boundary

use std::time::Instant;

use super::due::{Due, Whose};
use super::question::{Question, Verdict};
use super::{MAX_LINE, Text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Boundary,
    /// Nothing is owed, or this line is no answer: it passes as it comes.
    Plain,
    /// It may be the next answer that is owed.
    Candidate {
        whose: Whose,
        /// The client has what came so far; else it is held back.
        passed: bool,
    },
    /// The rest of an answer of ours.
    Dropping,
}

#[derive(Debug)]
pub(super) struct Screen {
    stage: Stage,
    /// Of the line under way.
    length: usize,
    /// The start of a candidate, at most [`Question::needed`].
    start: Vec<u8>,
    held_since: Option<Instant>,
}

/// What some bytes of the server held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Screened {
    /// Answers to beats.
    pub(super) answers: usize,
    pub(super) text: Text,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { stage: Stage::Boundary, length: 0, start: Vec::new(), held_since: None }
    }

    pub(super) fn is_at_boundary(&self) -> bool {
        self.stage == Stage::Boundary
    }

    /// Since when bytes are held back; `None` when none are.
    pub(super) fn held_since(&self) -> Option<Instant> {
        self.held_since
    }

    /// True in the middle of an answer of ours.
    pub(super) fn is_dropping(&self) -> bool {
        self.stage == Stage::Dropping
    }

    /// Passes on what is held back. The line under way goes on to the client too; should it turn out to be our answer,
    /// it is no longer due, but the client has seen it.
    pub(super) fn release(&mut self, out: &mut Vec<u8>) {
        self.held_since = None;
        if let Stage::Candidate { whose, passed: false } = self.stage {
            out.extend_from_slice(&self.start);
            self.stage = Stage::Candidate { whose, passed: true };
        }
    }

    pub(super) fn pass(
        &mut self,
        now: Instant,
        bytes: &[u8],
        question: &Question,
        due: &mut Due,
        out: &mut Vec<u8>,
    ) -> Screened {
        let mut screened = Screened { answers: 0, text: Text::Lines };
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.stage == Stage::Boundary {
                // An answer that is asked for later cannot have begun yet, so what is owed now decides for the line.
                self.stage = match due.next() {
                    None => Stage::Plain,
                    Some(whose) => Stage::Candidate { whose, passed: whose == Whose::Clients },
                };
                self.length = 0;
                self.start.clear();
            }
            self.length = self.length.saturating_add(piece.len());
            if self.length > MAX_LINE || piece.contains(&0) {
                screened.text = Text::Other;
            }
            let rest = self.judge(now, piece, question, due, out, &mut screened.answers);
            self.finish(rest, out);
            if piece.ends_with(b"\n") {
                self.stage = Stage::Boundary;
            }
        }
        screened
    }

    /// Takes from `piece` what a verdict on a candidate needs; gives what is left of it.
    fn judge<'a>(
        &mut self,
        now: Instant,
        piece: &'a [u8],
        question: &Question,
        due: &mut Due,
        out: &mut Vec<u8>,
        answers: &mut usize,
    ) -> &'a [u8] {
        let Stage::Candidate { whose, passed } = self.stage else { return piece };
        let (head, rest) = piece.split_at(question.needed().saturating_sub(self.start.len()).min(piece.len()));
        self.start.extend_from_slice(head);
        if passed {
            out.extend_from_slice(head);
        }
        match question.judge(&self.start, head.ends_with(b"\n")) {
            Verdict::Open => {
                if !passed {
                    self.held_since.get_or_insert(now);
                }
                return rest;
            }
            Verdict::Other => {
                if !passed {
                    out.extend_from_slice(&self.start);
                }
                self.stage = Stage::Plain;
            }
            Verdict::Answer => {
                due.answered();
                *answers += usize::from(whose == Whose::Ours);
                self.stage = if passed { Stage::Plain } else { Stage::Dropping };
            }
        }
        self.held_since = None;
        rest
    }

    /// Passes or drops the rest of a line whose nature is known.
    fn finish(&mut self, rest: &[u8], out: &mut Vec<u8>) {
        match self.stage {
            Stage::Plain => out.extend_from_slice(rest),
            Stage::Dropping => {
                // What is no text, or has no end, was hardly meant for us: rather an odd byte too much for the client
                // than one of its own lost.
                let room = MAX_LINE.saturating_sub(self.length - rest.len());
                let nul = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
                if let Some(foreign) = rest.get(nul.min(room)..).filter(|foreign| !foreign.is_empty()) {
                    out.extend_from_slice(foreign);
                    self.stage = Stage::Plain;
                }
            }
            Stage::Boundary | Stage::Candidate { .. } => {}
        }
    }
}
