//! One stream as the session sees it. Pure.

use super::frame::RefusalCode;
use super::window::Window;

/// What is to be said of a stream and has no frame yet: each kind once at most, however often it was asked for.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pending {
    /// Our OPEN has not been written: nothing else may be.
    pub open: bool,
    pub opened: bool,
    pub credit: bool,
    pub fin: bool,
    /// It stands in the list of streams with something to say.
    pub listed: bool,
}

impl Pending {
    pub fn any(self) -> bool {
        self.open || self.opened || self.credit || self.fin
    }
}

/// How far one direction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Open,
    /// An orderly end: asked for, or received.
    Ended,
    /// The peer has reset or refused the stream: nothing more may come, and nothing more is sent.
    Cut,
}

/// A stream, and what its owner keeps with it.
pub(super) struct Stream<T> {
    pub user: T,
    /// Bytes the peer lets us send.
    pub credit: u64,
    pub sending: Direction,
    pub receiving: Direction,
    pub window: Window,
    pub pending: Pending,
    /// What OPEN says, until it is written.
    pub opening: Option<Box<super::frame::Opening>>,
}

impl<T> Stream<T> {
    /// Reset or refused by the peer.
    pub fn cut(&mut self) {
        (self.sending, self.receiving) = (Direction::Cut, Direction::Cut);
        // Nothing is left to say of it.
        (self.pending.opened, self.pending.credit, self.pending.fin) = (false, false, false);
    }
}

/// Last words about a stream that is no longer kept.
#[derive(Debug, Clone, Copy)]
pub(super) enum LastWord {
    Refused(RefusalCode),
    Reset(super::frame::ResetCode),
    Fin,
}
