"""A trial runs the training script with its flags."""

import logging
from pathlib import Path
from types import SimpleNamespace

from puffin.sweeps.trial import TrialRunner
from puffin.training.logs import start_logging


def test_lines_of_a_trial_name_it(tmp_path, capsys):
    """What the training logs is marked with the number of the trial; what the search logs is not."""
    log = logging.getLogger("puffin")
    before = list(log.handlers), log.level, log.propagate

    def main(argv, report):
        start_logging("info")
        log.info("epoch 1")
        return [{"valid_loss": 0.5}]

    paths = SimpleNamespace(prefix="s-4", best=Path("none"), checkpoint=Path("none"))
    plan = SimpleNamespace(
        script=SimpleNamespace(main=main),
        fixed=(),
        compared_settings={},
        paths=lambda number: paths,
        metrics=("loss",),
        flags={"best_by": "loss"},
        task=SimpleNamespace(directions={"loss": -1}),
    )
    trial = SimpleNamespace(number=4, user_attrs={}, set_user_attr=lambda name, value: None)
    runner = TrialRunner(plan, SimpleNamespace(sample=lambda trial: ["--clip=1"]), lambda: log.info("reopened"))
    try:
        start_logging("info")
        assert runner(trial) == [0.5]
        lines = [line.split("INFO    ")[1] for line in capsys.readouterr().err.splitlines()]
        assert lines == ["trial 4: --clip=1", "trial 4: epoch 1", "reopened"]
    finally:
        for handler in list(log.handlers):
            log.removeHandler(handler)
        log.handlers, log.level, log.propagate = before[0], before[1], before[2]
