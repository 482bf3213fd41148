"""Publish the stored history as web pages: an overview in front of asv's pages, complete or not at all."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from ..results import series
from ..system.errors import CommandError
from . import assets, overview

GRID = '<li id="nav-li-" class="active">'
HOME = '<li><a href="overview.html">Overview</a></li>\n\t'
ONLINE = "The pages load scripts from a CDN, since npm could not fetch them; with npm installed they need no network."


class CannotPublish(CommandError):
    """A reason why the pages cannot be made."""

    summary = "Nothing is published"


def publish(root: Path, html: Path) -> tuple[list[str], list[str]]:
    """Make the pages from the results stored in `root`, a repository with asv's configuration, and replace `html` by them.

    Return the errors that the overview reports, and notes for the user. If the pages cannot be made, `html` stays as it was.

    Raises BrokenResult for a result that cannot be read (asv would leave it out silently), CannotPublish if nothing is stored
    or asv fails, UnknownAsset if asv's version is not the pinned one.
    """
    if importlib.util.find_spec("asv") is None:
        raise CannotPublish("asv is not installed: pip install -e '.[bench]'")
    dates = history(root)
    stored, lost = series.read_all(root / ".asv" / "results", {commit: place for place, commit in enumerate(dates)})
    if not stored:
        raise CannotPublish("no result of a commit of this history is stored; measure first: python -m benchmarks run")
    html.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="publish-", dir=html.parent) as folder:
        new, former = Path(folder, "new"), Path(folder, "former")
        command = [sys.executable, "-m", "asv", "publish", "--html-dir", str(new)]
        done = subprocess.run(command, cwd=root, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        # asv's exit code is always 0, and index.html is the first file that it writes; info.json is the last one.
        if not (new / "info.json").exists():
            raise CannotPublish(f"asv failed; if nothing is measured yet, run python -m benchmarks run\n{done.stdout}")
        errors = overview.write(new, root, stored, dates, lost)
        index = new / "index.html"
        index.write_text(index.read_text(encoding="utf-8").replace(GRID, HOME + GRID), encoding="utf-8")
        offline = assets.put_beside(index)
        if html.exists():
            html.rename(former)
        new.rename(html)
    return errors, [] if offline else [ONLINE]


def history(root: Path) -> dict[str, int]:
    """Return the commits in asv's order, oldest first, each with its time in seconds since 1970. Raises CannotPublish."""
    command = ["git", "rev-list", "--all", "--date-order", "--reverse", "--timestamp"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotPublish(f"git cannot list the history: {done.stderr.strip()}")
    lines = (line.split() for line in done.stdout.splitlines())
    return {commit: int(seconds) for seconds, commit in lines}
