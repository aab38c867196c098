//! What goes into [`Claims`](super::Claims) and what comes out.

use std::time::{Duration, Instant};

use crate::config::Retry;

/// One attempt: a dial, and the claim made over it. Grows with each, and is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

/// Where to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Where the session's gateway says this very instance is reached. Only under TLS: without, anybody on the path could
    /// send us anywhere.
    Advertise,
    /// The address that the session's connection last led to.
    Last,
    /// The endpoint of that index, in the owner's order, best first.
    Endpoint(usize),
}

/// The numbers to work by; all of them can change while the link runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub retry: Retry,
    /// The heartbeat's: while the old connection is not dead, at most one claim so often.
    pub timeout: Duration,
    /// How long the session may be without a connection, as configured here. The gateway's may be shorter.
    pub deadline: Duration,
    pub endpoints: usize,
}

/// Why a dial came to nothing before a Hello could be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// This machine could not: no descriptor, no port. Another place would not help.
    Local,
    /// Refused, unreachable, or ended before an answer.
    Refused,
    Resolve,
    Timeout,
    Tls,
}

/// What the gateway answered to a Hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// `deadline`: the smaller of both ends'. `advertise`: it told where this instance is reached, and that may be used.
    Welcome {
        deadline: Duration,
        advertise: bool,
    },
    /// Zero when it did not say how long.
    Busy {
        retry_after: Duration,
    },
    Version,
    Denied,
    /// No such session. `own_name`: by the name of the gateway that had it.
    Unknown {
        own_name: bool,
    },
    /// A higher epoch holds the session.
    Superseded,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Input {
    /// The time may have come for something; the first one makes the first dial.
    Tick,
    /// The connection that held the session is gone.
    Lost,
    /// A beat went unanswered on it.
    Suspect,
    /// A byte came on it after all.
    Recovered,
    /// Somebody's bytes wait for the link, or no longer do.
    StreamsWait(bool),
    /// TCP and TLS are done; the attempt asks to claim.
    Ready(AttemptId),
    /// The attempt is over, before its Hello or after.
    Failed(AttemptId, Failure),
    Answer(AttemptId, Answer),
    /// `retry.connect_timeout` has passed since the attempt began, and its Hello is not answered.
    AnswerTimedOut(AttemptId),
    /// Take the session to a new connection: the certificate, the token or TLS changed, or `max_age` passed.
    Move,
    /// The name of this endpoint leads to another address: take the session there, if its gateway is there.
    Follow(usize),
    /// The name leads where the session is after all.
    Stay,
    /// An operator, or an edit of what a dial depends on, cuts waits short.
    Retry,
    /// A client waits for a link: the next dial is due, unless `retry.attempts` numbers them.
    Wanted,
    /// The peer broke the protocol, and with it the session.
    Violated,
    /// The session ends with its last stream, and no other follows it here.
    Drain,
    Stop,
}

/// Why a session is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Its gateway does not know it any more: it has restarted.
    Unknown,
    /// No connection claimed it in time.
    Expired,
    Violation,
}

/// What the driver of the sockets has to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Begin an attempt: resolve, TCP, TLS. Give it `retry.connect_timeout` for all, its answer included.
    Dial { id: AttemptId, place: Place },
    /// Freeze the connection that holds, if there is one, then send the Hello with the offset received so far.
    SayHello { id: AttemptId, epoch: u64, new_session: bool },
    /// This attempt's connection holds the session from now on; the one before is dropped. `frozen`: write, but do not read
    /// yet: a newer Hello is out that told the same offset received.
    Attach { id: AttemptId, frozen: bool },
    /// Close this attempt. (One that failed, was refused or timed out is closed without being told.)
    Abandon { id: AttemptId },
    /// No Hello is out any more: go on reading the connection that holds.
    Thaw,
    /// Another gateway is where the name leads: the session stays where it is, for that one does not know it.
    Elsewhere,
    /// The session is lost, and a gateway that does not have it is up: it could serve others meanwhile.
    AnotherIsUp,
    /// The session is gone: close its connection, if there is one, reset its streams.
    StartFresh(Gone),
    /// `retry.attempts` are used up: nothing is dialled until [`Input::Retry`].
    Failed,
}

/// Where the link stands, as `/status` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No session, a dial is under way.
    Connecting {
        attempt: u32,
    },
    /// No session, the next dial comes at `retry_at`.
    Waiting {
        attempt: u32,
        retry_at: Instant,
    },
    Up {
        since: Instant,
    },
    /// Up, but a beat went unanswered.
    Suspect {
        since: Instant,
    },
    /// The session lives without a connection, until `expires`.
    Lost {
        since: Instant,
        expires: Instant,
    },
    /// `retry.attempts` are used up.
    Failed,
    /// The session ends with its last stream.
    Draining,
    Closed,
}
