"""Compare the linear probe of a pretrained encoder with that of features that nothing was learned for.

    python tools/probe_features.py model/study_best.pt --datadir DIR [--num-valid N]

The same tokens of the same events for all: the pretrained encoder, one with random weights, its untrained embedding of the points (a
mini-PointNet), and plain statistics of each token's points, as they are and in units of their spread.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.checkpoints.reading import read_checkpoint
from puffin.cli.clouds import point_mae_config, take_network_from
from puffin.data.pilarnet import CloudSelection, open_splits
from puffin.layers.grouping import Tokens
from puffin.models.point_mae import PointMAE
from puffin.runs.run import load_weights, run_script
from puffin.settings.presets import parse_arguments
from puffin.tasks.token_probe import MOST, TokenProbe
from train_pointmae import make_parser

Features = Callable[[Tokens], Tensor]


def statistics(tokens: Tokens) -> Tensor:
    """(T, 29) of each token's points: number; mean, standard deviation, least and largest of x, y, z (in units of the radius) and
    energy, and how far they extend; eigenvalues of the positions' covariance; the energies' sum; the centre and its distance
    from the detector's."""
    rows = []
    for points in tokens.groups.split(tokens.counts.tolist()):
        position = points[:, :3] - points[:, :3].mean(0)
        shape = torch.linalg.eigvalsh(position.T @ position / len(points))
        rows.append(
            torch.cat(
                [
                    points.new_tensor([len(points)]),
                    points.mean(0),
                    points.std(0, correction=0),
                    points.amin(0),
                    points.amax(0),
                    shape,
                    (points.amax(0) - points.amin(0)),
                    points[:, 3].sum()[None],
                ]
            )
        )
    return torch.cat([torch.stack(rows), tokens.centres, tokens.centres.norm(dim=1, keepdim=True)], 1)


def standardised(probe: TokenProbe, model: PointMAE, features: Features) -> Features:
    """`features` less their mean over the probe's training tokens, over their spread."""
    known = torch.cat([features(part.tokens) for part in probe.tokens(model.encoder, "train")])
    mean, spread = known.mean(0), known.std(0).clamp_min(1e-9)
    return lambda tokens: (features(tokens) - mean) / spread


@torch.no_grad()
def main(argv=None) -> None:
    """Parse the flags and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--datadir", type=Path, required=True)
    parser.add_argument("--num-valid", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    args, _ = parse_arguments(make_parser, [])
    checkpoint = take_network_from(args, set(), read_checkpoint(given.checkpoint), given.checkpoint)
    selection = CloudSelection(args.remove_led, args.energy_threshold, args.emin)
    datasets = open_splits(given.datadir, selection, {"train": -1, "valid": given.num_valid}, given.seed)
    probe = TokenProbe(datasets, given.seed, MOST)
    torch.manual_seed(given.seed)
    trained, untrained = (PointMAE(point_mae_config(args)).eval() for _ in range(2))
    load_weights(trained, checkpoint, given.checkpoint)
    kinds = {
        "statistics of the points": statistics,
        "mini-PointNet, untrained": untrained.encoder.embed,
        "encoder, untrained": untrained.encoder.encode,
        "mini-PointNet, pretrained": trained.encoder.embed,
        "encoder, pretrained": trained.encoder.encode,
    }
    print("| features | " + " | ".join((*probe.names, "mean")) + " |\n|---" + "|---" * (len(probe.names) + 1) + "|")
    for name, features in kinds.items():
        for kind, what in ((name, features), (f"{name}, standardised", standardised(probe, trained, features))):
            scores = probe.judge(trained.encoder, "valid", what)
            print(f"| {kind} | " + " | ".join(f"{score:.3f}" for score in scores.values()) + " |", flush=True)


if __name__ == "__main__":
    run_script(main)
