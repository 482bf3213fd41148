"""Publish the stored history as a web page with asv, and serve it on this machine alone where asked.

The page needs HTTP: opened as a file it shows only an error. It works without a network where npm was there to fetch what
asv's pages load (package.json); else these come from a CDN, and the command says so.
"""

import argparse
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from . import ROOT, assets

HTML = ROOT / ".asv" / "html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--serve", action="store_true", help="serve the page on loopback until Ctrl-C")
    parser.add_argument("--port", type=int, default=8080, help="default %(default)s; 0 takes a free one")


def main(arguments: argparse.Namespace) -> int:
    """Publish, say where, and serve."""
    index = HTML / "index.html"
    index.unlink(missing_ok=True)  # asv's exit code is always 0, so a page that is there must be a new one
    subprocess.run([sys.executable, "-m", "asv", "publish"], cwd=ROOT, check=False)
    if not index.exists():
        print("asv published nothing; measure first: python -m benchmarks run", file=sys.stderr)
        return 2
    if not assets.put_beside(index):
        print("The pages load scripts from a CDN, since npm could not fetch them; install npm to see them without a network.")
    print(f"The dashboard is in {HTML.relative_to(ROOT)}.")
    if not arguments.serve:
        print("See it with: python -m benchmarks dashboard --serve (or: asv preview)")
        return 0
    handler = partial(SimpleHTTPRequestHandler, directory=str(HTML))
    with ThreadingHTTPServer(("127.0.0.1", arguments.port), handler) as server:
        print(f"Serving http://127.0.0.1:{server.server_port} until Ctrl-C", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0
