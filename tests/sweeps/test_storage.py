"""Storages: names, passwords, outages, copies."""

import os
import subprocess
import sys
import threading
import time

import optuna
import pytest

from puffin.errors import InputError
from puffin.sweeps.storage import StorageLost, check_url, copy_study, describe, open_storage, postgresql_url
from tests.conftest import ROOT
from tests.patience import PATIENCE
from tests.postgres import USER

SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@host/db",
        f"postgresql:///db?password={SECRET}",
        f"postgresql+psycopg2://me:{SECRET}@h:5432/d",
    ],
)
def test_passwords_in_urls_are_refused(url):
    """The message says what to do instead, and does not repeat the password."""
    with pytest.raises(InputError, match="PGPASSWORD") as refusal:
        check_url(url, "--storage")
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://me@host/{SECRET}",
        f"nonsense://{SECRET}",
        f"postgresql://host:{SECRET}/db",
        f"host=db user=me password={SECRET}",
        f"postgresql:/me:{SECRET}@h/db",
    ],
)
def test_bad_urls_are_not_repeated(url):
    """A URL with a typing error may contain a password."""
    with pytest.raises(InputError, match="--storage") as refusal:
        check_url(url, "--storage")
    assert SECRET not in str(refusal.value)


def test_names_of_storages(tmp_path):
    """The suffix decides the kind of a file; a server's URL is made from its parts."""
    assert check_url("a/b.db", "--storage") == "sqlite:///a/b.db"
    assert check_url("a/b.journal", "--storage") == "a/b.journal"
    assert postgresql_url("db7", 5433, "me", "puffin") == "postgresql://me@db7:5433/puffin"
    assert describe("postgresql://me@db7/puffin") == "postgresql://me@db7/puffin"
    with pytest.raises(InputError, match="FILE.journal.*'somewhere'"):
        check_url("somewhere", "--storage")
    with pytest.raises(InputError, match="--user: .*PGPASSWORD") as refusal:
        postgresql_url("db7", 5433, f"me:{SECRET}", "puffin")
    assert SECRET not in str(refusal.value)
    (tmp_path / "x.journal").write_text("no journal\nat all\n")
    with pytest.raises(InputError, match="not a readable journal"):
        open_storage(str(tmp_path / "x.journal"), 0)


def test_a_journal_with_an_incomplete_line_can_be_continued(tmp_path, caplog):
    """A line that a full disk cut short is removed, also while other workers have the journal open.

    Breaks with Optuna's own file, where the next line is appended to the incomplete one and makes it unreadable."""
    path = tmp_path / "s.journal"
    first = optuna.create_study(study_name="s", storage=open_storage(str(path), 0))
    first.tell(first.ask(), 1.0)
    for incomplete in ('{"op_code":5,"trial_i', '{"o', "{"):
        with open(path, "a") as file:
            file.write(incomplete)
        caplog.clear()
        later = optuna.load_study(study_name="s", storage=open_storage(str(path), 0))
        later.tell(later.ask(), 2.0)
        first.tell(first.ask(), 3.0)
        assert "removed the last line, which was incomplete" in caplog.text
    trials = optuna.load_study(study_name="s", storage=open_storage(str(path), 0)).get_trials()
    assert [t.value for t in trials] == [1.0] + [2.0, 3.0] * 3


def test_other_files_are_not_changed(tmp_path):
    """A file that is no journal is refused. Breaks if a file of a single line is taken for an incomplete line."""
    path = tmp_path / "notes.log"
    path.write_text("my notes")
    with pytest.raises(InputError, match="not a journal of Optuna"):
        optuna.create_study(study_name="s", storage=open_storage(str(path), 0))
    assert path.read_text() == "my notes"


def test_wrong_and_missing_passwords(server, monkeypatch):
    """The server refuses; the message is one line that says what to do, without the password."""
    monkeypatch.setenv("PGPASSWORD", SECRET)
    with pytest.raises(InputError, match="the password is wrong or missing: put it into PGPASSWORD") as refusal:
        open_storage(server.url, 0)
    assert SECRET not in str(refusal.value) and USER in str(refusal.value)
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    with pytest.raises(InputError, match="no password supplied; the password is"):
        open_storage(server.url, 0)
    with pytest.raises(InputError, match="is the server running"):
        open_storage(f"postgresql://{USER}@127.0.0.1:1/puffin", 0)


@pytest.mark.parametrize("way", ["environment", "pgpass", "service"])
def test_sources_of_the_password(server, tmp_path, monkeypatch, way):
    """PGPASSWORD, a pgpass file and a service file all open the same study."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    url = server.url
    if way == "environment":
        monkeypatch.setenv("PGPASSWORD", server.password)
    elif way == "pgpass":
        (tmp_path / "pgpass").write_text(f"127.0.0.1:{server.port}:puffin:{USER}:{server.password}\n")
        (tmp_path / "pgpass").chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    else:
        text = f"[sweeps]\nhost=127.0.0.1\nport={server.port}\nuser={USER}\ndbname=puffin\npassword={server.password}\n"
        (tmp_path / "service").write_text(text)
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "service"))
        url = check_url("postgresql://?service=sweeps", "--storage")
    study = optuna.create_study(study_name="ways", storage=open_storage(url, 0), load_if_exists=True)
    study.set_user_attr(way, True)
    assert study.user_attrs[way] and server.password not in describe(url)


def test_a_restarted_server_is_waited_for(server, monkeypatch):
    """An operation during an outage succeeds afterwards, or fails when the patience ends. Breaks without _patient."""
    monkeypatch.setenv("PGPASSWORD", server.password)
    patient = optuna.create_study(study_name="outage", storage=open_storage(server.url, PATIENCE))
    hasty = optuna.load_study(study_name="outage", storage=open_storage(server.url, 0.3))
    server.stop()
    try:
        with pytest.raises(StorageLost, match="connection lost, and not back after") as loss:
            hasty.ask()
        assert server.password not in str(loss.value)
    finally:
        start, restart = time.monotonic(), threading.Timer(1.5, server.start)
        restart.start()
    patient.tell(patient.ask(), 1.0)
    assert time.monotonic() - start > 1.5
    restart.join()
    assert [t.value for t in patient.get_trials()] == [1.0]


@pytest.mark.parametrize("kind", ["sqlite", "journal", "postgresql"])
def test_each_waiting_trial_is_taken_once(server, tmp_path, kind):
    """Three processes that start together on an empty storage take 18 waiting trials, and no trial twice.

    They start to take trials only after all trials are queued; otherwise a process could read an incomplete list."""
    url = {"sqlite": f"sqlite:///{tmp_path}/s.db", "journal": f"{tmp_path}/s.journal", "postgresql": server.url}[kind]
    code = (
        "import sys, optuna; from puffin.sweeps.storage import open_storage\n"
        "study = optuna.create_study(study_name='queue', storage=open_storage(sys.argv[1], 30), load_if_exists=True)\n"
        "for k in range(6): study.enqueue_trial({'x': k})\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for k in range(6):\n"
        "    trial = study.ask()\n"
        "    print('took', trial.number)\n"
        "    study.tell(trial, trial.suggest_int('x', 0, 9))\n"
    )
    environment = os.environ | server.secret | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, url]
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    assert [w.stdout.readline() for w in workers] == ["ready\n"] * 3
    for w in workers:
        w.stdin.write("go\n")
        w.stdin.flush()
    taken = [int(line.split()[1]) for w in workers for line in w.communicate()[0].splitlines()]
    assert all(w.returncode == 0 for w in workers)
    assert sorted(taken) == list(range(18))


def test_copies(server, tmp_path, monkeypatch):
    """A study is copied from a journal to PostgreSQL and to SQLite, with everything about its trials.

    Breaks if an existing study is overwritten."""
    monkeypatch.setenv("PGPASSWORD", server.password)
    journal, sqlite = str(tmp_path / "a.journal"), f"sqlite:///{tmp_path}/b.db"
    study = optuna.create_study(study_name="moves", storage=open_storage(journal, 0), direction="maximize")
    study.set_user_attr("task", "classifier")
    for k in range(3):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.report(0.5, 1)
        trial.set_user_attr("flags", [f"--x={k}"])
        study.tell(trial, k)
    assert copy_study("moves", journal, server.url) == 3 and copy_study("moves", server.url, sqlite) == 3
    copy = optuna.load_study(study_name="moves", storage=open_storage(sqlite, 0))
    assert copy.user_attrs == {"task": "classifier"} and copy.best_trial.user_attrs["flags"] == ["--x=2"]
    for a, b in zip(study.get_trials(), copy.get_trials(), strict=True):
        assert (a.params, a.values, a.intermediate_values) == (b.params, b.values, b.intermediate_values)
    with pytest.raises(InputError, match="already has a study 'moves', which was not changed"):
        copy_study("moves", journal, sqlite)
    with pytest.raises(InputError, match="no study 'other' .has: moves"):
        copy_study("other", journal, str(tmp_path / "new.journal"))
    for source in (str(tmp_path / "no.journal"), f"sqlite:///{tmp_path}/no.db"):
        with pytest.raises(InputError, match="no such file"):
            copy_study("moves", source, str(tmp_path / "new.journal"))
    assert not list(tmp_path.glob("n*"))
