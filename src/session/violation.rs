//! What a peer must not send. Each ends the session at once.

use thiserror::Error;

/// A breach of the protocol, by a closed list: the label of `everlink_protocol_violations_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum Violation {
    #[error("a frame is longer or shorter than its kind may be")]
    Length,
    #[error("a frame of a kind that this version does not know and may not skip")]
    Kind,
    #[error("a DATA frame without data")]
    Empty,
    #[error("a frame for a stream that was never opened, or for none")]
    Stream,
    #[error("a stream was opened with an identifier that was used before")]
    Reused,
    #[error("a frame that only the other end may send")]
    Role,
    #[error("an OPEN that cannot be read")]
    Open,
    #[error("more data than the window allows")]
    Window,
    #[error("data after the end of the stream")]
    AfterFin,
    #[error("credit of nothing, or more than a window may hold")]
    Credit,
    #[error("an acknowledgement of bytes that were never sent")]
    Ack,
    #[error("nothing is acknowledged, however much was sent")]
    Unacknowledged,
    #[error("heartbeat numbers out of range")]
    Tune,
    #[error("PINGs beyond any need")]
    Flood,
    #[error("a resume from an offset that was never sent or is no longer kept")]
    Resume,
}

impl Violation {
    pub const ALL: [Self; 15] = [
        Self::Length,
        Self::Kind,
        Self::Empty,
        Self::Stream,
        Self::Reused,
        Self::Role,
        Self::Open,
        Self::Window,
        Self::AfterFin,
        Self::Credit,
        Self::Ack,
        Self::Unacknowledged,
        Self::Tune,
        Self::Flood,
        Self::Resume,
    ];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Kind => "type",
            Self::Empty => "empty_data",
            Self::Stream => "stream",
            Self::Reused => "reused_stream",
            Self::Role => "role",
            Self::Open => "open",
            Self::Window => "window",
            Self::AfterFin => "after_fin",
            Self::Credit => "credit",
            Self::Ack => "ack",
            Self::Unacknowledged => "unacknowledged",
            Self::Tune => "tune",
            Self::Flood => "flood",
            Self::Resume => "resume",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_can_be_counted() {
        for violation in Violation::ALL {
            assert!(crate::metrics::VIOLATIONS.contains(&violation.name()), "{violation:?}");
        }
    }
}
