//! The forwards of a tunnel.

use super::Class::{Live, Rebind};
use super::kind::Kind;
use super::{DefaultValue, Key, key};

pub(super) static KEYS: &[Key] = &[
    key(
        "upstreams.*.forwards.listen",
        Kind::Listeners { off: false },
        DefaultValue::Required,
        Rebind,
        "Tunnel: where clients of one service arrive; one address or a list, as in an upstream's own listen.",
    ),
    key(
        "upstreams.*.forwards.service",
        Kind::Text,
        DefaultValue::Required,
        Live,
        "Tunnel: the service's name at the gateway; a-z, 0-9, _ . -, 1 to 255 bytes. Holds for new clients.",
    ),
    key(
        "upstreams.*.forwards.accept_proxy_protocol",
        Kind::Networks,
        DefaultValue::Empty,
        Live,
        "Tunnel: networks whose clients begin with a PROXY protocol header, as in [\"10.0.0.0/8\"]; not for unix sockets.",
    ),
];
