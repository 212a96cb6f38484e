"""From stored settings to the network that has the weights of a checkpoint."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from puffin.checkpoints.checkpoint import AUTOENCODER, CLASSIFIER, REGRESSOR, SEGMENTATION, Checkpoint
from puffin.data.jet_observables import NAMES
from puffin.data.scalars import scalars_of
from puffin.errors import InputError
from puffin.models.pelican import PelicanClassifier, PelicanRegressor
from puffin.models.segmentation import segmentation_network
from puffin.models.voxel_distillation import pretraining_network
from puffin.settings.clouds import PointSegmentationSettings, PretrainingSettings, SegmentationConfig
from puffin.settings.flags import defaults
from puffin.settings.jets import ClassifierSettings, JetDataSettings, RegressorSettings, reads_observables
from puffin.settings.messages import with_flags
from puffin.settings.pelican import PelicanConfig

SCHEMAS: Mapping[str, Any] = {
    CLASSIFIER: ClassifierSettings,
    REGRESSOR: RegressorSettings,
    AUTOENCODER: PretrainingSettings,
    SEGMENTATION: PointSegmentationSettings,
}


def pelican_config(network: PelicanConfig, data: JetDataSettings) -> PelicanConfig:
    """Complete the settings of a network with those that follow from the data. InputError for contradictions."""
    num_scalars = sum(scalar.width for scalar in scalars_of(data))
    num_observables = len(NAMES) if reads_observables(data) else 0
    try:
        return replace(network, scale=data.scale, num_scalars=num_scalars, num_observables=num_observables)
    except ValueError as error:
        raise InputError(with_flags(str(error), PelicanConfig)) from error


def segmentation_config(network: SegmentationConfig, remove_led: bool) -> SegmentationConfig:
    """Complete the settings of a network: without the low-energy deposits there are 4 classes, else 5."""
    return replace(network, num_classes=4 if remove_led else 5)


def settings_of_checkpoint(checkpoint: Checkpoint) -> Any:
    """Return all settings of the training that wrote a checkpoint; InputError if it is of no network that we know."""
    checkpoint.expect(*SCHEMAS)
    return (
        defaults(SCHEMAS[checkpoint.network]).starting_from(checkpoint.settings, "resume", checkpoint.path).settings()
    )


def network_of_checkpoint(checkpoint: Checkpoint) -> nn.Module:
    """Return the network of a checkpoint with its weights, in evaluation mode, on the CPU."""
    settings = settings_of_checkpoint(checkpoint)
    network: nn.Module
    if checkpoint.network == SEGMENTATION:
        network = segmentation_network(segmentation_config(settings.network, settings.data.remove_led))
    elif checkpoint.network == AUTOENCODER:
        network = pretraining_network(settings.network)
    else:
        kind = PelicanClassifier if checkpoint.network == CLASSIFIER else PelicanRegressor
        network = kind(pelican_config(settings.network, settings.data))
    checkpoint.load_into(network)
    return network.eval()
