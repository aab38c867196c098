//! Which streams' sockets have something to do.
//!
//! Each stream has one waker that puts its number on a list and wakes the driver: no task, channel or lock a stream.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// The list, shared by the wakers of one driver's streams.
#[derive(Default)]
pub(super) struct Ready {
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    streams: Vec<u32>,
    driver: Option<Waker>,
}

/// One stream's way onto the list.
struct OfStream {
    stream: u32,
    /// It stands on the list already.
    listed: AtomicBool,
    ready: Arc<Ready>,
}

/// What a stream keeps: the waker for its socket, and the mark that it is off the list again.
pub(super) struct Bell {
    of: Arc<OfStream>,
    waker: Waker,
}

impl Ready {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn bell(self: &Arc<Self>, stream: u32) -> Bell {
        let of = Arc::new(OfStream { stream, listed: AtomicBool::new(false), ready: self.clone() });
        Bell { waker: Waker::from(of.clone()), of }
    }

    /// Whom to wake from now on. To be called before [`take`](Self::take), or a call between the two is lost.
    pub fn register(&self, driver: &Waker) {
        let mut list = self.list();
        if !list.driver.as_ref().is_some_and(|known| known.will_wake(driver)) {
            list.driver = Some(driver.clone());
        }
    }

    /// Wakes the driver: its owner has changed something.
    pub fn poke(&self) {
        let driver = self.list().driver.clone();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Moves the list into `into`, which is empty.
    pub fn take(&self, into: &mut Vec<u32>) {
        std::mem::swap(&mut self.list().streams, into);
    }
}

impl Bell {
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Puts the stream on the list by hand.
    pub fn ring(&self) {
        self.waker.wake_by_ref();
    }

    /// The stream was taken off the list: from now on it may be put there again.
    pub fn off(&self) {
        self.of.listed.store(false, Ordering::Release);
    }
}

impl Wake for OfStream {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let driver = {
            let mut list = self.ready.list();
            list.streams.push(self.stream);
            // The first on the list wakes; the driver takes all.
            if list.streams.len() == 1 { list.driver.clone() } else { None }
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}
