#!/usr/bin/env python3
"""The status page in a real Chromium, beside a running everlink.

    target/python/bin/python tests/page/page.py [NAME...]    all, or those named: outage, silence, fit, words, hidden, thousand
"""

import contextlib
import json
import pathlib
import re
import sys
import tempfile
import time
import urllib.request

from browser import chromium, page_of
from road import Client, Everlink, Relay, Server, direct, free_port, gateway, pong, tunnel, wait_until

HERE = pathlib.Path(__file__).resolve().parent
# The longest there may be, with everything that a name may have.
NASTY = "0-_" + "script-alert-1-img-src-x-onerror-alert-1_" + "x" * 19
HOSTILE = "<img src=x onerror=\"window.hit=1\"><script>window.hit=1</script>&amp;'\"`${window.hit=1}</style>"

QUICK = """
[defaults.heartbeat]
interval = "1s"
timeout = "1s"
misses = 2
[defaults.retry]
initial = "2s"
max = "4s"
jitter = 0.1
"""


@contextlib.contextmanager
def directory():
    with tempfile.TemporaryDirectory(prefix="everlink-page-") as place:
        yield pathlib.Path(place)


@contextlib.contextmanager
def road(place):
    """A sidecar with `chat` (direct) and `site` (a tunnel through a relay to a gateway), and a client on the tunnel."""
    chat, service, gateway_port, client_port = Server(pong()), Server(pong()), free_port(), free_port()
    far = Everlink(place, "far", gateway(gateway_port, "echo", service.port))
    relay = Relay(gateway_port)
    near = Everlink(place, "near", QUICK + direct("chat", chat.port) + tunnel("site", relay.port, client_port, "echo"))
    wait_until("all up", lambda: all(u["up"] for u in near.status()["upstreams"]))
    client = Client(client_port)
    wait_until("an exchange", lambda: client.exchanges)
    try:
        yield near, far, chat, relay, client
    finally:
        client.stop()
        near.stop()
        far.stop()


def says(page, selector, words, patience=30):
    """Waits until what stands at `selector` has `words`, a regular expression; returns the text."""
    def found():
        texts = page.locator(selector).all_inner_texts()
        return next((text for text in texts if re.search(words, text)), None)
    try:
        return wait_until(f"{words!r} at {selector}", found, patience)
    except AssertionError as error:
        raise AssertionError(f"{error}; there is {page.locator(selector).all_inner_texts()}") from None


def width(page, selector):
    return page.locator(selector).first.evaluate("e => e.getBoundingClientRect().width")


def outage(browser):
    """Live through an outage and out of it; and a page that is opened afterwards knows of it, too."""
    with directory() as place, road(place) as (near, far, chat, relay, client), page_of(browser, near.http) as page:
        says(page, "#verdict", "^All 2 upstreams are up$")
        says(page, "#health", "Ready")
        says(page, "#beat", "live")
        says(page, "#u-site .state", "Up")
        says(page, "#u-site .tag", "tunnel")
        wait_until("round trips are drawn", lambda: "L" in page.locator("#u-chat .cell.trip .line").get_attribute("d"))
        says(page, "#u-site .session", r"session [0-9a-f]{8} · 1 stream · 0 resumes .* of 16.0 MiB unacknowledged")
        says(page, "#u-site .cells", r"↑ [1-9][\d.]* [KM]iB/s")
        assert page.locator("#u-site .track .off").count() == 0

        # The network goes silent: the tunnel's client waits.
        relay.silent.set()
        says(page, "#verdict", "^1 of 2 upstreams is down$")
        says(page, "#u-site .cause", "no beat was answered within the detection budget.* – 1 stream waits")
        says(page, "#causes", "^site – no beat")
        assert page.locator("#u-site").get_attribute("data-tone") == "bad"
        wait_until("the title tells", lambda: page.title() == "✕ 1 down · everlink")
        before = width(page, "#u-site .body .track .off")
        wait_until("the timeline grows", lambda: width(page, "#u-site .body .track .off") > before)
        wait_until("misses are marked", lambda: "M" in page.locator("#u-site .cell.trip .miss").get_attribute("d"))

        # A server that refuses: backoff, with a countdown that runs between two answers.
        chat.stop()
        says(page, "#verdict", "^All 2 upstreams are down$")
        says(page, "#u-chat .cause .why", "Connection refused")
        says(page, "#u-chat .links .state", "Waiting")
        left = lambda: float((re.search(r"attempt \d+ in ([\d.]+) s", page.locator("#u-chat .cause .wait").inner_text()) or [0, 0])[1])
        start = wait_until("a countdown", lambda: (now := left()) > 0.5 and now)
        wait_until("it runs down", lambda: 0 < left() < start)
        says(page, "#u-chat .links .note", "backoff before attempt")

        # Both come back.
        relay.silent.clear()
        chat.start()
        says(page, "#verdict", "^All 2 upstreams are up$")
        says(page, "#u-site .cause", "The last outage took .* 1 stream carried on")
        says(page, "#u-site .cells", r"Streams saved\s+[1-9]")
        says(page, "#u-site .log li", "resumed")
        says(page, "#u-chat .log li", "dial failed")
        assert client.broken is None, client.broken

        # A rehearsed outage is called that, so that nobody looks for its cause.
        near.ask("drill", "site", "delay", "--for", "1m", "--by", "20ms")
        says(page, "#causes", r"site\s+– a drill \(delay by 20 ms\) is on, link 1 to 127\.0\.0\.1:\d+, for another \d+ s")
        near.ask("drill", "site", "stop")
        wait_until("no drill on the page", lambda: "drill" not in page.locator("#causes").inner_text())

    # Opened after it: from the program's own memory.
        with page_of(browser, near.http) as later:
            says(later, "#u-site .log li", "no beat was answered")
            says(later, "#u-chat .scale", "1 outage, down for")
            assert later.locator("#u-site .body .track .off").count() >= 1
            wait_until("misses are marked", lambda: "M" in later.locator("#u-site .cell.trip .miss").get_attribute("d"))
        with page_of(browser, far.http) as gateway:
            says(gateway, "#verdict", "^Gateway gw-1 holds 1 session$")
            says(gateway, "#of-gateway .people", "Connected")
            says(gateway, "#of-gateway", "Services: echo")


def silence(browser):
    """everlink goes and comes back; the page says so, with since when, and goes on."""
    with directory() as place:
        server = Server(pong())
        everlink = Everlink(place, "only", QUICK + direct("chat", server.port))
        with page_of(browser, everlink.http, offline_is_fine=True) as page:
            says(page, "#verdict", "The upstream chat is up")
            everlink.stop()
            says(page, "[role=alert]", r"does not answer since \d\d:\d\d:\d\d \(\d+ s\): .*What is shown is from \d\d:\d\d:\d\d")
            says(page, "#beat", "no answer")
            assert page.title() == "✕ no answer · everlink"
            says(page, "#verdict", "The upstream chat is up")
            assert page.locator("main").get_attribute("class") == "stale"
            everlink.start()
            wait_until("the page is live again", lambda: page.locator("[role=alert]").inner_text() == "")
            says(page, "#beat", "live")
            assert page.locator("main").get_attribute("class") == ""
            wait_until("the title is well", lambda: page.title() == "everlink")
        everlink.stop()


def fit(browser):
    """On a phone, in the dark, by keyboard, read out."""
    check = (HERE / "fit.js").read_text()
    with directory() as place, road(place) as (near, far, chat, _, _):
        chat.stop()
        wait_until("down", lambda: not near.upstream("chat")["up"])
        near.write(near.file.read_text().split("[defaults", 1)[0] + "[upstreams.chat]\nlisten = 5\n")
        wait_until("a bad edit", lambda: (near.status()["config"]["last_reload"] or {}).get("outcome") == "rejected")
        for scheme in ("light", "dark"):
            for size in ((1280, 900), (360, 740)):
                options = {"viewport": dict(zip(("width", "height"), size)), "color_scheme": scheme}
                for everlink in (near, far) if (scheme == "dark") == (size[0] == 360) else (near,):
                    with page_of(browser, everlink.http, **options) as page:
                        says(page, "#beat", "live")
                        for fold in page.locator(".fold[aria-expanded=false]").all():
                            fold.click()
                        wait_until("it is drawn", lambda: page.locator(".cell").count() > 5)
                        wrong = page.evaluate(f"({check})()")
                        assert not wrong, (scheme, size, everlink.http, wrong)
                        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
                        assert (int(re.findall(r"\d+", ground)[0]) < 60) == (scheme == "dark"), ground
        with page_of(browser, near.http) as page:
            says(page, "#causes", "was rejected")
            says(page, "#causes pre", "listen")
            says(page, "#of-config", "rejected")
            says(page, "#u-chat .state", "Down")
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.className") == "skip"
            reached = set()
            for _ in range(12):
                page.keyboard.press("Tab")
                if page.evaluate("document.activeElement === document.body"):
                    break
                reached.add(page.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.tagName"))
                assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            assert {"window", "fold"} <= reached, reached
            fold = page.get_by_role("button", name="about site")
            fold.focus()
            was = fold.get_attribute("aria-expanded")
            page.keyboard.press("Enter")
            wait_until("it folds", lambda: fold.get_attribute("aria-expanded") != was)
            page.get_by_label("Timeline").select_option("24 h")
            wait_until("a day is shown", lambda: page.get_by_role("img", name="Last 24 h").count() >= 1)


def words(browser):
    """Strangers' words are words: of a server, of a file, and in every text of /status at once."""
    with directory() as place:
        # The answer to the heartbeat is wrong, and told.
        server = Server(lambda connection: connection.recv(100) and connection.sendall(HOSTILE.encode()))
        everlink = Everlink(place, "only", QUICK + direct(NASTY, server.port))
        try:
            with page_of(browser, everlink.http) as page:
                says(page, "h3", f"^{NASTY}$")
                says(page, f"#u-{NASTY} .cause", "wrong answer to the heartbeat: .*<img")
                in_a_file = HOSTILE.replace("'", "").replace("${", "")
                everlink.write(f"[upstreams.a]\nlisten = '127.0.0.1:0'\nendpoints = '{in_a_file}'\n")
                says(page, "#causes pre", "<img src=x")
                assert page.locator("img, main script, main style").count() == 0
                assert page.evaluate("window.hit") is None

            def poison(value):
                if isinstance(value, dict):
                    return {key: value if key in ("at", "from", "until", "started", "now", "since") else poison(value) for key, value in value.items()}
                if isinstance(value, list):
                    return [poison(each) for each in value]
                return HOSTILE if isinstance(value, str) else value

            status = everlink.status()
            status["upstreams"][0] |= {"mode": "tunnel", "first_up": None}
            status["gateway"] = {
                "name": "", "listen": ["x"], "draining": True, "streams": 1, "unacknowledged_bytes": 1, "handshakes_pending": 1,
                "session_limit": 1, "services": ["x"], "refusals": {HOSTILE: 1}, "violations": {HOSTILE: 1},
                "sessions": [{"identity": "x", "peer": "x", "connected": False, "since_age_seconds": 1, "session": {
                    "id": "x", "streams": 1, "resumes": 1, "unacknowledged_bytes": 1, "buffer_bytes": 1, "last_outage_seconds": 1}}],
            }
            body = json.dumps(poison(status))
            with page_of(browser, everlink.http) as page:
                page.route("**/status*", lambda route: route.fulfill(body=body, content_type="application/json"))
                says(page, "h3", "^<img src=x")
                says(page, "#of-gateway", "<img src=x")
                says(page, "#of-config", "<img src=x")
                assert page.locator("img, main script, main style").count() == 0
                assert page.evaluate("window.hit") is None
        finally:
            everlink.stop()
        everlink.write(direct("a", server.port))
        everlink.start()
        with urllib.request.urlopen(everlink.http) as answer:
            policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy, policy
        everlink.stop()


def hidden(browser):
    """Nothing is asked while nobody looks, and at once when somebody does again."""
    with directory() as place:
        everlink = Everlink(place, "only", QUICK + direct("chat", Server(pong()).port))
        with page_of(browser, everlink.http) as page:
            says(page, "#beat", "live")
            asked = []
            page.on("request", lambda request: asked.append(request.url))
            hide = "yes => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => yes }); document.dispatchEvent(new Event('visibilitychange')); }"
            wait_until("it asks by itself", lambda: page.evaluate("1") and len(asked) > 1)
            page.evaluate(hide, True)
            says(page, "#beat", "paused")
            # One that was under way may still have come; after that the page's own clock passes a minute without a word.
            page.wait_for_function("!asking && timer !== null")
            page.clock.install()
            page.evaluate("poll()")
            before = len(asked)
            page.clock.run_for(60_000)
            assert len(asked) == before, asked[before:]
            page.evaluate(hide, False)
            wait_until("it asks again", lambda: page.evaluate("1") and len(asked) > before)
        everlink.stop()


def thousand(browser):
    """A thousand upstreams: what is in sight is drawn, the rest is found by name."""
    with directory() as place:
        server = Server(pong())
        upstreams = "".join(direct(f"service-{n:03}", server.port) for n in range(1000))
        everlink = Everlink(place, "only", '[defaults]\npool.size = 1\nretry = { initial = "3s", max = "3s" }\n' + upstreams)
        peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{everlink.process.pid}/status").read_text())[1]) // 1024
        wait_until("all up", lambda: all(u["up"] for u in everlink.status("?brief")["upstreams"]), 60)
        with page_of(browser, everlink.http) as page:
            asked = []
            page.on("request", lambda request: asked.append(request.url))
            says(page, "#verdict", "^All 1,000 upstreams are up$")
            assert page.locator("article.up").count() == 1000
            wait_until("what is in sight is drawn", lambda: page.locator("article.up .glance .line[d]").count() > 5)
            assert page.locator(".fold").count() < 60, "only what is in sight"
            cost = page.evaluate("() => Math.min(...Array.from({ length: 5 }, () => { const began = performance.now(); again(); return performance.now() - began; }))")
            assert cost < 200, f"{cost} ms to draw once more"
            page.get_by_label("whose name has").fill("vice-777")
            says(page, "#shown", "^1 of 1,000$")
            page.get_by_role("button", name="More about service-777").click()
            says(page, "#u-service-777 .log li", "connected to")
            page.get_by_label("whose name has").fill("")
            page.locator("#u-service-999").scroll_into_view_if_needed()
            wait_until("the last is drawn", lambda: page.locator("#u-service-999 .glance .line[d]").count() == 1)
            wait_until("and its history asked for", lambda: page.evaluate("1") and any("service-999" in url for url in asked))
            assert all("/status?brief" in url for url in asked if "/status" in url), asked
            server.stop()
            says(page, "#verdict", "upstreams are down$", 60)
            page.get_by_label("In trouble only").check()
            says(page, "article.up .cause", "Connection refused")
            # The row of the benchmark has no reader; with one it must hold as well.
            assert peak() <= 96, f"{peak()} MiB at the peak"
            print(f"a thousand: {cost:.0f} ms to draw once more, {peak()} MiB at the peak, "
                  f"{len(urllib.request.urlopen(everlink.http + '/status?brief').read()) >> 10} KiB an answer")
        everlink.stop()


def main():
    named = sys.argv[1:] or ["outage", "silence", "fit", "words", "hidden", "thousand"]
    with chromium() as browser:
        for name in named:
            began = time.monotonic()
            globals()[name](browser)
            print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
