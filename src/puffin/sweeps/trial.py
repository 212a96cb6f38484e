"""A trial of a sweep: a training with flags from the search space."""

import logging
import math
import shutil
from collections.abc import Callable

import numpy as np
import optuna

from puffin.errors import InputError, MissingOutputs
from puffin.files import whole_file
from puffin.settings.common import OptimisationSettings
from puffin.sweeps.plan import Plan
from puffin.sweeps.space import Space
from puffin.training.logs import line_prefix

log = logging.getLogger("puffin")


class TrialRunner:
    """Runs trials of a plan. reopen_log: called when a training, which logs to its own file, has ended."""

    def __init__(self, plan: Plan, space: Space, reopen_log: Callable[[], None]):
        self.plan, self.space, self.reopen_log = plan, space, reopen_log

    def __call__(self, trial: optuna.Trial) -> list[float]:
        """Train with the flags of a trial; return its metrics at the best epoch, averaged over the seeds.

        Optuna sees the epochs of the first seed, and may stop the trial then."""
        plan = self.plan
        varied = self.space.sample(trial)
        flags = [*varied, *plan.fixed]
        trial.set_user_attr("flags", flags)
        trial.set_user_attr("settings", plan.compared_settings)
        log.info(f"trial {trial.number}: {' '.join(varied)}")
        values = [self._train(trial, flags, seed) for seed in plan.seeds]
        if len(values) > 1:
            trial.set_user_attr("values_of_seeds", values)
            log.info(f"trial {trial.number}: seeds {plan.seeds[0]} to {plan.seeds[-1]}: {values}")
        return np.mean(values, axis=0).tolist()

    def _train(self, trial: optuna.Trial, flags: list[str], seed: int) -> list[float]:
        """Train with one of the seeds; return the metrics at the best epoch."""
        plan = self.plan
        own = [f"--prefix={plan.paths_of_seed(trial.number, seed).prefix}", *self._resumed(trial, seed)]
        first = seed == plan.seeds[0]
        if not first:
            own.append(f"--seed={seed}")
        try:
            with line_prefix(f"trial {trial.number}: "):
                history = plan.script.main([*flags, *own], _Reports(self, trial).add if first else None)
        except MissingOutputs as error:  # a picture or a table, without which the trial has its metrics all the same
            log.warning(f"trial {trial.number}: {error}")
            history = error.history
        finally:
            self.reopen_log()
        return self._finite(self.metrics(self._best_epoch(history)))

    def _finite(self, values: list[float]) -> list[float]:
        """Return the metrics of a trial; InputError if one of them is not a number, which ends the trial as failed."""
        missing = [name for name, value in zip(self.plan.metrics, values, strict=True) if math.isnan(value)]
        if missing:
            raise InputError(f"--metric {missing[0]}: was not a number at the best epoch; look at the validation data")
        return values

    def num_rows(self) -> int:
        """Return the number of validations per trial, as far as the flags determine it."""
        optimisation = self.plan.flags.part(OptimisationSettings)
        if optimisation.num_step and optimisation.valid_every:
            return math.ceil(optimisation.num_step / optimisation.valid_every)
        return optimisation.num_epoch

    def metrics(self, row: dict) -> list[float]:
        """Return the metrics that are optimised; InputError if the validation data do not have one of them."""
        missing = [name for name in self.plan.metrics if f"valid_{name}" not in row]
        if missing:
            found = ", ".join(key.removeprefix("valid_") for key in row if key.startswith("valid_"))
            raise InputError(
                f"--metric {missing[0]}: not a metric of the validation data (found: {found or 'no validation data'})"
            )
        return [row[f"valid_{name}"] for name in self.plan.metrics]

    def _best_epoch(self, history: list[dict]) -> dict:
        """Return the epoch that the training script takes for the best."""
        if not history:
            raise InputError("nothing was trained")
        best_by = self.plan.flags["best_by"]
        key, sign = f"valid_{best_by}", self.plan.task.directions[best_by]

        def value(row: dict) -> float:
            found = row.get(key, math.nan)
            return -math.inf if math.isnan(found) else sign * found

        return max(history, key=value)

    def _resumed(self, trial: optuna.Trial, seed: int) -> list[str]:
        """Return the flags that resume the trial which this one repeats, if its checkpoint can be reached."""
        if "repeats" not in trial.user_attrs:
            return []
        old, new = (self.plan.paths_of_seed(n, seed) for n in (trial.user_attrs["repeats"], trial.number))
        if not old.checkpoint.exists():
            return []
        for source, target in ((old.best, new.best), (old.checkpoint, new.checkpoint)):
            if source.exists():
                with whole_file(target) as temporary:
                    shutil.copyfile(source, temporary)
        return ["--load", "--loadfile="]


class _Reports:
    """Hands the metrics of each epoch to Optuna, which may stop the trial."""

    def __init__(self, runner: TrialRunner, trial: optuna.Trial):
        self.runner, self.trial, self.reported = runner, trial, 0

    def add(self, history: list[dict]) -> None:
        """Report the rows that are new."""
        trial = self.trial
        trial.set_user_attr("epochs", len(history))
        new = [(number, self.runner.metrics(row)) for number, row in enumerate(history, 1) if number > self.reported]
        self.reported = len(history)
        if len(self.runner.plan.metrics) > 1:
            return  # Optuna takes intermediate values, and prunes, for one metric only
        measured = [(number, value) for number, (value,) in new if not math.isnan(value)]  # a row may have no probe
        for number, value in measured:
            trial.report(value, number)
        if measured and len(history) < self.runner.num_rows() and trial.should_prune():
            raise optuna.TrialPruned
