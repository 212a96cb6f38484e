"""What studies of the number of labelled events share: flags, and the table of runs.

The runs of a study are named STUDY-METHOD-BUDGET-sSEED. Each has a row in log/STUDY.Best.metrics.csv; for points
puffin.plots.label_budgets reads it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from puffin.errors import InputError
from puffin.runs.clouds import open_datasets
from puffin.runs.paths import RunPaths
from puffin.settings.clouds import CloudDataSettings
from puffin.settings.common import RunSettings
from puffin.settings.types import integer
from puffin.tables import read_records


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the flags of a study, and those after -- for the training script."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:split], arguments[split + 1 :]


def add_study_arguments(
    parser: argparse.ArgumentParser,
    budgets: Sequence[int],
    datadir: str = "data/sample_data/lartpc",
    events: str = "LArTPC events",
) -> None:
    """Add the flags of a study. budgets: numbers of training events if the user names none; events: in `datadir`."""
    add = parser.add_argument
    add("--datadir", default=datadir, metavar="DIR", help=f"folder of {events} (default: %(default)s)")
    add(
        "--budgets",
        nargs="+",
        type=integer(1),
        default=list(budgets),
        metavar="N",
        help=f"numbers of training events (default: {' '.join(map(str, budgets))})",
    )
    add(
        "--seeds",
        nargs="+",
        type=integer(0),
        default=[1, 2, 3],
        metavar="S",
        help="seeds of the subset of events, the weights and the order of events (default: 1 2 3)",
    )
    add(
        "--study",
        type=_name,
        default="budgets",
        metavar="NAME",
        help="name of the table, without dashes (default: %(default)s)",
    )
    add("--workdir", default="./", metavar="DIR", help="folder of log/, model/ and predict/ (default: %(default)s)")


def _name(text: str) -> str:
    """Check the name of a study: it is the prefix of its runs up to the first dash."""
    if not text or "-" in text:
        raise argparse.ArgumentTypeError(
            f"expected a name without dashes (it is the prefix of its runs up to the first dash), got {text!r}"
        )
    return text


def check_budgets(budgets: Sequence[int], data: CloudDataSettings) -> None:
    """Raise InputError if a budget is larger than the data set: the run would use fewer events than its name says."""
    events = len(open_datasets(replace(data, num_train=-1), seed=0)["train"])
    if max(budgets) > events:
        available = f"the number of training events with at least {data.min_points} points in {data.datadir}"
        raise InputError(f"--budgets: expected 1 to {events}, {available}, got {budgets}")


def prefix_of(study: str, method: str, budget: int, seed: int) -> str:
    """Return the name of a run of a study."""
    return f"{study}-{method}-{budget}-s{seed}"


def paths_of(workdir: str, prefix: str) -> RunPaths:
    """Return the files of a run of a study; its table is that of the study."""
    return RunPaths.of(RunSettings(prefix=prefix, workdir=workdir))


def finished(table: Path) -> set[str]:
    """Return the prefixes of the runs in a table."""
    if not table.exists():
        return set()
    return {row["prefix"] for row in read_records(table)}
