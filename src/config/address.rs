//! What may be written for an endpoint or a listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::{Address, ListenAddress};

/// The longest path that fits into a socket's address: 108 bytes less the closing zero (`sun_path`, unix(7)).
const UNIX_PATH_MAX: usize = 107;
/// RFC 1035, section 2.3.4.
const HOST_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// Why a text is no address: what is wrong, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct AddressError {
    /// Follows the quoted text: "has no port".
    pub message: &'static str,
    pub help: String,
}

const FORMS: &str = "addresses are host:port, 192.0.2.1:port, [2001:db8::1]:port or unix:/path";
const LISTEN_FORMS: &str = "listeners are 127.0.0.1:port, [::1]:port or unix:/path";

fn wrong<T>(message: &'static str, help: impl Into<String>) -> Result<T, AddressError> {
    Err(AddressError { message, help: help.into() })
}

/// Reads what an upstream dials.
pub(super) fn endpoint(text: &str) -> Result<Address, AddressError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(Address::Unix);
    }
    let (host, port) = host_port(text, FORMS)?;
    if port == 0 {
        return wrong("has port 0, which cannot be dialled", "name the port the server listens at");
    }
    match host {
        Host::Ip(ip, _) if ip.is_unspecified() => {
            wrong("is every address of a machine, and none to dial", format!("for this machine: 127.0.0.1:{port}"))
        }
        Host::Ip(ip, scope) => Ok(Address::Ip(socket_address(ip, scope, port))),
        Host::Name(host) => Ok(Address::Host { host: host.to_owned(), port }),
    }
}

/// Reads where local clients arrive. Port 0: the kernel picks one.
pub(super) fn listener(text: &str) -> Result<ListenAddress, AddressError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(ListenAddress::Unix);
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return wrong("is only a port", format!("for clients on this machine: \"127.0.0.1:{text}\""));
    }
    if let Some(port) = text.strip_prefix("*:").or_else(|| text.strip_prefix(':')) {
        return wrong("names no address", format!("for clients on this machine: \"127.0.0.1:{port}\""));
    }
    match host_port(text, LISTEN_FORMS)? {
        (Host::Ip(ip, scope), port) => Ok(ListenAddress::Tcp(socket_address(ip, scope, port))),
        (Host::Name(name), port) if name.eq_ignore_ascii_case("localhost") => wrong(
            "is a name, and listeners are addresses",
            format!("write \"127.0.0.1:{port}\", or [\"127.0.0.1:{port}\", \"[::1]:{port}\"] for both families"),
        ),
        (Host::Name(_), _) => wrong("is a name, and listeners are addresses", LISTEN_FORMS),
    }
}

/// Reads the path of a unix socket.
pub(super) fn unix_path(path: &str) -> Result<PathBuf, AddressError> {
    let example = "for example unix:/run/everlink/chat.sock";
    if !path.starts_with('/') {
        return wrong("is not an absolute path", example);
    }
    if path.len() > UNIX_PATH_MAX {
        return wrong("is too long a path for a unix socket", format!("it may have {UNIX_PATH_MAX} bytes"));
    }
    if path.chars().any(char::is_control) {
        return wrong("has a control character in its path", example);
    }
    if path.ends_with('/') {
        return wrong("is a directory", example);
    }
    Ok(PathBuf::from(path))
}

enum Host<'a> {
    Ip(IpAddr, u32),
    Name(&'a str),
}

fn socket_address(ip: IpAddr, scope: u32, port: u16) -> SocketAddr {
    match ip {
        IpAddr::V4(ip) => SocketAddr::from((ip, port)),
        IpAddr::V6(ip) => std::net::SocketAddrV6::new(ip, port, 0, scope).into(),
    }
}

fn host_port<'a>(text: &'a str, forms: &str) -> Result<(Host<'a>, u16), AddressError> {
    if text.is_empty() {
        return wrong("is empty", forms);
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return wrong("has a blank in it", forms);
    }
    if let Some((_, rest)) = text.split_once("://") {
        let rest = rest.split('/').next().unwrap_or(rest);
        return wrong("has a scheme, which has no place here", format!("write only host and port: \"{rest}\""));
    }
    if text.contains(',') {
        return wrong("has a comma in it", "several addresses are a list, each in quotes: [\"a:1\", \"b:2\"]");
    }
    if text.contains('$') {
        return wrong("has a `$` in it", "a variable is written ${VAR}");
    }
    if text.contains(['/', '?', '#']) {
        return wrong("has a path, which has no place here", forms);
    }
    if text.contains('@') {
        return wrong("has a user in it, which has no place here", forms);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let Some((inside, after)) = rest.split_once(']') else {
            return wrong("has a `[` without its `]`", forms);
        };
        let (ip, scope) = match inside.split_once('%') {
            Some((ip, zone)) => (ip, zone.parse().ok()),
            None => (inside, Some(0)),
        };
        let Some(scope) = scope else {
            return wrong("names a network interface by name", "write its number, as in [fe80::1%2]:7000");
        };
        let Ok(ip) = ip.parse::<Ipv6Addr>() else {
            return wrong("has no IPv6 address between its brackets", forms);
        };
        let Some(number) = after.strip_prefix(':') else {
            return wrong("has no port", forms);
        };
        return Ok((Host::Ip(ip.into(), scope), port(number)?));
    }
    if text.contains(']') {
        return wrong("has a `]` without its `[`", forms);
    }
    if text.matches(':').count() > 1 {
        let with_port = text.rsplit_once(':').and_then(|(ip, port)| Some((ip.parse::<Ipv6Addr>().ok()?, port)));
        let help = match (with_port, text.parse::<Ipv6Addr>()) {
            (Some((ip, number)), _) if port(number).is_ok() => format!("write \"[{ip}]:{number}\""),
            (_, Ok(ip)) => format!("write \"[{ip}]:port\""),
            _ => forms.to_owned(),
        };
        return wrong("has more than one colon: an IPv6 address stands in brackets", help);
    }
    let Some((host, number)) = text.split_once(':') else {
        return wrong("has no port", forms);
    };
    let port = port(number)?;
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok((Host::Ip(ip.into(), 0), port));
    }
    host_name(host).map(|()| (Host::Name(host), port))
}

fn port(text: &str) -> Result<u16, AddressError> {
    if text.is_empty() {
        return wrong("has no port", FORMS);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return wrong("has a port that is no number", "ports are 1 to 65535");
    }
    text.parse().or_else(|_| wrong("has a port above 65535", "ports are 1 to 65535"))
}

/// Checks a host name letter by letter (RFC 1123, section 2.1, and `_`, which container networks use).
fn host_name(host: &str) -> Result<(), AddressError> {
    let form = "host names have letters, digits, hyphens and dots";
    if host.is_empty() {
        return wrong("has no host", FORMS);
    }
    if !host.is_ascii() {
        return wrong("has letters outside ASCII in its host", "write the name as DNS knows it: xn--…");
    }
    if host.ends_with('.') {
        return wrong("has a host that ends in a dot", "leave the last dot out");
    }
    if host.len() > HOST_MAX {
        return wrong("has a host of more than 253 characters", form);
    }
    for label in host.split('.') {
        if label.is_empty() {
            return wrong("has an empty part between two dots", form);
        }
        if label.len() > LABEL_MAX {
            return wrong("has a part of more than 63 characters in its host", form);
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return wrong("has a character that no host name has", form);
        }
        if label.starts_with('-') || label.ends_with('-') {
            return wrong("has a part of its host that begins or ends with a hyphen", form);
        }
    }
    // What looks like a number would be asked of DNS, or read as an octal address by some resolvers.
    if host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return wrong(
            "has a host that looks like an address and is none",
            "IPv4 addresses are four numbers of 0 to 255",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dialled(text: &str) -> &'static str {
        endpoint(text).map_or_else(|error| error.message, |_| "fine")
    }

    fn listened(text: &str) -> &'static str {
        listener(text).map_or_else(|error| error.message, |_| "fine")
    }

    #[test]
    fn the_four_forms_are_read() {
        let host = |host: &str, port| Address::Host { host: host.to_owned(), port };
        assert_eq!(endpoint("chat-a.internal:8080"), Ok(host("chat-a.internal", 8080)));
        assert_eq!(endpoint("my_db:65535"), Ok(host("my_db", 65535)));
        assert_eq!(endpoint("192.0.2.1:80"), Ok(Address::Ip(SocketAddr::from(([192, 0, 2, 1], 80)))));
        assert_eq!(endpoint("[::1]:80"), Ok(Address::Ip(SocketAddr::from((Ipv6Addr::LOCALHOST, 80)))));
        assert_eq!(endpoint("unix:/run/a.sock"), Ok(Address::Unix("/run/a.sock".into())));
        assert_eq!(listener("127.0.0.1:0"), Ok(ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))));
        assert_eq!(
            endpoint("[fe80::1%2]:80").map(|a| matches!(a, Address::Ip(SocketAddr::V6(v6)) if v6.scope_id() == 2)),
            Ok(true)
        );
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (text, message) in [
            ("", "is empty"),
            ("chat", "has no port"),
            ("chat:", "has no port"),
            (":80", "has no host"),
            ("chat:0", "has port 0, which cannot be dialled"),
            ("chat:65536", "has a port above 65535"),
            ("chat:99999999999", "has a port above 65535"),
            ("chat:http", "has a port that is no number"),
            ("chat:+80", "has a port that is no number"),
            ("chat:-1", "has a port that is no number"),
            ("tcp://chat:80", "has a scheme, which has no place here"),
            ("chat:80/path", "has a path, which has no place here"),
            ("me@chat:80", "has a user in it, which has no place here"),
            ("my chat:80", "has a blank in it"),
            ("chat:80\n", "has a blank in it"),
            ("[::1:80", "has a `[` without its `]`"),
            ("::1]:80", "has a `]` without its `[`"),
            ("::1:80", "has more than one colon: an IPv6 address stands in brackets"),
            ("[::1]", "has no port"),
            ("[127.0.0.1]:80", "has no IPv6 address between its brackets"),
            ("[fe80::1%eth0]:80", "names a network interface by name"),
            ("bücher.example:80", "has letters outside ASCII in its host"),
            ("chat.example.:80", "has a host that ends in a dot"),
            ("chat..example:80", "has an empty part between two dots"),
            ("-chat:80", "has a part of its host that begins or ends with a hyphen"),
            ("ch*t:80", "has a character that no host name has"),
            ("256.0.0.1:80", "has a host that looks like an address and is none"),
            ("010.0.0.1:80", "has a host that looks like an address and is none"),
            ("1.2.3:80", "has a host that looks like an address and is none"),
            ("0.0.0.0:80", "is every address of a machine, and none to dial"),
            ("[::]:80", "is every address of a machine, and none to dial"),
            ("unix:run/a.sock", "is not an absolute path"),
            ("unix:/run/", "is a directory"),
        ] {
            assert_eq!(dialled(text), message, "{text:?}");
        }
        assert_eq!(dialled(&format!("{}:80", "a.".repeat(127) + "b")), "has a host of more than 253 characters");
        assert_eq!(dialled(&format!("{}:80", "a".repeat(64))), "has a part of more than 63 characters in its host");
        assert_eq!(dialled(&format!("{}:80", "a.".repeat(126) + "b")), "fine");
        assert_eq!(dialled(&format!("unix:/{}", "a".repeat(107))), "is too long a path for a unix socket");
        assert_eq!(dialled(&format!("unix:/{}", "a".repeat(106))), "fine");
    }

    #[test]
    fn what_is_no_listener_says_what_to_write() {
        let help = |text| listener(text).map_err(|error| error.help).unwrap_err();
        assert_eq!(listened("7000"), "is only a port");
        assert_eq!(help("7000"), "for clients on this machine: \"127.0.0.1:7000\"");
        assert_eq!(listened(":7000"), "names no address");
        assert_eq!(help("*:7000"), "for clients on this machine: \"127.0.0.1:7000\"");
        assert_eq!(listened("chat:7000"), "is a name, and listeners are addresses");
        assert!(help("localhost:7000").starts_with("write \"127.0.0.1:7000\""));
        assert_eq!(listened("0.0.0.0:7000"), "fine");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in r"[a1.:\[\]%/@-]{0,16}|.{0,16}") {
            let _ = (endpoint(&text), listener(&text));
        }
    }
}
