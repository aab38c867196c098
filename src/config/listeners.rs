//! Listeners that would take each other's place, and upstreams and gateways that would dial themselves.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use super::read::{Reader, Text};
use super::report::{Basis, Problem};
use super::{Address, ListenAddress};

/// Every address the file asks to listen at, and every one it dials.
#[derive(Default)]
pub(super) struct Listening {
    listeners: Vec<Listener>,
    dialled: Vec<Dialled>,
}

/// The gateway among those who listen and dial; no upstream can have this name.
pub(super) const GATEWAY: &str = "[gateway]";

struct Listener {
    /// The upstream, or [`GATEWAY`], whose clients arrive here; `None`: neither's.
    upstream: Option<String>,
    /// For messages.
    owner: String,
    address: ListenAddress,
    /// As written; variables by name only.
    shown: String,
    /// `None`: the built-in default.
    span: Option<Range<usize>>,
}

pub(super) struct Dialled {
    /// The upstream, or [`GATEWAY`].
    pub by: String,
    pub address: Address,
    pub shown: String,
    pub span: Range<usize>,
}

/// The listeners of one port.
#[derive(Default)]
struct Port {
    exact: HashMap<IpAddr, usize>,
    /// The first of any kind: what a wildcard of both families meets.
    first: Option<usize>,
    first_v4: Option<usize>,
    any_v4: Option<usize>,
    any_v6: Option<usize>,
}

impl Port {
    /// A listener that would take clients of this address, or the reverse. `[::]` takes IPv4 as well (bindv6only is 0
    /// by default, ipv6(7)), so it meets every address of its port.
    fn clash(&self, ip: IpAddr) -> Option<usize> {
        let exact = self.exact.get(&ip).copied();
        match ip {
            IpAddr::V6(ip) if ip.is_unspecified() => exact.or(self.first),
            IpAddr::V4(ip) if ip.is_unspecified() => exact.or(self.any_v6).or(self.first_v4),
            IpAddr::V4(_) => exact.or(self.any_v4).or(self.any_v6),
            IpAddr::V6(_) => exact.or(self.any_v6),
        }
    }

    fn add(&mut self, ip: IpAddr, index: usize) {
        self.exact.entry(ip).or_insert(index);
        self.first.get_or_insert(index);
        if ip.is_ipv4() {
            self.first_v4.get_or_insert(index);
        }
        if ip.is_unspecified() {
            let any = if ip.is_ipv4() { &mut self.any_v4 } else { &mut self.any_v6 };
            any.get_or_insert(index);
        }
    }
}

impl Listening {
    pub fn add(&mut self, upstream: Option<&str>, owner: &str, address: ListenAddress, text: &Text) {
        self.listeners.push(Listener {
            upstream: upstream.map(str::to_owned),
            owner: owner.to_owned(),
            address,
            shown: text.quoted(),
            span: Some(text.span.clone()),
        });
    }

    /// A listener that is there although nobody wrote it.
    pub fn add_default(&mut self, owner: &str, address: ListenAddress) {
        let shown = format!("\"{address}\"");
        self.listeners.push(Listener { upstream: None, owner: owner.to_owned(), address, shown, span: None });
    }

    pub fn dial(&mut self, dialled: Dialled) {
        self.dialled.push(dialled);
    }

    /// Two listeners of one address would each get half of the clients, or the second none at all.
    pub fn tell_clashes(&self, reader: &mut Reader<'_>) {
        let mut ports: HashMap<u16, Port> = HashMap::new();
        let mut paths: HashMap<PathBuf, usize> = HashMap::new();
        for (index, listener) in self.listeners.iter().enumerate() {
            let other = match &listener.address {
                ListenAddress::Tcp(address) if address.port() == 0 => None,
                ListenAddress::Tcp(address) => {
                    let port = ports.entry(address.port()).or_default();
                    let ip = address.ip().to_canonical();
                    let clash = port.clash(ip);
                    port.add(ip, index);
                    clash
                }
                ListenAddress::Unix(path) => {
                    let path: PathBuf = path.components().collect();
                    let clash = paths.get(&path).copied();
                    paths.entry(path).or_insert(index);
                    clash
                }
            };
            if let Some(other) = other.and_then(|other| self.listeners.get(other)) {
                clash(reader, listener, other);
            }
        }
    }

    /// An endpoint, or a service, that leads back to where it is dialled from makes clients out of links, without end.
    pub fn tell_loops(&self, reader: &mut Reader<'_>) {
        let by_address = self.by_address();
        let mut edges: HashMap<&str, Vec<(&str, usize, usize)>> = HashMap::new();
        for (index, dialled) in self.dialled.iter().enumerate() {
            for listener in reached(&by_address, &dialled.address) {
                if let Some(upstream) = self.listeners.get(listener).and_then(|found| found.upstream.as_deref()) {
                    edges.entry(&dialled.by).or_default().push((upstream, index, listener));
                }
            }
        }
        let mut told: HashSet<&str> = HashSet::new();
        // Where a loop leads through the gateway, the wrong step is a service.
        let (gateway, upstreams): (Vec<_>, Vec<_>) = self.dialled.iter().partition(|dialled| dialled.by == GATEWAY);
        for start in gateway.iter().chain(&upstreams).map(|dialled| dialled.by.as_str()) {
            if told.contains(start) {
                continue;
            }
            if let Some((path, index, listener)) = way_back(&edges, start) {
                told.extend(path.iter().copied());
                if let (Some(dialled), Some(listener)) = (self.dialled.get(index), self.listeners.get(listener)) {
                    tell_loop(reader, dialled, listener, &path);
                }
            }
        }
    }

    fn by_address(&self) -> HashMap<ListenAddress, usize> {
        let mut by_address = HashMap::new();
        for (index, listener) in self.listeners.iter().enumerate().filter(|(_, l)| l.upstream.is_some()) {
            by_address.entry(canonical(&listener.address)).or_insert(index);
        }
        by_address
    }
}

fn canonical(address: &ListenAddress) -> ListenAddress {
    match address {
        ListenAddress::Tcp(address) => ListenAddress::Tcp((address.ip().to_canonical(), address.port()).into()),
        ListenAddress::Unix(path) => ListenAddress::Unix(path.components().collect()),
    }
}

/// Listeners of this file that answer at an endpoint's address, as far as that can be told without DNS.
fn reached(by_address: &HashMap<ListenAddress, usize>, address: &Address) -> BTreeSet<usize> {
    let any = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    let (ips, port) = match address {
        Address::Unix(path) => {
            let path = canonical(&ListenAddress::Unix(path.clone()));
            return by_address.get(&path).copied().into_iter().collect();
        }
        Address::Ip(address) => {
            let ip = address.ip().to_canonical();
            let ips = if ip.is_loopback() { vec![ip, any[0], any[1]] } else { vec![ip] };
            (ips, address.port())
        }
        Address::Host { host, port } if host.eq_ignore_ascii_case("localhost") => ([loopback, any].concat(), *port),
        Address::Host { .. } => return BTreeSet::new(),
    };
    ips.into_iter().filter_map(|ip| by_address.get(&ListenAddress::Tcp((ip, port).into())).copied()).collect()
}

/// The shortest way from an upstream through others back to it: its names, its first endpoint, and where that leads.
fn way_back<'a>(
    edges: &HashMap<&'a str, Vec<(&'a str, usize, usize)>>,
    start: &'a str,
) -> Option<(Vec<&'a str>, usize, usize)> {
    let mut seen: HashSet<&str> = HashSet::new();
    let mut front: Vec<(Vec<&'a str>, usize, usize)> = Vec::new();
    for (next, index, listener) in edges.get(start)? {
        front.push((vec![start, next], *index, *listener));
    }
    while !front.is_empty() {
        let mut further = Vec::new();
        for (path, index, listener) in front {
            let Some(last) = path.last().copied() else { continue };
            if last == start {
                return Some((path, index, listener));
            }
            if !seen.insert(last) {
                continue;
            }
            for (next, ..) in edges.get(last).into_iter().flatten() {
                further.push(([path.as_slice(), &[*next]].concat(), index, listener));
            }
        }
        front = further;
    }
    None
}

fn clash(reader: &mut Reader<'_>, listener: &Listener, other: &Listener) {
    let (listener, other) = if listener.span.is_some() { (listener, other) } else { (other, listener) };
    let Some(span) = &listener.span else { return };
    let same = canonical(&listener.address) == canonical(&other.address);
    let message = if same {
        format!("listener {} is already that of {}", listener.shown, other.owner)
    } else {
        format!("listener {} overlaps {} of {}", listener.shown, other.shown, other.owner)
    };
    let mut problem = Problem::at(reader.source, span, message);
    match &other.span {
        Some(other) => problem = problem.and_at(reader.source, other, "the other"),
        None => problem = problem.help(format!("that is the default of {}", other.owner)),
    }
    if !same {
        problem = problem.help("0.0.0.0 takes every IPv4 address of its port, [::] every address");
    }
    let other = if matches!(listener.address, ListenAddress::Unix(_)) { "path" } else { "port" };
    reader.tell(problem.help(format!("give one of them another {other}")).basis(Basis::Value));
}

fn tell_loop(reader: &mut Reader<'_>, dialled: &Dialled, listener: &Listener, path: &[&str]) {
    let (who, what, help) = if dialled.by == GATEWAY {
        ("the gateway".to_owned(), "service", "a service's address is the server's own")
    } else {
        (format!("`{}`", dialled.by), "endpoint", "an endpoint is the server's own address")
    };
    let message = if path.len() == 2 {
        format!("{who} would dial itself: its {what} {} is its own listener", dialled.shown)
    } else {
        format!("{who} would dial itself: {}", path.join(" → "))
    };
    let mut problem = Problem::at(reader.source, &dialled.span, message);
    if let Some(span) = &listener.span {
        problem = problem.and_at(reader.source, span, "this listener");
    }
    reader.tell(problem.help(help));
}
