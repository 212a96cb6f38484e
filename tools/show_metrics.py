#!/usr/bin/env python3
"""Print the last row of a metrics CSV, one number per line: show_metrics.py FILE."""

import csv
import sys
from pathlib import Path


def main(argv: list[str]) -> None:
    """Print the row; exit with a message if there is none."""
    if len(argv) != 1 or not Path(argv[0]).is_file():
        sys.exit("usage: show_metrics.py FILE (a CSV under log/)")
    with open(argv[0], newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        sys.exit(f"{argv[0]}: no rows")
    for name, value in rows[-1].items():
        if not value:  # a column of other runs
            continue
        try:
            value = f"{float(value):.5g}"
        except ValueError:
            pass
        print(f"  {name:22s} {value}")


if __name__ == "__main__":
    main(sys.argv[1:])
