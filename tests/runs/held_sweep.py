"""optuna_search.py whose first training stands still after its first epoch, until the test that started it has
seen that.

So that a worker is killed, told to stop or cut off from its database in mid-trial, however busy the machine
is.  For processes
that a test starts itself a function, for those that --jobs starts this file as a script, with the folder in
its environment."""

import os
import signal
import sys
import time
from pathlib import Path

import optuna

FOLDER = "TEST_HOLDS"


def hold_first_trial(folder: Path) -> None:
    """After the first value that a trial of this process reports it writes `folder/held.PID`, and goes on when
    there is a
    file `folder/go`, or SIGTERM has come.  Signs of life go on meanwhile."""
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
