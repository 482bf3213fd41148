"""Chromium without a window and without a network, driven over the DevTools protocol through a pair of pipes."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0  # seconds for an answer
QUIET = 0.5  # seconds without any event, after which a page is taken to be done
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


class Browser:
    """A running browser with one page. `requested` and `faults` are the addresses and what failed since the last `visit`."""

    def __init__(self, profile: Path) -> None:
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            raise RuntimeError("no Chromium is installed: apt-get install chromium, or leave these tests out: -m 'not browser'")
        (read, self.write), (self.read, write) = os.pipe(), os.pipe()
        # The browser reads from descriptor 3 and writes to 4, so neither may be overwritten before it is copied there.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (read, write)]
        log = str(profile.with_suffix(".log"))
        actions = [
            (os.POSIX_SPAWN_DUP2, ends[0], 3),
            (os.POSIX_SPAWN_DUP2, ends[1], 4),
            (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT, 0o600),
        ]
        words = [program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self.process = os.posix_spawn(program, words, os.environ, file_actions=actions, setpgroup=0)
        for end in (read, write, *ends):
            os.close(end)
        self.last, self.rest, self.session = 0, b"", ""
        self.faults: list[str] = []
        self.requested: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            answer = self.receive(until - time.monotonic())
            if answer is not None and answer.get("id") == self.last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
        raise TimeoutError(f"the browser did not answer {method} within {PATIENCE} s")

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, None if none comes in time; what it tells of a fault is noted."""
        while b"\0" not in self.rest:
            if not select.select([self.read], [], [], max(0.0, seconds))[0]:
                return None
            chunk = os.read(self.read, 1 << 16)
            if not chunk:
                raise RuntimeError("the browser has ended")
            self.rest += chunk
        text, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self.note(message.get("method", ""), message.get("params", {}))
        return message

    def note(self, event: str, params: dict[str, Any]) -> None:
        """Keep what an event says was requested or went wrong."""
        if event == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif event == "Network.responseReceived" and params["response"]["status"] >= 400:
            self.faults.append(f"{params['response']['status']} {params['response']['url']}")
        elif event == "Network.loadingFailed":
            self.faults.append(f"failed: {params['errorText']}")
        elif event == "Runtime.exceptionThrown":
            self.faults.append(f"exception: {params['exceptionDetails']}")
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning"):
            self.faults.append(f"console: {params['args']}")
        elif event == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.faults.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")

    def visit(self, address: str, until: str = "true", width: int = 1280, height: int = 900) -> None:
        """Load a page anew and wait until the expression `until` holds in it and nothing happens any more."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.ask("Emulation.setScrollbarsHidden", hidden=True)
        self.ask("Page.navigate", url="about:blank")  # else another fragment of the same page would not load it
        self.faults, self.requested = [], []
        self.ask("Page.navigate", url=address)
        limit = time.monotonic() + PATIENCE
        while not self.value(f"document.readyState === 'complete' && Boolean({until})"):
            if time.monotonic() > limit:
                raise TimeoutError(f"{address}: {until} does not hold after {PATIENCE} s; faults: {self.faults}")
            self.receive(0.05)
        while self.receive(QUIET) is not None:
            pass

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def picture(self, file: Path, whole: bool = True) -> Path:
        """Write what the page looks like as a PNG."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))
        return file

    def close(self) -> None:
        """End the browser with all its processes."""
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.read)
        os.close(self.write)
