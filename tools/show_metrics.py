#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Print the last row of a metrics CSV, one number per line: show_metrics.py log/top.Best.metrics.csv"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()


from puffin.errors import InputError, not_a_file
from puffin.settings.parser import OneLineParser
from puffin.tables import read_records


def main(argv: list[str] | None = None) -> None:
    """Print the row, without empty columns; exit with a message if the table has no rows."""
    parser = OneLineParser(description="Print the last row of a metrics CSV, one number per line.")
    parser.add_argument("table", type=Path, metavar="FILE", help="a metrics CSV, such as log/top.Best.metrics.csv")
    path = parser.parse_args(argv).table
    if not path.is_file():
        sys.exit(f"error: {not_a_file(path)}. Metrics CSVs are in the folder log/ of a run.")
    try:
        rows = read_records(path)
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
    if not rows:
        sys.exit(f"error: {path}: the table has no rows")
    for name, value in rows[-1].items():
        if not value:  # a column that only other runs have
            continue
        try:
            value = f"{float(value):.5g}"
        except ValueError:
            pass
        print(f"  {name:22s} {value}")


if __name__ == "__main__":
    main()
