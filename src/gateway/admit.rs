//! A dialer that has proven itself: a new session, or one to go on with.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::accept::Held;
use super::handshake::{Proven, Turned};
use super::refusals::BUSY_FOR;
use super::session::{Claim, Connection, Live, Order};
use super::sessions::Entry;
use super::{Phase, Shared};
use crate::metrics::Refusal;
use crate::net::wire::{Parked, Wire};
use crate::session::hello::{Code, Secret, SessionId};
use crate::workers::of_process;

/// What a new session must find free of `limits.memory`: replay up to the least limit of 2 MiB, and the windows of a few
/// streams.
const ROOM: u64 = 3 << 20;

/// Makes a session, or hands the connection to the one it claims. `Err`: to be turned away.
pub fn admit(shared: &Arc<Shared>, proven: Proven, held: Held) -> Result<(), Box<Turned>> {
    if proven.received.hello.session.is_new() { begin(shared, proven, held) } else { claim(shared, proven, held) }
}

fn begin(shared: &Arc<Shared>, proven: Proven, held: Held) -> Result<(), Box<Turned>> {
    let settings = shared.settings();
    let limits = &settings.limits;
    if shared.phase() != Phase::Serving {
        let why = "this gateway is draining".to_owned();
        return Err(turned(proven.wire, Code::Busy, shared.come_back_after(), Refusal::Draining, why));
    }
    let busy = |wire, why: &str| Err(turned(wire, Code::Busy, BUSY_FOR, Refusal::Busy, why.to_owned()));
    if held.is_of_reserve() {
        return busy(proven.wire, "the last descriptors are for sessions that go on");
    }
    if shared.budget.free() < ROOM {
        return busy(proven.wire, "limits.memory is used up");
    }
    let (Ok(id), Ok(nonce)) = (shared.random().map(SessionId), shared.random()) else {
        return busy(proven.wire, "the kernel gives no random bytes");
    };
    let Proven { wire, received, binding } = proven;
    let secret = match (wire.session_secret(&id.0), &shared.files().token) {
        (Ok(Some(exported)), _) => Secret::new(exported),
        (Ok(None), Some(known)) => Secret::from_token(&known.token, &id, &received.hello.nonce, &nonce),
        (Ok(None), None) => Secret::without_token(&id, &received.hello.nonce, &nonce),
        (Err(error), _) => return busy(wire, &error.to_string()),
    };
    let (orders, inbox) = mpsc::unbounded_channel();
    let entry = Entry::new(id, wire.identity().cloned(), secret, orders);
    let membership = match shared.sessions.join(entry, limits) {
        Ok(membership) => membership,
        Err(no_room) => return busy(wire, &no_room.to_string()),
    };
    let peer = wire.peer();
    let connection = Connection { received, binding, held, peer };
    let live = Live::new(shared.clone(), membership, inbox, &connection);
    tokio::spawn(of_process(live.run(wire, connection, nonce)));
    Ok(())
}

/// Whoever may not go on with a session, for whatever reason, takes the same way to the same answer: one look into the
/// table, one proof held against a secret, `unknown`.
fn claim(shared: &Arc<Shared>, proven: Proven, held: Held) -> Result<(), Box<Turned>> {
    let Proven { wire, received, binding } = proven;
    let theirs =
        shared.sessions.get(&received.hello.session).filter(|entry| entry.identity.as_ref() == wire.identity());
    let secret = theirs.as_ref().map_or(&shared.nobodys_secret, |entry| &entry.secret);
    let (true, Some(entry)) = (received.proves_session(secret, &binding), theirs) else {
        return Err(unknown(wire));
    };
    let peer = wire.peer();
    // The session may live on another thread.
    let Ok(wire) = wire.park() else { return Ok(()) };
    let claim = Claim { wire, connection: Connection { received, binding, held, peer } };
    match entry.order(Order::Claim(Box::new(claim))) {
        // It ended at this very moment.
        Err(Order::Claim(claim)) => Parked::unpark(claim.wire).map_or(Ok(()), |wire| Err(unknown(wire))),
        _ => Ok(()),
    }
}

/// Never heard of, ended, or somebody else's: nobody learns which.
pub fn unknown(wire: Wire) -> Box<Turned> {
    let why = "it would go on with a session that is not here, or not its own".to_owned();
    turned(wire, Code::Unknown, Duration::ZERO, Refusal::Unknown, why)
}

pub fn turned(wire: Wire, code: Code, retry_after: Duration, reason: Refusal, why: String) -> Box<Turned> {
    Box::new(Turned { wire, code, retry_after, reason, why })
}
