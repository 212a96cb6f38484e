"""tools/results.py: tables with errors from predictions and metrics CSVs."""

import csv
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from puffin.data.pilarnet import CloudSelection
from puffin.files import append_row
from puffin.metrics.bootstrap import Number
from puffin.metrics.classification import classification_metrics
from puffin.tasks.point_predictions import PointPredictions
from puffin.tasks.saving import read_predictions, save_predictions
from puffin.training.task import Evaluation
from tests.conftest import GOLDEN
from tests.runs.helpers import refused_by
from tools import results

refused = partial(refused_by, results.main)


def write(folder, name, logits, target, format_="pt", **further):
    """Write the predictions of a run for its test jets; return the file as text."""
    outputs = {"predict": torch.tensor(logits), "targets": torch.tensor(target), **further}
    return str(save_predictions(Evaluation("test", "best", folder / f"{name}.best.test", "id"), outputs, format_))


def predictions(folder, name, seed, quality=1.5, classes=2, format_="pt", **further):
    """Write predictions of 400 jets, the same jets for all seeds."""
    target = np.arange(400) % classes
    noise = np.random.default_rng(seed).normal(size=(400, classes))
    return write(folder, name, noise + quality * np.eye(classes)[target], target, format_, **further)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_seeds_reference_and_ensemble(tmp_path, capsys):
    """Seeds are one tagger, in either format; the ensemble is better than its members; CSV and LaTeX are written."""
    files = [predictions(tmp_path, f"good-s{s}", s, format_="h5" if s == 2 else "pt") for s in (1, 2)]
    files += [predictions(tmp_path, "poor", 9, quality=0.5)]
    out, tex = tmp_path / "t.csv", tmp_path / "t.tex"
    flags = ["--reference", "poor", "--ensemble", "--resamples", "40", "--csv", str(out), "--latex", str(tex)]
    results.main([*files, *flags])
    shown = capsys.readouterr().out
    assert shown.startswith("400 jets, 200 of them signal (class 1). In brackets: 95% intervals from 40 resamples")
    assert "| minus poor | accuracy | AUC |" in shown and "| divided by poor |" in shown
    found = {(row["method"], row["metric"]): row for row in rows(out)}
    assert [tagger for tagger, metric in found if metric == "AUC"] == ["good", "poor", "good (ensemble of 2)"]
    auc = found["good", "AUC"]
    arrays = [read_predictions(Path(path)) for path in files[:2]]
    each = [classification_metrics(a["predict"], a["targets"], 0.0)["AUC"] for a in arrays]
    assert auc["seeds"] == "2" and float(auc["value"]) == pytest.approx(np.mean(each))
    assert float(auc["spread"]) == pytest.approx(np.std(each, ddof=1))
    assert float(found["good (ensemble of 2)", "AUC"]["value"]) > max(each)
    assert float(auc["difference_low"]) > 0 and not found["poor", "AUC"]["difference"]
    assert tex.read_text().count(r"\\") == 4 and "BgRejectionAt0.3" in tex.read_text()


def test_numbers_are_those_of_the_log(capsys):
    """Accuracy and AUC of published predictions equal those of the metrics; few background jets are a note."""
    path = GOLDEN / "pelican_run/ref.best.test.pt"
    arrays = read_predictions(path)
    metrics = classification_metrics(arrays["predict"], arrays["targets"].astype(int), 0.0)
    (result,), notes = results.evaluate(results.read_jets([path]), signal=1, efficiencies=[0.05], resamples=2)
    for name in ("accuracy", "AUC"):
        assert result.numbers[name].value == pytest.approx(metrics[name])
    assert len(notes) == 1 and notes[0].startswith("ref: BgRejectionAt0.05 rests on ")


def test_several_classes(tmp_path, capsys):
    """The signal of several classes must be named; its score is its probability against the rest."""
    path = predictions(tmp_path, "multi", 1, classes=3)
    assert "the taggers have 3 classes; choose the signal with --signal 0 to 2" in refused([path], capsys)
    assert "--signal 3: expected 0 to 2" in refused([path, "--signal", "3"], capsys)
    out = tmp_path / "t.csv"
    results.main([path, "--signal", "2", "--resamples", "2", "--csv", str(out)])
    arrays = read_predictions(Path(path))
    metrics = classification_metrics(arrays["predict"], arrays["targets"], 0.0)
    assert float(rows(out)[1]["value"]) == pytest.approx(metrics["AUC_2"])


def test_missing_metrics(tmp_path, capsys):
    """Test sets without signal, or without jets, say which metrics cannot be had; the first has an accuracy."""
    results.main([write(tmp_path, "one", np.eye(2)[[0, 0, 1]], [0, 0, 0]), "--resamples", "5"])
    one = capsys.readouterr().out
    assert "note: no AUC and no rejection: no event is of class 1 (signal)" in one
    assert "| one | 1 | 0.67 (0.37 to 1.00) | - | - | - |" in one
    results.main([write(tmp_path, "none", np.zeros((0, 2)), np.zeros(0, int))])
    none = capsys.readouterr().out
    assert "note: no AUC and no rejection: there are no events" in none and "| none | 1 | - | - | - | - |" in none


def test_files_that_do_not_fit(tmp_path, capsys):
    """Other jets, other rows, other numbers of classes, no predictions, scores that are not finite."""
    a = predictions(tmp_path, "a", 1, row=torch.arange(400))
    other = predictions(tmp_path, "other", 1, row=torch.arange(1, 401))
    assert "has the rows of other jets than" in refused([a, other], capsys)
    three = predictions(tmp_path, "three", 1, classes=3)
    assert "has the true classes of other jets than" in refused([a, three], capsys)
    assert "--reference b: no such method; choose from a" in refused([a, "--reference", "b"], capsys)
    assert "no such file. Pass predictions" in refused([str(tmp_path / "x.pt")], capsys)
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pt")
    assert "no array 'predict' (found: a)" in refused([str(tmp_path / "w.pt")], capsys)
    bad = write(tmp_path, "bad", [[0.0, np.nan], [0, 1]], [0, 1])
    assert "bad: the class scores of 1 of 2 events are not finite" in refused([bad], capsys)
    assert "got both" in refused([a, "t.csv"], capsys)


def test_metrics_tables(tmp_path, capsys):
    """The last row of each run counts, seeds are averaged, and evaluations on other files are lines of their own."""
    table = tmp_path / "top.Best.metrics.csv"
    for prefix, auc in (("top-s1", 0.5), ("top-s1", 0.92), ("top-s2", 0.94), ("top-large", 0.97)):
        append_row(table, {"prefix": prefix, "AUC": auc, "loss": 1.0, "evaluated": "/a"})
    results.main([str(table)])
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-3:] == ["| --- | --- | --- |", "| top | 2 | 0.930 ± 0.014 |", "| top-large | 1 | 0.9700 |"]
    append_row(table, {"prefix": "top-s1", "AUC": 0.7, "loss": "x", "evaluated": "/b"})
    results.main([str(table), "--columns", "AUC"])
    assert "| top on /b | 1 | 0.7000 |" in capsys.readouterr().out
    assert "--columns loss: holds no numbers" in refused([str(table), "--columns", "loss"], capsys)
    assert "--columns auc: no such column" in refused([str(table), "--columns", "auc"], capsys)
    assert "need predictions, not metrics CSVs" in refused([str(table), "--ensemble"], capsys)


def test_rounding():
    """Two digits of the smallest error, four significant digits without errors."""
    assert results.shown(Number(0.93012, 0.0123, 0.9, 0.95)) == "0.930 ± 0.012 (0.900 to 0.950)"
    assert results.shown(Number(301.2, 14.2)) == "301 ± 14" and results.shown(Number(0.93)) == "0.9300"
    assert results.shown(Number(2.5, low=-1.0, high=30.0), "+") == "+2.5 (-1.0 to +30.0)"
    assert results.in_latex(Number(2.5, low=1.0, high=3.0)) == r"$2.50\,{}^{+0.50}_{-1.50}$"


POINTS = torch.tensor([30, 0, 50, 40])
CLASSES = ("shower", "track", "michel", "delta")


def write_points(work, prefix, wrong=0, folder="a", events=(5, 6, 7, 8), lengths=POINTS):
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
    with PointPredictions(work / "predict" / f"{prefix}.best.test", dataset, CLASSES) as predictions:
        rows = {f"particle_{name}": values for name, values in points.items()}
        predictions.append({"index": torch.arange(4), "lengths": lengths, **rows})
    return str(work / f"predict/{prefix}.best.test.h5")


def test_segmentations(tmp_path, capsys):
    """A segmentation without errors against one with them, over the seeds: the F1 and the difference by hand."""
    files = [write_points(tmp_path, f"a-s{s}", wrong=12) for s in (1, 2)]
    files.append(write_points(tmp_path, "b", folder="moved"))  # the same events on another machine
    results.main([*files, "--reference", "a"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 events. In brackets: 95% intervals from 1000 resamples of these events."
    shown = {line.split(" | ")[0]: line for line in lines if line.startswith(("| a", "| b"))}
    assert shown["| a"].startswith("| a | 2 | 0.700 ± 0.000 (0.598 to 0.760) |")
    assert "| b | +0.300 (+0.240 to +0.402) |" in lines


def test_segmentations_that_do_not_fit(tmp_path, capsys):
    """Missing files, other events, other points, ensembles and unknown references are errors."""
    a = write_points(tmp_path, "a")
    other = write_points(tmp_path, "b", events=(5, 6, 7, 9))
    more = write_points(tmp_path, "c", lengths=torch.tensor([30, 0, 50, 41]))
    assert "no such file. Pass predictions of points" in refused([a, str(tmp_path / "d.h5")], capsys)
    assert "b.best.test.h5: has other test events than" in refused([a, other], capsys)
    assert "c.best.test.h5: has other points or true classes than" in refused([a, more], capsys)
    assert "--ensemble needs predictions of jets" in refused([a, "--ensemble"], capsys)
    assert "--reference x: no such method; choose from a" in refused([a, "--reference", "x"], capsys)
