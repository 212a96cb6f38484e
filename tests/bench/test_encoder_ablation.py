"""bench/encoder_ablation.py: F1 with the encoder, and with zeros in its place."""

import pytest
import torch

from bench import encoder_ablation
from puffin.checkpoints.networks import segmentation_config
from puffin.checkpoints.writing import save_checkpoint
from puffin.models.segmentation import segmentation_network
from puffin.settings.clouds import PointSegmentationSettings
from puffin.settings.flags import parse
from tests.conftest import ROOT

UNET = "--backbone unet --unet-width 4 --unet-levels 2 --min-points 0".split()
TRANSFORMER = "--arch vit_tiny --depth 1 --head-dim 8 --min-points 0".split()


@pytest.mark.parametrize("flags", [UNET, TRANSFORMER])
def test_removing_the_encoder_changes_the_labels(tmp_path, capsys, flags):
    """Breaks if the encoder of a backbone still acts; without a U-Net and hand-made features all points look alike."""
    torch.manual_seed(1)
    parsed = parse(PointSegmentationSettings, "", flags)
    config = segmentation_config(parsed.settings().network, remove_led=True)
    weights = segmentation_network(config).state_dict()
    for name in weights.keys() & {"head.bias", "head.linear3.bias"}:
        weights[name].zero_()  # they would decide alone in an untrained network
    save_checkpoint(tmp_path / "x.pt", {"args": parsed.plain(), "git_commit": "c0ffee", "model_state": weights})
    encoder_ablation.main([str(tmp_path / "x.pt"), "--testfile", str(ROOT / "data/sample_data/lartpc/val")])
    with_encoder, without = (
        [float(word) for word in line.split() if "." in word] for line in capsys.readouterr().out.splitlines()
    )
    assert len(with_encoder) == len(without) == 5
    assert with_encoder != without
    assert flags is not UNET or sum(f1 > 0 for f1 in without[1:]) == 1
