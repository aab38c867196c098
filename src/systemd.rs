//! The service manager: what it is told of this process (sd_notify(3)), and the sockets that it passes (sd_listen_fds(3)).
//!
//! Without its variables in the environment nothing of this does anything. They are left there: everlink runs no other
//! program that could take them for its own.

#![forbid(unsafe_code)]

mod manager;
mod notify;
mod passed;
mod status_line;

pub use manager::Manager;
pub use notify::Notifier;
pub use passed::Passed;
