#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Compare the linear probe of a pretrained encoder with probes of untrained and hand-made features.

    python3 tools/probe_features.py model/study_best.pt --datadir DIR [--num-valid N]

All probes use the same tokens of the same events. The features are those of the pretrained encoder, of an encoder with
random weights, of the mini-PointNet that embeds the points in each of the two, and simple statistics of the points of
each token. Every probe is fitted twice: to the features as they are, and to standardised features.
"""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import InputError, explain_missing_packages
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer


def make_parser() -> OneLineParser:
    """Return the parser of this tool's flags."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="FILE", help="checkpoint of train_pointmae.py, or a published one")
    add("--datadir", type=Path, required=True, metavar="DIR", help="folder with LArTPC events, in train/ and val/")
    add(
        "--num-valid",
        type=integer(-1),
        default=-1,
        metavar="N",
        help="number of validation events, a random subset (default: -1, all)",
    )
    add(
        "--seed",
        type=integer(0),
        default=1,
        metavar="S",
        help="seed of subsets and random weights (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":  # --help and bad flags are answered before the imports that take seconds
    explain_missing_packages()
    make_parser().parse_args()

import torch
from torch import Tensor

from puffin.checkpoints.checkpoint import AUTOENCODER, Checkpoint
from puffin.checkpoints.networks import settings_of_checkpoint
from puffin.data.pilarnet import CloudSelection, open_splits
from puffin.layers.grouping import Tokens
from puffin.models.point_mae import PointMAE
from puffin.runs.entry import run_script
from puffin.tasks.probe import MOST
from puffin.tasks.token_probe import TokenProbe

Features = Callable[[Tokens], Tensor]


def statistics(tokens: Tokens) -> Tensor:
    """Describe the points of each token with 29 numbers, (T, 29).

    In this order: number of points; mean, standard deviation, minimum and maximum of x, y, z (in units of the radius)
    and energy; eigenvalues of the covariance of the positions; range of x, y, z and energy; sum of the energies; centre
    of the token, and its distance from the centre of the detector.
    """
    rows = []
    for points in tokens.groups.split(tokens.counts.tolist()):
        position = points[:, :3] - points[:, :3].mean(0)
        shape = torch.linalg.eigvalsh(position.T @ position / len(points))
        low, high = points.amin(0), points.amax(0)
        number, energy = points.new_tensor([len(points)]), points[:, 3].sum()[None]
        moments = torch.cat([points.mean(0), points.std(0, correction=0)])
        rows.append(torch.cat([number, moments, low, high, shape, high - low, energy]))
    return torch.cat([torch.stack(rows), tokens.centres, tokens.centres.norm(dim=1, keepdim=True)], 1)


def standardised(probe: TokenProbe, model: PointMAE, features: Features) -> Features:
    """Return the features minus their mean over the probe's training tokens, divided by their standard deviation."""
    training = torch.cat([features(part.samples) for part in probe.samples(model, "train")])
    mean, deviation = training.mean(0), training.std(0).clamp_min(1e-9)
    return lambda tokens: (features(tokens) - mean) / deviation


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """Print one row of F1 scores for each kind of features."""
    own = make_parser().parse_args(argv)
    torch.set_num_threads(1)
    checkpoint = Checkpoint.read(own.checkpoint).expect(AUTOENCODER)
    settings = settings_of_checkpoint(checkpoint)
    if settings.network.backbone == "unet":
        raise InputError(f"{own.checkpoint}: a U-Net has no tokens; train_pointmae.py --eval probes its points")
    data = settings.data
    selection = CloudSelection(data.remove_led, data.energy_threshold, data.emin)
    datasets = open_splits(own.datadir, selection, {"train": -1, "valid": own.num_valid}, own.seed)
    probe = TokenProbe(datasets, own.seed, MOST)
    torch.manual_seed(own.seed)
    trained, untrained = (PointMAE(settings.network).eval() for _ in range(2))
    checkpoint.load_into(trained)
    kinds = {
        "statistics of the points": statistics,
        "mini-PointNet, untrained": untrained.encoder.embed,
        "encoder, untrained": untrained.encoder.encode,
        "mini-PointNet, pretrained": trained.encoder.embed,
        "encoder, pretrained": trained.encoder.encode,
    }
    print("| features | " + " | ".join((*probe.names, "mean")) + " |\n|---" + "|---" * (len(probe.names) + 1) + "|")
    for name, features in kinds.items():
        for label, inputs in ((name, features), (f"{name}, standardised", standardised(probe, trained, features))):
            scores = probe.judge(trained, "valid", inputs)
            print(f"| {label} | " + " | ".join(f"{score:.3f}" for score in scores.values()) + " |", flush=True)


if __name__ == "__main__":
    run_script(main, hint="")
