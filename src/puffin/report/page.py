"""Put the sections of runs and sweeps together to one HTML file, which needs neither a server nor a network."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from puffin.checkpoints.checkpoint import AUTOENCODER, CLASSIFIER, REGRESSOR, SEGMENTATION
from puffin.checkpoints.writing import git_commit
from puffin.files import whole_file
from puffin.report.blocks import Section
from puffin.report.clouds import pretrainings, segmentations
from puffin.report.collect import Run, Sweep
from puffin.report.jets import classifiers, regressors
from puffin.report.looks import looked_at
from puffin.report.overview import curves, further_tables, of_sweep, what_was_run

TEMPLATES = Path(__file__).parent / "templates"


def sections_of(runs: Sequence[Run], sweeps: Sequence[Sweep], reference: str, resamples: int) -> list[Section]:
    """Make all sections, in the order of the page.

    reference: the method with which the others are compared, "" for the first one; resamples: of the bootstrap."""
    kinds: dict[str, Callable[[list[Run]], list[Section]]] = {
        CLASSIFIER: lambda found: classifiers(found, reference, resamples),
        REGRESSOR: regressors,
        SEGMENTATION: lambda found: segmentations(found, reference, resamples),
        AUTOENCODER: pretrainings,
    }
    sections = [what_was_run(runs), curves(runs)] if runs else []
    for kind, sections_of_kind in kinds.items():
        found = [run for run in runs if run.network == kind]
        sections += sections_of_kind(found) if found else []
    sections += looked_at([run for run in runs if run.network in kinds])
    sections += further_tables(runs) + [of_sweep(sweep) for sweep in sweeps]
    return [section for section in sections if section.blocks]


def write_page(path: Path, title: str, sections: Sequence[Section], refresh: int = 0) -> None:
    """Write the page. refresh [s]: how often a browser reads it again, 0 for never."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    text = environment.get_template("report.html.j2").render(
        title=title,
        sections=sections,
        refresh=refresh,
        made=time.strftime("%Y-%m-%d %H:%M:%S"),
        commit=git_commit() or "without a commit",
        style=_verbatim("style.css"),
        script=_verbatim("tables.js", "viewer.js"),
    )
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _verbatim(*names: str) -> Markup:
    """Return files of ours, which are not escaped."""
    return Markup("\n").join(Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in names)
