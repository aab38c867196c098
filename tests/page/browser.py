"""Debian's Chromium, and a page in it that holds what went wrong."""

import contextlib

from playwright.sync_api import sync_playwright

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
]


@contextlib.contextmanager
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def page_of(browser, url, offline_is_fine=False, **options):
    """A page at `url`. At its end there must have been no request to anyone else, and no word on the console (but that a
    server is gone, where `offline_is_fine`)."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    page, wrong = context.new_page(), []
    page.on("request", lambda request: request.url.startswith((url, "data:")) or wrong.append(f"asks for {request.url}"))
    page.on("pageerror", lambda error: wrong.append(f"throws {error}"))

    def said(message):
        if not (offline_is_fine and "Failed to load resource" in message.text):
            wrong.append(f"says {message.text}")

    page.on("console", said)
    try:
        page.goto(url + "/")
        yield page
        assert not wrong, wrong
    finally:
        context.close()
