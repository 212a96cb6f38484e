# PYTHON_ARGCOMPLETE_OK
r"""Simulate LArTPC point clouds in the layout of PILArNet-M, realistic enough for development.

    python data/make_lartpc.py --outdir data/big --num-train 10000 --num-val 1000 -j 8

docs/simulate_lartpc.md describes what is simulated, what is not, and how the events compare with PILArNet-M. The code
of the physics is in data/lartpc.

Each split has one file, OUTDIR/SPLIT/lartpc_N_FORMAT.h5, and its index, lartpc_N_FORMAT_points.npy. A data set has one
row per event, a flattened array of variable length:

    point (N, 8) float32         x, y, z [voxel of 3 mm, 0..767], value and energy [both MeV], time [ns], electrons,
                                 dx [cm]
    cluster (M, 5 or 6) int32    number of points, fragment, group, interaction, semantic class (0 shower, 1 track,
                                 2 Michel, 3 delta, 4 low-energy deposit); in v2 and v3 also PID (0 photon, 1 e, 2 mu,
                                 3 pi, 4 p)
    cluster_extra (M, 5 or 6)    v2: mass [MeV], momentum [GeV], vertex [mm from the centre] of the group's particle;
                                 v3: a sixth column, -1

Points are ordered by cluster. Cluster 0 holds the low-energy deposits of the event; its ids are -1.

Events are generated in blocks of BLOCK. The random numbers of a block are a function of (seed, split, block), so the
files are identical byte for byte for every -j. A file is complete or absent. A larger file begins with the events of a
smaller one with the same seed, so the script refuses a split folder with other files.
"""

import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import h5py
import numpy as np
from lartpc.events import Recipe, simulate
from tqdm import tqdm

from puffin.data.commands import Parser
from puffin.data.hdf5_output import whole_hdf5
from puffin.data.parallel import ordered_map
from puffin.data.splits import hdf5_files
from puffin.files import whole_file
from puffin.settings.types import integer

SPLITS = ("train", "val", "test")
FORMATS = ("v1", "v2", "v3")
BLOCK = 32  # events that are simulated together


def parse_args(argv=None):
    """Parse and check the flags; a bad flag ends the process with one line."""
    parser = Parser(description="Simulate LArTPC point clouds in the layout of PILArNet-M.")
    parser.add_argument(
        "--outdir", type=Path, required=True, help="folder for train/, val/ and test/; created if missing"
    )
    for split, number in zip(SPLITS, (1000, 200, 0), strict=True):
        parser.add_argument(
            f"--num-{split}", type=integer(0), default=number, help=f"number of events in {split}/ (0: no file)"
        )
    parser.add_argument("--format", choices=FORMATS, default="v2", help="version of PILArNet-M; v1 has no PID")
    parser.add_argument("--seed", type=integer(0), default=0, help="random seed; the same seed gives identical files")
    parser.add_argument(
        "-j", "--jobs", type=integer(1), default=1, help="number of processes; the files do not depend on it"
    )
    args = parser.parse_args(argv)
    if not any(getattr(args, f"num_{split}") for split in SPLITS):
        parser.error("--num-train, --num-val and --num-test are all 0; at least one must be positive")
    if args.outdir.exists() and not args.outdir.is_dir():
        parser.error(f"--outdir {args.outdir} is a file; expected a folder")
    for split in SPLITS:
        path = file_of(split, args)
        others = set(hdf5_files(path.parent, "*")) - {path}
        if getattr(args, f"num_{split}") and others:
            parser.error(
                f"{min(others)} would stay in the folder of {path.name} and may have the same events; "
                f"remove it, or choose another --outdir"
            )
    return args


def file_of(split, args):
    """Return the path of the file of a split."""
    return args.outdir / split / f"lartpc_{getattr(args, f'num_{split}')}_{args.format}.h5"


def make_block(task):
    """Simulate the first events of a block; task = (seed, number of the split, number of the block, number of events).

    Returns a list of Event. The whole block is simulated, so that a larger file begins with the events of a smaller
    one."""
    seed, split, block, wanted = task
    return simulate(BLOCK, Recipe(), np.random.default_rng([seed, split, block]))[:wanted]


def rows_of(event, version):
    """Return the flattened rows of an Event, {data set: 1-d array}."""
    rows = {"point": event.points, "cluster": event.clusters[:, :5] if version == "v1" else event.clusters}
    if version == "v2":
        rows["cluster_extra"] = event.extra
    elif version == "v3":
        rows["cluster_extra"] = np.column_stack([event.extra, np.full(len(event.extra), -1, np.float32)])
    return {name: np.ascontiguousarray(values).reshape(-1) for name, values in rows.items()}


def write_events(path, events, number, version, attributes, progress=lambda: None):
    """Write `number` events and the index of the file; returns the number of points of each event, (number,) int64."""
    names = ("point", "cluster") + (("cluster_extra",) if version != "v1" else ())
    counts = np.zeros(number, np.int64)
    with whole_hdf5(path) as file:
        file.attrs.update(attributes)
        for name in names:
            kind = np.int32 if name == "cluster" else np.float32
            file.create_dataset(name, (number,), h5py.vlen_dtype(kind), chunks=(min(number, 1024),), track_times=False)
        for k, event in enumerate(events):
            for name, row in rows_of(event, version).items():
                file[name][k] = row
            counts[k] = len(event.points)
            progress()
    with whole_file(path.with_name(f"{path.stem}_points.npy")) as temporary:
        np.save(temporary, counts)
    return counts


def make_split(split, args):
    """Simulate and write the file of a split."""
    number = getattr(args, f"num_{split}")
    path = file_of(split, args)
    tasks = [
        (args.seed, SPLITS.index(split), start // BLOCK, min(BLOCK, number - start))
        for start in range(0, number, BLOCK)
    ]
    attributes = {
        "generator": "data/make_lartpc.py of Puffin: a stand-in for PILArNet-M",
        "version": args.format,
        "command": f"python data/make_lartpc.py --num-{split} {number} --format {args.format} --seed {args.seed}",
    }
    interval = 0.5 if sys.stderr.isatty() else 60
    with (
        tqdm(total=number, desc=f"{split}/{path.name}", unit="event", mininterval=interval) as progress,
        closing(ordered_map(make_block, tasks, args.jobs)) as blocks,
    ):
        events = (event for block in blocks for event in block)
        counts = write_events(path, events, number, args.format, attributes, progress.update)
    print(f"{path}: {number} events, {counts.mean():.0f} points each, {path.stat().st_size / 1e6:.1f} MB")


def main(argv=None):
    """Parse the flags and simulate the events of all splits."""
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for split in SPLITS:
            if getattr(args, f"num_{split}"):
                make_split(split, args)
    except (BrokenProcessPool, OSError) as error:
        sys.exit(f"make_lartpc.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit("make_lartpc.py: interrupted; incomplete files were removed")


if __name__ == "__main__":
    main()
