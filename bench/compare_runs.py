"""Compare the macro F1 of two segmentations of the same test events, by a paired bootstrap over the events.

    python3 bench/compare_runs.py budgets-baseline-25 budgets-fft-25
    python3 bench/compare_runs.py unet-s1 tokens-s1

A and B are prefixes of runs, or prefixes without their ending -sSEED: then the seeds that both have are averaged. The
benchmark reads predict/PREFIX.best.test.h5 of each run. It prints both values, the difference B - A, and its 95%
interval from 2000 resamples of the test events. The interval covers the choice of the test events, not that of the
training events.
"""

import argparse
import glob
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()


import numpy as np

from bench.studies import paths_of
from puffin.errors import InputError, plural
from puffin.metrics.segmentation import Comparison, compare_f1
from puffin.runs.entry import run_script
from puffin.settings.parser import OneLineParser
from puffin.tasks.point_predictions import PointPredictions, read_confusions


def predictions_of(workdir: str, prefix: str) -> Path:
    """Return the file with the predictions of a run for the test events, with the weights of the best epoch."""
    return PointPredictions.path(paths_of(workdir, prefix).predictions("best", "test"))


def pairs_of(workdir: str, first: str, second: str) -> list[tuple[Path, Path]]:
    """Return the files of two runs, or those of each seed that two groups of runs share; InputError if there are
    none."""
    whole = predictions_of(workdir, first), predictions_of(workdir, second)
    if all(path.is_file() for path in whole):
        return [whole]
    pairs = []
    for path in sorted(whole[0].parent.glob(f"{glob.escape(first)}-s*.best.test.h5")):
        seed = path.name.removeprefix(f"{first}-s").removesuffix(".best.test.h5")
        partner = predictions_of(workdir, f"{second}-s{seed}")
        if seed.isdecimal() and partner.is_file():
            pairs.append((path, partner))
    if not pairs:
        missing = next(path for path in whole if not path.is_file())
        raise InputError(f"{missing}: no such file, and {first} and {second} have no predictions -sSEED in common")
    return pairs


def compare(pairs: Iterable[tuple[Path, Path]]) -> tuple[Comparison, int]:
    """Compare two runs, or two runs for each of several seeds; return the comparison and the number of test events.

    InputError if the files hold different events, or different points or classes of these."""
    reference, stacks = None, ([], [])
    for pair in pairs:
        for path, stack in zip(pair, stacks, strict=True):
            places, confusions = read_confusions(path)
            points = confusions.sum(2)
            reference = reference or (path, places, points)
            if places != reference[1] or not np.array_equal(points, reference[2]):
                what = "test events" if places != reference[1] else "points or true classes"
                raise InputError(
                    f"{path}: has other {what} than {reference[0]}; compare runs with the same test events and cuts"
                )
            stack.append(confusions)
    assert reference is not None
    if not reference[1]:
        raise InputError(f"{reference[0]}: has no events")
    return compare_f1(*map(np.stack, stacks)), len(reference[1])


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the flags."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", metavar="A", help="prefix of a run, with or without its ending -sSEED")
    parser.add_argument("second", metavar="B", help="the same of the run to compare with it")
    parser.add_argument("--workdir", default="./", metavar="DIR", help="folder of predict/ (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare two runs, or the runs of all common seeds, and print the result."""
    args = parse_arguments(arguments)
    pairs = pairs_of(args.workdir, args.first, args.second)
    result, events = compare(pairs)
    print(f"macro F1 of {plural(events, 'test event')}, {plural(len(pairs), 'seed')}")
    print(f"  {args.first}: {result.first:.3f}")
    print(f"  {args.second}: {result.second:.3f}")
    print(f"  difference: {result.difference:+.3f}, 95% interval {result.low:+.3f} to {result.high:+.3f}")


if __name__ == "__main__":
    run_script(main, sys.argv[1:], hint="")
