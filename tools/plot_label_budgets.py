#!/usr/bin/env python3
"""F1 of each class against the number of labelled events, from metrics CSVs of train_segmentation.py.

python3 tools/plot_label_budgets.py log/budgets.Best.metrics.csv     # to log/budgets.Best.metrics.png
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import InputError
from puffin.plots.label_budgets import draw_label_budgets, markdown, read_runs, summarize


def main(argv=None) -> None:
    """Print the table, and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "tables", nargs="+", metavar="CSV", help="tables of runs, with the runs' PREFIX.yaml beside them"
    )
    parser.add_argument(
        "--out", type=Path, default=None, metavar="PNG", help="picture (None: beside the first table, under its name)"
    )
    parser.add_argument(
        "--all", type=int, default=0, metavar="N", help="events of the training set, for runs that had all of them"
    )
    args = parser.parse_args(argv)
    summaries = summarize(read_runs(args.tables, args.all))
    if not summaries:
        raise InputError(f"{', '.join(args.tables)}: no rows")
    print(markdown(summaries))
    picture = args.out or Path(args.tables[0]).with_suffix(".png")
    draw_label_budgets(picture, summaries)
    print(f"picture: {picture}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
