"""Runs of the two jet scripts: from settings to data, network and task."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

from puffin.checkpoints.checkpoint import CLASSIFIER, REGRESSOR, Checkpoint
from puffin.checkpoints.networks import pelican_config
from puffin.checkpoints.transfer import load_jets_
from puffin.data.class_names import class_names
from puffin.data.jets import JetDataset, JetSelection, open_splits
from puffin.data.pseudo_labels import SelfTrainingJets
from puffin.data.targets import ClassLabels, Momenta
from puffin.errors import InputError
from puffin.metrics.missing import NO_WEIGHT
from puffin.models.pelican import PelicanBackbone, PelicanClassifier, PelicanRegressor
from puffin.plots.jets import draw_classification, draw_regression
from puffin.runs.calibration import calibrate, check_calibration
from puffin.runs.class_weights import inverse_fractions, weights_of_classes
from puffin.runs.pretrained import take_pretrained
from puffin.runs.reports import Report
from puffin.runs.run import Run
from puffin.runs.self_training import uses_pseudo_labels
from puffin.runs.start import Start, start
from puffin.runs.train import train_and_evaluate
from puffin.settings import roles
from puffin.settings.common import SPLITS
from puffin.settings.finetuning import HEAD
from puffin.settings.flags import Flags
from puffin.settings.pelican import PelicanConfig
from puffin.settings.roles import Role
from puffin.settings.types import class_numbers
from puffin.tasks.classification import JetClassification
from puffin.tasks.regression import MomentumRegression
from puffin.tasks.saving import read_predictions
from puffin.tasks.symmetry import report_symmetries

log = logging.getLogger("puffin")

Datasets = dict[str, JetDataset]


def run_classifier(flags: Flags, report: Report | None = None) -> list[dict]:
    """Train or evaluate a classifier, or report its symmetries; return one row of numbers per epoch that was trained.

    report(all rows so far) is called after each epoch."""
    balanced = flags["class_weights"] == "balanced"
    if balanced and flags["task"] == "eval":
        flags = flags.not_given("class_weights")  # never those of the evaluated events
    found = start(flags, (CLASSIFIER,))
    if found.evaluating:
        _check_balanced(found, balanced)
    run, model = make_network(found, PelicanClassifier)
    check_calibration(run.settings, found.evaluating)
    if run.settings.run.test:
        return show_symmetries(run, model)
    calibrating = ("valid",) if run.settings.run.calibrate else ()
    datasets = open_jets(run, ClassLabels(run.settings.data.target), calibrating)
    if run.settings.loss.class_weights == "balanced":  # numbers from here on, which the checkpoints hold
        weights = balanced_weights(datasets["train"].labels(), run.settings.network.num_classes)
        run = run.changed(class_weights=weights)
    settings = run.settings
    weights = weights_of_classes(settings.loss.class_weights, settings.network.num_classes)
    files = [file for dataset in datasets.values() for file in dataset.files]
    named = class_names(files, settings.data.target, settings.network.num_classes)
    formats = settings.reports.pictures
    task = JetClassification(model, weights, settings.run.predict_format, settings.loss.best_by, named, formats)
    for split, dataset in datasets.items():
        task.check_labels(dataset.labels(), split)
    check_weights(run, task, datasets)
    if model.observables is not None and not run.start.evaluating:
        train = datasets["train"]
        assert train.observables is not None
        model.observables.fit_(train.observables[train.events])
    add_pseudo_labels(run, datasets)
    draw = partial(draw_classification, names=named)
    return train_and_evaluate(run, task, datasets, draw, report, prepare=calibrate)


def run_regressor(flags: Flags, report: Report | None = None) -> list[dict]:
    """Train or evaluate a regressor, or report its symmetries; see `run_classifier`."""
    if "," in flags["target"] and "num_targets" not in flags.given:
        flags = flags.changed(num_targets=flags["target"].count(",") + 1)
    run, model = make_network(start(flags, (REGRESSOR,)), PelicanRegressor)
    settings = run.settings
    if settings.run.test:
        return show_symmetries(run, model)
    datasets = open_jets(
        run, Momenta(settings.data.keys_of_momenta(settings.network.num_targets), settings.data.momentum_columns)
    )
    task = MomentumRegression(model, settings.loss.terms, settings.run.predict_format, settings.loss.best_by)
    for split, dataset in datasets.items():
        task.check_targets(dataset.labels(), split)
    check_weights(run, task, datasets)
    return train_and_evaluate(run, task, datasets, draw_regression, report)


def check_weights(run: Run, task: JetClassification | MomentumRegression, datasets: Datasets) -> None:
    """Raise InputError if a training has no event with a weight, or can never compute the metric of --best-by."""
    if run.start.evaluating:
        return
    for split in ("train", "valid"):
        if split in datasets:
            dataset = datasets[split]
            weights = None if dataset.weights is None else dataset.weights[dataset.events]
            if split == "valid":
                task.check_best_by(dataset.labels(), weights, split)
            elif weights is not None and not weights.any():
                key = run.settings.data.weights_key
                raise InputError(f"--weights-key {key}: {NO_WEIGHT} in the {split} files; choose another key")


def make_network(found: Start, network: Callable[[PelicanConfig], PelicanBackbone]) -> tuple[Run, PelicanBackbone]:
    """Return the run that starts there, and its network: a new one, or that of --pretrained with a new head."""
    found, pretrained = take_pretrained(found, (CLASSIFIER, REGRESSOR), _roles_of_pretrained)
    run = Run.of(found)
    data, finetuning = run.settings.data, run.settings.finetuning
    model = network(pelican_config(run.settings.network, data))
    if finetuning.finetune == HEAD:
        model.freeze_()
    classes = _pretrained_classes(run)
    if pretrained is not None:
        run = run.noting(*load_jets_(model, data, pretrained, classes))
    return run, model.to(run.device, run.dtype)


def _pretrained_classes(run: Run) -> list[int]:
    """Return the classes of the checkpoint from which those of a run start; [] if these start at random."""
    finetuning, start = run.settings.finetuning, run.start
    text = getattr(finetuning, "pretrained_classes", "")  # a regressor has no classes
    classes = class_numbers(text)
    if classes and not (start.evaluating or start.resuming):
        if not finetuning.pretrained or finetuning.scratch:
            raise InputError(f"--pretrained-classes {text}: needs --pretrained FILE, without --scratch")
        number = run.settings.network.num_classes
        if len(classes) != number:
            raise InputError(f"--pretrained-classes {text}: expected a class for each of the {number} of this run")
    return classes


def _roles_of_pretrained(checkpoint: Checkpoint) -> dict[str, Role]:
    """What is predicted is up to the fine-tuning."""
    return dict.fromkeys(("target", "num_classes", "num_targets", "published_projections"), roles.ORIGIN)


def show_symmetries(run: Run, model: PelicanBackbone) -> list[dict]:
    """Print the symmetry report of the network, and write that of a trained one to a file.

    InputError if it lacks a symmetry that it should have."""
    checkpoint = run.start.checkpoint
    if checkpoint is not None:
        checkpoint.load_into(model)
    print(f"network: {'a new one, with random weights' if checkpoint is None else checkpoint.path}")
    out = None if checkpoint is None else run.paths.symmetry
    report_symmetries(model, run.settings.run.seed, trained=checkpoint is not None, out=out)
    return []


def open_jets(run: Run, target: ClassLabels | Momenta, also: tuple[str, ...] = ()) -> Datasets:
    """Open the splits that the run needs, and with --eval also further ones.

    InputError if one that it cannot do without has no file."""
    data, evaluating = run.settings.data, run.start.evaluating
    weights_needed = not evaluating or "weights_key" in run.start.flags.given
    options = {"in_memory": data.RAMdataset, "weights": data.weights_key, "weights_needed": weights_needed}
    options["target_needed"] = not evaluating or "target" in run.start.flags.given or bool(also)
    selection = JetSelection.of(data, target, **options)
    splits = SPLITS
    if evaluating:
        predicted = () if data.testfile else run.settings.run.predict
        splits = tuple(split for split in SPLITS if split in ("test", *predicted, *also))
    wanted = {split: getattr(data, f"num_{split}") for split in splits}
    datasets = open_splits(data.datadir, selection, wanted, run.settings.run.seed, data.testfile)
    for needed in ("test" if evaluating else "train", *also):
        if needed not in datasets:
            raise InputError(
                f"{data.datadir}: no {needed} file (*.h5 with '{needed}' in its name). Rename the files, or link them "
                f"under such names (ln -s)."
            )
    return datasets


def add_pseudo_labels(run: Run, datasets: Datasets) -> None:
    """Add the jets that --pseudo-labels labels to the training jets; see SelfTrainingJets.

    InputError if the teachers have predicted different jets, or other classes than those of the run."""
    if not uses_pseudo_labels(run):
        return
    settings, classes = run.settings.self_training, run.settings.network.num_classes
    if not settings.unlabelled:
        raise InputError("--pseudo-labels: give the file of the jets that were predicted with --unlabelled")
    if run.settings.data.weights_key:
        raise InputError("--weights-key: jets with --pseudo-labels have no weights; use only one of them")
    first, rows, total = settings.pseudo_labels[0], None, 0.0
    for name in settings.pseudo_labels:
        content = read_predictions(Path(name), ("predict",))
        scores, found = content["predict"], content.get("row", np.arange(len(content["predict"])))
        if scores.ndim != 2 or scores.shape[1] != classes:
            raise InputError(f"{name}: expected scores of {classes} classes, found an array {scores.shape}")
        rows = found if rows is None else rows
        if not np.array_equal(rows, found):
            raise InputError(f"{name}: has other jets than {first}; label the same jets with all teachers")
        total = total + softmax(scores.astype(np.float64), axis=1) / len(settings.pseudo_labels)
    datasets["train"] = SelfTrainingJets(
        datasets["train"],
        Path(settings.unlabelled),
        torch.from_numpy(rows),
        torch.from_numpy(total),
        settings.labelled_fraction,
    )
    log.info(datasets["train"].mixture)


# -- weights of classes ----------------------------------------------------------------------------------------------


def _check_balanced(found: Start, asked: bool) -> None:
    """Raise InputError if balanced weights are asked for, but the checkpoint has no numbers from its training."""
    weights = found.flags["class_weights"]
    if weights == "balanced" or (asked and weights == "none"):
        raise InputError(
            f"--class-weights balanced: {found.checkpoint.path} holds no class weights from its training; give "
            "numbers, or none"
        )


def balanced_weights(labels: torch.Tensor, num_classes: int) -> str:
    """Return numbers for --class-weights, exactly: N / (K n_c) for each class c with n_c of the N labels, or 0."""
    weights = inverse_fractions(torch.bincount(labels, minlength=num_classes)[:num_classes], num_classes)
    return ",".join(map(repr, weights.tolist()))
