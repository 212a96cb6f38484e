"""Sections that every kind of run has: what was run, curves, metrics, tables from other tools; and sweeps."""

import math
import textwrap
from collections.abc import Iterable, Sequence

from puffin.plots.comparison import Curve, draw_histories
from puffin.report.blocks import Figure, Note, Section, Table, embed, embed_file, new_figure
from puffin.report.collect import Run, Sweep, by_method, differences
from puffin.report.results import read_metrics, shown
from puffin.tables import read_records

# validation metrics with a figure of their own, where a run has them: name in the history, label
_METRICS = {
    "valid_AUC": "AUC",
    "valid_BgRejectionAt0.5": "background rejection at signal efficiency 0.5",
    "valid_ECE": "calibration error",
    "valid_pT_resolution": "resolution of pT",
    "valid_m_resolution": "resolution of mass",
    "valid_dPsi": "68% quantile of the angle [rad]",
    "valid_f1_macro": "macro F1",
    "valid_chamfer": "chamfer loss",
    "valid_energy": "energy loss",
    "valid_probe_f1_mean": "macro F1 of the linear probe",
}
_LONGEST = 36  # letters in a line beside an axis
_SHOWN_COLUMNS = 14  # of a table of trials: more do not fit on a page
_TRIAL_DETAILS = ("started", "repeats", "failure")


def what_was_run(runs: Sequence[Run]) -> Section:
    """List commands, versions and data of the runs, the settings that differ, and warnings."""
    section = Section("What was run")
    facts = ("network", "events", "commit", "machine", "started", "updated")
    header = ["run", "data", *facts[:-1], "last line of the log"]
    rows = [[run.name, _data(run), *(getattr(run.log, fact) for fact in facts)] for run in runs]
    section.blocks.append(Table(header, rows))
    trained = [run for run in runs if run.settings]
    different = differences(trained)
    if different:
        rows = [[name, *values] for name, values in different.items()]
        section.blocks.append(Table(["setting", *(run.name for run in trained)], rows, "Settings that differ."))
    commands = [f"python3 {command}" for run in runs for command in run.log.commands]
    if commands:
        section.blocks.append(Note("Commands:", "\n\n".join(commands)))
    for run in runs:
        if run.log.warnings:
            section.blocks.append(Note(code="\n".join(run.log.warnings), title=f"Warnings of {run.name}"))
        if run.settings:
            values = "\n".join(f"{name}: {value}" for name, value in run.settings.items())
            section.blocks.append(Note(code=values, title=f"All settings of {run.name}"))
    return section


def _data(run: Run) -> str:
    """Return the folder or files of a run's events."""
    evaluated = {row["evaluated"] for row in run.metrics.values() if row.get("evaluated")}
    found = run.settings.get("datadir", "")
    return " ".join([found] if isinstance(found, str) else found) or ", ".join(sorted(evaluated))


def curves(runs: Iterable[Run]) -> Section:
    """Draw the losses and the validation metrics of trained runs; each kind of network has figures of its own."""
    section = Section("Curves")
    kinds: dict[str, list[Run]] = {}
    for run in runs:
        if run.history:
            kinds.setdefault(run.network, []).append(run)
    for kind, trained in kinds.items():
        title = f" of each {kind}" if kind and len(kinds) > 1 else ""
        losses = {"train_loss": "training", "valid_loss": "validation"}
        section.blocks.append(_history(trained, losses, "loss", f"Losses{title}, dashed for the training."))
        for name, label in _METRICS.items():
            if any(math.isfinite(row.get(name, math.nan)) for run in trained for row in run.history):
                section.blocks.append(_history(trained, {name: ""}, label, f"Validation: {label}{title}."))
    return section


def _history(runs: Sequence[Run], columns: dict[str, str], label: str, caption: str) -> Figure:
    """Draw columns of the histories of runs, with one colour for each method. columns: how each is called."""
    by_step = any(len({row["epoch"] for row in run.history}) < len(run.history) for run in runs)
    unit = "step" if by_step else "epoch"
    lines = []
    for k, (method, group) in enumerate(by_method(runs).items()):
        for number, run in enumerate(group):
            for column, what in columns.items():
                rows = [row for row in run.history if math.isfinite(row.get(column, math.nan))]  # not all are probed
                name = f"{method} {what}".strip() if not number else ""  # the legend names the first seed only
                values = [row[column] for row in rows]
                lines.append(Curve([row[unit] for row in rows], values, k, name, column.startswith("train")))
    figure = new_figure()
    draw_histories(figure.subplots(), lines, unit, ylabel=textwrap.fill(label, _LONGEST))
    return embed(figure, caption)


def metrics_of_tables(runs: Sequence[Run], columns: Sequence[str] = ()) -> Table:
    """Return the numbers of the tables of test metrics: mean over the seeds of a method, ± their spread.

    columns: to show; without any, the usual ones."""
    rows = [(run.paths.table(next(iter(run.metrics))), run.name) for run in runs if run.metrics]
    results = read_metrics(dict.fromkeys(path for path, _ in rows), columns, {name for _, name in rows})
    names = list(results[0].numbers)
    cells = [[r.method, str(r.seeds), *(shown(r.numbers[name]) for name in names)] for r in results]
    return Table(["method", "seeds", *names], cells, "Test metrics: mean over the seeds ± their standard deviation.")


def further_tables(runs: Iterable[Run]) -> list[Section]:
    """Return what --test and tools/stress.py wrote beside the logs of the runs."""
    symmetry, stress = Section("Symmetry"), Section("Stress")
    for run in runs:
        if run.paths.symmetry.is_file():
            symmetry.blocks.append(Note(f"{run.name}:", run.paths.symmetry.read_text(encoding="utf-8")))
        if path := run.file("stress.csv"):
            cells = [[r["method"], r["metric"], *map(_short, _with_ends(r))] for r in read_records(path)]
            header = ["perturbation and strength", "metric", "value", "low", "high", "ratio", "low", "high"]
            section = f"{run.name}: the ratios are to the unperturbed jets; low and high are the ends of 95% intervals."
            stress.blocks.append(Table(header, cells, section))
    return [section for section in (symmetry, stress) if section.blocks]


def _with_ends(row: dict[str, str]) -> list[str]:
    return [row[name] for name in ("value", "low", "high", "ratio", "ratio_low", "ratio_high")]


def _short(text: str) -> str:
    """Return a number of a table with four significant digits, and other text as it is."""
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def of_sweep(sweep: Sweep) -> Section:
    """Show the trials of a sweep: history, importance of the flags, and the table."""
    section = Section(f"Sweep {sweep.name}")
    if sweep.command:
        section.blocks.append(Note("The best trial as a command:", sweep.command))
    for path in sweep.pictures:
        kind = path.stem.rsplit(".", 1)[-1]
        section.blocks.append(embed_file(path, f"{sweep.name}: {kind}", wide=kind == "parallel"))
    trials = sweep.trials
    columns = [name for name in (trials[0] if trials else ()) if any(row[name] for row in trials)]
    columns = [name for name in columns if name not in _TRIAL_DETAILS][:_SHOWN_COLUMNS]
    rows = [[_short(row[name]) for name in columns] for row in trials]
    section.blocks.append(Table(columns, rows, "A click on a column sorts the trials."))
    return section
