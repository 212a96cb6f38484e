"""tools/check_gpu.py: all of its checks on a CPU, the report of failures, and its messages."""

import csv
from pathlib import Path

import pytest
import torch

from bench.gpu import machine, operators, scripts
from bench.gpu.report import Report, Skipped
from puffin.errors import InputError
from puffin.ops import library
from puffin.settings.scripts import SCRIPTS, flags_of
from tests.conftest import ROOT
from tools.check_gpu import main, make_parser, make_report

CPU = torch.device("cpu")


def test_report_of_a_cpu(tmp_path, capsys):
    """Every check but the scripts passes, or is skipped because it needs CUDA; the file holds what was printed."""
    out = tmp_path / "report.txt"
    main(["--device", "cpu", "--quick", "--only", "operators", "networks", "speeds", "--out", str(out)])
    text = out.read_text()
    assert text in capsys.readouterr().out
    lines = text.splitlines()
    checks = [line for line in lines if line.startswith(("PASS", "FAIL", "SKIPPED"))]
    assert len(checks) > 70 and not [line for line in checks if line.startswith("FAIL")]
    for line in checks:
        assert not line.startswith("SKIPPED") or "needs CUDA" in line or "not installed" in line
    assert all(f"PASS    {name} " in text for name in operators.OPERATORS)
    assert "golden networks of PELICAN         42 networks" in text
    assert "checks the CPU kernels" in text and "commit " in text


def test_a_failed_check_does_not_end_the_report(tmp_path, capsys):
    """An error in a check is a line with its reason; the later checks run, and the exit status is 1."""
    report = Report()

    def broken():
        raise RuntimeError("CUDA error: an illegal memory access\nmore lines")

    def skipped():
        raise Skipped("needs CUDA")

    report.check("first", broken)
    report.check("second", lambda: "12 inputs")
    report.check("third", skipped)
    assert report.finish(tmp_path / "report.txt") == 1
    text = (tmp_path / "report.txt").read_text()
    assert "FAIL    first" in text and "illegal memory access; failures below may follow" in text
    assert "PASS    second" in text and "SKIPPED third" in text and "1 PASS, 1 FAIL, 1 SKIPPED" in text


@pytest.mark.parametrize("wrong", ["an index", "a number", "a dtype"])
def test_a_wrong_kernel_fails(monkeypatch, wrong):
    """Breaks if the comparison with the oracle lets another index, number or dtype pass."""
    name = "segment_sum" if wrong == "a number" else "ball_query"
    oracle = library.oracle_of(name)

    def changed(*args):
        out = oracle(*args)
        if wrong == "a dtype":
            return out.int()
        return out if not out.numel() else out.index_put((torch.tensor([0]),), out[:1] + 1)

    operators.equals_oracle(name, CPU, quick=True)
    monkeypatch.setitem(library._oracles, name, changed)
    with pytest.raises(AssertionError):
        operators.equals_oracle(name, CPU, quick=True)


def test_kernels_that_are_not_loaded_fail(monkeypatch):
    """Breaks if a report about plain PyTorch looks like one about kernels."""
    monkeypatch.setitem(library._state, library.KEYS["CPU"], "not built: run `make kernels`")
    with pytest.raises(RuntimeError, match="not built.*plain PyTorch"):
        machine.kernels_loaded(CPU)


def test_scripts_train_and_evaluate(monkeypatch, tmp_path):
    """A script is trained, and its checkpoint evaluated on the device and on the CPU; losses that differ fail."""
    calls, losses = [], {"cuda": 1.0, "cpu": 1.0}

    def record(script: str, flags: list[str], work: Path) -> None:
        calls.append((script, flags))
        if "--eval" in flags:
            device, prefix = (flags[flags.index(flag) + 1] for flag in ("--device", "--prefix"))
            (work / "log").mkdir(exist_ok=True)
            with open(work / f"log/{prefix}.Best.metrics.csv", "w", encoding="utf-8") as file:
                csv.writer(file).writerows([["loss"], [losses[device]]])

    monkeypatch.setattr(scripts, "run", record)
    arguments = (torch.device("cuda"), tmp_path / "jets", tmp_path / "clouds", tmp_path)
    for script in scripts.SCRIPTS:
        assert "loss 1, on the CPU 1" in scripts.train_and_evaluate(script, *arguments)
    assert len(calls) == 12 and all(str(tmp_path / "jets") in flags for _, flags in calls[:6])
    losses["cuda"] = 1.01
    with pytest.raises(AssertionError, match="loss 1.01 on cuda, 1 on the CPU"):
        scripts.train_and_evaluate("train_pointmae.py", *arguments)


@pytest.mark.parametrize("script", scripts.SCRIPTS)
def test_scripts_have_these_flags(script):
    """Breaks if a script loses a flag that its check uses, or a preset is renamed."""
    words = [*scripts.SCRIPTS[script].split(), "--datadir", "--device", "--workdir", "--eval", "--loadfile"]
    flags = {word for word in words if word.startswith("--")} - {"--yaml"}
    assert flags <= flags_of(SCRIPTS[script])
    assert (ROOT / words[words.index("--yaml") + 1]).is_file()


def test_a_script_that_fails(tmp_path):
    """Breaks if the failure of a process is no failure of the check, or its reason is lost."""
    with pytest.raises(RuntimeError, match="exit status [12]: .*nowhere"):
        scripts.train_and_evaluate("train_pelican_cov.py", CPU, tmp_path / "nowhere", tmp_path, tmp_path)


def test_without_a_gpu(monkeypatch):
    """One line says that there is no GPU, and what to do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no GPU to check: .*--device cpu"):
        main([])
    with pytest.raises(InputError, match="there is no folder"):
        main(["--device", "cpu", "--out", "/nowhere/report.txt"])


def test_sections_are_chosen(capsys):
    """--only leaves the other sections out."""
    report = make_report(make_parser().parse_args(["--device", "cpu", "--quick", "--only", "speeds"]))
    assert not report.failed and "Speeds of operators" in "\n".join(report.lines)
    assert "oracles" not in "\n".join(report.lines)
