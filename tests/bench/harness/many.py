"""A thousand upstreams in one process."""
import os
import re
import threading
import time

from . import contenders, processes
from .cuts import enter, scrape
from .places import USER

TAKES = {"direct/thousand": 75, "direct/retune": 30}
LINKS = 1000
HEAD = '[http]\nlisten = "@HTTP@"\n[log]\nlevel = "warn"\n[defaults.heartbeat]\ninterval = "@INTERVAL@"\n'


class Thousand:
    """everlink with a thousand upstreams of one link each, whose server answers beats."""

    def __init__(self, place, interval):
        self.place = place
        self.stage = contenders.Stage(place, None)
        self.ports = [place.next_port() for _ in range(LINKS)]
        self.path = self.write(interval)
        program = self.stage.once("everlink", lambda path: contenders.copy_program(place.found["everlink"], path))
        self.child = place.spawn(place.near_ns, [program, "run", "--config", self.path], user=USER)
        self.pids = [self.child.pid]

    def text(self, interval):
        upstream = ('[upstreams.u{0}]\nlisten = "127.0.0.1:{1}"\nendpoints = ["{2}"]\npool = {{ size = 1 }}\n'
                    'heartbeat = {{ send = "Bping", expect = "Bping" }}\n')
        head = HEAD.replace("@HTTP@", self.stage.http).replace("@INTERVAL@", interval)
        return head + "".join(upstream.format(n, port, self.place.server) for n, port in enumerate(self.ports))

    def write(self, interval):
        """As editors and mounts do: a new file takes the old one's name."""
        new = self.place.put("thousand.new", self.text(interval), USER)
        os.rename(new, os.path.join(self.place.dir, "thousand.toml"))
        return os.path.join(self.place.dir, "thousand.toml")

    def total(self, family, text=None):
        text = scrape(self.stage.http) if text is None else text
        return sum(float(value) for value in re.findall(rf"^{family}(?:\{{.*\}})? (\S+)$", text, re.M))

    def wait_up(self, seconds=40):
        end = time.time() + seconds
        while time.time() < end:
            if self.total("everlink_upstream_up") == LINKS:
                return True
            time.sleep(0.5)
        return False


def apart(function):
    """In a thread of its own, since it enters the namespace."""
    def run(place):
        out = {}

        def inner():
            enter(place.near_ns)
            out.update(function(place))
        thread = threading.Thread(target=inner)
        thread.start()
        thread.join()
        return out or {"error": "failed"}
    return run


def idle(place):
    thousand = Thousand(place, "5s")
    if not thousand.wait_up():
        return {"error": "not all links came up"}
    time.sleep(6)
    before, began = processes.cpu(thousand.pids), time.time()
    time.sleep(20)
    cost = (processes.cpu(thousand.pids) - before) * 1e3 / (time.time() - began)
    size = 0
    before, began = processes.cpu(thousand.pids), time.time()
    for _ in range(2):
        size = len(scrape(thousand.stage.http))
        time.sleep(15)
    scraped = (processes.cpu(thousand.pids) - before) * 1e3 / (time.time() - began)
    return {"cpu_ms_per_s": round(cost, 2), "cpu_scraped_ms_per_s": round(scraped, 2), "scrape_mb": round(size / 1e6, 2),
            "peak_mib": round(processes.peak(thousand.pids) / 1024, 1)}


def retune(place):
    """From a beat a minute to five a second, while 64 connections of one upstream are busy. Every link has been silent for
    longer than the new interval, so it is in effect where a beat arrives."""
    thousand = Thousand(place, "60s")
    if not thousand.wait_up():
        return {"error": "not all links came up"}
    busy = {}
    load = threading.Thread(target=lambda: busy.update(place.load("rr", "--to", f"127.0.0.1:{thousand.ports[0]}", "--conns", 64, "--secs", 8)))
    load.start()
    time.sleep(2)
    counts = ("everlink_link_dials_total", "everlink_link_losses_total", "everlink_connections_closed_total")
    text = scrape(thousand.stage.http)
    before = [thousand.total(name, text) for name in counts]
    place.load("beats", "--to", place.server, "--mark", 1)
    began = time.time()
    thousand.write("200ms")
    told = place.load("beats", "--to", place.server, "--until", LINKS, "--max-secs", 5)
    effect = time.time() - began
    text = scrape(thousand.stage.http)
    after = [thousand.total(name, text) for name in counts]
    load.join()
    dials, losses, closed = (b - a for a, b in zip(before, after))
    return {"effect_s": round(effect, 3) if told.get("beaten", 0) >= LINKS else None, "beaten": told.get("beaten"),
            "redialled": int(dials + losses), "dropped": int(closed) + int("error" in busy), "requests_per_s": busy.get("per_s")}


ALL = {"thousand": apart(idle), "retune": apart(retune)}
