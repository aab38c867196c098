//! What a link is told from outside, and what falls due.

use std::sync::atomic::Ordering;

use super::LinkTask;
use crate::clock;
use crate::link::mailbox::order;
use crate::metrics::{CloseReason, LossReason};
use crate::session::ResetCode;
use crate::tunnel::claims::Input;

impl LinkTask {
    /// Something was said to this link from outside.
    pub(super) fn told(&mut self) {
        let orders = self.slot.take_orders();
        if orders & order::CUT != 0 {
            self.driver.end_streams(ResetCode::Drained, CloseReason::Drained);
        }
        if orders & order::DRAIN != 0 {
            self.drain_away("its link was told to leave");
        }
        if orders & order::MOVE != 0 {
            self.move_on(LossReason::Reload);
        }
        if orders & order::YIELD != 0 {
            self.drain_away_unhurried("another gateway has its place");
        }
        if orders & order::STAY != 0 {
            self.stay();
        }
        if orders & order::FOLLOW != 0 {
            self.follow();
        }
        if orders & order::ASK != 0 {
            self.driver.ask_at_once();
        }
        if orders & order::RETRY != 0 {
            self.step(Input::Retry);
        }
        if orders & order::WANTED != 0 {
            self.step(Input::Wanted);
        }
        if let Some(drill) = self.slot.take_drill() {
            self.begin_drill(drill);
        }
        self.end_drill();
        self.take_clients();
        self.end_when_drained();
    }

    pub(super) fn timers(&mut self) {
        let now = clock::now();
        self.end_drill();
        if self.move_at.is_some_and(|at| now >= at) {
            self.move_at = None;
            self.move_on(LossReason::Aged);
        }
        if self.cut_at.is_some_and(|at| now >= at) {
            self.cut_at = None;
            let cut = self.driver.end_streams(ResetCode::Drained, CloseReason::Drained);
            tracing::warn!(
                upstream = self.hub.name,
                link = self.slot.id,
                streams = cut,
                "drain is over: the rest is reset"
            );
            return self.step(Input::Stop);
        }
        self.step(Input::Tick);
        self.end_when_drained();
    }

    /// Takes the session to a new connection on purpose.
    fn move_on(&mut self, reason: LossReason) {
        self.moving = self.known.is_some().then_some(reason);
        self.follows = false;
        self.step(Input::Move);
    }

    /// No new streams here: the link ends with its last one, or at the end of the drain. `why`: for people, should it have
    /// been the only one.
    pub(super) fn drain_away(&mut self, why: &str) {
        self.cut_at.get_or_insert(clock::now() + *self.drain.borrow());
        self.drain_away_unhurried(why);
    }

    /// The same, but nobody is cut.
    fn drain_away_unhurried(&mut self, why: &str) {
        self.hub.ends_in_order(why);
        self.slot.open.store(false, Ordering::Release);
        self.slot.leaving.store(true, Ordering::Release);
        self.hub.keeper.notify_one();
        self.step(Input::Drain);
        self.end_when_drained();
    }

    fn end_when_drained(&mut self) {
        if self.slot.leaving.load(Ordering::Acquire) && self.driver.streams() == 0 {
            self.step(Input::Stop);
        }
    }
}
