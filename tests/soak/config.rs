//! The configuration files of a run.

use std::fmt::Write;
use std::net::SocketAddr;

use fastrand::Rng;

use super::talk::Door;
use super::trust::Trust;
use super::world::DEADLINE;

const HTTP: &str = "[http]\nlisten = \"127.0.0.1:0\"\n";

/// A gateway that is told to leave does so after so many seconds at the latest.
pub const DRAIN: u64 = 8;

/// What is edited while the sidecar runs.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Milliseconds, and misses.
    heartbeat: (u32, u32, u32),
    /// Milliseconds.
    retry: (u32, u32),
    stable_after: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { heartbeat: (1000, 500, 3), retry: (100, 1000), stable_after: 1000 }
    }
}

impl Tuning {
    pub fn retune(&mut self, rng: &mut Rng) {
        self.heartbeat = (rng.u32(500..3000), rng.u32(300..900), rng.u32(2..5));
    }

    pub fn retry(&mut self, rng: &mut Rng) {
        self.retry = (rng.u32(50..500), rng.u32(1000..2000));
        self.stable_after = rng.u32(500..3000);
    }
}

/// The sidecar's: three tunnels, to each of the gateways and to both, and a direct upstream.
pub fn sidecar(trust: &Trust, tuning: &Tuning, gateways: [SocketAddr; 2], server: SocketAddr) -> String {
    let (interval, timeout, misses) = tuning.heartbeat;
    let beats = format!("interval = \"{interval}ms\", timeout = \"{timeout}ms\", misses = {misses}");
    let (initial, max) = tuning.retry;
    let mut text = format!(
        "{HTTP}[drain]\ntimeout = \"10s\"\nquiet = \"100ms\"\n\
         [defaults.retry]\ninitial = \"{initial}ms\"\nmax = \"{max}ms\"\nstable_after = \"{}ms\"\nconnect_timeout = \"2s\"\n\
         [defaults.limits]\nwait = \"40s\"\n",
        tuning.stable_after
    );
    let [a, b] = gateways.map(|gateway| format!("\"{gateway}\""));
    for (door, endpoints) in [(Door::Left, a.clone()), (Door::Right, b.clone()), (Door::Both, format!("{a}, {b}"))] {
        let _ = write!(
            text,
            "[upstreams.{}]\nmode = \"tunnel\"\nendpoints = [{endpoints}]\nbalance = \"round-robin\"\npool.size = 2\n\
             heartbeat = {{ {beats} }}\nresume.deadline = \"{}s\"\n\
             tls = {{ ca_file = \"{}\", cert_file = \"{}\", key_file = \"{}\" }}\n\
             forwards = [{{ listen = \"127.0.0.1:0\", service = \"work\" }}]\n",
            door.name(),
            DEADLINE.as_secs(),
            trust.path("ca.pem"),
            trust.path("sidecar.pem"),
            trust.path("sidecar.key"),
        );
    }
    let _ = write!(
        text,
        "[upstreams.direct]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"{server}\"]\npool.size = 3\n\
         heartbeat = {{ {beats}, send = \"ping\\n\", expect = \"pong\" }}\n"
    );
    text
}

/// A gateway's; `advertise` is the relay before it.
pub fn gateway(trust: &Trust, name: &str, advertise: SocketAddr, service: SocketAddr) -> String {
    format!(
        "{HTTP}[drain]\ntimeout = \"{DRAIN}s\"\n[gateway]\nlisten = \"127.0.0.1:0\"\nname = \"{name}\"\n\
         advertise = \"{advertise}\"\nresume.deadline = \"{}s\"\n\
         tls = {{ cert_file = \"{}\", key_file = \"{}\", client_ca_file = \"{}\" }}\n\
         [gateway.services]\nwork = \"{service}\"\n",
        DEADLINE.as_secs(),
        trust.path("gateway.pem"),
        trust.path("gateway.key"),
        trust.path("ca.pem"),
    )
}
