//! The ports of the suite itself: a test that starts a program must not take away those of the tests beside it.

mod common;

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use common::nobody;
use common::server::{Server, echo};

/// While programs are started all the time.
fn beside_starting_programs<R>(what: impl FnOnce() -> R) -> R {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(Command::new("true").status().is_ok_and(|status| status.success()));
                }
            });
        }
        // Their threads end also when it panics.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(what));
        done.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn a_port_that_was_found_free_is_free() {
    beside_starting_programs(|| {
        for nth in 0..2000 {
            drop(TcpListener::bind(nobody()).unwrap_or_else(|error| panic!("the port number {nth}: {error}")));
            let address = nobody();
            assert!(TcpStream::connect(address).is_err(), "somebody listens at {address}, number {nth}");
        }
    });
}

#[test]
fn the_port_of_a_server_that_ended_refuses_and_is_free_for_the_next() {
    beside_starting_programs(|| {
        let address = nobody();
        for _ in 0..500 {
            let server = Server::start_at(address, echo);
            let client = TcpStream::connect(address);
            assert!(client.is_ok(), "{client:?}");
            drop(server);
            assert!(TcpStream::connect(address).is_err(), "it is gone");
        }
    });
}
