"""Run the system's Chromium through Playwright, headless and without a network, and load pages in it."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Response, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
CLOSED_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
TIMEOUT = 60_000  # milliseconds per page


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser, and close it afterwards."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    assert program, "no Chromium is installed: apt-get install chromium, or leave these tests out: -m 'not browser'"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[CLOSED_NETWORK], chromium_sandbox=False)
        yield browser
        browser.close()


class View:
    """One browser page. `requested` and `faults` list the requests and the errors since the last visit."""

    def __init__(self, browser: Browser, width: int = 1280, scheme: Any = "light") -> None:
        viewport: Any = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme, is_mobile=width < 600)
        self.page = self.context.new_page()
        self.requested: list[str] = []
        self.faults: list[str] = []
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("requestfailed", lambda request: self.faults.append(f"failed: {request.failure} {request.url}"))
        self.page.on("response", self.on_response)
        self.page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        self.page.on("console", self.on_console)

    def on_response(self, response: Response) -> None:
        """Record a response with an error status."""
        if response.status >= 400:
            self.faults.append(f"{response.status} {response.url}")

    def on_console(self, message: ConsoleMessage) -> None:
        """Record an error or a warning on the console."""
        if message.type in ("error", "assert", "warning"):
            self.faults.append(f"console: {message.text}")

    def visit(self, address: str, until: str = "true") -> None:
        """Load a page, and wait until the JavaScript expression `until` is true and no request is pending."""
        self.page.goto("about:blank")  # otherwise a new fragment of the same page would not reload it
        self.requested.clear()
        self.faults.clear()
        self.page.goto(address, timeout=TIMEOUT)
        self.page.wait_for_function(f"Boolean({until})", timeout=TIMEOUT)
        self.page.wait_for_load_state("networkidle", timeout=TIMEOUT)

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        return self.page.evaluate(expression)

    def close(self) -> None:
        """Close the page."""
        self.context.close()
