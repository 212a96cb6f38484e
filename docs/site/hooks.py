"""What MkDocs adds to the pages of docs/: pages of the repository, flags, the Python interface, executed tutorials."""

import re
import sys
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from docs.site import flags, interface, links, tutorials  # noqa: E402

REPOSITORY = {  # place on the site of each page outside of docs/
    "README.md": "start.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CITATION.cff": "CITATION.cff",
    "weights/README.md": "weights.md",
    "tests/golden/README.md": "golden.md",
}
SCRIPTS = (
    *("train_pelican_classifier.py", "train_pelican_cov.py", "train_pointmae.py", "train_segmentation.py"),
    "optuna_search.py",
)
FOLDERS = ("tools", "data", "bench")
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.py"))
NOTEBOOKS = ROOT / "build/tutorials"  # executed
PLACES = REPOSITORY | {f"docs/tutorials/{file.name}": f"tutorials/{file.stem}.md" for file in TUTORIALS}
SOURCES = {place: source for source, place in REPOSITORY.items()}


def on_files(files, config):
    """Add the pages that docs/ does not have."""
    pages: dict[str, str | bytes] = {place: (ROOT / source).read_text() for source, place in REPOSITORY.items()}
    pages |= {f"flags/{Path(script).stem}.md": flags.page_of_script(script) for script in SCRIPTS}
    pages |= {f"flags/{name}.md": flags.page_of_folder(name, flags.scripts_of(ROOT, name)) for name in FOLDERS}
    pages["python_interface.md"] = interface.page()
    for tutorial in TUTORIALS:
        try:
            notebook = tutorials.executed(tutorial, ROOT, NOTEBOOKS)
        except CellExecutionError as error:
            raise PluginError(f"{tutorial.name}: {error}") from error
        text, pictures = tutorials.page_of(notebook)
        pages |= {f"tutorials/{tutorial.stem}.md": text, f"tutorials/{notebook.name}": notebook.read_bytes()}
        pages |= {f"tutorials/{name}": picture for name, picture in pictures.items()}
    for place, content in pages.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Make the links of the repository lead to pages of the site, and drop the marks for the tests."""
    place = page.file.src_uri
    try:
        text = links.for_site(markdown, SOURCES.get(place, f"docs/{place}"), PLACES)
    except ValueError as error:
        raise PluginError(str(error)) from error
    return re.sub(r"^<!-- not run: .* -->\n", "", text, flags=re.M)


def on_post_build(config):
    """Refuse a site that loads something from the network, or that lacks a file."""
    problems = links.problems_of(Path(config["site_dir"]))
    if problems:
        raise PluginError("\n".join(problems))
