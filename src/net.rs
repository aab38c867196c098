//! Where everlink talks to the kernel and to certificates.

pub mod tls;
