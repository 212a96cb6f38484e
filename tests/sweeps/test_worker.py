"""Workers: which worker runs which trial, and what failures do. The trials are short functions, not trainings."""

import signal
import time
from types import SimpleNamespace

import optuna
import pytest
import torch
from optuna.trial import TrialState

from puffin.errors import InputError
from puffin.sweeps.storage import open_storage
from puffin.sweeps.study import MOST_KILLS, SAMPLERS, claim, counted, open_study, queue_again
from puffin.sweeps.worker import MISSED, Heartbeat, Worker
from puffin.training.trainer import Interrupted

INTERVAL = 0.1  # s, between heartbeats
BOTH = pytest.mark.parametrize("storage", ["journal", "sqlite"], indirect=True)


@pytest.fixture
def storage(request, tmp_path):
    """The name of a storage; each worker opens it itself."""
    return f"sqlite:///{tmp_path}/s.db" if getattr(request, "param", "") == "sqlite" else f"{tmp_path}/s.journal"


@pytest.fixture(autouse=True)
def _signals():
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for s, handler in before.items():
        signal.signal(s, handler)


def study_in(storage) -> optuna.Study:
    """Open the study."""
    return open_study("s", open_storage(storage, 5), ["minimize"], optuna.pruners.NopPruner(), {"task": "x"})


def work(study, run_trial, num_trials, timeout=None, interval=INTERVAL):
    """Run a worker until it ends."""
    Worker(study, run_trial, num_trials, timeout, interval).work()


def value(trial) -> list[float]:
    """Run a trial that succeeds."""
    return [trial.suggest_float("x", 0, 1)]


def states(study) -> list[str]:
    """Return the states of all trials, in order."""
    return [t.state.name for t in study.get_trials()]


def test_a_missing_package_ends_the_worker(storage):
    """All further trials would miss it too. Breaks if the sweep goes on, and ends with status 0."""

    def run(trial):
        if trial.number == 2:
            raise ModuleNotFoundError("No module named 'cmaes'", name="cmaes")
        return value(trial)

    study = study_in(storage)
    with pytest.raises(InputError, match="'cmaes' is not installed .*pip install"):
        work(study, run, 10)
    assert states(study) == ["COMPLETE", "COMPLETE", "FAIL"]


def test_failures_do_not_end_the_sweep(storage):
    """A crash, too little memory, nan, pruning: each is stored with its reason, and all ten trials run."""

    def run(trial):
        number = trial.number
        if number == 1:
            raise RuntimeError("boom\nsecond line")
        if number == 2:
            raise MemoryError
        if number == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if number == 4:
            return [float("nan")]
        if number == 5:
            trial.report(3.0, 1)
            raise optuna.TrialPruned
        if number == 6:
            raise SystemExit(2)
        return value(trial)

    study = study_in(storage)
    work(study, run, 10)
    assert states(study) == "COMPLETE FAIL FAIL FAIL FAIL PRUNED FAIL COMPLETE COMPLETE COMPLETE".split()
    reasons = [t.user_attrs.get("failure", "") for t in study.get_trials()]
    assert reasons[1] == "RuntimeError: boom second line" and reasons[2].startswith("out of memory")
    assert reasons[3] == "out of memory: CUDA out of memory" and "not a number" in reasons[4] and reasons[5] == ""


def test_a_sweep_that_can_only_fail_ends(storage):
    """With wrong flags every trial fails; the worker stops after five."""

    def run(trial):
        raise InputError("no such folder")

    study = study_in(storage)
    with pytest.raises(InputError, match="first 5 trials all failed; the last one: no such folder"):
        work(study, run, 100)
    assert states(study) == ["FAIL"] * 5


def test_a_worker_without_any_success_fails(storage):
    """Even if it had fewer than five trials. Breaks if a sweep of failures ends with status 0."""

    def run(trial):
        raise InputError("no such folder")

    with pytest.raises(InputError, match="all 2 trials of this worker failed; the last one: no such folder"):
        work(study_in(storage), run, 2)


def test_timeout(storage, monkeypatch):
    """No trial is started after the timeout. Each takes one second of a simulated clock."""
    study, now = study_in(storage), [0.0]
    monkeypatch.setattr("puffin.sweeps.worker.time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))

    def run(trial):
        now[0] += 1
        return value(trial)

    work(study, run, 1000, timeout=5)
    assert states(study) == ["COMPLETE"] * 5


@BOTH
def test_num_trials_is_exact(storage, monkeypatch):
    """Workers that ask together create one trial too many, which is surplus. Breaks without a check after `ask`."""
    first, second = study_in(storage), study_in(storage)
    for _ in range(2):
        first.tell(claim(first, 3), 1.0)
    monkeypatch.setattr(
        optuna.Study, "ask", lambda self, ask=optuna.Study.ask: (second.tell(ask(second), 2.0), ask(self))[1]
    )
    assert claim(first, 3) is None
    monkeypatch.undo()
    assert len(counted(first)) == 3 and states(first) == ["COMPLETE"] * 3 + ["FAIL"]
    assert claim(second, 3) is None and claim(second, 4) is not None


@pytest.mark.parametrize("stop", [Interrupted(signal.SIGTERM, None), KeyboardInterrupt()])
def test_a_stopped_worker_leaves_its_trial_to_others(storage, stop):
    """The trial waits with the same flags and does not count as a failure; the worker ends."""

    def run(trial):
        value(trial)
        if trial.number == 1:
            raise stop
        return value(trial)

    with pytest.raises(type(stop)):
        work(study_in(storage), run, 3)
    study = study_in(storage)
    assert states(study) == ["COMPLETE", "FAIL", "WAITING"]
    work(study, run, 3)
    trials = study.get_trials()
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[2].params == trials[1].params and trials[2].user_attrs["repeats"] == 1
    assert {t.number for t in counted(study)} == {0, 2, 3}


@BOTH
def test_the_trial_of_a_dead_worker_is_run_again(storage):
    """An idle worker runs it with the same flags. Breaks if the worker does not wait at its end."""
    dead = study_in(storage).ask()
    flags = dead.suggest_float("x", 0, 1)
    dead.set_user_attr("sign_of_life", "host:1 7")
    study = study_in(storage)
    start = time.monotonic()
    work(study, value, 2)
    assert time.monotonic() - start > MISSED * INTERVAL
    trials = study.get_trials()
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"] and trials[2].params == {"x": flags}
    assert trials[0].user_attrs["failure"] == "no sign of life from its worker (host:1)"


def test_the_trial_of_a_living_worker_is_left_alone(storage):
    """However long it takes, while its worker sends heartbeats; and the other worker does not wait for its end."""
    other_study, interval = study_in(storage), 5 * INTERVAL  # a busy machine may delay heartbeats by a second
    heartbeat = Heartbeat(other_study, interval)
    heartbeat.trial = other_study.ask()
    heartbeat.start()
    study = study_in(storage)
    work(study, value, 2, interval=interval)
    assert states(study) == ["RUNNING", "COMPLETE"]
    heartbeat.stopped.set()


@BOTH
def test_a_worker_that_was_considered_dead_gives_up_its_trial(storage):
    """Its result does not count twice, and it continues with the next trial."""
    other_study = study_in(storage)

    def run(trial):
        if trial.number == 0:
            queue_again(other_study, other_study.get_trials()[0], "asleep", killed=True)
        return value(trial)

    study = study_in(storage)
    work(study, run, 2)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"] and len(counted(study)) == 2


def test_a_trial_that_kills_its_workers_is_given_up(storage):
    """After two more attempts, as it may need more memory than there is."""
    study = study_in(storage)
    for _attempt in range(MOST_KILLS + 1):
        trial = claim(study, 1)
        assert trial is not None
        queue_again(study, study.get_trials()[trial.number], "killed", killed=True)
        queue_again(study, study.get_trials()[trial.number], "killed", killed=True)  # another worker saw it too
    assert claim(study, 1) is None and states(study) == ["FAIL"] * 3
    assert study.get_trials()[-1].user_attrs["failure"] == "killed, 3 times; not queued again"


def test_a_study_keeps_its_settings(storage):
    """Workers with another task, metric or direction are refused."""
    study_in(storage)
    opened, pruner = open_storage(storage, 0), optuna.pruners.NopPruner()
    with pytest.raises(InputError, match="its task is x, not y"):
        open_study("s", opened, ["minimize"], pruner, {"task": "y"})
    with pytest.raises(InputError, match="direction is minimize"):
        open_study("s", opened, ["maximize"], pruner, {"task": "x"})


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_works(name):
    """Six trials with conditions, or a full grid without repetition."""
    if name == "cmaes":
        pytest.importorskip("cmaes")

    class TwoByThree:
        def grid(self):
            return {"x": [0.0, 1.0], "kind": ["a", "b", "c"]}

    study = optuna.create_study(sampler=SAMPLERS[name](TwoByThree(), 6, 1))

    def run(trial):
        return [trial.suggest_float("x", 0, 1, step=1.0) + len(trial.suggest_categorical("kind", ["a", "b", "c"]))]

    work(study, run, 6)
    assert [t.state for t in study.get_trials()] == [TrialState.COMPLETE] * 6
    if name == "grid":
        assert len({tuple(sorted(t.params.items())) for t in study.get_trials()}) == 6
