"""Index PILArNet-M files: X_points.npy beside X.h5, the points of each event.

    python data/index_pilarnet.py DIR_OR_FILES... -j 8

Only the clusters are read. Training makes missing indices itself; this does it with more processes. Files that have an
index keep it unless --force is given. An index appears whole or not at all, so an interrupted run can be started again.
"""

import argparse
import signal
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.data.parallel import ordered_map
from puffin.data.pilarnet_files import find_files, index_path, make_index
from puffin.errors import InputError


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Write X_points.npy beside each X.h5 of PILArNet-M.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, help="files, or folders that are searched for .h5 files")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes")
    parser.add_argument(
        "--skip-bad", action="store_true", help="mark events with bad clusters by -1 instead of stopping"
    )
    parser.add_argument("--force", action="store_true", help="make indices that are there again")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {args.jobs}")
    return args


def main(argv=None):
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        files = [path for path in find_files(args.paths) if args.force or not index_path(path).exists()]
        work = ordered_map(partial(make_index, skip_bad=args.skip_bad), files, min(args.jobs, max(len(files), 1)))
        events = bad = 0
        with closing(work):
            for path, counts in zip(files, tqdm(work, total=len(files), desc="index", unit="file"), strict=False):
                if not index_path(path).exists():
                    raise InputError(f"{index_path(path)}: could not be written; is the folder read-only?")
                events, bad = events + len(counts), bad + int((counts < 0).sum())
    except (InputError, OSError) as error:
        sys.exit(f"index_pilarnet.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit("index_pilarnet.py: interrupted; run it again to index the remaining files")
    print(f"{len(files)} files indexed: {events} events, {bad} bad")


if __name__ == "__main__":
    main()
