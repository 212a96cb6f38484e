"""Sections of runs on LArTPC events: F1 of the classes, confusion, and events in three dimensions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from puffin.checkpoints.checkpoint import Checkpoint
from puffin.checkpoints.networks import network_of_checkpoint, settings_of_checkpoint
from puffin.data.pilarnet import CloudDataset, CloudSelection, energy_of
from puffin.errors import InputError
from puffin.metrics.bootstrap import Number, mean_and_spread, results_of_methods
from puffin.metrics.segmentation import macro_f1_of_seeds, segmentation_metrics
from puffin.plots.clouds import Page, by_class, by_energy, by_error
from puffin.plots.jets import draw_confusion
from puffin.report.blocks import Note, Section, Table, View, embed, embed_file, new_figure, view_of
from puffin.report.collect import Run, by_method
from puffin.report.overview import metrics_of_tables
from puffin.report.results import shown
from puffin.runs.clouds import open_datasets
from puffin.tasks.cloud_pictures import event_pages
from puffin.tasks.point_predictions import read_confusions, read_methods

_EVENTS = 3  # of a run that are shown in three dimensions
_PICTURES = 6  # of a run that are embedded
_LOSSES = ("loss", "chamfer", "energy", "probe_f1_mean")  # columns of the tables of pretrained networks


def segmentations(runs: Sequence[Run], reference: str, resamples: int) -> list[Section]:
    """Compare networks that classify points; resamples: of the bootstrap over whole events."""
    section = Section("Points")
    predicted = [run for run in runs if run.predictions is not None]
    methods = by_method(predicted)
    if predicted:
        section.blocks += _numbers(methods, reference, resamples)
    elif any(run.metrics for run in runs):
        section.blocks.append(metrics_of_tables(runs))
    for method, group in methods.items():
        names = _classes(group[0].predictions)
        table = sum(read_confusions(run.predictions).confusions.sum(0) for run in group)
        figure = new_figure()
        draw_confusion(figure.subplots(), table, names, "Confusion")
        section.blocks.append(embed(figure, f"Confusion of the points by {method}: fractions of the true class."))
    for run in predicted:
        section.blocks += _views(run)
    return [section] if section.blocks else []


def _classes(path: Path) -> list[str]:
    with h5py.File(path) as file:
        return [str(name) for name in file.attrs["classes"]]


def _numbers(methods: dict[str, list[Run]], reference: str, resamples: int) -> list[Table | Note]:
    """Return the macro F1 of methods with errors, and the F1 of the classes."""
    files = {method: [run.predictions for run in group] for method, group in methods.items()}
    names = _classes(next(iter(files.values()))[0])
    try:
        confusions = read_methods(files)
    except InputError as error:  # of other events: no common resamples
        return [
            Note(f"No paired errors: {error}"),
            metrics_of_tables([run for group in methods.values() for run in group]),
        ]
    statistics = {method: macro_f1_of_seeds(found) for method, found in confusions.items()}
    events = next(iter(confusions.values())).shape[1]
    reference = reference if reference in methods else next(iter(methods))
    several = reference if len(methods) > 1 else ""
    results = results_of_methods(statistics, ["f1_macro"], np.zeros(events), several, resamples=resamples)
    header = ["method", "seeds", "macro F1", *names, *([f"macro F1 minus {reference}"] if several else [])]
    rows = []
    for result in results:
        of_seeds = [segmentation_metrics(each.sum(0), names) for each in confusions[result.method]]
        values = np.array([[metrics[f"f1_{name}"] for name in names] for metrics in of_seeds])
        each = [shown(Number(*pair)) for pair in zip(*(x.tolist() for x in mean_and_spread(values)), strict=True)]
        compared = [shown(result.differences["f1_macro"], "+") if result.differences else ""] if several else []
        rows.append([result.method, str(result.seeds), shown(result.numbers["f1_macro"]), *each, *compared])
    caption = (
        f"F1 of the points of {events} test events: mean over the seeds ± their standard deviation (95% interval from "
        f"{resamples} resamples of whole events)."
    )
    return [Table(header, rows, caption)]


def _views(run: Run) -> list[View | Note]:
    """Return the first test events of a run in three dimensions: true and predicted classes, errors and energies."""
    try:
        pages = pages_of_predictions(run.predictions, _EVENTS)
    except (InputError, OSError) as error:
        return [Note(f"The events of {run.name} are not shown: {error}")]
    return [view_of(of_event, f"{run.name}, {title}.") for title, of_event in pages.items()]


def pages_of_predictions(path: Path, number: int) -> dict[str, list[Page]]:
    """Read the points of the first events of a file of predictions; returns pages by the title of the event.

    InputError if the files of the events are not there any more, or hold other points."""
    with h5py.File(path) as file:
        cuts = {name: file.attrs[name].item() for name in ("energy_threshold", "remove_led")}
        files, places = list(file.attrs["files"]), list(zip(file["file"][:number], file["event"][:number], strict=True))
        ptr = file["ptr"][: number + 1]
        true, predicted = (file[name][: ptr[-1]] for name in ("truth", "class"))
    selection = CloudSelection(**cuts, min_points=0, skip_bad=True, save_index=False)
    dataset = CloudDataset(files, selection)
    pages = {}
    for (f, row), first, last in zip(places, ptr, ptr[1:], strict=False):
        place = int(np.searchsorted(dataset.events.numpy(), dataset.first[f] + row))
        points = dataset.__getitems__([place]).points.numpy()
        if len(points) != last - first:
            raise InputError(f"{dataset.files[f]}: event {row} has {len(points)} points, and {path} has {last - first}")
        title = f"event {row} of {Path(files[f]).name}, {len(points)} points"
        energies = energy_of(points[:, 3], selection.eps, selection.emax)
        found = {
            "true classes": by_class(points, true[first:last], ""),
            "predicted classes": by_class(points, predicted[first:last], ""),
            "errors": by_error(points, true[first:last], predicted[first:last], ""),
            "energies": by_energy(points, energies, ""),
        }
        pages[title] = [replace(page, title=name) for name, page in found.items()]
    return pages


def pretrainings(runs: Sequence[Run]) -> list[Section]:
    """Show the metrics of pretrained networks, and what they reconstruct of an event.

    Without the checkpoint or the events, the pictures that the run drew take the place of the view."""
    section = Section("Pretraining")
    tested = [run for run in runs if run.metrics]
    if tested:
        found = {column for run in tested for row in run.metrics.values() for column in row}
        section.blocks.append(metrics_of_tables(tested, [column for column in _LOSSES if column in found]))
    for run in runs:
        try:
            section.blocks.append(_reconstruction(run))
        except (InputError, OSError) as error:
            section.blocks.append(Note(f"No event of {run.name} in three dimensions: {error}"))
            section.blocks += [embed_file(path, f"{run.name}: {path.stem}") for path in run.pictures[-_PICTURES:]]
    return [section]


def _reconstruction(run: Run) -> View:
    """Return an event with its tokens, masked and reconstructed points, and the embedding of the network.

    InputError without the checkpoint, or without the events that the run was validated on."""
    checkpoint = Checkpoint.read(run.checkpoint or run.paths.checkpoint)
    settings = settings_of_checkpoint(checkpoint)
    seed = settings.run.seed
    datasets = open_datasets(settings.data, seed, save_index=False)
    dataset = datasets.get("valid", datasets["train"])
    pages = event_pages(network_of_checkpoint(checkpoint), dataset, 0, seed)
    titles = [page.title.partition(": ") for page in pages.values()]
    short = [replace(page, title=name) for page, (_, _, name) in zip(pages.values(), titles, strict=True)]
    return view_of(short, f"{run.name}, validation event 0, with the mask of the validation.")
