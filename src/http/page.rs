//! The page at `/`: one file without outside assets, which asks `/status` each second.

use std::sync::LazyLock;

use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

use super::response::Response;

const PAGE: &str = include_str!("page.html");

/// Only the page's own script and style run, known by their hashes, and they may talk to nobody but us.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash_of(inside(PAGE, "script")),
        hash_of(inside(PAGE, "style")),
    )
});

pub fn response() -> Response {
    Response::new(200, "text/html; charset=utf-8", PAGE.as_bytes())
        .with("Content-Security-Policy", POLICY.as_str())
        .with("X-Frame-Options", "DENY")
        .with("Referrer-Policy", "no-referrer")
}

/// The text between the first `<tag>` and its end; empty if there is none.
fn inside<'p>(page: &'p str, tag: &str) -> &'p str {
    let rest = page.split_once(&format!("<{tag}>")).map_or("", |(_, rest)| rest);
    rest.split_once(&format!("</{tag}>")).map_or("", |(text, _)| text)
}

/// SHA-256 in base64, as a content security policy names it. The TLS library has the hash; a second one is not needed.
fn hash_of(text: &str) -> String {
    match TLS13_AES_128_GCM_SHA256.tls13() {
        Some(suite) => base64(suite.common.hash_provider.hash(text.as_bytes()).as_ref()),
        None => String::new(),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let three = [group[0], group.get(1).copied().unwrap_or(0), group.get(2).copied().unwrap_or(0)];
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            out.push(if place > group.len() { '=' } else { char::from(digit) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), coded);
        }
    }

    #[test]
    fn the_hash_is_the_one_browsers_compute() {
        // The example of the CSP specification, section 8.4 of level 2: alert('Hello, world.');
        assert_eq!(hash_of("alert('Hello, world.');"), "qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng=");
    }

    #[test]
    fn the_page_has_one_script_and_one_style_and_nothing_from_elsewhere() {
        assert!(inside(PAGE, "script").len() > 100 && inside(PAGE, "style").len() > 100);
        for (needle, times) in [
            ("<script", 1),
            ("<style", 1),
            ("http://", 0),
            ("https://", 0),
            ("src=", 0),
            ("style=", 0),
            ("innerHTML", 0),
        ] {
            assert_eq!(PAGE.matches(needle).count(), times, "{needle}");
        }
        for handler in ["onclick", "onload", "onerror", "javascript:"] {
            assert!(!PAGE.contains(handler), "the policy would block {handler}");
        }
    }
}
