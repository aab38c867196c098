//! What a beat says, what answers it, and whether the two go together.

use super::{Check, count};
use crate::config::keys::{Mode, Scope};
use crate::config::read::{Layer, Text};
use crate::config::report::{Basis, Problem};
use crate::config::{Beat, Expect, Heartbeat, InUse};

/// The memory a compiled `expect` may take, in bytes.
const PATTERN_MAX: usize = 1 << 20;

impl Check<'_, '_> {
    pub(super) fn heartbeat(&mut self, layer: &Layer<'_, '_>, mode: Option<Mode>) -> Heartbeat {
        let interval = self.reader.time(layer, "heartbeat.interval").value.unwrap_or_default();
        let timeout = self.reader.time(layer, "heartbeat.timeout").value.unwrap_or_default();
        let misses = count(self.reader.count(layer, "heartbeat.misses").value) as u32;
        if mode == Some(Mode::Tunnel) {
            // Its beats are frames; what `[defaults]` has to say is for others.
            return Heartbeat { interval, timeout, misses, beat: Beat::Kernel, in_use: InUse::Off };
        }
        let beat = self.beat(layer);
        let in_use = self.reader.choice(layer, "heartbeat.in_use");
        let line = in_use.value == 1;
        // `[defaults]` need not be complete: what goes together is seen in each upstream.
        if line && in_use.sound && layer.scope == Scope::Upstream {
            self.line_mode(layer, beat.as_ref());
        }
        Heartbeat {
            interval,
            timeout,
            misses,
            beat: beat.unwrap_or(Beat::Kernel),
            in_use: if line { InUse::Line } else { InUse::Off },
        }
    }

    /// What a beat says; `None` if that could not be read.
    fn beat(&mut self, layer: &Layer<'_, '_>) -> Option<Beat> {
        let own = |name: &str| layer.own.keys.contains_key(name);
        // An upstream's own question replaces another kind of question in `[defaults]`.
        let own_preset = own("heartbeat.preset");
        let own_exchange = own("heartbeat.send") || own("heartbeat.expect");
        let itself = Layer { scope: layer.scope, path: layer.path.clone(), own: layer.own, defaults: None };
        let preset_layer = if own_exchange && !own_preset { &itself } else { layer };
        let exchange_layer = if own_preset && !own_exchange { &itself } else { layer };
        let preset = self.reader.choice(preset_layer, "heartbeat.preset");
        let send = self.reader.optional_text(exchange_layer, "heartbeat.send");
        let expect = self.reader.optional_text(exchange_layer, "heartbeat.expect");
        let sent = send.value.as_ref().map(|text| self.reader.bytes("send", text));
        let expected = expect.value.as_ref().map(|text| self.expect(text));
        let whole = layer.scope == Scope::Upstream;
        let beats = [None, Some(Beat::Redis), Some(Beat::Memcached), Some(Beat::Smtp)];
        if let Some(beat) = beats.get(preset.value).cloned().flatten() {
            for (at, key) in [(&send.at, "send"), (&expect.at, "expect")] {
                if let (Some(at), true) = (at, whole) {
                    let problem =
                        Problem::at(self.reader.source, at, format!("`{key}` and `preset` exclude each other"));
                    let preset_at = preset.at.clone().unwrap_or(at.clone());
                    let problem = problem.and_at(self.reader.source, &preset_at, "the preset");
                    let help = "a preset asks its own question: leave one of the two out";
                    self.reader.tell(problem.help(help).basis(Basis::Whole));
                }
            }
            return Some(beat);
        }
        if !(send.sound && expect.sound && preset.sound) {
            return None;
        }
        match (sent, expected) {
            (None, None) => Some(Beat::Kernel),
            (Some(Some(send)), Some(Some(expect))) => Some(Beat::Exchange { send, expect }),
            (Some(_), Some(_)) => None,
            (Some(_), None) if whole => {
                let help = "a beat is proven by its answer: name its beginning, as in expect = \"pong\"";
                self.reader.error_of_whole(&send.at?, "`send` needs `expect`", help);
                None
            }
            (None, Some(_)) if whole => {
                let help = "an answer wants a question, as in send = \"ping\"";
                self.reader.error_of_whole(&expect.at?, "`expect` needs `send`", help);
                None
            }
            _ => None,
        }
    }

    fn expect(&mut self, text: &Text) -> Option<Expect> {
        let Some(pattern) = text.value.strip_prefix("re:") else {
            return self.reader.bytes("expect", text).map(Expect::Prefix);
        };
        let build =
            |pattern: &str| regex::bytes::RegexBuilder::new(pattern).unicode(false).size_limit(PATTERN_MAX).build();
        // Alone first: `a)|(b` would be a pattern within brackets, and none without.
        match build(pattern).and_then(|_| build(&format!("^(?:{pattern})"))) {
            Ok(regex) if regex.is_match(b"") => {
                let help = "it would take no answer for one";
                self.reader.error(&text.span, "`expect` also matches nothing at all", help);
                None
            }
            Ok(regex) => Some(Expect::Pattern(regex)),
            Err(error) => {
                let told = error.to_string();
                let reason = told.lines().last().unwrap_or("").trim_start_matches("error: ").to_owned();
                let help = if text.is_plain() { reason } else { String::new() };
                self.reader.error(&text.span, "`expect` is no pattern that can be compiled", help);
                None
            }
        }
    }

    fn line_mode(&mut self, layer: &Layer<'_, '_>, beat: Option<&Beat>) {
        let Some(at) = layer.place_of("heartbeat.in_use") else { return };
        let message = match beat {
            None => return,
            Some(Beat::Exchange { send, .. }) => {
                let lines = send.iter().filter(|byte| **byte == b'\n').count();
                if send.last() == Some(&b'\n') && lines == 1 && !send.contains(&0) {
                    return;
                }
                "`in_use = \"line\"` needs a `send` that is one whole line"
            }
            Some(Beat::Kernel) => "`in_use = \"line\"` needs `send` and `expect`",
            Some(_) => "`in_use = \"line\"` and `preset` exclude each other",
        };
        let help = "as in send = \"PING\\n\" and expect = \"PONG\"";
        let problem = Problem::at(self.reader.source, &at, message).help(help).basis(Basis::Whole);
        let other = match beat {
            Some(Beat::Exchange { .. }) => layer.place_of("heartbeat.send").map(|at| (at, "this one is not")),
            Some(Beat::Kernel) => None,
            _ => layer.place_of("heartbeat.preset").map(|at| (at, "the preset")),
        };
        self.reader.tell(match other {
            Some((other, label)) => problem.and_at(self.reader.source, &other, label),
            None => problem,
        });
    }
}
