"""Networks and operations of which the stub device records the waits; prints a JSON dictionary, name -> waits.

python -m tests.waits.cases [words of the names]
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor

from puffin import ops
from puffin.data.augment import (
    Augmentation,
    any_voxel_rotation,
    drop_points,
    jitter_energies,
    lattice_symmetry,
    mix_events,
)
from puffin.data.packing import CloudBatch, JetBatch
from puffin.layers import masked_batchnorm
from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.layers.symmetries import toy_momenta
from puffin.losses.clouds import CLASS_LOSSES, LossTerms
from puffin.losses.momenta import MOMENTUM_LOSSES
from puffin.models.pelican import PelicanClassifier, PelicanRegressor
from puffin.models.point_mae import PointMAE
from puffin.models.segmentation import Segmentation
from puffin.models.voxel_distillation import VoxelDistillation
from puffin.ops import library
from puffin.settings.clouds import PointMAEConfig, SegmentationConfig
from puffin.settings.distillation import DistillationConfig
from puffin.settings.encoder import EncoderConfig, TokenizerConfig, TransformerConfig
from puffin.settings.pelican import PelicanConfig
from puffin.settings.unet import UNetConfig
from puffin.tasks.classification import JetClassification
from puffin.tasks.masked_modelling import MaskedModelling
from puffin.tasks.regression import MomentumRegression
from puffin.tasks.segmentation import PointSegmentation, SegmentationOptions
from puffin.tasks.self_distillation import SelfDistillation
from puffin.training.task import Progress, Task
from puffin.training.update import Updater
from tests.layers.clouds import tracks
from tests.waits.stub_device import DEVICE, Recorder, register

CASES: dict[str, Callable[[Recorder], None]] = {}
SMALL = {
    "num_channels_scalar": 3,
    "num_channels_m": ((5,), (5,)),
    "num_channels_2to2": (4, 4),
    "num_channels_m_out": (5, 4),
    "num_channels_out": (5,),
    "drop_rate": 0.1,
    "drop_rate_out": 0.1,
}
TINY = TransformerConfig("vit_tiny", 2, attention_dropout=0.0, drop_path=0.2)
TOKENS = TokenizerConfig(group_size=16)


def case(name: str) -> Callable:
    """Add a function of the recorder to the cases."""

    def add(function: Callable) -> Callable:
        CASES[name] = function
        return function

    return add


def update(recorder: Recorder, task: Task, batch: JetBatch | CloudBatch, amp: str = "") -> None:
    """Train for a step as the trainer does, then evaluate a batch, whose waits begin with "evaluation: "."""
    device = torch.device(DEVICE)
    task.model.to(device)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    recorder.waits.clear()
    Updater(task, optimizer, 1.0, device, amp, lambda: False)([batch], 1e-3, Progress())
    trained = list(recorder.waits)
    recorder.waits.clear()
    task.model.eval()
    with torch.no_grad():
        task.step(batch.to(device, torch.float32))
    recorder.waits[:] = [*trained, *(f"evaluation: {wait}" for wait in recorder.waits)]


def jets(num_classes: int = 0, num_scalars: int = 0, weights: bool = False) -> JetBatch:
    """A batch of five jets."""
    momenta, lengths = toy_momenta(5, torch.Generator().manual_seed(0))
    number = len(lengths)
    return JetBatch(
        momenta.float(),
        lengths,
        torch.arange(number) % num_classes if num_classes else torch.rand(number, 1, 4) + 2,
        torch.rand(len(momenta), num_scalars) if num_scalars else None,
        torch.arange(number),
        torch.rand(number) if weights else None,
    )


def clouds() -> CloudBatch:
    """A batch of three events with points and an empty one."""
    points, lengths = tracks([200, 0, 90, 150])
    return CloudBatch(points, lengths, torch.arange(len(points)) % 4, torch.arange(len(points)), torch.arange(4))


NETWORKS = {
    "": {},
    "so2": {"stabilizer": "so2", "add_beams": True},
    "input": {"stabilizer": "so2", "method": "input"},
    "scalars": {"num_scalars": 2},
    "letters": {"config": "sSmMxXnN", "config_out": "sM"},
    "plain weights": {"factorize": False, "activate_agg": True, "activation": "gelu"},
    "instance norm": {"batchnorm": "instance"},
    "layer norm": {"batchnorm": "layer"},
    "without norm": {"batchnorm": "none", "mlp_out": False},
    "irc_safe": {"irc_safe": True, "method": "input", "config": "s", "config_out": "s"},
    "irc_safe with multiplicity": {"irc_safe": True, "method": "input", "config": "M", "config_out": "M"},
}


def classify(changes: dict, weights: bool = False, class_weights: Tensor | None = None, amp: str = "") -> Callable:
    def run(recorder: Recorder) -> None:
        config = PelicanConfig(**{**SMALL, **changes})
        batch = jets(config.num_classes, config.num_scalars, weights)
        update(recorder, JetClassification(PelicanClassifier(config), class_weights), batch, amp)

    return run


def with_kernels(function: Callable) -> Callable:
    """Take the paths of a GPU whose kernels are loaded; the CPU kernels do the work."""

    def run(recorder: Recorder) -> None:
        before = library.has_kernel
        library.has_kernel = lambda table: True
        try:
            function(recorder)
        finally:
            library.has_kernel = before

    return run


for name, changes in NETWORKS.items():
    CASES[f"classifier {name}".strip()] = classify(changes)
CASES["classifier, kernels"] = with_kernels(classify(NETWORKS["so2"]))
CASES["classifier, bf16"] = classify(NETWORKS["so2"], amp="bf16")
CASES["classifier, event weights"] = classify({}, weights=True)
CASES["classifier, class weights"] = classify({}, class_weights=torch.tensor([1.0, 2.0]))


@case("regressor")
def regress(recorder: Recorder) -> None:
    config = PelicanConfig(**SMALL, stabilizer="so2")
    terms = dict.fromkeys(MOMENTUM_LOSSES, 0.1)
    update(recorder, MomentumRegression(PelicanRegressor(config), terms), jets())


def encoder(**tokens) -> EncoderConfig:
    return EncoderConfig(replace(TOKENS, **tokens), TINY)


PRETRAININGS = {
    "polarmae": PointMAEConfig(encoder(), decoder_depth=1),
    "pointmae": PointMAEConfig(encoder(), decoder_depth=1, model="pointmae"),
    "simmim": PointMAEConfig(encoder(), decoder_depth=0),
    "fps and knn": PointMAEConfig(encoder(centres="fps", neighbours="knn", context=20), decoder_depth=1),
    "seeds and mean centres": PointMAEConfig(encoder(seeds=40, mean_centres=True, reduction="fps"), decoder_depth=1),
    "published norms": PointMAEConfig(replace(encoder(), published_norms=True), decoder_depth=1),
}


def pretrain(config: PointMAEConfig) -> Callable:
    return lambda recorder: update(recorder, MaskedModelling(PointMAE(config), seed=1), clouds())


for name, network in PRETRAININGS.items():
    CASES[f"pretraining {name}"] = pretrain(network)


AUGMENTATIONS = (
    any_voxel_rotation,
    lattice_symmetry,
    partial(drop_points, largest=0.3),
    partial(jitter_energies, largest=0.1),
    partial(mix_events, probability=1.0),
)


@case("distillation")
def distill(recorder: Recorder) -> None:
    distillation = DistillationConfig(prototypes=8, crop_radius=10)
    config = PointMAEConfig(
        backbone="unet", unet=UNetConfig(4, 3), mask_block=2, method="distill", distillation=distillation
    )
    own = (any_voxel_rotation, partial(jitter_energies, largest=0.1))
    update(recorder, SelfDistillation(VoxelDistillation(config), seed=1, own=own), clouds())


def segment(
    loss: dict, weight: Tensor | None = None, augmentations: tuple[Augmentation, ...] = (), **changes
) -> Callable:
    def run(recorder: Recorder) -> None:
        config = SegmentationConfig(encoder(), layers=(0, 1), head_dim=32, **changes)
        weights = None if weight is None else weight.to(DEVICE)
        options = SegmentationOptions(augmentations)
        task = PointSegmentation(Segmentation(config), LossTerms(loss, weights), {}, options)
        update(recorder, task, clouds())

    return run


CASES["segmentation"] = segment(dict.fromkeys(CLASS_LOSSES, 1.0))
CASES["segmentation, class weights"] = segment(dict.fromkeys(CLASS_LOSSES, 1.0), torch.tensor([1.0, 2, 3, 4]))
CASES["segmentation, augmentations"] = segment({"focal": 1.0}, augmentations=AUGMENTATIONS)
for finetune in ("peft", "lora"):
    CASES[f"segmentation {finetune}"] = segment({"focal": 1.0}, finetune=finetune, head_depth=1)


@case("operations on points")
def points_ops(recorder: Recorder) -> None:
    points = torch.rand(2, 30, 3).to(DEVICE).requires_grad_()
    lengths = torch.tensor([30, 11]).to(DEVICE)
    recorder.waits.clear()
    ops.farthest_point_sampling(points, lengths, 5)
    ops.farthest_point_sampling(points, None, 5, start=2)
    ops.knn(points, points, lengths, lengths, 3)
    ops.ball_count(points, points, 0.2, lengths, lengths)
    ops.ball_query(points, points, 0.2, 4, lengths, lengths)
    ops.centrality_nms(points, lengths, 0.1)
    ops.chamfer_distance(points, points + 1, lengths, None).backward()


@case("k of each event")
def fps_of_each(recorder: Recorder) -> None:
    points, k = torch.rand(2, 30, 3).to(DEVICE), torch.tensor([5, 2]).to(DEVICE)
    recorder.waits.clear()
    ops.farthest_point_sampling(points, None, k)


@case("ball query without k")
def all_of_ball(recorder: Recorder) -> None:
    points = torch.rand(2, 30, 3).to(DEVICE)
    recorder.waits.clear()
    ops.ball_query(points, points, 0.2)


@case("masked batch norm with a mask")
def masked_norm(recorder: Recorder) -> None:
    norm, x, mask = MaskedBatchNorm(3).to(DEVICE), torch.rand(2, 4, 3).to(DEVICE), torch.ones(2, 4).bool().to(DEVICE)
    recorder.waits.clear()
    norm(x, mask)


@case("synchronised norm")
def synchronised_norm(recorder: Recorder) -> None:
    class Synchronised(MaskedBatchNorm):
        def _synchronises(self) -> bool:
            return True

    norm, x = Synchronised(3).to(DEVICE), torch.rand(5, 3).to(DEVICE)
    before = masked_batchnorm.AllReduceSum
    masked_batchnorm.AllReduceSum = SimpleNamespace(apply=lambda x: x)  # as if this were the only process
    recorder.waits.clear()
    try:
        norm(x).sum().backward()
    finally:
        masked_batchnorm.AllReduceSum = before


@case("control: a layer that reads a value")
def control(recorder: Recorder) -> None:
    network = PelicanClassifier(PelicanConfig(**SMALL))
    network.mlp_out.register_forward_hook(lambda module, inputs, output: output.max().item() and None)
    update(recorder, JetClassification(network), jets(2))


def _hooked(output: Tensor, hook: Callable) -> None:
    if output.requires_grad:
        output.register_hook(hook)


@case("control: a gradient that is read")
def control_of_gradients(recorder: Recorder) -> None:
    network = PelicanClassifier(PelicanConfig(**SMALL))
    read = lambda gradient: gradient * float(gradient.abs().max() > 0)  # noqa: E731
    network.mlp_out.register_forward_hook(lambda module, inputs, output: _hooked(output, read))
    update(recorder, JetClassification(network), jets(2))


@case("control: every kind of wait")
def control_of_kinds(recorder: Recorder) -> None:
    x, on_cpu, number = torch.rand(4, 3).to(DEVICE), torch.arange(3), torch.tensor([0, 1]).to(DEVICE)
    recorder.waits.clear()
    x.new_tensor([1.0])
    on_cpu.to(DEVICE)
    on_cpu.to(DEVICE, non_blocking=True)  # does not wait
    x.cpu()
    x[x > 0]
    x[on_cpu]
    x[number, 0] = 1
    x.nonzero()
    torch.repeat_interleave(number)
    torch.repeat_interleave(number, output_size=1)  # does not wait
    bool(x.any())


@case("control: two devices")
def control_of_devices(recorder: Recorder) -> None:
    torch.rand(4, 3).to(DEVICE) + torch.ones(3)


def main() -> None:
    """Run the cases whose names contain all words of the command line."""
    register()
    torch.autograd.set_multithreading_enabled(False)  # the recorder sees the operations of its own thread
    found = {}
    for name, function in CASES.items():
        if all(word in name for word in sys.argv[1:]):
            torch.manual_seed(0)
            with Recorder() as recorder:
                try:
                    function(recorder)
                except Exception as error:
                    recorder.waits.append(f"failed: {type(error).__name__}: {error}")
                    if len(sys.argv) > 1:
                        raise
            found[name] = recorder.waits
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
