//! Panels over one time axis, as SVG: lines, bands and marks, readable on light and on dark pages.

use std::fmt::Write;

pub const WIDTH: f64 = 1200.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 16.0;
/// No line has more points, whatever the time it shows.
pub const POINTS: usize = 600;
/// A line is broken where nothing was seen for such a share of the whole time, and for so many seconds.
const GAP: (f64, f64) = (0.02, 3.0);

/// Light first, and what differs on a dark page. Each hue holds 3:1 against its background.
const STYLE: &str = "<style>\
svg{--bg:#fff;--ink:#1f2328;--soft:#656d76;--grid:#d8dee4;--good:#2da44e;--fair:#d4a72c;--bad:#cf222e;\
--c1:#0969da;--c2:#bc4c00;--c3:#8250df;--c4:#1a7f37;--c5:#bf3989}\
@media(prefers-color-scheme:dark){svg{--bg:#0d1117;--ink:#e6edf3;--soft:#9198a1;--grid:#30363d;--good:#3fb950;\
--fair:#e3b341;--bad:#f85149;--c1:#58a6ff;--c2:#f0883e;--c3:#bc8cff;--c4:#56d364;--c5:#ff7bc5}}\
text{font:12px system-ui,sans-serif;fill:var(--soft)}.t{font-weight:600;font-size:13px;fill:var(--ink)}\
.l{fill:none;stroke-width:1.3;stroke-linejoin:round;stroke-linecap:round}.g{stroke:var(--grid);stroke-width:1}\
.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}.s4{stroke:var(--c4)}.s5{stroke:var(--c5)}\
.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}.f4{fill:var(--c4)}.f5{fill:var(--c5)}.f6{fill:var(--soft)}\
.good{fill:var(--good)}.fair{fill:var(--fair)}.bad{fill:var(--bad)}</style>";

/// How a value becomes a height.
#[derive(Debug, Clone, Copy)]
pub enum Scale {
    /// From nought.
    Linear,
    /// By powers of ten from this one.
    Log(f64),
}

/// A named line in the colour of its number (1 to 5).
pub struct Line<'a> {
    pub name: &'a str,
    pub colour: usize,
    pub points: Vec<(f64, f64)>,
}

pub struct Chart {
    body: String,
    /// Seconds that the axis shows.
    end: f64,
    top: f64,
}

impl Chart {
    pub fn new(title: &str, end: f64) -> Self {
        let mut chart = Self { body: String::new(), end: end.max(1.0), top: 26.0 };
        chart.text(LEFT, 20.0, "t", "start", title);
        chart
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds / self.end).clamp(0.0, 1.0)
    }

    fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = write!(
            self.body,
            "<text x=\"{x:.0}\" y=\"{y:.0}\" class=\"{class}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    fn heading(&mut self, title: &str, legend: &[(&str, String)]) {
        self.top += 30.0;
        let y = self.top;
        self.text(LEFT, y, "t", "start", title);
        // Widths of letters are guessed, generously.
        let mut x = LEFT + 20.0 + 7.6 * title.len() as f64;
        for (name, class) in legend {
            let _ = write!(
                self.body,
                "<rect x=\"{x:.0}\" y=\"{:.0}\" width=\"11\" height=\"11\" class=\"{class}\"/>",
                y - 10.0
            );
            self.text(x + 15.0, y, "", "start", name);
            x += 30.0 + 6.4 * name.len() as f64;
        }
        self.top += 8.0;
    }

    /// Rows of a state over time, each with marks above it. A state is a class and from when to when it held; a mark is
    /// its colour and the same.
    pub fn rows(&mut self, title: &str, legend: &[(&str, String)], rows: &[Row<'_>]) {
        self.heading(title, legend);
        for row in rows {
            let (marks, band) = (self.top + 4.0, self.top + 17.0);
            self.text(LEFT - 8.0, band + 8.0, "", "end", row.name);
            for (class, spans) in &row.marks {
                self.spans(class, spans, marks, 11.0);
            }
            for (class, spans) in &row.states {
                self.spans(class, spans, band, 10.0);
            }
            self.top += 34.0;
        }
    }

    fn spans(&mut self, class: &str, spans: &[(f64, f64)], y: f64, height: f64) {
        if spans.is_empty() {
            return;
        }
        let _ = write!(self.body, "<path class=\"{class}\" d=\"");
        for (from, until) in spans {
            let (x, width) = (self.x(*from), (self.x(*until) - self.x(*from)).max(1.2));
            let _ = write!(self.body, "M{x:.1} {y:.0}h{width:.1}v{height:.0}h-{width:.1}z");
        }
        self.body += "\"/>";
    }

    /// Lines over a common axis with a unit.
    pub fn panel(&mut self, title: &str, height: f64, scale: Scale, unit: &str, lines: &[Line<'_>]) {
        let legend: Vec<_> = lines.iter().map(|line| (line.name, format!("f{}", line.colour))).collect();
        self.heading(&if unit.is_empty() { title.to_owned() } else { format!("{title}, {unit}") }, &legend);
        let (top, bottom) = (self.top, self.top + height);
        let most = lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(0.0, f64::max);
        let (ticks, place): (Vec<f64>, Box<dyn Fn(f64) -> f64>) = match scale {
            Scale::Linear => {
                let step = step(most);
                let most = (most / step).ceil().max(1.0) * step;
                let count = (most / step).round() as usize;
                ((0..=count).map(|n| n as f64 * step).collect(), Box::new(move |value| value / most))
            }
            Scale::Log(least) => {
                let decades = (most.max(least * 10.0) / least).log10().ceil();
                let ticks = (0..=decades as i32).map(|n| least * 10f64.powi(n)).collect();
                (ticks, Box::new(move |value| (value.max(least) / least).log10() / decades))
            }
        };
        for tick in ticks {
            let y = bottom - height * place(tick);
            let _ = write!(self.body, "<path class=\"g\" d=\"M{LEFT:.0} {y:.1}H{:.0}\"/>", WIDTH - RIGHT);
            self.text(LEFT - 8.0, y + 4.0, "", "end", &number(tick));
        }
        for line in lines {
            let _ = write!(self.body, "<path class=\"l s{}\" d=\"", line.colour);
            let mut last = f64::NEG_INFINITY;
            for (at, value) in &line.points {
                let y = bottom - height * place(*value).clamp(0.0, 1.0);
                // Alone between two gaps it would be no line: a dot.
                let begin = if at - last > GAP.1.max(GAP.0 * self.end) { "M" } else { "L" };
                let dot = if begin == "M" { "h1" } else { "" };
                let _ = write!(self.body, "{begin}{:.1} {y:.1}{dot}", self.x(*at));
                last = *at;
            }
            self.body += "\"/>";
        }
        self.top = top + height + 12.0;
    }

    /// The whole picture, with the time below.
    pub fn finish(mut self) -> String {
        let y = self.top + 10.0;
        let (unit, seconds) = if self.end >= 600.0 { ("min", 60.0) } else { ("s", 1.0) };
        let step = step(self.end / seconds);
        let mut at = 0.0;
        while at <= self.end / seconds + 1e-9 {
            let x = self.x(at * seconds);
            let anchor = if x > WIDTH - 3.0 * RIGHT { "end" } else { "middle" };
            self.text(x, y + 6.0, "", anchor, &format!("{} {unit}", number(at)));
            let _ = write!(self.body, "<path class=\"g\" d=\"M{x:.1} {:.0}v-6\"/>", y - 6.0);
            at += step;
        }
        let height = y + 18.0;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\">{STYLE}\
             <rect width=\"100%\" height=\"100%\" style=\"fill:var(--bg)\"/>{}</svg>\n",
            self.body
        )
    }
}

/// Spans of seconds, by class.
pub type Spans = Vec<(String, Vec<(f64, f64)>)>;

pub struct Row<'a> {
    pub name: &'a str,
    pub states: Spans,
    pub marks: Spans,
}

/// A step of 1, 2 or 5 times a power of ten that makes four to ten of it.
fn step(most: f64) -> f64 {
    let most = most.max(1e-9);
    let power = 10f64.powf((most / 5.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| most / step <= 8.0).unwrap_or(most)
}

fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// At most [`POINTS`] points: each the outcome of `merge` over its share of the time.
pub fn thinned(points: &[(f64, f64)], merge: impl Fn(&[(f64, f64)]) -> f64) -> Vec<(f64, f64)> {
    let share = points.len().div_ceil(POINTS).max(1);
    points.chunks(share).map(|chunk| (chunk[chunk.len() / 2].0, merge(chunk))).collect()
}

pub fn mean(points: &[(f64, f64)]) -> f64 {
    points.iter().map(|point| point.1).sum::<f64>() / points.len().max(1) as f64
}

pub fn most(points: &[(f64, f64)]) -> f64 {
    points.iter().map(|point| point.1).fold(0.0, f64::max)
}
