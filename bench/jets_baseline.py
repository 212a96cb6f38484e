"""Measure how well hand-made observables classify jets: boosted trees, and a cut on mass and tau32.

    python3 bench/jets_baseline.py --datadir data/sample_data/run12 --prefix baseline

The trees are scikit-learn's HistGradientBoostingClassifier on the observables of src/puffin/data/jet_observables.py.
With two classes there is also a cut: jets outside a window of mass, which is chosen with the training jets, are
background, and those inside are sorted by tau32. The training jets of a run are those of
`train_pelican_classifier.py --num-train N --seed S`, with the same flags for the data.

--simulated adds the labelled jets of another file to the training jets of the trees, for example those that a network
was pretrained on. Each of them counts less than a training jet.

The benchmark prints the metrics on the test jets, adds a row to log/PREFIX.Best.metrics.csv and writes
predict/PREFIX.best.test.pt, in the formats of train_pelican_classifier.py; the cut is called PREFIX-cut. With
--testfile, a name for its jets stands before .pt, as after an evaluation by that script. The observables are stored
beside the data, so a second run takes seconds.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from puffin.data.jet_blocks import JetSelection
from puffin.data.jet_observables import NAMES, import_fastjet, observables_of_file
from puffin.data.jets import JetDataset, open_splits
from puffin.data.targets import ClassLabels
from puffin.errors import InputError, plural
from puffin.files import append_row
from puffin.metrics.classification import classification_metrics, one_vs_rest, rejection
from puffin.runs.entry import run_script
from puffin.runs.paths import RunPaths, name_of_events
from puffin.settings.common import RunSettings
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer, number
from puffin.tasks.saving import save_predictions
from puffin.training.task import Evaluation

ITERATIONS = 200  # of boosting
SMALLEST = 1e-7  # probability; scores are logarithms
WINDOWS = np.linspace(0.05, 0.95, 19)  # quantiles of the signal's mass between which the cut may keep jets
OUTSIDE = 10.0  # larger than any tau32


class Sample:
    """The jets of a split: observables x (N, F) float32, class numbers y (N,) or None, and row (N,) in the
    files.

    dataset: with the jets in use; jobs: number of processes."""

    def __init__(self, dataset: JetDataset, jobs: int):
        self.row = dataset.events.numpy()
        self.x = np.concatenate([observables_of_file(path, jobs) for path in dataset.files])[self.row]
        labels = dataset.labels()
        self.y = None if labels is None else labels.numpy()

    def column(self, name: str) -> np.ndarray:
        """Return an observable, (N,)."""
        return self.x[:, NAMES.index(name)]


def check_splits(datasets: dict[str, JetDataset], datadir: str) -> None:
    """Raise InputError if there are no training or no test jets."""
    for split in ("train", "test"):
        if split not in datasets:
            raise InputError(f"{datadir}: no {split} file (*.h5 with '{split}' in its name)")


def trees(
    train: Sample,
    test: Sample,
    num_classes: int,
    iterations: int,
    seed: int,
    simulated: Sample | None = None,
    weight: float = 1.0,
) -> np.ndarray:
    """Train boosted trees; return logarithms of the class probabilities of the test jets, (N, K) float64.

    simulated: further training jets, each of which counts `weight` times as much as one of `train`."""
    model = HistGradientBoostingClassifier(
        max_iter=iterations,
        learning_rate=0.05,
        max_leaf_nodes=15,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    probabilities = np.zeros((len(test.x), num_classes))
    x, y, weights = train.x, train.y, None
    if simulated is not None:
        x, y = np.concatenate([x, simulated.x]), np.concatenate([y, simulated.y])
        weights = np.repeat([1.0, weight], [len(train.y), len(simulated.y)])
    fitted = model.fit(x, y, weights)
    probabilities[:, fitted.classes_] = fitted.predict_proba(test.x)
    return np.log(np.maximum(probabilities, SMALLEST))


def cut(train: Sample, test: Sample) -> np.ndarray:
    """Choose the window of mass with the best background rejection at a signal efficiency of 0.5 on the training jets.

    Returns scores (N, 2) of the test jets, which descend with tau32, and lie lower outside of the window."""
    mass = train.column("mass")
    edges = np.quantile(mass[train.y == 1], WINDOWS)
    windows = [(low, high) for low in edges for high in edges if low < high]

    def rejected(window: tuple[float, float]) -> float:
        curve = one_vs_rest(_cut_scores(train, window), train.y)[0]
        return 0.0 if curve is None else rejection(curve, 0.5)[0]

    return _cut_scores(test, max(windows, key=rejected))


def _cut_scores(sample: Sample, window: tuple[float, float]) -> np.ndarray:
    """Return scores (N, 2): those of class 1 are positive inside the window."""
    mass = sample.column("mass")
    inside = (mass > window[0]) & (mass < window[1])
    score = 1 - sample.column("tau32_1").astype(np.float64) - np.where(inside, 0, OUTSIDE)
    return np.stack([np.zeros_like(score), score], 1)


def save(paths: RunPaths, test: Sample, scores: np.ndarray, events: str, extra: dict) -> dict[str, float]:
    """Write predictions and a row of metrics; return the metrics, {} without labels.

    events: name of the jets of another test file, otherwise ""; extra: further columns."""
    outputs, run = {"predict": scores, "index": np.arange(len(scores)), "row": test.row}, uuid4().hex
    metrics = {}
    if test.y is not None:
        outputs["targets"] = test.y
        loss = F.cross_entropy(torch.from_numpy(scores), torch.from_numpy(test.y))
        metrics = classification_metrics(scores, test.y, float(loss))
    evaluation = Evaluation("test", "best", paths.predictions("best", "test", events), run)
    paths.predictdir.mkdir(parents=True, exist_ok=True)
    save_predictions(evaluation, {key: torch.from_numpy(value) for key, value in outputs.items()}, "pt")
    if not metrics:
        return metrics
    row = {"prefix": paths.prefix, "timestamp": time.strftime("%Y-%m-%d %H:%M:%S"), **metrics, **extra, "run": run}
    append_row(paths.table("best"), row)
    return metrics


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the flags."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--datadir", default="data/sample_data/run12", metavar="DIR", help="folder of jets (default: %(default)s)")
    add("--testfile", default="", metavar="FILE", help="test file, instead of that in --datadir")
    add("--target", default="is_signal", metavar="KEY", help="key of the class labels (default: %(default)s)")
    add(
        "--num-train",
        type=integer(-1),
        default=-1,
        metavar="N",
        help="number of training jets, chosen by the seed (default: all)",
    )
    add(
        "--num-test",
        type=integer(-1),
        default=-1,
        metavar="N",
        help="number of test jets, chosen by the seed (default: all)",
    )
    add("--seed", type=integer(0), default=0, metavar="S", help="random seed (default: %(default)s)")
    add("--prefix", default="baseline", metavar="NAME", help="name of the run (default: %(default)s)")
    add("--workdir", default="./", metavar="DIR", help="folder of log/ and predict/ (default: %(default)s)")
    add("--simulated", default="", metavar="FILE", help="further labelled jets for the training of the trees")
    text = "what a jet of --simulated counts, relative to a training jet (default: %(default)s)"
    add("--simulated-weight", type=number(above=0), default=0.05, metavar="W", help=text)
    text = f"boosting iterations, one tree per class each (default: {ITERATIONS}; with --simulated {3 * ITERATIONS})"
    add("--iterations", type=integer(1), metavar="N", help=text)
    add("-j", "--jobs", type=integer(1), default=1, metavar="N", help="number of processes (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the baselines on the test jets."""
    args, start = parse_arguments(arguments), time.time()
    import_fastjet()
    selection = JetSelection(ClassLabels(args.target), in_memory=False)
    datasets = open_splits(args.datadir, selection, {"train": args.num_train}, args.seed)
    selection = replace(selection, target_needed=False)
    datasets |= open_splits(args.datadir, selection, {"test": args.num_test}, args.seed, args.testfile)
    check_splits(datasets, args.datadir)
    train, test = (Sample(datasets[split], args.jobs) for split in ("train", "test"))
    simulated = None
    if args.simulated:
        simulated = Sample(JetDataset([args.simulated], replace(selection, target_needed=True)), args.jobs)
    iterations = args.iterations or (3 * ITERATIONS if simulated else ITERATIONS)
    labelled = [sample.y for sample in (train, test, simulated) if sample is not None and sample.y is not None]
    num_classes = max(2, int(max(y.max() for y in labelled)) + 1)
    if len(np.unique(train.y)) < 2:
        raise InputError(f"{args.datadir}: the training jets are all of class {train.y[0]}; choose another --target")
    with threadpool_limits(args.jobs):
        scores = {args.prefix: trees(train, test, num_classes, iterations, args.seed, simulated, args.simulated_weight)}
    if num_classes == 2:
        scores[f"{args.prefix}-cut"] = cut(train, test)
    print(f"{plural(len(train.y), 'training jet')}, {plural(len(test.x), 'test jet')}, {time.time() - start:.0f} s")
    for prefix, values in scores.items():
        paths = RunPaths.of(RunSettings(prefix=prefix, workdir=args.workdir))
        evaluated = str(Path(args.testfile or args.datadir).resolve())
        extra = {"num_train": len(train.y), "seed": args.seed, "evaluated": evaluated}
        metrics = save(paths, test, values, name_of_events([args.testfile] if args.testfile else []), extra)
        shown = ("accuracy", "AUC", *(("BgRejectionAt0.3", "BgRejectionAt0.5") if num_classes == 2 else ()))
        numbers = "  ".join(f"{name} {metrics[name]:.4g}" for name in shown if metrics)
        print(f"  {prefix:20} {numbers or 'no metrics, as the jets have no labels'}", flush=True)


if __name__ == "__main__":
    run_script(main, sys.argv[1:], hint="")
