"""The end of a run: where its files are, and what to do with them next."""

import shlex
from pathlib import Path

from puffin.runs.run import Run
from puffin.settings.clouds import PretrainingSettings
from puffin.settings.common import FOLDERS, RunSettings
from puffin.settings.scripts import SCRIPTS


def summary(run: Run) -> list[str]:
    """Return lines about a finished run: its files, and the next commands to type."""
    lines = [f"files: {', '.join(map(str, _files(run)))}"]
    table = run.paths.table("best")
    if table.exists():
        lines.append(f"next: {_command('tools/show_metrics.py', table)}")
    if not run.start.evaluating and run.paths.best.exists():
        lines.append(f"next: {_use_of_weights(run)}")
    lines.append(f"next: {_report(run)}")
    return lines


def _files(run: Run) -> list:
    paths = run.paths
    written = [paths.log, *([] if run.start.evaluating else [paths.picture, paths.checkpoint, paths.best])]
    return [path for path in written if path.exists()]


def _report(run: Run) -> str:
    """Return the command that shows the run on one page."""
    settings = run.settings.run
    changed = [name for name in FOLDERS if getattr(settings, name) != getattr(RunSettings, name)]
    folders = [word for name in changed for word in (f"--{name}", getattr(settings, name))]
    return _command("tools/report.py", settings.prefix, *folders)


def _command(*words: str | Path) -> str:
    """Return a command with the quotes that a shell needs."""
    return shlex.join(["python3", *map(str, words)])


def _use_of_weights(run: Run) -> str:
    """Return the command that uses the best network."""
    schema, best = run.start.flags.schema, run.paths.best
    if schema is PretrainingSettings:
        return _command("train_segmentation.py", "--pretrained", best, "--datadir", run.settings.data.datadir)
    script = next(script for script, of_script in SCRIPTS.items() if of_script is schema)
    return _command(script, "--eval", "--loadfile", best, "--testfile", "FILE")
