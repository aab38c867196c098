//! What is said and agreed before frames: the Hello, and what its answer means.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ring::rand::{SecureRandom, SystemRandom};

use super::settings::driver_settings;
use super::{Counting, LinkTask};
use crate::config::{self, Address, Beats};
use crate::link::mailbox::order;
use crate::metrics::{CloseReason, DialOutcome, ResumeOutcome};
use crate::session::ResetCode;
use crate::session::hello::{self, Code, Hello, Refusal, Secret, SessionId, VERSIONS, WelcomeReceived};
use crate::status::SessionFigures;
use crate::tunnel::attempt::Answered;
use crate::tunnel::claims::{Answer, AttemptId, Failure, Gone, Input};
use crate::tunnel::driver::Driver;

/// The session as agreed with its gateway.
#[derive(Clone)]
pub(super) struct Known {
    pub id: SessionId,
    pub secret: Arc<Secret>,
    /// The gateway's own name: "unknown" from it means that it has restarted.
    pub gateway: String,
    /// Where this very gateway is reached; only believed under TLS.
    pub advertise: Option<Address>,
    /// The address that the connection last led to.
    pub address: Option<SocketAddr>,
    pub streams: usize,
    pub resume: config::Resume,
    pub figures: Arc<SessionFigures>,
}

/// A Welcome that has been checked.
pub(super) struct Agreed {
    pub id: AttemptId,
    pub answered: Box<Answered>,
    pub known: Known,
}

/// The Hello of a claim. `None`: the system has no random numbers.
pub(super) fn hello(settings: &config::Upstream, known: Option<&Known>, epoch: u64, received: u64) -> Option<Hello> {
    let mut nonce = [0; 32];
    SystemRandom::new().fill(&mut nonce).ok()?;
    Some(Hello {
        versions: VERSIONS,
        session: known.map_or(SessionId::NEW, |known| known.id),
        epoch,
        received: if known.is_some() { received } else { 0 },
        nonce,
        beats: Beats::from(&settings.heartbeat),
        resume: settings.tunnel.as_ref()?.resume,
    })
}

impl LinkTask {
    /// The gateway has answered a Hello.
    pub(super) fn answered(&mut self, id: AttemptId, answered: Box<Answered>) {
        let agreed = match &answered.answer {
            hello::Answer::Welcome(welcome) => self.agree(id, welcome, &answered),
            hello::Answer::Refusal(refusal) => {
                let refusal = refusal.clone();
                return self.refused(id, &refusal);
            }
        };
        match agreed {
            Ok(known) => {
                let answer = Answer::Welcome { deadline: known.resume.deadline, advertise: known.advertise.is_some() };
                self.agreed = Some(Agreed { id, answered, known });
                self.step(Input::Answer(id, answer));
                // Taken by the step, or of an attempt that no longer counts.
                self.agreed = None;
            }
            Err(why) => {
                self.tell_dial_failed(id, DialOutcome::Denied, why.to_owned());
                self.step(Input::Failed(id, Failure::Tls));
            }
        }
    }

    /// Checks a Welcome before one byte is trimmed by it.
    fn agree(&self, id: AttemptId, received: &WelcomeReceived, answered: &Answered) -> Result<Known, &'static str> {
        let welcome = &received.welcome;
        let binding = answered.wire.binding().map_err(|_| "the TLS connection has no exporter")?;
        let current = self.known.as_ref().filter(|known| known.id == welcome.session);
        let secret = match current {
            Some(known) => known.secret.clone(),
            None if self.known.is_some() => return Err("the gateway answered for another session"),
            None => Arc::new(self.new_secret(welcome, answered)?),
        };
        if !received.is_proven(&secret, &binding, &answered.hello) {
            return Err("the gateway cannot prove that it knows the secret: do both ends have the same token?");
        }
        let figures = match current {
            Some(known) => known.figures.clone(),
            None => Arc::new(SessionFigures::new(&welcome.session.0, welcome.resume.buffer)),
        };
        let told = welcome.advertise.as_deref().filter(|_| answered.wire.is_tls());
        Ok(Known {
            id: welcome.session,
            secret,
            gateway: welcome.name.clone(),
            advertise: told.and_then(Address::told),
            address: self.ways.get(&id).and_then(|way| way.address),
            streams: usize::try_from(welcome.streams).unwrap_or(usize::MAX).max(1),
            resume: welcome.resume,
            figures,
        })
    }

    fn new_secret(&self, welcome: &hello::Welcome, answered: &Answered) -> Result<Secret, &'static str> {
        let exported = answered.wire.session_secret(&welcome.session.0);
        if let Some(exported) = exported.map_err(|_| "the TLS connection has no exporter")? {
            return Ok(Secret::new(exported));
        }
        let token = self.hub.credentials.token.load_full().ok_or("without TLS there must be a token")?;
        Ok(Secret::from_token(&token, &welcome.session, &answered.nonce, &welcome.nonce))
    }

    fn refused(&mut self, id: AttemptId, refusal: &Refusal) {
        let own_name = match (&refusal.name, &self.known) {
            (Some(name), Some(known)) => *name == known.gateway,
            _ => false,
        };
        let (answer, outcome, why) = match refusal.code {
            Code::Busy => {
                let answer = Answer::Busy { retry_after: refusal.retry_after };
                (answer, DialOutcome::Refused, "the gateway is busy or draining")
            }
            Code::Version => {
                let why = "the gateway speaks no version of the protocol that this build speaks: update one of the two";
                (Answer::Version, DialOutcome::Version, why)
            }
            Code::Denied => {
                let why = "the gateway does not accept our token or certificate: compare the two ends' files";
                (Answer::Denied, DialOutcome::Denied, why)
            }
            Code::Unknown => (Answer::Unknown { own_name }, DialOutcome::Ok, "the gateway does not know the session"),
            Code::Superseded => (Answer::Superseded, DialOutcome::Ok, "a newer claim holds the session"),
        };
        if self.known.is_some() && !matches!(refusal.code, Code::Superseded | Code::Unknown) {
            self.count_resume(ResumeOutcome::Refused);
        }
        self.tell_dial_failed(id, outcome, why.to_owned());
        self.step(Input::Answer(id, answer));
    }

    /// The attempt's connection holds the session from now on.
    pub(super) fn attach(&mut self, id: AttemptId, frozen: bool) {
        let Some(Agreed { answered, known, .. }) = self.agreed.take_if(|agreed| agreed.id == id) else { return };
        let Answered { wire, answer: hello::Answer::Welcome(welcome), .. } = *answered else { return };
        let Some(way) = self.ways.remove(&id) else { return };
        let resumed = self.known.is_some();
        let planned = self.moving.take().filter(|_| self.driver.has_wire());
        self.follows = false;
        let mut settings = driver_settings(&self.settings.borrow());
        settings.peer_buffer = known.resume.buffer;
        settings.streams = settings.streams.min(known.streams);
        self.slot.takes(settings.streams);
        self.driver.retune(settings);
        let wire = self.in_drill(&way.endpoint, wire);
        match self.driver.attach(wire, welcome.welcome.received, Vec::new(), way.rtt) {
            Ok(again) => {
                if frozen {
                    self.driver.freeze();
                }
                self.known = Some(known);
                self.slot.fresh.store(false, Ordering::Release);
                self.slot.searches.store(false, Ordering::Release);
                self.note_how_led(&way);
                self.tell_up(&way, resumed, planned, again);
                self.schedule_move();
                // An edit may have removed the endpoint while it was dialled. The state machine is in the middle of a step.
                if self.is_gone(&way.endpoint) {
                    self.slot.tell(order::DRAIN);
                } else if !self.slot.leaving.load(Ordering::Acquire) {
                    self.hub.opened(&self.slot);
                }
            }
            // The state machine is in the middle of a step: it hears of this as of any other violation.
            Err(violation) => self.driver.break_off(violation),
        }
    }

    /// The session is gone, and everybody it carried with it.
    pub(super) fn start_fresh(&mut self, gone: Gone) {
        let (reason, outcome) = match gone {
            Gone::Unknown => (CloseReason::Restarted, Some(ResumeOutcome::Unknown)),
            Gone::Expired => (CloseReason::Expired, Some(ResumeOutcome::Expired)),
            Gone::Violation => (CloseReason::Error, None),
        };
        if let Some(outcome) = outcome {
            self.count_resume(outcome);
        }
        let streams = self.driver.end_streams(ResetCode::Error, reason);
        self.tell_gone(gone, streams);
        self.slot.open.store(false, Ordering::Release);
        self.known = None;
        self.alive = None;
        self.slot.fresh.store(true, Ordering::Release);
        self.slot.searches.store(false, Ordering::Release);
        self.slot.set_led(None);
        if self.slot.yields.load(Ordering::Acquire) {
            // Another has its place. The state machine is in the middle of a step.
            self.slot.tell(order::YIELD);
        }
        let settings = self.settings.borrow().clone();
        self.counting = Counting::new(&self.hub, &self.slot, &self.view);
        self.driver = Driver::near(driver_settings(&settings), self.counting.clone());
    }
}
