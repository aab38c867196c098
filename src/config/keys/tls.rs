//! TLS to an upstream's endpoints.

use super::Class::NextDial;
use super::kind::Kind;
use super::{DefaultValue, Key, key};

pub(super) static KEYS: &[Key] = &[
    key(
        "upstreams.*.tls.ca_file",
        Kind::File,
        DefaultValue::Unset,
        NextDial,
        "Who may have signed the endpoint's certificate; the system's roots if not set.",
    ),
    key("upstreams.*.tls.cert_file", Kind::File, DefaultValue::Unset, NextDial, "The client's certificate."),
    key("upstreams.*.tls.key_file", Kind::File, DefaultValue::Unset, NextDial, "The client's key."),
    key(
        "upstreams.*.tls.server_name",
        Kind::Text,
        DefaultValue::Unset,
        NextDial,
        "The name the certificate must hold; the endpoint's host if not set.",
    ),
    key(
        "upstreams.*.tls.alpn",
        Kind::Texts,
        DefaultValue::Empty,
        NextDial,
        "Direct: protocols offered, the best first.",
    ),
];
