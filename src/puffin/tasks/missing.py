"""What a task says about metrics that are not numbers."""

import math
from collections.abc import Mapping

from puffin.errors import InputError


def explained(metrics: Mapping[str, float], reasons: Mapping[str, str]) -> dict[str, str]:
    """Return the reason for each metric that is nan, by name; reasons: those that are known."""
    unknown = "the predictions give no number"
    return {name: reasons.get(name, unknown) for name, value in metrics.items() if math.isnan(value)}


def refuse_best_by(best_by: str, reasons: Mapping[str, str], split: str) -> None:
    """Raise InputError if there is a reason why the metric of --best-by can only be nan for a split."""
    if best_by in reasons:
        raise InputError(
            f"--best-by {best_by}: cannot be computed for the {split} events, because {reasons[best_by]}; choose "
            f"another metric, or use other {split} files"
        )
