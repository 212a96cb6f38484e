"""A worker of a sweep: takes trials of the study, runs each, and tells what became of it."""

import contextlib
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from puffin.errors import InputError, Interrupted, NonFiniteError
from puffin.sweeps.storage import StorageLost
from puffin.sweeps.study import claim, queue_again

log = logging.getLogger("puffin")

MISSED = 4  # signs of life that a dead worker has not given
_MOST_FAILURES = 5  # of a worker's first trials; then something is wrong with all of them


class SignsOfLife(threading.Thread):
    """Says every `interval` seconds that this worker lives, and queues the trials of workers that do not.

    What counts is whether a sign changes while this thread watches, so clocks of different machines need not agree.
    lock: held while it queues trials, so that a worker does not leave between the end of one and its repetition.
    """

    def __init__(self, study: optuna.Study, interval: float):
        super().__init__(name="signs of life", daemon=True)
        self.study, self.interval, self.trial = study, interval, None
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self._seen, self._count = {}, 0

    def run(self) -> None:
        """Until stopped; a database that is lost for good ends it, and the worker will notice by itself."""
        with contextlib.suppress(StorageLost):
            while not self.stopped.wait(self.interval):
                start = time.monotonic()
                with self.lock:
                    if not self.stopped.is_set():
                        self.beat()
                        self._watch()
                if time.monotonic() - start > self.interval:  # the database was away, or this process: so were others
                    self._seen.clear()

    def beat(self) -> None:
        """A new sign at this worker's trial."""
        trial, self._count = self.trial, self._count + 1
        if trial is not None:
            with contextlib.suppress(UpdateFinishedTrialError):  # the trial itself will hear of it
                trial.set_user_attr("sign_of_life", f"{worker_name()} {self._count}")

    def _watch(self) -> None:
        now, seen = time.monotonic(), {}
        for trial in others(self.study, self.trial):
            sign = trial.user_attrs.get("sign_of_life")
            before, since = self._seen.get(trial.number, (None, now))
            seen[trial.number] = (sign, since if sign == before and trial.number in self._seen else now)
            if now - seen[trial.number][1] > MISSED * self.interval:
                queue_again(
                    self.study,
                    trial,
                    f"no sign of life from its worker ({(sign or 'unknown').split()[0]})",
                    killed=True,
                )
        self._seen = seen


def worker_name() -> str:
    """This process, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"


def others(study: optuna.Study, mine: optuna.Trial | None) -> list[optuna.trial.FrozenTrial]:
    """Running trials of other workers."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [t for t in running if mine is None or t.number != mine.number]


class Worker:
    """Runs trials until the study has num_trials or the time is over.

    run_trial(trial) -> values, one per metric; raises optuna.TrialPruned to stop early.  timeout: s after which no
    trial begins, or None; interval: s between signs of life."""

    def __init__(
        self, study: optuna.Study, run_trial: Callable, num_trials: int, timeout: float | None, interval: float
    ):
        self.study, self.run_trial, self.num_trials = study, run_trial, num_trials
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.signs = SignsOfLife(study, interval)
        self._failures, self._reason, self._succeeded = 0, "", False

    def work(self) -> None:
        """Raises Interrupted or KeyboardInterrupt if it was told to stop; then its trial is queued again."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C, where training does not catch it
        self.signs.start()
        idle_since = None
        try:
            while self.deadline is None or time.monotonic() < self.deadline:
                with self.signs.lock:
                    trial = claim(self.study, self.num_trials)
                    if trial is None and not self._others_may_be_dead(idle_since):
                        self.signs.stopped.set()
                        break
                if trial is not None:
                    idle_since = None
                    self._run(trial)
                else:
                    idle_since = idle_since or time.monotonic()
                    time.sleep(min(1.0, self.signs.interval))
            else:
                log.info("--timeout: no further trial begins")
        finally:
            self.signs.stopped.set()
            self.signs.join(timeout=10)
        if self._failures and not self._succeeded:
            raise InputError(f"all {self._failures} trials of this worker failed; the last one: {self._reason}")

    def _others_may_be_dead(self, idle_since: float | None) -> bool:
        """Whether to wait: a trial that runs elsewhere, for all we know, may soon be found to have no worker."""
        if not others(self.study, None):
            return False
        if idle_since is None:
            log.info("no trial is left; waiting until those that run elsewhere end, or show that they live")
            return True
        return time.monotonic() - idle_since < (MISSED + 3) * self.signs.interval

    def _run(self, trial: optuna.Trial) -> None:
        self.signs.trial = trial
        self.signs.beat()
        try:
            state, values, reason = self._outcome(trial)
            if reason:
                trial.set_user_attr("failure", reason)
            told = self.study.tell(trial, values, state, skip_if_finished=True)
            if told.state != state:
                raise UpdateFinishedTrialError
        except UpdateFinishedTrialError:
            log.warning(
                f"trial {trial.number}: another worker took this one for dead, and its trial; going on with the next"
            )
            return
        except (Interrupted, KeyboardInterrupt):
            for s in (signal.SIGINT, signal.SIGTERM):  # nothing may disturb the handing over
                signal.signal(s, signal.SIG_IGN)
            queue_again(
                self.study, self.study._storage.get_trial(trial._trial_id), "its worker was told to stop", killed=False
            )
            raise
        finally:
            self.signs.trial = None
        if state != TrialState.COMPLETE:
            gc.collect()  # what an exception held
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        shown = reason or ", ".join(f"{v:.6g}" for v in values or ())
        log.log(
            logging.ERROR if reason else logging.INFO,
            f"trial {trial.number}: {state.name.lower()}{': ' if shown else ''}{shown}",
        )
        self._succeeded |= not reason
        if reason:
            self._failures, self._reason = self._failures + 1, reason
        if self._failures >= _MOST_FAILURES and not self._succeeded:
            raise InputError(f"the first {self._failures} trials all failed; the last one: {reason}")

    def _outcome(self, trial: optuna.Trial) -> tuple[TrialState, list[float] | None, str]:
        """State and values of a trial that runs to its end, and why it failed; whatever breaks it breaks nothing else."""
        try:
            values = self.run_trial(trial)
            if any(v != v for v in values):
                return TrialState.FAIL, None, "a metric is not a number"
            return TrialState.COMPLETE, values, ""
        except optuna.TrialPruned:
            return TrialState.PRUNED, None, ""
        except (StorageLost, UpdateFinishedTrialError, Interrupted):
            raise
        except (MemoryError, torch.OutOfMemoryError) as error:
            return TrialState.FAIL, None, f"out of memory: {_line(error)}"
        except (InputError, NonFiniteError) as error:
            return TrialState.FAIL, None, _line(error)
        except SystemExit as error:
            return TrialState.FAIL, None, f"the script ended: {error.code}"
        except Exception as error:
            log.debug("traceback", exc_info=True)
            return TrialState.FAIL, None, f"{type(error).__name__}: {_line(error)}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
