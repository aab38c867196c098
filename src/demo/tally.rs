//! What a stream of numbered lines has come to: whether each byte came back in its place, and how long none did.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Silence worth telling of.
const NOTED: Duration = Duration::from_secs(1);
/// How often a silence that goes on is told again.
const AGAIN: Duration = Duration::from_secs(3);
/// Bytes of one line, its end included.
pub const LINE: usize = 1_000;

/// The line of that number: its number, and letters to make it long.
pub fn line(number: u64) -> Vec<u8> {
    let letters = (b'a'..=b'z').cycle().skip((number % 26) as usize);
    let mut line = format!("{number:>12} ").into_bytes();
    line.extend(letters.take(LINE - 1 - line.len()));
    line.push(b'\n');
    line
}

/// Something worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// So many bytes have no answer, for so long.
    Silent { time: Duration, unanswered: usize },
    /// The silence was so long, and as many bytes as were sent until its end have come back since.
    Back { time: Duration, bytes: u64 },
}

/// Where what came back is not what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// The number of the first such byte, counted from 0.
    pub at: u64,
}

/// A silence that has been told.
#[derive(Debug)]
struct Silence {
    /// When it is told again.
    next: Instant,
    /// What had come back when it began.
    from: u64,
    /// How long it was, and what has to come back before that is told. `None`: it goes on.
    over: Option<(Duration, u64)>,
}

/// One connection's bytes, by number and time.
#[derive(Debug, Default)]
pub struct Tally {
    /// Sent, and not come back.
    unanswered: VecDeque<u8>,
    /// What has come back.
    heard: u64,
    /// Since when something is unanswered and nothing comes.
    waiting: Option<Instant>,
    silence: Option<Silence>,
}

impl Tally {
    pub fn heard(&self) -> u64 {
        self.heard
    }

    pub fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// These bytes are on their way.
    pub fn sent(&mut self, bytes: &[u8], now: Instant) {
        self.unanswered.extend(bytes);
        if self.waiting.is_none() && !bytes.is_empty() {
            self.waiting = Some(now);
        }
    }

    /// These came back. Errors: they are not those that were sent.
    pub fn got(&mut self, bytes: &[u8], now: Instant) -> Result<Option<News>, Wrong> {
        for byte in bytes {
            if self.unanswered.pop_front() != Some(*byte) {
                return Err(Wrong { at: self.heard });
            }
            self.heard += 1;
        }
        let waited = self.waiting.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if !self.unanswered.is_empty() {
            self.waiting = Some(now);
        }
        let Some(silence) = &mut self.silence else { return Ok(None) };
        let end = self.heard + self.unanswered.len() as u64;
        let (time, target) = *silence.over.get_or_insert((waited, end));
        if self.heard < target {
            return Ok(None);
        }
        let bytes = target - silence.from;
        self.silence = None;
        Ok(Some(News::Back { time, bytes }))
    }

    /// Whether there is a silence to tell of.
    pub fn look(&mut self, now: Instant) -> Option<News> {
        let time = now.saturating_duration_since(self.waiting?);
        match &mut self.silence {
            None if time >= NOTED => self.silence = Some(Silence { next: now + AGAIN, from: self.heard, over: None }),
            Some(silence) if silence.over.is_none() && now >= silence.next => silence.next = now + AGAIN,
            _ => return None,
        }
        Some(News::Silent { time, unanswered: self.unanswered.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: f64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now) + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn lines_have_their_number_and_one_length() {
        for number in [0, 1, 25, 26, 999_999] {
            let line = line(number);
            assert_eq!((line.len(), line.last()), (LINE, Some(&b'\n')));
            let text = String::from_utf8(line).unwrap();
            assert_eq!(text.split_whitespace().next().unwrap().parse::<u64>(), Ok(number));
        }
        assert_ne!(line(1)[20..], line(2)[20..], "a line that is lost shows in every byte");
    }

    #[test]
    fn what_is_answered_at_once_is_no_news() {
        let mut tally = Tally::default();
        for n in 0..20 {
            let now = after(f64::from(n));
            tally.sent(b"abc", now);
            assert_eq!(tally.look(now), None);
            assert_eq!(tally.got(b"abc", now), Ok(None));
        }
        assert_eq!((tally.heard(), tally.unanswered()), (60, 0));
    }

    #[test]
    fn a_silence_is_told_now_and_then_and_its_end_once_all_that_waited_is_back() {
        let mut tally = Tally::default();
        tally.sent(b"abc", after(0.0));
        tally.sent(b"def", after(0.5));
        assert_eq!(tally.look(after(0.9)), None);
        let silent = |seconds, unanswered| Some(News::Silent { time: Duration::from_secs(seconds), unanswered });
        assert_eq!(tally.look(after(1.0)), silent(1, 6));
        assert_eq!(tally.look(after(3.9)), None);
        assert_eq!(tally.look(after(4.0)), silent(4, 6));
        assert_eq!(tally.got(b"ab", after(10.0)), Ok(None));
        tally.sent(b"ghi", after(10.0));
        assert_eq!(tally.look(after(10.5)), None, "it moves");
        let back = News::Back { time: Duration::from_secs(10), bytes: 6 };
        assert_eq!(tally.got(b"cdefg", after(10.6)), Ok(Some(back)));
        assert_eq!(tally.got(b"hi", after(10.7)), Ok(None));
    }

    #[test]
    fn a_byte_that_is_lost_doubled_or_made_up_is_wrong() {
        let sent = || {
            let mut tally = Tally::default();
            tally.sent(b"abcdef", after(0.0));
            tally
        };
        assert_eq!(sent().got(b"abd", after(0.0)), Err(Wrong { at: 2 }));
        assert_eq!(sent().got(b"aab", after(0.0)), Err(Wrong { at: 1 }));
        assert_eq!(sent().got(b"abcdefg", after(0.0)), Err(Wrong { at: 6 }));
    }
}
