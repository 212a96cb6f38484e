"""A study that many workers share: who runs which trial, and what becomes of the trials of dead workers.

A trial that its worker could not finish is marked failed, and a new trial that waits takes over its flags; it says in
`repeats` which trial it continues.  Both happen through the storage alone, so they work with every kind of storage.
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

MOST_KILLS = 2  # a trial whose workers were killed more often (out of memory?) is not queued again


class _Grid(GridSampler):
    """A grid for workers that ask for trials themselves: the end is theirs to see."""

    def after_trial(self, study, trial, state, values) -> None:
        """Optuna's stops its own loop here, and fails where there is none."""


# name -> from space, number of trials and seed to a sampler
SAMPLERS: dict[str, Callable[[Space, int, int | None], BaseSampler]] = {
    # its first trials are random; in a short sweep fewer than the usual ten
    "tpe": lambda space, n, seed: TPESampler(n_startup_trials=max(3, min(10, n // 3)), constant_liar=True, seed=seed),
    "random": lambda space, n, seed: RandomSampler(seed),
    "gp": lambda space, n, seed: GPSampler(seed=seed, n_startup_trials=max(3, min(10, n // 3))),
    "cmaes": lambda space, n, seed: CmaEsSampler(seed=seed),
    "nsga2": lambda space, n, seed: NSGAIISampler(seed=seed),
    "grid": lambda space, n, seed: _Grid(space.grid(), seed),
}
# name -> from number of epochs to a pruner
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "median": lambda epochs: MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, epochs // 5)),
    "hyperband": lambda epochs: HyperbandPruner(min_resource=1, max_resource=epochs),
    "asha": lambda epochs: SuccessiveHalvingPruner(min_resource=max(1, epochs // 8)),
    "none": lambda epochs: NopPruner(),
}


def open_study(name: str, storage: BaseStorage, directions: list[str], pruner: BasePruner, says: dict) -> optuna.Study:
    """The study of that name, a new one if there is none.

    says: what all its workers must agree on, kept in the study (task, metrics); InputError if they do not."""
    study = optuna.create_study(
        study_name=name, storage=storage, directions=directions, pruner=pruner, load_if_exists=True
    )
    known = study.user_attrs
    for key, value in says.items():
        if key not in known:
            study.set_user_attr(key, value)
        elif known[key] != value:
            difference = f"its {key} is {known[key]}, not {value}"
            raise InputError(f"study '{name}': {difference}; continue it as it began, or choose another --study-name")
    stored = [d.name.lower() for d in study.directions]
    if stored != directions:
        difference = f"its direction is {', '.join(stored)}, not {', '.join(directions)}"
        raise InputError(f"study '{name}': {difference}; choose another --study-name")
    return study


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count: all but those that another one repeats, and those that were one too many."""
    trials = study.get_trials(deepcopy=False)
    repeated = {t.user_attrs.get("repeats") for t in trials}
    return [t for t in trials if t.number not in repeated and "surplus" not in t.user_attrs]


def claim(study: optuna.Study, num_trials: int) -> optuna.Trial | None:
    """A trial for this worker to run, one that waits before a new one; None if there are num_trials.

    Workers that ask at the same time may create too many; those with the highest numbers withdraw."""
    there = counted(study)
    if len(there) >= num_trials and not any(t.state == TrialState.WAITING for t in there):
        return None
    trial = study.ask()
    if "repeats" in trial.user_attrs or sum(t.number < trial.number for t in counted(study)) < num_trials:
        return trial
    trial.set_user_attr("surplus", True)
    study.tell(trial, state=TrialState.FAIL)
    return None


def queue_again(study: optuna.Study, trial: FrozenTrial, reason: str, killed: bool) -> None:
    """Mark a running trial failed, and queue its flags again; killed: its worker was, which only happens so often.

    Of several workers that try, one succeeds."""
    storage, kills = study._storage, trial.user_attrs.get("kills", 0) + killed
    again = kills <= MOST_KILLS
    if not again:
        reason += f", {kills} times; not queued again"
    try:
        storage.set_trial_user_attr(trial._trial_id, "failure", reason)
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return  # finished after all, or another worker was faster
    if again:
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                system_attrs=trial.system_attrs,
                user_attrs={"repeats": trial.number, "kills": kills},
            )
        )
    log.warning(f"trial {trial.number}: {reason}{'; queued again' if again else ''}")
