//! The gateway and its services.

use super::Class::{Live, NextDial, Rebind};
use super::kind::{BUFFER, DEADLINE, GIB, HOUR, Kind, MANY, MIB, count, ms, size, time, time_or_off};
use super::{DefaultValue, Key, key};

pub(super) static KEYS: &[Key] = &[
    key(
        "gateway.listen",
        Kind::Listeners { off: false },
        DefaultValue::Required,
        Rebind,
        "Where tunnels arrive; an address or a list.",
    ),
    key("gateway.name", Kind::Text, DefaultValue::Unset, NextDial, "Told to dialers; the host's name if not set."),
    key(
        "gateway.advertise",
        Kind::Address,
        DefaultValue::Unset,
        NextDial,
        "Where this very instance is reached, when others share the address of listen; used under TLS only.",
    ),
    key(
        "gateway.token_file",
        Kind::File,
        DefaultValue::Unset,
        NextDial,
        "What dialers must prove to know, at least 16 bytes; needed unless there is tls.client_ca_file.",
    ),
    key(
        "gateway.insecure_plaintext",
        Kind::Bool,
        DefaultValue::Bool(false),
        NextDial,
        "Let tunnels arrive without tls where other machines can reach the gateway.",
    ),
    key(
        "gateway.heartbeat.interval",
        time(ms(200), HOUR),
        DefaultValue::Time(ms(5000)),
        Live,
        "As an upstream's. Without the table [gateway.heartbeat] each dialer's own numbers hold for its session.",
    ),
    key("gateway.heartbeat.timeout", time(ms(50), ms(60_000)), DefaultValue::Time(ms(3000)), Live, "As an upstream's."),
    key("gateway.heartbeat.misses", count(100), DefaultValue::Count(3), Live, "As an upstream's."),
    key(
        "gateway.tls.cert_file",
        Kind::File,
        DefaultValue::Required,
        NextDial,
        "The gateway's certificate; required in [gateway.tls].",
    ),
    key(
        "gateway.tls.key_file",
        Kind::File,
        DefaultValue::Required,
        NextDial,
        "The gateway's key; required in [gateway.tls].",
    ),
    key(
        "gateway.tls.client_ca_file",
        Kind::File,
        DefaultValue::Unset,
        NextDial,
        "Who must have signed the certificate that each dialer shows; none is asked for if not set.",
    ),
    key("gateway.limits.sessions", count(MANY), DefaultValue::Count(1024), Live, "Sessions at once."),
    key(
        "gateway.limits.sessions_per_identity",
        count(MANY),
        DefaultValue::Count(64),
        Live,
        "The share of one identity in them. Dialers with a token alone have none: they are bound by limits.sessions only.",
    ),
    key("gateway.limits.streams", count(MANY), DefaultValue::Count(1024), Live, "Streams of one session."),
    key(
        "gateway.limits.memory",
        size(16 * MIB, 1024 * GIB),
        DefaultValue::Size(GIB),
        Live,
        "Retention and windows of all sessions; past it new ones hear busy, and those that stand grow to no more than \
         256KiB and 16KiB for each of their streams. At least what one session may need: resume.buffer and 16KiB for each \
         of its streams.",
    ),
    key(
        "gateway.limits.pending",
        count(MANY),
        DefaultValue::Count(256),
        Live,
        "Connections that have not proven themselves yet.",
    ),
    key(
        "gateway.limits.pending_per_address",
        count(MANY),
        DefaultValue::Count(64),
        Live,
        "The share of one address in them.",
    ),
    key(
        "gateway.limits.wait",
        time_or_off(ms(10), HOUR),
        DefaultValue::Time(ms(5000)),
        Live,
        "How long a stream may wait for a service that cannot be reached.",
    ),
    key(
        "gateway.resume.deadline",
        DEADLINE,
        DefaultValue::Time(ms(60_000)),
        NextDial,
        "How long a session waits for its next connection; the smaller of both ends holds.",
    ),
    key(
        "gateway.resume.buffer",
        BUFFER,
        DefaultValue::Size(16 * MIB),
        NextDial,
        "Unacknowledged bytes kept a session; when full, services are no longer read.",
    ),
    key(
        "gateway.services.*.address",
        Kind::Address,
        DefaultValue::Required,
        Live,
        "Where the service is: host:port, [v6]:port or unix:/path. NAME = \"address\" is short for it.",
    ),
    key(
        "gateway.services.*.allow",
        Kind::Texts,
        DefaultValue::Unset,
        Live,
        "Identities from client certificates that may use it; every proven dialer if not set.",
    ),
    key(
        "gateway.services.*.proxy_protocol",
        Kind::Choice(&["off", "v2"]),
        DefaultValue::Word("off"),
        Live,
        "v2: tell the service who the client is, by a PROXY protocol header.",
    ),
];
