"""Tutorials: notebooks in jupytext's percent format, executed when the site is built."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbconvert.filters import strip_ansi
from nbformat import NotebookNode

_LINKED = ("src", "config", "tools", "weights", "data/lartpc", "data/sample_data")  # what tutorials read
_SECONDS = 300  # of a cell


def executed(tutorial: Path, root: Path, folder: Path) -> Path:
    """Execute a tutorial, or take the result of an earlier build if the tutorial did not change; return the notebook.

    root: the clone; folder: of the executed notebooks."""
    result = folder / f"{tutorial.stem}.ipynb"
    if result.exists() and result.stat().st_mtime > tutorial.stat().st_mtime:
        return result
    notebook = jupytext.read(tutorial)
    with tempfile.TemporaryDirectory() as clone:
        start = _copy_of(root, Path(clone))
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        client = NotebookClient(
            notebook,
            timeout=_SECONDS,
            kernel_name="python3",
            extra_arguments=["--log-level=ERROR"],  # without the advice on encryption
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": start}},
        )
        client.execute(env=os.environ | {"PATH": path})
        for output in _streams(notebook):
            output.text = strip_ansi(output.text).replace(f"{clone}/", "").replace(f"{root}/", "")
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, result)
    return result


def page_of(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """Return an executed notebook as Markdown, and its pictures by name."""
    pictures = {"output_files_dir": f"{notebook.stem}_files", "unique_key": notebook.stem}
    text, resources = MarkdownExporter().from_filename(notebook, pictures)
    title, _, rest = text.partition("\n")
    download = f"[Download this notebook]({notebook.name}) and open it in the folder `docs/tutorials` of your clone."
    return f"{title}\n\n{download}\n{rest}", resources["outputs"]


def _streams(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """Yield what the cells printed."""
    for cell in notebook.cells:
        yield from (output for output in cell.get("outputs", ()) if output.output_type == "stream")


def _copy_of(root: Path, clone: Path) -> Path:
    """Make a folder that looks like a clone and in which tutorials can write; return its docs/tutorials."""
    scripts = [file.relative_to(root) for pattern in ("*.py", "data/*.py") for file in root.glob(pattern)]
    for name in (*_LINKED, *scripts):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).symlink_to(root / name)
    start = clone / "docs/tutorials"
    start.mkdir(parents=True)
    return start
