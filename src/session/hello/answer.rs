//! What a gateway answers to a Hello.

use std::fmt;
use std::time::Duration;

use super::fields::{Kind, Message, Writer, fits};
use super::{Beats, HelloError, PROOF_LENGTH, Resume, Secret, SessionId, VERSIONS};

/// The session is there, made or resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version both ends speak from here on.
    pub version: u8,
    pub session: SessionId,
    /// The Hello's.
    pub epoch: u64,
    /// Bytes of the dialer that the gateway has, since the session began.
    pub received: u64,
    pub nonce: [u8; 32],
    /// Random, new each time the gateway starts.
    pub incarnation: [u8; 16],
    /// The gateway's own; see [`sane`](super::sane).
    pub beats: Beats,
    /// What holds: the smaller of both ends.
    pub resume: Resume,
    /// Streams the session may have.
    pub streams: u32,
    /// At most 255 bytes and no control characters; what goes beyond is not sent.
    pub name: String,
    /// `host:port` of this very gateway, at most 255 bytes; one that is longer is not sent at all.
    pub advertise: Option<String>,
}

impl Welcome {
    /// The message. `hello` is all of the Hello that it answers.
    pub fn encode(&self, secret: &Secret, binding: &[u8; 32], hello: &[u8]) -> Vec<u8> {
        let mut message = Writer::new(Kind::Welcome, (self.version, self.version), 0, PROOF_LENGTH);
        message.put(&self.session.0);
        message.put(&self.epoch.to_le_bytes());
        message.put(&self.received.to_le_bytes());
        message.put(&self.nonce);
        message.put(&self.incarnation);
        message.beats(&self.beats);
        message.resume(&self.resume);
        message.put(&self.streams.to_le_bytes());
        message.text(&self.name);
        message.text(self.advertise.as_deref().filter(|address| fits(address)).unwrap_or_default());
        message.prove(|so_far| secret.proof("welcome", binding, &[hello, so_far]));
        message.finish()
    }
}

/// Why a gateway does not want this connection. The first three are said to anyone, the last two only to a dialer that
/// has proven who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// Not now.
    Busy,
    /// No version in common.
    Version,
    /// Not you.
    Denied,
    /// No such session: never heard of, ended, or somebody else's.
    Unknown,
    /// A later claim has this session.
    Superseded,
}

impl Code {
    pub const ALL: [Self; 5] = [Self::Busy, Self::Version, Self::Denied, Self::Unknown, Self::Superseded];

    /// As written in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Version => "version",
            Self::Denied => "denied",
            Self::Unknown => "unknown",
            Self::Superseded => "superseded",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Busy => 1,
            Self::Version => 2,
            Self::Denied => 3,
            Self::Unknown => 4,
            Self::Superseded => 5,
        }
    }
}

/// The connection ends here. It carries no proof: only TLS keeps it from being forged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    /// Not sooner than this; zero: no advice. Whole milliseconds up to 49 days.
    pub retry_after: Duration,
    /// Lowest and highest version that the gateway speaks.
    pub versions: (u8, u8),
    /// The gateway's, only after the dialer's proof. At most 255 bytes and no control characters.
    pub name: Option<String>,
}

impl Refusal {
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Writer::new(Kind::Refusal, self.versions, 0, 0);
        message.put(&[self.code.number()]);
        message.millis(self.retry_after);
        message.text(self.name.as_deref().unwrap_or_default());
        message.finish()
    }
}

/// A Welcome as it came. Nothing in it is true until it is proven.
#[derive(Clone, PartialEq, Eq)]
pub struct WelcomeReceived {
    pub welcome: Welcome,
    bytes: Vec<u8>,
}

impl WelcomeReceived {
    /// The gateway knows this session's secret, on this very connection, and answers this very Hello (all its bytes).
    pub fn is_proven(&self, secret: &Secret, binding: &[u8; 32], hello: &[u8]) -> bool {
        let (covered, proof) = self.bytes.split_at(self.bytes.len().saturating_sub(PROOF_LENGTH));
        secret.verify("welcome", binding, &[hello, covered], proof)
    }
}

/// Without the proof, which is nobody's business.
impl fmt::Debug for WelcomeReceived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WelcomeReceived").field("welcome", &self.welcome).finish_non_exhaustive()
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Welcome(Box<WelcomeReceived>),
    Refusal(Refusal),
}

impl Answer {
    /// Reads the first bytes a gateway sends; how many they are comes with it, what follows are frames. `None`: need more
    /// bytes. Errors: as soon as the bytes show them; `Version` is a Welcome in a version nobody offered.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HelloError> {
        let Some(message) = Message::whole(bytes, &[Kind::Welcome, Kind::Refusal])? else { return Ok(None) };
        let answer = match message.kind {
            Kind::Refusal => Self::Refusal(refusal(&message)?),
            _ => {
                Self::Welcome(Box::new(WelcomeReceived { welcome: welcome(&message)?, bytes: message.bytes.to_vec() }))
            }
        };
        Ok(Some((answer, message.bytes.len())))
    }
}

fn welcome(message: &Message<'_>) -> Result<Welcome, HelloError> {
    let (lowest, highest) = message.versions;
    if lowest != highest || !(VERSIONS.0..=VERSIONS.1).contains(&lowest) {
        return Err(HelloError::Version { lowest, highest });
    }
    message.check_flags(0)?;
    let mut fields = message.fields(PROOF_LENGTH)?;
    let welcome = Welcome {
        version: lowest,
        session: SessionId(fields.take()?),
        epoch: fields.u64()?,
        received: fields.u64()?,
        nonce: fields.take()?,
        incarnation: fields.take()?,
        beats: fields.beats()?,
        resume: fields.resume()?,
        streams: fields.u32()?,
        name: fields.text()?,
        advertise: Some(fields.text()?).filter(|address| !address.is_empty()),
    };
    if welcome.session.is_new() {
        return Err(HelloError::Malformed("a welcome to no session"));
    }
    Ok(welcome)
}

fn refusal(message: &Message<'_>) -> Result<Refusal, HelloError> {
    message.check_flags(0)?;
    let mut fields = message.fields(0)?;
    let code = fields.u8()?;
    let code = Code::ALL.into_iter().find(|known| known.number() == code);
    Ok(Refusal {
        code: code.ok_or(HelloError::Malformed("an unknown code"))?,
        retry_after: fields.millis()?,
        versions: message.versions,
        name: Some(fields.text()?).filter(|name| !name.is_empty()),
    })
}
