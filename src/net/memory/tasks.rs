//! Tasks of processes: they run while their process does, and in an order that only the seed decides.
//!
//! tokio wakes those who wait for the same watch channel in an order of its own choice. So a task that is woken stands in a
//! set, and whoever has the lowest number there has the next turn.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::with;

thread_local! {
    static PROCESS: Cell<usize> = const { Cell::new(0) };
    static TURNS: RefCell<Turns> = const { RefCell::new(Turns::new()) };
}

/// Whose turn it is.
struct Turns {
    next: u64,
    woken: BTreeSet<u64>,
    turn: Option<u64>,
    dispatcher: Option<Waker>,
    /// As tokio knows them.
    tasks: BTreeMap<u64, Waker>,
}

impl Turns {
    const fn new() -> Self {
        Self { next: 1, woken: BTreeSet::new(), turn: None, dispatcher: None, tasks: BTreeMap::new() }
    }

    fn call_dispatcher(&mut self) {
        if let Some(dispatcher) = self.dispatcher.take() {
            dispatcher.wake();
        }
    }
}

fn turns<R>(act: impl FnOnce(&mut Turns) -> R) -> Option<R> {
    TURNS.try_with(|turns| turns.try_borrow_mut().ok().map(|mut turns| act(&mut turns))).ok().flatten()
}

/// Nobody is there any more.
pub(super) fn forget() {
    // What is dropped may come back here.
    let old = TURNS.replace(Turns::new());
    drop(old);
}

/// The task would run.
pub(super) fn ring(task: u64) {
    turns(|turns| {
        turns.woken.insert(task);
        turns.call_dispatcher();
    });
}

/// The process that runs.
pub(super) fn current() -> usize {
    PROCESS.get()
}

/// Does something as that process.
pub fn as_process<R>(process: usize, act: impl FnOnce() -> R) -> R {
    let before = PROCESS.replace(process);
    let result = act();
    PROCESS.set(before);
    result
}

/// Gives every task its turn, for ever.
pub async fn dispatch() {
    poll_fn(|context| {
        turns(|turns| {
            if turns.turn.is_none() {
                while let Some(task) = turns.woken.pop_first() {
                    if let Some(waker) = turns.tasks.get(&task) {
                        waker.wake_by_ref();
                        turns.turn = Some(task);
                        break;
                    }
                }
            }
            turns.dispatcher = Some(context.waker().clone());
        });
        Poll::<()>::Pending
    })
    .await;
}

/// A task that runs while its process does.
pub struct OfProcess<F> {
    process: usize,
    /// `None`: there is no simulation, and it runs as any other.
    number: Option<u64>,
    bell: Waker,
    task: Pin<Box<F>>,
}

struct Bell(u64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        ring(self.0);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        ring(self.0);
    }
}

/// A task of the process that makes it.
pub fn of_process<F: Future>(task: F) -> OfProcess<F> {
    of(PROCESS.get(), task)
}

/// A task of that process.
pub fn of<F: Future>(process: usize, task: F) -> OfProcess<F> {
    let number = with(|_| ()).and_then(|()| {
        turns(|turns| {
            turns.next += 1;
            turns.next
        })
    });
    let bell = Waker::from(Arc::new(Bell(number.unwrap_or_default())));
    OfProcess { process, number, bell, task: Box::pin(task) }
}

impl<F: Future> Future for OfProcess<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let Some(number) = this.number else { return this.task.as_mut().poll(context) };
        let its_turn = turns(|turns| {
            if turns.tasks.insert(number, context.waker().clone()).is_none() {
                turns.woken.insert(number);
                turns.call_dispatcher();
            }
            turns.turn == Some(number)
        });
        if its_turn != Some(true) {
            return Poll::Pending;
        }
        let stopped = with(|network| match network.processes.get_mut(this.process) {
            Some(process) if process.stopped => {
                process.waiting.push(number);
                true
            }
            _ => false,
        });
        let polled = match stopped {
            Some(true) => Poll::Pending,
            _ => as_process(this.process, || this.task.as_mut().poll(&mut Context::from_waker(&this.bell))),
        };
        turns(|turns| {
            turns.turn = None;
            turns.call_dispatcher();
        });
        polled
    }
}

impl<F> Drop for OfProcess<F> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        turns(|turns| {
            turns.tasks.remove(&number);
            turns.woken.remove(&number);
            if turns.turn == Some(number) {
                turns.turn = None;
                turns.call_dispatcher();
            }
        });
    }
}
