"""Links between the pages, and to files of the repository."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, links_of

FURTHER = [ROOT / "tests/golden/README.md", ROOT / "weights/README.md"]


def anchors_of(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *FURTHER], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in links_of(page):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link} does not exist"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leaves the repository"
        if anchor:
            assert anchor in anchors_of(target), f"{page.name}: {link} has no such heading"


def test_contents_page_lists_every_page():
    contents = set(links_of(ROOT / "docs/README.md"))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= contents


def test_every_picture_is_shown():
    shown = {Path(link).name for page in PAGES for link in links_of(page)}
    assert {picture.name for picture in (ROOT / "docs").glob("*.png")} <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_paragraphs_are_one_line(page):
    """Two lines of prose in a row would be one paragraph that was wrapped by hand."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    plain = re.compile(r"^[A-Za-z*`\[(]")
    lines = text.splitlines()
    for first, second in zip(lines, lines[1:], strict=False):
        assert not (plain.match(first) and plain.match(second)), (
            f"{page.name}: join these lines: {first[:60]} | {second[:60]}"
        )


def test_pages_named_in_the_code_exist():
    """Help texts, docstrings and comments point at pages of documentation."""
    files = [ROOT / "setup.py", ROOT / "Makefile", *ROOT.glob("*.py")]
    for folder, pattern in (("src", "*.py"), ("tests", "*.py"), ("data", "*.py"), ("tools", "*.py"), ("bench", "*.py")):
        files += (ROOT / folder).rglob(pattern)
    files += [*(ROOT / "csrc").rglob("*.*"), *(ROOT / "config").rglob("*.yaml"), *(ROOT / "slurm").glob("*.sbatch")]
    missing = []
    for file in files:
        for name in re.findall(r"docs/\w+\.md", file.read_text()):
            missing += [] if (ROOT / name).exists() else [f"{file.relative_to(ROOT)}: {name}"]
    assert not missing
