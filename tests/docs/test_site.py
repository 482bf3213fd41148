"""The site as a browser shows it: below a sub-path, without a network, on a desk and on a phone, with nothing that fails to load.

pytest -m browser      needs Chromium; `make docs` makes what else is needed
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import Browser

from benchmarks import ROOT

pytestmark = pytest.mark.browser

DOCS = ROOT / "docs"
PAGES = sorted(page.stem for page in DOCS.iterdir() if page.suffix in (".md", ".rst"))
DESK, PHONE = 1280, 390
READY = "document.querySelector('article h1')"
# What is wider than the window though it stands in no frame that scrolls.
BEYOND = """[...document.querySelectorAll('article *')].filter(node => node.getBoundingClientRect().right > innerWidth + 1
  && !node.closest('.table-wrapper, .highlight, .math-wrapper, .headerlink')).map(node => node.outerHTML.slice(0, 80))"""
# Frames whose contents reach beyond their edge though the frame does not scroll.
CUT_OFF = """[...document.querySelectorAll('.table-wrapper, .highlight pre, .math-wrapper')].filter(
  node => node.scrollWidth > node.clientWidth + 1 && !['auto', 'scroll'].includes(getComputedStyle(node).overflowX)).length"""
PICTURES = "[...document.querySelectorAll('article img')].map(picture => picture.complete && picture.naturalWidth)"


class Quiet(SimpleHTTPRequestHandler):
    """Serve files and log nothing."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Drop the line."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site, two levels below the server's root."""
    folder = tmp_path_factory.mktemp("site")
    html = folder / "people" / "project"
    words = [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "-q", "-n", "-b", "html", str(DOCS), str(html)]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/people/project/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    running = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield running
    running.close()


@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("page", PAGES)
def test_every_page_loads_and_fits(browser: Browser, site: str, page: str, width: int) -> None:
    browser.visit(f"{site}{page}.html", READY, width=width)
    assert browser.faults == []
    assert [address for address in browser.requested if not address.startswith((site, "data:"))] == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(BEYOND) == []
    assert browser.value(CUT_OFF) == 0
    assert all(browser.value(PICTURES))


def test_the_pictures_are_there(browser: Browser, site: str) -> None:
    browser.visit(f"{site}index.html", READY)
    assert len(browser.value(PICTURES)) == 1
    browser.visit(f"{site}experiments.html", READY)
    assert len(browser.value(PICTURES)) >= 2


def test_a_wide_table_scrolls_inside_its_frame(browser: Browser, site: str) -> None:
    browser.visit(f"{site}speed.html", READY, width=PHONE)
    assert browser.value("(frame => frame.scrollWidth - frame.clientWidth)(document.querySelector('.table-wrapper'))") > 100


def test_the_search_finds_set_k(browser: Browser, site: str) -> None:
    browser.visit(f"{site}search.html?q=set_k", "document.querySelectorAll('#search-results li a').length")
    found = browser.value("[...document.querySelectorAll('#search-results li a')].map(link => link.href)")
    assert f"{site}api.html#taildropout.TailDropout.set_k" in [link.split("?")[0] for link in found]
    assert any("limits.html" in link for link in found)
    assert browser.faults == []


def test_formulas_are_drawn(browser: Browser, site: str) -> None:
    browser.visit(f"{site}how-it-works.html", READY)
    heights = browser.value("[...document.querySelectorAll('math')].map(formula => formula.getBoundingClientRect().height)")
    assert len(heights) >= 3
    assert min(heights) > 10

