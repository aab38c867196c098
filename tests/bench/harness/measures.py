"""What is measured of one contender that runs. Each gives a flat dict of numbers."""
import json
import subprocess
import time
from dataclasses import dataclass

from . import processes
from .machine import say


class Subject:
    """A contender that runs: where its clients connect, and its processes."""

    def __init__(self, contender, place, stage, children, seconds):
        self.contender, self.place, self.stage, self.to, self.seconds = contender, place, stage, stage.listen, seconds
        self.pids = [child.pid for child in children]

    def load(self, *argv):
        """A load, with the processor time that the contender took for it."""
        before = processes.cpu(self.pids)
        told = self.place.load(argv[0], "--to", self.to, *argv[1:])
        told["cpu_s"] = round(processes.cpu(self.pids) - before, 3)
        if told.get("n") == 0:
            told["error"] = "no answer"
        return told


@dataclass(frozen=True)
class Measure:
    take: object
    takes: float         # seconds, with loads of 1.2 s
    rounds: int = 1000   # at most so many
    alone: bool = False  # says something of no proxy, too
    wire: bool = False   # over the wire, not on loopback


ALL = {}


def measure(name, takes, **more):
    def register(function):
        ALL[name] = Measure(function, takes, **more)
        return function
    return register


def of(name, subject):
    """One contender that fails is no reason to lose the whole run."""
    try:
        return ALL[name].take(subject)
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
        say(f"{subject.contender.name}, {name}: {error!r}")
        return {"error": repr(error)[:160]}


def bulk_of(subject, prefix, streams):
    out = {}
    for direction in ("up", "down"):
        told = subject.load("tput", "--streams", streams, "--dir", direction, "--secs", subject.seconds)
        key = f"{prefix}{direction}"
        if "error" in told:
            out[f"{key}_error"] = told["error"]
            continue
        out[f"{key}_gbps"] = told["gbps"]
        if subject.pids and told["cpu_s"] > 0:
            out[f"{key}_gb_per_cpu_s"] = round(told["bytes"] / 1e9 / told["cpu_s"], 4)
    return out


@measure("bulk", 3.3, alone=True)
def _(subject):
    return bulk_of(subject, "", 1)


@measure("bulk64", 4.2, alone=True)
def _(subject):
    return bulk_of(subject, "", 64)


@measure("crowd", 8.5, rounds=2)
def _(subject):
    """Throughput with 1,000 idle connections open."""
    held, told = hold(subject, 1000)
    try:
        return {"held": told.get("held", 0), **bulk_of(subject, "", 1), **bulk_of(subject, "64_", 64)}
    finally:
        subject.place.stop([held])


@measure("request", 3, alone=True)
def _(subject):
    out = {}
    for connections in (1, 64):
        told = subject.load("rr", "--conns", connections, "--secs", subject.seconds)
        if "error" in told:
            out[f"c{connections}_error"] = told["error"]
            continue
        out.update({f"c{connections}_{key}": told[key] for key in ("p50_us", "p99_us", "per_s")})
        if subject.pids:
            out[f"c{connections}_cpu_us"] = round(told["cpu_s"] * 1e6 / max(1, told["per_s"] * told["wall_s"]), 3)
    return out


@measure("churn", 3.4, alone=True)
def _(subject):
    """New connections: connect, 64 bytes there and back, close."""
    out = {}
    for workers in (1, 16):
        told = subject.load("churn", "--workers", workers, "--secs", subject.seconds)
        if "error" in told:
            out[f"w{workers}_error"] = told["error"]
            continue
        out.update({f"w{workers}_{key}": told[key] for key in ("p50_us", "p99_us", "per_s", "fails")})
        if subject.pids:
            out[f"w{workers}_cpu_us"] = round(told["cpu_s"] * 1e6 / told["n"], 2)
        time.sleep(0.3)
    return out


@measure("beside", 7.5)
def _(subject):
    """Small requests beside bulk."""
    out = {}
    for direction, streams in (("down", 1), ("up", 1), ("down", 8), ("up", 8)):
        told = subject.load("mixed", "--dir", direction, "--bulk", streams, "--secs", subject.seconds)
        key = f"{direction}{streams}"
        if "error" in told:
            out[f"{key}_error"] = told["error"]
        else:
            out.update({f"{key}_{name}": told[name] for name in ("p50_us", "p99_us", "bulk_gbps")})
    return out


@measure("stall", 5.5, rounds=2)
def _(subject):
    """Small requests beside readers that never read: none, 4, 64."""
    out = {}
    for stalled in (0, 4, 64):
        told = subject.load("mixed", "--dir", "stall", "--stalled", stalled, "--secs", subject.seconds)
        if "error" in told:
            out[f"s{stalled}_error"] = told["error"]
        else:
            out.update({f"s{stalled}_{name}": told[name] for name in ("p50_us", "p99_us")})
    for stalled in (4, 64):
        if out.get("s0_p50_us") and out.get(f"s{stalled}_p50_us"):
            out[f"s{stalled}_ratio"] = round(out[f"s{stalled}_p50_us"] / out["s0_p50_us"], 3)
    return out


@measure("deaf", 2.3, rounds=2)
def _(subject):
    """64 saturated uploads with a progress report due every 20 ms: those that hear nothing in 1.2 s."""
    told = subject.load("tput", "--streams", 64, "--dir", "up", "--secs", 1.2)
    if "error" in told:
        return {"error": told["error"]}
    return {"unheard": told["unheard_streams"], "idle": told["idle_streams"],
            "confirmed_share": round(min(1, told["acked_gbps"] / told["gbps"]), 3) if told["gbps"] else 0}


def hold(subject, connections):
    child = subject.place.interact("idle", "--to", subject.to, "--conns", connections, "--max-secs", 300)
    return child, json.loads(child.stdout.readline() or '{"error": "no output"}')


@measure("idle", 28, rounds=1)
def _(subject):
    """5,000 proved connections; idle is what they cost in 15 s, from 10 s after the last was opened: what is done once for each
    of them, such as its keepalive, is over by then."""
    base = processes.memory(subject.pids)
    child, out = hold(subject, subject.contender.idle)
    time.sleep(10)
    before, began = processes.cpu(subject.pids), time.time()
    time.sleep(15)
    after, ended = processes.cpu(subject.pids), time.time()
    full = processes.memory(subject.pids)
    tail, _ = child.communicate("end\n", timeout=60)
    if tail.strip():
        out.update(json.loads(tail.strip().splitlines()[-1]))
    if subject.pids and out.get("held") and out.get("sampled_alive"):
        out.update(base_mib=round(base / 1024, 2), kib_per_connection=round((full - base) / out["held"], 3),
                   cpu_ms_per_s=round((after - before) * 1e3 / (ended - began), 3))
    return out


@measure("first", 6.3, rounds=1, alone=True, wire=True)
def _(subject):
    """Over the wire: first byte of a new connection, one by one and 32 at once."""
    out = {}
    subject.place.load("first", "--to", subject.to, "--rounds", 1, "--gap-ms", 600)  # pools fill
    for prefix, argv in (("one", ("--rounds", 8, "--gap-ms", 250)), ("burst", ("--rounds", 2, "--parallel", 32, "--gap-ms", 1200))):
        told = subject.place.load("first", "--to", subject.to, *argv)
        if "error" in told or not told["ttfb"]["n"]:
            out[f"{prefix}_error"] = told.get("error", "none succeeded")
            continue
        out.update({f"{prefix}_{key}_ms": round(told["ttfb"][f"{key}_us"] / 1e3, 2) for key in ("p50", "p99", "max")})
        out[f"{prefix}_fails"] = told["fails"]
    return out


@measure("line", 9.8, rounds=1, alone=True, wire=True)
def _(subject):
    """Over the wire: one stream."""
    out = {}
    for direction in ("down", "up"):
        told = subject.place.load("tput", "--to", subject.to, "--dir", direction, "--warm", 1.5, "--secs", 3)
        out[f"{direction}_mbit"] = round(told.get("acked_gbps", 0) * 8e3, 1)
        time.sleep(0.3)
    return out


@measure("descriptors", 7, rounds=1)
def _(subject):
    """12,000 clients at once, with 20,000 descriptors allowed; and a new one when they have gone."""
    told = subject.place.load("flood", "--to", subject.to, "--conns", 12000)
    if "error" in told:
        return {"error": told["error"]}
    time.sleep(1)
    after = subject.place.load("first", "--to", subject.to, "--rounds", 3, "--gap-ms", 100)
    return {**told, "recovered": int(after.get("fails") == 0)}
