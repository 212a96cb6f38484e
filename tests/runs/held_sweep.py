"""optuna_search.py whose first trial pauses after its first epoch, until the test lets it continue.

A test can then kill a worker, stop it or cut it off from its database in the middle of a trial, however busy the
machine is. A process that the test starts itself calls `hold_first_trial`. For the processes that --jobs starts, this
file is the script, and the environment names the folder."""

import os
import signal
import sys
import time
from pathlib import Path

import optuna

FOLDER = "TEST_HOLDS"


def hold_first_trial(folder: Path) -> None:
    """Make the first trial of this process pause after the first value that it reports.

    It writes `folder/held.PID`, then waits until the file `folder/go` exists or SIGTERM arrives. The heartbeats of its
    worker go on."""
    report = optuna.Trial.report

    def report_and_wait(self, value, step):
        report(self, value, step)
        optuna.Trial.report = report
        came = []
        before = signal.signal(signal.SIGTERM, lambda *got: (came.append(got), before(*got)))
        (folder / f"held.{os.getpid()}").touch()
        while not came and not (folder / "go").exists():
            time.sleep(0.02)
        signal.signal(signal.SIGTERM, before)

    optuna.Trial.report = report_and_wait


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root), str(root / "src")]
    import optuna_search
    from puffin.runs.entry import run_script

    hold_first_trial(Path(os.environ[FOLDER]))
    run_script(optuna_search.main)
