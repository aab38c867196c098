//! The way from the admin socket to the one task that may change anything.

use tokio::sync::{mpsc, oneshot};

use crate::admin::protocol::Answer;
use crate::admin::{self, Commands};
use crate::link::drill;

/// A command from the admin socket, and where its answer goes.
pub(super) enum Asked {
    Reload(oneshot::Sender<Answer>),
    Retry(String, oneshot::Sender<Answer>),
    Drill(String, drill::Asked, oneshot::Sender<Answer>),
}

/// Hands commands to the one task that may change anything.
pub(super) struct ToApp(pub(super) mpsc::Sender<Asked>);

impl ToApp {
    async fn ask(&self, ask: impl FnOnce(oneshot::Sender<Answer>) -> Asked) -> Answer {
        let (answer, answered) = oneshot::channel();
        let ended = || Answer::refused("everlink is stopping".to_owned());
        if self.0.send(ask(answer)).await.is_err() {
            return ended();
        }
        answered.await.unwrap_or_else(|_| ended())
    }
}

impl Commands for ToApp {
    fn reload(&self) -> admin::Pending<'_> {
        Box::pin(self.ask(Asked::Reload))
    }

    fn retry<'a>(&'a self, upstream: &'a str) -> admin::Pending<'a> {
        Box::pin(self.ask(|answer| Asked::Retry(upstream.to_owned(), answer)))
    }

    fn drill<'a>(&'a self, upstream: &'a str, asked: drill::Asked) -> admin::Pending<'a> {
        Box::pin(self.ask(move |answer| Asked::Drill(upstream.to_owned(), asked, answer)))
    }
}
