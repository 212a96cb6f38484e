r"""Make jet data sets: Pythia 8 events, FastJet anti-kT jets, HDF5 files train.h5, valid.h5, test.h5.

    python data/make_jets.py --outdir data/sample_data/run12 --seed 12 -j 2 \
        --num-train 4000 --num-valid 1000 --num-test 2000

See --help for the physics. Pythia 8: arXiv:2203.11601. FastJet: arXiv:1111.6097.

Data sets of a file of N jets, zero-padded to M = --nobj-max constituents; four-momenta are (E, px, py, pz) in GeV:
    Nobj (N,) int32                constituents of the jet
    Pmu (N, M, 4) float32          visible stable particles by descending pT; E is the true energy, so that rounding to
                                   float32 loses the mass of light particles and E may fall below |p| by one part in 1e7
    pdgid (N, M) int32             their PDG codes, 0 = padding
    truth_Pmu (N, 4) float32       what the jet is matched to: top, W or Z before it decays, quark or gluon; 0 for qcd
    truth_Pmu_W, truth_Pmu_b       (N, 4) float32, a top's W before it decays and its b as the top decays; truth_Pmu_W is
                                   the W itself in process w; else 0
    is_signal (N,) int8            1 = top, w, z, quark; 0 = qcd, gluon
    jet_tag (N,) int8              class number: place of the jet's process in --process, from 0

Jets of a process are made in blocks of BLOCK, each with a Pythia seed of its own that follows from (seed, process, split,
block): the files are the same byte for byte for every -j, no two splits share events, and a longer data set holds the
jets of a shorter one. Which process stands in which row is shuffled by the seed. A file appears whole or not at all.
"""

import argparse
import os
import signal
import sys
import zlib
from collections import deque
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from importlib.metadata import version
from multiprocessing import parent_process
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from jet_processes import ECM, PROCESSES, Cuts, GenerationError, generate, import_generator

from puffin.data.jet_writer import CHUNK, Parser, jet_file, progress
from puffin.data.parallel import ordered_map

SPLITS = ("train", "valid", "test")
BLOCK = 100  # jets made with one Pythia seed
MAX_SEED = 900_000_000  # of Pythia
OUTSIDE = ("outdir", "jobs")  # arguments that do not change a file


def parse_args(argv=None):
    parser = Parser(
        description="Make jet data sets with Pythia 8 and FastJet.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--outdir",
        type=Path,
        required=True,
        help="folder of train.h5, valid.h5, test.h5; made if missing, files of these names are replaced",
    )
    for split, number in zip(SPLITS, (4000, 1000, 2000), strict=False):
        files.add_argument(
            f"--num-{split}", type=int, default=number, help=f"jets in {split}.h5; 0: leave that file alone"
        )
    files.add_argument(
        "--nobj-max", type=int, default=200, help="constituents kept of a jet, the hardest; width of the file"
    )
    physics = parser.add_argument_group("physics")
    physics.add_argument(
        "--process",
        nargs="+",
        choices=PROCESSES,
        default=["top", "qcd"],
        help="; ".join(f"{name}: {p.description}" for name, p in PROCESSES.items()),
    )
    physics.add_argument(
        "--signal-fraction",
        type=float,
        help="share of signal where both signal and background are made; without it, as many jets of each process",
    )
    physics.add_argument("--pt-min", type=float, default=550.0, help="GeV")
    physics.add_argument("--pt-max", type=float, default=650.0, help="GeV")
    physics.add_argument("--eta-max", type=float, default=2.0, help="of the jet axis, in absolute value")
    physics.add_argument("--radius", type=float, default=0.8, help="of the anti-kT jets, and of the match to the truth")
    physics.add_argument("--mpi", action=argparse.BooleanOptionalAction, default=True, help="multi-parton interactions")
    run = parser.add_argument_group("run")
    run.add_argument("--seed", type=int, default=0, help="same seed, same files")
    run.add_argument("-j", "--jobs", type=int, default=1, help="processes; does not change the files")
    args = parser.parse_args(argv)
    complaint = complain(args)
    if complaint:
        parser.error(complaint)
    return args


def complain(args):
    """What is wrong with the arguments, in one line, or None."""
    sizes = [getattr(args, f"num_{split}") for split in SPLITS]
    rules = (
        (
            min(sizes) >= 0 and max(sizes) > 0,
            f"--num-train, --num-valid, --num-test must be 0 or more and not all 0, got {sizes}",
        ),
        (args.nobj_max >= 1, f"--nobj-max must be at least 1, got {args.nobj_max}"),
        (len(set(args.process)) == len(args.process), f"--process names a process twice: {' '.join(args.process)}"),
        (
            args.signal_fraction is None or 0 <= args.signal_fraction <= 1,
            f"--signal-fraction must lie between 0 and 1, got {args.signal_fraction}",
        ),
        (
            20 <= args.pt_min < args.pt_max <= ECM / 2,
            f"cuts must satisfy 20 <= --pt-min < --pt-max <= {ECM / 2:g} GeV, got {args.pt_min:g} and {args.pt_max:g}",
        ),
        (0 < args.eta_max < np.inf, f"--eta-max must be positive, got {args.eta_max}"),
        (0 < args.radius <= 1.5, f"--radius must lie between 0 and 1.5, got {args.radius}"),
        (args.seed >= 0, f"--seed must be 0 or more, got {args.seed}"),
        (args.jobs >= 1, f"--jobs must be at least 1, got {args.jobs}"),
        (not args.outdir.exists() or args.outdir.is_dir(), f"--outdir {args.outdir} is a file"),
    )
    return next((message for holds, message in rules if not holds), None)


def command_of(args):
    """The command that makes these contents: every argument spelled out, but for --outdir and -j, which do not matter."""
    words = ["python", "data/make_jets.py"]
    for name, value in vars(args).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None and name not in OUTSIDE:
            values = value if isinstance(value, list) else [value]
            words += [f"--{flag}", *(f"{v:.12g}" if isinstance(v, float) else str(v) for v in values)]
    return " ".join(words)


def counts_of(processes, number, signal_fraction):
    """Jets of each process, {name: count}: signal and background by the fraction, shared evenly within each; fraction
    None: shared evenly by all."""
    if signal_fraction is None:
        return {p: number // len(processes) + (i < number % len(processes)) for i, p in enumerate(processes)}
    kinds = {kind: [p for p in processes if PROCESSES[p].is_signal == kind] for kind in (True, False)}
    signal = int(number * signal_fraction + 0.5) if all(kinds.values()) else number * bool(kinds[True])
    totals = {True: signal, False: number - signal}
    return {
        p: totals[kind] // len(names) + (i < totals[kind] % len(names))
        for kind, names in kinds.items()
        for i, p in enumerate(names)
    }


def shuffled_rows(counts, seed, split):
    """Name of the process in each row, (N,) array of str, shuffled by the seed."""
    rows = np.repeat(list(counts), list(counts.values()))
    return np.random.default_rng([seed, SPLITS.index(split)]).permutation(rows)


def pythia_seed(seed, name, split, block):
    """Seed in [1, 900000000] of a block; different for every (split, block) of a process and a seed."""
    start = np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1, np.uint64)[0]
    return (int(start) + block * len(SPLITS) + SPLITS.index(split)) % MAX_SEED + 1


def blocks_of(rows):
    """Blocks (name, number, jets in it) in the order in which the rows need them, so that few wait in memory."""
    blocks = []
    for name in np.unique(rows):
        where = np.flatnonzero(rows == name)
        blocks += [(where[i], str(name), i // BLOCK, len(where[i : i + BLOCK])) for i in range(0, len(where), BLOCK)]
    return [block[1:] for block in sorted(blocks)]


def pack(jets, names, processes, nobj_max):
    """Rows of the file from Jets and the names of their processes: {key: array (N, ...)}, zero beyond Nobj.

    processes: all names, in the order of their class numbers."""
    momenta = np.zeros((len(jets), nobj_max, 4), np.float32)
    pdgid = np.zeros((len(jets), nobj_max), np.int32)
    for row, jet in enumerate(jets):
        momenta[row, : len(jet.pdgid)] = jet.fourmomenta
        pdgid[row, : len(jet.pdgid)] = jet.pdgid
    truth = np.array([jet.truth for jet in jets], np.float32).reshape(-1, 3, 4)
    return {
        "Nobj": np.array([len(jet.pdgid) for jet in jets], np.int32),
        "Pmu": momenta,
        "pdgid": pdgid,
        "truth_Pmu": truth[:, 0],
        "truth_Pmu_W": truth[:, 1],
        "truth_Pmu_b": truth[:, 2],
        "is_signal": np.array([PROCESSES[name].is_signal for name in names], np.int8),
        "jet_tag": np.array([processes.index(name) for name in names], np.int8),
    }


def make_block(task):
    """generate(*task); in a process of its own, FastJet's banner is kept off the progress bar."""
    if parent_process() is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    return generate(*task)


def rows_in_order(rows, blocks, jets_of_blocks, bar):
    """Chunks of (jets, names) for successive rows, from the Jets of the blocks as they come."""
    ready = {str(name): deque() for name in np.unique(rows)}
    jets, start = [], 0
    for (name, _, _), made in zip(blocks, jets_of_blocks, strict=False):
        ready[name].extend(made)
        bar.update(len(made))
        while start + len(jets) < len(rows) and ready[rows[start + len(jets)]]:
            jets.append(ready[rows[start + len(jets)]].popleft())
            if len(jets) == CHUNK or start + len(jets) == len(rows):
                yield jets, rows[start : start + len(jets)]
                jets, start = [], start + len(jets)


def make_split(split, args):
    """Make and write one file."""
    number = getattr(args, f"num_{split}")
    cuts = Cuts(args.pt_min, args.pt_max, args.eta_max, args.radius)
    counts = counts_of(args.process, number, args.signal_fraction)
    rows = shuffled_rows(counts, args.seed, split)
    blocks = blocks_of(rows)
    tasks = [
        (name, cuts, args.mpi, args.nobj_max, pythia_seed(args.seed, name, split, block), count)
        for name, block, count in blocks
    ]
    attributes = {
        "generator": "Pythia 8, FastJet",
        "version": f"pythia8mc {version('pythia8mc')}, fastjet {version('fastjet')}",
        "command": command_of(args),
        "seed": args.seed,
        "split": split,
        "cuts": str(cuts),
        "mpi": args.mpi,
        "collision": f"pp, {ECM:g} GeV",
        "units": "GeV; four-momenta are (E, px, py, pz)",
        "processes": [f"{name} ({counts[name]} jets): {PROCESSES[name].description}" for name in counts],
    }
    path = args.outdir / f"{split}.h5"
    with (
        progress(number, path.name) as bar,
        closing(ordered_map(make_block, tasks, args.jobs)) as made,
        jet_file(path, attributes, level=9) as file,
    ):
        for jets, names in rows_in_order(rows, blocks, made, bar):
            file.append(pack(jets, names, args.process, args.nobj_max))
    content = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{path}: {content} jets, {path.stat().st_size / 1e6:.2f} MB")


def main(argv=None):
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        import_generator()
        args.outdir.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            if getattr(args, f"num_{split}"):
                make_split(split, args)
    except (GenerationError, BrokenProcessPool, OSError) as error:
        sys.exit(f"make_jets.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit("make_jets.py: interrupted; files that were not complete are not there")


if __name__ == "__main__":
    main()
