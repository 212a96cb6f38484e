"""Checks of the four scripts: a short training and an evaluation of each, in processes of their own."""

import math
import subprocess
import sys
from pathlib import Path

import torch

from bench.gpu.report import Report
from puffin.tables import read_records

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 900  # a script that needs more is stuck
JETS = "--yaml config/3k.yaml --batch-size 20 --num-train 100 --num-valid 40 --num-test 40 --num-epoch 2 --no-plot"
CLOUDS = "--num-train 8 --num-valid 4 --batch-size 4 --depth 2 --num-epoch 2 --no-plot"
SCRIPTS = {
    "train_pelican_classifier.py": f"{JETS} --prefix classifier",
    "train_pelican_cov.py": f"{JETS} --target truth_Pmu --prefix momenta",
    "train_pointmae.py": f"--yaml config/pointmae_quick.yaml {CLOUDS} --warmup-steps 0 --no-probe --prefix cloud",
    "train_segmentation.py": f"--yaml config/segmentation_quick.yaml {CLOUDS} --prefix points",
}


def run(script: str, flags: list[str], work: Path) -> None:
    """Run a script in the root folder; raise RuntimeError with its last line if it fails."""
    command = [sys.executable, str(ROOT / script), *flags, "--workdir", str(work)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise RuntimeError(f"exit status {done.returncode}: {words}")


def evaluated_loss(script: str, checkpoint: Path, device: str, data: list[str], work: Path) -> float:
    """Evaluate the checkpoint on a device, and return the loss of its last row of metrics."""
    prefix = f"{checkpoint.stem}_on_{device}"
    flags = ["--no-plot", "--device", device, *(["--no-probe"] if script == "train_pointmae.py" else [])]
    run(script, ["--eval", "--loadfile", str(checkpoint), "--prefix", prefix, *data, *flags], work)
    return float(read_records(work / f"log/{prefix}.Best.metrics.csv")[-1]["loss"])


def train_and_evaluate(script: str, device: torch.device, jets: Path, clouds: Path, work: Path) -> str:
    """Train with a few events, and evaluate the best checkpoint, on the CPU too: the losses must agree."""
    flags = SCRIPTS[script].split()
    data = ["--datadir", str(jets if "pelican" in script else clouds)]
    run(script, [*flags, *data, "--device", device.type], work)
    checkpoint = work / f"model/{flags[flags.index('--prefix') + 1]}_best.pt"
    loss = evaluated_loss(script, checkpoint, device.type, data, work)
    assert math.isfinite(loss), f"the loss of the evaluation is {loss}"
    if device.type == "cpu":
        return f"loss {loss:.4g}"
    on_cpu = evaluated_loss(script, checkpoint, "cpu", data, work)
    assert math.isclose(loss, on_cpu, rel_tol=1e-3), f"loss {loss:.6g} on {device.type}, {on_cpu:.6g} on the CPU"
    return f"loss {loss:.4g}, on the CPU {on_cpu:.4g}"


def check(report: Report, device: torch.device, jets: Path, clouds: Path, work: Path) -> None:
    """Add a check for each script."""
    report.section("Scripts: a short training, then --eval")
    for script in SCRIPTS:
        report.check(script, lambda script=script: train_and_evaluate(script, device, jets, clouds, work))
