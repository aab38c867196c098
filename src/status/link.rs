//! What one link shows of itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::session::{SessionFigures, SessionView};
use crate::metrics::{Label, LinkState, UpstreamMetrics};

/// One link: a place in the pool, or a tunnel.
pub struct LinkStatus {
    pub id: u64,
    view: ArcSwap<LinkView>,
    /// Tunnel: the session it carries.
    session: ArcSwapOption<SessionFigures>,
    metrics: Arc<UpstreamMetrics>,
}

/// What a link shows of itself.
#[derive(Debug, Clone)]
pub struct LinkView {
    pub state: LinkState,
    pub since: SystemTime,
    /// The endpoint's name in the configuration.
    pub endpoint: Option<String>,
    /// The address connected to.
    pub address: Option<String>,
    /// Round trip of the last answered beat, or of the connect, or of a busy tunnel link by the kernel.
    pub rtt: Option<Duration>,
    /// Beats unanswered in a row.
    pub misses: u32,
    /// Dials since the link last stood.
    pub attempt: u32,
    pub retry_at: Option<SystemTime>,
    /// Why the link was last lost or could not be dialled.
    pub last_error: Option<String>,
}

impl LinkView {
    /// Not connected and not being dialled: a retry would help.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, LinkState::Waiting | LinkState::Failed)
    }
}

impl LinkStatus {
    /// `connecting`, and counted so until it says otherwise. `metrics`: its upstream's.
    pub(super) fn new(id: u64, metrics: Arc<UpstreamMetrics>) -> Self {
        let view = LinkView {
            state: LinkState::Connecting,
            since: SystemTime::now(),
            endpoint: None,
            address: None,
            rtt: None,
            misses: 0,
            attempt: 1,
            retry_at: None,
            last_error: None,
        };
        metrics.links[view.state.index()].inc();
        Self { id, view: ArcSwap::from_pointee(view), session: ArcSwapOption::empty(), metrics }
    }

    pub fn view(&self) -> Arc<LinkView> {
        self.view.load_full()
    }

    /// The session it carries, if it carries one.
    pub fn session(&self) -> Option<SessionView> {
        self.session.load().as_ref().map(|figures| figures.view())
    }

    /// Shows a session, or that there is none any more.
    pub fn show_session(&self, figures: Option<Arc<SessionFigures>>) {
        self.session.store(figures);
    }

    /// Changes the view; the gauge of links by state follows: whoever reads of a state there finds the link in it.
    pub fn update(&self, change: impl FnOnce(&mut LinkView)) {
        let mut view = LinkView::clone(&self.view.load());
        let before = view.state;
        change(&mut view);
        let after = view.state;
        if after != before {
            view.since = SystemTime::now();
        }
        self.view.store(Arc::new(view));
        if after != before {
            self.metrics.links[before.index()].dec();
            self.metrics.links[after.index()].inc();
        }
    }
}

impl Drop for LinkStatus {
    fn drop(&mut self) {
        self.metrics.links[self.view.load().state.index()].dec();
    }
}
