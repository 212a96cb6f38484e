#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Plot the F1 of each class against the number of labelled events, from metrics CSVs of train_segmentation.py.

python3 tools/plot_label_budgets.py log/budgets.Best.metrics.csv     # writes log/budgets.Best.metrics.png
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()


from puffin.errors import InputError
from puffin.plots.label_budgets import draw_label_budgets, markdown, read_runs, summarize
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer


def make_parser() -> OneLineParser:
    """Return the parser of all flags."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("tables", nargs="+", metavar="CSV", help="metrics CSVs; the PREFIX.yaml of each run must be in the same folder")
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="file for the plot, .png, .pdf or .svg (default: the name of the first table, with .png)",
    )
    add(
        "--all",
        type=integer(0),
        default=0,
        metavar="N",
        help="number of training events, needed if a run used all of them (default: 0, not needed)",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Print the table of results, and plot it."""
    args = make_parser().parse_args(argv)
    summaries = summarize(read_runs(args.tables, args.all))
    if not summaries:
        raise InputError(f"{', '.join(args.tables)}: no rows")
    sys.stdout.reconfigure(errors="replace")  # the table has a plus-minus sign
    print(markdown(summaries))
    picture = args.out or Path(args.tables[0]).with_suffix(".png")
    draw_label_budgets(picture, summaries)
    print(f"plot: {picture}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
