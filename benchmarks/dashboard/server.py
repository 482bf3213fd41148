"""Serve the published pages to this machine only."""

from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Pages(SimpleHTTPRequestHandler):
    """A request handler that serves a folder and redirects `/` to the overview. Only failed requests are logged."""

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
    """Return a server of a folder's pages on loopback. Raises OSError if the port is taken."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Pages, directory=str(folder)))
