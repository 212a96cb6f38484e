"""Learning rates of their own for the head and for each block."""

from dataclasses import replace

import pytest

from puffin.models.pelican import PelicanClassifier, PelicanRegressor
from puffin.models.segmentation import Segmentation, VoxelSegmentation
from puffin.settings.clouds import SegmentationConfig
from puffin.settings.encoder import EncoderConfig, TransformerConfig
from puffin.settings.pelican import PelicanConfig
from puffin.settings.unet import UNetConfig

PELICAN = PelicanConfig(3, ((6,), (6,)), (4, 4), (6, 4))
TRANSFORMER = SegmentationConfig(EncoderConfig(transformer=TransformerConfig("vit_tiny", 2)), head_dim=8)
UNET = SegmentationConfig(backbone="unet", unet=UNetConfig(4, 2), geometry=True)


def factors(network, layer_decay, head_factor) -> dict[str, float]:
    """Return the factor of the learning rate of each parameter by its name; each must be in exactly one group."""
    names = {id(p): name for name, p in network.named_parameters()}
    groups = network.parameter_groups(layer_decay, head_factor)
    found = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(names)
    return found


@pytest.mark.parametrize("network", [PelicanClassifier, PelicanRegressor])
def test_pelican(network):
    """The blocks from the last one down, then the embedding. Breaks if a part is of another stage."""
    for name, factor in factors(network(PELICAN), 0.5, 3.0).items():
        part, *rest = name.split(".")
        expected = 3.0 if part in network.head else 0.125
        if part == "net2to2":
            expected = 0.5 if rest[1] == "1" else 0.25
        assert factor == expected, name


@pytest.mark.parametrize("make", [lambda: Segmentation(TRANSFORMER), lambda: VoxelSegmentation(UNET)])
def test_head_of_segmentation(make):
    """The head alone has the factor; without any factor all parameters are one group, as in older checkpoints."""
    network = make()
    below = ("encoder.", "backbone.", "geometry.")
    assert all(
        factor == (1.0 if name.startswith(below) else 3.0) for name, factor in factors(network, 1.0, 3.0).items()
    )
    (only,) = network.parameter_groups()
    assert "lr_scale" not in only and len(only["params"]) == len(list(network.parameters()))


def test_frozen_parts_have_no_group():
    """Only the head is trained, by its own factor."""
    network = PelicanClassifier(replace(PELICAN, stabilizer="so13"))
    network.freeze_()
    (only,) = network.parameter_groups(1.0, 2.0)
    assert only["lr_scale"] == 2.0 and len(only["params"]) == sum(p.requires_grad for p in network.parameters())
