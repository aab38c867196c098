//! `everlink status`: what a running everlink tells of itself, once or again and again.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use super::gateway::gateway;
use super::get::get;
use super::outages::outages;
use super::screen::Screen;
use super::table::table;
use super::{OK, StatusArgs};
use crate::clock::short_span;
use crate::http::report::Report;
use crate::log::printable;

const REDRAW: Duration = Duration::from_secs(1);
/// Cursor to the upper left; what is below the new text is cleared behind it, so that nothing flickers.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// 0 once shown, 1 if nobody answers. With `--watch` it goes on until ctrl-c, or until nobody reads it.
pub fn run(args: &StatusArgs) -> ExitCode {
    let url = args.at.url();
    let terminal = super::is_screen();
    let colours = super::colours();
    if !args.watch {
        return match ask(&url) {
            Ok(report) => {
                let _ = super::say(&render(&report, None, colours, Screen::now()));
                ExitCode::from(OK)
            }
            Err(why) => super::no(&why),
        };
    }
    let mut last: Option<Report> = None;
    if terminal && super::say(CLEAR_BELOW).is_err() {
        return ExitCode::from(OK);
    }
    loop {
        // It may have been made wider or narrower.
        let screen = Screen::now();
        let text = match ask(&url) {
            Ok(report) => {
                let text = render(&report, last.as_ref(), colours, screen);
                last = Some(report);
                text
            }
            Err(why) => match &last {
                Some(report) => {
                    format!("{}Before that:\n{}", screen.wrap(&why), render(report, None, false, screen))
                }
                None => screen.wrap(&why),
            },
        };
        let drawn = if terminal { redraw(&screen.cut(&text)) } else { format!("{text}\n") };
        if super::say(&drawn).is_err() {
            return ExitCode::from(OK);
        }
        std::thread::sleep(REDRAW);
    }
}

fn ask(url: &str) -> Result<Report, String> {
    let answer = get(url, "/status").map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("{url} does not show its status: {} (HTTP {})", answer.first_line(), answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|error| format!("{url} does not answer as everlink does: {error}"))
}

fn redraw(text: &str) -> String {
    format!("{HOME}{}{CLEAR_BELOW}", text.replace('\n', &format!("{CLEAR_LINE}\n")))
}

/// The whole text: a line on the process, one on the last reload, the table, outages.
fn render(report: &Report, before: Option<&Report>, colours: bool, screen: Screen) -> String {
    let up = |seconds: f64| short_span(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let health = match report {
        Report { live: false, .. } => "stuck",
        Report { draining: true, .. } => "draining",
        Report { ready: true, .. } => "ready",
        _ => "not ready",
    };
    let config = &report.config;
    let mut text = format!(
        "everlink {}, {health}, up for {}; {}, generation {}\n",
        printable(&report.version),
        up(report.uptime_seconds),
        printable(&config.path),
        config.generation
    );
    if let Some(reload) = &config.last_reload {
        let what = reload.lines.first().map_or(String::new(), |line| format!(": {}", printable(line)));
        let more = match reload.lines.len() {
            0 | 1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        // Writing into a String cannot fail.
        let _ =
            writeln!(text, "last reload {} ago: {}{what}{more}", up(reload.age_seconds), printable(&reload.outcome));
    }
    let mut text = screen.wrap(&text);
    text.push('\n');
    if !report.upstreams.is_empty() || report.gateway.is_none() {
        text.push_str(&table(report, before, colours, screen));
        let outages = outages(report);
        if !outages.is_empty() {
            text.push('\n');
            text.push_str(&screen.wrap(&outages));
        }
    }
    if let Some(of_gateway) = &report.gateway {
        let gap = if report.upstreams.is_empty() { "" } else { "\n" };
        text = format!("{text}{gap}{}", screen.wrap(&gateway(of_gateway)));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::http::{self, example, report::report};

    #[test]
    fn the_text_is_complete() {
        let status = example::busy_status();
        let mut told = report(&status, status.started + Duration::from_secs(192));
        for link in &mut told.upstreams[0].links {
            link.since_age_seconds = 100.0;
        }
        let text = render(&told, None, false, Screen::ENDLESS);
        let expected = "\
everlink 0.1.0, ready, up for 3m12s; config.toml, generation 4
last reload 3m12s ago: applied: chat: heartbeat.interval 5s → 3s, live, 2 links kept

  UPSTREAM  STATE  LINK  LINK STATE  FOR    ENDPOINT         RTT    MISSES  RECONNECTS  CLIENTS  WAITING
  chat      up     1     up          1m40s  a.internal:8080  420µs  0       0           0        0
                   2     waiting     1m40s  b.internal:8080  –      0                                     retry in 56m48s, attempt 4: connection refused
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_tunnel_shows_its_sessions_and_a_gateway_whom_it_holds() {
        let status = example::busy_tunnel();
        let mut told = report(&status, status.started + Duration::from_secs(5));
        told.upstreams[0].links[0].since_age_seconds = 5.0;
        for session in &mut told.gateway.as_mut().unwrap().sessions {
            session.since_age_seconds = 3.0;
        }
        let text = render(&told, None, false, Screen::ENDLESS);
        let (_, shown) = text.split_once("\n\n").unwrap();
        let expected = "  UPSTREAM  STATE  LINK  LINK STATE  FOR   ENDPOINT         RTT     MISSES  RECONNECTS  CLIENTS  WAITING
  site      up     1     up          5.0s  a.internal:8080  21.0ms  0       0           0        0        session 5e551011, 7 streams, 4.0KiB unacknowledged, 1 resume, the last outage 800.0ms

gateway gw-1, listens on 127.0.0.1:7443: 2 of 1024 sessions, 5 streams, 2 handshakes pending, 1 refused
  01010101, 5 streams, 0B unacknowledged; spiffe://edge/a at 10.0.0.9:40000; connected for 3.0s
  02020202, 0 streams, 100B unacknowledged; 10.0.0.9:40000; without a connection for 3.0s
";
        assert_eq!(shown, expected);
        told.upstreams.clear();
        assert!(!render(&told, None, false, Screen::ENDLESS).contains("UPSTREAM"), "a gateway needs no upstreams");
    }

    #[test]
    fn a_running_server_is_asked_over_its_socket() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = http::serve(vec![listener], example::busy_status(), Arc::default()).unwrap();
        assert_eq!(ask(&url).unwrap().upstreams[0].name, "chat");
        let wrong = ask(&format!("{url}/nowhere")).unwrap_err();
        assert!(wrong.contains("not found") && wrong.contains("HTTP 404"), "{wrong}");
        server.stop();
        assert!(ask(&url).is_err());
    }

    #[test]
    fn a_name_that_moves_the_cursor_does_not() {
        let mut told = report(&example::busy_status(), SystemTime::now());
        told.upstreams[0].name = "\x1b[2Jchat\n".to_owned();
        told.upstreams[0].links[1].last_error = Some("said \x07".to_owned());
        told.config.path = "a\nb".to_owned();
        let text = render(&told, Some(&told), false, Screen::ENDLESS);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.contains("\\x1b[2Jchat\\n") && text.contains("a\\nb"), "{text}");
    }

    #[test]
    fn a_redraw_leaves_nothing_of_the_old_text() {
        assert_eq!(redraw("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
