"""Which script has which flags."""

from typing import Any

from puffin.settings.clouds import PointSegmentationSettings, PretrainingSettings
from puffin.settings.flags import settings_of
from puffin.settings.jets import ClassifierSettings, RegressorSettings
from puffin.settings.sweep import SweepSettings

SCRIPTS: dict[str, Any] = {
    "train_pelican_classifier.py": ClassifierSettings,
    "train_pelican_cov.py": RegressorSettings,
    "train_pointmae.py": PretrainingSettings,
    "train_segmentation.py": PointSegmentationSettings,
    "optuna_search.py": SweepSettings,
}


def scripts_with(flag: str) -> list[str]:
    """Return the scripts that have a flag, such as --batch-size."""
    return [script for script, schema in SCRIPTS.items() if flag in flags_of(schema)]


def flags_of(schema) -> set[str]:
    """Return all flags of a script: each in every spelling, without those that it has no use for."""
    hidden = getattr(schema, "HIDDEN", {})
    flags: set[str] = set()
    for name, entry in settings_of(schema).items():
        if name not in hidden:
            flags |= {entry.flag, *entry.setting.flags, *entry.setting.shortcuts}
            flags |= {entry.flag.replace("--", "--no-", 1)} if entry.setting.switch else set()
    return flags
