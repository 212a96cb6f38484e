r"""Make LArTPC point clouds in the layout of PILArNet-M: a stand-in for the public set, good enough to develop on.

    python data/make_lartpc.py --outdir data/big --num-train 10000 --num-val 1000 -j 8

What the simulation holds and leaves out, and how it compares with PILArNet-M: docs/LARTPC.md. Physics: data/lartpc.

One file a split, OUTDIR/SPLIT/lartpc_N_FORMAT.h5, and its index lartpc_N_FORMAT_points.npy. Rows are flattened arrays of
variable length, one an event:
    point (N, 8) float32         x, y, z [voxel of 3 mm, 0..767], value and energy [both MeV], time [ns], electrons, dx [cm]
    cluster (M, 5 or 6) int32    points, fragment, group, interaction, semantic class (0 shower, 1 track, 2 Michel, 3 delta,
                                 4 low-energy deposit); v2 and v3: PID (0 photon, 1 e, 2 mu, 3 pi, 4 p) last
    cluster_extra (M, 5 or 6)    v2: mass [MeV], momentum [GeV], vertex [mm from the centre] of the group's particle;
                                 v3: a sixth column, -1
Points are ordered by cluster. Cluster 0 is the low-energy deposits of the event, its ids are -1.

Events are made in blocks of BLOCK, each with a random stream of its own that follows from (seed, split, block): the files
are the same byte for byte for every -j. A file appears whole or not at all. A larger file begins with the events of a smaller
one of the same seed: a split that holds files that this run does not replace is refused.
"""

import argparse
import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from lartpc.events import Recipe, simulate

from puffin.data.parallel import ordered_map
from puffin.data.pilarnet_files import hdf5_files
from puffin.files import whole_file

SPLITS = ("train", "val", "test")
FORMATS = ("v1", "v2", "v3")
BLOCK = 32  # events stepped together


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def parse_args(argv=None):
    parser = Parser(
        description="Make LArTPC point clouds in the layout of PILArNet-M.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--outdir", type=Path, required=True, help="folder of train/, val/, test/; made if missing")
    for split, number in zip(SPLITS, (1000, 200, 0), strict=False):
        parser.add_argument(f"--num-{split}", type=int, default=number, help=f"events in {split}/; 0: no file")
    parser.add_argument("--format", choices=FORMATS, default="v2", help="layout of PILArNet-M; v1 has no PID")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same files")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes; does not change the files")
    args = parser.parse_args(argv)
    sizes = [getattr(args, f"num_{split}") for split in SPLITS]
    if min(sizes) < 0 or max(sizes) == 0:
        parser.error(f"--num-train, --num-val, --num-test must be 0 or more and not all 0, got {sizes}")
    if args.seed < 0 or args.jobs < 1:
        parser.error(f"--seed must be 0 or more and --jobs at least 1, got {args.seed} and {args.jobs}")
    if args.outdir.exists() and not args.outdir.is_dir():
        parser.error(f"--outdir {args.outdir} is a file")
    for split in SPLITS:
        path = file_of(split, args)
        others = set(hdf5_files(path.parent, "*")) - {path}
        if getattr(args, f"num_{split}") and others:
            parser.error(
                f"{min(others)} would stay beside {path.name}, and may hold the same events; "
                f"remove it, or choose another --outdir"
            )
    return args


def file_of(split, args):
    """Where the events of a split go."""
    return args.outdir / split / f"lartpc_{getattr(args, f'num_{split}')}_{args.format}.h5"


def make_block(task):
    """Events of task = (seed, number of the split, number of the block, events wanted), a list of Event.

    Always a whole block is made, so that a longer file begins with the events of a shorter one."""
    seed, split, block, wanted = task
    return simulate(BLOCK, Recipe(), np.random.default_rng([seed, split, block]))[:wanted]


def rows_of(event, version):
    """Flattened rows of an Event, {data set: 1-d array}."""
    rows = {"point": event.points, "cluster": event.clusters[:, :5] if version == "v1" else event.clusters}
    if version == "v2":
        rows["cluster_extra"] = event.extra
    elif version == "v3":
        rows["cluster_extra"] = np.column_stack([event.extra, np.full(len(event.extra), -1, np.float32)])
    return {name: np.ascontiguousarray(values).reshape(-1) for name, values in rows.items()}


def write_events(path, events, number, version, attributes, progress=lambda: None):
    """Write `number` events one after another, and the index beside; returns the points of each, (number,) int64."""
    names = ("point", "cluster") + (("cluster_extra",) if version != "v1" else ())
    counts = np.zeros(number, np.int64)
    with whole_file(path) as temporary:
        with h5py.File(temporary, "w") as file:
            file.attrs.update(attributes)
            for name in names:
                kind = np.int32 if name == "cluster" else np.float32
                file.create_dataset(
                    name, (number,), h5py.vlen_dtype(kind), chunks=(min(number, 1024),), track_times=False
                )
            for k, event in enumerate(events):
                for name, row in rows_of(event, version).items():
                    file[name][k] = row
                counts[k] = len(event.points)
                progress()
    with whole_file(path.with_name(f"{path.stem}_points.npy")) as temporary:
        np.save(temporary, counts)
    return counts


def make_split(split, args):
    """Make and write one file."""
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
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for split in SPLITS:
            if getattr(args, f"num_{split}"):
                make_split(split, args)
    except (BrokenProcessPool, OSError) as error:
        sys.exit(f"make_lartpc.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit("make_lartpc.py: interrupted; files that were not complete are not there")


if __name__ == "__main__":
    main()
