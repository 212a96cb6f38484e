"""Letters of --config and --config-out: how a PELICAN layer aggregates over particles.  Needs no PyTorch.

To add a letter, add its entry to `LETTERS`.  Layers, pair geometries and the checks of the settings read this table.
A capital letter does the same and also multiplies by (n / nbar)^alpha, with an alpha that is learned for each map.

>>> check_letters("sM")
>>> letter("M").divide_by
'n'
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Letter:
    """How one letter aggregates.

    reduction: "sum", "max" or "min" over the particles.  divide_by: "nbar" (average number of particles, --nobj-avg),
    "n" (number of particles of the event) or None, once for each index that is summed over.
    add_log_n: this multiple of log(n) is added, which makes extrema of events of different sizes comparable.
    """

    reduction: str
    divide_by: str | None = None
    add_log_n: int = 0
    help: str = ""

    @property
    def is_linear(self) -> bool:
        """Whether the aggregate is linear in the features.  Only linear aggregates can be IRC-safe."""
        return self.reduction == "sum" and not self.add_log_n


LETTERS = {
    "s": Letter("sum", divide_by="nbar", help="sum over the particles, divided by --nobj-avg"),
    "m": Letter("sum", divide_by="n", help="mean over the particles"),
    "x": Letter("max", add_log_n=-1, help="maximum over the particles, minus log(n)"),
    "n": Letter("min", add_log_n=1, help="minimum over the particles, plus log(n)"),
}
LETTER_NAMES = "".join(LETTERS) + "".join(LETTERS).upper()


def letter(name: str) -> Letter:
    """Return the entry of a small or capital letter."""
    return LETTERS[name.lower()]


def has_exponent(name: str) -> bool:
    """Return whether a letter multiplies by a learned power of n: whether it is a capital."""
    return name.isupper()


def all_linear(config: str) -> bool:
    """Return whether every letter of `config` aggregates linearly."""
    return all(letter(name).is_linear for name in config)


def check_letters(config: str, irc_safe: bool = False, setting: str = "config") -> None:
    """Raise ValueError unless `config` is one or more known letters, and linear ones if `irc_safe`.

    setting: its name, with which the message begins."""
    if not config or any(name.lower() not in LETTERS for name in config):
        raise ValueError(f"{setting}: expected one or more of the letters {LETTER_NAMES}, got {config!r}")
    if irc_safe and not all_linear(config):
        allowed = ", ".join(name for name in LETTER_NAMES if letter(name).is_linear)
        raise ValueError(f"{setting}: max and min are not IRC-safe, got {config!r}; use the letters {allowed}")
