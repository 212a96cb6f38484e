"""The presets of config/, for the benchmarks."""

from pathlib import Path

from puffin.settings.flags import with_presets
from puffin.settings.jets import ClassifierSettings
from puffin.settings.pelican import PelicanConfig

CONFIG = Path(__file__).resolve().parents[1] / "config"


def pelican_preset(name: str) -> PelicanConfig:
    """Return the network of config/NAME.yaml, e.g. of 48k."""
    return with_presets(ClassifierSettings, {"yaml": (CONFIG / f"{name}.yaml",)}).part(PelicanConfig)
