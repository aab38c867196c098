//! TLS to an endpoint: its files, and what is said in the handshake.

use std::path::PathBuf;

use super::Check;
use crate::config::keys::{Mode, Scope};
use crate::config::read::{Layer, Text};
use crate::config::{ClientCertificate, Tls};

/// RFC 7301, section 3.1.
const ALPN_MAX: usize = 255;

impl Check<'_, '_> {
    pub(super) fn tls(&mut self, layer: &Layer<'_, '_>, mode: Option<Mode>) -> Option<Tls> {
        let inherited = layer.defaults.filter(|_| !layer.own.tls_off);
        let own = layer.own.tables.get("tls");
        let header = own.or_else(|| inherited?.tables.get("tls"))?.clone();
        let layer = &Layer { scope: layer.scope, path: layer.path.clone(), own: layer.own, defaults: inherited };
        let ca = self.reader.optional_text(layer, "tls.ca_file");
        let cert = self.reader.optional_text(layer, "tls.cert_file");
        let key = self.reader.optional_text(layer, "tls.key_file");
        let server_name = self.server_name(layer);
        let alpn = if mode == Some(Mode::Tunnel) { Vec::new() } else { self.alpn(layer) };
        let mut usable = ca.sound && cert.sound && key.sound;
        for (name, text, secret) in
            [("ca_file", &ca.value, false), ("cert_file", &cert.value, false), ("key_file", &key.value, true)]
        {
            if let Some(text) = text {
                usable &= self.files.look(self.reader, name, text, secret);
            }
        }
        if layer.scope == Scope::Upstream && cert.sound && key.sound {
            let half = match (&cert.value, &key.value) {
                (Some(cert), None) => Some((cert.span.clone(), "`cert_file` needs `key_file`")),
                (None, Some(key)) => Some((key.span.clone(), "`key_file` needs `cert_file`")),
                _ => None,
            };
            if let Some((at, message)) = half {
                let help = "a client shows its certificate and proves it by the key";
                self.reader.error_of_whole(&at, message, help);
                usable = false;
            }
        }
        let path = |text: &Text| PathBuf::from(&text.value);
        let tls = Tls {
            ca_file: ca.value.as_ref().map(path),
            client: cert
                .value
                .as_ref()
                .zip(key.value.as_ref())
                .map(|(cert, key)| ClientCertificate { cert_file: path(cert), key_file: path(key) }),
            server_name,
            alpn,
        };
        if usable && layer.scope == Scope::Upstream {
            let texts = [("ca_file", &ca.value), ("cert_file", &cert.value), ("key_file", &key.value)];
            self.files.inspect(self.reader, &tls, texts, &header);
        }
        Some(tls)
    }

    fn server_name(&mut self, layer: &Layer<'_, '_>) -> Option<String> {
        let text = self.reader.optional_text(layer, "tls.server_name").value?;
        if rustls_pki_types::ServerName::try_from(text.value.as_str()).is_err() {
            let message = format!("`server_name` {} is neither a host name nor an address", text.quoted());
            self.reader.error(
                &text.span,
                message,
                "it is the name that the endpoint's certificate holds, without a port",
            );
            return None;
        }
        Some(text.value)
    }

    fn alpn(&mut self, layer: &Layer<'_, '_>) -> Vec<String> {
        let texts = self.reader.texts(layer, "tls.alpn", "a list of protocol names").value.unwrap_or_default();
        let mut names: Vec<String> = Vec::new();
        for text in texts {
            if text.value.is_empty() || text.value.len() > ALPN_MAX {
                let message = format!("`alpn` has a name of {} bytes", text.value.len());
                self.reader.error(&text.span, message, format!("names have 1 to {ALPN_MAX} bytes"));
            } else if names.contains(&text.value) {
                self.reader.error(&text.span, format!("`alpn` names {} twice", text.quoted()), "");
            } else {
                names.push(text.value);
            }
        }
        names
    }
}
