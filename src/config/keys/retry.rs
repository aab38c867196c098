//! When an upstream's lost links are dialled again.

use super::Class::{Live, NextDial};
use super::kind::{HOUR, Kind, MANY, ms, time};
use super::{DefaultValue, Key, key};

pub(super) static KEYS: &[Key] = &[
    key(
        "upstreams.*.retry.initial",
        time(ms(10), HOUR),
        DefaultValue::Time(ms(500)),
        Live,
        "The first wait before a redial; at most retry.max.",
    ),
    key("upstreams.*.retry.max", time(ms(10), HOUR), DefaultValue::Time(ms(30_000)), Live, "The longest wait."),
    key(
        "upstreams.*.retry.multiplier",
        Kind::Ratio { min: 1.0, max: 10.0, words: &[] },
        DefaultValue::Ratio(2.0),
        Live,
        "How much longer each wait is than the one before.",
    ),
    key(
        "upstreams.*.retry.jitter",
        Kind::Ratio { min: 0.05, max: 1.0, words: &["full", "off"] },
        DefaultValue::Word("full"),
        Live,
        "How waits are spread: full, off, or the share by which a wait may be shortened.",
    ),
    key(
        "upstreams.*.retry.attempts",
        Kind::Count { min: 1, max: MANY, word: Some("unlimited") },
        DefaultValue::Word("unlimited"),
        Live,
        "Dials before a link is given up.",
    ),
    key(
        "upstreams.*.retry.stable_after",
        time(ms(100), HOUR),
        DefaultValue::Time(ms(10_000)),
        Live,
        "Only a link up this long earns a fresh backoff.",
    ),
    key(
        "upstreams.*.retry.connect_timeout",
        time(ms(50), ms(300_000)),
        DefaultValue::Time(ms(5000)),
        NextDial,
        "Resolve, TCP, TLS and hello together.",
    ),
];
