//! A TLS configuration that is in use, and its renewal from files that may be half written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::files::{Contents, Fault};
use crate::net::renewal::Renewed;

/// What the files gave when they were last found fit.
pub(super) struct Loaded<C> {
    pub config: Arc<C>,
    pub fingerprint: u64,
    /// Seconds of Unix time: the next end among the CA's certificates, and among the own chain.
    pub ca_not_after: Option<i64>,
    pub pair_not_after: Option<i64>,
}

/// The last configuration that could be used.
pub(super) struct Kept<C> {
    loaded: ArcSwap<Loaded<C>>,
    /// The last fault told, and the contents it was about.
    told: Mutex<Option<(u64, Fault)>>,
}

impl<C> Kept<C> {
    pub(super) fn new(loaded: Loaded<C>) -> Self {
        Self { loaded: ArcSwap::from_pointee(loaded), told: Mutex::new(None) }
    }

    pub(super) fn get(&self) -> Guard<Arc<Loaded<C>>> {
        self.loaded.load()
    }

    /// `Others`: what `contents` holds is another configuration, and it is in use. What cannot be used changes nothing, and
    /// is an error once: the same fault of the same contents is `Same` from then on.
    pub(super) fn renew(
        &self,
        contents: Result<Contents, Fault>,
        load: impl FnOnce(&Contents) -> Result<Loaded<C>, Fault>,
    ) -> Result<Renewed, Fault> {
        let (fingerprint, loaded) = match contents {
            Ok(contents) => {
                let fingerprint = contents.fingerprint();
                if fingerprint == self.get().fingerprint {
                    let was_behind = self.told().take().is_some();
                    return Ok(if was_behind { Renewed::PutBack } else { Renewed::Same });
                }
                (fingerprint, load(&contents))
            }
            Err(fault) => (0, Err(fault)),
        };
        let mut told = self.told();
        match loaded {
            Ok(loaded) => {
                self.loaded.store(Arc::new(loaded));
                *told = None;
                Ok(Renewed::Others)
            }
            Err(fault) => {
                let news = (fingerprint, fault.clone());
                if told.as_ref() == Some(&news) {
                    return Ok(Renewed::Same);
                }
                *told = Some(news);
                Err(fault)
            }
        }
    }

    /// Whether the files, when they were last looked at, held what cannot be used.
    pub(super) fn is_behind(&self) -> bool {
        self.told().is_some()
    }

    fn told(&self) -> MutexGuard<'_, Option<(u64, Fault)>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
