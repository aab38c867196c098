#!/usr/bin/env python3
"""Makes the pictures of the status page in deploy/pictures, from a real run: a tunnel whose network is silent (dark) and
has come back (light), a server that refuses (phone), and clients at work all the time.

    cargo build --release
    target/python/bin/python tests/page/pictures.py            two minutes; needs chromium, and looks best with fonts-inter
    target/python/bin/python tests/page/pictures.py DIRECTORY  puts them elsewhere
"""

import contextlib
import pathlib
import sys
import tempfile
import time

import png
from browser import chromium, page_of
from road import ROOT, Client, Everlink, Relay, Server, direct, free_port, gateway, pong, tunnel, wait_until

SIZE = {"width": 1180, "height": 1400}
PHONE = {"width": 390, "height": 844}
BYTES = 150 << 10

DEFAULTS = """
[defaults.heartbeat]
interval = "1s"
timeout = "500ms"
[defaults.retry]
initial = "2s"
max = "20s"
jitter = 0.2
[defaults.limits]
wait = "30s"
"""


@contextlib.contextmanager
def scene(directory):
    """The road, with everything up and clients at work."""
    orders, chat, service = Server(pong(0.002)), Server(pong(0.0008)), Server(pong())
    far_port, ports = free_port(), [free_port() for _ in range(3)]
    far = Everlink(directory, "gateway", gateway(far_port, "postgres", service.port))
    relay = Relay(far_port, delay=0.006)
    # A name looks better on the picture than an address.
    upstreams = [
        direct("orders", orders.port, ports[0], "required = true", host="localhost"),
        direct("chat", chat.port, ports[1], "pool.size = 2", host="localhost"),
        tunnel("warehouse", relay.port, ports[2], "postgres", host="localhost"),
    ]
    near = Everlink(directory, "sidecar", DEFAULTS + "".join(upstreams))
    wait_until("all up", lambda: all(u["up"] for u in near.status()["upstreams"]))
    clients = [Client(port, 16384, 0.06) for port in (ports[0], ports[1], ports[1], ports[2], ports[2], ports[2])]
    try:
        yield near, orders, relay, clients
    finally:
        for client in clients:
            client.stop()
        near.stop()
        far.stop()


def up(near, name):
    return near.upstream(name)["up"]


@contextlib.contextmanager
def opened(browser, near, scheme, size):
    """A page that has seen enough answers to tell rates."""
    with page_of(browser, near.http, viewport=size, color_scheme=scheme) as page:
        wait_until("rates", lambda: "iB/s" in page.locator("#sums").inner_text())
        time.sleep(5)
        yield page


def shoot(page, place):
    page.mouse.move(0, 0)
    end = page.locator("#of-upstreams").evaluate("e => e.getBoundingClientRect().bottom") + 8
    size = page.viewport_size
    page.screenshot(path=place, clip={"x": 0, "y": 0, "width": size["width"], "height": min(end, size["height"])})


def main():
    place = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "deploy/pictures")
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="everlink-page-") as directory, chromium() as browser:
        with scene(pathlib.Path(directory)) as (near, orders, relay, clients):
            time.sleep(28)
            relay.silent.set()
            wait_until("the tunnel is down", lambda: not up(near, "warehouse"))
            time.sleep(2)
            relay.silent.clear()
            wait_until("the tunnel is up", lambda: up(near, "warehouse"))
            time.sleep(32)
            with opened(browser, near, "dark", SIZE) as page:
                relay.silent.set()
                wait_until("the tunnel is down", lambda: not up(near, "warehouse"))
                time.sleep(6)
                shoot(page, place / "status-dark.png")
            relay.silent.clear()
            wait_until("the tunnel is up", lambda: up(near, "warehouse"))
            time.sleep(4)
            with opened(browser, near, "light", SIZE) as page:
                shoot(page, place / "status-light.png")
            assert not any(client.broken for client in clients), "a client noticed"
            orders.stop()
            wait_until("orders is down", lambda: not up(near, "orders"))
            with opened(browser, near, "dark", PHONE) as page:
                wait_until("a countdown", lambda: "in" in page.locator("#u-orders .cause .wait").inner_text())
                shoot(page, place / "status-phone.png")
    for picture in place.glob("status-*.png"):
        png.shrink(picture)
        size = picture.stat().st_size
        print(picture, size >> 10, "KiB")
        assert size <= BYTES, "too large for a README"


if __name__ == "__main__":
    main()
