//! TLS servers of the tests: the certificates of the unit tests, in this process.

use std::sync::Arc;

use everlink::config;
use rustls::crypto::CryptoProvider;

#[path = "../../src/net/tls/authority.rs"]
mod authority;

pub(crate) use authority::{Authority, Pair, acceptor, serve};

/// As the library under test has one of its own.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
