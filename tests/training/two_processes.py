"""Run two processes for test_distributed.py: one scenario of the scripts after another, in one process group.

python -m tests.training.two_processes whole|fail|points|clouds DATA WORK     # with torchrun's environment variables
"""

import os
import signal
import sys
import time
from collections.abc import Callable

import torch

import train_pelican_classifier as script
import train_pointmae as pretraining
import train_segmentation as segmentation
from puffin.errors import InputError
from puffin.layers.packed import event_of_row, rank_in_event
from puffin.runs.entry import run_script
from puffin.tasks import masked_modelling, self_distillation
from puffin.tasks.classification import JetClassification
from puffin.training import distributed
from puffin.training.trainer import Interrupted
from tests.runs.test_classifier_script import TINY

FIXED = [*TINY, *"--no-plot --double --prefix tiny --num-epoch 2 --num-train 61 --lr-init 0.01 --clip 1".split()]
# one process with twice the batch size trains identically
SAME = [*FIXED, *"--drop-rate 0 --predict --ema 0.5".split()]

# segmentation: 9 = 2 x 4 + 1 training events; one process with twice the batch size trains identically
POINTS = (
    "--arch vit_tiny --depth 2 --layers 0 --group-size 8 --context 60 --min-points 50 --head-dim 16 "
    "--head-dropout 0 --attention-dropout 0 --drop-path 0 --no-rotate --loss focal:0.5,dice,nll:0.1 "
    "--num-train 9 --num-epoch 2 --warmup 0 --lr-init 1e-3 --double --cpu --threads 1 --no-plot "
    "--prefix points --predict"
).split()

# pretraining of PoLAr-MAE, and of a U-Net with both methods, on the same events
_CLOUDS = (
    "--min-points 50 --no-rotate --num-train 9 --num-epoch 2 --warmup 0 "
    "--lr-init 1e-3 --double --cpu --threads 1 --no-plot --no-probe --prefix clouds"
).split()
_TOKENS = "--arch vit_tiny --depth 1 --decoder-depth 1 --group-size 32 --context 60 --attention-dropout 0 --drop-path 0"
_UNET = "--backbone unet --unet-width 4 --unet-levels 4 --mask-block 4 --geometry"
CLOUDS = {
    "transformer": [*_CLOUDS, *_TOKENS.split()],
    "unet": [*_CLOUDS, *_UNET.split()],
    "distill": [*_CLOUDS, *f"{_UNET} --method distill --prototypes 16 --crop-radius 20".split()],
}


def hide_the_first(lengths: torch.Tensor, ratio: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Replace `random_mask`: mask the first tokens of each event, whatever its batch and process."""
    return rank_in_event(lengths) < (lengths * ratio).long()[event_of_row(lengths)]


def crop_around_the_first(fractions: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Replace `rows_at`: all crops are around the first point of each event, whatever its batch and process."""
    return (lengths.cumsum(0) - lengths)[:, None].expand(fractions.shape)


def draw_nothing(replace: Callable) -> None:
    """Replace what each process would draw by itself; replace(module, name, function)."""
    replace(masked_modelling, "random_mask", hide_the_first)
    replace(self_distillation, "random_mask", hide_the_first)
    replace(self_distillation, "rows_at", crop_around_the_first)


def flags(data: str, work: str, *further: str) -> list[str]:
    """Return flags with folders. 61 = 3 x 20 + 1 training jets: the last batch is empty on the second process."""
    return [*further, "--datadir", data, "--workdir", work]


def interrupted(argv: list[str], calls: int) -> None:
    """Run the classifier script; only the second process gets SIGTERM, in the given call of its step."""
    step, seen = JetClassification.step, []

    def step_and_signal(self, batch):
        seen.append(1)
        if len(seen) == calls and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    JetClassification.step = step_and_signal
    try:
        script.main(argv)
        raise AssertionError("the run was not stopped")
    except Interrupted:
        pass
    finally:
        JetClassification.step = step


def main(argv: list[str]) -> None:
    """Run the scenario that the command line names."""
    scenario, data, work = argv
    if scenario == "fail":
        fail_on_the_second(flags(data, f"{work}/fail", *FIXED))
    if scenario == "points":
        return points(data, work)
    if scenario == "clouds":
        draw_nothing(setattr)
        for network, own in CLOUDS.items():
            pretraining.main(flags(data, f"{work}/{network}/two", *own, "--batch-size", "2"))
        return
    half = ["--batch-size", "10"]
    script.main(flags(data, f"{work}/two", *SAME, *half))
    alone = "--no-distribute-eval --no-RAMdataset --num-workers 1".split()
    script.main(flags(data, f"{work}/alone", *SAME, *half, *alone))
    script.main(flags(data, f"{work}/unsynchronised", *SAME, *half, "--no-sync-batchnorm"))
    script.main(flags(data, f"{work}/dropout", *FIXED, *half))
    interrupted(flags(data, f"{work}/cut", *FIXED, *half), 2)
    if distributed.is_main():
        state = torch.load(f"{work}/cut/model/tiny.pt", weights_only=True)
        os.makedirs(f"{work}/fewer/model")
        torch.save(state, f"{work}/fewer/model/tiny.pt")
    distributed.from_main(None)  # wait until the checkpoint is written
    script.main(flags(data, f"{work}/cut", "--cpu", "--load", "--no-plot", "--prefix", "tiny"))


def points(data: str, work: str) -> None:
    """Train a segmentation network, whose losses are sums over both processes.

    Evaluate it with both processes, and with the first alone. Then compute a loss in which no process has an event."""
    segmentation.main(flags(data, f"{work}/two", *POINTS, "--batch-size", "2"))
    evaluation = "--eval --min-points 50 --cpu --double --no-plot --prefix alone --no-distribute-eval".split()
    evaluation += ["--loadfile", f"{work}/two/model/points.pt"]
    segmentation.main(flags(data, f"{work}/alone", *evaluation))
    loss, totals = distributed.global_loss(torch.zeros(()), 0, False)
    assert float(loss) == 0 and totals() == [0, 0, 0]


def fail_on_the_second(argv: list[str]) -> None:
    """Let the second process fail while the first one waits for it."""
    check = JetClassification.check_labels

    def bad_check(self, labels, name):
        if distributed.rank() == 1:
            time.sleep(1)
            raise InputError("train.h5: event 7 is not finite")
        check(self, labels, name)

    JetClassification.check_labels = bad_check
    script.main(argv)


if __name__ == "__main__":
    run_script(main, sys.argv[1:])
