//! What is the process's own: HTTP, the admin socket, the log, the drain.

use tracing_subscriber::EnvFilter;

use super::Check;
use crate::config::read::Layer;
use crate::config::units::show_duration;
use crate::config::{Admin, Drain, Http, ListenAddress, Log, LogFormat, address};

/// Also in the list of keys, as text; a test holds them together.
const HTTP_DEFAULT: ([u8; 4], u16) = ([127, 0, 0, 1], 9900);

impl Check<'_, '_> {
    pub(super) fn http(&mut self, top: &Layer<'_, '_>) -> Http {
        let texts = self.reader.texts(top, "http.listen", "an address such as \"127.0.0.1:9900\", a list, or \"off\"");
        let mut listen = Vec::new();
        match &texts.value {
            Some(texts) if matches!(&texts[..], [text] if text.value == "off") => {}
            Some(texts) => {
                if let (true, Some(at)) = (texts.is_empty(), top.place_of("http.listen")) {
                    self.reader.error(&at, "`listen` is empty", "write \"off\" to switch it off");
                }
                for text in texts {
                    match self.listen_address(text, "listen") {
                        Some(ListenAddress::Tcp(address)) => {
                            self.listening.add(None, "[http]", ListenAddress::Tcp(address), text);
                            listen.push(address);
                        }
                        Some(ListenAddress::Unix(_)) => self.reader.error(
                            &text.span,
                            "`listen` of [http] takes no unix socket",
                            "write an address such as \"127.0.0.1:9900\"",
                        ),
                        None => {}
                    }
                }
            }
            None => {
                let default = std::net::SocketAddr::from(HTTP_DEFAULT);
                listen.push(default);
                if texts.at.is_none() {
                    self.listening.add_default("[http]", ListenAddress::Tcp(default));
                }
            }
        }
        let public_status = self.reader.flag(top, "http.public_status").value;
        Http { listen, public_status }
    }

    pub(super) fn admin(&mut self, top: &Layer<'_, '_>) -> Option<Admin> {
        let text = self.reader.optional_text(top, "admin.socket");
        if let (Some(at), None, true) = (top.own.tables.get("admin"), &text.at, text.sound) {
            self.reader.error_of_whole(at, "[admin] has no `socket`", "as in socket = \"/run/everlink/admin.sock\"");
        }
        let text = text.value?;
        if text.value == "off" {
            return None;
        }
        let path = text.value.strip_prefix("unix:").unwrap_or(&text.value);
        match address::unix_path(path) {
            Ok(socket) => {
                self.listening.add(None, "[admin]", ListenAddress::Unix(socket.clone()), &text);
                Some(Admin { socket })
            }
            Err(error) => {
                let message = format!("`socket` {} {}", text.quoted(), error.message);
                self.reader.error(&text.span, message, "as in \"/run/everlink/admin.sock\"");
                None
            }
        }
    }

    pub(super) fn log(&mut self, top: &Layer<'_, '_>) -> Log {
        let level = self.reader.optional_text(top, "log.level").value;
        let level = level.and_then(|text| {
            let problem = filter_problem(&text.value);
            if let Some((message, help)) = problem {
                let message = format!("`level` {} {message}", text.quoted());
                self.reader.error(&text.span, message, if text.is_plain() { help } else { LEVELS_HELP.to_owned() });
                return None;
            }
            Some(text.value)
        });
        let formats = [LogFormat::Auto, LogFormat::Text, LogFormat::Json];
        let format = self.reader.choice(top, "log.format").value;
        Log {
            level: level.unwrap_or_else(|| "info".to_owned()),
            format: formats.get(format).copied().unwrap_or(LogFormat::Auto),
        }
    }

    pub(super) fn drain(&mut self, top: &Layer<'_, '_>) -> Drain {
        let timeout = self.reader.time(top, "drain.timeout");
        let quiet = self.reader.time(top, "drain.quiet");
        let minimum = self.reader.time(top, "drain.minimum");
        let drain = Drain {
            timeout: timeout.value.unwrap_or_default(),
            quiet: quiet.value,
            minimum: minimum.value.unwrap_or_default(),
        };
        if timeout.sound && minimum.sound && drain.minimum > drain.timeout {
            let message = format!(
                "`minimum` is {}, longer than `timeout`, which is {}",
                self.shown(top, "drain.minimum", show_duration(drain.minimum)),
                self.shown(top, "drain.timeout", show_duration(drain.timeout))
            );
            self.pair(top, "drain.minimum", "drain.timeout", message, "a drain ends at its timeout at the latest");
        }
        drain
    }
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
const LEVELS_HELP: &str =
    "levels are error, warn, info, debug, trace; a filter is as in \"info,everlink::direct=debug\"";

/// What is wrong with a filter, and the cure. A single unknown word would be taken for the name of a module and
/// silence everything else, so it is not.
fn filter_problem(level: &str) -> Option<(&'static str, String)> {
    if level.trim().is_empty() {
        return Some(("is empty", LEVELS_HELP.to_owned()));
    }
    for directive in level.split(',').map(str::trim) {
        let lower = directive.to_ascii_lowercase();
        if !directive.contains(['=', '[', ']', '{', '}', '"']) && !LEVELS.contains(&lower.as_str()) {
            let near = LEVELS.iter().min_by_key(|word| strsim::damerau_levenshtein(&lower, word));
            let near = near.filter(|near| strsim::damerau_levenshtein(&lower, near) <= 2);
            let near = near.map(|near| format!("did you mean \"{near}\"? ")).unwrap_or_default();
            return Some(("is not a level", format!("{near}{LEVELS_HELP}")));
        }
    }
    EnvFilter::builder().parse(level).err().map(|_| ("is not a filter", LEVELS_HELP.to_owned()))
}
