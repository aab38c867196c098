//! From an accepted connection to a dialer that has proven itself: TLS, Hello, credentials.
//!
//! Nothing here is told to a stranger but one of `version` and `denied` (`busy` waits for the proof, too); what is no
//! hello is closed without a word. Nothing is allocated by a peer's number: a Hello is read to its end and not a byte
//! further, and has 4,096 bytes at most.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::accept::Occupied;
use super::refusals::refusal;
use super::{Shared, admit};
use crate::metrics::Refusal;
use crate::net::tcp::Unbound;
use crate::net::tls::server::explain;
use crate::net::wire::Wire;
use crate::session::hello::{self, Code, HelloError, Received};

/// For TLS and Hello together, counted from the accept: one deadline, not one a read.
pub const WITHIN: Duration = Duration::from_secs(5);
/// How long a dialer may take to read why it is refused.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of a message's head; the length of the whole stands at its end.
const HEAD: usize = 14;

/// A dialer that knows the token, or shows a certificate, or both, as is asked here.
pub struct Proven {
    pub wire: Wire,
    pub received: Received,
    /// Of this very connection.
    pub binding: [u8; 32],
}

/// A dialer that is told no.
pub struct Turned {
    pub wire: Wire,
    pub code: Code,
    pub retry_after: Duration,
    pub reason: Refusal,
    pub why: String,
}

/// Why nobody has proven anything.
enum Failed {
    Tls(String),
    Hello(HelloError),
    /// It left in the middle.
    Gone(io::Error),
    Told(Box<Turned>),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

/// One connection, from its accept until it belongs to a session or is gone.
pub async fn receive(shared: Arc<Shared>, tcp: Unbound, occupied: Occupied) {
    let deadline = Instant::now() + WITHIN;
    let peer = tcp.peer_addr().ok();
    let Occupied { slot, held } = occupied;
    let shaken = tokio::select! {
        biased;
        // Counted by whom it had to make room for.
        () = slot.told_to_leave() => return,
        shaken = timeout_at(deadline, shake(&shared, tcp)) => shaken,
    };
    let turned = match shaken {
        Ok(Ok(None)) => return,
        Ok(Ok(Some(proven))) => {
            drop(slot);
            match admit::admit(&shared, proven, held) {
                Ok(()) => return,
                Err(turned) => turned,
            }
        }
        Err(_) => return shared.refusals.count(Refusal::Timeout, peer, "it did not prove itself within 5 s"),
        Ok(Err(Failed::Gone(error))) => {
            return tracing::debug!(peer = peer.map(tracing::field::display), %error, "a dialer left before its hello");
        }
        Ok(Err(Failed::Tls(why))) => return shared.refusals.count(Refusal::Tls, peer, &why),
        Ok(Err(Failed::Hello(error))) => {
            shared.status.metrics.violations.count("hello");
            return shared.refusals.count(Refusal::Malformed, peer, &error.to_string());
        }
        Ok(Err(Failed::Told(turned))) => turned,
    };
    turn_away(&shared, *turned, peer).await;
}

/// Counts, and answers.
pub async fn turn_away(shared: &Shared, turned: Turned, peer: Option<SocketAddr>) {
    let Turned { wire, code, retry_after, reason, why } = turned;
    shared.refusals.count(reason, peer, &why);
    // `denied` and `version` go to strangers.
    let settings = shared.settings();
    let name = (!matches!(code, Code::Denied | Code::Version)).then_some(settings.name.as_str());
    answer(wire, &refusal(code, retry_after, name)).await;
}

/// Says no, and waits until the dialer has read it: a close with bytes unread would be a reset, and destroy the answer.
async fn answer(mut wire: Wire, refusal: &hello::Refusal) {
    let bytes = refusal.encode();
    let said = async {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let count = poll_fn(|context| wire.poll_write(context, rest)).await?;
            rest = rest.get(count..).unwrap_or_default();
        }
        poll_fn(|context| wire.poll_flush(context)).await?;
        wire.tcp().end()?;
        let mut ignored = [0; 512];
        while poll_fn(|context| wire.poll_read(context, &mut ignored)).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Whether it was heard is the dialer's affair.
    let _ = timeout(LINGER, said).await;
}

/// `Ok(None)`: it left without a word, as load balancers do that only look whether somebody listens.
async fn shake(shared: &Shared, tcp: Unbound) -> Result<Option<Proven>, Failed> {
    let tcp = tcp.bind()?;
    if !tcp.has_first_byte().await? {
        return Ok(None);
    }
    // What the files hold now; a reload meanwhile is for the next one.
    let files = shared.files();
    let mut wire = match &files.tls {
        Some(tls) => tls.accept(tcp.into_kernels()?).await.map_err(|error| Failed::Tls(explain(&error)))?,
        None => Wire::plain(tcp),
    };
    let received = match read_hello(&mut wire).await {
        Err(Failed::Hello(error @ HelloError::Version { .. })) => {
            let (code, reason) = (Code::Version, Refusal::Version);
            return Err(told(wire, code, reason, error.to_string()));
        }
        received => received?,
    };
    let binding = wire.binding()?;
    // TLS has seen to the certificate, if one is asked for.
    if files.token.as_ref().is_some_and(|known| !received.proves_token(&known.token, &binding)) {
        return Err(told(wire, Code::Denied, Refusal::Denied, "it does not know the token".to_owned()));
    }
    if files.asks_for_certificate() && wire.identity().is_none() {
        return Err(told(wire, Code::Denied, Refusal::Denied, "its certificate names nobody".to_owned()));
    }
    Ok(Some(Proven { wire, received, binding }))
}

fn told(wire: Wire, code: Code, reason: Refusal, why: String) -> Failed {
    Failed::Told(Box::new(Turned { wire, code, retry_after: Duration::ZERO, reason, why }))
}

async fn read_hello(wire: &mut Wire) -> Result<Received, Failed> {
    let mut bytes = Vec::new();
    loop {
        if let Some((received, _)) = Received::parse(&bytes).map_err(Failed::Hello)? {
            return Ok(received);
        }
        let had = bytes.len();
        // The parser has held the length against its bounds as soon as it was there.
        bytes.resize(whole(&bytes).max(had + 1), 0);
        let count = poll_fn(|context| wire.poll_read(context, bytes.get_mut(had..).unwrap_or_default())).await?;
        if count == 0 {
            return Err(Failed::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        bytes.truncate(had + count);
    }
}

/// How long the message is; how long its head is, before that is known.
fn whole(bytes: &[u8]) -> usize {
    match bytes.get(HEAD - 2..HEAD) {
        Some(&[low, high]) => u16::from_le_bytes([low, high]).into(),
        _ => HEAD,
    }
}
