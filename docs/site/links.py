"""Links between pages, as they are in the repository and as they are on the site."""

import posixpath
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
_LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href"}  # what a browser fetches by itself


def for_site(text: str, source: str, places: Mapping[str, str]) -> str:
    """Change the links of a page so that they lead to pages of the site.

    source: path of the page in the repository; places: on the site, of files that are not at their path below docs/.
    ValueError for a link to a file that is not on the site."""

    def changed(link: re.Match) -> str:
        target = link[2]
        if re.match(r"\w+:", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = places.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if place is None:
            raise ValueError(f"{source}: {target} is not on the site")
        here = posixpath.dirname(places.get(source, source.removeprefix("docs/")))
        return f"{link[1]}{posixpath.relpath(place, here or '.')}{link[3]}"

    return _LINK.sub(changed, text)


class _Page(HTMLParser):
    """Collect the addresses of a page that a browser loads by itself, and the files that it links to."""

    def __init__(self):
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if address := attributes.get(_LOADED.get(tag, "")):
            self.loaded.append(address)
        if tag == "a" and (address := attributes.get("href")):
            self.linked.append(address)


def problems_of(site: Path) -> list[str]:
    """Find files that a built page loads from the network, and files that it needs and that are missing."""
    problems = []
    for file in sorted(site.rglob("*.html")):
        page = _Page()
        page.feed(file.read_text())
        name = file.relative_to(site)
        problems += [f"{name}: loads {a} from the network" for a in page.loaded if re.match(r"(https?:)?//", a)]
        for address in {a.partition("#")[0].partition("?")[0] for a in page.loaded + page.linked} - {""}:
            if not re.match(r"\w+:|/", address) and not (file.parent / address).exists():
                problems.append(f"{name}: {address} does not exist")
    return problems
