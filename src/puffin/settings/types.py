"""Types of number flags: the parser refuses values out of range and names the flag."""

import argparse
import math
from collections.abc import Callable


def integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Make an argparse type for integers from minimum to maximum, both included."""
    limit = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum or (maximum is not None and value > maximum):
            raise argparse.ArgumentTypeError(f"expected an integer {limit}, got {text!r}")
        return value

    return convert


def number(
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Callable[[str], float]:
    """Make an argparse type for finite numbers: minimum <= x <= maximum and above < x < below, if given."""
    if minimum is not None and maximum is not None:
        limits = f" from {minimum:g} to {maximum:g}"
    else:
        parts = {"of at least": minimum, "above": above, "of at most": maximum, "below": below}
        limits = " and".join(f" {words} {limit:g}" for words, limit in parts.items() if limit is not None)

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        inside = (
            math.isfinite(value)
            and (minimum is None or value >= minimum)
            and (maximum is None or value <= maximum)
            and (above is None or value > above)
            and (below is None or value < below)
        )
        if not inside:
            raise argparse.ArgumentTypeError(f"expected a number{limits}, got {text!r}")
        return value

    return convert
