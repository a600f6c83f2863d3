"""What a built site links to is there, and no page fetches anything from elsewhere: `check.py SITE`."""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_FETCHED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}
_NOT_FETCHED = {"canonical", "next", "prev", "index", "search", "help"}


class _Page(HTMLParser):
    """The anchors of a page, and what it links to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[bool, str]] = []  # whether a browser asks for it without being told to, and where
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {values[name] or "" for name in ("id", "name") if name in values}
        for name in ("href", "src"):
            if values.get(name):
                fetched = (tag, name) in _FETCHED and values.get("rel") not in _NOT_FETCHED
                self.links.append((fetched, str(values[name])))


def wrong(site: Path) -> Iterator[str]:
    """A sentence for each link that does not hold."""
    pages = {path: _Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}
    for path, page in pages.items():
        for fetched, link in page.links:
            where = urlsplit(link)
            if where.scheme in ("http", "https", "") and where.netloc:
                if fetched:
                    yield f"{path.relative_to(site)} fetches {link}."
            elif not where.scheme:
                yield from _missing(site, path, where.path, unquote(where.fragment), pages)
    text = (site / "llms.txt").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not (site / link).is_file():
            yield f"llms.txt links to {link}, which is not there."


def _missing(site: Path, path: Path, to: str, anchor: str, pages: dict[Path, _Page]) -> Iterator[str]:
    target = (path.parent / unquote(to)).resolve() if to else path
    if not target.is_file():
        yield f"{path.relative_to(site)} links to {to}, which is not there."
    elif anchor and target in pages and anchor not in pages[target].anchors:
        yield f"{path.relative_to(site)} links to {to}#{anchor}: that page has no such place."


if __name__ == "__main__":
    found = list(wrong(Path(sys.argv[1]).resolve()))
    print("\n".join(found) or "Every link of the site holds, and nothing is fetched from elsewhere.")
    sys.exit(bool(found))
