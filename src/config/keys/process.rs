//! The process itself: HTTP, the admin socket, the log, the drain.

use super::Class::{Live, Rebind};
use super::kind::{Kind, ms, time, time_or_off};
use super::{DefaultValue, Key, key};

pub(super) static KEYS: &[Key] = &[
    key(
        "http.listen",
        Kind::Listeners { off: true },
        DefaultValue::Word("127.0.0.1:9900"),
        Rebind,
        "Where metrics, health and status are served; an address, a list or \"off\".",
    ),
    key(
        "http.public_status",
        Kind::Bool,
        DefaultValue::Bool(false),
        Live,
        "Serve / and /status on addresses that are not loopback, too.",
    ),
    key("admin.socket", Kind::File, DefaultValue::Unset, Rebind, "A unix socket for commands that change state."),
    key(
        "log.level",
        Kind::Text,
        DefaultValue::Word("info"),
        Live,
        "error, warn, info, debug, trace, or a tracing filter such as \"info,everlink::direct=debug\".",
    ),
    key(
        "log.format",
        Kind::Choice(&["auto", "text", "json"]),
        DefaultValue::Word("auto"),
        Live,
        "auto: text on a terminal, JSON otherwise.",
    ),
    key(
        "drain.timeout",
        time(ms(100), ms(86_400_000)),
        DefaultValue::Time(ms(8000)),
        Live,
        "The latest end of a drain.",
    ),
    key(
        "drain.quiet",
        time_or_off(ms(100), ms(86_400_000)),
        DefaultValue::Time(ms(2000)),
        Live,
        "Leave once no client has been open for so long.",
    ),
    key("drain.minimum", time_or_off(ms(100), ms(86_400_000)), DefaultValue::Off, Live, "But not before this."),
];
