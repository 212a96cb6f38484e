"""The entrance of a script: signals, errors in one line, exit status.

Nothing here imports PyTorch before it is needed, so that --help and bad flags are answered at once.
"""

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from puffin.errors import (
    InputError,
    Interrupted,
    MissingOutputs,
    NonFiniteError,
    is_missing_package,
    missing_package,
)

log = logging.getLogger("puffin")


MISSING_OUTPUTS = 3  # exit status of a run that has finished without some of its outputs
DEBUG_HINT = " (--log-level debug shows where)"


def run_script(
    main: Callable[[Sequence[str] | None], object], argv: Sequence[str] | None = None, hint: str = DEBUG_HINT
) -> None:
    """Call a script's main; a failure becomes one readable line and a non-zero exit status.

    hint: added to errors that nobody expected; '' for a script without the flag.

    SIGTERM ends the script as an exception does, so that no half-written file stays; training, which saves first, and
    sweeps handle the signal themselves. Under torchrun the processes are connected first; the failure of any of them
    is a line in the log of process 0."""
    _replace_closed_streams()
    before = signal.signal(signal.SIGTERM, _exit_on_signal)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        if several:
            _distributed().connect()
        main(argv)
        if several:
            _distributed().disconnect()
    except Interrupted as stop:
        log.warning(str(stop)) if log.handlers else print(stop, file=sys.stderr)
        with contextlib.suppress(RuntimeError):
            _distributed().from_main(None)  # the others wait for process 0: torchrun ends all when one ends
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except MissingOutputs as error:
        log.warning(str(error))
        if several:
            _distributed().disconnect()
        sys.exit(MISSING_OUTPUTS)
    except ModuleNotFoundError as error:
        if not is_missing_package(error):
            raise  # a module of ours
        print(f"error: {missing_package(error.name or '')}", file=sys.stderr)  # whatever else works needs packages too
        sys.exit(1)
    except Exception as error:  # the last place that can turn a failure into a line
        _report(error, several, hint)
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, before)


def _replace_closed_streams() -> None:
    """Connect standard streams that the caller has closed (`2>&-`, some daemons) to the null device.

    Otherwise there is nothing to log to, and the next file that is opened gets the number of the stream: messages of
    a library would be written into a checkpoint."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")
            os.set_inheritable(stream.fileno(), True)  # for workers
            setattr(sys, name, stream)


def _distributed():
    from puffin.training import distributed

    return distributed


def _exit_on_signal(signum: int, frame) -> None:
    signal.signal(signum, signal.SIG_IGN)  # a second one would disturb the tidying up
    log.warning(f"stopped by {signal.Signals(signum).name}")
    raise SystemExit(128 + signum)


def _report(error: Exception, several: bool, hint: str) -> None:
    """Log a failure in one line, with the traceback only if the log level is debug."""
    if log.isEnabledFor(logging.DEBUG):
        log.debug("traceback", exc_info=True)
    text = _one_line(error, several, hint)
    if several:
        if log.isEnabledFor(logging.DEBUG) and not _distributed().is_main():
            text = traceback.format_exc()  # the only way to see it
        text = _distributed().report_failure(text)
    if log.handlers:
        log.error(text)
    else:
        print(f"error: {text}", file=sys.stderr)


def _one_line(error: Exception, several: bool, hint: str) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, (InputError, NonFiniteError)):
        return text
    if isinstance(error, OSError) and error.filename and error.strerror:  # of a file: the system says what is wrong
        return f"{str(error.filename)[:200]}: {error.strerror}"
    if several and "gloo" in text.lower():
        return f"lost another process; was it killed, or out of memory? ({text[:200]})"
    return f"{type(error).__name__}: {text[:500]}{hint}"
