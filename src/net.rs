//! The only rooms that talk to the kernel: socket options, `TCP_INFO`, pipes, and TLS with its files and identities.
//!
//! Nothing here knows what a link or an upstream is; everything above builds on these and on the configuration.

pub mod descriptors;
pub mod identity;
#[allow(unsafe_code)] // the one module that may; every block argues for itself
pub mod kernel;
#[cfg(test)]
pub mod memory;
pub mod proxy_protocol;
pub mod socket;
pub mod splice;
pub mod stream;
pub mod tcp;
pub mod tls;
pub mod token;
pub mod wire;
