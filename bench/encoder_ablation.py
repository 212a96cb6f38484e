"""Measure how much of a segmentation comes from its encoder: F1 with the encoder's output, and with zeros in its place.

    python3 bench/encoder_ablation.py model/points_best.pt --testfile DIR

The encoder is the transformer on tokens, or the U-Net. What remains without it are the features of single points that
the head gets beside it (--geometry). Nothing is trained again, so the difference also contains what the head loses
because it was trained with the encoder.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()


import torch
from torch import nn

from puffin.checkpoints.checkpoint import SEGMENTATION, Checkpoint
from puffin.checkpoints.networks import network_of_checkpoint, settings_of_checkpoint
from puffin.data.pilarnet import CloudDataset
from puffin.detector import PILARNET
from puffin.metrics.segmentation import confusion_of, segmentation_metrics
from puffin.models.segmentation import VoxelSegmentation
from puffin.runs.clouds import open_datasets
from puffin.runs.entry import run_script
from puffin.settings.parser import OneLineParser

_EVENTS = 8  # of a minibatch


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the flags."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="FILE", help="a segmentation network")
    add(
        "--testfile", nargs="+", required=True, metavar="PATH", help="files, or folders that are searched for .h5 files"
    )
    return parser.parse_args(arguments)


@torch.no_grad()
def f1_scores(network: nn.Module, dataset: CloudDataset, names: Sequence[str]) -> dict[str, float]:
    """Label all events of a data set; return the metrics."""
    confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
    for batch in dataset.batches(_EVENTS):
        predicted = network(batch.points, batch.lengths).logits.argmax(1)
        confusion += confusion_of(batch.semantic, predicted, len(names))
    return segmentation_metrics(confusion.numpy(), names)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the F1 of each class with and without the encoder."""
    args = parse_arguments(arguments)
    checkpoint = Checkpoint.read(args.checkpoint).expect(SEGMENTATION)
    settings = settings_of_checkpoint(checkpoint)
    network = network_of_checkpoint(checkpoint)
    data = replace(settings.data, testfile=tuple(args.testfile), num_test=-1)
    dataset = open_datasets(data, seed=0, evaluating=True)["test"]
    names = PILARNET.classes(settings.data.remove_led)
    for title in ("as it is", "zero"):
        if title == "zero":
            remove_encoder_(network)
        metrics = f1_scores(network, dataset, names)
        values = "  ".join(f"{name} {metrics[f'f1_{name}']:.3f}" for name in ("macro", *names))
        print(f"{title:9} {values}", flush=True)


def remove_encoder_(network: nn.Module) -> None:
    """Replace what the U-Net gives to the points, or the transformer to the tokens, by zeros."""
    if isinstance(network, VoxelSegmentation):
        network.backbone.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    else:
        network.token_features = lambda tokens: tokens.centres.new_zeros(len(tokens), network.config.encoder.dim)


if __name__ == "__main__":
    run_script(main, sys.argv[1:], hint="")
