# PYTHON_ARGCOMPLETE_OK
r"""Generate jet data sets with Pythia 8 and FastJet: HDF5 files train.h5, valid.h5, test.h5.

    python data/make_jets.py --outdir data/sample_data/run12 --seed 12 -j 2 \
        --num-train 4000 --num-valid 1000 --num-test 2000

See --help for the physics. Pythia 8: arXiv:2203.11601. FastJet: arXiv:1111.6097.

Data sets of a file of N jets, zero-padded to M = --nobj-max constituents; four-momenta are (E, px, py, pz) in GeV:
    Nobj (N,) int32                number of constituents
    Pmu (N, M, 4) float32          visible stable particles by descending pT; E is the true energy, and rounding to
                                   float32 can make it smaller than |p| by one part in 1e7 for light particles
    pdgid (N, M) int32             their PDG codes, 0 = padding
    truth_Pmu (N, 4) float32       four-momentum of the particle that initiated the jet: top, W, Z or H before it
                                   decays, quark or gluon; 0 for qcd
    truth_Pmu_W, truth_Pmu_b       (N, 4) float32, the W of a top before it decays, and the b quark of the top; in
    process
                                   w truth_Pmu_W is the W itself; else 0
    is_signal (N,) int8            0 = qcd, gluon; 1 = all others
    jet_tag (N,) int8              class number: position of the jet's process in --process, from 0

With --features also (N, M) float32, as in JetClass: charge; isChargedHadron, isElectron, isMuon, isNeutralHadron,
isPhoton; d0val, d0err, dzval, dzerr in mm (jet_features.py).

Jets of a process are generated in blocks. The Pythia seed of a block is a function of (seed, process, split, block), so
the files are identical byte for byte for every -j, no two splits share events, and a larger data set contains the jets
of a smaller one. The seed shuffles the processes. A file is complete or absent. Finished blocks are stored beside it
until then, so the same command continues after any interruption; memory does not grow with the number of jets.
"""

import argparse
import hashlib
import os
import shutil
import signal
import sys
import zlib
from collections import deque
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from importlib.metadata import version
from multiprocessing import parent_process
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import numpy as np
from jet_generator import ECM, PT_BINS, Cuts, GenerationError, Jet, Recipe, generate, import_generator
from jet_processes import JETCLASS, PROCESSES, Truth

from puffin.data.commands import Parser, progress
from puffin.data.jet_writer import CHUNK, jet_file
from puffin.data.parallel import ordered_map
from puffin.files import whole_file
from puffin.settings.types import integer, number

SPLITS = ("train", "valid", "test")
BLOCK, FAST_BLOCK = 100, 1000  # jets per Pythia seed; Pythia takes a quarter of a second to start
FAST_LEVEL, LEVEL = 4, 9  # compression of the files
MAX_SEED = 900_000_000  # of Pythia
UNRECORDED = ("outdir", "jobs")  # arguments that do not change a file


def make_parser():
    """Make the parser of the flags."""
    parser = Parser(description="Generate jet data sets with Pythia 8 and FastJet.")
    files = parser.add_argument_group("files")
    files.add_argument(
        "--outdir",
        type=Path,
        required=True,
        help="folder for train.h5, valid.h5 and test.h5; created if missing, existing files of these names are "
        "overwritten",
    )
    for split, num_jets in zip(SPLITS, (4000, 1000, 2000), strict=True):
        files.add_argument(
            f"--num-{split}", type=integer(0), default=num_jets, help=f"number of jets in {split}.h5 (0: no such file)"
        )
    files.add_argument(
        "--nobj-max", type=integer(1), default=200, help="maximum number of constituents per jet, hardest first"
    )
    physics = parser.add_argument_group("physics")
    physics.add_argument(
        "--process",
        nargs="+",
        choices=[*PROCESSES, "jetclass"],
        default=["top", "qcd"],
        help="; ".join(f"{name}: {p.description}" for name, p in PROCESSES.items())
        + f"; jetclass: the ten classes of JetClass, {' '.join(JETCLASS)}",
    )
    physics.add_argument(
        "--signal-fraction",
        type=number(minimum=0, maximum=1),
        help="fraction of signal jets if there are signal and background processes, 0 to 1 (default: the same number "
        "of jets from each process)",
    )
    physics.add_argument(
        "--pt-min", type=number(minimum=20), default=550.0, help="minimum pT of the jet [GeV], at least 20"
    )
    physics.add_argument(
        "--pt-max",
        type=number(maximum=ECM / 2),
        default=650.0,
        help=f"maximum pT of the jet [GeV], at most {ECM / 2:g}",
    )
    physics.add_argument("--eta-max", type=number(above=0), default=2.0, help="maximum |eta| of the jet axis")
    physics.add_argument(
        "--radius",
        type=number(above=0, maximum=1.5),
        default=0.8,
        help="radius of the anti-kT jets, at most 1.5, and maximum distance of a jet from the particle that initiated "
        "it",
    )
    physics.add_argument(
        "--mpi", action=argparse.BooleanOptionalAction, default=True, help="simulate multi-parton interactions"
    )
    # without a value unless they are given, so that they do not enter the commands stored in earlier files
    physics.add_argument(
        "--flat-pt",
        action="store_true",
        default=None,
        help=f"make as many jets in each of {PT_BINS} bins of pT between --pt-min and --pt-max; without it the "
        "spectrum falls steeply, differently for each process",
    )
    physics.add_argument(
        "--contained",
        action="store_true",
        default=None,
        help="keep a jet of a resonance only if all visible quarks, gluons and leptons that it decays to are within "
        "--radius of the jet axis, as in JetClass",
    )
    physics.add_argument(
        "--features",
        action="store_true",
        default=None,
        help="also write charge, kind and smeared impact parameters of the particles, as in JetClass",
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--fast",
        action="store_true",
        default=None,
        help="drop events early that will not give a jet: four times as fast and other jets of the same kind; fewer "
        "than 1%% of the jets are lost (docs/generate_jets.md). Use it for large data sets",
    )
    run.add_argument("--seed", type=integer(0), default=0, help="random seed; the same seed gives identical files")
    run.add_argument(
        "-j", "--jobs", type=integer(1), default=1, help="number of processes; the files do not depend on it"
    )
    return parser


def parse_args(argv=None):
    """Parse and check the flags; a bad flag ends the process with one line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    args.process = [name for given in args.process for name in (JETCLASS if given == "jetclass" else [given])]
    problem = problem_of(args)
    if problem:
        parser.error(problem)
    return args


def problem_of(args):
    """Describe in one line which arguments do not fit together, or return None."""
    if not any(getattr(args, f"num_{split}") for split in SPLITS):
        return "--num-train, --num-valid and --num-test are all 0; at least one must be positive"
    if len(set(args.process)) < len(args.process):
        return f"--process names a process twice: {' '.join(args.process)}"
    signal = {PROCESSES[name].is_signal for name in args.process}
    if args.signal_fraction is not None and len(signal) == 1:
        kind, other = ("signal", "background") if signal == {True} else ("background", "signal")
        return (
            f"--signal-fraction {args.signal_fraction:g}: --process {' '.join(args.process)} are all {kind}; "
            f"leave the flag out, or add a {other} process"
        )
    if args.pt_min >= args.pt_max:
        return f"--pt-min {args.pt_min:g} must be less than --pt-max {args.pt_max:g}"
    if args.outdir.exists() and not args.outdir.is_dir():
        return f"--outdir {args.outdir} is a file; expected a folder"
    return None


def command_of(args):
    """Return the command that generates these files: all arguments except --outdir and -j, which do not matter."""
    words = ["python", "data/make_jets.py"]
    for name, value in vars(args).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None and name not in UNRECORDED:
            values = value if isinstance(value, list) else [value]
            words += [f"--{flag}", *(f"{v:.12g}" if isinstance(v, float) else str(v) for v in values)]
    return " ".join(words)


def counts_of(processes, num_jets, signal_fraction):
    """Return the number of jets of each process, {name: count}; num_jets in total.

    signal_fraction: fraction of jets from signal processes, each with the same number of jets, and likewise for the
    background; None: the same number of jets from all processes."""
    if signal_fraction is None:
        return {p: num_jets // len(processes) + (i < num_jets % len(processes)) for i, p in enumerate(processes)}
    kinds = {kind: [p for p in processes if PROCESSES[p].is_signal == kind] for kind in (True, False)}
    signal = int(num_jets * signal_fraction + 0.5) if all(kinds.values()) else num_jets * bool(kinds[True])
    totals = {True: signal, False: num_jets - signal}
    return {
        p: totals[kind] // len(names) + (i < totals[kind] % len(names))
        for kind, names in kinds.items()
        for i, p in enumerate(names)
    }


def shuffled_rows(counts, seed, split):
    """Return the process of each row, (N,) array of str, shuffled by the seed."""
    rows = np.repeat(list(counts), list(counts.values()))
    return np.random.default_rng([seed, SPLITS.index(split)]).permutation(rows)


def pythia_seed(seed, name, split, block):
    """Return the Pythia seed of a block, in [1, 900000000]; the blocks of a process have different seeds."""
    start = np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1, np.uint64)[0]
    return (int(start) + block * len(SPLITS) + SPLITS.index(split)) % MAX_SEED + 1


def blocks_of(rows, size):
    """Return blocks (name, number, count) of at most `size` jets in the order in which the rows need them.

    So few blocks wait in memory."""
    blocks = []
    for name in np.unique(rows):
        of_process = np.flatnonzero(rows == name)
        for start in range(0, len(of_process), size):
            count = len(of_process[start : start + size])
            blocks.append((of_process[start], str(name), start // size, count))
    return [block[1:] for block in sorted(blocks)]


def pack(jets, names, processes, nobj_max):
    """Make the rows of the file from jets and the names of their processes: {key: (N, ...)}, zero-padded.

    processes: all names, in the order of their class numbers."""
    momenta = np.zeros((len(jets), nobj_max, 4), np.float32)
    pdgid = np.zeros((len(jets), nobj_max), np.int32)
    features = {key: np.zeros((len(jets), nobj_max), np.float32) for key in jets[0].features}
    for row, jet in enumerate(jets):
        momenta[row, : len(jet.pdgid)] = jet.fourmomenta
        pdgid[row, : len(jet.pdgid)] = jet.pdgid
        for key, values in jet.features.items():
            features[key][row, : len(values)] = values
    truth = np.array([jet.truth[:3] for jet in jets], np.float32).reshape(-1, 3, 4)
    return {
        "Nobj": np.array([len(jet.pdgid) for jet in jets], np.int32),
        "Pmu": momenta,
        "pdgid": pdgid,
        "truth_Pmu": truth[:, 0],
        "truth_Pmu_W": truth[:, 1],
        "truth_Pmu_b": truth[:, 2],
        "is_signal": np.array([PROCESSES[name].is_signal for name in names], np.int8),
        "jet_tag": np.array([processes.index(name) for name in names], np.int8),
        **features,
    }


def make_block(task):
    """Return the file of the block (path, *arguments of generate); generate its jets if the file does not exist.

    In a worker process, suppress FastJet's banner, which would break the progress bar."""
    path, *arguments = task
    if path.exists():
        return path
    if parent_process() is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    jets = generate(*arguments)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **packed(jets))
    return path


def packed(jets):
    """Return the jets as few arrays, {key: array}, with the particles of all jets one after the other."""
    columns = {
        "fourmomenta": np.concatenate([jet.fourmomenta for jet in jets]),
        "pdgid": np.concatenate([jet.pdgid for jet in jets]),
        "truth": np.array([jet.truth[:3] for jet in jets]),
        "lengths": np.array([len(jet.pdgid) for jet in jets]),
    }
    return columns | {f"feature_{key}": np.concatenate([jet.features[key] for jet in jets]) for key in jets[0].features}


def read_block(path):
    """Read the jets of a block, without what their resonances decay to."""
    with np.load(path) as file:
        columns = {key: file[key] for key in file}
    truth, ends = columns.pop("truth"), np.cumsum(columns.pop("lengths"))[:-1]
    columns = {key.removeprefix("feature_"): np.split(values, ends) for key, values in columns.items()}
    fourmomenta, pdgid = columns.pop("fourmomenta"), columns.pop("pdgid")
    return [
        Jet(fourmomenta[k], pdgid[k], Truth(*truth[k]), {key: values[k] for key, values in columns.items()})
        for k in range(len(truth))
    ]


def block_path(folder, *arguments):
    """Return the file of a block in a folder; its name depends on all arguments of generate and on the versions."""
    return folder / f"{hashlib.sha256(repr((versions(), *arguments)).encode()).hexdigest()[:24]}.npz"


def versions():
    """Return the versions of the generators in words."""
    return f"pythia8mc {version('pythia8mc')}, fastjet {version('fastjet')}"


def rows_in_order(rows, blocks, jets_of_blocks, bar):
    """Yield chunks (jets, names) for successive rows, from the jets of the blocks in their order."""
    ready = {str(name): deque() for name in np.unique(rows)}
    jets, start = [], 0
    for (name, _, _), jets_of_block in zip(blocks, jets_of_blocks, strict=True):
        ready[name].extend(jets_of_block)
        bar.update(len(jets_of_block))
        while start + len(jets) < len(rows) and ready[rows[start + len(jets)]]:
            jets.append(ready[rows[start + len(jets)]].popleft())
            if len(jets) == CHUNK or start + len(jets) == len(rows):
                yield jets, rows[start : start + len(jets)]
                jets, start = [], start + len(jets)


def recipe_of(args):
    """Return how the flags want the jets to be made."""
    cuts = Cuts(args.pt_min, args.pt_max, args.eta_max, args.radius)
    options = (bool(option) for option in (args.fast, args.flat_pt, args.contained, args.features))
    return Recipe(cuts, args.mpi, args.nobj_max, *options)


def make_split(split, args):
    """Generate and write the file of a split."""
    num_jets, recipe = getattr(args, f"num_{split}"), recipe_of(args)
    counts = counts_of(args.process, num_jets, args.signal_fraction)
    rows = shuffled_rows(counts, args.seed, split)
    blocks = blocks_of(rows, FAST_BLOCK if recipe.fast else BLOCK)
    path = args.outdir / f"{split}.h5"
    finished = args.outdir / f".{path.name}.blocks"
    tasks = []
    for name, block, count in blocks:
        arguments = name, recipe, pythia_seed(args.seed, name, split, block), count
        tasks.append((block_path(finished, *arguments), *arguments))
    attributes = {
        "generator": "Pythia 8, FastJet",
        "version": versions(),
        "command": command_of(args),
        "seed": args.seed,
        "split": split,
        "cuts": str(recipe.cuts),
        "mpi": args.mpi,
        "collision": f"pp, {ECM:g} GeV",
        "units": "GeV; four-momenta are (E, px, py, pz)",
        "processes": [f"{name} ({counts[name]} jets): {PROCESSES[name].description}" for name in counts],
    }
    with (
        progress(num_jets, path.name) as bar,
        closing(ordered_map(make_block, tasks, args.jobs)) as files,
        jet_file(path, attributes, FAST_LEVEL if recipe.fast else LEVEL) as file,
    ):
        for jets, names in rows_in_order(rows, blocks, map(read_block, files), bar):
            file.append(pack(jets, names, args.process, args.nobj_max))
    shutil.rmtree(finished)
    content = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{path}: {content} jets, {path.stat().st_size / 1e6:.2f} MB")


def main(argv=None):
    """Parse the flags and generate the files of all splits."""
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for module in ("pythia8mc", "fastjet"):
            import_generator(module)
        args.outdir.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            if getattr(args, f"num_{split}"):
                make_split(split, args)
    except (GenerationError, BrokenProcessPool, OSError) as error:
        sys.exit(f"make_jets.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit("make_jets.py: interrupted; incomplete files were removed. The same command continues.")


if __name__ == "__main__":
    main()
