//! Which answer a request gets: a pure function of the request, the state, and where the request came in.

use std::net::IpAddr;
use std::time::SystemTime;

use prometheus::TextEncoder;

use super::accept::{Exposition, negotiate};
use super::report::Detail;
use super::request::{Method, Request};
use super::response::Response;
use super::{health, openmetrics, page, report};
use crate::status::Status;

const TEXT_EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What beside the request decides.
pub struct Context<'a> {
    pub status: &'a Status,
    /// Our own end of the connection: the only witness of where a request came in that a client cannot forge.
    pub local: IpAddr,
    /// `http.public_status`.
    pub public_status: bool,
    pub now: SystemTime,
}

/// What an answer costs, so that the dear ones can be kept few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    Small,
    /// Grows with the number of upstreams.
    Metrics,
    /// Grows likewise.
    Report,
}

/// What the answer to `request` will cost.
pub fn cost(request: &Request) -> Cost {
    match (request.method, request.path.as_str()) {
        (Method::Other, _) => Cost::Small,
        (_, "/metrics") => Cost::Metrics,
        (_, "/status") => Cost::Report,
        _ => Cost::Small,
    }
}

/// The answer to `request`; that to HEAD is that to GET, its body left out by the caller.
pub fn route(request: &Request, context: &Context<'_>) -> Response {
    if request.method == Method::Other {
        return Response::text(405, "only GET and HEAD are served; state changes go over the admin socket")
            .with("Allow", "GET, HEAD");
    }
    let status = context.status;
    match request.path.as_str() {
        "/metrics" => metrics(request, status),
        "/livez" => match health::live(status) {
            Ok(()) => Response::text(200, "ok"),
            Err(seconds) => Response::text(503, format!("a data loop has shown no sign of life for {seconds} s")),
        },
        "/startupz" if health::started(status) => Response::text(200, "ok"),
        "/startupz" => Response::text(503, "the configuration is not in yet, or a listener not bound"),
        "/readyz" => readyz(request, status),
        "/" | "/status" => match forbidden(request, context) {
            Some(why) => Response::text(403, why),
            None if request.path == "/" => page::response(),
            None if request.asks("config") => {
                Response::new(200, "text/plain; charset=utf-8", status.config.load().effective.as_bytes().to_vec())
            }
            None => report(status, &Detail::asked(request), context.now),
        },
        _ => Response::text(404, "not found; there are /metrics, /livez, /startupz, /readyz, /status and /"),
    }
}

fn metrics(request: &Request, status: &Status) -> Response {
    status.refresh();
    let families = status.metrics.gather();
    let response = match negotiate(&request.accept) {
        Exposition::OpenMetrics => {
            Response::new(200, openmetrics::CONTENT_TYPE, openmetrics::encode(&families).into_bytes())
        }
        Exposition::Text => match TextEncoder::new().encode_to_string(&families) {
            Ok(text) => Response::new(200, TEXT_EXPOSITION, text.into_bytes()),
            Err(error) => Response::text(500, format!("the metrics could not be written: {error}")),
        },
    };
    response.with("Vary", "Accept")
}

fn readyz(request: &Request, status: &Status) -> Response {
    let checks = health::readiness(status);
    let ready = checks.iter().all(|check| check.ok);
    let lines: Vec<_> = if request.asks("verbose") {
        checks.iter().map(|check| format!("[{}] {}", if check.ok { '+' } else { '-' }, check.text)).collect()
    } else if ready {
        vec!["ok".to_owned()]
    } else {
        checks.into_iter().filter(|check| !check.ok).map(|check| check.text).collect()
    };
    Response::text(if ready { 200 } else { 503 }, lines.join("\n"))
}

fn report(status: &Status, detail: &Detail<'_>, now: SystemTime) -> Response {
    match serde_json::to_vec(&report::detailed(status, detail, now)) {
        Ok(mut json) => {
            json.push(b'\n');
            Response::new(200, "application/json", json)
        }
        Err(error) => Response::text(500, format!("the status could not be written: {error}")),
    }
}

/// Why the state is not shown here, if it is not.
fn forbidden(request: &Request, context: &Context<'_>) -> Option<&'static str> {
    if context.public_status {
        None
    } else if !context.local.to_canonical().is_loopback() {
        Some("shown on loopback addresses only; set http.public_status = true to show it here")
    } else if !names_this_machine(&request.host) {
        // A web page of a stranger can point its own name at 127.0.0.1 and so read what a browser here can reach;
        // but it cannot keep the browser from telling that name.
        Some("asked for under a foreign name; use localhost or an address, or set http.public_status = true")
    } else {
        None
    }
}

/// Whether a `Host` is an address, `localhost`, or none at all.
fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let local = name.trim_end_matches('.').to_ascii_lowercase();
    name.is_empty() || name.parse::<IpAddr>().is_ok() || local == "localhost" || local.ends_with(".localhost")
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
