"""What test_distributed.py has two processes do: scenarios of the classifier script, one after another in one group.

    python -m tests.training.two_processes whole|fail DATA WORK     # with torchrun's environment variables
"""

import os
import signal
import sys
import time

import torch

import train_pelican_classifier as script
from src.cli.run import run_script
from src.errors import InputError
from src.tasks.jets import JetClassification
from src.training import distributed
from src.training.trainer import Interrupted
from tests.cli.test_classifier_script import TINY

FIXED = [*TINY, "--no-plot", "--double", "--prefix", "tiny", "--num-epoch", "2", "--num-train", "61", "--lr-init", "0.01", "--clip", "1"]
SAME = [*FIXED, "--drop-rate", "0", "--predict", "--ema", "0.5"]  # one process with twice the batch size does the same


def flags(data: str, work: str, *further: str) -> list[str]:
    """61 = 3 x 20 + 1 training jets, so that the last batch is empty on the second process."""
    return [*further, "--datadir", data, "--workdir", work]


def interrupted(argv: list[str], calls: int) -> None:
    """A run in which only the second process gets SIGTERM, in the given call of its step."""
    step, seen = JetClassification.step, []

    def step_and_signal(self, batch):
        seen.append(1)
        if len(seen) == calls and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    JetClassification.step = step_and_signal
    try:
        script.main(argv)
        raise AssertionError("nobody was stopped")
    except Interrupted:
        pass
    finally:
        JetClassification.step = step


def main(argv: list[str]) -> None:
    """All scenarios that end well, or one that does not."""
    scenario, data, work = argv
    if scenario == "fail":
        fail_on_the_second(flags(data, f"{work}/fail", *FIXED))
    half = ["--batch-size", "10"]
    script.main(flags(data, f"{work}/two", *SAME, *half))
    script.main(flags(data, f"{work}/alone", *SAME, *half, "--no-distribute-eval", "--no-RAMdataset", "--num-workers", "1"))
    script.main(flags(data, f"{work}/unsynchronised", *SAME, *half, "--no-sync-batchnorm"))
    script.main(flags(data, f"{work}/dropout", *FIXED, *half))
    interrupted(flags(data, f"{work}/cut", *FIXED, *half), 2)
    if distributed.is_main():
        state = torch.load(f"{work}/cut/model/tiny.pt", weights_only=True)
        os.makedirs(f"{work}/fewer/model")
        torch.save(state, f"{work}/fewer/model/tiny.pt")
    distributed.from_main(None)  # the checkpoint is there
    script.main(flags(data, f"{work}/cut", "--cpu", "--load", "--no-plot", "--prefix", "tiny"))


def fail_on_the_second(argv: list[str]) -> None:
    """The second process finds something wrong, while the first has long begun to wait for it."""
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
