"""Publish the stored history as web pages, an overview in front of asv's, and serve them on this machine with --serve.

asv's pages need HTTP: opened as a file they show only an error (overview.html works as a file too). They need no network if
npm could fetch the scripts that they load (package.json); otherwise they load them from a CDN, and the command says so. The
former pages stay until the new ones are complete. Exit code: 0 published, 2 not published, or a state file is broken.
"""

import argparse
import sys

from .. import ROOT
from ..dashboard.publish import CannotPublish, publish
from ..dashboard.server import server

HTML = ROOT / ".asv" / "html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--serve", action="store_true", help="serve the pages on loopback until Ctrl-C")
    parser.add_argument("--port", type=port, default=8080, help="default %(default)s; 0 takes a free one")


def port(text: str) -> int:
    """Return `text` as a port number. Raises ArgumentTypeError if it is not one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a number from 0 (a free one) to 65535")
    return int(text)


def main(arguments: argparse.Namespace) -> int:
    """Publish the pages, print where they are, and serve them if --serve is set; return the exit code."""
    errors, notes = publish(ROOT, HTML)
    print(f"The dashboard is in {HTML.relative_to(ROOT)}; overview.html is its first page.")
    for note in notes:
        print(note)
    for error in errors:
        print(f"Left out: {error}", file=sys.stderr)
    if arguments.serve:
        serve(arguments.port)
    else:
        print("View it with: python -m benchmarks dashboard --serve")
    return 2 if errors else 0


def serve(port: int) -> None:
    """Serve the published pages on loopback until Ctrl-C. Raises CannotPublish if the port is taken."""
    try:
        pages = server(HTML, port)
    except OSError as error:
        raise CannotPublish(f"port {port} is not free ({error.strerror}); give another: --port 0 takes a free one") from error
    with pages:
        print(f"Serving http://127.0.0.1:{pages.server_port}/ until Ctrl-C", flush=True)
        try:
            pages.serve_forever()
        except KeyboardInterrupt:
            print()
