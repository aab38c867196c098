//! Upstreams and whole states for the tests of this module and of the commands that read it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::{
    Address, Balance, Beat, Endpoint, Heartbeat, InUse, Jitter, Limits, ListenAddress, Pool, Retry, Upstream,
};
use crate::metrics::{LinkState, LossReason, Metrics};
use crate::status::{ConfigStatus, Event, ReloadStatus, Status};

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
    chat.record(Event {
        at: status.started,
        kind: "lost",
        link: Some(2),
        endpoint: Some("b.internal:8080".to_owned()),
        reason: Some(LossReason::Reset),
        text: "connection reset by peer".to_owned(),
    });
    status
}
