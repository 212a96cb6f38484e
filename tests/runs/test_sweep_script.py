"""The sweep script: real workers on sample jets, with every kind of storage; some are killed or lose their database."""

import csv
import importlib
import multiprocessing
import os
import signal
import sys

import optuna
import pytest
import yaml

import optuna_search
import train_pelican_classifier
import train_pelican_cov
from puffin.checkpoints.reading import read_checkpoint
from puffin.errors import InputError
from puffin.runs.entry import run_script
from puffin.settings.sweep import TASKS
from puffin.sweeps.storage import open_storage
from puffin.sweeps.study import counted
from tests.conftest import ROOT
from tests.patience import PATIENCE, wait_until
from tests.postgres import Server
from tests.runs import held_sweep
from tests.runs.helpers import TINY_AUTOENCODER, TINY_PELICAN

SPACE = """
lr-init: {type: float, range: [0.001, 0.01], log: true}
activation: {choices: [leakyrelu, gelu]}
"""
TINY = [
    *TINY_PELICAN,
    *"--nobj 10 --batch-size 10 --no-plot --num-train 200 --num-valid 60 --num-test 60".split(),
    *["--datadir", str(ROOT / "data/sample_data/run12")],
]
TINY_PRETRAINING = [
    *TINY_AUTOENCODER,
    *"--group-size 8 --context 60 --batch-size 3 --valid-every 1 --cpu --threads 1 --no-plot".split(),
    *["--num-train", "6", "--num-valid", "4", "--datadir", str(ROOT / "data/sample_data/lartpc")],
]
FEW = "--num-train 100 --num-valid 20 --num-test 20 --batch-size 20".split()


@pytest.fixture(scope="session")
def server():
    """A PostgreSQL server for this file."""
    server = Server()
    yield server
    server.remove()


def command(work, *flags) -> list[str]:
    """Return the flags of a sweep of tiny trainings. Write its space once only, as a worker may be reading it."""
    if not (work / "space.yaml").exists():
        (work / "space.yaml").write_text(SPACE)
    return [*f"--study-name s --space {work}/space.yaml --workdir {work}".split(), *TINY, "--num-epoch", "2", *flags]


def rows(path) -> list[dict]:
    """Return the rows of a CSV file."""
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", TASKS)
def test_directions(name):
    """Each choice of --best-by has a direction: scores are maximized, all others (losses) minimized.

    So a trial and its script choose the same best epoch."""
    task = TASKS[name]
    (choices,) = [
        action.choices
        for action in importlib.import_module(task.script).make_parser()._actions
        if action.dest == "best_by"
    ]
    assert set(choices) == set(task.directions) and task.metric in choices
    scores = [
        m for m in choices if m.startswith(("AUC", "Bg", "accuracy", "f1", "iou", "precision", "recall", "probe"))
    ]
    assert {m: sign for m, sign in task.directions.items() if sign > 0} == dict.fromkeys(scores, 1)


@pytest.mark.parametrize("task, script", [("classifier", train_pelican_classifier), ("cov", train_pelican_cov)])
def test_a_sweep_and_its_files(tmp_path, task, script):
    """Each trial is a run with files of its own; the sweep writes a table, the best flags and pictures."""
    further = "--num-trials 3 --optuna-test --batch-size 20 --plot-format svg".split()
    optuna_search.main(["--task", task, *command(tmp_path, *further)])
    for k in range(3):
        for name in (
            f"log/s-{k}.log",
            f"log/s-{k}.yaml",
            f"model/s-{k}.pt",
            f"model/s-{k}_best.pt",
            f"predict/s-{k}.best.test.pt",
        ):
            assert (tmp_path / name).stat().st_size > 0
    assert [r["prefix"] for r in rows(tmp_path / "log/s.Best.metrics.csv")] == ["s-0", "s-1", "s-2", "s-best"]
    table = rows(tmp_path / "log/s.trials.csv")
    metric, choose = ("AUC", max) if task == "classifier" else ("loss", min)
    best = choose(table, key=lambda row: float(row[metric]))
    assert [r["state"] for r in table] == ["complete"] * 3 and [r for r in table if r["best"] == "1"] == [best]
    for ending in ("history.png", "history.svg", "importance.png", "parallel.png", "journal", "sweep.log"):
        assert (tmp_path / f"log/s.{ending}").stat().st_size > 1000 or ending == "sweep.log"

    # a run with the preset of the best flags has the same metric as the best trial, to the last digit
    head, *_ = (tmp_path / "log/s.best.yaml").read_text().splitlines()
    assert head.startswith(f"# python3 train_pelican_{task}.py ") and head.endswith("--prefix s-again")
    preset = yaml.safe_load((tmp_path / "log/s.best.yaml").read_text())
    assert preset["lr_init"] == float(best["lr-init"]) and preset["num_train"] == 200
    again = script.main(["--yaml", str(tmp_path / "log/s.best.yaml"), "--prefix", "again"])
    assert choose(row[f"valid_{metric}"] for row in again) == float(best[metric])


def test_pruned_and_several_metrics(tmp_path, capsys):
    """A pruned trial ends early and keeps its checkpoint. Two metrics give a Pareto front; nothing is pruned."""
    flags = [*FEW, *"--num-trials 5 --sampler random --sampler-seed 3 --pruner asha --num-epoch 4 --no-report".split()]
    optuna_search.main(["--task", "classifier", *command(tmp_path, *flags)])
    trials = optuna.load_study(study_name="s", storage=open_storage(str(tmp_path / "log/s.journal"), 0)).get_trials()
    pruned = [t for t in trials if t.state.name == "PRUNED"]
    assert pruned and all(
        0 < len(t.intermediate_values) < 4 and (tmp_path / f"model/s-{t.number}.pt").exists() for t in pruned
    )
    assert all(len(t.intermediate_values) == 4 for t in trials if t not in pruned)
    two = [
        "--task",
        "classifier",
        *command(tmp_path, *FEW, "--num-trials", "3", "--metric", "AUC", "loss", "--study-name", "two"),
    ]
    optuna_search.main(two)
    assert (tmp_path / "log/two.pareto.png").exists() and {"AUC", "loss"} <= rows(tmp_path / "log/two.trials.csv")[
        0
    ].keys()


def test_a_study_that_is_continued_with_other_flags(tmp_path, capsys):
    """Changed flags give a warning and are shown in the table. Another storage does not replace the first runs."""
    line = ["--task", "classifier", *command(tmp_path, *FEW, "--num-epoch", "1", "--pruner", "none", "--no-report")]
    optuna_search.main([*line, "--num-trials", "2"])
    assert "other flags" not in capsys.readouterr().err
    optuna_search.main([*line, "--num-trials", "2", "--threads", "2", "--num-workers", "1"])
    assert "other flags" not in capsys.readouterr().err
    optuna_search.main([*line, "--num-trials", "3", "--nobj", "8", "--lr-init", "0.004", "--report"])
    assert "(then; now): lr_init not given, nobj=10; lr_init=0.004, nobj=8" in capsys.readouterr().err
    table = rows(tmp_path / "log/s.trials.csv")
    assert (
        [row["nobj"] for row in table] == ["10", "10", "8"]
        and table[2]["lr-init"] == "0.004"
        and float(table[0]["lr-init"]) < 0.01
    )

    before = {p: p.read_bytes() for p in tmp_path.rglob("s-0*")}
    with pytest.raises(InputError, match="s-0.log.*--copy-from"):
        optuna_search.main([*line, "--num-trials", "1", "--storage", str(tmp_path / "other.journal")])
    assert before and before == {p: p.read_bytes() for p in tmp_path.rglob("s-0*")}


def test_pretraining_is_judged_by_the_probe(tmp_path):
    """Every validation has a probe; an epoch has several. With --probe-every, rows without a probe do not count.

    Breaks if trials are compared by the loss, rows of one epoch are merged, or a row without a probe prunes a trial."""
    (tmp_path / "space.yaml").write_text("mask-ratio: {type: float, range: [0.4, 0.8]}")
    line = [
        *f"--task pointmae --space {tmp_path}/space.yaml --workdir {tmp_path}".split(),
        *TINY_PRETRAINING,
        "--num-epoch",
        "2",
    ]
    optuna_search.main([*line, "--study-name", "s", "--num-trials", "2"])
    table = rows(tmp_path / "log/s.trials.csv")
    histories = [read_checkpoint(tmp_path / f"model/s-{k}.pt")["progress"]["history"] for k in range(2)]
    found = [[row["valid_probe_f1_mean"] for row in history] for history in histories]
    assert [max(values) for values in found] == [float(row["probe_f1_mean"]) for row in table]
    assert [row["epoch"] for row in histories[0]] == [1, 1, 2, 2]
    study = optuna.load_study(study_name="s", storage=open_storage(str(tmp_path / "log/s.journal"), 0))
    assert [list(t.intermediate_values.values()) for t in study.get_trials()] == found
    preset = yaml.safe_load((tmp_path / "log/s.best.yaml").read_text())
    assert preset["probe_every"] == 1 and preset["best_by"] == "probe_f1_mean"

    optuna_search.main([*line, "--study-name", "some", "--num-trials", "1", "--probe-every", "2", "--no-report"])
    some = optuna.load_study(
        study_name="some", storage=open_storage(str(tmp_path / "log/some.journal"), 0)
    ).get_trials()[0]
    assert list(some.intermediate_values) == [2, 4] and some.value == max(some.intermediate_values.values())


@pytest.mark.parametrize(
    "flags, reason",
    [
        ("--password hunter2", "PGPASSWORD"),
        ("--storage postgresql://me:hunter2@host/db", "PGPASSWORD"),
        ("--prefix mine", "leave the flag out"),
        ("--eval", "leave the flag out"),
        ("--metric speed", "--direction"),
        ("--study-name a/b", "--study-name: expected a plain file name"),
        ("--metric AUC loss --pruner median", "several metrics"),
        ("--host a --storage b.db", "give only one of them"),
        ("--lr-init 0.01 --activation gelu", "nothing is left to vary"),
        ("--sampler grid", "without steps"),
        (f"--logdir {__file__}", "expected a folder, found a file"),
        ("--datadir nowhere", "the first 5 trials all failed"),
    ],
)
def test_bad_flags(tmp_path, capsys, flags, reason):
    """One line, a non-zero status, and no password in the output."""
    with pytest.raises(SystemExit) as stop:
        run_script(optuna_search.main, ["--task", "classifier", *command(tmp_path, *flags.split())])
    err = capsys.readouterr().err
    assert (
        stop.value.code == (2 if "--study-name" in flags else 1)  # the parser's, or the script's
        and reason in err.strip().splitlines()[-1]
        and "Traceback" not in err
        and "hunter2" not in err
    )


# -- workers as processes --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def fork_server():
    """Start processes from one that has already imported everything, because the imports take seconds.

    The processes of --jobs are new ones, as in normal use."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["optuna_search", "train_pelican_classifier", __name__])
    return context


def be_a_worker(flags, output, environment, held):
    """Run the script in this process. If `held` is a folder, its first trial pauses (held_sweep.py).

    With --jobs the first trial of each worker pauses."""
    with open(output, "w") as out:
        os.dup2(out.fileno(), 1), os.dup2(out.fileno(), 2)
    os.environ.update(environment)
    sys.argv = ["optuna_search.py", *flags]
    if held:
        held_sweep.hold_first_trial(held)
        optuna_search.__file__, os.environ[held_sweep.FOLDER] = held_sweep.__file__, str(held)
    run_script(optuna_search.main)


class Workers:
    """The worker processes of one study."""

    def __init__(self, fork_server, work, storage, secret):
        self.fork_server, self.work, self.storage, self.secret, self.started = fork_server, work, storage, secret, []

    def start(self, *flags, held=False) -> "multiprocessing.Process":
        flags = ["--task", "classifier", *command(self.work, "--storage", self.storage, *FEW, *flags)]
        arguments = flags, self._file(len(self.started)), self.secret, self.work if held else None
        worker = self.fork_server.Process(target=be_a_worker, args=arguments)
        worker.start()
        self.started.append(worker)
        return worker

    def all_held(self, number: int) -> list[int]:
        """Wait until `number` workers pause in a trial, each after one epoch; return their process numbers."""
        wait_until(lambda: len(list(self.work.glob("held.*"))) == number, self._none_failed)
        return [int(held.suffix[1:]) for held in self.work.glob("held.*")]

    def let_go(self) -> None:
        """Let the paused workers continue."""
        (self.work / "go").touch()

    def _none_failed(self) -> None:
        assert not any(w.exitcode for w in self.started), [self.output(w) for w in self.started]

    def _file(self, number):
        return self.work / f"worker{number}.txt"

    def output(self, worker) -> str:
        return self._file(self.started.index(worker)).read_text()

    def status(self, worker) -> int:
        """Wait for the end of a worker; return its exit status."""
        worker.join(PATIENCE)
        assert worker.exitcode is not None, f"still there after {PATIENCE} s: {self.output(worker)}"
        return worker.exitcode

    def study(self) -> optuna.Study:
        return optuna.load_study(study_name="s", storage=open_storage(self.storage, 30))

    def trial_of(self, pid: int) -> optuna.trial.FrozenTrial:
        """Wait for the first heartbeat of a worker in its trial; return that trial."""

        def find():
            running = (t for t in self.study().get_trials() if t.state.name == "RUNNING")
            return next((t for t in running if f":{pid} " in t.user_attrs.get("sign_of_life", "")), None)

        return wait_until(find, self._none_failed)


@pytest.fixture
def workers(request, tmp_path, monkeypatch, fork_server):
    """Workers on the storage that the test names; they are killed at the end of the test."""
    kind, secret = request.param, {}
    storage = {"sqlite": f"{tmp_path}/s.db", "journal": f"{tmp_path}/s.journal"}.get(kind)
    if storage is None:
        server = request.getfixturevalue("server")
        storage, secret = server.url, server.secret
        monkeypatch.setenv("PGPASSWORD", server.password)
    else:
        storage = storage if kind == "journal" else f"sqlite:///{storage}"
    workers = Workers(fork_server, tmp_path, storage, secret)
    yield workers
    for worker in workers.started:
        worker.kill()
    if kind == "postgresql":
        optuna.delete_study(study_name="s", storage=open_storage(storage, 30))


def check_nothing_lost(workers, num_trials):
    """Every trial is complete and has one row in the table, and no two trials have the same value."""
    study = workers.study()
    trials = counted(study)
    assert len(trials) == num_trials and {t.state.name for t in trials} == {"COMPLETE"}
    in_table = [r["prefix"] for r in rows(workers.work / "log/s.Best.metrics.csv")]
    assert sorted(in_table) == sorted(f"s-{t.number}" for t in trials)
    assert len({t.params["lr-init"] for t in trials}) == num_trials
    return study


def check_no_password(workers, server):
    """The password is neither in a file of the sweep, nor in its output, nor in the database."""
    files = [p for p in workers.work.rglob("*") if p.is_file()]
    assert len(files) > 20 and not [p for p in files if server.password.encode() in p.read_bytes()]
    dump = server.dump()
    assert "sign_of_life" in dump and server.password not in dump


@pytest.mark.parametrize(
    "workers, number, num_trials", [("journal", 2, 4), ("sqlite", 2, 4), ("postgresql", 3, 12)], indirect=["workers"]
)
def test_a_worker_is_killed(workers, number, num_trials, request):
    """Kill -9 of one of several workers during a trial: another worker continues that trial from its checkpoint."""
    for _ in range(number):
        workers.start(
            *f"--num-trials {num_trials} --heartbeat 1 --num-epoch 4 --no-report --pruner none".split(), held=True
        )
    pid, *_ = workers.all_held(number)
    trial = workers.trial_of(pid)
    os.kill(pid, signal.SIGKILL)
    workers.let_go()
    killed = next(w for w in workers.started if w.pid == pid)
    codes = [workers.status(w) for w in workers.started]
    assert [code for w, code in zip(workers.started, codes, strict=True) if w is not killed] == [0] * (number - 1), [
        workers.output(w) for w in workers.started
    ]
    study = check_nothing_lost(workers, num_trials)
    lost = [t for t in study.get_trials() if t.state.name == "FAIL" and "surplus" not in t.user_attrs]
    assert trial.number in [t.number for t in lost] and all("no sign of life" in t.user_attrs["failure"] for t in lost)
    again = next(t for t in study.get_trials() if t.user_attrs.get("repeats") == trial.number)
    assert (
        again.params == trial.params and "resuming at epoch" in (workers.work / f"log/s-{again.number}.log").read_text()
    )
    if workers.storage.startswith("postgresql"):
        check_no_password(workers, request.getfixturevalue("server"))


@pytest.mark.parametrize("workers", ["postgresql"], indirect=True)
def test_the_database_is_restarted(workers, server):
    """Two workers wait for the database and finish. One with a short --patience ends with the reason.

    The others run its trial again."""
    flags = ["--num-trials", "6", "--heartbeat", "2", "--num-epoch", "3", "--no-report"]
    patient = [workers.start(*flags, held=True) for _ in range(2)]
    hasty = workers.start(*flags, "--patience", "0.5", held=True)
    workers.all_held(3)
    server.stop()
    workers.let_go()
    try:
        assert workers.status(hasty) == 1
        wait_until(lambda: all("trying again" in workers.output(w) for w in patient))
    finally:
        server.start()
    assert [workers.status(w) for w in patient] == [0, 0], [workers.output(w) for w in patient]
    last = workers.output(hasty).strip().splitlines()[-1]
    assert "not back after" in last and "Traceback" not in workers.output(hasty)
    assert all("answers again" in workers.output(w) for w in patient)
    study = workers.study()
    assert len(counted(study)) == 6 and not [t for t in counted(study) if t.state.name not in ("COMPLETE", "PRUNED")]
    check_no_password(workers, server)


@pytest.mark.parametrize("workers", ["postgresql"], indirect=True)
def test_a_wrong_password(workers, server):
    """The error is one line that says so, without the password that was used."""
    workers.secret = {"PGPASSWORD": "hunter2"}
    worker = workers.start()
    assert workers.status(worker) == 1
    output = workers.output(worker)
    assert (
        "the password is wrong or missing: put it into PGPASSWORD" in output
        and "hunter2" not in output
        and "Traceback" not in output
    )
    optuna.create_study(study_name="s", storage=open_storage(server.url, 0))


@pytest.mark.parametrize("workers", ["journal"], indirect=True)
def test_sigterm_hands_the_trial_over(workers):
    """SIGTERM to two local workers: both save and queue their trials again; the same command continues these trials."""
    flags = "--num-trials 4 --num-epoch 10 --batch-size 10 -j 2 --pruner none --sampler-seed 5".split()
    parent = workers.start(*flags, held=True)
    workers.all_held(2)
    parent.terminate()
    assert workers.status(parent) == 128 + signal.SIGTERM
    states = [t.state.name for t in workers.study().get_trials()]
    assert states.count("FAIL") == states.count("WAITING") == 2
    workers.started.clear()
    again = workers.start(*flags)
    assert workers.status(again) == 0
    trials = workers.study().get_trials()
    assert [t.state.name for t in trials].count("COMPLETE") == 4
    # new proposals differ from the old ones, although the seed is the same
    assert len({t.params["lr-init"] for t in trials}) == 4
    for t in trials:
        assert ("repeats" in t.user_attrs) == (
            "resuming at epoch" in (workers.work / f"log/s-{t.number}.log").read_text()
        )
    assert (workers.work / "log/s.history.png").exists()
