"""data/make_jets.py and the sample jets. Tests that generate jets are skipped without pythia8mc and fastjet."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import jet_features
import jet_generator
import jet_processes
import make_jets
import numpy as np
import pytest
from jet_generator import Cuts, Jet, Recipe
from jet_processes import NO_TRUTH, Truth
from tqdm import tqdm

from tests.patience import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "data" / "make_jets.py"
SAMPLE = ROOT / "data" / "sample_data" / "run12"

COUNTS = {"train": 4000, "valid": 1000, "test": 2000}
FEW = ["--num-train", "6", "--num-valid", "3", "--num-test", "0"]
WIDE = ["--pt-min", "100", "--pt-max", "2000", "--eta-max", "5"]  # nearly every event gives a jet


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE, **options
    )


def jet_of(n, truth=NO_TRUTH):
    """Make a Jet of n constituents with distinct numbers."""
    return Jet(np.arange(1, 4 * n + 1, dtype=np.float32).reshape(n, 4), np.arange(1, n + 1, dtype=np.int32), truth)


# ---- seeds, rows, blocks


def test_blocks_never_share_a_pythia_seed():
    """Breaks if splits overlap (the seed does not depend on the split), or the seed is out of Pythia's range."""
    seeds = [make_jets.pythia_seed(12, "top", split, block) for split in make_jets.SPLITS for block in range(4000)]
    assert len(set(seeds)) == len(seeds)
    assert 1 <= min(seeds) and max(seeds) <= 900_000_000
    assert make_jets.pythia_seed(12, "top", "train", 0) != make_jets.pythia_seed(12, "qcd", "train", 0)
    assert make_jets.pythia_seed(12, "top", "train", 0) != make_jets.pythia_seed(13, "top", "train", 0)


def test_pythia_seeds_do_not_change():
    """Breaks if the formula changes (or uses Python's salted hash): old commands would no longer give the old files."""
    assert make_jets.pythia_seed(12, "top", "train", 0) == 173719943
    assert make_jets.pythia_seed(12, "top", "test", 7) == 173719966


@pytest.mark.parametrize(
    "processes, number, fraction, expected",
    [
        (["top", "qcd"], 101, 0.5, {"top": 51, "qcd": 50}),
        (["top", "qcd"], 10, 0.0, {"top": 0, "qcd": 10}),
        (["qcd", "top"], 10, 0.3, {"top": 3, "qcd": 7}),
        (["top"], 10, 0.5, {"top": 10}),
        (["qcd"], 10, 0.5, {"qcd": 10}),
        (["gluon", "quark", "top"], 11, None, {"gluon": 4, "quark": 4, "top": 3}),
        (["gluon", "quark", "top"], 12, 0.5, {"quark": 3, "top": 3, "gluon": 6}),
    ],
)
def test_counts_of_processes(processes, number, fraction, expected):
    """Breaks if the classes are unbalanced, or a jet is lost to rounding.

    Also if --signal-fraction halves the jets of a single process."""
    assert make_jets.counts_of(processes, number, fraction) == expected


def test_rows_are_shuffled_by_the_seed():
    """Breaks if the classes are in order, the counts are wrong, or the order does not follow the seed."""
    counts = {"top": 300, "qcd": 200}
    rows = make_jets.shuffled_rows(counts, 12, "train")
    assert {name: int((rows == name).sum()) for name in counts} == counts
    assert 100 < (rows[:250] == "top").sum() < 200
    assert np.array_equal(rows, make_jets.shuffled_rows(counts, 12, "train"))
    assert not np.array_equal(rows, make_jets.shuffled_rows(counts, 12, "valid"))


def test_rows_take_the_jets_of_their_process_in_order():
    """Breaks if a jet is lost, doubled, or given to a row of another process.

    Also if a block comes after the row that needs it."""
    number = 3 * make_jets.CHUNK + 5
    rows = make_jets.shuffled_rows({"top": number // 3, "qcd": number - number // 3}, 1, "train")
    blocks = make_jets.blocks_of(rows, make_jets.BLOCK)
    assert sum(block[2] for block in blocks) == number and max(block[2] for block in blocks) == make_jets.BLOCK
    made = ([(name, block * make_jets.BLOCK + i) for i in range(count)] for name, block, count in blocks)
    chunks = list(make_jets.rows_in_order(rows, blocks, made, tqdm(disable=True)))
    assert [len(jets) for jets, _ in chunks] == [make_jets.CHUNK] * 3 + [5]
    jets = [jet for jets, _ in chunks for jet in jets]
    assert [name for name, _ in jets] == list(rows)
    for process in ("top", "qcd"):
        assert [i for name, i in jets if name == process] == list(range((rows == process).sum()))


# ---- constituents, truth, packing


def test_hardest_constituents():
    """Breaks if constituents are sorted by energy, cut before sorting, or separated from their PDG codes."""
    momenta = np.array([[9.0, 1, 0, 8.9], [5, 3, 4, 0], [4, 0, 2, 3.4], [7, 0, 6, 3.6]])
    kept, pdgid = jet_generator.hardest_constituents(momenta, np.array([1, 2, 3, 4]), 3)
    assert pdgid.tolist() == [4, 2, 3] and pdgid.dtype == np.int32
    assert np.array_equal(kept, momenta[[3, 1, 2]].astype(np.float32)) and kept.dtype == np.float32


def test_hardest_constituents_keep_the_true_energy():
    """Breaks if E is recomputed as |p|, which would make a pion massless before float32 does."""
    energy = np.sqrt(1.0 + 0.13957**2)
    kept, _ = jet_generator.hardest_constituents(np.array([[energy, 1.0, 0, 0]]), np.array([211]), 5)
    assert kept[0, 0] == np.float32(energy)


def test_delta_r_wraps_the_azimuth():
    """Breaks if phi is not taken modulo 2 pi: both vectors are 0.1 from phi = pi."""
    p, q = ([2.0, np.cos(phi), np.sin(phi), 0.0] for phi in (np.pi - 0.1, -np.pi + 0.1))
    assert jet_generator.delta_r(p, q) == pytest.approx(0.2)
    assert jet_generator.delta_r([9, 1, 0, np.sinh(1.5)], [9, 1, 0, np.sinh(-0.5)]) == pytest.approx(2.0)


def test_match_takes_the_nearest_top_within_the_radius():
    """Breaks if the first top is taken instead of the nearest, or the radius is not respected."""
    near, far = (Truth(np.array([9, np.cos(phi), np.sin(phi), 0]), None, None) for phi in (0.3, 0.7))
    axis = np.array([9.0, 1, 0, 0])
    assert jet_generator.match(axis, [far, near], 0.8) is near
    assert jet_generator.match(axis, [far, near], 0.2) is None
    assert jet_generator.match(axis, [], 0.8) is None


def test_pack_pads_with_zeros():
    """Breaks if padding is not zero, truths are swapped, labels do not follow the process, or a dtype changes."""
    truth = Truth(np.full(4, 3.0), np.full(4, 2.0), np.full(4, 1.0))
    rows = make_jets.pack([jet_of(2, truth), jet_of(3)], ["top", "qcd"], ["w", "qcd", "top"], 5)
    assert {key: (a.shape, a.dtype) for key, a in rows.items()} == {
        "Nobj": ((2,), np.int32),
        "Pmu": ((2, 5, 4), np.float32),
        "pdgid": ((2, 5), np.int32),
        "truth_Pmu": ((2, 4), np.float32),
        "truth_Pmu_W": ((2, 4), np.float32),
        "truth_Pmu_b": ((2, 4), np.float32),
        "is_signal": ((2,), np.int8),
        "jet_tag": ((2,), np.int8),
    }
    assert rows["Nobj"].tolist() == [2, 3] and rows["is_signal"].tolist() == [1, 0]
    assert rows["jet_tag"].tolist() == [2, 1]
    assert np.array_equal(rows["Pmu"][0, :2], jet_of(2).fourmomenta) and not rows["Pmu"][0, 2:].any()
    assert rows["pdgid"].tolist() == [[1, 2, 0, 0, 0], [1, 2, 3, 0, 0]]
    assert [rows[key][:, 0].tolist() for key in ("truth_Pmu", "truth_Pmu_W", "truth_Pmu_b")] == [[3, 0], [2, 0], [1, 0]]


# ---- the command line


def test_missing_generator_is_one_line(tmp_path):
    """Breaks if the absence of pythia8mc shows as a traceback, exits 0, or does not name the remedy."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "pythia8mc.py").write_text("raise ImportError('No module named pythia8mc')")
    result = run("--outdir", tmp_path / "out", env={**os.environ, "PYTHONPATH": str(blocked)})
    assert result.returncode != 0 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and "pip install --no-build-isolation -e '.[generate]'" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, word",
    [
        ("--num-train -1", "--num-train"),
        ("--num-train 0 --num-valid 0 --num-test 0", "--num-train"),
        ("--num-train many", "--num-train"),
        ("--process higgs", "higgs"),
        ("--process top top", "twice"),
        ("--signal-fraction 1.5", "--signal-fraction"),
        ("--signal-fraction 0.3 --process top w", "--process top w are all signal; leave the flag out"),
        ("--signal-fraction 0.3 --process qcd", "are all background"),
        ("--pt-min 700", "--pt-min"),
        ("--pt-max nan", "--pt-max"),
        ("--eta-max 0", "--eta-max"),
        ("--radius -1", "--radius"),
        ("--nobj-max 0", "--nobj-max"),
        ("--seed -3", "--seed"),
        ("-j 0", "--jobs"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, capsys, arguments, word):
    """Breaks if a bad value is accepted, exits 0, prints more than a line, or the line does not name the flag."""
    with pytest.raises(SystemExit) as stop:
        make_jets.main(["--outdir", str(tmp_path / "out"), *arguments.split()])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and word in error
    assert not (tmp_path / "out").exists()


def test_command_omits_flags_without_value():
    """Breaks if an unset --signal-fraction enters the command as None, which the script would refuse."""
    args = make_jets.parse_args(["--outdir", "o", "--process", "gluon", "quark"])
    command = make_jets.command_of(args)
    assert "None" not in command and "signal-fraction" not in command and "--process gluon quark" in command
    assert "--signal-fraction 0.25" in make_jets.command_of(
        make_jets.parse_args(["--outdir", "o", "--signal-fraction", "0.25"])
    )


def test_command_has_all_flags_that_change_the_file():
    """Breaks if a flag is missing, or folders or -j are in the file, so that equal data differ in their bytes."""
    args = make_jets.parse_args(["--outdir", "/somewhere", "-j", "7", "--no-mpi", "--seed", "12"])
    command = make_jets.command_of(args)
    assert "somewhere" not in command and "7" not in command
    again = make_jets.parse_args([*command.split()[2:], "--outdir", "/somewhere", "-j", "7"])
    assert vars(again) == vars(args)


# ---- making a few jets


@pytest.fixture
def generator():
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")


def test_same_seed_same_bytes_for_every_j(generator, tmp_path):
    """Breaks if the files depend on the split of the work, the order of results, the folder, or the clock."""
    for folder, jobs, seed in (("one", 1, 5), ("two", 2, 5), ("other", 1, 6)):
        result = run("--outdir", tmp_path / folder, *FEW, *WIDE, "--seed", seed, "-j", jobs)
        assert result.returncode == 0, result.stderr
    for name in ("train.h5", "valid.h5"):
        one, two, other = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two", "other"))
        assert one == two and one != other
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["train.h5", "valid.h5"]


def test_longer_list_continues_the_shorter(generator):
    """Breaks if the requested number of jets changes the jets, so that a large set would not contain a smaller one."""
    cuts = Cuts(100, 2000, 5, 0.8)
    short, long = (jet_generator.generate("qcd", Recipe(cuts, mpi=False), 3, count) for count in (1, 3))
    assert np.array_equal(short[0].fourmomenta, long[0].fourmomenta)
    assert not np.array_equal(long[0].fourmomenta[0], long[1].fourmomenta[0])


def test_tops_have_w_and_b(generator):
    """Breaks if the wrong copies of top, W, b are taken, neutrinos enter, or the jet is not the top's."""
    cuts = Cuts(400, 800, 2.5, 0.8)
    for jet in jet_generator.generate("top", Recipe(cuts), 4, 4):
        top, w, b = jet.truth[:3]
        mass = [np.sqrt(v[0] ** 2 - v[1:] @ v[1:]) for v in jet.truth[:3]]
        assert abs(mass[0] - 171) < 15 and abs(mass[1] - 80.4) < 15 and abs(mass[2] - 4.8) < 0.1
        assert np.abs(w + b - top).max() < 0.2 * top[0]
        axis = jet.fourmomenta.sum(0)
        assert 400 < np.hypot(axis[1], axis[2]) < 800 and jet_generator.delta_r(axis, top) < 0.8
        assert not np.isin(np.abs(jet.pdgid), (12, 14, 16)).any()


@pytest.mark.parametrize(
    "name, mass, width", [("gluon", 0, 0.01), ("quark", 0.33, 0.2), ("w", 80.4, 4), ("z", 91.2, 4)]
)
def test_jets_come_from_their_origin(generator, name, mass, width):
    """Breaks if the origin is not the particle that the process describes, or another copy of it.

    Also if the origin does not belong to the jet, or W and Z do not decay to quarks (energy would be missing)."""
    cuts = Cuts(300, 800, 2.5, 0.8)
    jets = jet_generator.generate(name, Recipe(cuts), 4, 5)
    origins = np.array([jet.truth.origin for jet in jets])
    masses = np.sqrt(np.maximum(0, origins[:, 0] ** 2 - (origins[:, 1:] ** 2).sum(1)))
    assert abs(np.median(masses) - mass) < width  # a single W or Z may be far off its mass shell
    for jet in jets:
        origin, w, b = jet.truth[:3]
        assert np.array_equal(w, origin if name == "w" else np.zeros(4)) and not b.any()
        axis = jet.fourmomenta.sum(0)
        assert jet_generator.delta_r(axis, origin) < 0.8
        assert 0.5 < np.hypot(axis[1], axis[2]) / np.hypot(origin[1], origin[2]) < 2
        assert not np.isin(np.abs(jet.pdgid), (12, 14, 16)).any()


def test_mpi_adds_particles(generator):
    """Breaks if --no-mpi does not reach Pythia. Means over 12 jets with the same seed."""
    cuts = Cuts(300, 800, 3, 1.2)
    with_mpi, without = (
        np.mean([len(jet.pdgid) for jet in jet_generator.generate("qcd", Recipe(cuts, mpi, 500), 8, 12)])
        for mpi in (True, False)
    )
    assert with_mpi > without + 3


def test_impossible_cuts_are_one_line(generator, tmp_path, monkeypatch):
    """Breaks if cuts that no jet passes run for ever, or leave a file."""
    monkeypatch.setattr(jet_generator, "MAX_EMPTY_EVENTS", 5)
    with pytest.raises(SystemExit) as stop:
        make_jets.main(["--outdir", str(tmp_path), *FEW, "--eta-max", "1e-6"])
    assert "no jet passes the cuts in 5 events" in stop.value.code and "\n" not in stop.value.code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_leaves_finished_blocks_only(generator, tmp_path, jobs, number):
    """Breaks if Ctrl-C or SIGTERM leaves a temporary file or a traceback, or ends with status 0.

    Also if the script waits for unfinished blocks."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--outdir", str(tmp_path / "out"), "-j", str(jobs)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: list(tmp_path.glob("out/.train.h5*")))
    time.sleep(1)
    process.send_signal(number)
    error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode != 0 and "Traceback" not in error and "interrupted" in error
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {".train.h5.blocks"}
    assert all(path.suffix == ".npz" and path.name[0] != "." for path in tmp_path.glob("out/.train.h5.blocks/*"))


def test_stopped_run_continues_with_identical_bytes(generator, tmp_path, monkeypatch):
    """Breaks if finished blocks are generated again, lost, read in another precision, or left after the end."""
    arguments = ["--num-train", "7", "--num-valid", "0", "--num-test", "0", "--features", *WIDE]
    monkeypatch.setattr(make_jets, "BLOCK", 2)
    make_jets.main(["--outdir", str(tmp_path / "whole"), *arguments])
    generate, made = make_jets.generate, []

    def stop_at_the_third(*block):
        made.append(block)
        if len(made) == 3:
            raise KeyboardInterrupt
        return generate(*block)

    monkeypatch.setattr(make_jets, "generate", stop_at_the_third)
    with pytest.raises(SystemExit, match="The same command continues"):
        make_jets.main(["--outdir", str(tmp_path / "stopped"), *arguments])
    assert len(list(tmp_path.glob("stopped/.train.h5.blocks/*.npz"))) == 2
    make_jets.main(["--outdir", str(tmp_path / "stopped"), *arguments])
    assert len(made) == 3 + 2  # four blocks, of which the third was tried twice
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["train.h5"]
    assert (tmp_path / "stopped" / "train.h5").read_bytes() == (tmp_path / "whole" / "train.h5").read_bytes()


def test_blocks_of_other_jets_are_not_reused(generator):
    """Breaks if a block of another command, seed or size is taken for one of this command."""
    recipe = Recipe(Cuts(500, 600, 2, 0.8))
    blocks = [("top", recipe, 1, 5), ("top", recipe, 1, 6), ("top", recipe, 2, 5), ("qcd", recipe, 1, 5)]
    blocks += [("top", Recipe(Cuts(500, 600, 2, 0.8), fast=True), 1, 5), ("top", Recipe(Cuts(500, 601, 2, 0.8)), 1, 5)]
    assert len({make_jets.block_path(Path(), *block) for block in blocks}) == len(blocks)


# ---- the classes of JetClass, features of the particles, a flat spectrum, the fast mode


def test_fast_jets_are_jets_of_the_slow_mode(generator):
    """Breaks if the early cut drops what it must not, so that other jets survive, or the two jet finders differ.

    With a window that keeps every event both modes must make the same jets."""
    cuts = Cuts(200, 600, 2.5, 0.8)
    everything = dataclasses.replace(jet_processes.PROCESSES["top"], window=(0.01, 100.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(jet_processes.PROCESSES, "top", everything)
        patch.setattr(jet_generator, "EARLY_ETA", 100.0)
        slow, fast = (jet_generator.generate("top", Recipe(cuts, fast=fast), 4, 3) for fast in (False, True))
    for one, other in zip(slow, fast, strict=True):
        assert np.array_equal(one.fourmomenta, other.fourmomenta) and np.array_equal(one.pdgid, other.pdgid)
        assert np.array_equal(one.truth.origin, other.truth.origin)


def test_early_cut_drops_events_outside_its_window(generator):
    """Breaks if the early cut is not installed, looks at the wrong resonance, or confuses its limits."""
    recipe = Recipe(Cuts(400, 440, 2, 0.8), fast=True)
    for name, window, kept in (("w", (0.94, 1.2), True), ("w", (1.5, 1.6), False), ("qcd", (3.0, 4.0), False)):
        process = dataclasses.replace(jet_processes.PROCESSES[name], window=window)
        pythia, early_cut = jet_generator.start_pythia(process, recipe, 3)
        passed = sum(pythia.next() for _ in range(40))
        assert (2 < passed < 38) if kept else passed < 8, (name, window, passed)
        assert early_cut is not None


@pytest.mark.parametrize("name, codes", [("hbb", {5}), ("hcc", {4}), ("hgg", {21}), ("h4q", None), ("hlvqq", None)])
def test_higgs_jets(generator, name, codes):
    """Breaks if the Higgs decays otherwise, its products are not in the jet, or a neutrino is counted as visible."""
    recipe = Recipe(Cuts(300, 900, 2.5, 0.8), fast=True, contained=True)
    process = jet_processes.PROCESSES[name]
    for jet in jet_generator.generate(name, recipe, 4, 2):
        mass = np.sqrt(jet.truth.origin[0] ** 2 - (jet.truth.origin[1:] ** 2).sum())
        assert abs(mass - 125) < 1 and len(jet.truth.decay) == {"h4q": 4, "hlvqq": 3}.get(name, 2)
        axis = jet.fourmomenta.sum(0)
        assert (jet_generator.delta_r(axis, jet.truth.decay) < 0.8 + 1e-3).all()
    if codes is not None:
        pythia, _early_cut = jet_generator.start_pythia(process, recipe, 5)
        pythia.next()
        daughters = [p.idAbs() for p in pythia.process if pythia.process[p.mother1()].idAbs() == 25]
        assert set(daughters) == codes


def test_leptons_of_semileptonic_jets(generator):
    """Breaks if the lepton is missing, or the W of both charges do not decay alike."""
    for name in ("hlvqq", "tblv"):
        recipe = Recipe(Cuts(300, 900, 2.5, 0.8), fast=True, contained=True)
        for jet in jet_generator.generate(name, recipe, 4, 3):
            assert np.isin(np.abs(jet.pdgid), (11, 13)).any()


def test_flat_spectrum_has_equal_bins():
    """Breaks if a bin gets more jets than another, or a jet is lost before its bin is full."""
    rng = np.random.default_rng(0)
    made = ((pt, number) for number, pt in enumerate(500 + 500 * rng.random(2000) ** 3))
    jets = list(jet_generator.flattened(made, Cuts(500, 1000, 2, 0.8), 1))
    pts = np.array([pt for pt, _ in jets])
    counts = np.histogram(pts, np.linspace(500, 1000, jet_generator.PT_BINS + 1))[0]
    assert counts.min() == counts.max() > 20
    assert not (np.diff(pts[: jet_generator.PT_BINS]) > 0).all()


def test_impact_parameters_of_a_straight_track():
    """Breaks if the sign or the projection on the beam is wrong, or the origin is not the reference."""
    momenta, along = np.array([[3.0, 4.0, 12.0], [0, 2.0, 0]]), 7.0
    d0, dz = jet_features.impact_parameters(momenta, along * momenta)  # through the origin
    assert np.abs(d0).max() < 1e-12 and np.abs(dz).max() < 1e-12
    d0, dz = jet_features.impact_parameters(momenta[1:], np.array([[0.3, 5.0, 2.0]]))
    assert d0.tolist() == [0.6 / 2] and dz.tolist() == [2.0]


def test_features_of_particles():
    """Breaks if kinds overlap, neutral particles have tracks, or the smearing has not the stated width."""
    n = 4000
    pdgid = np.tile([211, -11, 13, 22, 130, -2212, 2112, 321], n // 8)
    charge = np.tile([1.0, 1, -1, 0, 0, -1, 0, 1], n // 8)
    momenta = np.tile([[1.0, 1.0, 1.0]], (n, 1))
    features = jet_features.particle_features(momenta, pdgid, charge, np.zeros((n, 3)), np.random.default_rng(0))
    kinds = [features[key] for key in features if key.startswith("is")]
    assert (sum(kinds) == 1).all() and all(values.dtype == np.float32 for values in features.values())
    assert features["isElectron"].sum() == features["isMuon"].sum() == n / 8
    for value, error in (("d0val", "d0err"), ("dzval", "dzerr")):
        assert not features[value][charge == 0].any() and not features[error][charge == 0].any()
        pull = features[value][charge != 0] / features[error][charge != 0]
        assert abs(pull.std() - 1) < 0.05
    expected = np.hypot(0.015, 0.075 / np.sqrt(2) / np.sqrt(np.sqrt(2 / 3)))
    assert features["d0err"][0] == pytest.approx(expected)


def test_b_jets_have_displaced_tracks(generator):
    """Breaks if the vertices are not those of the particles: tracks of b hadrons miss the collision."""
    recipe = Recipe(Cuts(300, 900, 2.5, 0.8), fast=True, features=True)

    def displaced(jet):
        d0, error = np.abs(jet.features["d0val"]), jet.features["d0err"]
        return int(((d0 > 5 * error) & (d0 > 0) & (d0 < 2)).sum())

    b, light = (sum(map(displaced, jet_generator.generate(name, recipe, 4, 5))) for name in ("hbb", "quark"))
    assert b > 5 and b > 3 * light


def test_all_classes_of_jetclass():
    """Breaks if the shortcut misses a class or changes their order, or enters the stored command."""
    args = make_jets.parse_args(["--outdir", "o", "--process", "jetclass", "--flat-pt", "--fast"])
    assert args.process == list(jet_processes.JETCLASS) and len(args.process) == 10
    command = make_jets.command_of(args)
    assert "jetclass" not in command and "--flat-pt" in command and "--fast" in command and "features" not in command


# ---- the sample jets in the repository


@pytest.fixture(scope="module", params=list(COUNTS))
def sample(request):
    """Read a sample file: (split, attributes, {key: array})."""
    with h5py.File(SAMPLE / f"{request.param}.h5") as file:
        return request.param, dict(file.attrs), {key: file[key][:] for key in file}


def test_sample_shapes(sample):
    """Breaks if a file lacks jets or keys, or has other dtypes than documented."""
    split, _, arrays = sample
    n = COUNTS[split]
    assert {key: (a.shape, a.dtype) for key, a in arrays.items()} == {
        "Nobj": ((n,), np.int32),
        "Pmu": ((n, 200, 4), np.float32),
        "pdgid": ((n, 200), np.int32),
        "truth_Pmu": ((n, 4), np.float32),
        "truth_Pmu_W": ((n, 4), np.float32),
        "truth_Pmu_b": ((n, 4), np.float32),
        "is_signal": ((n,), np.int8),
    }


def test_sample_padding(sample):
    """Breaks if Nobj counts wrongly, padding is not zero, a constituent is empty, or pT does not descend."""
    _, _, arrays = sample
    inside = np.arange(200) < arrays["Nobj"][:, None]
    momenta = arrays["Pmu"].astype(np.float64)
    assert np.isfinite(momenta).all()
    assert not momenta[~inside].any() and not arrays["pdgid"][~inside].any()
    assert (momenta[inside][:, 0] > 0).all() and (arrays["pdgid"][inside] != 0).all()
    pt = np.hypot(momenta[..., 1], momenta[..., 2])
    assert (np.diff(pt, axis=1) <= 1e-5).all()
    mass2 = momenta[..., 0] ** 2 - (momenta[..., 1:] ** 2).sum(-1)
    assert (mass2 >= -1e-6 * momenta[..., 0] ** 2).all()


def test_sample_jets_pass_the_cuts(sample):
    """Breaks if the cuts, the label, or the truncation are wrong.

    Jets with more than 200 constituents lose some pT; 0.1 GeV is for rounding."""
    _, _, arrays = sample
    jet = arrays["Pmu"].sum(1, dtype=np.float64)
    pt = np.hypot(jet[:, 1], jet[:, 2])
    assert pt.min() > 549.9 and pt.max() < 650.1
    assert np.abs(np.arcsinh(jet[:, 3] / pt)).max() < 2.001
    assert arrays["is_signal"].mean() == 0.5
    assert 65 < arrays["Nobj"].mean() < 90
    assert not np.isin(np.abs(arrays["pdgid"]), (12, 14, 16)).any()


def test_sample_physics(sample):
    """Breaks if the signal is not tops: no mass peak, or the true top is not in the jet.

    Also if QCD jets have a true momentum, or a peak at the mass of the top."""
    _, _, arrays = sample
    signal_jets = arrays["is_signal"] == 1
    jet = arrays["Pmu"].sum(1, dtype=np.float64)
    mass = np.sqrt(jet[:, 0] ** 2 - (jet[:, 1:] ** 2).sum(-1))
    near_top = (mass > 150) & (mass < 200)
    assert near_top[signal_jets].mean() > 0.5 and near_top[~signal_jets].mean() < 0.15
    top, w, b = (arrays[key].astype(np.float64) for key in ("truth_Pmu", "truth_Pmu_W", "truth_Pmu_b"))
    assert not top[~signal_jets].any() and not w[~signal_jets].any() and not b[~signal_jets].any()
    top, w, b, axis = top[signal_jets], w[signal_jets], b[signal_jets], jet[signal_jets]
    truth_mass = np.sqrt(top[:, 0] ** 2 - (top[:, 1:] ** 2).sum(-1))
    assert 165 < np.median(truth_mass) < 176
    assert np.median(np.abs(w + b - top).max(-1)) < 0.05 * 600
    assert max(jet_generator.delta_r(p, q) for p, q in zip(axis, top, strict=False)) < 0.801


def test_sample_attributes(sample):
    """Breaks if a file does not describe its origin, or names a folder of the machine that generated it."""
    split, attributes, _ = sample
    assert {"generator", "version", "seed", "command", "processes", "units", "cuts", "split", "mpi"} <= set(attributes)
    assert attributes["seed"] == 12 and attributes["split"] == split and "pythia8mc 8." in attributes["version"]
    assert f"--num-{split} {COUNTS[split]}" in attributes["command"] and " /" not in attributes["command"]


def test_sample_splits_share_no_jet():
    """Breaks if two splits are made with the same Pythia seeds."""
    hardest = []
    for split in COUNTS:
        with h5py.File(SAMPLE / f"{split}.h5") as file:
            hardest.append(file["Pmu"][:, 0])
    hardest = np.concatenate(hardest)
    assert len(np.unique(hardest, axis=0)) == len(hardest)


def test_sample_is_small():
    """Breaks if the files grow beyond what a repository should carry."""
    assert sum((SAMPLE / f"{split}.h5").stat().st_size for split in COUNTS) < 10e6


# ---- the small samples of several classes

SMALL = {
    "multiclass": (["gluon", "quark", "w", "z", "top"], {"train": 1500, "valid": 400, "test": 600}),
    "qg": (["gluon", "quark"], {"train": 400, "valid": 150, "test": 300}),
}


@pytest.fixture(
    scope="module",
    params=[(folder, split) for folder, (_, counts) in SMALL.items() for split in counts],
    ids=lambda p: f"{p[0]}-{p[1]}",
)
def small(request):
    """Read a file of a small sample: (processes, number of jets, attributes, {key: array})."""
    folder, split = request.param
    with h5py.File(SAMPLE.parent / folder / f"{split}.h5") as file:
        return SMALL[folder][0], SMALL[folder][1][split], dict(file.attrs), {key: file[key][:] for key in file}


def test_small_sample_labels(small):
    """Breaks if the classes have different sizes or another order than --process.

    Also if is_signal does not follow the table."""
    processes, number, attributes, arrays = small
    assert (
        len(arrays["Pmu"]) == number
        and f"--process {' '.join(processes)} " in attributes["command"]
        and " /" not in attributes["command"]
    )
    assert np.bincount(arrays["jet_tag"]).tolist() == [number // len(processes)] * len(processes)
    signal_of_tag = np.array([jet_processes.PROCESSES[name].is_signal for name in processes])
    assert np.array_equal(arrays["is_signal"], signal_of_tag[arrays["jet_tag"]])


def test_small_sample_padding(small):
    """Breaks if Nobj counts wrongly, padding is not zero, a particle has no PDG code, or pT does not descend."""
    _, _, _, arrays = small
    inside = np.arange(arrays["Pmu"].shape[1]) < arrays["Nobj"][:, None]
    pt = np.hypot(arrays["Pmu"][..., 1], arrays["Pmu"][..., 2])
    assert np.isfinite(arrays["Pmu"]).all() and not arrays["Pmu"][~inside].any() and not arrays["pdgid"][~inside].any()
    assert (
        (arrays["Pmu"][inside][:, 0] > 0).all()
        and (arrays["pdgid"][inside] != 0).all()
        and (np.diff(pt, axis=1) <= 1e-5).all()
    )


def test_small_sample_physics(small):
    """Breaks if a class has the jets of another one.

    Checks the masses of the origins, that gluon jets are broader than quark jets, and the W in W and top jets."""
    processes, _, _, arrays = small
    origin = arrays["truth_Pmu"].astype(np.float64)
    mass = np.sqrt(np.maximum(origin[:, 0] ** 2 - (origin[:, 1:] ** 2).sum(-1), 0))
    of = {name: arrays["jet_tag"] == tag for tag, name in enumerate(processes)}
    for name, expected in {"gluon": 0, "quark": 0.33, "w": 80.4, "z": 91.2, "top": 172.5}.items():
        if name in of:
            assert abs(np.median(mass[of[name]]) - expected) < 1.5
            assert bool(arrays["truth_Pmu_W"][of[name]].any()) == (name in ("w", "top"))
    assert arrays["Nobj"][of["gluon"]].mean() > arrays["Nobj"][of["quark"]].mean() + 5


@pytest.mark.parametrize(
    "folder, name",
    [("run12", "top"), ("run12", "qcd"), ("multiclass", "w"), ("multiclass", "z"), ("qg", "gluon"), ("qg", "quark")],
)
def test_sample_can_be_reproduced(generator, folder, name):
    """Breaks if a process, a seed, or the choice of a jet changes, so that the documented command gives other jets.

    Generates the first jet of one process. Skipped with other versions of the generator, whose jets may differ."""
    with h5py.File(SAMPLE.parent / folder / "train.h5") as file:
        made = f"pythia8mc {make_jets.version('pythia8mc')}, fastjet {make_jets.version('fastjet')}"
        if file.attrs["version"] != made:
            pytest.skip(f"the sample is of {file.attrs['version']}")
        args = make_jets.parse_args([*file.attrs["command"].split()[2:], "--outdir", "o"])
        counts = make_jets.counts_of(args.process, args.num_train, args.signal_fraction)
        row = int(np.flatnonzero(make_jets.shuffled_rows(counts, args.seed, "train") == name)[0])
        momenta, pdgid, truth = (file[key][row] for key in ("Pmu", "pdgid", "truth_Pmu"))
    seed = make_jets.pythia_seed(args.seed, name, "train", 0)
    (jet,) = jet_generator.generate(name, make_jets.recipe_of(args), seed, 1)
    n = len(jet.pdgid)
    assert (
        np.array_equal(momenta[:n], jet.fourmomenta) and not momenta[n:].any() and np.array_equal(pdgid[:n], jet.pdgid)
    )
    assert np.array_equal(truth, jet.truth.origin.astype(np.float32))


def test_small_samples_are_small():
    """Breaks if the files grow beyond what a repository should carry."""
    sizes = {folder: sum(p.stat().st_size for p in (SAMPLE.parent / folder).glob("*.h5")) for folder in SMALL}
    assert 0 < sizes["multiclass"] < 2e6 and 0 < sizes["qg"] < 0.8e6
