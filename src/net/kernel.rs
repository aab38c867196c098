//! System calls the standard library does not offer. The only folder with `unsafe` in it.
//!
//! Every function takes plain descriptors and returns owned ones or numbers. Passing a descriptor that is closed or of
//! the wrong kind is an error from the kernel (`EBADF`, `ENOTSOCK`, `EINVAL`), never undefined behaviour: none of these
//! calls maps memory or keeps a pointer past its return. Off Linux, what the system lacks answers `Unsupported`.

mod clocks;
mod descriptors;
mod listening;
mod options;
mod pipe;
mod tcp_info;
mod terminal;

pub use clocks::{monotonic, suspended};
pub use descriptors::{has_failed, inherited, raise_descriptor_limit, with_fd};
pub use listening::{Awaited, accept, await_clients};
pub use options::{set_notsent_lowat, set_rto_max};
pub use pipe::{Pipe, pipe, splice};
pub use tcp_info::{TcpInfo, TcpState, tcp_info};
pub use terminal::window;

#[cfg(not(target_os = "linux"))]
fn unsupported(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::Unsupported, format!("this system has no {what}"))
}

/// Two ends of one connection.
#[cfg(all(test, target_os = "linux"))]
fn pair() -> (std::net::TcpStream, std::net::TcpStream) {
    use std::net::{TcpListener, TcpStream};

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    (near, far)
}
