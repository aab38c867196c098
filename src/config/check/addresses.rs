//! Where an upstream listens, and what it dials.

use std::ops::Range;

use toml::de::DeValue;

use super::{Check, shown};
use crate::config::bounds::{ENDPOINTS_MAX, LISTENERS_MAX};
use crate::config::listeners::Dialled;
use crate::config::read::{Count, Layer, Reader, Text};
use crate::config::report::Problem;
use crate::config::{Address, Endpoint, ListenAddress, address};

impl Check<'_, '_> {
    pub(super) fn listen_address(&mut self, text: &Text, key: &str) -> Option<ListenAddress> {
        match address::listener(&text.value) {
            Ok(address) => Some(address),
            Err(error) => {
                let message = format!("`{key}`: {} {}", text.quoted(), error.message);
                let help = if text.is_plain() { error.help } else { String::new() };
                self.reader.error(&text.span, message, help);
                None
            }
        }
    }

    /// The listeners of an upstream, or of one of its forwards; `of` names it, `example` is the cure if there are none.
    pub(super) fn listeners(
        &mut self,
        layer: &Layer<'_, '_>,
        name: &str,
        of: &str,
        example: &str,
        insecure: bool,
    ) -> Vec<ListenAddress> {
        let expected = "an address such as \"127.0.0.1:7000\", or a list";
        // A lone number is a port that wants an address, which says more than that it is no text.
        if let Some((written, _)) = layer.find("listen")
            && let DeValue::Integer(port) = written.value.get_ref()
        {
            let help = format!("for clients on this machine: \"127.0.0.1:{}\"", port.as_str());
            self.reader.error(&written.value.span(), "`listen` is only a port", help);
            return Vec::new();
        }
        let texts = self.reader.texts(layer, "listen", expected);
        let Some(texts) = texts.value else {
            if texts.at.is_none() && texts.sound {
                self.reader.error_of_whole(&layer.own.place, format!("{of} has no `listen`"), example);
            }
            return Vec::new();
        };
        let at = layer.place_of("listen").unwrap_or(layer.own.place.clone());
        if texts.is_empty() || texts.len() > LISTENERS_MAX {
            let message = format!("`listen` has {} addresses, and must have 1 to {LISTENERS_MAX}", texts.len());
            self.reader.error(&at, message, "");
        }
        let mut listen = Vec::new();
        for text in texts.iter().take(LISTENERS_MAX) {
            let Some(address) = self.listen_address(text, "listen") else { continue };
            if let ListenAddress::Tcp(tcp) = address
                && !tcp.ip().to_canonical().is_loopback()
            {
                if insecure {
                    let message = format!("{} can be reached by other machines, without any check", text.quoted());
                    let problem = Problem::at(self.reader.source, &text.span, message).warning();
                    self.warnings.push(problem.help("`insecure_listen = true` allows it"));
                } else {
                    let message = format!("{} can be reached by other machines", text.quoted());
                    let local = if tcp.is_ipv6() { "[::1]" } else { "127.0.0.1" };
                    let help = format!("listen at {local}:{}, or allow it by insecure_listen = true", tcp.port());
                    let hidden = "listen at a loopback address, or allow it by insecure_listen = true";
                    self.reader.error(&text.span, message, if text.is_plain() { &help } else { hidden });
                }
            }
            self.listening.add(Some(name), &format!("`{name}`"), address.clone(), text);
            listen.push(address);
        }
        listen
    }

    /// Each with its text.
    pub(super) fn endpoints(&mut self, layer: &Layer<'_, '_>, name: &str) -> Vec<(Endpoint, Text)> {
        let read = self.reader.any(layer, "endpoints", |reader, written| {
            let mut read = Vec::new();
            match written.value.get_ref() {
                DeValue::Array(list) => {
                    let span = written.value.span();
                    if list.is_empty() {
                        reader.error(&span, "`endpoints` is empty", "name the server to dial: [\"host:port\"]");
                    } else if list.len() > ENDPOINTS_MAX {
                        let message = format!("{} endpoints are too many: at most {ENDPOINTS_MAX}", list.len());
                        reader.error(&span, message, "");
                    }
                    for value in list.iter().take(ENDPOINTS_MAX) {
                        read.extend(one_endpoint(reader, value.get_ref(), &value.span()));
                    }
                }
                value => read.extend(one_endpoint(reader, value, &written.value.span())),
            }
            Some(read)
        });
        let Some(read_endpoints) = read.value else {
            if read.at.is_none() && read.sound {
                let message = format!("upstream `{}` has no `endpoints`", shown(name));
                self.reader.error_of_whole(&layer.own.place, message, "as in endpoints = [\"orders.internal:9000\"]");
            }
            return Vec::new();
        };
        let mut endpoints: Vec<(Endpoint, Text)> = Vec::new();
        for (endpoint, text) in read_endpoints {
            let same = |(other, _): &&(Endpoint, Text)| same_address(&other.address, &endpoint.address);
            if let Some((_, first)) = endpoints.iter().find(same) {
                let message = format!("endpoint {} is written twice", text.quoted());
                let problem = Problem::at(self.reader.source, &text.span, message);
                self.reader.tell(problem.and_at(self.reader.source, &first.span, "first here"));
                continue;
            }
            self.listening.dial(Dialled {
                by: name.to_owned(),
                address: endpoint.address.clone(),
                shown: text.quoted(),
                span: text.span.clone(),
            });
            endpoints.push((endpoint, text));
        }
        endpoints
    }
}

/// One entry of `endpoints`, and its text.
fn one_endpoint(reader: &mut Reader<'_>, value: &DeValue<'_>, span: &Range<usize>) -> Option<(Endpoint, Text)> {
    let mut priority = 1;
    let mut address = None;
    match value {
        DeValue::Table(table) => {
            for (key, value) in table {
                match &**key.get_ref() {
                    "address" => {
                        address = Some(reader.string("address", "an address", value.get_ref(), &value.span())?);
                    }
                    "priority" => {
                        let range = Count { min: 1, max: 1_000_000, word: None };
                        let read = reader.count_of("priority", &range, value.get_ref(), &value.span());
                        priority = read.flatten().and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
                    }
                    other => {
                        let message = format!("unknown key `{}` in an endpoint", shown(other));
                        reader.error(&key.span(), message, "known here: `address`, `priority`");
                    }
                }
            }
            if address.is_none() {
                reader.error(span, "this endpoint has no `address`", "as in { address = \"host:port\", priority = 2 }");
            }
        }
        DeValue::Array(_) => {
            reader.error(span, "`endpoints` has a list within its list", "write one list of addresses");
        }
        value => address = reader.string("endpoints", "a list of addresses such as [\"host:port\"]", value, span),
    }
    let text = address?;
    match address::endpoint(&text.value) {
        Ok(address) => Some((Endpoint { name: text.value.clone(), address, priority }, text)),
        Err(error) => {
            let help = if text.is_plain() { error.help } else { String::new() };
            reader.error(&text.span, format!("endpoint {} {}", text.quoted(), error.message), help);
            None
        }
    }
}

fn same_address(a: &Address, b: &Address) -> bool {
    match (a, b) {
        (Address::Host { host: a, port: p }, Address::Host { host: b, port: q }) => a.eq_ignore_ascii_case(b) && p == q,
        _ => a == b,
    }
}
