# PYTHON_ARGCOMPLETE_OK
"""Index PILArNet-M files: write the number of points of each event to X_points.npy next to X.h5.

    python data/index_pilarnet.py DIR_OR_FILES... -j 8

Only the clusters are read. Training builds missing indices itself; this script can use more processes. Existing indices
are kept unless --force is given. An index is complete or absent, so an interrupted run can simply be started again.
"""

import signal
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

from tqdm import tqdm

from puffin.data.commands import Parser, local_path
from puffin.data.parallel import ordered_map
from puffin.data.pilarnet_files import find_files, index_path, make_index
from puffin.errors import InputError, plural
from puffin.settings.types import integer


def parse_args(argv=None):
    """Parse the flags."""
    parser = Parser(description="Write an index X_points.npy next to each PILArNet-M file X.h5.")
    parser.add_argument("paths", nargs="+", type=local_path, help="files, or folders that are searched for .h5 files")
    parser.add_argument("-j", "--jobs", type=integer(1), default=1, help="number of processes")
    parser.add_argument(
        "--skip-bad", action="store_true", help="mark events with bad clusters as -1 instead of stopping"
    )
    parser.add_argument("--force", action="store_true", help="rebuild existing indices")
    return parser.parse_args(argv)


def main(argv=None):
    """Parse the flags and index the files."""
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        files = [path for path in find_files(args.paths) if args.force or not index_path(path).exists()]
        work = ordered_map(partial(make_index, skip_bad=args.skip_bad), files, min(args.jobs, max(len(files), 1)))
        events = bad = 0
        with closing(work):
            for path, counts in zip(
                files, tqdm(work, total=len(files), desc="index", unit="file", disable=None), strict=True
            ):
                if not index_path(path).exists():
                    raise InputError(f"{index_path(path)}: cannot be written. Check that the folder is writable.")
                events, bad = events + len(counts), bad + int((counts < 0).sum())
    except (InputError, OSError) as error:
        sys.exit(f"index_pilarnet.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit("index_pilarnet.py: interrupted; run it again to index the remaining files")
    print(f"{plural(len(files), 'file')} indexed: {plural(events, 'event')}, {bad} bad")


if __name__ == "__main__":
    main()
