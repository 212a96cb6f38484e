"""bench/compare_runs.py: runs of the same test events, from their predictions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import bench.compare_runs as study
from puffin.data.pilarnet import CloudSelection
from puffin.errors import InputError
from puffin.tasks.point_predictions import PointPredictions

LENGTHS = torch.tensor([30, 0, 50, 40])
NAMES = ("shower", "track", "michel", "delta")


def write(work, prefix, wrong=0, folder="a", events=(5, 6, 7, 8), lengths=LENGTHS):
    """Write the predictions of a run, of which the first points of each event are wrong."""
    dataset = SimpleNamespace(
        files=[work / folder / "x.h5"],
        selection=CloudSelection(),
        places=lambda index: (np.zeros(len(index), np.int64), np.array(events)[index.numpy()]),
    )
    row = torch.cat([torch.arange(n) for n in lengths])
    true = row % 4
    predicted = torch.where(row < wrong, (true + 1) % 4, true)
    probability = torch.eye(4)[predicted].half()
    points = {"row": row, "truth": true, "class": predicted, "probability": probability}
    with PointPredictions(work / "predict" / f"{prefix}.best.test", dataset, NAMES) as predictions:
        rows = {f"particle_{name}": values for name, values in points.items()}
        predictions.append({"index": torch.arange(4), "lengths": lengths, **rows})


def compare(work, *prefixes, capsys):
    """Run the benchmark; return the lines that it prints."""
    study.main([*prefixes, "--workdir", str(work)])
    return capsys.readouterr().out.splitlines()


def test_two_runs(tmp_path, capsys):
    """A run without errors against one with them, and against itself: no difference, without an uncertainty."""
    write(tmp_path, "a-1", wrong=12)
    write(tmp_path, "b", folder="moved")  # the same files on another machine
    assert compare(tmp_path, "a-1", "b", capsys=capsys) == [
        "macro F1 of 4 test events, 1 seed",
        "  a-1: 0.700",
        "  b: 1.000",
        "  difference: +0.300, 95% interval +0.240 to +0.402",
    ]
    assert compare(tmp_path, "b", "b", capsys=capsys)[-1] == "  difference: +0.000, 95% interval +0.000 to +0.000"


def test_seeds_in_common(tmp_path, capsys):
    """Groups of runs are averaged over the seeds that both have, and runs of other budgets are not among them."""
    for prefix in ("x-fft-4-s1", "x-fft-4-s3", "x-fft-4-s20", "x-fft-40-s2", "x-lora-4-s3", "x-lora-4-s20"):
        write(tmp_path, prefix)
    write(tmp_path, "x-lora-4-s2", wrong=12)
    out = compare(tmp_path, "x-lora-4", "x-fft-4", capsys=capsys)
    assert out[0] == "macro F1 of 4 test events, 2 seeds" and out[1:3] == ["  x-lora-4: 1.000", "  x-fft-4: 1.000"]


def test_runs_that_cannot_be_compared(tmp_path):
    """Missing files, other events and other points are errors."""
    write(tmp_path, "a")
    write(tmp_path, "b", events=(5, 6, 7, 9))
    with pytest.raises(InputError, match="d.best.test.h5: no such file, and a and d have no predictions -sSEED in"):
        study.main(["a", "d", "--workdir", str(tmp_path)])
    with pytest.raises(InputError, match="b.best.test.h5: has other test events than .*a.best.test.h5"):
        study.main(["a", "b", "--workdir", str(tmp_path)])
    write(tmp_path, "c", lengths=torch.tensor([30, 0, 50, 41]))
    with pytest.raises(InputError, match="c.best.test.h5: has other points or true classes than .*a.best.test.h5"):
        study.main(["a", "c", "--workdir", str(tmp_path)])
