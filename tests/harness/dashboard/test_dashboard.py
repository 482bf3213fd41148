"""The dashboard is published complete or not at all, loads nothing from a CDN, and is served on this machine alone."""

import importlib.util
import json
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError

import pytest
import synthetic

from benchmarks import __main__ as command
from benchmarks.commands import dashboard
from benchmarks.dashboard import assets, publish
from benchmarks.dashboard.publish import ONLINE, CannotPublish
from benchmarks.dashboard.server import server

PAGE = """<script src="https://elsewhere.example/ajax/jquery.flot.min.js" integrity="sha512-x" onerror="f()"></script>
<script src="graphdisplay.js"></script>
<link rel="stylesheet" href="https://elsewhere.example/css/bootstrap.min.css" integrity="sha256-y" crossorigin="anonymous">
<a href="https://elsewhere.example/asv/">asv</a>"""


def test_remote_scripts_and_styles_become_local() -> None:
    assert assets.local(PAGE).splitlines() == [
        '<script src="assets/jquery.flot.min.js"></script>',
        '<script src="graphdisplay.js"></script>',
        '<link rel="stylesheet" href="assets/bootstrap.min.css">',
        '<a href="https://elsewhere.example/asv/">asv</a>',
    ]


def test_an_unknown_script_is_an_error() -> None:
    with pytest.raises(assets.UnknownAsset, match=r"new\.js"):
        assets.local('<script src="https://elsewhere.example/new.js"></script>')


# Publishing. asv itself runs, on a synthetic history; npm does not.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a history, published once."""
    root = tmp_path_factory.mktemp("whole") / "a repository"
    commits = synthetic.repository(root)
    synthetic.measure(root, commits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "install", lambda: None)
        assert publish.publish(root, root / ".asv" / "html") == ([], [ONLINE])
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may change, and on which the command works."""
    monkeypatch.setattr(assets, "install", lambda: None)
    copy = shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.setattr(dashboard, "ROOT", copy)
    monkeypatch.setattr(dashboard, "HTML", copy / ".asv" / "html")
    return copy


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_an_injected_regression_is_on_the_overview(whole: Path) -> None:
    page = (whole / ".asv" / "html" / "overview.html").read_text(encoding="utf-8")
    assert re.search(rf"Slower than last week:\s+<a [^>]+>{synthetic.SLOWER}</a> \+(29|30|31) % at ", page)
    assert page.count("▲ slower") == 1
    commits = list(publish.history(whole))
    assert len(commits) == synthetic.COMMITS
    assert re.search(rf"at 30 commits: [\d.]+ at {commits[0][:8]}, [\d.]+ at {commits[-1][:8]}, ", page)
    assert f"<code>{commits[synthetic.STEP][:8]}</code>" in page
    published = json.loads((whole / ".asv" / "html" / "regressions.json").read_text())["regressions"]
    assert len(published) == 1 + len(synthetic.RATIOS)
    assert all(synthetic.SLOWER in name for name, *_ in published)


def test_the_pages_lead_to_the_overview_and_to_nothing_by_an_absolute_address(whole: Path) -> None:
    page = (whole / ".asv" / "html" / "index.html").read_text(encoding="utf-8")
    assert page.index('<a href="overview.html">Overview</a>') < page.index("Benchmark grid")
    assert 'src="/' not in page
    assert 'href="/' not in page


def test_a_truncated_result_is_named_and_nothing_changes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file, *_) = sorted((root / ".asv" / "results" / synthetic.MACHINE).glob("*-env.json"))
    file.write_text(file.read_text()[:1000])
    before = contents(root / ".asv")
    assert command.main(["dashboard"]) == 2
    message = capsys.readouterr().err
    assert file.name in message
    assert "not JSON" in message
    assert f"python -m benchmarks run {file.name[:8]}" in message
    assert contents(root / ".asv") == before


def test_the_former_pages_stay_where_asv_fails(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (root / "asv.conf.json").write_text((root / "asv.conf.json").read_text().replace("main", "no-such-branch"))
    before = contents(root / ".asv")
    assert command.main(["dashboard"]) == 2
    message = capfd.readouterr().err
    assert "Nothing is published: asv failed" in message
    assert "no-such-branch" in message
    assert contents(root / ".asv") == before


def test_a_page_of_another_asv_is_not_published(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(assets, "install", lambda: root)
    monkeypatch.setattr(assets, "ASSETS", {})
    before = contents(root / ".asv")
    assert command.main(["dashboard"]) == 2
    assert "does not know" in capsys.readouterr().err
    assert contents(root / ".asv") == before


def test_publishing_again_replaces_the_pages_and_a_broken_verdict_makes_the_command_fail(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / ".asv" / "html" / "left over").write_text("x")
    (root / ".asv" / "verdict.json").write_text('{"version')
    assert command.main(["dashboard"]) == 2
    shown = capsys.readouterr()
    assert "verdict.json is not JSON" in shown.err
    assert "load scripts from a CDN" in shown.out
    assert "verdict.json is not JSON" in (root / ".asv" / "html" / "overview.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in (root / ".asv").iterdir()) == ["html", "results", "verdict.json"]
    assert not (root / ".asv" / "html" / "left over").exists()


def test_results_of_no_commit_here_are_not_published(whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    synthetic.repository(other, commits=2)
    with pytest.raises(CannotPublish, match="measure first"):
        publish.publish(other, other / "html")
    shutil.copytree(whole / ".asv" / "results", other / ".asv" / "results")
    for file in (other / ".asv" / "results").glob("*/*-env.json"):  # as after a history was rewritten
        stored = json.loads(file.read_text())
        file.with_name(f"ffffffff-{file.name}").write_text(json.dumps(stored | {"commit_hash": "f" * 40}))
        file.unlink()
    with pytest.raises(CannotPublish, match="no result of a commit of this history"):
        publish.publish(other, other / "html")


def test_outside_of_git_nothing_is_published(tmp_path: Path) -> None:
    with pytest.raises(CannotPublish, match=r"git cannot list the history: .*not a git repository"):
        publish.publish(tmp_path, tmp_path / "html")


def test_asv_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CannotPublish, match="asv is not installed"):
        publish.publish(tmp_path, tmp_path / "html")


# Serving.


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    (tmp_path / "overview.html").write_text("the overview")
    (tmp_path / "index.html").write_text("the grid")
    with server(tmp_path, 0) as pages:
        threading.Thread(target=pages.serve_forever, args=(0.01,), daemon=True).start()
        yield pages
        pages.shutdown()


def fetch(server: ThreadingHTTPServer, path: str) -> tuple[str, str]:
    """Return the path after redirects, and the content."""
    base = f"http://127.0.0.1:{server.server_port}"
    with urllib.request.urlopen(base + path) as answer:
        return answer.url.removeprefix(base), answer.read().decode()


def test_the_overview_is_served_first_and_on_loopback_alone(
    served: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert served.server_address[0] == "127.0.0.1"
    assert fetch(served, "/") == ("/overview.html", "the overview")
    assert fetch(served, "/?x=1")[0] == "/overview.html"
    assert fetch(served, "/index.html") == ("/index.html", "the grid")
    assert capsys.readouterr().err == ""
    with pytest.raises(HTTPError, match="404") as raised:
        fetch(served, "/absent")
    raised.value.close()
    assert "404" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(
    served: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dashboard, "publish", lambda *_: ([], []))
    assert command.main(["dashboard", "--serve", "--port", str(served.server_port)]) == 2
    assert f"port {served.server_port} is not free" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["99999", "-1", "65536", "http", "1.5", ""])
def test_what_is_no_port_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command.main(["dashboard", "--serve", f"--port={text}"])
    assert raised.value.code == 2
    assert "from 0 (a free one) to 65535" in capsys.readouterr().err


def test_serving_ends_at_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(dashboard, "publish", lambda *_: ([], []))

    def interrupted(_: ThreadingHTTPServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", interrupted)
    assert command.main(["dashboard", "--serve", "--port", "0"]) == 0
    assert "Serving http://127.0.0.1:" in capsys.readouterr().out
