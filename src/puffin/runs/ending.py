"""The end of a run: where its files are, and what to do with them next."""

from puffin.runs.run import Run
from puffin.settings.clouds import PretrainingSettings
from puffin.settings.scripts import SCRIPTS


def summary(run: Run) -> list[str]:
    """Return lines about a finished run: its files, and the next commands to type."""
    lines = [f"files: {', '.join(map(str, _files(run)))}"]
    table = run.paths.table("best")
    if table.exists():
        lines.append(f"next: python3 tools/show_metrics.py {table}")
    if not run.start.evaluating and run.paths.best.exists():
        lines.append(f"next: {_use_of_weights(run)}")
    return lines


def _files(run: Run) -> list:
    paths = run.paths
    written = [paths.log, *([] if run.start.evaluating else [paths.picture, paths.checkpoint, paths.best])]
    return [path for path in written if path.exists()]


def _use_of_weights(run: Run) -> str:
    """Return the command that uses the best network."""
    schema, best = run.start.flags.schema, run.paths.best
    if schema is PretrainingSettings:
        return f"python3 train_segmentation.py --pretrained {best} --datadir {run.settings.data.datadir}"
    script = next(script for script, of_script in SCRIPTS.items() if of_script is schema)
    return f"python3 {script} --eval --loadfile {best} --testfile FILE"
