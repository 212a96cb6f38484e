"""Checks of whole networks: golden vectors, training steps that do not wait, and a step in a CUDA graph."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.gpu.machine import need_cuda, no_waits
from bench.gpu.operators import compare_replay
from bench.gpu.report import Report
from bench.kernels import lartpc_cloud
from bench.presets import pelican_preset
from puffin.data.packing import CloudBatch, JetBatch, pack_padded
from puffin.layers.symmetries import toy_momenta
from puffin.losses.clouds import LossTerms
from puffin.models.pelican import PelicanClassifier, PelicanRegressor
from puffin.models.point_mae import PointMAE
from puffin.models.segmentation import Segmentation
from puffin.settings.clouds import PointMAEConfig, SegmentationConfig
from puffin.settings.encoder import EncoderConfig, TokenizerConfig, TransformerConfig
from puffin.tasks.classification import JetClassification
from puffin.tasks.masked_modelling import MaskedModelling
from puffin.tasks.regression import MomentumRegression
from puffin.tasks.segmentation import PointSegmentation
from puffin.training.task import Task
from puffin.training.update import autocast

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "pelican"


class Training(NamedTuple):
    """A task and a batch on the device."""

    task: Task
    batch: JetBatch | CloudBatch


def golden_networks(device: torch.device) -> str:
    """Compare scores, momenta and gradients with those of the published networks, in float64."""
    from tests.models.test_pelican import config_of

    files = sorted(GOLDEN.glob("*.npz"))
    for path in files:
        with np.load(path) as z:
            arrays = {k: torch.from_numpy(z[k]).to(device) for k in z.files if k != "meta"}
            meta = json.loads(str(z["meta"]))
        scalars = arrays.get("input/scalars")
        network = PelicanClassifier if path.name.startswith("classifier") else PelicanRegressor
        model = network(config_of(meta["kwargs"], 0 if scalars is None else scalars.shape[-1])).double().to(device)
        model.load_state_dict({k.removeprefix("state/"): v for k, v in arrays.items() if k.startswith("state/")})
        batch = pack_padded(arrays["input/Pmu"], arrays["input/particle_mask"], scalars)
        for mode in ("eval", "train"):
            model.train(mode == "train")
            out = model(batch)
            predicted = out if isinstance(out, Tensor) else out.fourmomenta
            want = arrays[f"{mode}/predict"]
            worst = float((predicted.detach().view(want.shape) - want).abs().max() / want.abs().max())
            assert worst < 1e-9, f"{path.name}, {mode}: relative difference {worst:.1e}"
    assert files, f"no golden files in {GOLDEN}"
    return f"{len(files)} networks, in both modes"


def trainings(device: torch.device, quick: bool) -> dict[str, Training]:
    """Make the four kinds of training with random weights and data."""
    torch.manual_seed(0)
    size = {"num_channels_m": ((12,),) * 2, "num_channels_2to2": (8,) * 2} if quick else {}
    config = replace(pelican_preset("48k"), **size)
    momenta, lengths = toy_momenta(20 if quick else 100, torch.Generator().manual_seed(0))
    jets = JetBatch(momenta.float(), lengths, index=torch.arange(len(lengths)))
    classes = torch.arange(len(lengths)) % 2
    tops = torch.stack([event.sum(0) for event in momenta.float().split(lengths.tolist())])[:, None]

    sizes = [300, 150, 200] if quick else [3000, 2000, 2500, 1000]
    points = torch.cat([torch.from_numpy(lartpc_cloud(n, seed)) for seed, n in enumerate(sizes)])
    points = torch.cat([(points - 384) * 0.0015, torch.rand(len(points), 1)], 1)
    clouds = CloudBatch(points, torch.tensor(sizes), torch.arange(len(points)) % 4, index=torch.arange(len(sizes)))
    transformer = TransformerConfig("vit_tiny" if quick else "vit_small", 2 if quick else 12, 0.0, 0.0)
    encoder = EncoderConfig(TokenizerConfig(), transformer)
    tasks = {
        "classifier": (JetClassification(PelicanClassifier(config)), jets, classes),
        "regressor": (MomentumRegression(PelicanRegressor(config), {"m": 0.05, "3d": 0.01}), jets, tops),
        "pretraining": (MaskedModelling(PointMAE(PointMAEConfig(encoder, decoder_depth=1)), seed=1), clouds, None),
        "segmentation": (
            PointSegmentation(Segmentation(SegmentationConfig(encoder)), LossTerms({"focal": 1.0, "dice": 1.0}), {}),
            clouds,
            None,
        ),
    }
    made = {}
    for name, (task, batch, target) in tasks.items():
        task.model.to(device)
        if target is not None:
            batch = JetBatch(batch.fourmomenta, batch.lengths, target, index=batch.index)
        made[name] = Training(task, batch.to(device, torch.float32))
    return made


def step(training: Training, optimizer: torch.optim.Optimizer, amp: str) -> Tensor:
    """Take a training step, without reading its loss and the norm of its gradient; return the norm."""
    optimizer.zero_grad(set_to_none=True)
    with autocast(_device(training), amp):
        loss = training.task.step(training.batch).loss
    loss.backward()
    norm = nn.utils.clip_grad_norm_(training.task.model.parameters(), 1.0)
    optimizer.step()
    return norm


def _device(training: Training) -> torch.device:
    return next(training.task.model.parameters()).device


def fix_tokens_(training: Training) -> None:
    """Make the tokens of the batch once: `tokenize` waits, as the number of tokens decides all sizes."""
    encoder = getattr(training.task.model, "encoder", None)
    if encoder is not None:
        tokens = encoder.tokenize(training.batch.points, training.batch.lengths)
        encoder.tokenize = lambda points, lengths: tokens


def step_does_not_wait(training: Training, amp: str = "") -> str:
    """Train for two steps on the batch; in the second, waiting for the GPU is an error."""
    optimizer = torch.optim.AdamW(training.task.model.parameters(), lr=1e-4)
    fix_tokens_(training)
    norm = float(step(training, optimizer, amp))
    assert norm > 0 and np.isfinite(norm), f"gradient norm {norm}"
    need_cuda(_device(training))
    with no_waits():
        step(training, optimizer, amp)
    return f"gradient norm {norm:.3g}"


def classifier_in_cuda_graph(training: Training) -> str:
    """Capture blocks, head, loss and gradients of the classifier for jets of these sizes, and replay the graph."""
    model = training.task.model.train()
    parameters = [p for block in (model.net2to2, model.msg_2to0, model.agg_2to0) for p in block.parameters()]
    with torch.no_grad():
        embedded = model.embed(training.batch)

    def run() -> list[Tensor]:
        scores = model.read_out(model.run_blocks(embedded))
        loss = F.cross_entropy(scores, training.batch.target)
        return [scores.detach().clone(), *(x.clone() for x in torch.autograd.grad(loss, parameters))]

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    compare_replay(run, _device(training))
    return f"{len(training.batch)} jets, {len(embedded.pairs)} pairs, {len(parameters)} gradients"


def check(report: Report, device: torch.device, quick: bool) -> None:
    """Add all checks of networks."""
    report.section("Networks")
    report.check("golden networks of PELICAN", lambda: golden_networks(device))
    for amp in ("", "bf16"):
        label = f", {amp}" if amp else ""
        for name in ("classifier", "regressor", "pretraining", "segmentation"):
            report.check(
                f"step of {name} does not wait{label}",
                lambda name=name, amp=amp: step_does_not_wait(trainings(device, quick)[name], amp),
            )
    report.check(
        "step of classifier in a CUDA graph", lambda: classifier_in_cuda_graph(trainings(device, quick)["classifier"])
    )
