//! The way from the admin socket to the one task that may change anything, and what that answers.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::App;
use super::reload::Cause;
use crate::admin::protocol::Answer;
use crate::admin::{self, AdminListener, Commands};
use crate::link::drill;

/// A command from the admin socket, and where its answer goes.
pub(super) enum Asked {
    Reload(oneshot::Sender<Answer>),
    Retry(String, oneshot::Sender<Answer>),
    Drill(String, drill::Asked, oneshot::Sender<Answer>),
}

/// Hands commands to the one task that may change anything.
struct ToApp(mpsc::Sender<Asked>);

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

impl App<'_> {
    pub(super) fn answer(&mut self, asked: Asked) {
        let draining = self.drain.is_some();
        match asked {
            // The one who asked may have gone; the work is done all the same.
            Asked::Reload(to) if draining => {
                let _ = to.send(Answer::refused("everlink is draining".to_owned()));
            }
            Asked::Reload(to) => {
                let answer = self.reload(Cause::Asked);
                // As SIGHUP does: a link whose attempts are used up dials again, too.
                self.running.retry(None);
                let _ = to.send(answer);
            }
            Asked::Retry(upstream, to) => {
                let answer = match self.running.retry(Some(&upstream)) {
                    Some(links) => Answer::retried(links),
                    None => Answer::refused(self.running.unknown(&upstream)),
                };
                let _ = to.send(answer);
            }
            Asked::Drill(_, drill::Asked::Begin(_), to) if draining => {
                let _ = to.send(Answer::refused("everlink is draining".to_owned()));
            }
            Asked::Drill(upstream, drill::Asked::Begin(order), to) => match self.running.drill(&upstream, order) {
                // Told once it is true, without anybody waiting here.
                Ok(begun) => drop(tokio::spawn(async move {
                    begun.in_force().await;
                    let _ = to.send(Answer::drilling(begun.told));
                })),
                Err(why) => drop(to.send(Answer::refused(why))),
            },
            Asked::Drill(upstream, drill::Asked::Stop, to) => {
                let _ = to.send(self.running.stop_drill(&upstream).map_or_else(Answer::refused, Answer::stopped));
            }
        }
    }

    /// Takes commands there from now on, and nowhere else.
    pub(super) fn serve_admin(&mut self, listener: Option<AdminListener>) {
        std::mem::take(&mut self.admin).cancel();
        if let Some(listener) = listener {
            tokio::spawn(admin::serve(listener, Arc::new(ToApp(self.asked.0.clone())), self.admin.clone()));
        }
    }
}
