"""Points of the linear probe of a U-Net: which are taken, their labels and features."""

import numpy as np
import torch

from puffin.data.pilarnet import CloudDataset, CloudSelection
from puffin.tasks.point_probe import PointProbe
from tests.conftest import ROOT
from tests.tasks.test_masked_modelling import make_task


def test_features_that_are_the_labels():
    """With the class itself as feature the probe is nearly perfect, with a constant it is not; on real files.

    The points are random ones of many events, each with the features that the network has for it. Breaks if features
    and labels are of different points."""
    folder, model = ROOT / "data/sample_data/lartpc", make_task("unet").model.eval()
    datasets = {
        split: CloudDataset(sorted((folder / name).glob("*.h5")), CloudSelection(rows=True))
        for split, name in (("train", "train"), ("valid", "val"))
    }
    probe = PointProbe(datasets, seed=1, most=3000)
    of_points = {id(part.samples): part.labels for split in datasets for part in probe.samples(model, split)}
    good = probe.judge(model, "valid", lambda points: torch.from_numpy(of_points[id(points)] * 10.0))
    assert good["probe_f1_track"] > 0.97 and good["probe_f1_shower"] > 0.97
    poor = probe.judge(model, "valid", lambda points: torch.ones(len(points.rows), 3))
    assert poor["probe_f1_mean"] < good["probe_f1_mean"] - 0.2
    state = torch.get_rng_state()
    one, other = (PointProbe(datasets, seed=1, most=3000)(model, "valid") for _ in range(2))
    assert np.array_equal(list(one.values()), list(other.values()), equal_nan=True)
    assert torch.equal(state, torch.get_rng_state())  # a probe must not change training

    first = probe.samples(model, "valid")[0]
    points, lengths, rows = first.samples.points, first.samples.lengths, first.samples.rows
    event = torch.repeat_interleave(lengths)[rows]
    assert event.bincount().tolist() == [200] * 16 and len(rows.unique()) == len(rows) == len(first.labels)
    assert (first.labels.sum(1) == 1).all()
    with torch.no_grad():
        assert torch.equal(probe.features(model, first.samples), model.features(points, lengths)[rows])
    batch = datasets["valid"][torch.randperm(16, generator=torch.Generator().manual_seed(1)).tolist()]
    assert torch.equal(torch.from_numpy(first.labels.argmax(1)), batch.semantic[rows])


def test_classes_without_a_point():
    """The message is about points. Breaks if it speaks of tokens."""
    probe = PointProbe.__new__(PointProbe)
    probe.names, probe.most = ("shower", "track"), 10
    labels = np.array([[True, False], [True, False]])
    probe._chosen = {split: [type("Part", (), {"labels": labels})] for split in ("train", "valid")}
    found = probe.why_missing(None, "valid")
    assert found["probe_f1_track"] == "no training point of the probe is of class track"
    assert found["probe_f1_shower"] == "every training point of the probe is of class shower"
