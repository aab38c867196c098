//! The sessions of a gateway: where each can be reached, and how many there may be.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::session::Order;
use crate::clock;
use crate::config::GatewayLimits;
use crate::net::identity::Identity;
use crate::session::hello::{Secret, SessionId};

/// One session, as others see it.
pub struct Entry {
    pub id: SessionId,
    /// Who may go on with it: whoever made it. `None`: whoever knows the token.
    pub identity: Option<Identity>,
    /// What a claim has to prove.
    pub secret: Secret,
    pub made: Instant,
    /// Its streams, and one more while it waits for the acknowledgement of their last bytes.
    pub open: AtomicUsize,
    /// What a cut would reset: its streams, or one if the last bytes of one were lost with the connection.
    pub at_stake: AtomicUsize,
    orders: mpsc::UnboundedSender<Order>,
}

impl Entry {
    pub fn new(
        id: SessionId,
        identity: Option<Identity>,
        secret: Secret,
        orders: mpsc::UnboundedSender<Order>,
    ) -> Self {
        Self {
            id,
            identity,
            secret,
            made: clock::now(),
            open: AtomicUsize::new(0),
            at_stake: AtomicUsize::new(0),
            orders,
        }
    }

    /// To the session's task. `Err` gives the order back: the session is over.
    pub fn order(&self, order: Order) -> Result<(), Order> {
        self.orders.send(order).map_err(|unsent| unsent.0)
    }
}

/// No room for another session; why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error("limits.sessions are open")]
    Sessions,
    #[error("limits.sessions_per_identity are open for this identity")]
    Identity,
}

/// The table. It forgets a session when its [`Membership`] is dropped.
#[derive(Default)]
pub struct Sessions {
    table: Mutex<Table>,
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct Table {
    by_id: BTreeMap<SessionId, Arc<Entry>>,
    by_identity: HashMap<Identity, usize>,
}

/// A session's place in the table.
pub struct Membership {
    sessions: Arc<Sessions>,
    entry: Arc<Entry>,
}

impl Sessions {
    /// Takes a new session up. Dialers without a certificate have no identity, and no share that they could exceed.
    pub fn join(self: &Arc<Self>, entry: Entry, limits: &GatewayLimits) -> Result<Membership, NoRoom> {
        let mut table = self.table();
        if table.by_id.len() >= limits.sessions {
            return Err(NoRoom::Sessions);
        }
        if let Some(identity) = &entry.identity {
            let share = table.by_identity.entry(identity.clone()).or_default();
            if *share >= limits.sessions_per_identity {
                return Err(NoRoom::Identity);
            }
            *share += 1;
        }
        let entry = Arc::new(entry);
        table.by_id.insert(entry.id, entry.clone());
        self.count.send_replace(table.by_id.len());
        Ok(Membership { sessions: self.clone(), entry })
    }

    pub fn get(&self, id: &SessionId) -> Option<Arc<Entry>> {
        self.table().by_id.get(id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.table().by_id.values().cloned().collect()
    }

    /// Streams of all sessions.
    pub fn open(&self) -> usize {
        self.table().by_id.values().map(|entry| entry.open.load(Ordering::Relaxed)).sum()
    }

    /// What a cut would reset, of all sessions.
    pub fn at_stake(&self) -> usize {
        self.table().by_id.values().map(|entry| entry.at_stake.load(Ordering::Relaxed)).sum()
    }

    /// Waits until there is none left.
    pub async fn none_left(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without the secret and the way to its task.
impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Membership").field(&self.entry.id).finish()
    }
}

impl std::ops::Deref for Membership {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut table = self.sessions.table();
        table.by_id.remove(&self.entry.id);
        if let Some(identity) = &self.entry.identity
            && let Some(share) = table.by_identity.get_mut(identity)
        {
            *share -= 1;
            if *share == 0 {
                table.by_identity.remove(identity);
            }
        }
        self.sessions.count.send_replace(table.by_id.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::example;

    fn entry(id: u8, identity: Option<&str>) -> Entry {
        let identity = identity.map(|name| {
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
            let certificate = params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("signed");
            Identity::of_certificate(certificate.der()).expect("it names somebody")
        });
        Entry::new(SessionId([id; 16]), identity, Secret::new([id; 32]), mpsc::unbounded_channel().0)
    }

    fn limits(sessions: usize, sessions_per_identity: usize) -> GatewayLimits {
        GatewayLimits { sessions, sessions_per_identity, ..example::gateway().limits }
    }

    #[test]
    fn a_session_has_its_place_until_it_is_dropped() {
        let sessions = Arc::<Sessions>::default();
        let one = sessions.join(entry(1, None), &limits(2, 1)).expect("room");
        let other = sessions.join(entry(2, None), &limits(2, 1)).expect("no identity, no share");
        assert_eq!(sessions.join(entry(3, None), &limits(2, 1)).err(), Some(NoRoom::Sessions));
        one.open.store(3, Ordering::Relaxed);
        assert_eq!((sessions.open(), sessions.all().len()), (3, 2));
        assert!(sessions.get(&SessionId([1; 16])).is_some());
        drop(one);
        assert!(sessions.get(&SessionId([1; 16])).is_none());
        assert_eq!(sessions.open(), 0);
        assert!(sessions.join(entry(3, None), &limits(2, 1)).is_ok());
        drop(other);
    }

    #[test]
    fn an_identity_has_its_share_and_gets_it_back() {
        let sessions = Arc::<Sessions>::default();
        let join = |id, name| sessions.join(entry(id, Some(name)), &limits(8, 1));
        let a = join(1, "a").expect("room");
        assert_eq!(join(2, "a").err(), Some(NoRoom::Identity));
        let b = join(3, "b").expect("another's share");
        drop(a);
        assert!(join(4, "a").is_ok());
        drop(b);
        let table = sessions.table();
        assert!(table.by_identity.is_empty() && table.by_id.is_empty(), "nothing is remembered");
    }
}
