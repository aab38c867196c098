//! What a gateway leads to, and who may use it.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Check;
use super::tunnel::{SERVICE_FORM, wrong_service};
use crate::config::bounds::SERVICES_MAX;
use crate::config::keys::Scope;
use crate::config::listeners::{Dialled, GATEWAY};
use crate::config::read::{Layer, quoted};
use crate::config::report::{Basis, Problem};
use crate::config::{Address, Service, address};

impl Check<'_, '_> {
    /// `gateway` is where the gateway is written.
    pub(super) fn services(&mut self, top: &Layer<'_, '_>, gateway: &Range<usize>) -> BTreeMap<String, Service> {
        let tables = &top.own.services;
        if tables.is_empty() {
            let at = top.own.tables.get("gateway.services").unwrap_or(gateway);
            let problem =
                Problem::at(self.reader.source, at, "[gateway] has no services").help("name what it leads to:");
            let problem = problem.help("[gateway.services]").help("postgres = \"10.0.0.5:5432\"");
            self.reader.tell(problem.basis(Basis::Whole));
        }
        if let Some((_, table)) = tables.get(SERVICES_MAX) {
            let message = format!("{} services are too many: at most {SERVICES_MAX}", tables.len());
            self.reader.error(&table.place, message, "");
        }
        let identities = top.find("gateway.tls.client_ca_file").is_some();
        let mut services = BTreeMap::new();
        for (name, table) in tables.iter().take(SERVICES_MAX) {
            if let Some(wrong) = wrong_service(name) {
                let lower = name.to_lowercase();
                let help = match wrong_service(&lower) {
                    None => format!("write `{lower}`; {SERVICE_FORM}"),
                    Some(_) => SERVICE_FORM.to_owned(),
                };
                self.reader.error(&table.place, format!("{} {wrong}", quoted(name)), help);
            }
            let path = format!("gateway.services.{name}.");
            let layer = Layer { scope: Scope::Service, path, own: table, defaults: None };
            let address = self.service_address(&layer, name);
            let allow = self.allow(&layer, identities);
            let proxy_protocol = self.reader.choice(&layer, "proxy_protocol").value == 1;
            if let Some(address) = address {
                services.insert((*name).to_owned(), Service { address, allow, proxy_protocol });
            }
        }
        services
    }

    fn service_address(&mut self, layer: &Layer<'_, '_>, name: &str) -> Option<Address> {
        let read = self.reader.any(layer, "address", |reader, written| {
            let expected = "an address such as \"10.0.0.5:5432\", or a table";
            reader.string(name, expected, written.value.get_ref(), &written.value.span())
        });
        if read.at.is_none() && read.sound {
            let message = format!("service {} has no `address`", quoted(name));
            self.reader.error_of_whole(&layer.own.place, message, "as in address = \"10.0.0.5:5432\"");
        }
        let text = read.value?;
        let told = |message: &str| format!("service {}: {} {message}", quoted(name), text.quoted());
        if text.value.starts_with('*') {
            let help = "a gateway leads to the services it names, and nowhere else";
            self.reader.error(&text.span, told("would lead anywhere"), help);
            return None;
        }
        match address::endpoint(&text.value) {
            Ok(address) => {
                self.listening.dial(Dialled {
                    by: GATEWAY.to_owned(),
                    address: address.clone(),
                    shown: text.quoted(),
                    span: text.span.clone(),
                });
                Some(address)
            }
            Err(error) => {
                let help = if text.is_plain() { error.help.clone() } else { String::new() };
                self.reader.error(&text.span, told(error.message), help);
                None
            }
        }
    }

    fn allow(&mut self, layer: &Layer<'_, '_>, identities: bool) -> Option<Vec<String>> {
        let texts = self.reader.texts(layer, "allow", "a list of identities such as [\"sidecar-a\"]").value?;
        let at = layer.place_of("allow").unwrap_or_default();
        if !identities {
            let help = "identities are the names in client certificates: name their CA in [gateway.tls]";
            self.reader.error_of_whole(&at, "`allow` needs `client_ca_file`", help);
        }
        if texts.is_empty() {
            self.reader.error(
                &at,
                "`allow` is empty, so nobody could use the service",
                "leave it out, or name someone",
            );
        }
        let mut names: Vec<String> = Vec::new();
        for text in &texts {
            let wrong = match text.value.as_str() {
                "" => Some(("is empty", "")),
                "*" => Some(("is no identity", "leave `allow` out for every proven dialer")),
                name if name.chars().any(char::is_control) => Some(("has a control character", "")),
                name if names.iter().any(|known| known == name) => Some(("is written twice", "")),
                _ => None,
            };
            match wrong {
                Some((message, help)) => {
                    self.reader.error(&text.span, format!("`allow`: {} {message}", text.quoted()), help);
                }
                None => names.push(text.value.clone()),
            }
        }
        Some(names)
    }
}
