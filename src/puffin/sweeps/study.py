"""A study that many workers share: which worker runs which trial, and how trials of dead workers are repeated.

A trial that its worker could not finish is marked as failed, and a new waiting trial gets its flags; the user attribute
`repeats` is the number of the failed trial. All this goes through the storage, so it works with every kind of storage.
"""

import logging
from collections.abc import Callable

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, GridSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from puffin.errors import InputError
from puffin.sweeps.space import Space

log = logging.getLogger("puffin")

MOST_KILLS = 2  # a trial whose workers were killed more often than this (out of memory?) is not repeated


class _Grid(GridSampler):
    """Optuna's grid for workers that ask for trials themselves and know when to stop."""

    def after_trial(self, study, trial, state, values) -> None:
        """Do nothing: Optuna would stop its own loop over trials here, and fails without such a loop."""


# name -> function (space, number of trials, seed) -> sampler
SAMPLERS: dict[str, Callable[[Space, int, int | None], BaseSampler]] = {
    # the first trials are random: ten, or fewer in a short sweep
    "tpe": lambda space, n, seed: TPESampler(n_startup_trials=max(3, min(10, n // 3)), constant_liar=True, seed=seed),
    "random": lambda space, n, seed: RandomSampler(seed),
    "gp": lambda space, n, seed: GPSampler(seed=seed, n_startup_trials=max(3, min(10, n // 3))),
    "cmaes": lambda space, n, seed: CmaEsSampler(seed=seed),
    "nsga2": lambda space, n, seed: NSGAIISampler(seed=seed),
    "grid": lambda space, n, seed: _Grid(space.grid(), seed),
}
# name -> function (number of epochs) -> pruner
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "median": lambda epochs: MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, epochs // 5)),
    "hyperband": lambda epochs: HyperbandPruner(min_resource=1, max_resource=epochs),
    "asha": lambda epochs: SuccessiveHalvingPruner(min_resource=max(1, epochs // 8)),
    "none": lambda epochs: NopPruner(),
}


def open_study(
    name: str, storage: BaseStorage, directions: list[str], pruner: BasePruner, agreed: dict
) -> optuna.Study:
    """Open the study with this name, or create it.

    agreed: settings that all workers must share (task, metrics), stored in the study. InputError if the study has other
    settings or directions."""
    study = optuna.create_study(
        study_name=name, storage=storage, directions=directions, pruner=pruner, load_if_exists=True
    )
    known = study.user_attrs
    for key, value in agreed.items():
        if key not in known:
            study.set_user_attr(key, value)
        elif known[key] != value:
            raise InputError(
                f"study '{name}': its {key} is {known[key]}, not {value}. Use the same settings as before, or choose "
                f"another --study-name."
            )
    stored = [d.name.lower() for d in study.directions]
    if stored != directions:
        raise InputError(
            f"study '{name}': its direction is {', '.join(stored)}, not {', '.join(directions)}. "
            f"Choose another --study-name."
        )
    return study


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count towards --num-trials: not those that were repeated or were surplus."""
    trials = study.get_trials(deepcopy=False)
    repeated = {t.user_attrs.get("repeats") for t in trials}
    return [t for t in trials if t.number not in repeated and "surplus" not in t.user_attrs]


def claim(study: optuna.Study, num_trials: int) -> optuna.Trial | None:
    """Take a trial for this worker to run, a waiting one before a new one; None if the study has num_trials.

    Workers that ask at the same time may create too many trials; those with the highest numbers are marked as
    surplus."""
    trials = counted(study)
    if len(trials) >= num_trials and not any(t.state == TrialState.WAITING for t in trials):
        return None
    trial = study.ask()
    if "repeats" in trial.user_attrs or sum(t.number < trial.number for t in counted(study)) < num_trials:
        return trial
    trial.set_user_attr("surplus", True)
    study.tell(trial, state=TrialState.FAIL)
    return None


def queue_again(study: optuna.Study, trial: FrozenTrial, reason: str, killed: bool) -> None:
    """Mark a running trial as failed, and queue its flags again.

    killed: whether its worker was killed; a trial is not queued again after more than MOST_KILLS kills. If several
    workers call this for the same trial, only one of them succeeds."""
    storage, kills = study._storage, trial.user_attrs.get("kills", 0) + killed
    repeat = kills <= MOST_KILLS
    if not repeat:
        reason += f", {kills} times; not queued again"
    try:
        storage.set_trial_user_attr(trial._trial_id, "failure", reason)
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return  # the trial has finished, or another worker was faster
    if repeat:
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                system_attrs=trial.system_attrs,
                user_attrs={"repeats": trial.number, "kills": kills},
            )
        )
    log.warning(f"trial {trial.number}: {reason}{'; queued again' if repeat else ''}")
