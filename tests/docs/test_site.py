"""The site in Chromium: below a sub-path, without a network, on a desk and on a phone, and without a failing request.

pytest -m browser      needs Chromium; `make docs` makes what else is needed
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from chromium import View, chromium
from playwright.sync_api import Browser

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
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/people/project/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def desk(browser: Browser) -> Iterator[View]:
    view = View(browser, DESK)
    yield view
    view.close()


@pytest.fixture(scope="module")
def phone(browser: Browser) -> Iterator[View]:
    view = View(browser, PHONE)
    yield view
    view.close()


@pytest.mark.parametrize("kind", ["desk", "phone"])
@pytest.mark.parametrize("page", PAGES)
def test_every_page_loads_and_fits(request: pytest.FixtureRequest, site: str, page: str, kind: str) -> None:
    view: View = request.getfixturevalue(kind)
    view.visit(f"{site}{page}.html", READY)
    assert view.faults == []
    assert [address for address in view.requested if not address.startswith((site, "data:", "about:"))] == []
    assert view.value("document.documentElement.scrollWidth <= innerWidth")
    assert view.value(BEYOND) == []
    assert view.value(CUT_OFF) == 0
    assert all(view.value(PICTURES))


def test_what_fails_is_seen(desk: View, site: str) -> None:
    """The checks above can fail: a page with a script from elsewhere, an absent picture and a wide box."""
    desk.visit(f"{site}index.html", READY)
    desk.value("""document.querySelector('article').insertAdjacentHTML('beforeend',
      '<img src="absent.png"><div style="width: 3000px">x</div>'), console.error('wrong'), 0""")
    desk.value("fetch('https://elsewhere.example/x.js').catch(() => 0)")
    desk.page.wait_for_load_state("networkidle")
    faults = "\n".join(desk.faults)
    for expected in ("ERR_NAME_NOT_RESOLVED", "404", "console: wrong"):
        assert expected in faults
    assert desk.value(BEYOND) != []
    assert not all(desk.value(PICTURES))


def test_the_pictures_are_there(desk: View, site: str) -> None:
    desk.visit(f"{site}index.html", READY)
    assert len(desk.value(PICTURES)) == 1
    desk.visit(f"{site}experiments.html", READY)
    assert len(desk.value(PICTURES)) >= 2


def test_a_wide_table_scrolls_inside_its_frame(phone: View, site: str) -> None:
    phone.visit(f"{site}speed.html", READY)
    assert phone.value("(frame => frame.scrollWidth - frame.clientWidth)(document.querySelector('.table-wrapper'))") > 100


def test_the_search_finds_set_k(desk: View, site: str) -> None:
    desk.visit(f"{site}index.html", READY)
    desk.page.get_by_placeholder("Search").fill("set_k")
    desk.page.keyboard.press("Enter")
    desk.page.wait_for_function("document.querySelectorAll('#search-results li a').length > 5")
    found = desk.value("[...document.querySelectorAll('#search-results li a')].map(link => link.href)")
    assert f"{site}api.html#taildropout.TailDropout.set_k" in [link.split("?")[0] for link in found]
    assert any("limits.html" in link for link in found)
    assert desk.faults == []


def test_formulas_are_drawn(desk: View, site: str) -> None:
    desk.visit(f"{site}how-it-works.html", READY)
    heights = desk.value("[...document.querySelectorAll('math')].map(formula => formula.getBoundingClientRect().height)")
    assert len(heights) >= 3
    assert min(heights) > 10


def test_the_contents_open_on_a_phone(phone: View, site: str) -> None:
    phone.visit(f"{site}index.html", READY)
    phone.page.locator("label.nav-overlay-icon").click()
    phone.page.locator(".sidebar-drawer").get_by_text("How it works").click()
    phone.page.wait_for_url("**/how-it-works.html")
    assert phone.faults == []
