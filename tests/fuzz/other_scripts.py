"""Fuzz cases of the converters, of the tools and of the sweep."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import convert_energyflow_qg
import convert_hls4ml
import convert_toptagging
import describe_lartpc
import index_pilarnet
import numpy as np
import repack_pilarnet
import show_metrics

import optuna_search
from puffin.data.commands import run_converter
from puffin.settings.flags import settings_of
from puffin.settings.jets import ClassifierSettings
from puffin.settings.sweep import SweepSettings
from tests.data.test_convert_energyflow_qg import write_source as write_energyflow
from tests.data.test_convert_hls4ml import write_source as write_hls4ml
from tests.data.test_convert_toptagging import jets, write_table
from tests.fuzz.mutations import ODD_NUMBERS, change_bytes, odd_flag, odd_hdf5
from tests.runs.helpers import walk, write


@dataclass(frozen=True)
class Tool:
    """A script: its entrance, the file that a case changes, and the flags after it.

    make(path): writes a valid file."""

    main: Callable
    name: str
    make: Callable[[Path], object]
    flags: tuple[str, ...] = ()


def _converter(main: Callable) -> Callable:
    return lambda argv: run_converter(main, argv)


def _npz(path: Path) -> None:
    arrays = {"kinematics_train": jets(6, 8, 1), "labels_train": np.arange(6) % 2}
    np.savez(path, **arrays, kinematics_val=jets(3, 8, 2), labels_val=np.ones(3))


def _events(path: Path) -> None:
    rng = np.random.default_rng(0)
    write(path, [walk(rng, n) for n in (90, 120, 80, 70, 100, 110, 95)])


def _metrics(path: Path) -> None:
    path.write_text("prefix,timestamp,loss,AUC\na,2026-01-01 00:00:00,0.5,0.9\nb,2026-01-02 00:00:00,0.4,nan\n")


TOOLS = (
    Tool(
        _converter(convert_toptagging.main),
        "table.h5",
        lambda path: write_table(path, jets(9, 200), jets(9, 1)[:, 0], np.column_stack([[2] * 9, np.arange(9) % 2])),
        ("--out", "out.h5"),
    ),
    Tool(_converter(convert_toptagging.main), "full.npz", _npz, ("--out", "out.h5")),
    Tool(_converter(convert_hls4ml.main), "hls.h5", lambda path: write_hls4ml(path, 7, 9, 1), ("--out", "out.h5")),
    Tool(
        _converter(convert_energyflow_qg.main),
        "qg.npz",
        lambda path: write_energyflow(path, 7, 9, 1),
        ("--out", "out.h5"),
    ),
    Tool(index_pilarnet.main, "events_v2.h5", _events),
    Tool(repack_pilarnet.main, "events_v2.h5", _events, ("--outdir", "packed")),
    Tool(describe_lartpc.main, "events_v2.h5", _events),
    Tool(show_metrics.main, "top.Best.metrics.csv", _metrics),
)


def tool_case(rng: random.Random, folder: Path) -> tuple[Callable, list[str], list[str]]:
    """Make a case of a converter or a tool; return its entrance, its command line and the words of an error."""
    tool = rng.choice(TOOLS)
    path = folder / tool.name
    tool.make(path)
    words = [path.name, str(folder)]
    if rng.random() < 0.15:
        words += [rng.choice(("--nobj", "--jobs"))]
        flags = [f"{words[-1]}={rng.choice(ODD_NUMBERS)}"]
    else:
        flags = []
        words += odd_hdf5(rng, path) if path.suffix == ".h5" and rng.random() < 0.8 else change_bytes(rng, path)
    outputs = [str(folder / text) if not text.startswith("-") else text for text in tool.flags]
    return tool.main, [str(path), *outputs, *flags], words


def sweep_case(rng: random.Random, folder: Path, data: Path, tiny: list[str]) -> tuple[Callable, list[str], list[str]]:
    """Make a case of a sweep of one trial; return its entrance, its command line and the words of an error."""
    space = folder / "space.yaml"
    names = list(settings_of(ClassifierSettings))
    lines = [
        "lr-init: {type: float, range: [0.001, 0.01]}",
        "lr-init: {type: float, range: [0.01, 0.001]}",
        "lr-init: {type: text, range: [0, 1]}",
        "lr-init: [1, 2]",
        "lr-init: {choices: []}",
        "lr-init: {choices: [0.1, x]}",
        "drop-rate: {type: float, range: [0, 2], step: -1}",
        "drop-rate: {type: int, range: [0.5, 2]}",
        "lr-init: {type: float, range: [0, 1], log: true}",
        f"{rng.choice(names)}: {{choices: [{rng.choice(ODD_NUMBERS)}]}}",
        "nope: {choices: [1]}",
        "",
        "\tx",
        "prefix: {choices: [a, b]}",
    ]
    space.write_text(rng.choice(lines), encoding="utf-8")
    given = rng.choice([e for e in settings_of(SweepSettings).values() if e.name not in _NOT_FUZZED])
    flags = odd_flag(rng, given) if rng.random() < 0.5 else []
    if not flags and rng.random() < 0.3:
        (folder / "log").mkdir(exist_ok=True)
        (folder / "log/fuzz.journal").write_bytes(
            rng.choice((b"", b"\0\1\2", b"{}\n", b"text\n", b'{"op_code": 99}\n'))
        )
    own = ["--task", "classifier", "--study-name", "fuzz", "--num-trials", "1", "--no-report", "--space", str(space)]
    words = [space.name, given.flag, "--metric", "--storage", "fuzz.journal", "trial"]
    words += ["no such search space", "File name too long"]
    argv = [*own, *flags, *tiny, "--datadir", str(data), "--workdir", str(folder)]
    return optuna_search.main, argv, words


_NOT_FUZZED = {"num_trials", "jobs", "timeout", "host", "port", "user", "patience", "heartbeat", "task", "study_name"}
