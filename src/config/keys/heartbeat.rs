//! When an upstream beats, and what it says.

use super::Class::Live;
use super::kind::{HOUR, Kind, count, ms, time};
use super::{DefaultValue, Key, key};

pub(super) static KEYS: &[Key] = &[
    key(
        "upstreams.*.heartbeat.interval",
        time(ms(200), HOUR),
        DefaultValue::Time(ms(5000)),
        Live,
        "Silence after which a beat is sent.",
    ),
    key(
        "upstreams.*.heartbeat.timeout",
        time(ms(50), ms(60_000)),
        DefaultValue::Time(ms(3000)),
        Live,
        "How long an answer may take.",
    ),
    key(
        "upstreams.*.heartbeat.misses",
        count(100),
        DefaultValue::Count(3),
        Live,
        "Unanswered beats in a row that make a link dead. Budget: interval + misses × timeout.",
    ),
    key(
        "upstreams.*.heartbeat.send",
        Kind::Bytes,
        DefaultValue::Unset,
        Live,
        "Direct: what a beat says, 1 to 1024 bytes; needs expect.",
    ),
    key(
        "upstreams.*.heartbeat.expect",
        Kind::Bytes,
        DefaultValue::Unset,
        Live,
        "Direct: how the answer begins, 1 to 1024 bytes, or a pattern: \"re:…\"; needs send.",
    ),
    key(
        "upstreams.*.heartbeat.preset",
        Kind::Choice(&["none", "redis", "memcached", "smtp"]),
        DefaultValue::Word("none"),
        Live,
        "Direct: a known question instead of send and expect.",
    ),
    key(
        "upstreams.*.heartbeat.in_use",
        Kind::Choice(&["off", "line"]),
        DefaultValue::Word("off"),
        Live,
        "Direct, line: beat between the lines of a text protocol while a client uses the connection. Switched on, it holds for new clients.",
    ),
];
