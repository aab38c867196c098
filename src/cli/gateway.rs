//! The gateway's sessions, one line each.

use std::fmt::Write;
use std::time::Duration;

use super::table::session_words;
use crate::clock::short_span;
use crate::http::report::GatewayReport;
use crate::log::printable;

/// A line on the gateway, and its sessions.
pub fn gateway(report: &GatewayReport) -> String {
    let refused: u64 = report.refusals.values().sum();
    let s = |one: bool| if one { "" } else { "s" };
    let mut text = format!(
        "gateway {}{}, listens on {}: {} of {} sessions, {} stream{}, {} handshake{} pending, {refused} refused\n",
        printable(&report.name),
        if report.draining { " (draining)" } else { "" },
        printable(&report.listen.join(", ")),
        report.sessions.len(),
        report.session_limit,
        report.streams,
        s(report.streams == 1),
        report.handshakes_pending,
        s(report.handshakes_pending == 1),
    );
    for one in &report.sessions {
        let age = short_span(Duration::try_from_secs_f64(one.since_age_seconds).unwrap_or_default());
        let state =
            if one.connected { format!("connected for {age}") } else { format!("without a connection for {age}") };
        let peer = one.peer.as_deref().map_or_else(|| "–".to_owned(), printable);
        let identity = one.identity.as_deref().map(printable);
        let who = identity.map_or(peer.clone(), |identity| format!("{identity} at {peer}"));
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  {}; {who}; {state}", session_words(&one.session));
    }
    text
}
