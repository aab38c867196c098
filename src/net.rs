//! Sockets and what runs over them: the system calls themselves ([`kernel`]), how sockets are set up, listen, are accepted
//! from and are carried from one to another ([`socket`], [`accepting`], [`splice`]), what a connection runs over ([`transport`],
//! [`tcp`], [`wire`]), TLS with its files and identities ([`tls`]), the PROXY protocol, and sockets held up on purpose
//! ([`rehearsal`]).
//!
//! Nothing here knows what a link or an upstream is; everything above builds on these and on the configuration.

pub mod accepting;
pub mod descriptors;
pub mod identity;
// Its folder is the one that may. Every block argues for itself, and all other modules forbid it.
#[allow(unsafe_code)]
pub mod kernel;
#[cfg(test)]
pub mod memory;
pub mod proxy_protocol;
pub mod rehearsal;
pub mod renewal;
pub mod socket;
pub mod splice;
pub mod tcp;
pub mod tls;
pub mod token;
pub mod transport;
pub mod wire;
