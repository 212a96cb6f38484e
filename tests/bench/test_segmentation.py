"""bench/segmentation.py: the files that the benchmark writes."""

import torch

from bench.segmentation import make_file
from puffin.data.pilarnet import CloudDataset, CloudSelection
from tests.conftest import ROOT


def test_files_repeat_the_sample(tmp_path):
    """The reader reads the sample events again and again. Breaks if an offset belongs to another event."""
    (sample,) = (ROOT / "data/sample_data/lartpc/val").glob("*.h5")
    make_file(tmp_path / "e_v2.h5", sample, 20)
    one, many = (CloudDataset([path], CloudSelection()) for path in (sample, tmp_path / "e_v2.h5"))
    assert (len(one), len(many)) == (16, 20)
    for a, b in ((0, 0), (15, 15), (2, 18)):
        first, second = one[a], many[b]
        assert torch.equal(first.points, second.points) and torch.equal(first.semantic, second.semantic)
