//! The page at `/`: one document without outside assets, which asks `/status` each second.
//!
//! It is put together of `page.html` and what stands in `page/`: one style, and scripts that are one when served. It must
//! work from memory alone, offline and under a policy that lets it speak to nobody but us; what it shows of a configuration
//! or a peer goes in as text.

use std::sync::LazyLock;

use super::response::Response;

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = concat!(
    "\"use strict\";\n",
    include_str!("page/words.js"),
    include_str!("page/draw.js"),
    include_str!("page/charts.js"),
    include_str!("page/upstream.js"),
    include_str!("page/gateway.js"),
    include_str!("page/main.js"),
);

static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("page.html").replacen("<style></style>", &format!("<style>{STYLE}</style>"), 1).replacen(
        "<script></script>",
        &format!("<script>{SCRIPT}</script>"),
        1,
    )
});

/// Only the page's own script and style run, known by their hashes, and they may talk to nobody but us.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash_of(SCRIPT),
        hash_of(STYLE),
    )
});

pub fn response() -> Response {
    Response::new(200, "text/html; charset=utf-8", PAGE.as_bytes())
        .with("Content-Security-Policy", POLICY.as_str())
        .with("X-Frame-Options", "DENY")
        .with("Referrer-Policy", "no-referrer")
}

/// SHA-256 in base64, as a content security policy names it.
fn hash_of(text: &str) -> String {
    base64(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref())
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
        assert!(
            PAGE.contains(&format!("<script>{SCRIPT}</script>")) && PAGE.contains(&format!("<style>{STYLE}</style>"))
        );
        for (needle, times) in [
            ("<script", 1),
            ("<style", 1),
            ("http://", 0),
            ("https://", 0),
            ("src=", 0),
            ("style=", 0),
            ("innerHTML", 0),
            ("outerHTML", 0),
            ("insertAdjacent", 0),
            ("document.write", 0),
            ("@import", 0),
            ("url(", 0),
            ("eval(", 0),
        ] {
            assert_eq!(PAGE.matches(needle).count(), times, "{needle}");
        }
        for handler in ["onclick", "onload", "onerror", "javascript:"] {
            assert!(!PAGE.contains(handler), "the policy would block {handler}");
        }
    }
}
