//! Clients and the services behind the gateways: what each says, and whether it hears what the other said.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::sleep;

use crate::net::transport::Transport;

const MS: Duration = Duration::from_millis(1);
/// Bytes of a pattern, a prime: no two streams say the same for long.
const PATTERN: usize = 65_521;

/// What a client and its service are to do with each other.
#[derive(Debug, Clone)]
pub struct Plan {
    pub opens_at: Duration,
    pub service: &'static str,
    pub hops: u8,
    /// Bytes to the service, and to the client.
    pub sizes: [usize; 2],
    /// Resets the connection after having said so many.
    pub cuts: [Option<usize>; 2],
    /// Waits so long between pieces of what it says, and what it hears.
    pub paces: [Duration; 2],
    /// The service answers once it has heard everything.
    pub answers_last: bool,
    /// Says nothing for so long in the middle.
    pub silence: Duration,
}

/// How a connection ended, as its end saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything said, everything heard, and the end.
    Finished,
    /// Reset by this end, as planned.
    Cut,
    /// Reset by the other.
    Reset,
    /// Ended before anything was said to it.
    Refused,
}

/// What all clients and services share.
#[derive(Default)]
pub struct Users {
    plans: Vec<Plan>,
    /// Of each plan: the client's and the service's.
    outcomes: Mutex<Vec<[Option<Outcome>; 2]>>,
    faults: Mutex<Vec<String>>,
    /// Connections to the service that have not come to their end.
    serving: AtomicUsize,
}

impl Plan {
    /// `storm`: clients come within it. `most`: bytes. `silences`: some say nothing for so long.
    pub fn random(random: &mut Rng, storm: Duration, most: usize, silences: Duration) -> Self {
        let size = |random: &mut Rng| match random.u8(0..4) {
            0 => random.usize(1..200),
            _ => random.usize(1..most),
        };
        let sizes = [size(random), size(random)];
        let mut cuts = [None, None];
        for side in 0..2 {
            if random.u8(0..10) == 0 {
                cuts[side] = Some(random.usize(0..sizes[side]));
            }
        }
        // Slow ones have little to say.
        let small = sizes[0].max(sizes[1]) < 8192;
        let pace =
            |random: &mut Rng| if small && random.u8(0..3) == 0 { MS * random.u32(0..200) } else { Duration::ZERO };
        Self {
            opens_at: storm.mul_f64(random.f64()),
            service: match random.u8(0..40) {
                0 => "nobody knows it",
                1 => "out of reach",
                _ => "data",
            },
            hops: if random.u8(0..60) == 0 { 8 } else { random.u8(0..3) },
            sizes,
            cuts,
            paces: [pace(random), pace(random)],
            answers_last: random.bool(),
            silence: if random.u8(0..6) == 0 { silences } else { Duration::ZERO },
        }
    }

    /// Whoever asks for it hears no.
    pub fn is_refused(&self) -> bool {
        self.service != "data" || self.hops >= 8
    }
}

impl Users {
    pub fn new(plans: Vec<Plan>) -> Arc<Self> {
        let outcomes = Mutex::new(vec![[None; 2]; plans.len()]);
        Arc::new(Self { plans, outcomes, faults: Mutex::default(), serving: AtomicUsize::new(0) })
    }

    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    pub fn outcomes(&self) -> Vec<[Option<Outcome>; 2]> {
        locked(&self.outcomes).clone()
    }

    pub fn faults(&self) -> Vec<String> {
        locked(&self.faults).clone()
    }

    /// Clients who have come to their end.
    pub fn through(&self) -> usize {
        locked(&self.outcomes).iter().filter(|outcome| outcome[0].is_some()).count()
    }

    /// Nobody is served any more.
    pub fn is_quiet(&self) -> bool {
        self.serving.load(Ordering::Relaxed) == 0
    }

    fn fault(&self, text: String) {
        locked(&self.faults).push(text);
    }

    /// At most 4 KiB of what `side` of the plan says, from that offset.
    fn says(&self, plan: usize, side: usize, at: usize) -> &[u8] {
        let from = (plan * 2 + side) * 7919 + at;
        let left = self.plans[plan].sizes[side] - at;
        &pattern()[from % PATTERN..][..left.min(4096)]
    }

    /// A client.
    pub async fn client(self: Arc<Self>, plan: usize, stream: Transport) {
        tracing::debug!(plan, "a client comes");
        let outcome = self.talk(plan, 0, stream, &(plan as u32).to_le_bytes()).await;
        tracing::debug!(plan, ?outcome, "a client is through");
        locked(&self.outcomes)[plan][0] = Some(outcome);
    }

    /// A connection to the service.
    pub async fn service(self: Arc<Self>, mut stream: Transport) {
        let mut plan = [0; 4];
        // Whoever says less has been reset.
        let Ok(_) = stream.read_exact(&mut plan).await else { return };
        let plan = u32::from_le_bytes(plan) as usize;
        if plan >= self.plans.len() {
            return self.fault(format!("a service hears of a plan {plan}"));
        }
        if self.plans[plan].is_refused() || locked(&self.outcomes)[plan][1].is_some() {
            self.fault(format!("plan {plan} is opened twice, or nobody serves it"));
        }
        locked(&self.outcomes)[plan][1] = Some(Outcome::Reset);
        self.serving.fetch_add(1, Ordering::Relaxed);
        let outcome = self.talk(plan, 1, stream, &[]).await;
        self.serving.fetch_sub(1, Ordering::Relaxed);
        locked(&self.outcomes)[plan][1] = Some(outcome);
    }

    async fn talk(&self, plan: usize, side: usize, stream: Transport, first: &[u8]) -> Outcome {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let after = (side == 1 && self.plans[plan].answers_last).then(tokio::sync::Notify::new);
        let mut outcome = {
            let sending = async {
                if let Some(after) = &after {
                    after.notified().await;
                }
                self.send(plan, side, &mut writer, first).await
            };
            let receiving = async {
                let heard = self.hear(plan, side, &mut reader).await;
                if let Some(after) = &after {
                    after.notify_one();
                }
                heard
            };
            tokio::pin!(sending, receiving);
            let (mut sent, mut heard) = (None, None);
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut sending, if sent.is_none() => sent = Some(outcome),
                    outcome = &mut receiving, if heard.is_none() => heard = Some(outcome),
                }
                match (sent, heard) {
                    (Some(Outcome::Finished), Some(Outcome::Finished)) => break Outcome::Finished,
                    (Some(Outcome::Finished) | None, None) | (None, Some(Outcome::Finished)) => {}
                    (_, Some(outcome @ (Outcome::Reset | Outcome::Refused))) => break outcome,
                    (Some(outcome), _) => break outcome,
                    (None, Some(outcome)) => break outcome,
                }
            }
        };
        let stream = reader.unsplit(writer);
        if outcome == Outcome::Cut {
            let _ = stream.reset_on_close();
        }
        if outcome == Outcome::Finished && self.plans[plan].cuts[side].is_some() {
            outcome = Outcome::Cut;
        }
        outcome
    }

    async fn send(&self, plan: usize, side: usize, writer: &mut WriteHalf<Transport>, first: &[u8]) -> Outcome {
        let (what, mut said) = (&self.plans[plan], 0);
        let end = what.cuts[side].unwrap_or(what.sizes[side]);
        if writer.write_all(first).await.is_err() {
            return Outcome::Reset;
        }
        while said < end {
            let bytes = self.says(plan, side, said);
            let most = if what.paces[side].is_zero() { 4096 } else { 512 };
            let bytes = &bytes[..bytes.len().min(end - said).min(most)];
            if writer.write_all(bytes).await.is_err() {
                return Outcome::Reset;
            }
            let before = said;
            said += bytes.len();
            if !what.paces[side].is_zero() {
                sleep(what.paces[side]).await;
            }
            let middle = what.sizes[side] / 2;
            if before <= middle && said > middle && !what.silence.is_zero() {
                sleep(what.silence).await;
            }
        }
        if what.cuts[side].is_some() {
            return Outcome::Cut;
        }
        if writer.shutdown().await.is_err() { Outcome::Reset } else { Outcome::Finished }
    }

    async fn hear(&self, plan: usize, side: usize, reader: &mut ReadHalf<Transport>) -> Outcome {
        let (what, other, mut heard) = (&self.plans[plan], 1 - side, 0);
        let mut buffer = [0; 4096];
        loop {
            let count = match reader.read(&mut buffer).await {
                Err(_) => return Outcome::Reset,
                Ok(0) if heard == 0 && side == 0 => return Outcome::Refused,
                Ok(0) => {
                    if heard < what.sizes[other] || what.cuts[other].is_some() {
                        self.fault(format!("plan {plan}: side {side} hears an end at {heard}: {what:?}"));
                    }
                    return Outcome::Finished;
                }
                Ok(count) => count,
            };
            let right = heard + count <= what.sizes[other] && buffer[..count] == self.says(plan, other, heard)[..count];
            if !right {
                self.fault(format!("plan {plan}: side {side} hears what was not said at {heard}"));
                return Outcome::Reset;
            }
            heard += count;
            if !what.paces[other].is_zero() {
                sleep(what.paces[other] / 2).await;
            }
        }
    }
}

/// Bytes that do not repeat for long, twice in a row.
fn pattern() -> &'static [u8] {
    static ONCE: OnceLock<Vec<u8>> = OnceLock::new();
    ONCE.get_or_init(|| {
        let mut random = Rng::with_seed(7);
        (0..PATTERN).map(|_| random.u8(..)).collect::<Vec<u8>>().repeat(2)
    })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
