"""Silent cuts of the wire in mid-transfer. They cost next to no processor time, so all run side by side."""
import ctypes
import json
import os
import re
import subprocess
import threading
import time
import urllib.request

from . import contenders
from .machine import say
from .places import Wire

# Whoever is not asked for these is cut for 10 s only.
EVERY_LENGTH = ("everlink", "everlink, tunnel")


def take_part(name, seconds):
    return seconds == 10 or name in EVERY_LENGTH


def run(found, control, jobs, save):
    """`jobs`: contender and seconds; `save` takes contender, seconds and result."""
    def one(name, seconds):
        with Wire(found, control) as place:
            save(name, seconds, of(place, name, seconds))

    threads = [threading.Thread(target=one, args=job) for job in jobs]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()


def of(place, name, seconds):
    stage = contenders.Stage(place, f"127.0.0.1:{place.next_port()}")
    contenders.ALL[name].start(stage)
    if not place.wait_ready(place.near_ns, stage.listen):
        say(f"{name}: not ready\n{place.last_words()}")
        return {"error": "not ready"}
    child = place.interact("outage", "--to", stage.listen, "--max-secs", 90)

    def both(word):
        place.tell(word)
        child.stdin.write(word + "\n")
        child.stdin.flush()

    child.stdout.readline()
    time.sleep(2.5)
    noticed = {}
    both("cut")
    began = time.time()
    if name.startswith("everlink"):
        watcher = threading.Thread(target=watch, args=(place.near_ns, stage.http, began, seconds, noticed))
        watcher.start()
    time.sleep(seconds)
    both("heal")
    time.sleep(12)
    try:
        tail, _ = child.communicate("stop\n", timeout=40)
        told = json.loads(tail.strip().splitlines()[-1])
        both_ways = [told["arrived_s"], told["resumed_s"]]
        return {**told, **noticed, "moved_s": None if None in both_ways else max(both_ways)}
    except (IndexError, ValueError, subprocess.TimeoutExpired) as error:
        return {"error": repr(error)[:120]}


def watch(namespace, http, began, seconds, noticed):
    """When everlink itself takes the link for dead."""
    enter(namespace)
    while time.time() < began + seconds and not noticed:
        if re.search(r'^everlink_upstream_up\{.*\} 0$', scrape(http), re.M):
            noticed["noticed_s"] = round(time.time() - began, 2)
        time.sleep(0.1)


def scrape(http):
    return scrape_url(f"http://{http}/metrics")


def scrape_url(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def enter(namespace):
    """Moves this thread, and no other, into a network namespace."""
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(handle, 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(handle)
