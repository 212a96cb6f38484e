"""A report of checks: a line with PASS, FAIL or SKIPPED for each, which is printed and kept."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from puffin.errors import first_line
from puffin.files import whole_file


class Skipped(Exception):
    """The check cannot run here; the text says why."""


class Report:
    """Runs checks one after another; none of them ends the report."""

    def __init__(self):
        self.lines: list[str] = []
        self.counts: Counter[str] = Counter()

    def line(self, text: str = "") -> None:
        """Add a line."""
        self.lines.append(text)
        print(text, flush=True)

    def section(self, title: str) -> None:
        """Begin a section."""
        self.line()
        self.line(f"== {title}")

    def check(self, name: str, function: Callable[[], str | None]) -> None:
        """Run a check, which returns a detail to show; an exception of any kind is a failure with its first line."""
        begin = time.perf_counter()
        try:
            status, detail = "PASS", function() or ""
        except Skipped as reason:
            status, detail = "SKIPPED", str(reason)
        except Exception as error:
            status, detail = "FAIL", f"{type(error).__name__}: {first_line(error)}"
            if "CUDA error" in detail:  # the driver keeps the error, and reports it again and again
                detail += "; failures below may follow from this one"
        self.counts[status] += 1
        self.line(f"{status:<8}{name:<34} {detail}  ({time.perf_counter() - begin:.1f} s)")

    @property
    def failed(self) -> bool:
        """Whether any check has failed."""
        return self.counts["FAIL"] > 0

    def finish(self, out: Path | None) -> int:
        """Add the totals, write the file if one is wanted, and return the exit status."""
        self.section("Result")
        self.line(", ".join(f"{self.counts[status]} {status}" for status in ("PASS", "FAIL", "SKIPPED")))
        if out is not None:
            with whole_file(out) as temporary:
                temporary.write_text("\n".join(self.lines).lstrip("\n") + "\n", encoding="utf-8")
            print(f"written to {out}", file=sys.stderr)
        return int(self.failed)
