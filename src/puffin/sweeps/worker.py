"""A worker of a sweep: it takes trials of the study, runs them, and stores their results."""

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

from puffin.errors import InputError, Interrupted, NonFiniteError, is_missing_package, missing_package
from puffin.sweeps.storage import StorageLost
from puffin.sweeps.study import claim, queue_again

log = logging.getLogger("puffin")

MISSED = 4  # heartbeats that a worker may miss before it is considered dead
_MOST_FAILURES = 5  # a worker stops if its first trials all fail, as the next ones would fail as well


class Heartbeat(threading.Thread):
    """Show every `interval` seconds that this worker is alive, and queue the trials of dead workers again.

    A worker is dead if the heartbeat of its trial does not change while this thread watches it, so the clocks of
    different machines need not agree. lock: held while trials are queued, so that the worker does not exit between the
    end of a trial and its repetition.
    """

    def __init__(self, study: optuna.Study, interval: float):
        super().__init__(name="heartbeat", daemon=True)
        self.study, self.interval, self.trial = study, interval, None
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self._seen, self._count = {}, 0

    def run(self) -> None:
        """Run until stopped, or until the database is lost, which the worker notices itself."""
        with contextlib.suppress(StorageLost):
            while not self.stopped.wait(self.interval):
                start = time.monotonic()
                with self.lock:
                    if not self.stopped.is_set():
                        self.beat()
                        self._watch()
                if time.monotonic() - start > self.interval:
                    self._seen.clear()  # the database or this process was suspended, and so were other workers

    def beat(self) -> None:
        """Store a new heartbeat in this worker's trial."""
        trial, self._count = self.trial, self._count + 1
        if trial is not None:
            with contextlib.suppress(UpdateFinishedTrialError):  # the worker notices it when the trial ends
                trial.set_user_attr("sign_of_life", f"{worker_name()} {self._count}")

    def _watch(self) -> None:
        """Queue the trials again whose heartbeat has not changed for too long."""
        now, seen = time.monotonic(), {}
        for trial in running_elsewhere(self.study, self.trial):
            beat = trial.user_attrs.get("sign_of_life")
            before, since = self._seen.get(trial.number, (None, now))
            seen[trial.number] = (beat, since if beat == before and trial.number in self._seen else now)
            if now - seen[trial.number][1] > MISSED * self.interval:
                name = (beat or "unknown").split()[0]
                queue_again(self.study, trial, f"no sign of life from its worker ({name})", killed=True)
        self._seen = seen


def worker_name() -> str:
    """Return a name of this process for messages."""
    return f"{socket.gethostname()}:{os.getpid()}"


def running_elsewhere(study: optuna.Study, own: optuna.Trial | None) -> list[optuna.trial.FrozenTrial]:
    """Return the running trials of other workers; own: trial of this worker."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [t for t in running if own is None or t.number != own.number]


class Worker:
    """A worker that runs trials until the study has num_trials or the timeout has passed.

    run_trial(trial) returns one value per metric, or raises optuna.TrialPruned. timeout: time [s] after which no trial
    is started, or None; interval: time [s] between heartbeats."""

    def __init__(
        self, study: optuna.Study, run_trial: Callable, num_trials: int, timeout: float | None, interval: float
    ):
        self.study, self.run_trial, self.num_trials = study, run_trial, num_trials
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.heartbeat = Heartbeat(study, interval)
        self._failures, self._reason, self._succeeded = 0, "", False
        self._missing = ""  # the message about a package that is not installed

    def work(self) -> None:
        """Run trials; after a signal queue the current trial again and raise Interrupted or KeyboardInterrupt."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C, unless the training handles it
        self.heartbeat.start()
        idle_since = None
        try:
            while self.deadline is None or time.monotonic() < self.deadline:
                with self.heartbeat.lock:
                    trial = claim(self.study, self.num_trials)
                    if trial is None and not self._must_wait(idle_since):
                        self.heartbeat.stopped.set()
                        break
                if trial is not None:
                    idle_since = None
                    self._run(trial)
                else:
                    idle_since = idle_since or time.monotonic()
                    time.sleep(min(1.0, self.heartbeat.interval))
            else:
                log.info("--timeout has passed: no further trial is started")
        finally:
            self.heartbeat.stopped.set()
            self.heartbeat.join(timeout=10)
        if self._failures and not self._succeeded:
            failed = "the only trial" if self._failures == 1 else f"all {self._failures} trials"
            raise InputError(f"{failed} of this worker failed; the last one: {self._reason}")

    def _must_wait(self, idle_since: float | None) -> bool:
        """Return whether to wait, as the worker of a running trial may turn out to be dead.

        idle_since: when this worker began to wait, or None."""
        if not running_elsewhere(self.study, None):
            return False
        if idle_since is None:
            log.info("all trials are taken; waiting for the other workers to finish or to show that they are alive")
            return True
        return time.monotonic() - idle_since < (MISSED + 3) * self.heartbeat.interval

    def _run(self, trial: optuna.Trial) -> None:
        """Run a trial and store its result; InputError if this worker's first trials all failed."""
        self.heartbeat.trial = trial
        self.heartbeat.beat()
        try:
            state, values, reason = self._outcome(trial)
            if reason:
                trial.set_user_attr("failure", reason)
            stored = self.study.tell(trial, values, state, skip_if_finished=True)
            if stored.state != state:
                raise UpdateFinishedTrialError
        except UpdateFinishedTrialError:
            log.warning(
                f"trial {trial.number}: another worker considered this worker dead and took over the trial; "
                f"continuing with the next trial"
            )
            return
        except (Interrupted, KeyboardInterrupt):
            for s in (signal.SIGINT, signal.SIGTERM):  # a second signal must not interrupt this
                signal.signal(s, signal.SIG_IGN)
            current = self.study._storage.get_trial(trial._trial_id)
            queue_again(self.study, current, "its worker was stopped", killed=False)
            raise
        finally:
            self.heartbeat.trial = None
        if state != TrialState.COMPLETE:
            gc.collect()  # tensors that an exception referred to
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
        if self._missing:
            raise InputError(self._missing)
        if self._failures >= _MOST_FAILURES and not self._succeeded:
            raise InputError(f"the first {self._failures} trials all failed; the last one: {reason}")

    def _outcome(self, trial: optuna.Trial) -> tuple[TrialState, list[float] | None, str]:
        """Run a trial; returns its state, its values, and the reason of a failure.

        No failure of a trial ends the worker, except a lost database and a signal."""
        try:
            values = self.run_trial(trial)
            if any(value != value for value in values):  # which Optuna does not take
                return TrialState.FAIL, None, "a metric is not a number"
            return TrialState.COMPLETE, values, ""
        except optuna.TrialPruned:
            return TrialState.PRUNED, None, ""
        except (StorageLost, UpdateFinishedTrialError, Interrupted):
            raise
        except ModuleNotFoundError as error:
            if is_missing_package(error):  # all further trials would miss it too
                self._missing = missing_package(error.name or "")
            return TrialState.FAIL, None, _line(error)
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
