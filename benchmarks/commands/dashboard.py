"""Publish the stored history as web pages, an overview in front of asv's, and serve them on this machine alone where asked.

asv's pages need HTTP: opened as a file they show only an error (overview.html does not). They work without a network where
npm was there to fetch what they load (package.json); else these come from a CDN, and the command says so. The former pages
stay until the new ones are whole. Exit code: 0 published, 2 not, or what is stored for the overview is broken.
"""

import argparse
import importlib.util
import subprocess
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .. import ROOT
from ..dashboard import assets, overview
from ..results import series
from ..results.stored import BrokenResult

HTML = ROOT / ".asv" / "html"
GRID = '<li id="nav-li-" class="active">'
HOME = '<li><a href="overview.html">Overview</a></li>\n\t'


class CannotPublish(Exception):
    """Something that keeps the pages from being made."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--serve", action="store_true", help="serve the pages on loopback until Ctrl-C")
    parser.add_argument("--port", type=port, default=8080, help="default %(default)s; 0 takes a free one")


def port(text: str) -> int:
    """A port's number; ArgumentTypeError for what is none."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 0 (any that is free) to 65535")
    return int(text)


def main(arguments: argparse.Namespace) -> int:
    """Publish, say where, and serve."""
    try:
        complaints = publish(ROOT, HTML)
    except (CannotPublish, BrokenResult, assets.UnknownAsset, OSError) as error:
        print(f"Nothing is published: {error}", file=sys.stderr)
        return 2
    print(f"The dashboard is in {HTML.relative_to(ROOT)}; overview.html is its first page.")
    for complaint in complaints:
        print(f"Left out: {complaint}", file=sys.stderr)
    if not arguments.serve:
        print("See it with: python -m benchmarks dashboard --serve (or: asv preview)")
    elif not serve(arguments.port):
        return 2
    return 2 if complaints else 0


def publish(root: Path, html: Path) -> list[str]:
    """Make the pages of what `root`, a repository with asv's configuration, has stored, and put them in place of `html`.

    Gives what is broken of the state that the overview shows. Raises BrokenResult for a result that cannot be read (asv would
    leave it out and say nothing), CannotPublish where nothing is stored or asv fails; `html` is then what it was.
    """
    if importlib.util.find_spec("asv") is None:
        raise CannotPublish("asv is not installed: pip install -e '.[bench]'")
    order = history(root)
    stored, lost = series.load(root / ".asv" / "results", order)
    if not stored:
        raise CannotPublish("no result of a commit of this history is stored; measure first: python -m benchmarks run")
    html.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="publish-", dir=html.parent) as folder:
        new, former = Path(folder, "new"), Path(folder, "former")
        subprocess.run([sys.executable, "-m", "asv", "publish", "--html-dir", str(new)], cwd=root, check=False)
        # asv's exit code is always 0, and the page is what it writes first; this file is what it writes last.
        if not (new / "info.json").exists():
            raise CannotPublish(
                "asv failed, as it says above; if nothing is measured yet, measure first: python -m benchmarks run"
            )
        complaints = overview.write(new, root, stored, order, lost)
        index = new / "index.html"
        index.write_text(index.read_text(encoding="utf-8").replace(GRID, HOME + GRID), encoding="utf-8")
        if not assets.put_beside(index):
            print(
                "The pages load scripts from a CDN, since npm could not fetch them; install npm to see them without a network."
            )
        if html.exists():
            html.rename(former)
        new.rename(html)
    return complaints


def history(root: Path) -> dict[str, int]:
    """The place of every commit in the history, as asv counts them."""
    words = ["git", "rev-list", "--all", "--date-order", "--reverse"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotPublish(f"git does not tell the history: {done.stderr.strip()}")
    return {commit: place for place, commit in enumerate(done.stdout.split())}


class Pages(SimpleHTTPRequestHandler):
    """Serves a folder; what is asked for without a name is the overview. Only what fails is reported."""

    def send_head(self) -> Any:
        if self.path.partition("?")[0] != "/":
            return super().send_head()
        self.send_response(HTTPStatus.FOUND)
        self.send_header("Location", "overview.html")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if int(code) >= HTTPStatus.BAD_REQUEST:
            super().log_request(code, size)


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of a folder's pages for this machine alone; OSError where the port cannot be had."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Pages, directory=str(folder)))


def serve(port: int) -> bool:
    """Serve the published pages until Ctrl-C; False where the port cannot be had."""
    try:
        pages = server(HTML, port)
    except OSError as error:
        print(f"Port {port} cannot be had ({error.strerror}); name another: --port 0 takes a free one", file=sys.stderr)
        return False
    with pages:
        print(f"Serving http://127.0.0.1:{pages.server_port}/ until Ctrl-C", flush=True)
        try:
            pages.serve_forever()
        except KeyboardInterrupt:
            print()
    return True
