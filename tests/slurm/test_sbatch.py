"""The batch scripts of training, with substitutes for Slurm and torchrun."""

import os
import shutil
import signal
import subprocess

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE, wait_until

TORCHRUN = """#!/bin/bash
trap 'echo saved >> calls; exit 1' TERM
echo "torchrun $*" >> calls
[ -n "$QUICK" ] && exit 0
for i in $(seq 6000); do sleep 0.05; done
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo node7; echo node8; else echo "scontrol $*" >> calls; fi
"""
SRUN = """#!/bin/bash
echo $$ > srun_pid
exec "$@"
"""
SCANCEL = """#!/bin/bash
echo "scancel $*" >> calls
kill -TERM $(cat srun_pid)
"""


@pytest.fixture
def folder(tmp_path):
    """A folder to submit from, with a virtual environment that holds the substitutes."""
    commands = tmp_path / "venv/bin"
    commands.mkdir(parents=True)
    programs = {"torchrun": TORCHRUN, "scontrol": SCONTROL, "srun": SRUN, "scancel": SCANCEL, "activate": ""}
    for name, text in programs.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return tmp_path


def submit(folder, script, **further) -> subprocess.Popen:
    """Start a batch script as Slurm does. further: environment variables."""
    environment = os.environ | {
        "SLURM_SUBMIT_DIR": str(folder),
        "VENV": "venv",
        "SLURM_JOB_ID": "42",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "PATH": f"{folder}/venv/bin:{os.environ['PATH']}",
    }
    command = [shutil.which("bash"), str(ROOT / "slurm" / script), "top", "--datadir", "a b"]
    return subprocess.Popen(command, env=environment | further)


@pytest.mark.parametrize("script", ["train.sbatch", "train_multinode.sbatch"])
def test_saves_and_requeues_before_the_limit(folder, script):
    """On USR1, the training gets SIGTERM and saves; after that, the job goes back into the queue."""
    job, calls = submit(folder, script), folder / "calls"
    wait_until(calls.exists)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(PATIENCE) == 0
    lines = [line for line in calls.read_text().splitlines() if not line.startswith("scancel")]
    assert lines[0].endswith("train_pelican_classifier.py --prefix top --datadir a b")
    assert "--nproc_per_node=2" in lines[0]
    assert lines[1:] == ["saved", "scontrol requeue 42"]
    if "multinode" in script:
        assert "--nnodes=2" in lines[0] and "--rdzv_endpoint=node7:20042" in lines[0]


@pytest.mark.parametrize("script", ["train.sbatch", "train_multinode.sbatch"])
@pytest.mark.parametrize("restarts, checkpoint, loads", [("0", True, False), ("1", True, True), ("1", False, False)])
def test_continues_only_after_a_requeue(folder, script, restarts, checkpoint, loads):
    """A requeued job resumes if there is a checkpoint; a new job never resumes an earlier run."""
    if checkpoint:
        (folder / "model").mkdir()
        (folder / "model/top.pt").touch()
    assert submit(folder, script, SLURM_RESTART_COUNT=restarts, QUICK="1").wait(PATIENCE) == 0
    assert (folder / "calls").read_text().strip().endswith("--load") == loads
