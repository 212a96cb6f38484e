# PYTHON_ARGCOMPLETE_OK
"""Repack PILArNet-M files for fast random reading: rows of variable length become contiguous arrays with offsets.

    python data/repack_pilarnet.py DATA --outdir PACKED -j 4     # DATA/train/X.h5 -> PACKED/train/X.h5, with its index
    python data/repack_pilarnet.py PACKED --verify               # compare every event with its checksum

Training reads both layouts. A packed file (layout: src/puffin/data/pilarnet_files.py) has the four columns that
training uses, and the clusters; it has half the size of the original, and the same events with the same numbers. With
--skip-bad a bad event becomes an event without points. A few hundred events are in memory at a time. A file is
complete or absent, and existing files are kept if they were made from the same source, so an interrupted run can be
continued.
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

import h5py
import numpy as np
from tqdm import tqdm

from puffin.data.commands import Parser, local_path
from puffin.data.hdf5_output import whole_hdf5
from puffin.data.parallel import ordered_map
from puffin.data.pilarnet_files import BadEvent, EventFile, checksum, find_files, index_path
from puffin.errors import InputError, plural
from puffin.files import whole_file
from puffin.settings.types import integer

BUFFER = 128  # events that are written together


def parse_args(argv=None):
    """Parse and check the flags; a bad flag ends the process with one line."""
    parser = Parser(description="Repack PILArNet-M files for fast reading.")
    parser.add_argument("source", type=local_path, help="a file, or a folder that is searched for .h5 files")
    parser.add_argument(
        "--outdir", type=local_path, help="folder for the packed files, with the same subfolders as the source"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare packed files with their checksums; writes nothing"
    )
    parser.add_argument(
        "--compress", action="store_true", help="compress with gzip: a third of the size, but slower to read"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="replace bad events by events without points instead of stopping"
    )
    parser.add_argument("-j", "--jobs", type=integer(1), default=1, help="number of processes, one file each")
    args = parser.parse_args(argv)
    if args.verify == (args.outdir is not None):
        parser.error("expected either --outdir or --verify")
    if args.verify and (args.compress or args.skip_bad):
        parser.error("--verify writes nothing; do not pass --compress or --skip-bad")
    return args


def repack(paths, compress, skip_bad):
    """Repack paths = (source, target) and write the index; returns the numbers of (events, bad events)."""
    source, target = paths
    with EventFile(source) as events:
        if events.packed:
            raise InputError(f"{source}: is already packed")
        total = sum((sizes.clip(0).sum(0) for sizes in events.sizes(skip_bad)), np.zeros(2, np.int64))
        with whole_hdf5(target) as file:
            counts, bad = _write(file, events, total, compress, skip_bad)
    with whole_file(index_path(target)) as temporary:
        np.save(temporary, counts)
    return len(counts), bad


def _write(file, events, total, compress, skip_bad):
    """Write the events to an open file; returns (number of points of each event, number of bad events).

    total: numbers of points and clusters of all events. These are upper limits: an event that is found to be bad leaves
    unused rows at the end."""
    widths, kinds = (4, events.width), (np.float32, np.int32)
    targets = []
    for name, rows, width, kind in zip(("points", "clusters"), total.tolist(), widths, kinds, strict=True):
        options = {"track_times": False}
        if compress and rows:
            options |= {"compression": "gzip", "compression_opts": 9, "shuffle": True}
            options |= {"chunks": (min(16384, rows), width)}
        targets.append(file.create_dataset(name, (rows, width), kind, **options))
    sizes, checksums, waiting, written, bad = [(0, 0)], [], [], np.zeros(2, np.int64), 0
    for row in range(len(events)):
        try:
            event = events.read(row)
        except BadEvent:
            if not skip_bad:
                raise
            event, bad = [np.zeros((0, width), kind) for width, kind in zip(widths, kinds, strict=True)], bad + 1
        waiting.append(event)
        sizes.append([len(table) for table in event])
        checksums.append(checksum(*event))
        if len(waiting) == BUFFER or row == len(events) - 1:
            for target, start, tables in zip(targets, written, zip(*waiting, strict=True), strict=True):
                block = np.concatenate(tables)
                target[start : start + len(block)] = block
            written, waiting = np.sum(sizes, 0), []
    ptr = np.cumsum(sizes, 0, dtype=np.int64)
    columns = {"point_ptr": ptr[:, 0], "cluster_ptr": ptr[:, 1], "checksum": np.array(checksums, np.uint32)}
    for name, column in columns.items():
        file.create_dataset(name, data=column, track_times=False)
    source = {"source": events.path.name, "source_bytes": events.path.stat().st_size}
    file.attrs.update({"packed": True, "version": events.version, **source})
    return np.diff(ptr[:, 0]), bad


def is_done(source, target):
    """Return whether the packed file exists; InputError if it was made from another source.

    Sources are compared by the number of events and the size; the date would change when files are copied."""
    if not (target.exists() and index_path(target).exists()):
        return False
    with EventFile(source) as events, EventFile(target) as packed, h5py.File(target) as file:
        size = source.stat().st_size
        packed_size = file.attrs.get("source_bytes", size)  # older files do not store it
        if not packed.packed or len(packed) != len(events) or packed_size != size:
            raise InputError(
                f"{target}: expected the packed copy of {source} ({len(events)} events, {size} bytes), got that of "
                f"another file ({len(packed)} events, {packed_size} bytes). Remove it, or choose another --outdir."
            )
    return True


def verify(path):
    """Compare every event of a packed file with its checksum; returns the number of events."""
    with EventFile(path) as events:
        if not events.packed:
            raise InputError(f"{path}: not a packed file, so it has no checksums")
        for row, expected in enumerate(events.checksums()):
            if checksum(*events.read(row)) != expected:
                raise InputError(f"{path}: event {row}: does not match its checksum. Copy or repack the file again.")
        return len(events)


def main(argv=None):
    """Parse the flags, and repack or verify the files."""
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        files = find_files([args.source])
        if args.verify:
            events = sum(_all(verify, files, args.jobs, "verify"))
            print(f"{plural(len(files), 'file')}, {plural(events, 'event')}: all match their checksums")
            return
        root = args.source if args.source.is_dir() else args.source.parent
        outdir = args.outdir.resolve()
        if root.resolve() in outdir.parents:  # packed files of an earlier run are no sources
            files = [path for path in files if outdir not in path.resolve().parents]
        pairs = [(path, args.outdir / path.relative_to(root)) for path in files]
        if any(source.resolve() == target.resolve() for source, target in pairs):
            raise InputError(f"--outdir {args.outdir} is the folder of the source. Choose another one.")
        todo = [pair for pair in pairs if not is_done(*pair)]
        done = _all(partial(repack, compress=args.compress, skip_bad=args.skip_bad), todo, args.jobs, "repack")
        events, bad = (sum(column) for column in zip((0, 0), *done, strict=True))
        print(
            f"{plural(len(done), 'file')} repacked ({len(pairs) - len(todo)} already existed): "
            f"{plural(events, 'event')}, {bad} bad"
        )
    except (InputError, OSError) as error:
        sys.exit(f"repack_pilarnet.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit("repack_pilarnet.py: interrupted; run it again to repack the remaining files")


def _all(function, tasks, jobs, name):
    """Return function(task) of all tasks, with a progress bar called `name`."""
    with closing(ordered_map(function, tasks, min(jobs, max(len(tasks), 1)))) as work:
        return list(tqdm(work, total=len(tasks), desc=name, unit="file", disable=None))


if __name__ == "__main__":
    main()
