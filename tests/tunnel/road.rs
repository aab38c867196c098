//! The whole road: a sidecar, a relay of our own, a gateway, and the services behind it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use everlink::http::report::GatewayReport;

use super::relay::Relay;
use crate::common::program::{Program, directory, free_port, wait_until, whole};
use crate::common::server::{Server, echo};
use crate::tls::{Authority, Pair};

/// Beats that no busy host makes late, for all that is not about silence: a second connection, or a loss that nobody has
/// caused, would be counted. Redials need no patience.
pub const CALM: &str = "heartbeat = { interval = \"5s\", timeout = \"3s\", misses = 3 }\n\
     retry = { initial = \"100ms\", max = \"1s\", stable_after = \"1s\", connect_timeout = \"2s\" }\n";

/// Where silence has to be found out: a budget of 1.4 s.
pub const QUICK: &str = "heartbeat = { interval = \"500ms\", timeout = \"300ms\", misses = 3 }\n\
     retry = { initial = \"100ms\", max = \"1s\", stable_after = \"1s\", connect_timeout = \"2s\" }\n";

/// Bytes of beats and the like that may be on their way at any moment.
const LEFT: f64 = 200.0;

/// KiB that allocators may keep for the next time. A single session may hold 80 MiB: 16 to send again, 64 of windows.
const MEMORY_LEFT: u64 = 48 << 10;

/// How the two ends know each other.
pub enum Trust {
    /// By a token, in plain text.
    Token(tempfile::TempDir),
    /// By certificates both ways.
    Certificates(Box<Authority>),
}

impl Trust {
    pub fn token() -> Self {
        let directory = directory();
        let path = directory.path().join("token");
        std::fs::write(&path, "open sesame, and be quick about it\n").expect("written");
        private(&path);
        Self::Token(directory)
    }

    pub fn certificates() -> Self {
        let authority = Authority::new("the tests");
        authority.put("ca.pem", &authority.pem);
        let trust = Self::Certificates(Box::new(authority));
        trust.certify("server", &["localhost", "127.0.0.1"]);
        trust.certify("sidecar-a", &["sidecar-a"]);
        trust
    }

    pub fn authority(&self) -> &Authority {
        match self {
            Self::Certificates(authority) => authority,
            Self::Token(_) => panic!("there are no certificates"),
        }
    }

    /// A new certificate in `name`.pem, with its key.
    pub fn certify(&self, name: &str, names: &[&str]) {
        self.put(name, &self.authority().issue(names));
    }

    pub fn put(&self, name: &str, pair: &Pair) {
        let authority = self.authority();
        authority.put(&format!("{name}.key"), &pair.key);
        authority.put(&format!("{name}.pem"), &pair.cert);
    }

    fn path(&self, file: &str) -> PathBuf {
        match self {
            Self::Token(directory) => directory.path().join(file),
            Self::Certificates(authority) => authority.path(file),
        }
    }

    fn of_gateway(&self) -> String {
        let path = |file| self.path(file).display().to_string();
        match self {
            Self::Token(_) => format!("token_file = \"{}\"\n", path("token")),
            Self::Certificates(_) => format!(
                "tls = {{ cert_file = \"{}\", key_file = \"{}\", client_ca_file = \"{}\" }}\n",
                path("server.pem"),
                path("server.key"),
                path("ca.pem")
            ),
        }
    }

    fn of_sidecar(&self) -> String {
        let path = |file| self.path(file).display().to_string();
        match self {
            Self::Token(_) => format!("token_file = \"{}\"\n", path("token")),
            Self::Certificates(_) => format!(
                "tls = {{ ca_file = \"{}\", cert_file = \"{}\", key_file = \"{}\" }}\n",
                path("ca.pem"),
                path("sidecar-a.pem"),
                path("sidecar-a.key")
            ),
        }
    }
}

fn private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("set");
}

/// A gateway's configuration.
pub fn gateway(trust: &Trust, name: &str, port: u16, services: &[(&str, SocketAddr)], more: &str) -> String {
    let mut text = format!(
        "[gateway]\nlisten = \"127.0.0.1:{port}\"\nname = \"{name}\"\n{}{more}[gateway.services]\n",
        trust.of_gateway()
    );
    for (name, address) in services {
        text += &format!("{name} = \"{address}\"\n");
    }
    text
}

/// A sidecar's, with the upstream `site` and a forward for each of the services.
pub fn sidecar(trust: &Trust, endpoints: &[SocketAddr], services: &[&str], more: &str) -> String {
    let mut text = format!("[upstreams.site]\nmode = \"tunnel\"\nendpoints = {:?}\n", texts(endpoints));
    text += &trust.of_sidecar();
    text += more;
    for service in services {
        text += &format!("[[upstreams.site.forwards]]\nlisten = \"127.0.0.1:0\"\nservice = \"{service}\"\n");
    }
    text
}

fn texts(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// All of it, with an echo service and whatever else is named.
pub struct Road {
    pub sidecar: Program,
    pub gateway: Option<Program>,
    pub relay: Relay,
    pub echo: Server,
    pub trust: Trust,
    pub port: u16,
    services: Vec<(String, SocketAddr)>,
    of_gateway: String,
    of_sidecar: String,
    wrapper: Vec<String>,
}

/// What makes a road differ from the usual one.
pub struct Plan<'a> {
    pub trust: Trust,
    /// Beside `echo`.
    pub services: &'a [(&'a str, SocketAddr)],
    /// Further lines of the upstream and of `[gateway]`.
    pub sidecar: &'a str,
    pub gateway: &'a str,
    /// Commands that run the sidecar, and the gateway; none if empty.
    pub wrappers: [&'a [String]; 2],
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self { trust: Trust::token(), services: &[], sidecar: CALM, gateway: "", wrappers: [&[]; 2] }
    }
}

impl Plan<'_> {
    /// Builds it, and waits until the links are up.
    pub fn build(self) -> Road {
        let echo = Server::start(echo);
        let port = free_port();
        let services: Vec<(String, SocketAddr)> = [("echo", echo.address)]
            .iter()
            .chain(self.services)
            .map(|(name, address)| ((*name).to_owned(), *address))
            .collect();
        let gateway = start_gateway(&self.trust, port, &services, self.gateway, self.wrappers[1]);
        let relay = Relay::start(&[SocketAddr::from(([127, 0, 0, 1], port))]);
        let names: Vec<_> = services.iter().map(|(name, _)| name.as_str()).collect();
        let sidecar = sidecar(&self.trust, &[relay.address], &names, self.sidecar);
        let sidecar = start(&sidecar, self.wrappers[0]);
        let road = Road {
            sidecar,
            gateway: Some(gateway),
            relay,
            echo,
            trust: self.trust,
            port,
            services,
            of_gateway: self.gateway.to_owned(),
            of_sidecar: self.sidecar.to_owned(),
            wrapper: self.wrappers[1].to_vec(),
        };
        road.until_up();
        road
    }
}

fn start(config: &str, wrapper: &[String]) -> Program {
    let place = directory();
    std::fs::write(place.path().join("config.toml"), whole(config)).expect("a configuration");
    Program::start_wrapped(place, wrapper)
}

fn start_gateway(
    trust: &Trust,
    port: u16,
    services: &[(String, SocketAddr)],
    more: &str,
    wrapper: &[String],
) -> Program {
    let services: Vec<_> = services.iter().map(|(name, address)| (name.as_str(), *address)).collect();
    start(&gateway(trust, "gw-1", port, &services, more), wrapper)
}

impl Road {
    pub fn new() -> Self {
        Plan::default().build()
    }

    pub fn gateway(&self) -> &Program {
        self.gateway.as_ref().expect("it runs")
    }

    /// SIGKILL.
    pub fn kill_gateway(&mut self) {
        self.gateway = None;
    }

    /// Another one at the same address.
    pub fn start_gateway(&mut self) {
        self.gateway = Some(start_gateway(&self.trust, self.port, &self.services, &self.of_gateway, &self.wrapper));
    }

    /// Edits the sidecar: further lines instead of those it had, and forwards for these services.
    pub fn edit_sidecar(&mut self, more: &str, services: &[&str]) {
        self.of_sidecar = more.to_owned();
        self.sidecar.edit(&sidecar(&self.trust, &[self.relay.address], services, more));
    }

    /// Edits the gateway likewise.
    pub fn edit_gateway(&mut self, more: &str, services: &[(&str, SocketAddr)]) {
        self.of_gateway = more.to_owned();
        self.services = services.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
        let text = gateway(&self.trust, "gw-1", self.port, services, more);
        self.gateway().edit(&text);
    }

    pub fn until_up(&self) {
        wait_until("all links are up", || {
            let links = self.sidecar.upstream("site").links;
            !links.is_empty() && links.iter().all(|link| link.state == "up")
        });
    }

    /// A client of a service.
    pub fn connect(&self, service: &str) -> TcpStream {
        connect_to(self.listener(service))
    }

    pub fn listener(&self, service: &str) -> SocketAddr {
        listener(&self.sidecar, service)
    }

    /// One of the upstream's series without a label of its own: `link_reconnects_total`.
    pub fn of(&self, metric: &str) -> f64 {
        self.sidecar.metric(&format!("everlink_{metric}{{upstream=\"site\"}}"))
    }

    /// One with a label, as in `reason="reset"`.
    pub fn count(&self, metric: &str, label: &str) -> f64 {
        let metrics = self.sidecar.metrics();
        let (before, after) = (
            format!("everlink_{metric}{{{label},upstream=\"site\"}}"),
            format!("everlink_{metric}{{upstream=\"site\",{label}}}"),
        );
        metrics.find(&before).or(metrics.find(&after)).unwrap_or_else(|| panic!("no series {before}"))
    }

    pub fn lost(&self, reason: &str) -> f64 {
        self.count("link_losses_total", &format!("reason=\"{reason}\""))
    }

    /// Losses for whatever reason.
    pub fn losses(&self) -> f64 {
        ["heartbeat", "closed", "reset", "error", "protocol"].iter().map(|reason| self.lost(reason)).sum()
    }

    pub fn closed(&self, reason: &str) -> f64 {
        self.count("connections_closed_total", &format!("reason=\"{reason}\""))
    }

    pub fn resumes(&self, outcome: &str) -> f64 {
        self.count("session_resumes_total", &format!("outcome=\"{outcome}\""))
    }

    pub fn refusals(&self, reason: &str) -> f64 {
        self.gateway().metric(&format!("everlink_gateway_refusals_total{{reason=\"{reason}\"}}"))
    }

    pub fn at_gateway(&self) -> GatewayReport {
        self.gateway().status().gateway.expect("a gateway")
    }

    /// The short id of the only session.
    pub fn session(&self) -> String {
        let links = self.sidecar.upstream("site").links;
        links[0].session.as_ref().expect("a session").id.clone()
    }

    /// Nobody is connected any more, at either end.
    pub fn until_idle(&self) {
        wait_until("no client is left", || self.of("connections") == 0.0);
        wait_until("no stream is left at the gateway", || {
            self.gateway().metric("everlink_gateway_streams") == 0.0 && self.echo.live() == 0
        });
        // The last beats and acknowledgements are not acknowledged for their own sake.
        wait_until("all bytes are acknowledged", || {
            let links = self.sidecar.upstream("site").links.len();
            self.of("session_unacknowledged_bytes") < LEFT * links as f64
        });
    }

    /// What both ends hold, once the connections of the last questions to them are closed.
    pub fn held(&self) -> Held {
        let ends = [self.sidecar.id(), self.gateway().id()];
        let count = || ends.map(descriptors);
        let (mut least, mut same) = (count(), 0);
        while same < 10 {
            std::thread::sleep(Duration::from_millis(10));
            let now = count();
            same = if now == least { same + 1 } else { 0 };
            least = now;
        }
        Held { descriptors: least, memory: ends.map(memory) }
    }

    /// Everything is as it was when this was held: no client, no stream, no byte to be acknowledged, and no more descriptors
    /// and memory.
    pub fn until_baseline(&self, before: Held) {
        self.until_idle();
        let ends = [self.sidecar.id(), self.gateway().id()];
        wait_until(&format!("no more than {:?} descriptors", before.descriptors), || {
            ends.map(descriptors).iter().zip(before.descriptors).all(|(now, before)| *now <= before)
        });
        let now = ends.map(memory);
        let gives_back = now.iter().zip(before.memory).all(|(now, before)| *now <= before + MEMORY_LEFT);
        assert!(gives_back, "memory, KiB: {:?} and then {now:?}", before.memory);
    }
}

/// What the sidecar and the gateway hold of the host.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub descriptors: [usize; 2],
    /// KiB.
    pub memory: [u64; 2],
}

/// Where clients of a service connect: its forward's first listener.
pub fn listener(sidecar: &Program, service: &str) -> SocketAddr {
    let forwards = sidecar.upstream("site").forwards;
    let found = forwards.into_iter().find(|forward| forward.service == service);
    found.unwrap_or_else(|| panic!("no forward for {service}")).listen[0].parse().expect("an address")
}

pub fn connect_to(address: SocketAddr) -> TcpStream {
    let stream = crate::common::connect_to(address);
    stream.set_nodelay(true).expect("set");
    stream
}

/// Open descriptors of a process.
pub fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).expect("a living process").count()
}

/// Memory of a process that is not swapped, in KiB.
pub fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a living process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("told");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
}

/// The words come back.
pub fn talks(stream: &mut TcpStream, words: &[u8]) {
    stream.write_all(words).expect("sent");
    let mut answer = vec![0; words.len()];
    stream.read_exact(&mut answer).unwrap_or_else(|error| panic!("no answer: {error}"));
    assert_eq!(answer, words);
}

/// Reads to the end: how many bytes, or the error that it was.
pub fn end_of(stream: &mut TcpStream) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut all = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(all),
            count => all += count as u64,
        }
    }
}

pub fn is_reset(ended: &io::Result<u64>) -> bool {
    matches!(ended, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

/// The next close of this socket is a reset.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set");
}

/// Says the end and holds that the other side does, too, without another byte.
pub fn ends(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).expect("ended");
    assert_eq!(end_of(&mut stream).expect("an end in order"), 0);
}
