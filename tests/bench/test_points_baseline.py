"""bench/points_baseline.py: runs beside those of networks, with the same events."""

import h5py
import numpy as np
import pytest
import torch

import train_segmentation
from bench import label_budgets
from bench import points_baseline as study
from puffin.data.pilarnet import CloudDataset, CloudSelection
from puffin.data.splits import files_by_folder
from puffin.detector import PILARNET
from puffin.errors import InputError
from puffin.metrics.segmentation import segmentation_metrics
from puffin.runs import clouds
from puffin.tables import read_records
from puffin.tasks.point_predictions import read_confusions
from tests.runs.helpers import TINY_CLOUDS, TINY_TRAINING, TINY_UNET

TINY = "--min-points 50 --iterations 2".split()


@pytest.fixture
def opened(monkeypatch):
    """The training events of every run that opens its data sets: rows of the files."""
    found, open_datasets = [], clouds.open_datasets

    def spied(data, *others):
        datasets = open_datasets(data, *others)
        if data.num_train > 0:
            found.append(datasets["train"].events.tolist())
        return datasets

    monkeypatch.setattr(clouds, "open_datasets", spied)
    monkeypatch.setattr(study, "open_datasets", spied)
    return found


def test_same_events_and_table(small_clouds, pretrained, tmp_path, opened, capsys):
    """The baseline trains with the events of a network, has its columns, and stands in the same table."""
    places = ["--datadir", str(small_clouds), "--workdir", str(tmp_path)]
    study.main([*places, *TINY, *"--budgets 4 6 --seeds 3 --study b".split()])
    assert "b-baseline-6-s3: 7 test events" in capsys.readouterr().out
    network = (
        "--num-train 4 --seed 3 --num-epoch 1 --head-dim 16 --no-predict --no-plot --energy-threshold 0.13".split()
    )
    prefix = ["--prefix", "b-scratch-4-s3"]
    train_segmentation.main([*TINY_CLOUDS, *places, *network, *prefix, "--pretrained", str(pretrained), "--scratch"])
    assert len(opened) == 3 and opened[0] == opened[2] and len(opened[1]) == 6
    rows = read_records(tmp_path / "log/b.Best.metrics.csv")
    baseline, _, trained = [{name for name, value in row.items() if value} for row in rows]
    assert trained - baseline == {"loss", "run"}
    flags = ["--pretrained", str(pretrained), *places, *"--study b --budgets 4 --seeds 3 --methods baseline".split()]
    label_budgets.main([*flags, "scratch", "--", "--min-points", "50"])  # both are there
    table = [line.split("|")[1:4] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[-2:] == [[" baseline ", " 4 ", " 1 "], [" scratch ", " 4 ", " 1 "]]


def test_predictions(small_clouds, tmp_path, capsys):
    """The predictions hold the test events and points that a network sees, one without points among them, and give
    the numbers of the table."""
    places = ["--datadir", str(small_clouds), "--workdir", str(tmp_path)]
    study.main([*places, *TINY, *"--budgets 4 --seeds 3 --study b".split()])
    flags = "--num-train 4 --num-step 1 --seed 3 --no-plot --prefix b-scratch-4-s3".split()
    train_segmentation.main([*TINY_UNET, *TINY_TRAINING, *flags, *places])
    baseline, network = (tmp_path / f"predict/b-{name}-4-s3.best.test.h5" for name in ("baseline", "scratch"))
    with h5py.File(baseline) as ours, h5py.File(network) as theirs:
        for name in ("file", "event", "ptr", "row", "truth"):
            assert np.array_equal(ours[name], theirs[name]), name
        assert np.diff(ours["ptr"]).min() == 0 and np.array_equal(ours["class"], np.argmax(ours["probability"], 1))
    confusion = read_confusions(baseline).confusions.sum(0)
    row = read_records(tmp_path / "log/b.Best.metrics.csv")[0]
    assert segmentation_metrics(confusion, PILARNET.classes(True))["f1_macro"] == pytest.approx(float(row["f1_macro"]))


def test_label_budgets_measures_the_baseline(small_clouds, pretrained, tmp_path, opened, monkeypatch):
    """bench/label_budgets.py hands its settings on: the energy threshold is that of the checkpoint."""
    baseline = study.Baseline
    monkeypatch.setattr(study, "Baseline", lambda num_classes, iterations: baseline(num_classes, 2))
    flags = ["--pretrained", str(pretrained), "--datadir", str(small_clouds), "--workdir", str(tmp_path)]
    flags += "--methods baseline --budgets 3 --seeds 1 -- --min-points 50 --num-valid 2".split()
    label_budgets.main(flags)
    settings = (tmp_path / "log/budgets-baseline-3-s1.yaml").read_text()
    assert "energy_threshold: 0.2\n" in settings and "num_train: 3\n" in settings
    assert len(opened) == 1 and len(opened[0]) == 3


def test_second_classifier_sees_unseen_events(monkeypatch):
    """The probabilities that train the second classifier come from classifiers that have not seen the event, and each
    column means what `add_context` says."""
    rng, seen = np.random.default_rng(0), []
    events = []
    for k in range(4):
        points = torch.from_numpy(rng.uniform(0, 20, (30, 4)).astype(np.float32))
        events.append(study.Event(np.full((30, 1), k, np.float32), rng.integers(0, 3, 30), points))
    fitted = study.Baseline._fitted

    def spied(self, features, trained):
        seen.append({int(event.features[0, 0]) for event in trained})
        return fitted(self, features, trained)

    monkeypatch.setattr(study.Baseline, "_fitted", spied)
    baseline = study.Baseline(4, iterations=2).fit(events)
    assert seen == [{1, 2}, {0, 2, 3}, {0, 1, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}]
    probabilities = baseline.predict_proba(events[0])
    assert probabilities.shape == (30, 4) and np.allclose(probabilities.sum(1), 1) and not probabilities[:, 3].any()


def test_a_single_class():
    """Training events of one class predict this class."""
    points = torch.rand(30, 4)
    event = study.Event(study.describe(points), np.ones(30, np.int64), points)
    assert (study.Baseline(4, iterations=2).fit([event]).predict_proba(event).argmax(1) == 1).all()


def test_context():
    """Means over the nearest points and over components, of two groups of points far from each other."""
    x = torch.cat([torch.arange(30), 400 + torch.arange(10)]).float()
    points = torch.stack([x, x * 0, x * 0, x * 0 + 1], dim=1)
    probabilities = np.eye(2, dtype=np.float32)[[0] * 30 + [1] * 10]
    event = study.Event(np.zeros((40, 3), np.float32), np.zeros(40, np.int64), points)
    found = study.add_context(event, probabilities)
    assert found.shape == (40, 3 + 2 * 5)
    own, near, far, *linked = np.split(found[:, 3:], 5, axis=1)
    assert np.array_equal(own, probabilities) and all(np.array_equal(part, own) for part in linked)
    assert np.allclose(near[0], [1, 0]) and np.allclose(near[-1], [14 / 24, 10 / 24]) and np.allclose(far, [0.75, 0.25])


def test_features(small_clouds):
    """One row per point; the first column is the energy, the last two are the points and the energy of the event."""
    dataset = CloudDataset(files_by_folder(small_clouds)["train"], CloudSelection(min_points=50))
    event = study.Events().of(dataset)[0]
    assert torch.equal(event.points[:, :3], event.points[:, :3].round())  # voxels
    energy = event.points[:, 3]
    assert 0.2 < energy.min() and energy.max() < 3
    assert event.features.shape == (len(event.classes), 1 + 43 + 2 * 3 + 2) and np.isfinite(event.features).all()
    assert np.array_equal(event.features[:, 0], energy) and (event.features[:, -2] == len(energy)).all()
    assert np.allclose(event.features[:, -1], energy.sum())


def test_bad_input(small_clouds, tmp_path, capsys):
    """Each error is one line."""
    for flags, message in {
        "--budgets 0": "--budgets: expected an integer of at least 1, got '0'",
        "--study a-b": "--study: expected a name without dashes",
        "--minpoints 3": "unknown flag --minpoints (did you mean --min-points?)",
    }.items():
        with pytest.raises(SystemExit):
            study.main(flags.split())
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    places = ["--datadir", str(small_clouds), "--workdir", str(tmp_path)]
    with pytest.raises(InputError, match="--budgets: expected 1 to 10, .*at least 50 points.* got .11."):
        study.main([*places, *TINY, "--budgets", "11"])
    with pytest.raises(InputError, match="none of 4 training events has a point above --energy-threshold 19"):
        study.main([*places, *TINY, "--budgets", "4", "--energy-threshold", "19"])
    with pytest.raises(InputError, match="none of 10 events has 100000 points"):
        study.main([*places, "--min-points", "100000"])
    with pytest.raises(InputError, match="no such folder"):
        study.main(["--datadir", str(tmp_path / "none")])
