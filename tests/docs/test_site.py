"""The documentation site: its links, its pages of flags, and its tutorials. `make docs` builds it."""

import argparse
import re

import pytest

from docs.site import flags, links
from tests.docs.pages import ROOT, TUTORIALS, blocks_of_tutorial
from tests.docs.scripts import parser_of

PLACES = {"README.md": "start.md", "weights/README.md": "weights.md", "docs/tutorials/a.py": "tutorials/a.md"}


@pytest.mark.parametrize(
    ("source", "link", "expected"),
    [
        ("docs/kernels.md", "files.md#heading", "files.md#heading"),
        ("docs/kernels.md", "../weights/README.md", "weights.md"),
        ("docs/kernels.md", "tutorials/a.py", "tutorials/a.md"),
        ("docs/tutorials/a.md", "../files.md", "../files.md"),
        ("weights/README.md", "../docs/files.md", "files.md"),
        ("README.md", "docs/picture.png", "picture.png"),
        ("README.md", "https://arxiv.org/abs/2211.00454", "https://arxiv.org/abs/2211.00454"),
    ],
)
def test_links_lead_to_pages_of_the_site(source, link, expected):
    assert links.for_site(f"see [a page]({link}).", source, PLACES) == f"see [a page]({expected})."


def test_link_to_a_file_outside_of_the_site_is_an_error():
    with pytest.raises(ValueError, match=r"docs/kernels.md: ../setup.py is not on the site"):
        links.for_site("[setup](../setup.py)", "docs/kernels.md", PLACES)


def test_built_site_is_complete_and_needs_no_network(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "ours.js").touch()
    (tmp_path / "a/page.html").write_text(
        '<script src="../ours.js"></script><a href="https://arxiv.org">paper</a><a href="page.html#top">top</a>'
    )
    assert not links.problems_of(tmp_path)
    (tmp_path / "a/page.html").write_text('<script src="//cdn.org/x.js"></script><img src="../missing.png">')
    assert links.problems_of(tmp_path) == [
        "a/page.html: loads //cdn.org/x.js from the network",
        "a/page.html: ../missing.png does not exist",
    ]


@pytest.mark.parametrize("script", ["train_pelican_classifier.py", "optuna_search.py", "tools/stress.py"])
def test_page_of_flags_has_every_flag(script):
    page = flags.page_of_folder("tools", [script]) if "/" in script else flags.page_of_script(script)
    shown = [action for action in parser_of(script)._actions if action.help != argparse.SUPPRESS]
    for action in shown:
        for option in action.option_strings:
            assert option in ("-h", "--help") or re.search(rf"`[^`]*{option}\b", page), option
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert rows and all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [page.name for page in (ROOT / "docs").glob("*.md")] + [f"tutorials/{t.stem}.md" for t in TUTORIALS]
    assert not [page for page in pages if not re.search(rf"[ /]{re.escape(page)}$", navigation, flags=re.M)]


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda tutorial: tutorial.stem)
def test_cells_compile(tutorial):
    blocks = blocks_of_tutorial(tutorial)
    assert {block.language for block in blocks} == {"python", "bash"}
    for block in blocks:
        if block.language == "python":
            compile(block.text, str(block), "exec")
