"""A trial runs the training script with its flags."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from puffin.errors import InputError
from puffin.settings.common import OptimisationSettings
from puffin.sweeps.plan import make_plan
from puffin.sweeps.trial import TrialRunner
from puffin.training.logs import start_logging


class Flags(dict):
    """Flags by name, with the default length of a training."""

    def part(self, settings):
        """Return the defaults."""
        return OptimisationSettings()


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
        seeds=(1,),
        paths_of_seed=lambda number, seed: paths,
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


def test_mean_over_seeds():
    """Each seed is a run of its own, the value is the mean of their best epochs, and Optuna sees the first seed."""
    commands, attributes, reported = [], {}, []

    def main(argv, report):
        seed = next((int(flag.removeprefix("--seed=")) for flag in argv if flag.startswith("--seed=")), 5)
        history = [{"valid_loss": 1.0 + seed}, {"valid_loss": 0.1 * seed}]
        commands.append((argv, report))
        if report:
            report(history)
        return history

    class Paths(SimpleNamespace):
        best = checkpoint = Path("none")

    plan = SimpleNamespace(
        script=SimpleNamespace(main=main),
        fixed=(),
        compared_settings={},
        seeds=(5, 6, 7),
        paths_of_seed=lambda number, seed: Paths(prefix=f"s-{number}-{seed}"),
        metrics=("loss",),
        flags=Flags(best_by="loss"),
        task=SimpleNamespace(directions={"loss": -1}),
    )
    trial = SimpleNamespace(
        number=4,
        user_attrs={},
        set_user_attr=attributes.__setitem__,
        report=lambda value, step: reported.append((step, value)),
        should_prune=lambda: False,
    )
    runner = TrialRunner(plan, SimpleNamespace(sample=lambda trial: ["--clip=1"]), lambda: None)
    assert runner(trial) == pytest.approx([0.6])
    assert [argv for argv, _ in commands] == [
        ["--clip=1", "--prefix=s-4-5"],
        ["--clip=1", "--prefix=s-4-6", "--seed=6"],
        ["--clip=1", "--prefix=s-4-7", "--seed=7"],
    ]
    assert reported == [(1, 6.0), (2, 0.5)] and len(attributes["values_of_seeds"]) == 3


def test_seeds_of_a_plan(tmp_path):
    """The first seed has the files of the trial; a study with other seeds differs; a random seed is refused."""
    flags = ["--task", "classifier", "--workdir", str(tmp_path), "--study-name", "s"]
    plan = make_plan([*flags, "--seeds", "2", "--seed", "7"], "")
    assert plan.seeds == (7, 8)
    assert [plan.paths_of_seed(3, seed).prefix for seed in plan.seeds] == ["s-3", "s-3-s8"]
    assert plan.compared_settings["seeds"] == 2 and "seeds" not in make_plan(flags, "").compared_settings
    with pytest.raises(InputError, match="--seeds 2: needs --seed of at least 0"):
        make_plan([*flags, "--seeds", "2", "--seed", "-1"], "")
