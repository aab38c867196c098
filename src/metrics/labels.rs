//! Labels whose values are closed lists, and which of them each mode can produce.

use crate::config;

/// A label whose values are a closed list, used as an index into ready-made handles.
pub trait Label: Copy + 'static {
    const ALL: &'static [Self];
    fn name(self) -> &'static str;
    fn index(self) -> usize;
}

/// A label of an upstream's series. Those that the upstream's mode cannot produce are not exported.
pub trait PerMode: Label {
    /// Whether an upstream in this mode can produce it.
    fn is_in(self, mode: Mode) -> bool;

    /// Those that an upstream in this mode can produce.
    fn each(mode: Mode) -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(move |label| label.is_in(mode))
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// What stands at an upstream's far end: any server, or a gateway.
    Mode { Direct = "direct", Tunnel = "tunnel" }
}
label! {
    /// `everlink_links{state}`; nobody has a tunnel's link for itself, so there is no `in_use` there.
    LinkState {
        Connecting = "connecting", Up = "up", InUse = "in_use", Suspect = "suspect", Waiting = "waiting",
        Draining = "draining", Failed = "failed",
    }
}
label! {
    /// `everlink_link_dials_total{outcome}`.
    DialOutcome {
        Ok = "ok", Resolve = "resolve", Refused = "refused", Timeout = "timeout", Tls = "tls",
        /// Tunnel: the gateway does not know us.
        Denied = "denied",
        /// Tunnel: the gateway speaks no version of the protocol that we do.
        Version = "version",
        /// Our own want: descriptors, ports, memory.
        Local = "local",
    }
}
label! {
    /// `everlink_link_losses_total{reason}`. The last two are planned: what the link was dialled by has changed (files, the
    /// list of endpoints, where its name leads), or it is of age.
    LossReason {
        Heartbeat = "heartbeat", Closed = "closed", Reset = "reset", Error = "error", Protocol = "protocol",
        Reload = "reload", Aged = "aged",
    }
}
label! {
    /// `everlink_connections_closed_total{reason}`.
    CloseReason {
        /// Both directions ended in order.
        Finished = "finished",
        ClientReset = "client_reset",
        UpstreamReset = "upstream_reset",
        /// Direct: everlink judged the far end dead while a client used the connection.
        Dead = "dead",
        Idle = "idle",
        /// Cut at the end of a drain, or when its upstream was removed.
        Drained = "drained",
        Error = "error",
        /// Tunnel: `resume.deadline` passed without a link.
        Expired = "resume_expired",
        /// Tunnel: the gateway knows the session no more, it has been restarted.
        Restarted = "gateway_restarted",
        /// Tunnel: the gateway would not, or could not, connect to the service.
        Refused = "service_refused",
    }
}
label! {
    /// `everlink_connections_refused_total{reason}`.
    RefuseReason { LinkDown = "link_down", Limit = "limit" }
}
label! {
    /// `everlink_bytes_total{direction}`: to, and from, the upstream.
    Direction { Sent = "sent", Received = "received" }
}
label! {
    /// `everlink_config_reloads_total{outcome}`.
    ReloadOutcome { Applied = "applied", Unchanged = "unchanged", Rejected = "rejected" }
}
label! {
    /// `everlink_session_resumes_total{outcome}`: what became of the attempts to go on with a session.
    ResumeOutcome {
        Resumed = "resumed",
        /// The gateway does not know the session: it has been restarted, or it is another one.
        Unknown = "unknown",
        /// `resume.deadline` passed first.
        Expired = "expired",
        /// For any other reason: `busy`, `version`, `denied`, or a proof that failed.
        Refused = "refused",
    }
}
label! {
    /// `everlink_gateway_refusals_total{reason}`: dialers who were turned away, and why.
    Refusal {
        /// At `sessions`, `sessions_per_identity` or `memory`.
        Busy = "busy",
        Version = "version",
        /// The token, or the certificate, does not prove who they are.
        Denied = "denied",
        /// The session they would resume is not here, or not theirs.
        Unknown = "unknown",
        /// A newer attempt for the same session holds.
        Superseded = "superseded",
        Tls = "tls",
        /// Not proven within the time there is.
        Timeout = "timeout",
        /// What they said is no hello.
        Malformed = "malformed",
        /// At `pending` or `pending_per_address`.
        Pending = "pending",
        Draining = "draining",
    }
}

label! {
    /// `everlink_gateway_sessions_ended_total{reason}`.
    SessionEnd {
        /// `resume.deadline` passed without a connection.
        Expired = "expired",
        /// The dialer has no more use for it.
        Done = "done",
        /// The gateway drains, and no stream was left.
        Drained = "drained",
        /// What was left at the end of a drain.
        Cut = "cut",
        Violation = "violation",
    }
}
label! {
    /// `everlink_gateway_streams_refused_total{reason}`.
    StreamRefusal {
        /// Its server refuses, is silent, or its name does not resolve.
        Unreachable = "unreachable",
        /// `allow` does not have the dialer.
        Denied = "denied",
        /// No descriptor is left for it.
        Limit = "limit",
        /// Last: there is no such service.
        Unknown = "unknown",
    }
}

impl Mode {
    pub fn of(upstream: &config::Upstream) -> Self {
        if upstream.tunnel.is_some() { Self::Tunnel } else { Self::Direct }
    }
}

impl PerMode for LinkState {
    fn is_in(self, mode: Mode) -> bool {
        mode == Mode::Direct || self != Self::InUse
    }
}

impl PerMode for DialOutcome {
    fn is_in(self, mode: Mode) -> bool {
        mode == Mode::Tunnel || !matches!(self, Self::Denied | Self::Version)
    }
}

impl PerMode for LossReason {
    fn is_in(self, _mode: Mode) -> bool {
        true
    }
}

impl PerMode for CloseReason {
    fn is_in(self, mode: Mode) -> bool {
        match self {
            Self::Dead => mode == Mode::Direct,
            Self::Expired | Self::Restarted | Self::Refused => mode == Mode::Tunnel,
            _ => true,
        }
    }
}

impl PerMode for RefuseReason {
    fn is_in(self, _mode: Mode) -> bool {
        true
    }
}

impl PerMode for Direction {
    fn is_in(self, _mode: Mode) -> bool {
        true
    }
}

impl PerMode for ResumeOutcome {
    fn is_in(self, mode: Mode) -> bool {
        mode == Mode::Tunnel
    }
}
