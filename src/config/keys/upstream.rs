//! An upstream's own keys: its mode, its listeners, its endpoints.

use super::Class::{Live, NextDial, Rebind, Replace};
use super::kind::Kind;
use super::{DefaultValue, Key, key};

pub(super) static KEYS: &[Key] = &[
    key(
        "upstreams.*.mode",
        Kind::Choice(&["direct", "tunnel"]),
        DefaultValue::Word("direct"),
        Replace,
        "direct: the endpoints are any TCP servers. tunnel: they are gateways, and streams outlive connections.",
    ),
    key(
        "upstreams.*.listen",
        Kind::Listeners { off: false },
        DefaultValue::Required,
        Rebind,
        "Direct: where local clients arrive: 127.0.0.1:7000, [::1]:7000 or unix:/path; one or a list. Port 0: any free one.",
    ),
    key(
        "upstreams.*.insecure_listen",
        Kind::Bool,
        DefaultValue::Bool(false),
        Rebind,
        "Let the upstream listen where other machines can reach it.",
    ),
    key(
        "upstreams.*.endpoints",
        Kind::Endpoints,
        DefaultValue::Required,
        NextDial,
        "1 to 16 servers: host:port, [v6]:port, unix:/path (direct), or { address = …, priority = 2 }; priority 1 is best. Links to one that is taken away are let go.",
    ),
    key(
        "upstreams.*.balance",
        Kind::Choice(&["priority", "round-robin", "least-connections"]),
        DefaultValue::Word("priority"),
        Live,
        "priority: all links at the best endpoint that answers.",
    ),
    key("upstreams.*.required", Kind::Bool, DefaultValue::Bool(false), Live, "/readyz waits for this upstream."),
    key(
        "upstreams.*.token_file",
        Kind::File,
        DefaultValue::Unset,
        NextDial,
        "Tunnel: the secret shared with the gateway, at least 16 bytes; needed without tls, and with it unless there is \
         a client certificate.",
    ),
    key(
        "upstreams.*.insecure_plaintext",
        Kind::Bool,
        DefaultValue::Bool(false),
        NextDial,
        "Tunnel: let the link to a gateway that is not on loopback run without tls.",
    ),
];
