//! Upstreams and whole states for the tests of this module and of the commands that read it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::{
    Address, Balance, Beat, Endpoint, Forward, Gateway, GatewayLimits, Heartbeat, InUse, Jitter, Limits, ListenAddress,
    Pool, Resume, Retry, Tunnel, Upstream,
};
use crate::metrics::{LinkState, LossReason, Metrics, Refusal, ResumeOutcome};
use crate::status::{ConfigStatus, Event, ReloadStatus, SessionFigures, Status};

/// A direct upstream with two endpoints and the defaults of the design.
pub fn upstream(name: &str) -> Upstream {
    let endpoint = |host: &str, priority| Endpoint {
        name: format!("{host}.internal:8080"),
        address: Address::Host { host: format!("{host}.internal"), port: 8080 },
        priority,
    };
    Upstream {
        name: name.to_owned(),
        listen: vec![ListenAddress::Tcp(([127, 0, 0, 1], 7000).into())],
        endpoints: vec![endpoint("a", 1), endpoint("b", 2)],
        balance: Balance::Priority,
        required: false,
        heartbeat: Heartbeat {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(3),
            misses: 3,
            beat: Beat::Kernel,
            in_use: InUse::Off,
        },
        retry: Retry {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(30),
            multiplier: 2.0,
            jitter: Jitter::Full,
            attempts: None,
            stable_after: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
        },
        pool: Pool { size: 2, max_age: None },
        limits: Limits { connections: 1024, wait: Duration::from_secs(5), waiting: 256, idle_timeout: None },
        tls: None,
        tunnel: None,
    }
}

/// The same in tunnel mode, with a forward.
pub fn tunnel(name: &str) -> Upstream {
    let listen = vec![ListenAddress::Tcp(([127, 0, 0, 1], 5432).into())];
    Upstream {
        listen: Vec::new(),
        tunnel: Some(Tunnel {
            forwards: vec![Forward { listen, service: "postgres".to_owned(), accept_proxy_protocol: Vec::new() }],
            token_file: None,
            resume: resume(),
            windows: 64 << 20,
            insecure_plaintext: true,
        }),
        ..upstream(name)
    }
}

/// A gateway with the defaults of the design and no service.
pub fn gateway() -> Gateway {
    Gateway {
        listen: vec![([127, 0, 0, 1], 7443).into()],
        name: "gw-1".to_owned(),
        advertise: None,
        token_file: None,
        heartbeat: None,
        tls: None,
        insecure_plaintext: true,
        limits: GatewayLimits {
            sessions: 1024,
            sessions_per_identity: 64,
            streams: 1024,
            memory: 1 << 30,
            pending: 256,
            pending_per_address: 64,
            wait: Duration::from_secs(5),
        },
        resume: resume(),
        services: Default::default(),
    }
}

fn resume() -> Resume {
    Resume { deadline: Duration::from_secs(60), buffer: 16 << 20 }
}

/// A process without upstreams, its configuration in and its one data loop alive.
pub fn status() -> Arc<Status> {
    let status = Status::new(Metrics::new().unwrap(), 1);
    status.ready.store(true, Ordering::Relaxed);
    status
}

/// `chat` with one link up and one waiting, which has just been lost.
pub fn busy_status() -> Arc<Status> {
    let status = status();
    status.config.store(Arc::new(ConfigStatus {
        path: "config.toml".to_owned(),
        generation: 4,
        hash: "a1b2c3d4e5f6".to_owned(),
        last_reload: Some(ReloadStatus {
            at: status.started,
            outcome: "applied",
            lines: vec!["chat: heartbeat.interval 5s → 3s, live, 2 links kept".to_owned()],
        }),
        effective: "[upstreams.chat]\n".into(),
    }));
    let chat = status.add_upstream(&Arc::new(upstream("chat")));
    chat.listening.store(Arc::new(vec!["127.0.0.1:7000".to_owned()]));
    for endpoint in ["a.internal:8080", "b.internal:8080"] {
        status.metrics.endpoint("chat", endpoint).up.set(i64::from(endpoint.starts_with('a')));
    }
    status.metrics.endpoint("chat", "b.internal:8080").losses.inc();
    chat.set_alive(true, "");
    chat.add_link(1).update(|view| {
        view.state = LinkState::Up;
        view.endpoint = Some("a.internal:8080".to_owned());
        view.address = Some("10.0.0.1:8080".to_owned());
        view.rtt = Some(Duration::from_micros(420));
    });
    chat.add_link(2).update(|view| {
        view.state = LinkState::Waiting;
        view.endpoint = Some("b.internal:8080".to_owned());
        view.attempt = 4;
        view.retry_at = Some(status.started + Duration::from_secs(3600));
        view.last_error = Some("connection refused".to_owned());
    });
    chat.metrics.lose(LossReason::Reset);
    chat.record(event(&status));
    status
}

/// The loss of a link at the start.
pub fn event(status: &Status) -> Event {
    Event {
        at: status.started,
        kind: "lost",
        link: Some(2),
        endpoint: Some("b.internal:8080".to_owned()),
        reason: Some(LossReason::Reset),
        text: "connection reset by peer".to_owned(),
    }
}

/// `site`, a tunnel with one link that has been resumed; and the gateway, with one session connected and one not. (One
/// process is both only here.)
pub fn busy_tunnel() -> Arc<Status> {
    let status = status();
    let site = status.add_upstream(&Arc::new(tunnel("site")));
    site.listens(vec![vec!["127.0.0.1:5432".to_owned()]]);
    site.set_alive(true, "");
    let link = site.add_link(1);
    link.update(|view| {
        view.state = LinkState::Up;
        view.endpoint = Some("a.internal:8080".to_owned());
        view.rtt = Some(Duration::from_millis(21));
    });
    let mut id = [0xee; 16];
    id[..4].copy_from_slice(&[0x5e, 0x55, 0x10, 0x11]);
    let figures = Arc::new(SessionFigures::new(&id, 16 << 20));
    figures.resumed(3, Some(Duration::from_millis(800)));
    figures.set_streams(7);
    figures.set_unacknowledged(4096);
    link.show_session(Some(figures));
    if let Some(session) = &site.metrics.session {
        session.resume(ResumeOutcome::Resumed);
    }

    let far = status.add_gateway(&Arc::new(gateway()));
    far.listening.store(Arc::new(vec!["127.0.0.1:7443".to_owned()]));
    far.metrics.pending.set(2);
    far.metrics.refuse(Refusal::Denied);
    let peer = Some(([10, 0, 0, 9], 40_000).into());
    let known = far.add_session(SessionFigures::new(&[1; 16], 16 << 20), Some("spiffe://edge/a"), peer);
    known.figures.set_streams(5);
    let lost = far.add_session(SessionFigures::new(&[2; 16], 16 << 20), None, peer);
    lost.figures.set_unacknowledged(100);
    lost.disconnected();
    // Shown for as long as the example is.
    std::mem::forget((known, lost));
    status
}
