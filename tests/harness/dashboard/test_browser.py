"""The dashboard in Chromium: below a sub-path, without a network, and without a failing request.

pytest -m browser      needs Chromium and npm
"""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import synthetic
from chromium import View, chromium
from playwright.sync_api import Browser

from benchmarks.dashboard.publish import publish
from benchmarks.dashboard.server import server

pytestmark = pytest.mark.browser

SLOWER = f"'{synthetic.SLOWER}'"
REGRESSIONS = 1 + len(synthetic.RATIOS)  # the time of TailDropout and each ratio
# Each page, the elements that it shows when it is complete, and their least number.
PAGES = {
    "overview": ("overview.html", "document.querySelectorAll('svg.sparkline')", 2 * len(synthetic.CASES)),
    "grid": ("index.html#/", "document.querySelectorAll('#summarygrid-display canvas.flot-base')", 3),
    "list": ("index.html#/summarylist", "document.querySelectorAll('#summarylist-body tbody tr')", 30),
    "regressions": ("index.html#/regressions", "document.querySelectorAll('#regressions-body tbody tr')", REGRESSIONS),
    "graph": ("index.html#speed.Ratio.track_over_copy", "document.querySelectorAll('#main-graph canvas.flot-base')", 1),
}
# The least contrast between a text and its background, by WCAG's formula.
CONTRAST = """(() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = node => { for (; node; node = node.parentElement) {
    const found = parts(getComputedStyle(node).backgroundColor); if (found.length === 3) return found; }
    return [255, 255, 255]; };
  const texts = [...document.querySelectorAll('body *')].filter(node => [...node.childNodes].some(
    child => child.nodeType === 3 && child.data.trim()) && !node.closest('svg, style'));
  return Math.min(...texts.map(node => { const [a, b] = [light(parts(getComputedStyle(node).color)), light(behind(node))]
    .sort((x, y) => y - x); return (a + .05) / (b + .05); })); })()"""
SMALLEST = "Math.min(...[...document.querySelectorAll('body *')].map(node => parseFloat(getComputedStyle(node).fontSize)))"
# Elements that reach beyond the right edge of the window.
BEYOND = """[...document.querySelectorAll('body *')].filter(node => node.getBoundingClientRect().right > innerWidth + 1
  && getComputedStyle(node.closest('thead') ?? node).position !== 'absolute').map(node => node.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a published history with an injected regression, two levels below the server's root."""
    folder = tmp_path_factory.mktemp("site")
    root = folder / "repository"
    commits = synthetic.repository(root)
    synthetic.measure(root, commits)
    html = folder / "served" / "people" / "project"
    (root / ".asv" / "verdict.json").write_text(json.dumps(synthetic.VERDICT))
    (root / ".asv" / "law.json").write_text(json.dumps(synthetic.LAW | {"rejected": ["mean"]}))
    assert publish(root, html) == ([], []), "npm could not fetch the scripts of asv's pages; without them they need a network"
    faults = "<script src='https://elsewhere.example/x.js'></script><img src='absent.png'><script>console.error(1)</script>"
    (html / "faulty.html").write_text(f"{faults}<script>absent()</script>")
    with server(folder / "served", 0) as pages:
        threading.Thread(target=pages.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{pages.server_port}/people/project/"
        pages.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def view(browser: Browser) -> Iterator[View]:
    opened = View(browser)
    yield opened
    opened.close()


@pytest.mark.parametrize("name", PAGES)
def test_every_page_loads_without_a_failed_request_or_an_error(view: View, site: str, name: str) -> None:
    address, shown, least = PAGES[name]
    view.visit(site + address, f"{shown}.length >= {least}")
    assert view.faults == []
    assert all(request.startswith(site) for request in view.requested)
    assert (len(view.requested) == 1) == (name == "overview")


def test_faults_are_seen_and_the_network_is_closed(view: View, site: str) -> None:
    view.visit(site + "faulty.html")
    faults = "\n".join(view.faults)
    for expected in ("ERR_NAME_NOT_RESOLVED", "404", "absent is not defined", "console: 1"):
        assert expected in faults


def test_a_sparkline_leads_to_its_graph_which_has_a_point_per_commit(view: View, site: str) -> None:
    view.visit(site + "overview.html")
    link = view.value(
        f"[...document.querySelectorAll('td a')].find(a => a.hash.includes(encodeURIComponent({synthetic.SLOWER!r}))).href"
    )
    assert link.startswith(site)
    view.visit(link, "window.$ && $('#main-graph').data('plot')")
    (series,) = view.value("$('#main-graph').data('plot').getData().map(series => series.data.map(point => point[1]))")
    assert len(series) == synthetic.COMMITS
    assert min(series[synthetic.STEP :]) > 1.2 * max(series[: synthetic.STEP])
    drawn = view.value(
        "(() => { const canvas = document.querySelector('#main-graph canvas.flot-base');"
        "const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        "let found = 0; for (let i = 0; i < data.length; i += 4)"
        "if (data[i] == 0x24 && data[i + 1] == 0x7a && data[i + 2] == 0xad && data[i + 3] > 200) found++; return found; })()"
    )
    assert drawn > 5 * synthetic.COMMITS
    assert view.faults == []


def test_the_injected_regression_is_on_the_regressions_page_and_on_the_overview(view: View, site: str) -> None:
    address, shown, _ = PAGES["regressions"]
    view.visit(site + address, f"{shown}.length")
    rows = view.value(f"[...{shown}].map(row => row.innerText)")
    assert len(rows) == REGRESSIONS
    assert all(SLOWER in row and "1.3" in row for row in rows)
    view.visit(site + "overview.html")
    slower = "document.querySelector('.card .bad-text')"
    assert view.value(f"{slower}.innerText").startswith(f"Slower than last week: {synthetic.SLOWER} +")
    view.visit(view.value(f"{slower}.querySelector('a').href"), "window.$ && $('#main-graph').data('plot')")
    (series,) = view.value("$('#main-graph').data('plot').getData().map(series => series.data.map(point => point[1]))")
    assert min(series[synthetic.STEP :]) > 1.2 * max(series[: synthetic.STEP])
    assert view.faults == []


def test_asvs_pages_lead_back_to_the_overview(view: View, site: str) -> None:
    address, shown, _ = PAGES["grid"]
    view.visit(site + address, f"{shown}.length")
    link = view.value("[...document.querySelectorAll('#nav a')].find(a => a.innerText == 'Overview').href")
    assert link == site + "overview.html"


@pytest.mark.parametrize("width", [390, 768, 1200, 1280, 1920])
def test_the_overview_fits_a_phone_and_a_desk(browser: Browser, site: str, width: int) -> None:
    view = View(browser, width)
    view.visit(site + "overview.html")
    assert view.value("document.documentElement.scrollWidth") == width
    assert view.value(BEYOND) == []
    parts = "[...document.querySelectorAll('section .sparkline, section .sparkline :not(title)')]"
    assert view.value(f"{parts}.length") > 0
    assert view.value(f"{parts}.filter(part => getComputedStyle(part).display === 'none').length") == 0
    assert view.value(SMALLEST) >= 12
    view.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_colour_schemes(browser: Browser, site: str, scheme: str) -> None:
    view = View(browser, scheme=scheme)
    view.visit(site + "overview.html")
    assert (view.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") == (scheme == "light")
    assert view.value(CONTRAST) >= 4.5
    view.close()


def test_the_overview_opens_as_a_file_too(view: View, site: str, tmp_path: Path) -> None:
    view.visit(site + "overview.html")
    file = tmp_path / "overview.html"
    file.write_text(view.value("document.documentElement.outerHTML"), encoding="utf-8")
    view.visit(file.as_uri(), "document.querySelectorAll('svg.sparkline').length")
    assert view.faults == []
