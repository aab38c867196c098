use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::*;
use crate::http::example;
use crate::link::resolve::Resolver;
use crate::port::free_port;
use crate::status::Status;

/// Remembers what it was told.
#[derive(Default)]
struct Fake {
    listeners: Mutex<Vec<TcpListener>>,
    told: Mutex<Vec<&'static str>>,
}

impl Fake {
    fn tell(&self, what: &'static str) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn take_told(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ports(&self) -> Vec<u16> {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ports: Vec<_> = listeners.iter().map(|one| one.local_addr().expect("bound").port()).collect();
        ports.sort();
        ports
    }
}

impl Gateway for Fake {
    fn serve(&self, listeners: Vec<TcpListener>) {
        self.tell("serve");
        *self.listeners.lock().unwrap_or_else(PoisonError::into_inner) = listeners;
    }

    fn apply(&self, _settings: &Arc<config::Gateway>, files: Option<Files>) {
        self.tell(if files.is_some() { "apply files" } else { "apply" });
    }

    fn reload_files(&self) -> Vec<Reread> {
        Vec::new()
    }

    fn clients(&self) -> Clients {
        Clients { open: 2, came: 5 }
    }

    fn woken(&self) {
        self.tell("woken");
    }

    fn drain(&self) {
        self.tell("drain");
    }

    fn cut(&self) -> usize {
        self.tell("cut");
        2
    }

    fn remove(&self) {
        self.tell("remove");
    }
}

fn at(ports: &[u16]) -> Arc<config::Gateway> {
    let listen = ports.iter().map(|port| ([127, 0, 0, 1], *port).into()).collect();
    Arc::new(config::Gateway { listen, ..example::gateway() })
}

struct Stage {
    far_end: FarEnd,
    fake: Arc<Fake>,
    status: Arc<Status>,
}

impl Stage {
    /// A gateway that listens nowhere yet.
    fn set() -> Self {
        let fake = Arc::new(Fake::default());
        let far_end =
            FarEnd { gateway: Some(fake.clone()), settings: Some(at(&[])), ..FarEnd::none(&Passed::default()) };
        Self { far_end, fake, status: example::status() }
    }

    fn change(&mut self, wanted: Option<Arc<config::Gateway>>) -> Result<(), Vec<String>> {
        let mut errors = Vec::new();
        let prepared = self.far_end.prepare(wanted.as_ref(), &mut errors);
        if !errors.is_empty() {
            self.far_end.undo(prepared);
            return Err(errors);
        }
        let around = Surroundings {
            status: &self.status,
            resolver: &Resolver::default(),
            workers: &[],
            drain: watch::channel(Duration::from_secs(1)).1,
        };
        self.far_end.commit(wanted.as_ref(), prepared, around);
        Ok(())
    }
}

#[test]
fn sockets_are_kept_by_address_bound_when_new_and_closed_when_gone() {
    let mut stage = Stage::set();
    let [one, other] = [free_port(), free_port()];
    stage.change(Some(at(&[one]))).expect("bound");
    assert_eq!(stage.fake.take_told(), ["apply", "serve"]);
    let client = TcpStream::connect(("127.0.0.1", one)).expect("it listens");

    stage.change(Some(at(&[one, other]))).expect("bound");
    let mut both = [one, other];
    both.sort();
    assert_eq!(stage.fake.ports(), both);
    let queued = stage.fake.listeners.lock().expect("whole");
    let listener = queued.iter().find(|each| each.local_addr().is_ok_and(|at| at.port() == one)).expect("kept");
    let (_, from) = listener.accept().expect("the client waits in the queue that was kept");
    assert_eq!(from, client.local_addr().expect("connected"));
    drop(queued);

    stage.fake.take_told();
    stage.change(Some(at(&[other]))).expect("bound");
    assert_eq!(stage.fake.ports(), [other]);
    assert!(TcpStream::connect(("127.0.0.1", one)).is_err(), "nobody listens there any more");
    stage.change(Some(at(&[other]))).expect("nothing to do");
    assert_eq!(stage.fake.take_told(), ["apply", "serve"], "once");
}

#[test]
fn an_address_that_cannot_be_had_changes_nothing() {
    let mut stage = Stage::set();
    let mine = free_port();
    stage.change(Some(at(&[mine]))).expect("bound");
    stage.fake.take_told();
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let errors = stage.change(Some(at(&[taken.local_addr().expect("bound").port(), free_port()]))).expect_err("taken");
    assert!(
        matches!(errors.as_slice(), [error] if error.starts_with("gateway.listen: cannot listen on ")),
        "{errors:?}"
    );
    assert_eq!((stage.fake.take_told(), stage.fake.ports()), (vec![], vec![mine]));
}

#[test]
fn a_wildcard_takes_over_from_its_own_address_and_gives_it_back_if_the_change_does_not_come() {
    let mut stage = Stage::set();
    let port = free_port();
    stage.change(Some(at(&[port]))).expect("bound");
    let mut wild = config::Gateway::clone(&at(&[]));
    wild.listen = vec![([0, 0, 0, 0], port).into(), "192.0.2.1:1".parse().expect("an address")];
    stage.change(Some(Arc::new(wild.clone()))).expect_err("no interface has that address");
    TcpStream::connect(("127.0.0.1", port)).expect("back again");
    wild.listen.pop();
    stage.change(Some(Arc::new(wild))).expect("bound");
    assert_eq!(stage.fake.ports(), [port]);
}

#[test]
fn other_files_are_read_and_handed_over() {
    let mut stage = Stage::set();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("token");
    let with_token = config::Gateway { token_file: Some(path.clone()), ..config::Gateway::clone(&at(&[])) };
    stage.change(Some(Arc::new(with_token.clone()))).expect_err("it is not there");
    assert!(stage.fake.take_told().is_empty());
    std::fs::write(&path, "a token of sixteen bytes, and more\n").expect("written");
    stage.change(Some(Arc::new(with_token))).expect("read");
    assert_eq!(stage.fake.take_told(), ["apply files"]);
}

#[test]
fn a_gateway_that_goes_closes_its_sockets_first_and_its_streams_are_waited_for() {
    let mut stage = Stage::set();
    let port = free_port();
    stage.change(Some(at(&[port]))).expect("bound");
    stage.fake.take_told();
    stage.change(None).expect("nothing can fail");
    assert_eq!(stage.fake.take_told(), ["serve", "remove"]);
    assert!(stage.fake.ports().is_empty() && TcpStream::connect(("127.0.0.1", port)).is_err());
    assert_eq!(stage.far_end.clients(), Clients { open: 2, came: 5 });
    stage.far_end.woken();
    assert_eq!(stage.fake.take_told(), ["woken"], "who stays is asked, too");
    assert_eq!(stage.far_end.stop(), 2);
    assert_eq!(stage.fake.take_told(), ["cut"], "it was removed before");
}

#[test]
fn at_the_end_nothing_listens_and_what_is_left_is_cut() {
    let mut stage = Stage::set();
    stage.change(Some(at(&[free_port()]))).expect("bound");
    stage.far_end.drain();
    stage.fake.take_told();
    assert_eq!(stage.far_end.stop(), 2);
    assert_eq!(stage.fake.take_told(), ["cut", "serve", "remove"]);
    assert!(stage.fake.ports().is_empty());
}
