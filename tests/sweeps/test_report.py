"""The files that a sweep writes, for made-up trials. tests/runs/test_sweep_script.py tests those of real ones."""

import csv

import optuna
import pytest
import yaml

from puffin.settings.jets import ClassifierSettings
from puffin.sweeps.report import Report


def report(tmp_path, directions: list[str], values: list[list[float]]) -> Report:
    """Make the report of a study with one complete trial per list of values; the trials differ in --lr-init."""
    study = optuna.create_study(study_name="s", directions=directions)
    learning_rate = optuna.distributions.FloatDistribution(0.001, 1, log=True)
    for k, found in enumerate(values):
        rate = 0.001 * (k + 1)
        study.add_trial(
            optuna.trial.create_trial(
                params={"lr-init": rate},
                distributions={"lr-init": learning_rate},
                values=found,
                user_attrs={"flags": [f"--lr-init={rate}"]},
            )
        )
    metrics = ["AUC", "loss"][: len(directions)]
    return Report(study, metrics, "train_pelican_classifier.py", ClassifierSettings, tmp_path)


@pytest.mark.parametrize(
    "directions, values, best, marked",
    [
        (["maximize"], [[0.7], [0.9], [0.8], [0.9]], 1, [1]),
        (["minimize"], [[0.7], [0.5], [0.8], [0.5]], 1, [1]),
        (["maximize"], [[0.9], [0.9], [0.9]], 0, [0]),
        (["maximize", "minimize"], [[0.7, 0.3], [0.9, 0.5], [0.6, 0.4], [0.9, 0.5]], 1, [0, 1, 3]),
        (["maximize"], [], None, []),
    ],
)
def test_the_first_of_equal_trials_is_the_best(tmp_path, directions, values, best, marked):
    """The table marks only the trial whose flags are written; with several metrics, the whole Pareto front.

    Breaks if all equal trials are marked, as in Optuna's own list of the best ones, or the last of them is chosen."""
    chosen = report(tmp_path, directions, values).write()
    with open(tmp_path / "s.trials.csv") as file:
        assert [int(row["trial"]) for row in csv.DictReader(file) if row["best"] == "1"] == marked
    assert (chosen and chosen.number) == best and (tmp_path / "s.best.yaml").exists() == bool(values)
    if values:
        assert yaml.safe_load((tmp_path / "s.best.yaml").read_text()) == {"lr_init": 0.001 * (best + 1)}
        assert (tmp_path / "s.history.png").exists() and (tmp_path / "s.pareto.png").exists() == (len(directions) > 1)
