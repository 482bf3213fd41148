"""Put the scripts and styles that asv's pages load from a CDN into a folder beside the pages, pinned by package-lock.json."""

import re
import shutil
import subprocess
from pathlib import Path

from .. import ROOT
from ..system.errors import CommandError

NPM = ROOT / ".asv" / "npm"

# The file that a tag of asv's page loads, and its path below node_modules.
ASSETS = {
    "jquery-3.3.1.min.js": "jquery/dist/jquery.min.js",
    "jquery.flot.min.js": "flot/jquery.flot.js",
    "jquery.flot.time.min.js": "flot/jquery.flot.time.js",
    "jquery.flot.selection.min.js": "flot/jquery.flot.selection.js",
    "jquery.flot.categories.min.js": "flot/jquery.flot.categories.js",
    "jquery.flot.orderBars.js": "flot-orderbars/js/jquery.flot.orderBars.js",
    "stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
    "md5.min.js": "blueimp-md5/js/md5.min.js",
    "bootstrap.min.js": "bootstrap/dist/js/bootstrap.min.js",
    "bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
}
# A tag with a remote script or stylesheet: its address and other attributes (integrity, crossorigin …).
REMOTE = re.compile(r'<(script|link)\b([^>]*?)\b(src|href)="https?://[^"]*/([^"/]+)"[^>]*>')


class UnknownAsset(CommandError):
    """A file that asv's page loads and `ASSETS` lacks."""

    summary = "Nothing is published"


def local(page: str) -> str:
    """Return the page with its remote scripts and stylesheets replaced by those in the folder `assets` beside it.

    Raises UnknownAsset for a file that is not in `ASSETS`: asv has changed its page.
    """

    def tag(match: re.Match[str]) -> str:
        kind, before, attribute, name = match.groups()
        if name not in ASSETS:
            raise UnknownAsset(
                f"asv's page loads {name}, which benchmarks/dashboard/assets.py does not know; install the pinned asv"
            )
        before = before if kind == "link" else " "
        return f'<{kind}{before}{attribute}="assets/{name}">'

    return REMOTE.sub(tag, page)


def install() -> Path | None:
    """Return the folder of the npm packages, installing them if needed; None if npm is missing or cannot get them."""
    modules = NPM / "node_modules"
    for name in ("package.json", "package-lock.json"):
        if not (NPM / name).exists() or (NPM / name).read_bytes() != (ROOT / name).read_bytes():
            shutil.rmtree(modules, ignore_errors=True)
            NPM.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, NPM / name)
    if all((modules / path).exists() for path in ASSETS.values()):
        return modules
    if not shutil.which("npm"):
        return None
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent", "--prefer-offline", "--fetch-retries=1"]
    done = subprocess.run(command, cwd=NPM, check=False)
    return modules if done.returncode == 0 else None


def put_beside(index: Path) -> bool:
    """Copy the scripts and styles beside the page `index` and make it load them; return False if npm cannot get them."""
    modules = install()
    if modules is None:
        return False
    folder = index.parent / "assets"
    folder.mkdir(exist_ok=True)
    for name, path in ASSETS.items():
        shutil.copy(modules / path, folder / name)
    index.write_text(local(index.read_text(encoding="utf-8")), encoding="utf-8")
    return True
