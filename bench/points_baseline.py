"""Measure how well hand-made features and boosted trees classify LArTPC points: the baseline without neural networks.

    python3 bench/points_baseline.py --datadir DIR --budgets 5 25 100 --seeds 1 2 3

Every point is described by the shape and the energy of its surroundings at several scales, its connected components
and its event (`describe`). A first classifier, scikit-learn's HistGradientBoostingClassifier, sees these numbers. A
second one also sees the class probabilities that the first gives to the surrounding points (auto-context, Tu and Bai,
IEEE TPAMI 32 (2010) 1744); for its training they come from classifiers that have not seen the event. The class with the
highest mean of both probabilities is predicted.

The benchmark prints precision, recall and F1 on the test events (validation events if there are no test events), adds
a row to log/STUDY.Best.metrics.csv and writes the predictions to predict/, in the formats of train_segmentation.py. The
training events of a run are those of `train_segmentation.py --num-train N --seed S`. Runs are named
STUDY-baseline-BUDGET-sSEED; runs with a row in the table are skipped. bench/label_budgets.py measures the same runs
beside those of networks.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()


import numpy as np
import torch
import yaml
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import KBinsDiscretizer
from threadpoolctl import threadpool_limits
from torch import Tensor

from bench.studies import add_study_arguments, check_budgets, finished, paths_of, prefix_of
from puffin.checkpoints.writing import git_commit
from puffin.data.pilarnet import CloudDataset, energy_of
from puffin.data.pilarnet_files import find_files
from puffin.detector import PILARNET
from puffin.errors import InputError, plural
from puffin.files import append_row, whole_file
from puffin.layers.geometry_inputs import LINKS, surroundings
from puffin.metrics.segmentation import PER_CLASS, confusion_of, segmentation_metrics
from puffin.ops.geometry import components
from puffin.ops.neighbors import knn
from puffin.plots.label_budgets import markdown, read_runs, summarize
from puffin.runs.clouds import open_datasets
from puffin.runs.entry import run_script
from puffin.runs.paths import RunPaths, name_of_events
from puffin.settings.clouds import CloudDataSettings
from puffin.settings.declare import declared
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer
from puffin.tasks.point_predictions import PointPredictions

CONTEXT = (24, 160)  # numbers of nearest points whose probabilities are averaged
ITERATIONS = 100  # of boosting
BINS = 63  # of each feature
FOLDS = 3  # groups of training events; each gets probabilities from a classifier that was trained on the others


@dataclass(frozen=True)
class Event:
    """An event of P points.

    features (P, F) float32, see `describe`; classes (P,) int64; points (P, 4) float32: x, y, z [voxel], energy [MeV];
    rows (P,) int64 or None: numbers of the points within the event in the file; predictions name them.
    """

    features: np.ndarray
    classes: np.ndarray
    points: Tensor
    rows: Tensor | None = None


def describe(points: Tensor) -> np.ndarray:
    """Compute the features of all points of an event, (P, F) float32.

    points (P, 4) float32: x, y, z [voxel], energy [MeV]. The columns are the energy, and those of `surroundings`, which
    networks get with --geometry."""
    return torch.cat([points[:, 3:], surroundings(points, torch.tensor([0, len(points)]))], dim=1).numpy()


def add_context(event: Event, probabilities: np.ndarray) -> np.ndarray:
    """Append to the features the probabilities (P, C) of each point and their means over its surroundings.

    These are the CONTEXT nearest points and the connected components."""
    points, p = event.points, torch.from_numpy(probabilities)
    ptr, columns = torch.tensor([0, len(points)]), [p]
    nearest = knn(points[None], points[None], None, None, min(max(CONTEXT), len(points)))[1][0]
    columns += [p[nearest[:, :k]].mean(1) for k in CONTEXT]
    for link in LINKS:
        label = components(points, ptr, link)
        size = torch.bincount(label, minlength=len(points)).clamp_min(1)
        columns.append((torch.zeros_like(p).index_add(0, label, p) / size[:, None])[label])
    return np.concatenate([event.features, torch.cat(columns, dim=1).numpy()], axis=1)


class Baseline:
    """Two classifiers in a row; the second sees the probabilities of the first in the surroundings of each point."""

    def __init__(self, num_classes: int, iterations: int):
        self.num_classes, self.iterations = num_classes, iterations

    def fit(self, events: Sequence[Event]) -> "Baseline":
        """Train on events, each with at least one point; if there is one event only, both classifiers train on it."""
        folds = [range(k, len(events), FOLDS) for k in range(min(FOLDS, len(events)))]
        first = [None] * len(events)
        for fold in folds:
            others = [event for k, event in enumerate(events) if k not in fold] or events
            classifier = self._fitted([event.features for event in others], others)
            for k in fold:
                first[k] = self._probabilities(classifier, events[k].features)
        self.first = self._fitted([event.features for event in events], events)
        self.second = self._fitted([add_context(*pair) for pair in zip(events, first, strict=True)], events)
        return self

    def predict_proba(self, event: Event) -> np.ndarray:
        """Return the probabilities of the classes of every point of an event, (P, C) float32."""
        if not len(event.classes):
            return np.zeros((0, self.num_classes), np.float32)
        first = self._probabilities(self.first, event.features)
        second = self._probabilities(self.second, add_context(event, first))
        return (first + second) / 2  # with few Michel electrons the second alone may find none of them

    def _fitted(self, features: Sequence[np.ndarray], events: Sequence[Event]) -> Pipeline:
        """Train a classifier. Rare classes get larger weights, by the square root of their fraction of points."""
        classes = np.concatenate([event.classes for event in events])
        counts = np.bincount(classes, minlength=self.num_classes)
        weights = (len(classes) / counts[classes]) ** 0.5
        # scikit-learn's own bins of weighted points take several times as long as the training with few events
        bins = KBinsDiscretizer(
            BINS, encode="ordinal", strategy="quantile", quantile_method="linear", subsample=None, dtype=np.float32
        )
        trees = HistGradientBoostingClassifier(
            max_iter=self.iterations, learning_rate=0.15, l2_regularization=1.0, early_stopping=False, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # features with few values have fewer bins
            fitted = make_pipeline(bins, trees).fit(
                np.concatenate(features), classes, histgradientboostingclassifier__sample_weight=weights
            )
        return fitted

    def _probabilities(self, classifier: Pipeline, features: np.ndarray) -> np.ndarray:
        """Return the probabilities of all classes, (P, C) float32; 0 for classes without training points."""
        probabilities = np.zeros((len(features), self.num_classes), np.float32)
        found = classifier.classes_
        # with a single class scikit-learn returns a second column, for all others
        probabilities[:, found] = classifier.predict_proba(features)[:, : len(found)]
        return probabilities


class Events:
    """Reads the events of a data set and describes their points; each event once, as features stay in memory."""

    def __init__(self):
        self._known: dict[tuple[Path, int], Event] = {}

    def of(self, dataset: CloudDataset) -> list[Event]:
        """Return all events of a data set; after the cuts some may have no points."""
        events = []
        for k, (file, row) in enumerate(zip(*dataset.places(torch.arange(len(dataset))), strict=True)):
            place = dataset.files[file], int(row)
            if place not in self._known:
                self._known[place] = _read(dataset, k)
            events.append(self._known[place])
        return events


def _read(dataset: CloudDataset, k: int) -> Event:
    """Read and describe event number k of a data set."""
    batch, selection = dataset[k], dataset.selection
    x = PILARNET.voxels(batch.points[:, :3].double())
    energy = energy_of(batch.points[:, 3:].double(), selection.eps, selection.emax)
    # undo the rounding errors of the scaled coordinates, which would break ties of distances on the lattice
    points = torch.cat([x.round(decimals=2), energy], dim=1).float()
    return Event(describe(points), batch.semantic.numpy(), points, batch.row)


def measure(
    paths: RunPaths,
    data: CloudDataSettings,
    seed: int,
    iterations: int = ITERATIONS,
    events: Events | None = None,
    label: Sequence[str] = (),
) -> None:
    """Train with the events that settings and seed select; predict the test events, write predictions and metrics, and
    print the metrics.

    events: keeps what it reads for further runs, which must select the same points; label: files or folders of further
    events to predict."""
    start, events = time.time(), events or Events()
    datasets = open_datasets(data, seed)
    if label:
        datasets["label"] = CloudDataset(find_files(label), datasets["train"].selection)
    for dataset in datasets.values():
        dataset.selection = replace(dataset.selection, strict_led=True, rows=True)
    if "test" not in datasets:
        raise InputError(f"{data.datadir}: expected .h5 files in test/ or val/. Pass another folder with --datadir.")
    names = PILARNET.classes(data.remove_led)
    training = [event for event in events.of(datasets["train"]) if len(event.classes)]
    if not training:
        none = f"none of {len(datasets['train'])} training events has a point above"
        raise InputError(f"{data.datadir}: {none} --energy-threshold {data.energy_threshold:g}")
    baseline = Baseline(len(names), iterations).fit(training)
    if label:
        _predict(baseline, datasets["label"], events, paths.predictions("best", "test", name_of_events(label)), names)
    confusion = _predict(baseline, datasets["test"], events, paths.predictions("best", "test"), names)
    metrics = segmentation_metrics(confusion.numpy(), names)
    settings = {"method": "baseline", "seed": seed, "iterations": iterations, "commit": git_commit()}
    with whole_file(paths.settings) as temporary:
        temporary.write_text(yaml.safe_dump(settings | asdict(data)), encoding="utf-8")
    row = {"prefix": paths.prefix, "timestamp": time.strftime("%Y-%m-%d %H:%M:%S"), **metrics}
    append_row(paths.table("best"), row | {"evaluated": str(Path(data.datadir).resolve())})
    print(f"{paths.prefix}: {plural(len(datasets['test']), 'test event')}, {time.time() - start:.0f} s")
    for name in (*names, "macro"):
        values = "  ".join(f"{metric} {metrics[f'{metric}_{name}']:.3f}" for metric in PER_CLASS)
        print(f"  {name:7} {values}", flush=True)


def _predict(baseline: Baseline, dataset: CloudDataset, events: Events, stem: Path, names: tuple[str, ...]) -> Tensor:
    """Write the predictions for all events of a data set; return their confusion matrix (C, C) int64."""
    confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
    with PointPredictions(stem, dataset, names) as predictions:
        for k, event in enumerate(events.of(dataset)):
            probability, truth = torch.from_numpy(baseline.predict_proba(event)), torch.from_numpy(event.classes)
            points = {"row": event.rows, "truth": truth, "class": probability.argmax(1)}
            points["probability"] = probability.half()
            confusion += confusion_of(truth, points["class"], len(names))
            rows = {f"particle_{name}": values for name, values in points.items()}
            predictions.append({"index": torch.tensor([k]), "lengths": torch.tensor([len(truth)]), **rows})
    return confusion


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the flags."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_study_arguments(parser, (5, 25, 100))
    for entry in declared(CloudDataSettings):
        if entry.name in ("min_points", "energy_threshold"):
            found, text = entry.setting, f"{entry.setting.help} (default: %(default)s)"
            add(entry.flag, type=found.type, default=entry.default, metavar=found.metavar, help=text)
    add(
        "--iterations",
        type=integer(1),
        default=ITERATIONS,
        metavar="N",
        help="boosting iterations of each classifier, one tree per class each (default: %(default)s)",
    )
    add(
        "--label",
        nargs="+",
        default=[],
        metavar="PATH",
        help="files or folders of further events, whose points are classified too, for --pseudo-labels of "
        "train_segmentation.py: predict/NAME.best.test.EVENTS.h5",
    )
    add("-j", "--threads", type=integer(1), default=1, metavar="N", help="number of CPU threads (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the runs that are missing, then print the table."""
    args = parse_arguments(arguments)
    data = replace(
        CloudDataSettings(), datadir=args.datadir, min_points=args.min_points, energy_threshold=args.energy_threshold
    )
    check_budgets(args.budgets, data)
    table, events = paths_of(args.workdir, args.study).table("best"), Events()
    prefixes = {prefix_of(args.study, "baseline", n, seed): (n, seed) for n in args.budgets for seed in args.seeds}
    torch.set_num_threads(args.threads)
    with threadpool_limits(args.threads):
        for prefix, (budget, seed) in prefixes.items():
            if prefix not in finished(table):
                measure(
                    paths_of(args.workdir, prefix),
                    replace(data, num_train=budget),
                    seed,
                    args.iterations,
                    events,
                    args.label,
                )
    print(markdown(summarize(read_runs([table], wanted=prefixes))))


if __name__ == "__main__":
    run_script(main, sys.argv[1:], hint="")
