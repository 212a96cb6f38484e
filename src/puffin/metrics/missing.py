"""Why a metric of a split cannot be computed, in words for the log."""

from collections.abc import Sequence

import numpy as np

from puffin.metrics import classification

NO_WEIGHT = "the weights of all events are 0"
NO_EVENTS = "there are no events"


def missing_of_classes(
    target: np.ndarray, weights: np.ndarray | None, num_classes: int, names: Sequence[str] = ()
) -> dict[str, str]:
    """Explain which columns of a classification are nan because of the labels alone; {} if none is.

    target (N,): class numbers; weights (N,): event weights, or None; names: of the classes, else their numbers."""
    counts = np.bincount(target, minlength=num_classes)
    totals = counts if weights is None else np.bincount(target, weights > 0, minlength=num_classes)
    columns = classification.columns(num_classes)
    if not totals.any():
        return dict.fromkeys(columns, NO_WEIGHT if counts.any() else NO_EVENTS)
    absent = {
        c: f"all events of {_named(c, names)} have weight 0" if counts[c] else f"no event is of {_named(c, names)}"
        for c in range(num_classes)
        if not totals[c]
    }
    only = int(totals.argmax()) if np.count_nonzero(totals) == 1 else None
    reasons = {}
    for column in columns:
        needed = _classes_needed(column, num_classes)
        missing = [absent[c] for c in needed if c in absent]
        if missing:
            reasons[column] = missing[0]
        elif num_classes > 2 and only in needed:  # one class against the rest
            reasons[column] = f"all events are of {_named(needed[0], names)}"
    return reasons


def _classes_needed(column: str, num_classes: int) -> range | tuple[int, ...]:
    """Return the classes that must be present for a column to be a number."""
    if column in ("loss", "accuracy", "ECE"):
        return ()
    if num_classes == 2:
        return {"FP_rate": (0,), "FN_rate": (1,)}.get(column, (0, 1))
    return range(num_classes) if column == "AUC" else (int(column.rsplit("_", 1)[1]),)


def _named(number: int, names: Sequence[str]) -> str:
    return f"class {number}" + (f" ({names[number]})" if number < len(names) else "")


def not_finite(scores: np.ndarray, what: str) -> str:
    """Explain for how many rows of scores (N, ...) some number is not finite; "" if all are finite.

    what: what the rows are, for example "class scores"."""
    bad = int((~np.isfinite(scores).reshape(len(scores), -1).all(1)).sum())
    return f"the {what} of {bad} of {len(scores)} events are not finite" if bad else ""
