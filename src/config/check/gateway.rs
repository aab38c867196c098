//! The far end of tunnels: where they arrive, and who may come.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::tunnel::WINDOW_MIN;
use super::{Check, count};
use crate::config::bounds::LISTENERS_MAX;
use crate::config::listeners::GATEWAY;
use crate::config::read::{Layer, Text};
use crate::config::report::{Basis, Problem};
use crate::config::units::show_size;
use crate::config::{Address, Beats, Endpoint, Gateway, GatewayLimits, ListenAddress, Resume, ServerTls, address};
use crate::net::tls::server;

/// It is told in the Welcome, with one byte of length.
const NAME_MAX: usize = 255;

impl Check<'_, '_> {
    /// `None`: the file has no `[gateway]`.
    pub(super) fn gateway(&mut self, top: &Layer<'_, '_>) -> Option<Gateway> {
        let place = top.own.tables.get("gateway")?.clone();
        let insecure = self.reader.flag(top, "gateway.insecure_plaintext");
        let has_tls = top.own.tables.contains_key("gateway.tls");
        let listen = self.gateway_listeners(top, has_tls, insecure.value, insecure.sound);
        let name = self.gateway_name(top);
        let advertise = self.advertise(top, has_tls);
        let token = self.token(top, "gateway.token_file");
        let heartbeat = top.own.tables.get("gateway.heartbeat").map(|_| Beats {
            interval: self.reader.time(top, "gateway.heartbeat.interval").value.unwrap_or_default(),
            timeout: self.reader.time(top, "gateway.heartbeat.timeout").value.unwrap_or_default(),
            misses: u32::try_from(count(self.reader.count(top, "gateway.heartbeat.misses").value)).unwrap_or(u32::MAX),
        });
        let tls = self.server_tls(top);
        if token.value.is_none() && token.sound && top.find("gateway.tls.client_ca_file").is_none() {
            let (message, help) = if has_tls {
                ("has neither `token_file` nor `tls.client_ca_file`", "one of them tells who may come")
            } else {
                (
                    "has neither `tls` nor `token_file`",
                    "one of them tells who may come: write [gateway.tls] with client_ca_file, or name a token_file",
                )
            };
            self.reader.error_of_whole(&place, format!("[gateway] {message}"), help);
        }
        let resume = self.resume(top, "gateway.resume.deadline", "gateway.resume.buffer");
        let limits = self.gateway_limits(top, &resume);
        let services = self.services(top, &place);
        Some(Gateway {
            listen,
            name,
            advertise,
            token_file: token.value.map(|text| text.value.into()),
            heartbeat,
            tls,
            insecure_plaintext: insecure.value,
            limits,
            resume,
            services,
        })
    }

    fn gateway_listeners(&mut self, top: &Layer<'_, '_>, tls: bool, insecure: bool, sound: bool) -> Vec<SocketAddr> {
        let texts = self.reader.texts(top, "gateway.listen", "an address such as \"0.0.0.0:7443\", or a list");
        let Some(texts) = texts.value else {
            if let (None, true, Some(place)) = (&texts.at, texts.sound, top.own.tables.get("gateway")) {
                self.reader.error_of_whole(place, "[gateway] has no `listen`", "as in listen = \"0.0.0.0:7443\"");
            }
            return Vec::new();
        };
        if texts.is_empty() || texts.len() > LISTENERS_MAX {
            let message = format!("`listen` has {} addresses, and must have 1 to {LISTENERS_MAX}", texts.len());
            self.reader.error(&top.place_of("gateway.listen").unwrap_or_default(), message, "");
        }
        let mut listen = Vec::new();
        for text in texts.iter().take(LISTENERS_MAX) {
            let address = match self.listen_address(text, "listen") {
                Some(ListenAddress::Tcp(address)) => address,
                Some(ListenAddress::Unix(_)) => {
                    let help = "tunnels run over TCP: write an address such as \"0.0.0.0:7443\"";
                    self.reader.error(&text.span, "`listen` of [gateway] takes no unix socket", help);
                    continue;
                }
                None => continue,
            };
            if !tls && !address.ip().to_canonical().is_loopback() {
                let at = Problem::at(self.reader.source, &text.span, "");
                if insecure {
                    let message = format!("{} takes tunnels of other machines without TLS", text.quoted());
                    self.warnings.push(
                        Problem { message, ..at }
                            .warning()
                            .help("`insecure_plaintext = true` allows it; give the link `tls` to end this warning"),
                    );
                } else if sound {
                    let message = format!("{} would take tunnels of other machines without TLS", text.quoted());
                    let help = "write [gateway.tls], or allow it by insecure_plaintext = true";
                    self.reader.tell(Problem { message, ..at }.help(help).basis(Basis::Whole));
                }
            }
            self.listening.add(Some(GATEWAY), "[gateway]", ListenAddress::Tcp(address), text);
            listen.push(address);
        }
        listen
    }

    fn gateway_name(&mut self, top: &Layer<'_, '_>) -> String {
        let Some(text) = self.reader.optional_text(top, "gateway.name").value else { return host_name() };
        let fits = (1..=NAME_MAX).contains(&text.value.len());
        if !fits || text.value.chars().any(|c| crate::config::source::printable(c) != c || c == '\t') {
            let help = format!("names have 1 to {NAME_MAX} bytes and no control characters");
            self.reader.error(&text.span, format!("`name` {} cannot be a gateway's", text.quoted()), help);
        }
        text.value
    }

    fn advertise(&mut self, top: &Layer<'_, '_>, tls: bool) -> Option<Endpoint> {
        let text = self.reader.optional_text(top, "gateway.advertise").value?;
        let address = match address::endpoint(&text.value) {
            Ok(Address::Unix(_)) => {
                let help = "tunnels run over TCP: write host:port";
                self.reader.error(&text.span, format!("`advertise` {} is a unix socket", text.quoted()), help);
                return None;
            }
            Ok(address) => address,
            Err(error) => {
                let help = "write it as other machines reach this instance, as in \"${POD_IP}:7443\"";
                self.reader.error(&text.span, format!("`advertise` {} {}", text.quoted(), error.message), help);
                return None;
            }
        };
        if !tls {
            let warning =
                Problem::at(self.reader.source, &text.span, "`advertise` is not followed without TLS").warning();
            self.warnings.push(warning.help("write [gateway.tls], or leave it out"));
        }
        Some(Endpoint { name: text.value, address, priority: 1 })
    }

    fn server_tls(&mut self, top: &Layer<'_, '_>) -> Option<ServerTls> {
        let header = top.own.tables.get("gateway.tls")?.clone();
        let keys = ["client_ca_file", "cert_file", "key_file"];
        let paths = ["gateway.tls.client_ca_file", "gateway.tls.cert_file", "gateway.tls.key_file"];
        let [ca, cert, key] = paths.map(|path| self.reader.optional_text(top, path));
        let mut usable = ca.sound && cert.sound && key.sound;
        for (name, got, secret) in [(keys[0], &ca, false), (keys[1], &cert, false), (keys[2], &key, true)] {
            match &got.value {
                Some(text) => usable &= self.files.look(self.reader, name, text, secret),
                None if got.sound && name != keys[0] => {
                    let help = "a gateway shows its certificate and proves it by the key";
                    self.reader.error_of_whole(&header, format!("[gateway.tls] has no `{name}`"), help);
                    usable = false;
                }
                None => {}
            }
        }
        let path = |text: &Option<Text>| text.as_ref().map(|text| PathBuf::from(&text.value));
        let tls = ServerTls {
            cert_file: path(&cert.value).unwrap_or_default(),
            key_file: path(&key.value).unwrap_or_default(),
            client_ca_file: path(&ca.value),
        };
        if usable {
            let texts = [(keys[0], &ca.value), (keys[1], &cert.value), (keys[2], &key.value)];
            self.files.tell(self.reader, server::inspect(&tls), texts, &header);
        }
        Some(tls)
    }

    fn gateway_limits(&mut self, top: &Layer<'_, '_>, resume: &Resume) -> GatewayLimits {
        let memory = self.reader.size(top, "gateway.limits.memory");
        let limits = GatewayLimits {
            sessions: count(self.reader.count(top, "gateway.limits.sessions").value),
            sessions_per_identity: count(self.reader.count(top, "gateway.limits.sessions_per_identity").value),
            streams: count(self.reader.count(top, "gateway.limits.streams").value),
            memory: memory.value,
            pending: count(self.reader.count(top, "gateway.limits.pending").value),
            pending_per_address: count(self.reader.count(top, "gateway.limits.pending_per_address").value),
            wait: self.reader.time(top, "gateway.limits.wait").value.unwrap_or_default(),
        };
        let streams = u64::try_from(limits.streams).unwrap_or(u64::MAX);
        let least = resume.buffer.saturating_add(streams.saturating_mul(WINDOW_MIN));
        // The one to change is the one that somebody wrote.
        let keys = ["gateway.limits.memory", "gateway.limits.streams", "gateway.resume.buffer"];
        let at = keys.iter().find_map(|key| top.place_of(key));
        if let (Some(at), true) = (at, memory.sound && limits.memory < least) {
            let message = format!(
                "`memory` is {}, less than one session may need: `resume.buffer` ({}) and 16KiB for each of `streams` ({})",
                self.shown(top, keys[0], show_size(limits.memory)),
                self.shown(top, keys[2], show_size(resume.buffer)),
                self.shown(top, keys[1], streams.to_string()),
            );
            self.reader.error_of_whole(&at, message, "raise `memory`, or lower one of the others");
        }
        limits
    }
}

/// The name of this host, as the kernel knows it.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "gateway".to_owned() } else { name.to_owned() }
}
