"""The table of rows, from raw numbers."""
import json
import statistics

from . import contenders, rows
from .machine import fail


def merge(files):
    """Runs under one congestion control, as if they were one."""
    data = None
    for name in files:
        with open(name) as file:
            more = json.load(file)
        if data is None:
            data = more
            continue
        if more["meta"]["control"] != data["meta"]["control"]:
            fail(f"{name} is of a run under {more['meta']['control']}, the others under {data['meta']['control']}")
        data["meta"]["rounds"] += more["meta"]["rounds"]
        for measure, results in more["results"].items():
            for contender, rounds in results.items():
                data["results"].setdefault(measure, {}).setdefault(contender, []).extend(rounds)
    return data


def values(data, measure, contender, key):
    """The numbers of all rounds."""
    return [told[key] for told in data["results"].get(measure, {}).get(contender, [])
            if isinstance(told.get(key), (int, float)) and not isinstance(told.get(key), bool)]


def median(numbers):
    return statistics.median(numbers) if numbers else None


def in_kind(kind, colour):
    return [name for name, contender in contenders.ALL.items() if kind in contender.kinds and contender.colour == colour]


def standing(data, row):
    """Ours and its spread, the best peer and its name, the number without a proxy."""
    ours = [number for name in in_kind(row.kind, "everlink") for number in values(data, row.measure, name, row.key)]
    peers = {name: median(values(data, row.measure, name, row.key)) for name in in_kind(row.kind, "peer")}
    peers = {name: number for name, number in peers.items() if number is not None}
    name = row.best(peers, key=peers.get) if peers else None
    alone = median(values(data, row.measure, "no proxy", row.key))
    return ours, name, peers.get(name), alone


def number(value, digits):
    return "–" if value is None else f"{value:,.{digits}f}"


def table(data):
    meta = data["meta"]
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    out = [f"{meta['date']}, Linux {meta['kernel']}, {meta['cores']} × {meta['cpu']}, {meta['control']}, {meta['rounds']} rounds of "
           f"{meta['seconds']} s loads; medians. everlink {meta['revision']}, {meta['rustc']}; {versions}.", ""]
    met = judged = 0
    for kind, title in rows.KINDS.items():
        lines = []
        for row in (row for row in rows.ROWS if row.kind == kind):
            ours, name, best, alone = standing(data, row)
            if not ours:
                continue
            middle = median(ours)
            good = row.met(middle, best, alone)
            met, judged = met + (good is True), judged + (good is not None)
            reference, name = (alone, "no proxy") if row.bound == "none" or best is None and alone is not None else (best, name)
            peer = "–" if reference is None else f"{number(reference, row.digits)} ({name})"
            ratio = f"{middle / reference:.2f}" if reference else "–"
            spread = f"{number(min(ours), row.digits)} – {number(max(ours), row.digits)}" if len(ours) > 1 else "–"
            verdict = {True: "yes", False: "**no**", None: "–"}[good]
            lines.append(f"| {row.title} | {peer} | **{number(middle, row.digits)}** | {ratio} | {row.target()} | {verdict} | {spread} |")
        if lines:
            out += [f"### {title}", "", "| | best peer | everlink | ratio | target | met | spread |", "|---|---|---|---|---|---|---|", *lines, ""]
    out += limits(data)
    out.append(f"{met} of {judged} rows met.")
    return "\n".join(out)


def limits(data):
    """How near we are to what the machine can do at all."""
    lines = []
    for streams, measure in ((1, "bulk"), (64, "bulk64")):
        for direction in ("up", "down"):
            cells = []
            for name, key, digits in (("no proxy", "gbps", 1), ("splice loop", "gbps", 1), ("splice loop", "gb_per_cpu_s", 1),
                                      ("everlink", "gbps", 1), ("everlink", "gb_per_cpu_s", 1), ("two splice loops", "gb_per_cpu_s", 1),
                                      ("everlink, tunnel", "gb_per_cpu_s", 1)):
                cells.append(number(median(values(data, measure, name, f"{direction}_{key}")), digits))
            if any(cell != "–" for cell in cells[1:3]):
                lines.append(f"| {streams} stream{'s' if streams > 1 else ''}, {direction} | " + " | ".join(cells) + " |")
    if not lines:
        return []
    return ["### Physical limits", "", "| | no proxy, GB/s | splice loop, GB/s | per CPU-s | everlink direct, GB/s | per CPU-s | two splice loops, per CPU-s | "
            "everlink tunnel, per CPU-s |", "|---" * 8 + "|", *lines, ""]


def listing(run):
    out = ["rows (--rows):"]
    for name in sorted({row.name for row in rows.ROWS}):
        titles = [row.title for row in rows.ROWS if row.name == name]
        out.append(f"  {'*' if name in run.names else ' '} {name:20} {'; '.join(titles)}")
    out += ["", "contenders (--only):", *(f"    {name:22} {' '.join(contender.kinds)}" for name, contender in contenders.ALL.items())]
    out += ["", f"the rows marked * take about {run.forecast() / 60:.0f} minutes with {run.options.rounds} rounds, building apart"]
    return "\n".join(out)
