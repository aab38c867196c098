//! Which mode an upstream is in, and what only one in tunnel mode has.

use ipnet::IpNet;

use super::{Check, Settings, shown};
use crate::config::bounds::FORWARDS_MAX;
use crate::config::keys::{Mode, Scope};
use crate::config::read::{Got, Layer, Text};
use crate::config::report::{Basis, Problem};
use crate::config::units::show_size;
use crate::config::{Address, Endpoint, Forward, ListenAddress, Resume, Tunnel};

/// A stream's first window: what its sender may send before it hears of the other end.
pub(super) const WINDOW_MIN: u64 = 16 << 10;
/// Told with one byte of length in OPEN.
const SERVICE_MAX: usize = 255;

impl Check<'_, '_> {
    /// Reads `mode` and tells the upstream's own keys of the other one.
    pub(super) fn mode(&mut self, layer: &Layer<'_, '_>) -> Mode {
        let read = self.reader.choice(layer, "mode");
        let forwards = layer.own.forwards.as_ref();
        let mode = if read.value == 1 || forwards.is_some() { Mode::Tunnel } else { Mode::Direct };
        if !read.sound {
            return mode;
        }
        if let (0, Some(forwards)) = (read.value, forwards) {
            // One word about the mode says it for all other keys.
            let problem = Problem::at(self.reader.source, &forwards.place, "`forwards` is for tunnel mode");
            let problem = match &read.at {
                Some(at) => problem.and_at(self.reader.source, at, "the mode"),
                None => problem,
            };
            self.reader.tell(problem.help("write mode = \"tunnel\"").basis(Basis::Whole));
            return mode;
        }
        for (name, written) in &layer.own.keys {
            let other = layer.scope.key(name).and_then(|key| key.mode()).filter(|other| *other != mode);
            let (Some(other), span) = (other, written.value.span()) else { continue };
            let (word, help) = match (other, *name) {
                (Mode::Tunnel, _) => ("tunnel", "leave it out, or write mode = \"tunnel\""),
                (_, "listen") => {
                    ("direct", "in tunnel mode each listener has its service: move it into [[upstreams.NAME.forwards]]")
                }
                (_, "tls.alpn") => ("direct", "a tunnel has a protocol name of its own: leave it out"),
                _ => ("direct", "a tunnel's beats are frames of its own: leave it out"),
            };
            let help = help.replace("NAME", layer.path.trim_start_matches("upstreams.").trim_end_matches('.'));
            let problem = Problem::at(self.reader.source, &span, format!("`{name}` is for {word} mode"));
            let problem = match &read.at {
                Some(at) => problem.and_at(self.reader.source, at, "the mode"),
                None => problem,
            };
            self.reader.tell(problem.help(help).basis(Basis::Whole));
        }
        mode
    }

    /// The file, if it is there and holds a token.
    pub(super) fn token(&mut self, layer: &Layer<'_, '_>, name: &'static str) -> Got<Option<Text>> {
        let mut token = self.reader.optional_text(layer, name);
        if let Some(text) = &token.value {
            token.sound &= self.files.look_at_token(self.reader, text);
        }
        token
    }

    pub(super) fn resume(&mut self, layer: &Layer<'_, '_>, deadline: &'static str, buffer: &'static str) -> Resume {
        Resume {
            deadline: self.reader.time(layer, deadline).value.unwrap_or_default(),
            buffer: self.reader.size(layer, buffer).value,
        }
    }

    /// `connections` is `None` if it could not be read.
    pub(super) fn windows(&mut self, layer: &Layer<'_, '_>, connections: Option<u64>) -> u64 {
        let windows = self.reader.size(layer, "limits.windows");
        let Some(connections) = connections.filter(|_| windows.sound && layer.scope == Scope::Upstream) else {
            return windows.value;
        };
        let needed = connections.saturating_mul(WINDOW_MIN);
        if windows.value < needed {
            let one = self.shown(layer, "limits.windows", show_size(windows.value));
            let other = self.shown(layer, "limits.connections", connections.to_string());
            let message = format!("`windows` is {one}, less than 16KiB for each of {other} connections");
            let least = show_size(needed.next_multiple_of(1 << 20));
            // Nothing of what a variable holds is repeated.
            let help = if message.contains("${") || needed > 4 << 30 {
                format!("allow fewer connections: {} fit", windows.value / WINDOW_MIN)
            } else {
                format!("write windows = \"{least}\", or allow fewer connections: {} fit", windows.value / WINDOW_MIN)
            };
            let help = if one.contains("${") { "raise the one or lower the other" } else { &help };
            self.pair(layer, "limits.windows", "limits.connections", message, help);
        }
        windows.value
    }

    pub(super) fn tunnel(
        &mut self,
        layer: &Layer<'_, '_>,
        name: &str,
        forwards: Vec<Forward>,
        endpoints: &[(Endpoint, Text)],
        settings: &Settings,
    ) -> Tunnel {
        let token = self.token(layer, "token_file");
        let insecure = self.reader.flag(layer, "insecure_plaintext");
        for (endpoint, text) in endpoints {
            let shown = text.quoted();
            if matches!(endpoint.address, Address::Unix(_)) {
                let help = "a tunnel runs over TCP: write host:port";
                self.reader.error(&text.span, format!("endpoint {shown} is a unix socket, and no gateway's"), help);
            } else if settings.tls.is_none() && !is_loopback(&endpoint.address) {
                if insecure.value {
                    let message =
                        format!("the link to {shown} runs without TLS: others on its path can read and change it");
                    let warning = Problem::at(self.reader.source, &text.span, message).warning();
                    self.warnings.push(
                        warning.help("`insecure_plaintext = true` allows it; give the link `tls` to end this warning"),
                    );
                } else if insecure.sound {
                    let help = format!(
                        "write [upstreams.{name}.tls] with its ca_file, or allow it by insecure_plaintext = true"
                    );
                    let message = format!("the link to {shown} would run without TLS");
                    self.reader
                        .tell(Problem::at(self.reader.source, &text.span, message).help(help).basis(Basis::Whole));
                }
            }
        }
        let has_pair = settings.tls.as_ref().is_some_and(|tls| tls.client.is_some())
            || ["tls.cert_file", "tls.key_file"].iter().any(|key| layer.find(key).is_some());
        if token.value.is_none() && token.sound && !(has_pair && settings.tls.is_some()) {
            let (message, help) = match settings.tls {
                None => (
                    "has neither `tls` nor `token_file`",
                    "one of them tells the gateway who dials it: give it a table `tls` with cert_file and key_file, or name a token_file",
                ),
                Some(_) => (
                    "has nothing that tells the gateway who it is",
                    "name a token_file, or cert_file and key_file in its table `tls`",
                ),
            };
            self.reader.error_of_whole(&layer.own.place, format!("upstream `{}` {message}", shown(name)), help);
        }
        Tunnel {
            forwards,
            token_file: token.value.map(|text| text.value.into()),
            resume: settings.resume,
            windows: settings.windows,
            insecure_plaintext: insecure.value,
        }
    }

    /// In the order of their listeners, so that the order in the file means nothing.
    pub(super) fn forwards(&mut self, layer: &Layer<'_, '_>, name: &str, insecure: bool) -> Vec<Forward> {
        let (tables, sound) = match &layer.own.forwards {
            Some(forwards) => (&forwards.tables[..], forwards.sound),
            None => (&[][..], true),
        };
        if tables.is_empty() && sound {
            let at = layer.own.forwards.as_ref().map_or(&layer.own.place, |forwards| &forwards.place);
            let mut problem =
                Problem::at(self.reader.source, at, format!("upstream `{}` has no forwards", shown(name)));
            problem = problem.help("name where clients arrive, and the gateway's service for them:");
            for line in
                [&format!("[[upstreams.{name}.forwards]]"), "listen = \"127.0.0.1:5432\"", "service = \"postgres\""]
            {
                problem = problem.help(line);
            }
            self.reader.tell(problem.basis(Basis::Whole));
        }
        if let Some(table) = tables.get(FORWARDS_MAX) {
            let message = format!("{} forwards are too many: at most {FORWARDS_MAX}", tables.len());
            self.reader.error(&table.place, message, "give the others an upstream of their own");
        }
        let of = format!("a forward of `{}`", shown(name));
        let mut forwards = Vec::new();
        for (index, table) in tables.iter().take(FORWARDS_MAX).enumerate() {
            let path = format!("{}forwards.{index}.", layer.path);
            let layer = Layer { scope: Scope::Forward, path, own: table, defaults: None };
            let listen = self.listeners(&layer, name, &of, "as in listen = \"127.0.0.1:5432\"", insecure);
            let service = self.reader.optional_text(&layer, "service");
            if service.at.is_none() && service.sound {
                let help = "name it as the gateway does, as in service = \"postgres\"";
                self.reader.error_of_whole(&table.place, format!("{of} has no `service`"), help);
            }
            if let Some(text) = &service.value
                && let Some(wrong) = wrong_service(&text.value)
            {
                self.reader.error(&text.span, format!("`service` {} {wrong}", text.quoted()), SERVICE_FORM);
            }
            let service = service.value.map(|text| text.value).unwrap_or_default();
            let accept_proxy_protocol = self.networks(&layer);
            self.unix_beside_networks(&layer, &listen, &accept_proxy_protocol);
            forwards.push((index, Forward { listen, service, accept_proxy_protocol }));
        }
        forwards.sort_by(|(_, a), (_, b)| order(a).cmp(&order(b)));
        let places: Vec<usize> = forwards.iter().map(|(index, _)| *index).collect();
        self.reader.reorder(&format!("{}forwards.", layer.path), &places);
        forwards.into_iter().map(|(_, forward)| forward).collect()
    }

    /// A client of a unix socket comes from no network, so that none of them is let in.
    fn unix_beside_networks(&mut self, layer: &Layer<'_, '_>, listen: &[ListenAddress], networks: &[IpNet]) {
        let unix = listen.iter().find(|listen| matches!(listen, ListenAddress::Unix(_)));
        if let (Some(unix), false, Some(at)) = (unix, networks.is_empty(), layer.place_of("accept_proxy_protocol")) {
            let message =
                format!("`accept_proxy_protocol` turns away every client of {unix}: they come from no network");
            let warning = Problem::at(self.reader.source, &at, message).warning();
            self.warnings.push(warning.help("give the unix socket a forward of its own, without it"));
        }
    }

    fn networks(&mut self, layer: &Layer<'_, '_>) -> Vec<IpNet> {
        let expected = "a list of networks such as [\"10.0.0.0/8\"]";
        let texts = self.reader.texts(layer, "accept_proxy_protocol", expected).value.unwrap_or_default();
        let mut networks: Vec<IpNet> = Vec::new();
        for text in texts {
            let (message, help) = match (text.value.parse::<IpNet>(), text.value.parse::<std::net::IpAddr>()) {
                (Ok(network), _) if network != network.trunc() => {
                    ("has bits beyond its length", format!("write \"{}\"", network.trunc()))
                }
                (Ok(network), _) if networks.contains(&network) => ("is written twice", String::new()),
                (Ok(network), _) => {
                    networks.push(network);
                    continue;
                }
                (_, Ok(address)) => ("is an address, not a network", format!("write \"{}\"", IpNet::from(address))),
                _ => ("is no network", "networks are as 10.0.0.0/8 or fd00::/8".to_owned()),
            };
            let help = if text.is_plain() { help } else { String::new() };
            self.reader.error(&text.span, format!("`accept_proxy_protocol`: {} {message}", text.quoted()), help);
        }
        networks
    }
}

fn order(forward: &Forward) -> impl Ord + '_ {
    (&forward.listen, &forward.service, &forward.accept_proxy_protocol)
}

pub(super) const SERVICE_FORM: &str =
    "names of services have a-z, 0-9, `_`, `.` and `-`, begin with a letter or digit, and have 1 to 255 bytes";

/// What keeps a text from being the name of a service; `None`: nothing.
pub(super) fn wrong_service(name: &str) -> Option<&'static str> {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name.len() > SERVICE_MAX {
        return Some("is too long for the name of a service");
    }
    let begins = name.bytes().next().is_some_and(known);
    let fits = begins && name.bytes().all(|byte| known(byte) || matches!(byte, b'_' | b'.' | b'-'));
    (!fits).then_some("cannot be the name of a service")
}

/// Whether bytes sent there never leave this machine, as far as that can be told without DNS.
fn is_loopback(address: &Address) -> bool {
    match address {
        Address::Ip(address) => address.ip().to_canonical().is_loopback(),
        Address::Host { host, .. } => host.eq_ignore_ascii_case("localhost"),
        Address::Unix(_) => true,
    }
}
