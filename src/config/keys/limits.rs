//! How many links an upstream keeps, how many clients it carries, and what a session may hold.

use super::Class::{Live, NextDial};
use super::kind::{BUFFER, DEADLINE, GIB, HOUR, MANY, MIB, WEEK, count, ms, size, time_or_off};
use super::{DefaultValue, Key, key};

pub(super) static KEYS: &[Key] = &[
    key(
        "upstreams.*.pool.size",
        count(MANY),
        DefaultValue::Count(2),
        Live,
        "Direct: warm links kept. Tunnel: links that share the streams, 1 by default.",
    ),
    key(
        "upstreams.*.pool.max_age",
        time_or_off(ms(1000), WEEK),
        DefaultValue::Off,
        Live,
        "Recycle an idle warm link of this age, shortened by up to a tenth.",
    ),
    key("upstreams.*.limits.connections", count(MANY), DefaultValue::Count(1024), Live, "Clients carried at once."),
    key(
        "upstreams.*.limits.wait",
        time_or_off(ms(10), HOUR),
        DefaultValue::Time(ms(5000)),
        Live,
        "How long a client may wait for a link that is down; a gateway's drain does not count.",
    ),
    key("upstreams.*.limits.waiting", count(MANY), DefaultValue::Count(256), Live, "How many may wait."),
    key(
        "upstreams.*.limits.idle_timeout",
        time_or_off(ms(1000), WEEK),
        DefaultValue::Off,
        Live,
        "Close a carried connection that moved no byte for so long.",
    ),
    key(
        "upstreams.*.limits.windows",
        size(MIB, 4 * GIB),
        DefaultValue::Size(64 * MIB),
        Live,
        "Tunnel: memory for the stream windows of one session; at least 16KiB for each of limits.connections.",
    ),
    key(
        "upstreams.*.resume.deadline",
        DEADLINE,
        DefaultValue::Time(ms(60_000)),
        NextDial,
        "Tunnel: how long a session outlives its connection; the smaller of both ends holds.",
    ),
    key(
        "upstreams.*.resume.buffer",
        BUFFER,
        DefaultValue::Size(16 * MIB),
        NextDial,
        "Tunnel: unacknowledged bytes kept a session; when full, clients are no longer read.",
    ),
];
