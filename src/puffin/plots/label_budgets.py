"""Compare F1 for different numbers of labelled events, from the tables of train_segmentation.py and the baseline."""

from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from puffin.detector import PILARNET
from puffin.errors import InputError, not_a_file
from puffin.files import whole_file
from puffin.plots.style import PANEL, page, save, styled
from puffin.tables import read_records

METHODS = ("baseline", "scratch", "peft", "lora", "fft", "student")
_COLOURS = dict(zip(METHODS, ("#000000", "#999999", "#0072b2", "#009e73", "#d55e00", "#cc79a7"), strict=True))


class LabelRun(NamedTuple):
    """A trained network, or the baseline: method, number of labelled events, and F1 of each class and `macro`."""

    prefix: str
    method: str
    budget: int
    f1: dict[str, float]


class Summary(NamedTuple):
    """Runs that differ only in the seed: number of runs, mean F1, and its standard deviation (nan for one run)."""

    runs: int
    mean: dict[str, float]
    spread: dict[str, float]


def read_runs(
    tables: Iterable[str | Path], all_events: int = 0, wanted: Container[str] | None = None
) -> list[LabelRun]:
    """Read the runs in several metrics CSVs; their settings are in PREFIX.yaml in the same folder.

    The last row of a run counts. all_events: number of labelled events of a run with --num-train -1. wanted: prefixes
    of the runs to read, or None for all. InputError for files that are missing or come from other scripts, and for
    runs with different classes."""
    runs = {}
    for table in map(Path, tables):
        if not table.is_file():
            raise InputError(f"{not_a_file(table)}. Pass a table such as log/NAME.Best.metrics.csv.")
        for row in read_records(table):
            if "f1_macro" not in row:
                raise InputError(f"{table}: column 'f1_macro' not found. Pass a table of train_segmentation.py.")
            # rows of other scripts in the same table have no F1
            if row["f1_macro"] and (wanted is None or row["prefix"] in wanted):
                runs[row["prefix"]] = _run_of(row, table, all_events)
    runs = list(runs.values())
    for run in runs:
        if run.f1.keys() != runs[0].f1.keys():
            raise InputError(
                f"{run.prefix}: expected the classes of {runs[0].prefix} ({', '.join(runs[0].f1)}), "
                f"got {', '.join(run.f1)}. Compare runs with the same --remove-led."
            )
    return runs


def _run_of(row: dict, table: Path, all_events: int) -> LabelRun:
    """Combine a row of a table with the settings of its run; InputError if these are missing."""
    settings_file = table.with_name(f"{row['prefix']}.yaml")
    if not settings_file.is_file():
        raise InputError(
            f"{settings_file}: not found. It holds the settings of a run in {table.name}; it was deleted, or the run "
            f"was only evaluated in this folder."
        )
    settings = yaml.safe_load(settings_file.read_text(encoding="utf-8-sig"))
    if "method" in settings:  # no network
        method = settings["method"]
    elif settings.get("pseudo_labels"):
        method = "student"
    else:
        from_scratch = settings.get("scratch") or not (settings["pretrained"] or settings["loadfile"])
        method = "scratch" if from_scratch else settings["finetune"]
    budget = settings["num_train"] if settings["num_train"] > 0 else all_events
    if not budget:
        raise InputError(f"{settings_file}: the run used all events; pass their number with --all")
    f1 = {name: float(row[f"f1_{name}"]) for name in ("macro", *PILARNET.class_names) if row.get(f"f1_{name}")}
    return LabelRun(row["prefix"], method, budget, f1)


def summarize(runs: Sequence[LabelRun]) -> dict[tuple[str, int], Summary]:
    """Average the runs with the same method and number of labelled events, in this order."""
    groups: dict[tuple[str, int], list[dict]] = {}
    for run in sorted(runs, key=lambda run: (METHODS.index(run.method), run.budget)):
        groups.setdefault((run.method, run.budget), []).append(run.f1)
    summaries = {}
    for key, each in groups.items():
        values = {name: np.array([f1[name] for f1 in each]) for name in each[0]}
        spread = {name: float(v.std(ddof=1)) if len(v) > 1 else float("nan") for name, v in values.items()}
        summaries[key] = Summary(len(each), {name: float(v.mean()) for name, v in values.items()}, spread)
    return summaries


def markdown(summaries: dict[tuple[str, int], Summary]) -> str:
    """Make a Markdown table: one line per method and number of labelled events, with mean and standard deviation."""
    names = list(next(iter(summaries.values())).mean) if summaries else []
    lines = [["method", "labels", "seeds", *(f"F1 {name}" for name in names)], ["---"] * (3 + len(names))]
    for (method, budget), s in summaries.items():
        cells = [f"{s.mean[n]:.3f}" + ("" if np.isnan(s.spread[n]) else f" ± {s.spread[n]:.3f}") for n in names]
        lines.append([method, str(budget), str(s.runs), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@styled
def draw_label_budgets(path: Path, summaries: dict[tuple[str, int], Summary]) -> None:
    """Draw F1 against the number of labelled events to one PNG; the picture says what the error bars are.

    One panel shows the mean over the classes, and one panel each class."""
    names = list(next(iter(summaries.values())).mean)
    budgets = sorted({budget for _, budget in summaries})
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure, grid = page(columns, rows, width=2.4 if columns > 1 else PANEL[0], height=2.2)
    panels = list(grid.flat)
    for axes, name in zip(panels, names, strict=False):
        for k, method in enumerate(METHODS):
            found = [(budget, summaries[method, budget]) for budget in budgets if (method, budget) in summaries]
            if found:
                shift = k - (len(METHODS) - 1) / 2  # so that the error bars do not overlap
                x = np.array([budget for budget, _ in found]) * 1.03**shift
                bars = np.nan_to_num([s.spread[name] for _, s in found])
                style = {"marker": "o", "ms": 4, "lw": 1.6, "capsize": 3, "color": _COLOURS[method], "label": method}
                axes.errorbar(x, [s.mean[name] for _, s in found], bars, **style)
        title = "mean over classes" if name == "macro" else name
        axes.set(xscale="log", xlabel="labelled events", ylabel="F1", title=title)
        axes.set_xticks(budgets, list(map(str, budgets)))
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
    for unused in panels[len(names) :]:
        unused.set_axis_off()
    seeds = sorted({s.runs for s in summaries.values()})
    number = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    bars = (
        f"error bars: standard deviation over the seeds ({number} per point)" if seeds[-1] > 1 else "one seed per point"
    )
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(METHODS), title=bars)
    with whole_file(path) as temporary:
        save(figure, temporary)
