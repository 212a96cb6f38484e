"""The batch scripts of sweeps: the database with a real server, the workers with substitutes."""

import os
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path

import optuna
import pytest

from puffin.sweeps.storage import open_storage
from tests.conftest import ROOT
from tests.patience import PATIENCE, wait_until
from tests.postgres import as_nobody, programs


@pytest.fixture
def folder():
    """A folder to which the user that runs the server can write."""
    folder = Path(tempfile.mkdtemp(prefix="puffin-job-", dir="/tmp"))
    (folder / "bin").mkdir()
    (folder / "bin/scontrol").write_text(f'#!/bin/bash\necho "scontrol $*" >> {folder}/calls\n')
    (folder / "bin/scontrol").chmod(0o755)
    shutil.copy(ROOT / "slurm/database.sbatch", folder)
    if as_nobody():
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, "nobody", "nogroup")
    yield folder
    shutil.rmtree(folder)


def start(folder, log) -> subprocess.Popen:
    """Start the database job, and return when the server accepts connections."""
    environment = {
        "FOLDER": str(folder / "shared"),
        "TMPDIR": str(folder),
        "PG": str(programs()),
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "HOME": str(folder),
        "SLURM_JOB_ID": "42",
        "NETWORK": "127.0.0.1/32",
    }
    with open(log, "w") as out:
        job = subprocess.Popen(
            ["bash", str(folder / "database.sbatch")],
            env=environment,
            cwd=folder,
            stdout=out,
            stderr=out,
            **as_nobody(),
        )

    def still_runs():
        assert job.poll() is None, log.read_text()

    wait_until((folder / "shared/service").exists, still_runs)
    return job


def test_the_database_survives_its_job(folder, tmp_path, monkeypatch):
    """After USR1 the job saves and is requeued, and a job on an empty disk restores the study; TERM saves without
    requeuing."""
    job = start(folder, tmp_path / "1.txt")
    # copies, because the files belong to the user that runs the server
    service = (folder / "shared/service").read_text().replace(os.uname().nodename, "127.0.0.1")
    (tmp_path / "service").write_text(service)
    shutil.copy(folder / "shared/pgpass", tmp_path / "pgpass")
    password = (tmp_path / "pgpass").read_text().strip().rsplit(":", 1)[1]
    assert len(password) == 48 and stat.S_IMODE((folder / "shared/pgpass").stat().st_mode) == 0o600
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "service"))
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    monkeypatch.delenv("PGPASSWORD", raising=False)
    study = optuna.create_study(study_name="kept", storage=open_storage("postgresql://?service=puffin", 0))
    study.tell(study.ask(), 7.0)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(PATIENCE) == 0, (tmp_path / "1.txt").read_text()
    assert (folder / "calls").read_text() == "scontrol requeue 42\n"
    assert not (folder / "shared/service").exists() and not list(folder.glob("puffin-database.*"))

    job = start(folder, tmp_path / "2.txt")
    (tmp_path / "service").write_text((folder / "shared/service").read_text().replace(os.uname().nodename, "127.0.0.1"))
    study = optuna.load_study(study_name="kept", storage=open_storage("postgresql://?service=puffin", 0))
    assert study.best_value == 7.0
    study.tell(study.ask(), 5.0)
    job.send_signal(signal.SIGTERM)
    assert job.wait(PATIENCE) == 0 and (folder / "calls").read_text().count("requeue") == 1
    printed = (tmp_path / "1.txt").read_text() + (tmp_path / "2.txt").read_text()
    assert "restored" in printed and "saved" in printed and password not in printed
    assert password not in service


def start_without_system_postgres(folder, **environment) -> subprocess.CompletedProcess:
    """Run the database job without /usr/lib/postgresql; PATH is folder/bin, then common programs without PostgreSQL."""
    common = folder / "common"
    common.mkdir()
    for name in ("bash", "ls", "tail", "sort", "mkdir", "flock", "mktemp", "od", "tr", "cut", "rm"):
        (common / name).symlink_to(shutil.which(name))
    script = folder / "database.sbatch"
    script.write_text((ROOT / "slurm/database.sbatch").read_text().replace("/usr/lib/postgresql", str(folder / "none")))
    environment = {
        "FOLDER": str(folder / "shared"),
        "TMPDIR": str(folder),
        "PATH": f"{folder}/bin:{common}",
        "HOME": str(folder),
    } | environment
    return subprocess.run(
        [shutil.which("bash"), str(script)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def put_programs(folder, *names) -> None:
    """Make substitutes for PostgreSQL's programs; each prints its name and fails, so that the job ends."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(f"#!{shutil.which('bash')}\necho {folder.name}/{name} ran >&2\nexit 7\n")
        (folder / name).chmod(0o755)


SERVER = ("initdb", "pg_ctl", "createdb", "pg_dump", "pg_restore")


@pytest.mark.parametrize("installed", [[], ["createdb", "pg_dump", "pg_restore"]], ids=["nothing", "client alone"])
def test_a_node_without_a_server_says_so(tmp_path, installed):
    """Breaks if the job ends without a message, or if it takes the programs of a client for a server."""
    put_programs(tmp_path / "bin", *installed)
    done = start_without_system_postgres(tmp_path)
    assert done.returncode == 1 and "no PostgreSQL server found: load its module, or set PG" in done.stderr
    assert not (tmp_path / "shared").exists()


def test_programs_of_a_module_are_found_and_pg_goes_before_them(tmp_path):
    """Breaks if a server on PATH is not found, or if PG does not take precedence."""
    put_programs(tmp_path / "bin", *SERVER)
    done = start_without_system_postgres(tmp_path)
    assert done.returncode == 7 and done.stderr == "bin/initdb ran\n"
    put_programs(tmp_path / "other", *SERVER)
    shutil.rmtree(tmp_path / "common")
    assert start_without_system_postgres(tmp_path, PG=str(tmp_path / "other")).stderr == "other/initdb ran\n"


WORKER = """#!/bin/bash
trap 'echo "handed over" >> calls; exit 143' TERM
echo "$PGSERVICEFILE $*" >> calls
for i in $(seq 6000); do sleep 0.05; done
"""


@pytest.mark.parametrize("storage", [[], ["--storage", "log/s.journal"]])
def test_a_worker_hands_over_and_is_requeued(tmp_path, storage):
    """On USR1 the worker gets SIGTERM, and the job waits for it; the database is the default storage."""
    commands = tmp_path / "venv/bin"
    commands.mkdir(parents=True)
    scontrol = '#!/bin/bash\necho "scontrol $*" >> calls\n'
    for name, text in {"python3": WORKER, "scontrol": scontrol, "activate": ""}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    (tmp_path / "service").write_text("[puffin]\n")
    environment = os.environ | {
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "VENV": "venv",
        "SLURM_JOB_ID": "43",
        "SLURM_CPUS_PER_TASK": "2",
        "FOLDER": str(tmp_path),
        "PATH": f"{commands}:{os.environ['PATH']}",
    }
    command = ["bash", str(ROOT / "slurm/sweep.sbatch"), "--task", "classifier", *storage]
    job = subprocess.Popen(command, env=environment)
    wait_until((tmp_path / "calls").exists)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(PATIENCE) == 0
    flags = "--storage postgresql://?service=puffin --task classifier"
    if storage:
        flags = "--task classifier --storage log/s.journal"
    first, *rest = (tmp_path / "calls").read_text().splitlines()
    assert first == f"{tmp_path}/service optuna_search.py --patience 3600 {flags}"
    assert rest == ["handed over", "scontrol requeue 43"]
