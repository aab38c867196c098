//! The first bytes of each connection of a tunnel: who are you, and what have you got. Bytes in, bytes out.
//!
//! The dialer says [`Hello`]; the gateway answers with one [`Welcome`] or one [`Refusal`]. After the Welcome come frames.
//! None of the three counts in the session's offsets, none is longer than 4,096 bytes, and nothing is allocated by a
//! length that a peer has told: a message is copied only when all of it is there.
//!
//! # Head
//! All numbers are little-endian. These 14 bytes stand where they are in every version of the protocol, and so does the
//! whole of the Refusal: that is how two ends that share no version can still say so.
//!
//! | offset | bytes | what |
//! |---:|---:|---|
//! | 0 | 8 | magic, ASCII `everlink` |
//! | 8 | 1 | kind: 1 Hello, 2 Welcome, 3 Refusal |
//! | 9 | 1 | lowest version, from 1: Hello and Refusal what the sender speaks, Welcome the one chosen |
//! | 10 | 1 | highest version: likewise; not below the lowest, in a Welcome the same |
//! | 11 | 1 | flags |
//! | 12 | 2 | length of the whole message, this head included: 14 – 4,096 |
//!
//! **Flags.** Of those without a meaning yet, bits 0 – 3 must be clear (a receiver that does not know one refuses the
//! message), bits 4 – 7 are ignored. **Versions.** A Hello is laid out as the lowest version it offers; the gateway picks
//! the highest both speak. If there is none it answers `version` with its own range, once, and closes; it does so when
//! the whole Hello is there, since bytes left unread would turn its close into a reset that destroys the answer.
//! **Reserved space.** Where a table says so, bytes may follow that this version does not know; they are skipped, and
//! covered by the proofs. What stands between the last known field and the end of a Refusal is skipped too.
//! **Text** is a length of one byte and as many bytes of UTF-8 without control characters.
//!
//! # Hello (kind 1), at least 166 bytes
//! | offset | bytes | what |
//! |---:|---:|---|
//! | 0 | 14 | head; flag bit 0: resume proof present, bit 1: token proof present |
//! | 14 | 16 | session id; zeros: a new one is asked for, then `received` is 0 and there is no resume proof |
//! | 30 | 8 | epoch: higher with each claim of a session |
//! | 38 | 8 | received: offset up to which the dialer has the gateway's bytes |
//! | 46 | 32 | the dialer's nonce, random in each Hello |
//! | 78 | 4 | heartbeat interval, ms |
//! | 82 | 4 | heartbeat timeout, ms |
//! | 86 | 4 | heartbeat misses |
//! | 90 | 4 | resume deadline, ms |
//! | 94 | 8 | resume buffer, bytes |
//! | 102 | n | reserved |
//! | length − 64 | 32 | resume proof: HMAC-SHA256(secret, `resume` ‖ binding ‖ bytes 0 … length − 65) |
//! | length − 32 | 32 | token proof: HMAC-SHA256(token, `token` ‖ binding ‖ bytes 0 … length − 33), the resume proof included |
//!
//! A proof that is absent has its flag clear and 32 zeros in its place. *Binding* is 32 bytes that only the two ends of
//! this very TLS connection know, zeros without TLS: a proof recorded on one connection is worthless on another.
//!
//! # Welcome (kind 2), at least 156 bytes
//! | offset | bytes | what |
//! |---:|---:|---|
//! | 0 | 14 | head, both versions the chosen one; no flags yet |
//! | 14 | 16 | session id, never zeros |
//! | 30 | 8 | epoch, as in the Hello |
//! | 38 | 8 | received: offset up to which the gateway has the dialer's bytes |
//! | 46 | 32 | the gateway's nonce |
//! | 78 | 16 | incarnation: random, new each time the gateway starts |
//! | 94 | 12 | the gateway's heartbeat: interval, timeout, misses as above |
//! | 106 | 4 | resume deadline that holds, ms: the smaller of both ends |
//! | 110 | 8 | resume buffer that holds, bytes: the smaller of both ends |
//! | 118 | 4 | streams the session may have |
//! | 122 | 1 + a | name of the gateway, text |
//! | 123 + a | 1 + b | where this very gateway is reached, `host:port`, text; empty: nowhere else |
//! | 124 + a + b | n | reserved |
//! | length − 32 | 32 | proof: HMAC-SHA256(secret, `welcome` ‖ binding ‖ all of the Hello ‖ bytes 0 … length − 33) |
//!
//! # Refusal (kind 3), at least 20 bytes
//! | offset | bytes | what |
//! |---:|---:|---|
//! | 0 | 14 | head, with the versions the gateway speaks |
//! | 14 | 1 | code: 1 `busy`, 2 `version`, 3 `denied`, 4 `unknown`, 5 `superseded` |
//! | 15 | 4 | retry after so many ms, 0: no advice |
//! | 19 | 1 + a | name of the gateway, text; empty before the dialer has proven itself |
//! | 20 + a | n | reserved |
//!
//! # Secrets
//! The token never travels, nor does a session's secret: 32 exporter bytes of the TLS connection that made the session,
//! or without TLS HKDF-SHA256 with salt `everlink session`, key material token, info session id ‖ dialer's nonce ‖
//! gateway's nonce.

mod answer;
mod fields;
mod proof;
#[cfg(test)]
mod tests;

use std::fmt;

pub use self::answer::{Answer, Code, Refusal, Welcome, WelcomeReceived};
use self::fields::{Kind, Message, Writer};
pub use self::proof::{PROOF_LENGTH, Secret, Token, TokenTooShort};
pub use crate::config::{Beats, Resume};

/// The versions of the protocol that this build speaks, lowest and highest.
pub const VERSIONS: (u8, u8) = (1, 1);

/// The longest message, its head included.
pub const LONGEST: usize = 4096;

const HAS_RESUME_PROOF: u8 = 1;
const HAS_TOKEN_PROOF: u8 = 2;

/// Which session; 128 random bits. Zeros stand for one that is yet to be made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// A new session is asked for.
    pub const NEW: Self = Self([0; 16]);

    pub fn is_new(&self) -> bool {
        *self == Self::NEW
    }
}

/// The first 32 bits, enough to tell sessions apart in a log.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}…")
    }
}

/// Why a message cannot be read. The connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    #[error("the peer does not speak everlink's protocol")]
    Magic,
    #[error("a message of kind {0} where another is due")]
    Kind(u8),
    /// Both numbers are the peer's. Waiting cannot cure it.
    #[error("the peer speaks link protocol {lowest} to {highest}, this build speaks {} to {}", VERSIONS.0, VERSIONS.1)]
    Version { lowest: u8, highest: u8 },
    #[error("a hello of {0} bytes")]
    Length(u16),
    #[error("a hello with unknown flags that must be understood: {0:#06b}")]
    Flags(u8),
    #[error("malformed hello: {0}")]
    Malformed(&'static str),
}

impl HelloError {
    /// The label value of the metric.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Magic => "magic",
            Self::Kind(_) => "hello_kind",
            Self::Version { .. } => "version",
            Self::Length(_) => "hello_length",
            Self::Flags(_) => "hello_flags",
            Self::Malformed(_) => "hello_malformed",
        }
    }
}

/// Brings a peer's heartbeat into the ranges of the configuration: interval 200 ms – 1 h, timeout 50 ms – 60 s, misses
/// 1 – 100. Nobody adopts numbers of a peer that have not been through here.
pub fn sane(beats: Beats) -> Beats {
    use std::time::Duration;
    Beats {
        interval: beats.interval.clamp(Duration::from_millis(200), Duration::from_secs(3600)),
        timeout: beats.timeout.clamp(Duration::from_millis(50), Duration::from_secs(60)),
        misses: beats.misses.clamp(1, 100),
    }
}

/// What holds between two ends: the smaller deadline and the smaller buffer.
pub fn smaller(ours: Resume, theirs: Resume) -> Resume {
    Resume { deadline: ours.deadline.min(theirs.deadline), buffer: ours.buffer.min(theirs.buffer) }
}

/// What a dialer says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest and highest version the dialer speaks.
    pub versions: (u8, u8),
    pub session: SessionId,
    /// Higher with each claim of a session; the highest proven one wins.
    pub epoch: u64,
    /// Bytes of the gateway that the dialer has, since the session began. 0 for a new session.
    pub received: u64,
    pub nonce: [u8; 32],
    /// Whole milliseconds up to 49 days; more is told as 49 days.
    pub beats: Beats,
    /// Likewise.
    pub resume: Resume,
}

impl Hello {
    /// The message, with the proofs whose key is given. A new session has no secret yet: one given for it is not used.
    pub fn encode(&self, secret: Option<&Secret>, token: Option<&Token>, binding: &[u8; 32]) -> Vec<u8> {
        let secret = secret.filter(|_| !self.session.is_new());
        let mut flags = 0;
        flags |= if secret.is_some() { HAS_RESUME_PROOF } else { 0 };
        flags |= if token.is_some() { HAS_TOKEN_PROOF } else { 0 };
        let mut message = Writer::new(Kind::Hello, self.versions, flags, 2 * PROOF_LENGTH);
        message.put(&self.session.0);
        message.put(&self.epoch.to_le_bytes());
        message.put(&self.received.to_le_bytes());
        message.put(&self.nonce);
        message.beats(&self.beats);
        message.resume(&self.resume);
        message.prove(|so_far| secret.map_or([0; PROOF_LENGTH], |secret| secret.proof("resume", binding, &[so_far])));
        message.prove(|so_far| token.map_or([0; PROOF_LENGTH], |token| token.proof("token", binding, &[so_far])));
        message.finish()
    }
}

/// A Hello as it came. What it claims is true only as far as its proofs.
#[derive(Clone, PartialEq, Eq)]
pub struct Received {
    pub hello: Hello,
    flags: u8,
    bytes: Vec<u8>,
}

impl Received {
    /// Reads a Hello from the first bytes of a connection; how many it takes comes with it. `None`: need more bytes.
    /// Errors: as soon as the bytes show them, but `Version` when the Hello is whole, see the module's documentation.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HelloError> {
        let Some(message) = Message::whole(bytes, &[Kind::Hello])? else { return Ok(None) };
        let (lowest, highest) = message.versions;
        if highest < VERSIONS.0 || lowest > VERSIONS.1 {
            return Err(HelloError::Version { lowest, highest });
        }
        message.check_flags(HAS_RESUME_PROOF | HAS_TOKEN_PROOF)?;
        let mut fields = message.fields(2 * PROOF_LENGTH)?;
        let hello = Hello {
            versions: message.versions,
            session: SessionId(fields.take()?),
            epoch: fields.u64()?,
            received: fields.u64()?,
            nonce: fields.take()?,
            beats: fields.beats()?,
            resume: fields.resume()?,
        };
        let received = Self { hello, flags: message.flags, bytes: message.bytes.to_vec() };
        received.check()?;
        let length = received.bytes.len();
        Ok(Some((received, length)))
    }

    fn check(&self) -> Result<(), HelloError> {
        let absent = |flag, proof: &[u8]| self.flags & flag == 0 && proof.iter().any(|&byte| byte != 0);
        let ((_, resume), (_, token)) = (self.resume_proof(), self.token_proof());
        if absent(HAS_RESUME_PROOF, resume) || absent(HAS_TOKEN_PROOF, token) {
            return Err(HelloError::Malformed("bytes in place of an absent proof"));
        }
        if self.hello.session.is_new() && (self.hello.received != 0 || self.flags & HAS_RESUME_PROOF != 0) {
            return Err(HelloError::Malformed("a new session with a past"));
        }
        Ok(())
    }

    /// What is proven, and the proof. `parse` has seen that both proofs are there.
    fn resume_proof(&self) -> (&[u8], &[u8]) {
        let (covered, proofs) = self.bytes.split_at(self.bytes.len().saturating_sub(2 * PROOF_LENGTH));
        (covered, proofs.get(..PROOF_LENGTH).unwrap_or_default())
    }

    fn token_proof(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.bytes.len().saturating_sub(PROOF_LENGTH))
    }

    /// The dialer knows this token, on this very connection. False without a proof.
    pub fn proves_token(&self, token: &Token, binding: &[u8; 32]) -> bool {
        let (covered, proof) = self.token_proof();
        self.flags & HAS_TOKEN_PROOF != 0 && token.verify("token", binding, &[covered], proof)
    }

    /// The dialer knows this session's secret, on this very connection. False without a proof.
    pub fn proves_session(&self, secret: &Secret, binding: &[u8; 32]) -> bool {
        let (covered, proof) = self.resume_proof();
        self.flags & HAS_RESUME_PROOF != 0 && secret.verify("resume", binding, &[covered], proof)
    }

    /// All of the Hello, for the Welcome's proof.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Without the proofs, which are nobody's business.
impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("hello", &self.hello).finish_non_exhaustive()
    }
}
