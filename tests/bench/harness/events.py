"""What happens to a contender, and what the application sees of it. Next to no processor time is needed, so that many run side
by side, each over a wire of its own."""
import json
import os
import re
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

from . import contenders, processes
from .cuts import enter, scrape_url
from .machine import say
from .places import Wire, inside

# Side by side, at most.
TOGETHER = 12
# Set when the run is to end at once.
STOP = threading.Event()


@dataclass(frozen=True)
class Event:
    """What lasts `lasts` seconds, and is watched from its beginning for `watched`. A new client comes every `probe_ms`."""
    name: str
    begin: object
    end: object = lambda trial: None
    lasts: float = 0
    watched: float = 15
    probe_ms: int = 250


class Stopped(Exception):
    pass


def pause(seconds):
    if STOP.wait(max(0, seconds)):
        raise Stopped


class Trial:
    """One contender, in one event."""

    def __init__(self, place, peer, event):
        self.place, self.peer, self.event = place, peer, event
        self.stage = contenders.Stage(place, f"127.0.0.1:{place.next_port()}")
        self.running = peer.start(self.stage)
        self.stopped = set()

    def hung(self):
        """The far program of a tunnel; in direct mode, the server."""
        return self.running.far or [self.place.serving]

    def processes(self):
        return processes.tree([child.pid for child in self.running.near])

    def metrics(self):
        """Those of its series that may tell of a link that is lost."""
        if not self.running.metrics:
            return {}
        lines = re.findall(r"^([a-z0-9_]+(?:\{.*\})?) (\S+)$", scrape_url(self.running.metrics), re.M)
        return {name: float(value) for name, value in lines if re.match(self.peer.metrics, name)}


def cut(trial):
    trial.place.tell("cut")


def heal(trial):
    trial.place.tell("heal")


def between(place):
    """Address and port of near and far of each connection between them."""
    pairs = [line.split()[-2:] for line in inside(place.near_ns, "ss", "-Htn", "state", "established").splitlines()]
    return [(near.rsplit(":", 1), far.rsplit(":", 1)) for near, far in pairs if far.startswith(f"{place.far_ip}:")]


def forget(trial):
    """As a NAT or a firewall that has dropped its table: what belongs to a connection of before is lost, silently and for ever."""
    flows = between(trial.place)
    for name, sides in ((trial.place.near_ns, [far + near for near, far in flows]), (trial.place.far_ns, [near + far for near, far in flows])):
        elements = ", ".join(" . ".join(words) for words in sides)
        rules = ("table ip bench {\n set gone { type ipv4_addr . inet_service . ipv4_addr . inet_service;"
                 + (f" elements = {{ {elements} }}" if sides else "") + " }\n chain in { type filter hook prerouting priority 0;\n"
                 " ip saddr . tcp sport . ip daddr . tcp dport @gone drop\n }\n}\n")
        inside(name, "nft", "-f", trial.place.put(f"{name}.nft", rules))


def reset(trial):
    """Both ends of every connection of the wire hear a reset."""
    subprocess.run(["ip", "netns", "exec", trial.place.near_ns, "ss", "-KH", "state", "established", "dst", trial.place.far_ip],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_server(trial):
    trial.place.stop([trial.place.serving])


def start_server(trial):
    trial.place.serve()


def hang(trial):
    trial.stopped = processes.tree([child.pid for child in trial.hung()])
    for pid in trial.stopped:
        os.kill(pid, signal.SIGSTOP)


def wake(trial):
    for pid in trial.stopped:
        try:
            os.kill(pid, signal.SIGCONT)
        except OSError:
            pass


def edit(trial):
    trial.running.edit()


ALL = {event.name: event for event in (
    Event("cut10", cut, heal, lasts=10, watched=35),
    Event("cut30", cut, heal, lasts=30, watched=65),
    Event("forgotten", forget, watched=75),
    Event("reset", reset, watched=12),
    Event("restart", kill_server, start_server, lasts=3, watched=15, probe_ms=100),
    Event("hang", hang, wake, lasts=30, watched=50),
    Event("edit", edit, watched=12),
)}
QUICK = {"cut10": Event("cut10", cut, heal, lasts=3, watched=8), "edit": Event("edit", edit, watched=4)}


def run(found, control, jobs, save):
    """`jobs`: peers and events; `save` takes peer, event and result."""
    def one(peer, event):
        try:
            pause(0)
            with Wire(found, control) as place:
                save(peer, event, of(place, peer, event))
        except Stopped:
            pass
        except (Exception, SystemExit) as error:  # one that fails is no reason to lose the whole run
            save(peer, event, {"error": repr(error)[:200]})
        finally:
            places.release()

    places, threads = threading.Semaphore(TOGETHER), []
    for peer, event in sorted(jobs, key=lambda job: -job[1].watched):
        places.acquire()
        threads.append(threading.Thread(target=one, args=(peer, event)))  # of its own, since it enters a namespace
        threads[-1].start()
        STOP.wait(0.3)
    for thread in threads:
        thread.join()


def of(place, peer, event):
    trial = Trial(place, peer, event)
    if not place.wait_ready(place.near_ns, trial.stage.listen):
        say(f"{peer.name}: not ready\n{place.last_words()}")
        return {"error": "not ready"}
    enter(place.near_ns)
    pause(1.5)
    child = place.interact("outage", "--to", trial.stage.listen, "--max-secs", event.watched + 15, "--rate-mbyte", 0.25, "--probe-ms", event.probe_ms,
                           "--patience", 20, "--held", 4)
    child.stdout.readline()
    pause(2.5)

    def tell(word):
        child.stdin.write(word + "\n")
        child.stdin.flush()

    metrics, before = trial.metrics(), trial.processes()
    log = Log(place)
    tell("cut")
    began = time.monotonic()
    event.begin(trial)
    try:
        watch(log, began, event.lasts)
    finally:
        tell("heal")
        event.end(trial)
    watch(log, began, event.watched)
    after, changed = trial.processes(), trial.metrics()
    try:
        tail, _ = child.communicate("stop\n", timeout=60)
        told = json.loads(tail.strip().splitlines()[-1])
    except (IndexError, ValueError, subprocess.TimeoutExpired) as error:
        return {"error": repr(error)[:120]}
    noticed = next(([at, line[:300]] for at, line in log.lines if peer.noticed(line)), None)
    moved = {name: [metrics.get(name, 0), value] for name, value in changed.items() if value != metrics.get(name, 0)}
    return {**summary(event, told), "noticed": noticed, "said": [[at, line[:200]] for at, line in log.lines[:4]],
            "metrics": moved, "applied": not peer.applied or any(re.search(peer.applied, words) for words in (*moved, *(line for _, line in log.lines))),
            "processes": {"before": len(before), "after": len(after), "stayed": len(before & after), "new": len(after - before)}}


class Log:
    """What its processes say from now on, and how many seconds after the beginning."""

    def __init__(self, place):
        self.file = open(place.log.name, errors="replace")
        self.file.seek(0, os.SEEK_END)
        self.dir, self.lines = place.dir + "/", []

    def read(self, seconds):
        for line in self.file:
            if line.strip():
                self.lines.append([round(seconds, 2), line.strip().replace(self.dir, "")])


def watch(log, began, until):
    while time.monotonic() - began < until:
        pause(0.05)
        log.read(time.monotonic() - began)


def summary(event, told):
    """What the application saw: of its connection with data under way, of those held in silence, and of new ones."""
    probes = sorted(probe for probe in told["probes"] if probe[0] >= 0)
    served = [probe for probe in probes if probe[2] == "ok"]
    # Not the numbers of a wait that is the event's own doing: of clients that came once it was over.
    later = [start + took for start, took, _ in served if start + took >= event.lasts]
    outcomes = [probe[2] for probe in probes if probe[2] != "ok"]
    return {
        "lives": told["survived"], "how": told["stream_end"], "died_s": told["closed_s"], "arrives_s": told["arrived_s"],
        "answers_s": told["resumed_s"] if event.lasts else None,
        "lost": told["lost"], "mismatches": told["mismatches"], "held": told["held"],
        "clients": len(probes), "failed": {how: outcomes.count(how) for how in sorted(set(outcomes))},
        "longest_s": max((took for _, took, _ in served), default=None),
        "works_s": round(min(later), 3) if later else None,
        "last_failed_s": max((start + took for start, took, how in probes if how != "ok"), default=None),
        "slow": [probe for probe in probes if probe[1] > 1 or probe[2] != "ok"][:12],
    }
