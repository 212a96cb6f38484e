"""Check the flags of runs that also learn from the predictions of earlier runs."""

from puffin.errors import InputError
from puffin.runs.run import Run


def uses_pseudo_labels(run: Run) -> bool:
    """Return whether the run is a training with --pseudo-labels; InputError for flags that do not fit together."""
    has_labels, start = bool(run.settings.self_training.pseudo_labels), run.start
    for name in ("labelled_fraction", "unlabelled"):
        if name in start.flags.typed and not has_labels:
            raise InputError(f"--{name.replace('_', '-')}: only runs with --pseudo-labels use this")
    if not has_labels or start.evaluating:
        return False
    if "train" in run.settings.run.predict:
        raise InputError(
            "--predict train: with --pseudo-labels the training events have no true labels to compare with"
        )
    return True
