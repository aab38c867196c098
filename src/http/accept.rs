//! Which exposition format a scraper is given.

/// A real scraper sends about 400 bytes; a longer `Accept` is not weighed at all.
const LENGTH_LIMIT: usize = 2048;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// The Prometheus text format 0.0.4: everyone reads it.
    Text,
    /// OpenMetrics 1.0, for those who prefer it by name.
    OpenMetrics,
}

/// OpenMetrics if `accept` names it and names nothing of ours it likes better; text in every other case, anything
/// malformed included.
pub fn negotiate(accept: &str) -> Exposition {
    if accept.len() > LENGTH_LIMIT {
        return Exposition::Text;
    }
    let Some(ranges) = accept.split(',').map(range).collect::<Option<Vec<_>>>() else {
        return Exposition::Text;
    };
    let mut best = (0, Exposition::Text);
    for (quality, exposition) in ranges.into_iter().flatten() {
        // Not `>=`: of equals the first one named wins, as in Prometheus's own negotiation.
        if quality > best.0 {
            best = (quality, exposition);
        }
    }
    best.1
}

/// One media range: its weight in thousandths and the format it asks for, `Some(None)` if it is none of ours, `None`
/// if it is malformed.
fn range(text: &str) -> Option<Option<(u16, Exposition)>> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    if !well_formed(&media) {
        return None;
    }
    let (mut quality, mut version) = (1000, None);
    for part in parts {
        let (key, value) = part.split_once('=')?;
        match key.to_ascii_lowercase().as_str() {
            "q" => quality = weight(value)?,
            "version" => version = Some(value.trim_matches('"')),
            _ => {}
        }
    }
    let exposition = match (media.as_str(), version) {
        ("application/openmetrics-text", None | Some("1.0.0")) => Exposition::OpenMetrics,
        ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => Exposition::Text,
        _ => return Some(None),
    };
    Some(Some((quality, exposition)))
}

fn well_formed(media: &str) -> bool {
    let token = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+*".contains(&b));
    media.split_once('/').is_some_and(|(kind, name)| token(kind) && token(name))
}

/// `0`, `1` and up to three decimals between (RFC 9110, section 12.4.2), in thousandths.
fn weight(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Exposition::{OpenMetrics, Text};
    use super::*;

    #[test]
    fn what_prometheus_sends_gets_openmetrics() {
        let two = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                   text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(negotiate(two), OpenMetrics);
        let three = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                     application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                     text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(negotiate(three), OpenMetrics);
    }

    #[test]
    fn weights_and_order_decide() {
        assert_eq!(negotiate("application/openmetrics-text; version=1.0.0; q=0.4, text/plain;q=0.5"), Text);
        assert_eq!(negotiate("application/openmetrics-text;q=0.5, text/plain;q=0.5"), OpenMetrics);
        assert_eq!(negotiate("text/plain;q=0.5, application/openmetrics-text;q=0.5"), Text);
        assert_eq!(negotiate("application/openmetrics-text;q=0"), Text);
        assert_eq!(negotiate("application/openmetrics-text;version=2.0.0"), Text);
        assert_eq!(negotiate("application/openmetrics-text;version=\"1.0.0\""), OpenMetrics);
        assert_eq!(negotiate("Application/OpenMetrics-Text"), OpenMetrics);
    }

    #[test]
    fn browsers_curl_and_silence_get_text() {
        assert_eq!(negotiate("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), Text);
        assert_eq!(negotiate("*/*"), Text);
        assert_eq!(negotiate(""), Text);
    }

    #[test]
    fn anything_malformed_falls_back_to_text() {
        for q in ["nan", "inf", "-1", "2", "1.5", "0.1234", "1e0", "", ".5", "0x1", "+1"] {
            assert_eq!(negotiate(&format!("application/openmetrics-text;q={q}")), Text, "q={q}");
        }
        for garbage in [
            "application/openmetrics-text;;",
            "application/openmetrics-text,",
            "\u{fffd}/x,application/openmetrics-text",
            "////,application/openmetrics-text",
        ] {
            assert_eq!(negotiate(garbage), Text, "{garbage}");
        }
    }

    #[test]
    fn an_endless_accept_is_not_weighed() {
        assert_eq!(negotiate(&format!("application/openmetrics-text{}", ",a/b".repeat(2048))), Text);
    }
}
