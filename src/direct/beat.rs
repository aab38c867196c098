//! What a beat says on a warm connection and what its answer is. Pure: bytes in, a judgement out.
//!
//! While a beat is out, what arrives must be its answer. What arrives when none is out, or after the answer, is the
//! server's own and is kept for the client. Not one client may ever see a byte of a beat, so where an answer ends must be
//! beyond doubt:
//!
//! - a beat that ends in a newline is answered by a line;
//! - one that does not is answered by exactly the bytes of `expect`, or by what its pattern matches. More bytes in the same
//!   read may be the rest of a longer answer or the server's own: nobody can tell, so the connection is not used.

use crate::config::{Beat, Expect};

/// Bytes of the server's own that are kept for the client.
pub const BANNER_LIMIT: usize = 16 * 1024;

/// An answer longer than this is no answer.
const ANSWER_LIMIT: usize = 4 * 1024;

/// SMTP servers count commands that bring no mail and end the connection: Exim after `smtp_accept_max_nonmail` (10), Sendmail
/// slows down after `MaxNOOPCommands` (20), Postfix ends it after `smtpd_junk_command_limit` (100). Half of the least is left to
/// the client.
const SMTP_BEATS: u32 = 5;

/// What has been heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Nothing complete yet.
    Part,
    /// The server's own bytes, kept for the client.
    Banner,
    /// So many beats were answered.
    Answered,
    /// The service answers, but asks to be left alone: a miss.
    NotNow(String),
    /// Not the answer: the connection must not be used.
    Wrong(String),
}

/// The conversation of beats and answers on one connection.
#[derive(Debug)]
pub struct Dialogue {
    beat: Beat,
    /// Beats sent whose answers have not come.
    owed: u32,
    sent: u32,
    /// The part of an answer that has come so far.
    partial: Vec<u8>,
    /// What the server said of itself, for the client.
    banner: Vec<u8>,
}

enum Answer {
    Incomplete,
    /// It ends here; `Err` says why it is not a good one.
    Ends(usize, Verdict),
    Wrong(&'static str),
}

enum Verdict {
    Good,
    NotNow,
}

impl Dialogue {
    pub fn new(beat: Beat) -> Self {
        Self { beat, owed: 0, sent: 0, partial: Vec::new(), banner: Vec::new() }
    }

    /// Takes another beat from now on; refused while an answer is due, for it would be judged by the wrong measure.
    pub fn retune(&mut self, beat: &Beat) -> bool {
        if self.owed == 0 && self.beat != *beat {
            self.beat = beat.clone();
        }
        self.beat == *beat
    }

    /// Beats say something on this connection.
    pub fn speaks(&self) -> bool {
        self.beat != Beat::Kernel
    }

    /// The server must have spoken before the first beat (SMTP's greeting).
    pub fn must_hear_first(&self) -> bool {
        self.beat == Beat::Smtp && !greeting_is_whole(&self.banner)
    }

    /// Enough beats for this connection: it is to be renewed.
    pub fn is_spent(&self) -> bool {
        self.beat == Beat::Smtp && self.sent >= SMTP_BEATS
    }

    /// What is said before a connection is closed on purpose: mail servers log whoever leaves without it.
    pub fn farewell(&self) -> Option<&'static [u8]> {
        (self.beat == Beat::Smtp && self.owed == 0 && !self.must_hear_first()).then_some(b"QUIT\r\n")
    }

    /// Answers due, late ones included. The connection may be handed out only at 0.
    pub fn owed(&self) -> u32 {
        self.owed
    }

    /// The bytes of the next beat; counts it as sent.
    pub fn beat(&mut self) -> &[u8] {
        self.owed += 1;
        self.sent += 1;
        match &self.beat {
            Beat::Kernel => b"",
            Beat::Exchange { send, .. } => send,
            Beat::Redis => b"PING\r\n",
            Beat::Memcached => b"version\r\n",
            Beat::Smtp => b"NOOP\r\n",
        }
    }

    /// What the server said of itself, for the client who gets the connection.
    pub fn take_banner(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.banner)
    }

    /// Room left for the server's own bytes; at 0 the driver stops reading while no answer is due.
    pub fn banner_room(&self) -> usize {
        BANNER_LIMIT - self.banner.len()
    }

    pub fn has_heard(&self) -> bool {
        !self.banner.is_empty()
    }

    /// Takes what one read returned.
    pub fn received(&mut self, bytes: &[u8]) -> Heard {
        if self.owed == 0 {
            return self.keep(bytes);
        }
        self.partial.extend_from_slice(bytes);
        let mut heard = Heard::Part;
        while self.owed > 0 && !self.partial.is_empty() {
            match answer(&self.beat, &self.partial) {
                Answer::Incomplete if self.partial.len() > ANSWER_LIMIT => {
                    return self.wrong("the answer does not end");
                }
                Answer::Incomplete => return heard,
                Answer::Wrong(why) => return self.wrong(why),
                Answer::Ends(end, verdict) => {
                    self.owed -= 1;
                    heard = match verdict {
                        Verdict::Good => Heard::Answered,
                        Verdict::NotNow => Heard::NotNow(crate::log::escape(&self.partial[..end])),
                    };
                    self.partial.drain(..end);
                }
            }
        }
        if !self.partial.is_empty() {
            if !framed(&self.beat) {
                return self
                    .wrong("more bytes than `expect` in one read; end `send` with \\n, or match it all by \"re:…\"");
            }
            let rest = std::mem::take(&mut self.partial);
            if let wrong @ Heard::Wrong(_) = self.keep(&rest) {
                return wrong;
            }
        }
        heard
    }

    fn keep(&mut self, bytes: &[u8]) -> Heard {
        if bytes.len() > self.banner_room() {
            return Heard::Wrong(format!("the server sent more than {BANNER_LIMIT} bytes unasked"));
        }
        self.banner.extend_from_slice(bytes);
        Heard::Banner
    }

    fn wrong(&self, why: &str) -> Heard {
        if repeats(&self.partial, &self.beat) {
            return Heard::Wrong(format!("{why}: it repeats what the heartbeat says, which is not shown"));
        }
        Heard::Wrong(format!("{why}: \"{}\"", crate::log::escape(&self.partial)))
    }
}

/// Whether a piece of what the configuration has the heartbeat say is among these bytes. It may be a secret, and servers
/// repeat what they do not understand; the tutorial's `ping` alone tells nobody anything.
fn repeats(bytes: &[u8], beat: &Beat) -> bool {
    /// A secret of which no more than this is known is still one.
    const PIECE: usize = 4;
    let Beat::Exchange { send, expect } = beat else { return false };
    let expected = match expect {
        Expect::Prefix(prefix) => prefix.as_slice(),
        Expect::Pattern(pattern) => pattern.as_str().as_bytes(),
    };
    let told = |text: &[u8]| text.len() > PIECE + 2 && text.windows(PIECE).any(|piece| contains(bytes, piece));
    told(send) || told(expected)
}

fn contains(bytes: &[u8], piece: &[u8]) -> bool {
    bytes.windows(piece.len()).any(|window| window == piece)
}

/// Whether the end of an answer is marked by the protocol itself.
fn framed(beat: &Beat) -> bool {
    match beat {
        Beat::Exchange { send, expect } => send.ends_with(b"\n") || matches!(expect, Expect::Pattern(_)),
        Beat::Kernel | Beat::Redis | Beat::Memcached | Beat::Smtp => true,
    }
}

fn answer(beat: &Beat, bytes: &[u8]) -> Answer {
    const WRONG: &str = "not the answer expected";
    match beat {
        Beat::Kernel => Answer::Wrong("bytes came to a beat that was none"),
        Beat::Exchange { send, expect } => match expect {
            Expect::Prefix(prefix) => match begins(bytes, prefix) {
                Begins::No => Answer::Wrong(WRONG),
                Begins::Maybe => Answer::Incomplete,
                Begins::Yes if send.ends_with(b"\n") && !prefix.ends_with(b"\n") => {
                    line(bytes, |_| Some(Verdict::Good))
                }
                Begins::Yes => Answer::Ends(prefix.len(), Verdict::Good),
            },
            Expect::Pattern(pattern) if send.ends_with(b"\n") => {
                line(bytes, |line| pattern.is_match(line).then_some(Verdict::Good))
            }
            // Without lines a pattern cannot tell "not yet" from "no": it waits, and the timeout decides.
            Expect::Pattern(pattern) => match pattern.find(bytes) {
                Some(found) if !found.is_empty() => Answer::Ends(found.end(), Verdict::Good),
                _ => Answer::Incomplete,
            },
        },
        Beat::Redis => line(bytes, |line| {
            if line.starts_with(b"+PONG") || line.starts_with(b"-NOAUTH") {
                Some(Verdict::Good)
            } else if line.starts_with(b"-LOADING") || line.starts_with(b"-BUSY") {
                Some(Verdict::NotNow)
            } else {
                None
            }
        }),
        Beat::Memcached => line(bytes, |line| line.starts_with(b"VERSION ").then_some(Verdict::Good)),
        Beat::Smtp => line(bytes, |line| {
            // 421 says that the server is about to close: better renewed than handed out.
            line.starts_with(b"250").then_some(Verdict::Good)
        }),
    }
}

/// The first whole line and what is thought of it; `None` is wrong.
fn line(bytes: &[u8], judge: impl FnOnce(&[u8]) -> Option<Verdict>) -> Answer {
    match bytes.iter().position(|&b| b == b'\n') {
        None => Answer::Incomplete,
        Some(end) => match judge(&bytes[..end]) {
            Some(verdict) => Answer::Ends(end + 1, verdict),
            None => Answer::Wrong("not the answer expected"),
        },
    }
}

enum Begins {
    Yes,
    No,
    /// So far.
    Maybe,
}

fn begins(bytes: &[u8], prefix: &[u8]) -> Begins {
    let common = bytes.len().min(prefix.len());
    match bytes[..common] == prefix[..common] {
        false => Begins::No,
        true if common == prefix.len() => Begins::Yes,
        true => Begins::Maybe,
    }
}

/// RFC 5321, section 4.2: the last line of a reply has a space (or nothing) after its code.
fn greeting_is_whole(banner: &[u8]) -> bool {
    banner.ends_with(b"\n")
        && banner.split(|&b| b == b'\n').rfind(|line| !line.is_empty()).is_some_and(|last| last.get(3) != Some(&b'-'))
}

#[cfg(test)]
mod tests;
