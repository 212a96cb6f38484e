"""Runs of the two scripts on point clouds: from settings to data, network and task."""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from puffin.checkpoints.checkpoint import AUTOENCODER, SEGMENTATION, Checkpoint
from puffin.checkpoints.networks import segmentation_config
from puffin.checkpoints.reading import checkpoint_path
from puffin.checkpoints.transfer import load_partly_
from puffin.data.augment import (
    Augmentation,
    any_rotation,
    any_voxel_rotation,
    drop_points,
    jitter_energies,
    lattice_symmetry,
    mix_events,
)
from puffin.data.events import choose_events
from puffin.data.pilarnet import CloudDataset, CloudSelection, open_splits
from puffin.data.pilarnet_files import find_files
from puffin.data.pseudo_labels import SelfTrainingClouds, Teacher
from puffin.detector import PILARNET
from puffin.errors import InputError, plural
from puffin.losses.clouds import LossTerms
from puffin.models.point_mae import MaskedAutoencoder
from puffin.models.segmentation import SegmentationNetwork, segmentation_network
from puffin.models.voxel_distillation import VoxelDistillation, pretraining_network
from puffin.plots.clouds import need_plotly
from puffin.plots.curves import draw_pretraining, draw_segmentation
from puffin.runs.class_weights import inverse_fractions, weights_of_classes
from puffin.runs.paths import name_of_events
from puffin.runs.pretrained import take_pretrained
from puffin.runs.reports import Report
from puffin.runs.run import Run
from puffin.runs.self_training import uses_pseudo_labels
from puffin.runs.start import Start, start
from puffin.runs.train import train_and_evaluate
from puffin.settings import roles
from puffin.settings.clouds import CloudDataSettings, PointSegmentationSettings
from puffin.settings.common import SPLITS
from puffin.settings.declare import declared
from puffin.settings.distillation import DistillationConfig
from puffin.settings.encoder import EncoderConfig
from puffin.settings.flags import Flags, defaults
from puffin.settings.roles import Role
from puffin.settings.unet import UNetConfig
from puffin.tasks.cloud_pictures import draw_events, draw_labels
from puffin.tasks.masked_modelling import MaskedModelling
from puffin.tasks.point_probe import PointProbe
from puffin.tasks.pretraining import Pretraining
from puffin.tasks.probe import Probe
from puffin.tasks.segmentation import PointSegmentation, SegmentationOptions
from puffin.tasks.self_distillation import SelfDistillation
from puffin.tasks.token_probe import TokenProbe
from puffin.training import distributed

log = logging.getLogger("puffin")

Datasets = dict[str, CloudDataset]
_EVENTS = 64  # events whose classes are counted together


# -- pretraining -----------------------------------------------------------------------------------------------------


def run_pretraining(flags: Flags, report: Report | None = None) -> list[dict]:
    """Pretrain a network without labels, or evaluate it; return one row of numbers per epoch that was trained.

    report(all rows so far) is called after each epoch."""
    run = Run.of(start(flags, (AUTOENCODER,)))
    settings = run.settings
    check_network(run)
    check_method(run)
    check_augmentations(run)
    check_probe(run)
    model = pretraining_network(settings.network).to(run.device, run.dtype)
    datasets = open_clouds(run)
    for dataset in datasets.values():
        dataset.selection = replace(dataset.selection, on_lattice=settings.network.backbone == "unet")
    task = make_pretraining(run, model, datasets)
    if not run.start.evaluating and "valid" in datasets:
        task.check_best_by(None, None, "valid")
    pictures = Pictures.of(run, model, datasets, draw_events)
    return train_and_evaluate(run, task, datasets, draw_pretraining, report, pictures)


def make_pretraining(run: Run, model: MaskedAutoencoder | VoxelDistillation, datasets: Datasets) -> Pretraining:
    """Return the task of the settings."""
    settings = run.settings
    further = {
        "probe": make_probe(run, datasets),
        "probe_every": settings.pretraining.probe_every,
        "predict_format": settings.run.predict_format,
        "too_small": {split: dataset.too_small for split, dataset in datasets.items()},
        "best_by": settings.pretraining.best_by,
    }
    if isinstance(model, VoxelDistillation):
        shared = augmentations(run, set(_AUGMENTATIONS) - _OF_VIEWS)
        return SelfDistillation(model, settings.run.seed, shared, own=augmentations(run, _OF_VIEWS), **further)
    return MaskedModelling(model, settings.run.seed, augmentations(run), **further)


def check_method(run: Run) -> None:
    """Raise InputError for flags of the command line that the method of pretraining does not use."""
    wrong = sorted({d.name for d in declared(DistillationConfig)} & run.start.flags.typed)
    if wrong and run.settings.network.method != "distill":
        flag = wrong[0].replace("_", "-")
        raise InputError(f"--{flag}: only --method distill uses this, and this is masked modelling")


def check_probe(run: Run) -> None:
    """Raise InputError if the number that is to choose the best epoch is never computed."""
    if run.settings.pretraining.best_by == "chamfer" and run.settings.network.backbone == "unet":
        raise InputError("--best-by chamfer: a U-Net predicts no positions of points; choose loss or probe_f1_mean")
    pretraining, num_step = run.settings.pretraining, run.settings.optimisation.num_step
    made = pretraining.probe and 0 < pretraining.probe_every <= (num_step or math.inf)
    if not run.start.evaluating and pretraining.best_by.startswith("probe_") and not made:
        raise InputError(
            f"--best-by {pretraining.best_by}: training makes no probes to compare; give --probe-every N, within the "
            "run, and no --no-probe"
        )


def make_probe(run: Run, datasets: Datasets) -> Probe | None:
    """Return the linear probe that the settings ask for; without training events none, and a line in the log.

    Where only a test file is open, the training events are those of --datadir if that was given."""
    data, seed = run.settings.data, run.settings.run.seed
    if not run.settings.pretraining.probe:
        return None
    if "train" not in datasets and "datadir" in run.start.flags.given:
        selection, jobs = datasets["test"].selection, max(1, data.num_workers)
        datasets = datasets | open_splits(data.datadir, selection, {"train": data.num_train}, seed, jobs)
    if "train" not in datasets:
        log.info("no linear probe: it needs training events (train/*.h5 in --datadir)")
        return None
    return _PROBES[run.settings.network.backbone](datasets, seed)


_PROBES: dict[str, type[Probe]] = {"transformer": TokenProbe, "unet": PointProbe}


# -- segmentation ----------------------------------------------------------------------------------------------------


def start_segmentation(flags: Flags) -> tuple[Start, Checkpoint | None]:
    """Start a run with the settings of --pretrained; return its checkpoint too, None if no weights are needed."""
    found = start(flags, (SEGMENTATION,), _hint, _roles_of_updates)
    # older checkpoints do not store the backbone
    return take_pretrained(found, (AUTOENCODER,), _roles_of_encoder, {"backbone": "transformer"})


def run_segmentation(flags: Flags, report: Report | None = None) -> list[dict]:
    """Fine-tune or evaluate a segmentation; see `run_pretraining`."""
    found, pretrained = start_segmentation(flags)
    run = Run.of(found)
    _check_segmentation(run)
    config = segmentation_config(run.settings.network, run.settings.data.remove_led)
    run = run.changed(layers=config.averaged_layers)  # written out in the checkpoints
    model = segmentation_network(config).to(run.device, run.dtype)
    if pretrained is not None:
        load_pretrained_(model, pretrained)
    datasets = open_clouds(run)
    run, task = make_segmentation(run, model, datasets)
    add_pseudo_labels(run, datasets)
    if not run.start.evaluating and "valid" in datasets:
        task.check_best_by(None, None, "valid")
    pictures = Pictures.of(run, model, datasets, draw_labels)
    return train_and_evaluate(run, task, datasets, draw_segmentation, report, pictures)


def _hint(checkpoint: Checkpoint) -> str:
    return f"; to fine-tune it: --pretrained {checkpoint.path}" if checkpoint.network == AUTOENCODER else ""


def _roles_of_updates(flags: Flags, stored: Mapping[str, Any]) -> dict[str, Role]:
    """Low-rank updates are weights of their own: a network with them stays one, and keeps their rank."""
    lora = "lora" in (stored["finetune"], flags["finetune"])
    extra = {"finetune": roles.NETWORK} if lora or "finetune" not in flags.given else {}
    finetune = flags["finetune"] if "finetune" in flags.given else stored["finetune"]
    if finetune == "lora":
        extra |= {"lora_rank": roles.NETWORK, "lora_alpha": roles.NETWORK}
    return extra


def _check_segmentation(run: Run) -> None:
    check_network(run)
    check_augmentations(run)
    flags, standard = run.start.flags, defaults(PointSegmentationSettings)
    for name in ("layer_decay", "finetune") if run.settings.network.backbone == "unet" else ():
        if flags[name] != standard[name]:
            raise InputError(f"{name}: {flags[name]}: only --backbone transformer uses this; remove it from the preset")


def _roles_of_encoder(checkpoint: Checkpoint) -> dict[str, Role]:
    """How many classes there are is up to the fine-tuning; so are the hand-made features of a transformer's head."""
    own = {"remove_led": roles.PREPARATION}
    return own if checkpoint.settings.get("backbone") == "unet" else own | {"geometry": roles.ORIGIN}


# parts of a network that are pretrained, by the beginning of the names of their weights
PRETRAINED_PARTS = {"transformer": ("encoder.",), "unet": ("backbone.", "geometry.")}


def load_pretrained_(model: SegmentationNetwork, checkpoint: Checkpoint) -> None:
    """Copy pretrained weights into a network; its head, and low-rank updates, keep their initial values."""
    parts = PRETRAINED_PARTS[model.config.backbone]
    weights = {name: weight for name, weight in checkpoint.weights.items() if name.startswith(parts)}
    load_partly_(
        model, weights, lambda name: not name.startswith(parts) or name.endswith((".up", ".down")), str(checkpoint.path)
    )


def make_segmentation(run: Run, model: SegmentationNetwork, datasets: Datasets) -> tuple[Run, PointSegmentation]:
    """Return the task of the settings, and the run, in which counted class weights have become numbers."""
    on_lattice = model.config.backbone == "unet"
    for dataset in datasets.values():
        dataset.selection = replace(dataset.selection, strict_led=True, on_lattice=on_lattice)
    for split in set(run.settings.run.predict) & datasets.keys():
        datasets[split].selection = replace(datasets[split].selection, rows=True)
    num_classes = model.config.num_classes
    if run.settings.finetuning.class_weights == "data":
        run = run.changed(class_weights=_counted_weights(datasets, num_classes))
    settings, finetuning = run.settings, run.settings.finetuning
    if finetuning.class_weights == "pilarnet":
        weights = published_weights(num_classes)
    else:
        weights = weights_of_classes(finetuning.class_weights, num_classes)
    loss = LossTerms(finetuning.terms, weights)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if frozen:
        log.info(f"{frozen:,} parameters are not trained")
    loadfile = settings.run.loadfile if run.start.evaluating else ""
    options = SegmentationOptions(
        augmentations(run),
        settings.reports.pictures,
        {"best": checkpoint_path(loadfile) if loadfile else run.paths.best, "final": run.paths.checkpoint},
        finetuning.best_by,
    )
    return run, PointSegmentation(model, loss, datasets, options)


def add_pseudo_labels(run: Run, datasets: Datasets) -> None:
    """Add the events that --pseudo-labels labels to the training events; see SelfTrainingClouds."""
    if not uses_pseudo_labels(run):
        return
    settings, classes = run.settings.self_training, PILARNET.classes(run.settings.data.remove_led)
    teachers = [Teacher(path) for path in settings.pseudo_labels]
    datasets["train"] = SelfTrainingClouds(datasets["train"], teachers, classes, settings.labelled_fraction)
    log.info(datasets["train"].mixture)


def _counted_weights(datasets: Datasets, num_classes: int) -> str:
    """Return numbers for --class-weights from the training events."""
    if "train" not in datasets:
        raise InputError(
            "--class-weights data: found no training events in --datadir; give the ones that were used, or numbers"
        )
    counts = class_counts(datasets["train"], num_classes) if distributed.is_main() else None
    weights = inverse_fractions(distributed.from_main(counts))
    text = ",".join(f"{weight:.8g}" for weight in weights.tolist())
    log.info(f"class weights: {text}")
    return text


def published_weights(num_classes: int) -> Tensor:
    """Return the weights of the classes of PILArNet-M from their points in the whole data set, (C,) float64."""
    return inverse_fractions(torch.tensor(PILARNET.class_counts[:num_classes]))


def class_counts(dataset: CloudDataset, num_classes: int) -> Tensor:
    """Count the points of each class, (C,) int64, in a data set that has no other classes."""
    counts = torch.zeros(num_classes, dtype=torch.int64)
    batches, number = dataset.batches(_EVENTS), math.ceil(len(dataset) / _EVENTS)
    for batch in tqdm(batches, total=number, desc="class weights", unit="batch", disable=None, leave=False):
        counts += torch.bincount(batch.semantic, minlength=num_classes)
    return counts


# -- both ------------------------------------------------------------------------------------------------------------

# settings that only one backbone has
_BACKBONE_FLAGS = {
    "transformer": {d.name for d in declared(EncoderConfig)} - {"sync_batchnorm"}
    | set("decoder_depth layers head_dim head_depth finetune lora_rank lora_alpha layer_decay".split()),
    "unet": {d.name for d in declared(UNetConfig)} | {"mask_block"},
}


def check_network(run: Run) -> None:
    """Raise InputError for flags of the command line that the network does not use, as it has the other backbone."""
    chosen = run.settings.network.backbone
    for backbone, names in _BACKBONE_FLAGS.items():
        wrong = sorted(names & run.start.flags.typed)
        if backbone != chosen and wrong:
            flag = wrong[0].replace("_", "-")
            raise InputError(f"--{flag}: only --backbone {backbone} uses this, and this network is a {chosen}")


def check_augmentations(run: Run) -> None:
    """Raise InputError for augmentations that cannot be made."""
    flags = run.start.flags
    if "rotations" in flags.typed and not flags["rotate"]:
        raise InputError(f"--rotations {flags['rotations']}: --no-rotate switches rotations off; use only one of them")
    mixed, batch_size = run.settings.augmentation.mix_events, run.settings.optimisation.batch_size
    if mixed and batch_size < 2:
        raise InputError(f"--mix-events {mixed:g}: a minibatch of --batch-size {batch_size} has no pair of events")


_AUGMENTATIONS = ("rotate", "drop_points", "energy_jitter", "mix_events")
_OF_VIEWS = {"rotate", "energy_jitter"}  # keep all points and their order, so that the views of an event may differ


def augmentations(run: Run, names: Collection[str] = _AUGMENTATIONS) -> tuple[Augmentation, ...]:
    """Return what is done to training events, in this order; names: of the settings to look at."""
    chosen = run.settings.augmentation
    steps: dict[str, tuple[float, Augmentation]] = {
        "rotate": (run.settings.data.rotate, _rotation(run)),
        "drop_points": (chosen.drop_points, partial(drop_points, largest=chosen.drop_points)),
        "energy_jitter": (chosen.energy_jitter, partial(jitter_energies, largest=chosen.energy_jitter)),
        "mix_events": (chosen.mix_events, partial(mix_events, probability=chosen.mix_events)),
    }
    return tuple(augment for name, (strength, augment) in steps.items() if strength and name in names)


def _rotation(run: Run) -> Augmentation:
    """Return how training events are rotated: with a U-Net, points stay on the lattice."""
    unet = run.settings.network.backbone == "unet"
    rotations = run.settings.augmentation.rotations or ("lattice" if unet else "any")
    if rotations == "lattice":
        return lattice_symmetry
    return any_voxel_rotation if unet else any_rotation


def open_clouds(run: Run) -> Datasets:
    """Open the splits of the settings of a run; see `open_datasets`."""
    settings = run.settings
    return open_datasets(settings.data, settings.run.seed, run.start.evaluating, not settings.run.dry_run)


def open_datasets(data: CloudDataSettings, seed: int, evaluating: bool = False, save_index: bool = True) -> Datasets:
    """Open the splits of the settings. Without test files, the validation events are those to report on.

    save_index: write missing indices next to the files."""
    selection = CloudSelection(
        data.remove_led,
        data.energy_threshold,
        data.emin,
        min_points=data.min_points,
        skip_bad=data.skip_bad,
        save_index=save_index,
    )
    jobs = max(1, data.num_workers)
    wanted = {split: getattr(data, f"num_{split}") for split in SPLITS}
    datasets = {}
    if not (data.testfile and evaluating):
        datasets = open_splits(data.datadir, selection, wanted, seed, jobs)
    if data.testfile:
        test = CloudDataset(find_files(data.testfile), selection, jobs)
        test.restrict(choose_events(None, len(test), data.num_test, seed, "test"))
        datasets["test"] = test
    elif "test" not in datasets and "valid" in datasets:
        log.info(f"{data.datadir}: no test/ folder; the final numbers are those of the validation events")
        datasets["test"] = datasets["valid"]
    needed = "test" if evaluating else "train"
    if needed not in datasets:
        raise InputError(
            f"{Path(data.datadir) / needed}: no {needed} files (*.h5) there. Pass another folder with --datadir."
        )
    return datasets


@dataclass(frozen=True)
class Pictures:
    """Pictures of validation events (of test events, if there are no others), as the settings ask for them.

    draw(folder, stem, model, dataset, numbers, seed, html): draws events and returns the files."""

    run: Run
    model: nn.Module
    dataset: CloudDataset
    numbers: tuple[int, ...]
    draw_events: Callable

    @classmethod
    def of(cls, run: Run, model: nn.Module, datasets: Datasets, draw: Callable) -> "Pictures":
        """Choose the events to draw; InputError if there are no such events."""
        dataset = datasets.get("valid", datasets.get("test", datasets.get("train")))
        pictures = run.settings.pictures
        chosen = pictures.plot_numbers
        if chosen and not all(number < len(dataset) for number in chosen):
            raise InputError(f"--plot-numbers: expected 0 to {len(dataset) - 1}, got {' '.join(map(str, chosen))}")
        if run.settings.reports.plot and pictures.plot_html:
            need_plotly()
        return cls(run, model, dataset, chosen or tuple(range(min(pictures.plot_events, len(dataset)))), draw)

    def after_row(self, history: list[dict]) -> None:
        """Draw at the first validation after every --plot-every steps."""
        every, step = self.run.settings.pictures.plot_every, history[-1]["step"]
        before = history[-2]["step"] if len(history) > 1 else 0
        if every and step // every > before // every:
            self.draw(f"step{step:07d}")

    def at_end(self) -> None:
        """Draw the events of a finished run; those of an evaluation have names of their own."""
        run = self.run
        if not run.start.evaluating:
            return self.draw("end")
        self.draw(f"eval.{name_of_events(run.sources)}")

    def draw(self, stem: str) -> None:
        """Draw the events with the weights in place."""
        settings = self.run.settings
        if settings.reports.plot and distributed.is_main():
            folder, html = self.run.paths.folder, settings.pictures.plot_html
            arguments = (folder, stem, self.model, self.dataset, self.numbers, settings.run.seed, html)
            written = self.draw_events(*arguments, settings.reports.pictures)
            log.info(f"{plural(len(written), 'picture')}: {folder}/{stem}.*")
