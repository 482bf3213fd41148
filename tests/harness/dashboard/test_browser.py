"""The dashboard as a browser shows it: below a sub-path, without a network, and with nothing that fails to load.

pytest -m browser      needs Chromium and npm
"""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import synthetic
from browser import Browser

from benchmarks.commands import dashboard
from benchmarks.dashboard import assets

pytestmark = pytest.mark.browser

SLOWER = f"'{synthetic.SLOWER}'"
# Each page, what it shows once it is done, and at least how often.
PAGES = {
    "overview": ("overview.html", "document.querySelectorAll('svg.trend')", 2 * len(synthetic.CASES)),
    "grid": ("index.html#/", "document.querySelectorAll('#summarygrid-display canvas.flot-base')", 3),
    "list": ("index.html#/summarylist", "document.querySelectorAll('#summarylist-body tbody tr')", 30),
    "regressions": ("index.html#/regressions", "document.querySelectorAll('#regressions-body tbody tr')", 3),
    "graph": ("index.html#speed.Ratio.track_over_copy", "document.querySelectorAll('#main-graph canvas.flot-base')", 1),
}
# The least contrast of text with what is behind it, by WCAG's formula.
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
# What reaches beyond the right edge of the window.
BEYOND = """[...document.querySelectorAll('body *')].filter(node => node.getBoundingClientRect().right > innerWidth + 1
  && getComputedStyle(node.closest('thead') ?? node).position !== 'absolute').map(node => node.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a published history with a planted regression, two levels below the server's root."""
    folder = tmp_path_factory.mktemp("site")
    root = folder / "repository"
    commits = synthetic.repository(root)
    synthetic.measure(root, commits)
    html = folder / "served" / "people" / "project"
    (root / ".asv" / "verdict.json").write_text(json.dumps(synthetic.VERDICT))
    (root / ".asv" / "law.json").write_text(json.dumps(synthetic.LAW | {"rejected": ["mean"]}))
    assert assets.install(), "npm could not fetch what asv's pages load; without it they need a network"
    assert dashboard.publish(root, html) == []
    faults = "<script src='https://elsewhere.example/x.js'></script><img src='absent.png'><script>console.error(1)</script>"
    (html / "faulty.html").write_text(f"{faults}<script>absent()</script>")
    with dashboard.server(folder / "served", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/people/project/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    running = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield running
    running.close()


@pytest.mark.parametrize("name", PAGES)
def test_every_page_loads_without_a_failed_request_or_an_error(browser, site, name):
    address, shown, least = PAGES[name]
    browser.visit(site + address, f"{shown}.length >= {least}")
    assert browser.faults == []
    assert all(request.startswith(site) for request in browser.requested)
    assert (len(browser.requested) == 1) == (name == "overview")


def test_what_fails_is_seen_and_the_network_is_closed(browser, site):
    browser.visit(site + "faulty.html")
    faults = "\n".join(browser.faults)
    for expected in ("ERR_NAME_NOT_RESOLVED", "404", "absent is not defined", "console"):
        assert expected in faults


def test_a_trend_leads_to_its_graph_which_has_a_point_per_commit(browser, site):
    browser.visit(site + "overview.html")
    link = browser.value(
        f"[...document.querySelectorAll('td a')].find(a => a.hash.includes(encodeURIComponent({synthetic.SLOWER!r}))).href"
    )
    assert link.startswith(site)
    browser.visit(link, "$('#main-graph').data('plot')")
    (series,) = browser.value("$('#main-graph').data('plot').getData().map(series => series.data.map(point => point[1]))")
    assert len(series) == synthetic.COMMITS
    assert min(series[synthetic.STEP :]) > 1.2 * max(series[: synthetic.STEP])
    drawn = browser.value(
        "(() => { const canvas = document.querySelector('#main-graph canvas.flot-base');"
        "const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        "let found = 0; for (let i = 0; i < data.length; i += 4)"
        "if (data[i] == 0x24 && data[i + 1] == 0x7a && data[i + 2] == 0xad && data[i + 3] > 200) found++; return found; })()"
    )
    assert drawn > 5 * synthetic.COMMITS
    assert browser.faults == []


def test_the_planted_regression_is_on_the_regressions_page_and_on_the_overview(browser, site):
    address, shown, _ = PAGES["regressions"]
    browser.visit(site + address, f"{shown}.length")
    rows = browser.value(f"[...{shown}].map(row => row.innerText)")
    assert len(rows) == 3
    assert all(SLOWER in row and "1.3" in row for row in rows)
    browser.visit(site + "overview.html")
    steps = browser.value("[...document.querySelectorAll('section[aria-labelledby=steps] tbody tr')].map(row => row.innerText)")
    assert len(steps) == 3
    assert all(SLOWER in step and "1.3" in step for step in steps)
    browser.visit(
        browser.value("document.querySelector('section[aria-labelledby=steps] tbody a').href"), "$('#main-graph').data('plot')"
    )
    assert browser.value("$('#main-graph').data('plot').getOptions().grid.markings.length") == 1
    assert browser.faults == []


def test_asvs_pages_lead_back_to_the_overview(browser, site):
    address, shown, _ = PAGES["grid"]
    browser.visit(site + address, f"{shown}.length")
    assert (
        browser.value("[...document.querySelectorAll('#nav a')].find(a => a.innerText == 'Overview').href")
        == site + "overview.html"
    )


@pytest.mark.parametrize("width", [390, 768, 1200, 1280, 1920])
def test_the_overview_fits_a_phone_and_a_desk(browser, site, width):
    browser.visit(site + "overview.html", width=width)
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value(BEYOND) == []
    parts = "[...document.querySelectorAll('section .trend, section .trend :not(title)')]"
    assert browser.value(f"{parts}.filter(part => getComputedStyle(part).display === 'none').length") == 0
    assert browser.value(SMALLEST) >= 12


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_colour_schemes(browser, site, scheme):
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.visit(site + "overview.html")
    assert (browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") == (scheme == "light")
    assert browser.value(CONTRAST) >= 4.5


def test_the_overview_opens_as_a_file_too(browser, site, tmp_path: Path):
    browser.visit(site + "overview.html")
    file = tmp_path / "overview.html"
    file.write_text(browser.value("document.documentElement.outerHTML"), encoding="utf-8")
    browser.visit(file.as_uri(), "document.querySelectorAll('svg.trend').length")
    assert browser.faults == []
