"""COMPARISON.md: words for what `tests/bench/compare` has measured."""
import json
import os
import re
import tomllib

from . import events, peers
from .machine import BENCH, say


def seconds(value):
    """As coarse as the measurement is."""
    return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"


def short(value):
    return "< 0.5 s" if value < 0.5 else seconds(value)


def after(value):
    return "at once" if value < 0.5 else f"after {seconds(value)}"


def gist(told):
    """One line of a result, for whoever watches the run."""
    if "error" in told:
        return told["error"]
    failed = sum(told["failed"].values())
    end = f"dies {told['died_s']}" if told["died_s"] is not None else "lives" if told["lives"] else "hangs"
    return f"{end}; held {' '.join(how for how, _ in told['held'])}; {failed} of {told['clients']} clients fail, longest wait {told['longest_s']}"


# As what the client hears of it. An end of file says that all was well.
HOW = {"reset": "reset", "eof": "end of file", "timeout": "timeout", "error": "error"}


def busy(told, event):
    """The connection with data under way."""
    if told["died_s"] is not None:
        return f"dies {after(told['died_s'])}, {HOW.get(told['how'], told['how'])}"
    if not told["lives"]:
        return f"hangs for all of the {event['watched']:.0f} s"
    lost = "nothing lost" if not told["lost"] and not told["mismatches"] else f"{told['lost']} bytes lost, {told['mismatches']} words wrong"
    arrives, answers = told["arrives_s"], told["answers_s"]
    if arrives is None:
        return f"**lives**, {lost}"
    if not event["lasts"]:
        return f"**lives**, moves {after(arrives)}, {lost}"
    if answers is not None and abs(answers - arrives) > 1:
        return f"**lives**; its bytes move {short(arrives)} after the heal, answers {short(answers)}; {lost}"
    return f"**lives**, moves {short(max(arrives, answers or 0))} after the heal, {lost}"


def idle(told, event):
    """Those held in silence."""
    hows = [how for how, _ in told["held"]]
    ended = [[how, at] for how, at in told["held"] if at is not None and at < event["watched"]]
    alive = hows.count("alive")
    if alive == len(hows):
        return "**live**"
    parts = [f"{alive} of {len(hows)} live"] if alive else []
    if ended:
        kinds = sorted({HOW.get(how, how) for how, _ in ended})
        parts.append(f"die {after(max(at for _, at in ended))}, {' or '.join(kinds)}")
    if len(hows) > alive + len(ended):
        parts.append(f"hang for all of the {event['watched']:.0f} s, and when they are used")
    return "; ".join(parts)


def clients(told, event):
    """Those who came from the beginning of the event on."""
    failed = sum(told["failed"].values())
    longest = f"longest wait {short(told['longest_s'])}" if told["longest_s"] is not None else "none was served"
    if not failed:
        return f"**all served**, {longest}"
    return f"{failed} of {told['clients']} fail, the last {after(told['last_failed_s'])}; {longest}"


def noticed(told, event):
    return f"its log, {after(told['noticed'][0])}" if told["noticed"] else "nobody"


def edited(told, event):
    if not told["applied"]:
        return "the edit had no effect"
    alive = [how for how, _ in told["held"]].count("alive") + told["lives"]
    everyone, count = len(told["held"]) + 1, told["processes"]
    words = "**none dropped**" if alive == everyone else f"{everyone - alive} of {everyone} dropped"
    if alive and count["new"]:
        words += f"; beside {count['new']} new {'process' if count['new'] == 1 else 'processes'} an old one stays until its last connection ends"
    failed = sum(told["failed"].values())
    return words + (f"; {failed} of {told['clients']} new clients fail" if failed else "")


# Title, event, words.
ROWS = (
    ("Silent cut of 10 s: the connection with data under way", "cut10", busy),
    ("… new clients, 4 a second", "cut10", clients),
    ("Silent cut of 30 s: the connection with data under way", "cut30", busy),
    ("… new clients, 4 a second", "cut30", clients),
    ("A NAT forgets all connections: the one with data under way", "forgotten", busy),
    ("… idle connections", "forgotten", idle),
    ("… who says so", "forgotten", noticed),
    ("… new clients, 4 a second", "forgotten", clients),
    ("The link is reset: the connection with data under way", "reset", busy),
    ("… new clients, 4 a second", "reset", clients),
    ("The server is away for 3 s: new clients, 10 a second", "restart", clients),
    ("The far end hangs for 30 s (SIGSTOP): who says so", "hang", noticed),
    ("… the connection with data under way", "hang", busy),
    ("… new clients, 4 a second", "hang", clients),
    ("A number of its configuration is edited: open connections", "edit", edited),
)
KINDS = {"direct": "Direct mode: in front of any TCP server", "tunnel": "Tunnel mode: a program at each end"}


def facts():
    with open(os.path.join(BENCH, "facts.toml"), "rb") as file:
        return tomllib.load(file)


def link(url):
    """As GitHub writes a thread of another repository; else as the last part of its path."""
    thread = re.fullmatch(r"https://github.com/([^/]+/[^/]+)/(?:issues|pull)/(\d+)", url)
    text = f"{thread[1]}#{thread[2]}" if thread else url.rsplit("/", 1)[1]
    return f"[{text}]({url})"


def cell(data, name, event, words):
    told = data["results"].get(name, {}).get(event)
    if told is None:
        return "–"
    return "not measured" if "error" in told else words(told, data["meta"]["events"][event])


def moved_series(data, name):
    """The series that told of a forgotten connection or of a far end that hung."""
    found = set()
    for event in ("forgotten", "hang"):
        found |= {series.split("{")[0] for series in data["results"].get(name, {}).get(event, {}).get("metrics", {})}
    return sorted(found)


def table(data):
    out = []
    for kind, title in KINDS.items():
        columns = [name for name, peer in peers.ALL.items() if peer.kind == kind and name in data["results"]]
        if not columns:
            continue
        out += [f"## {title}", "", "| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for text, event, words in ROWS:
            cells = [cell(data, name, event, words) for name in columns]
            if any(text != "–" for text in cells):
                out.append(f"| {text} | " + " | ".join(cells) + " |")
        if any("edit" in data["results"][name] for name in columns):
            out.append("| … how it learns of the edit | " + " | ".join(peers.ALL[name].edited_by for name in columns) + " |")
        metrics = [", ".join(f"`{series}`" for series in moved_series(data, name)) or ("none moved" if peers.ALL[name].metrics else "it exports none")
                   for name in columns]
        out += ["| Prometheus: series that moved when connections were forgotten or the far end hung | " + " | ".join(metrics) + " |", ""]
    return "\n".join(out)


def document(data, source):
    meta = data["meta"]
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    out = ["# everlink beside its peers, when something goes wrong", "",
           f"Written by `{meta['command']}` from [raw numbers](results/{os.path.basename(source)}), and what is in the tables is from nowhere else. "
           f"{meta['date']}, Linux {meta['kernel']}, {meta['cores']} × {meta['cpu']}, {meta['control']}, a wire of 50 ms round trip; "
           f"everlink {meta['revision']}; {versions}.", "",
           "Every contender has its best sensible settings, and one budget: a dead link is to be noticed within 20 s, by a heartbeat, check or "
           "keepalive every 5 s and misses of 3 s, wherever it has any of these; new clients wait wherever that can be told. "
           "[All settings](contenders/compare), [how it is done](README.md#what-happens-when-something-goes-wrong).", "",
           "*The connection with data under way* sends 250 kB/s, every byte of which the server checks. *Dies* is when the client hears of it, and of what: "
           "an *end of file* says that all has come, which is not so; a *reset* says that it has not. *New clients* wait for 20 s; who is closed sooner hears so, from most as an end of file, everlink included. "
           "Times are from the event's beginning unless they are *after the heal*; under half a second they are noise.", "", table(data)]
    told = facts()
    out += ["## From their own documentation", "", "Not measured here.", ""]
    out += [f"- **{entry['who']}**: {entry['what']} ({', '.join(map(link, entry['source']))})." for entry in told["fact"]]
    return "\n".join(out) + "\n"


def raw(data):
    """As JSON, a line for each trial."""
    trials = lambda of: ",\n".join(f"   {json.dumps(event)}: {json.dumps(told, ensure_ascii=False)}" for event, told in of.items())
    results = ",\n".join(f"  {json.dumps(name)}: {{\n{trials(of)}\n  }}" for name, of in data["results"].items())
    return f'{{\n "meta": {json.dumps(data["meta"], indent=1)},\n "results": {{\n{results}\n }}\n}}\n'


def write(data, source):
    path = os.path.join(BENCH, "COMPARISON.md")
    with open(path, "w") as file:
        file.write(document(data, source))
    say(f"written: {path}")


def listing():
    lines = ["contenders (--only):", *(f"  {name:22} {peer.kind:8} {' '.join(peer.needs)}" for name, peer in peers.ALL.items())]
    lines += ["events (--events):", *(f"  {event.name:22} lasts {event.lasts:g} s, watched for {event.watched:g} s" for event in events.ALL.values())]
    return "\n".join(lines)
