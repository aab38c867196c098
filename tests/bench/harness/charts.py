"""Charts of a run: bars for each contender, whiskers from the least to the most of all rounds. One file each, readable on
light and on dark ground."""
import os
from xml.sax.saxutils import escape

from . import contenders
from .machine import BENCH, say
from .report import median, number, values

# file: (title, panels); a panel: (title, kind, measure, key, better, digits)
BULK = "GB moved for each second of processor time"
CHARTS = {
    "direct.svg": ("Direct mode: one program in the way", [
        (f"{BULK}, 1 stream up", "direct", "bulk", "up_gb_per_cpu_s", "max", 1),
        (f"{BULK}, 64 streams up", "direct", "bulk64", "up_gb_per_cpu_s", "max", 1),
        ("64-byte request, 64 connections: CPU, µs", "direct", "request", "c64_cpu_us", "min", 1),
        ("New connection: first byte, µs", "direct", "churn", "w1_p50_us", "min", 0),
    ]),
    "tunnel.svg": ("Tunnel mode: two programs and a link between them", [
        (f"{BULK}, 1 stream up", "tunnel", "bulk", "up_gb_per_cpu_s", "max", 1),
        (f"{BULK}, 64 streams up", "tunnel", "bulk64", "up_gb_per_cpu_s", "max", 1),
        ("64-byte request, 64 connections: CPU, µs", "tunnel", "request", "c64_cpu_us", "min", 1),
        ("New connection, 16 clients: CPU, µs", "tunnel", "churn", "w16_cpu_us", "min", 0),
        ("GB a CPU-second under TLS, 1 stream up", "tls", "bulk", "up_gb_per_cpu_s", "max", 2),
        ("32 new connections at once, 50 ms away: first byte p99, ms", "tunnel", "first", "burst_p99_ms", "min", 0),
    ]),
    "cuts.svg": ("A cable pulled for ten seconds, in the middle of a transfer", [
        ("Bytes move again after the heal, s (tunnel)", "tunnel", "cut10", "moved_s", "min", 1),
        ("Megabytes lost (tunnel)", "tunnel", "cut10", "lost_mb", "min", 1),
    ]),
}

WIDTH, COLUMN, GAP, ROW, LABEL = 880, 425, 30, 22, 135
STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f }
  .title { font-size: 15px; font-weight: 600 } .panel { font-weight: 600 } .note { fill: #57606a }
  .peer { fill: #afb8c1 } .none { fill: #d8dee4 } .everlink { fill: #0969da } .whisker { stroke: #24292f; stroke-width: 1 }
  text.everlink { fill: #0969da; font-weight: 600 } text.peer, text.none { fill: #24292f }
  @media (prefers-color-scheme: dark) {
    text, text.peer, text.none { fill: #e6edf3 } .note { fill: #8d96a0 } .peer { fill: #656c76 } .none { fill: #3d444d }
    .everlink { fill: #4493f8 } text.everlink { fill: #4493f8 } .whisker { stroke: #e6edf3 }
  }
"""


def bars(data, panel):
    """Contender, median, least, most; the best first."""
    _, kind, measure, key, better, _ = panel
    found = []
    for name, contender in contenders.ALL.items():
        if kind not in contender.kinds:
            continue
        numbers = values(data, measure, name, key)
        if key == "lost_mb":
            numbers = [lost / 1e6 for lost in values(data, measure, name, "lost")]
        if numbers:
            found.append((name, median(numbers), min(numbers), max(numbers)))
        elif key == "moved_s" and data["results"].get(measure, {}).get(name):
            found.append((name, None, 0, 0))  # it closed the connection instead
    return sorted(found, key=lambda bar: (bar[1] is None, -(bar[1] or 0) if better == "max" else bar[1] or 0))


def draw_panel(panel, found, left, top):
    title, _, _, _, better, digits = panel
    hint = "more is better" if better == "max" else "less is better"
    out = [f'<text class="panel" x="{left}" y="{top}">{escape(title)}</text>',
           f'<text class="note" x="{left}" y="{top + 16}">{hint}</text>']
    room = COLUMN - LABEL - 55
    most = max((bar[3] for bar in found), default=0) or 1
    for place, (name, middle, least, highest) in enumerate(found):
        y = top + 26 + place * ROW
        long = max(1.0, (middle or 0) / most * room)
        colour = contenders.ALL[name].colour
        end = left + LABEL + max(long, highest / most * room if highest > least else 0)
        out += [f'<text class="{colour}" x="{left + LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
                f'<rect class="{colour}" x="{left + LABEL}" y="{y + 2}" width="{long:.1f}" height="{ROW - 6}" rx="2"/>',
                f'<text x="{end + 6:.1f}" y="{y + 13}">{"never: closes it" if middle is None else number(middle, digits)}</text>']
        if highest > least:
            a, b, middle_y = left + LABEL + least / most * room, left + LABEL + highest / most * room, y + ROW / 2 - 1
            out.append(f'<path class="whisker" d="M{a:.1f} {middle_y}H{b:.1f}M{a:.1f} {middle_y - 3}v6M{b:.1f} {middle_y - 3}v6"/>')
    return out


def draw(data):
    meta = data["meta"]
    for file, (title, panels) in CHARTS.items():
        panels = [(panel, found) for panel in panels if (found := bars(data, panel))]
        if not panels:
            continue
        body, top = [], 78
        for pair in (panels[place:place + 2] for place in range(0, len(panels), 2)):
            for column, (panel, found) in enumerate(pair):
                body += draw_panel(panel, found, 10 + column * (COLUMN + GAP - 20), top)
            top += max(len(found) for _, found in pair) * ROW + 62
        note = f"{meta['cores']} × {meta['cpu']}, Linux {meta['kernel'].split('-')[0]}, {meta['control']}; medians and ranges of {meta['rounds']} rounds"
        height = top - 20
        text = "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>",
            f'<text class="title" x="10" y="24">{escape(title)}</text>', f'<text class="note" x="10" y="44">{escape(note)}</text>',
            *body, "</svg>", ""])
        path = os.path.join(BENCH, "charts", file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as out:
            out.write(text)
        say(f"drew {path}")
