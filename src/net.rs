//! The only rooms that talk to the kernel: socket options, `TCP_INFO`, pipes, and TLS with its files and identities; and
//! where a socket is held up on purpose.
//!
//! Nothing here knows what a link or an upstream is; everything above builds on these and on the configuration.

pub mod descriptors;
pub mod identity;
// Its folder is the one that may. Every block argues for itself, and all other modules forbid it.
#[allow(unsafe_code)]
pub mod kernel;
#[cfg(test)]
pub mod memory;
pub mod proxy_protocol;
pub mod rehearsal;
pub mod socket;
pub mod splice;
pub mod stream;
pub mod tcp;
pub mod tls;
pub mod token;
pub mod wire;
