"""Sections of runs on jets: ROC curves, scores, confusion, calibration; response and resolution of momenta."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from puffin.data.class_names import class_names
from puffin.data.jets import JetSelection, open_splits
from puffin.data.targets import ClassLabels
from puffin.errors import InputError
from puffin.losses.momenta import transverse_momentum
from puffin.metrics.bootstrap import Number, mean_and_spread
from puffin.metrics.calibration import reliability
from puffin.metrics.classification import classification_metrics, confusion, roc
from puffin.metrics.regression import by_event, mass_error, pt_error, response
from puffin.plots.comparison import Curve, draw_curves, draw_reliabilities, draw_roc, draw_scores
from puffin.plots.jets import draw_confusion
from puffin.plots.responses import ERRORS, draw_responses
from puffin.plots.style import class_name
from puffin.report.blocks import Figure, Note, Section, Table, embed, new_figure
from puffin.report.collect import Run, by_method
from puffin.report.overview import metrics_of_tables
from puffin.report.results import Jets, discriminant, evaluate, shown
from puffin.tasks.saving import read_predictions

_EFFICIENCIES = (0.3, 0.5)
_BINS = 8  # of pT, with equally many jets
_FEWEST = 20  # jets in a bin of pT


def classifiers(runs: Sequence[Run], reference: str, resamples: int) -> list[Section]:
    """Compare classifiers on their test jets; those that were tested on other jets have sections of their own.

    reference: method to compare with, "" for the first one; resamples: of the bootstrap."""
    content = {run.name: read_predictions(run.predictions) for run in runs if run.predictions is not None}
    samples: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.name in content:
            found = content[run.name]
            samples.setdefault((found["predict"].shape[1:], found["targets"].tobytes()), []).append(run)
    sections = []
    for group in samples.values():
        title = "Classification" if len(samples) == 1 else f"Classification by {', '.join(run.name for run in group)}"
        sections.append(_compared(title, group, content, reference, resamples))
    return sections


def _compared(
    title: str, runs: Sequence[Run], content: Mapping[str, Mapping], reference: str, resamples: int
) -> Section:
    """Compare classifiers of the same test jets; content: the predictions of each run."""
    section = Section(title)
    first = content[runs[0].name]
    target, weights = first["targets"].astype(np.int64), first.get("weights")
    scores = {
        method: [torch.from_numpy(content[run.name]["predict"]).double().log_softmax(1).numpy() for run in group]
        for method, group in by_method(runs).items()
    }
    jets, classes = Jets(target, weights, scores), first["predict"].shape[1]
    names = _names(runs[0], classes)
    labels = [class_name(c, names) for c in range(classes)]
    counts = ", ".join(f"{int((target == c).sum())} {label}" for c, label in enumerate(labels))
    section.blocks.append(Note(f"{len(target)} test jets: {counts}."))
    reference = reference if reference in scores else next(iter(scores))
    if classes == 2:
        section.blocks += _numbers(jets, reference, resamples)
    else:
        section.blocks.append(_numbers_of_classes(jets, labels))
    for signal in [1] if classes == 2 else range(classes):
        section.blocks += _roc(jets, signal, labels, reference)
    first_seeds = {method: np.exp(group[0]) for method, group in scores.items()}
    if classes == 2:
        samples = {m: (p[target == 1, 1], p[target == 0, 1]) for m, p in first_seeds.items()}
        figure = new_figure()
        draw_scores(figure.subplots(), samples, labels[1], labels[0])
        section.blocks.append(embed(figure, "Score distributions, dashed for the background; of the first seed."))
    bins = {method: reliability(p, target, weights) for method, p in first_seeds.items()}
    figure = new_figure()
    draw_reliabilities(figure.subplots(), bins)
    section.blocks.append(embed(figure, "Calibration: accuracy against confidence; of the first seed."))
    for method, p in first_seeds.items():
        figure = new_figure()
        draw_confusion(figure.subplots(), confusion(p, target, weights), labels, "Confusion")
        section.blocks.append(embed(figure, f"Confusion of {method}: fractions of the true class; of the first seed."))
    return section


def _names(run: Run, classes: int) -> tuple[str, ...]:
    """Return the names of the classes, () if the data are not there any more."""
    target = str(run.settings.get("target", "is_signal"))
    try:
        found = open_splits(
            run.settings.get("datadir", ""), JetSelection(ClassLabels(target), in_memory=False), {"test": 1}, 1
        )
        return class_names(found["test"].files, target, classes)
    except (InputError, OSError, KeyError):
        return class_names((), target, classes)


def _numbers(jets: Jets, reference: str, resamples: int) -> list[Table | Note]:
    """Return the metrics of taggers with errors, and their differences to the reference."""
    several = reference if len(jets.scores) > 1 else ""
    results, notes = evaluate(jets, 1, _EFFICIENCIES, several, resamples=resamples)
    metrics = list(results[0].numbers)
    rows = [[r.method, str(r.seeds), *(shown(r.numbers[m]) for m in metrics)] for r in results]
    caption = (
        f"Mean over the seeds ± their standard deviation (95% interval from {resamples} resamples of the test jets)."
    )
    tables: list[Table | Note] = [Table(["method", "seeds", *metrics], rows, caption)]
    compared = [r for r in results if r.differences]
    if compared:
        rows = [[r.method, *(shown(r.differences[m], "+") for m in metrics)] for r in compared]
        caption = f"Difference to {reference} on the same jets. An interval that contains 0 is no difference."
        tables.append(Table([f"minus {reference}", *metrics], rows, caption))
    return tables + [Note(note) for note in notes]


def _numbers_of_classes(jets: Jets, labels: Sequence[str]) -> Table:
    """Return accuracy, AUC over pairs of classes, AUC of each class against the rest, and the calibration error."""
    columns = ["accuracy", "AUC", *(f"AUC_{c}" for c in range(len(labels))), "ECE"]
    rows = []
    for method, group in jets.scores.items():
        found = [classification_metrics(scores, jets.target, math.nan, jets.weights) for scores in group]
        mean, spread = mean_and_spread(np.array([[metrics[name] for name in columns] for metrics in found]))
        numbers = map(Number, mean.tolist(), spread.tolist())
        rows.append([method, str(len(group)), *map(shown, numbers)])
    header = ["method", "seeds", *columns[:2], *(f"AUC of {label}" for label in labels), "ECE"]
    return Table(header, rows, "Test metrics: mean over the seeds ± their standard deviation.")


def _roc(jets: Jets, signal: int, labels: Sequence[str], reference: str) -> list[Figure]:
    """Draw the ROC curves of one class against the rest; [] if one of both is absent."""
    is_signal = jets.target == signal
    found = {
        method: [roc(discriminant(scores, signal), is_signal, jets.weights) for scores in group]
        for method, group in jets.scores.items()
    }
    if any(curve is None for group in found.values() for curve in group):
        return []
    figure = new_figure(height=5.4)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1)) if len(found) > 1 else [figure.subplots()]
    draw_roc(axes, found, int((~is_signal).sum()), reference, labels[signal])
    against = labels[0] if len(labels) == 2 else "the rest"
    text = f"ROC curve of {labels[signal]} against {against}, averaged over the seeds. Bands: 68% statistical error."
    return [embed(figure, text)]


# -- momenta ---------------------------------------------------------------------------------------------------------


def regressors(runs: Sequence[Run]) -> list[Section]:
    """Compare predicted momenta: metrics, response and resolution against pT, and histograms of the errors."""
    section = Section("Momenta", [metrics_of_tables(runs)] if any(run.metrics for run in runs) else [])
    content = {run: read_predictions(run.predictions) for run in runs if run.predictions is not None}
    estimates, true = {}, {}
    for run, arrays in content.items():
        for t in range(arrays["targets"].shape[1]):
            name = run.name if arrays["targets"].shape[1] == 1 else f"{run.name}, target {t}"
            true[name] = torch.from_numpy(arrays["targets"][:, t])
            estimates[name] = {"this network": torch.from_numpy(arrays["predict"][:, t])}
            if "jet" in arrays:
                estimates[name] = {"sum of constituents": torch.from_numpy(arrays["jet"])} | estimates[name]
    for label, error in (("pT", pt_error), ("mass", mass_error)):
        section.blocks += _against_pt(estimates, true, label, error)
    for name, found in estimates.items():
        figures = [new_figure(height=4.4) for _ in ERRORS]
        draw_responses([figure.subplots() for figure in figures], found, true[name], "")
        for figure, panel in zip(figures, ERRORS, strict=True):
            section.blocks.append(embed(figure, f"{name}: errors of the {panel.title} on the test jets."))
    return [section] if section.blocks else []


def _against_pt(
    estimates: Mapping[str, Mapping[str, Tensor]], true: Mapping[str, Tensor], label: str, error
) -> list[Figure]:
    """Draw median and width of the response in bins of the true pT, of each run and of the sum of constituents."""
    medians, widths = [], []
    for k, (name, found) in enumerate(estimates.items()):
        pt = transverse_momentum(true[name])
        bins = max(min(_BINS, len(pt) // _FEWEST), 1)
        parts = pt.argsort().tensor_split(bins)
        for estimate, p in found.items():
            of_bins = [response(by_event(error, p[rows], true[name][rows])) for rows in parts]
            centres = [float(pt[rows].median()) for rows in parts]
            # errors of the median and of half the 16-84% range of a Gaussian with this resolution
            root = [len(rows) ** 0.5 for rows in parts]
            own, text = estimate == "this network", name if estimate == "this network" else f"{name}: {estimate}"
            error_of = [1.25 * r.half_width / n for r, n in zip(of_bins, root, strict=True)]
            medians.append(Curve(centres, [r.median for r in of_bins], k, text, not own, error_of))
            error_of = [0.91 * r.resolution / n for r, n in zip(of_bins, root, strict=True)]
            widths.append(Curve(centres, [r.resolution for r in of_bins], k, text, not own, error_of))
    figures = []
    for curves, what, caption in (
        (medians, "median of predicted / true", f"Response of the {label} against the true pT"),
        (widths, "half of 16-84% / median", f"Resolution of the {label} against the true pT"),
    ):
        if curves:
            figure = new_figure()
            draw_curves(figure.subplots(), curves, xlabel="true pT [GeV]", ylabel=f"{label}: {what}")
            figures.append(embed(figure, f"{caption}, in bins of equally many jets; dashed: sum of the constituents."))
    return figures
