"""Types of flags: functions from text to a value, which refuse what makes no sense."""

import argparse
import math
from collections.abc import Callable


def integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Return a type for whole numbers from minimum to maximum (None: no limit)."""
    wanted = f"an integer of at least {minimum}" if maximum is None else f"an integer from {minimum} to {maximum}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum or (maximum is not None and value > maximum):
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
        return value

    return parse


def number(
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Callable[[str], float]:
    """Return a type for finite numbers: minimum <= x <= maximum, above < x < below; None: no such limit."""
    limits = [
        f"of at least {minimum:g}" if minimum is not None else "",
        f"above {above:g}" if above is not None else "",
        f"of at most {maximum:g}" if maximum is not None else "",
        f"below {below:g}" if below is not None else "",
    ]
    wanted = " and ".join(limit for limit in limits if limit) or "that is finite"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        accepted = (
            math.isfinite(value)
            and (minimum is None or value >= minimum)
            and (maximum is None or value <= maximum)
            and (above is None or value > above)
            and (below is None or value < below)
        )
        if not accepted:
            raise argparse.ArgumentTypeError(f"expected a number {wanted}, got {text!r}")
        return value

    return parse
