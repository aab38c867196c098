//! The whole site: a sidecar, two gateways, a relay before each of them and before the direct server, and the servers.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::child::Everlink;
use super::clients::Doors;
use super::config::{self, Tuning};
use super::relay::Relay;
use super::samples::Sample;
use super::servers::Server;
use super::talk::Door;
use super::trust::Trust;
use super::world::{Place, World, locked};

/// What the gateways are called.
const GATEWAYS: [&str; 2] = ["gateway-a", "gateway-b"];

pub struct Site {
    pub world: Arc<World>,
    pub trust: Trust,
    pub sidecar: Everlink,
    /// Before gateway a, gateway b and the direct server.
    pub relays: [Relay; 3],
    /// Behind gateway a and gateway b.
    pub services: [Server; 2],
    pub direct: Mutex<Option<Server>>,
    /// What was seen last.
    pub latest: watch::Sender<Sample>,
    /// Beats that servers have answered which are gone.
    pub beats: AtomicU64,
    gateways: [Mutex<Arc<Everlink>>; 2],
    generation: AtomicU64,
    binary: PathBuf,
    directory: PathBuf,
}

impl Site {
    pub async fn start(world: &Arc<World>, binary: &Path, directory: &Path) -> io::Result<Arc<Self>> {
        let trust = Trust::new(directory)?;
        let services = [Server::start(world, Place::A).await?, Server::start(world, Place::B).await?];
        let direct = Server::start(world, Place::Server).await?;
        let nowhere = services[0].address;
        let relays = [Relay::start(nowhere).await?, Relay::start(nowhere).await?, Relay::start(direct.address).await?];
        let mut gateways = Vec::new();
        for which in 0..2 {
            let text = config::gateway(&trust, GATEWAYS[which], relays[which].address, services[which].address);
            let gateway = start_gateway(binary, directory, which, 0, &text).await?;
            relays[which].lead_to(tunnels(&gateway)?);
            gateways.push(Mutex::new(gateway));
        }
        let gateways = gateways.try_into().map_err(|_| io::Error::other("two gateways"))?;
        let text =
            config::sidecar(&trust, &Tuning::default(), [relays[0].address, relays[1].address], relays[2].address);
        let sidecar = Everlink::start(binary, directory, "sidecar", &text).await?;
        let site = Self {
            world: world.clone(),
            trust,
            sidecar,
            relays,
            services,
            direct: Mutex::new(Some(direct)),
            latest: watch::Sender::default(),
            beats: AtomicU64::new(0),
            gateways,
            generation: AtomicU64::new(0),
            binary: binary.to_owned(),
            directory: directory.to_owned(),
        };
        Ok(Arc::new(site))
    }

    pub fn gateway(&self, place: Place) -> Arc<Everlink> {
        locked(&self.gateways[place as usize]).clone()
    }

    /// Another one in the place of that which has gone; the relay leads to it.
    pub async fn restart_gateway(&self, place: Place) -> io::Result<()> {
        let number = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let which = place as usize;
        let (relay, service) = (self.relays[which].address, self.services[which].address);
        let text = config::gateway(&self.trust, GATEWAYS[which], relay, service);
        let new = start_gateway(&self.binary, &self.directory, which, number, &text).await?;
        self.relays[which].lead_to(tunnels(&new)?);
        *locked(&self.gateways[which]) = new;
        Ok(())
    }

    /// The direct server goes, with all its connections.
    pub fn close_server(&self) {
        if let Some(server) = locked(&self.direct).take() {
            self.beats.fetch_add(server.beats.load(Ordering::Relaxed), Ordering::Relaxed);
            server.close();
        }
    }

    /// And is there again, elsewhere behind the relay.
    pub async fn open_server(&self) -> io::Result<()> {
        let server = Server::start(&self.world, Place::Server).await?;
        self.relays[Place::Server as usize].lead_to(server.address);
        *locked(&self.direct) = Some(server);
        Ok(())
    }

    /// The direct server answers no beats, or does again.
    pub fn deafen_server(&self, deaf: bool) {
        if let Some(server) = &*locked(&self.direct) {
            server.deaf.send_replace(deaf);
        }
    }

    pub fn configure(&self, tuning: &Tuning) -> io::Result<()> {
        let [a, b, server] = self.relays.each_ref().map(|relay| relay.address);
        self.sidecar.edit(&config::sidecar(&self.trust, tuning, [a, b], server))
    }

    /// Where clients connect.
    pub async fn doors(&self) -> io::Result<Doors> {
        let (_, status) = self.sidecar.get("/status").await?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let of = |door: Door| -> Option<SocketAddr> {
            let upstreams = status.get("upstreams")?.as_array()?;
            let upstream = upstreams.iter().find(|upstream| upstream["name"] == door.name())?;
            upstream["listen"][0].as_str()?.parse().ok()
        };
        let mut doors = [SocketAddr::from(([127, 0, 0, 1], 0)); 4];
        for door in Door::ALL {
            doors[door as usize] = of(door).ok_or_else(|| io::Error::other(format!("no listener for {door:?}")))?;
        }
        Ok(doors)
    }

    /// Waits for a sample younger than this moment for which it holds.
    pub async fn until(&self, within: Duration, mut holds: impl FnMut(&Sample) -> bool) -> bool {
        let now = self.world.now();
        let mut latest = self.latest.subscribe();
        let seen = latest.wait_for(|sample| sample.at > now && holds(sample));
        tokio::time::timeout(within, seen).await.is_ok_and(|seen| seen.is_ok())
    }
}

/// The `number`th process in a gateway's place.
async fn start_gateway(
    binary: &Path,
    directory: &Path,
    which: usize,
    number: u64,
    text: &str,
) -> io::Result<Arc<Everlink>> {
    let name = format!("{}-{number}", GATEWAYS[which]);
    Ok(Arc::new(Everlink::start(binary, directory, &name, text).await?))
}

/// Where a gateway takes tunnels.
fn tunnels(gateway: &Everlink) -> io::Result<SocketAddr> {
    gateway.address("the gateway listens").ok_or_else(|| io::Error::other("the gateway does not say where it listens"))
}
