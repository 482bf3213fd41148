"""Check every link of a built site: its file and its anchor are there, and nothing is loaded from another site.

python docs/links.py docs/_build/html      prints what leads nowhere; exit code 1 if anything does

The pages of the dashboard, beside those of the site, are asv's: they are led to, and not checked.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ADDRESSES = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src"}


class Page(HTMLParser):
    """The anchors of a page, and the addresses that it names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.addresses: set[str] = set()
        self.loaded: set[str] = set()  # addresses that the browser fetches by itself
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag's anchor and its address."""
        named = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := named.get(name)))
        if address := named.get(ADDRESSES.get(tag, "")):
            self.addresses.add(address)
            if tag != "a":
                self.loaded.add(address)


def broken(site: Path) -> list[str]:
    """Return every internal link that leads nowhere, and what is loaded from elsewhere, as `page: address`."""
    pages = {file.resolve(): Page(file.read_text(encoding="utf-8")) for file in sorted(site.rglob("*.html"))}
    if not pages:
        raise SystemExit(f"{site} holds no page; build the site first: make docs")
    lost = []
    for file, page in pages.items():
        if file.is_relative_to(site.resolve() / "dashboard"):
            continue
        for address in sorted(page.addresses):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in page.loaded and parts.scheme != "data":
                    lost.append(f"{file.relative_to(site.resolve())}: {address} is loaded from another site")
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            anchor = unquote(parts.fragment)
            known = target in pages
            if not target.is_file() or (anchor and known and anchor not in pages[target].anchors):
                lost.append(f"{file.relative_to(site.resolve())}: {address}")
    return lost


def main() -> int:
    """Print the broken links of the site that the command line names."""
    lost = broken(Path(sys.argv[1]))
    print("\n".join(lost) or "every internal link leads somewhere")
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
