"""The pretraining script, from its flags to its files."""

import shutil
import sys
from functools import partial
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

import train_pointmae as script
from puffin.checkpoints.reading import read_checkpoint
from puffin.data.augment import drop_points, jitter_energies, lattice_symmetry, mix_events
from puffin.data.pilarnet_files import index_path
from puffin.models.voxel_distillation import pretraining_network
from puffin.runs.clouds import make_pretraining
from puffin.settings.clouds import PretrainingSettings
from puffin.settings.flags import parse
from tests.conftest import ROOT, golden_files
from tests.runs.helpers import (
    TINY_AUTOENCODER,
    TINY_CLOUDS,
    TINY_TRAINING,
    TINY_UNET,
    check_resumed,
    existing_run,
    refused_by,
    row,
    same,
    stop_in_training_step,
    walk,
    weights,
    write,
)

NETWORKS = {
    "transformer": [*TINY_AUTOENCODER, *TINY_CLOUDS],
    "unet": [*TINY_UNET, "--mask-block", "4", *TINY_TRAINING],
}
NETWORKS["distill"] = [*NETWORKS["unet"], *"--method distill --prototypes 16 --crop-radius 20".split()]
TERMS = {  # of the loss, and the number of what each is a mean over
    "transformer": {"chamfer": "hidden", "energy": "hidden_points"},
    "unet": {"occupancy_2": "hidden_4", "occupancy_1": "hidden_2", "energy": "hidden_1"},
    "distill": {"loss": "matched"},
}
refused = partial(refused_by, script.main)


@pytest.fixture
def data(tmp_path):
    """10 training and 5 validation events."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 10), ("val", 5)):
        write(tmp_path / "data" / split / "events_v2.h5", [walk(rng, n) for n in rng.integers(100, 300, number)])
    return tmp_path / "data"


def command(data, work, *flags, backbone="transformer"):
    """Return the flags of a tiny run."""
    return [*NETWORKS[backbone], "--datadir", str(data), "--workdir", str(work), *flags]


@pytest.mark.parametrize("backbone", NETWORKS)
def test_train_then_evaluate(data, tmp_path, capsys, backbone):
    """Every documented output; evaluation in another folder repeats the numbers, those of the probe too."""
    flags = "--ema 0.5 --probe-every 1 --best-by probe_f1_mean --summarize-csv all".split()
    script.main(command(data, tmp_path, *flags, backbone=backbone))
    for name in (
        "log/tiny.log",
        "log/tiny.yaml",
        "log/tiny.png",
        "model/tiny.pt",
        "model/tiny_best.pt",
        "predict/tiny.best.test.pt",
    ):
        assert (tmp_path / name).stat().st_size > 0, name
    first = row(tmp_path / "log/tiny.Best.metrics.csv")
    classes = [f"probe_f1_{name}" for name in ("shower", "track", "michel", "delta", "mean")]
    terms = TERMS[backbone]
    further = ["prototypes"] if backbone == "distill" else []
    names = list(dict.fromkeys(["loss", *terms, *classes, *further]))
    assert list(first) == ["prefix", "timestamp", *names, "evaluated", "run"]
    assert float(first["probe_f1_mean"]) > 0
    history = read_checkpoint(tmp_path / "model/tiny.pt")["progress"]["history"]
    assert [r["epoch"] for r in history] == [1, 2] and all(r["valid_probe_f1_mean"] > 0 for r in history)
    best = max(history, key=lambda r: r["valid_probe_f1_mean"])
    assert float(first["probe_f1_mean"]) == pytest.approx(best["valid_probe_f1_mean"], abs=1e-9)
    saved = torch.load(tmp_path / "predict/tiny.best.test.pt", weights_only=True)
    assert saved["index"].tolist() == list(range(5)) and all(saved[number].min() > 0 for number in terms.values())
    total = sum(float(saved[f"{name}_sum"].sum() / saved[number].sum()) for name, number in terms.items())
    assert total == pytest.approx(float(first["loss"]), rel=1e-5)

    evaluate = f"--eval --cpu --min-points 50 --datadir {data} --loadfile {tmp_path}/model/tiny_best.pt".split()
    script.main([*evaluate, "--workdir", str(tmp_path / "e"), "--prefix", "again"])
    again = row(tmp_path / "e/log/again.Best.metrics.csv")
    for name in list(first)[2:-2]:
        assert float(again[name]) == pytest.approx(float(first[name]), rel=1e-5, nan_ok=True), name

    # the probe of a test file needs a folder of training data; without one the log says that there is no probe
    testfile = [
        *(flag for flag in evaluate if flag not in ("--datadir", str(data))),
        *f"--testfile {data}/val/events_v2.h5 --no-plot".split(),
    ]
    capsys.readouterr()
    script.main([*testfile, "--workdir", str(tmp_path / "e"), "--prefix", "alone"])
    assert "no linear probe" in capsys.readouterr().err and "probe_f1_mean" not in row(
        tmp_path / "e/log/alone.Best.metrics.csv"
    )
    script.main([*testfile, "--datadir", str(data), "--workdir", str(tmp_path / "e"), "--prefix", "probed"])
    assert float(row(tmp_path / "e/log/probed.Best.metrics.csv")["probe_f1_mean"]) == pytest.approx(
        float(first["probe_f1_mean"]), rel=1e-5
    )


@pytest.mark.parametrize(
    "backbone, workers", [("transformer", "0"), ("transformer", "1"), ("unet", "0"), ("distill", "0")]
)
def test_stopped_run_continues_bit_for_bit(data, tmp_path, monkeypatch, backbone, workers):
    """SIGTERM in the first step of the second epoch, between two validations: --load without the flags of the run gives
    the weights and the numbers of a run that was not stopped.

    Breaks if a mask, a rotation, or dropout comes from a generator that is not in the checkpoint, or if a probe or a
    validation draws from one that is."""
    every = "--valid-every 2 --probe-every 2 --accumulate 2 --num-step 6 --no-plot --batch-size 2".split()
    every += "--drop-points 0.3 --energy-jitter 0.1 --mix-events 0.5".split() if backbone != "transformer" else []
    script.main(command(data, tmp_path / "whole", *every, backbone=backbone))
    from puffin.tasks.masked_modelling import MaskedModelling
    from puffin.tasks.self_distillation import SelfDistillation

    task = SelfDistillation if backbone == "distill" else MaskedModelling
    # five batches make the three steps of the first epoch
    cut = command(data, tmp_path / "cut", *every, backbone=backbone)
    stop_in_training_step(monkeypatch, task, 6, script.main, cut)
    progress = read_checkpoint(tmp_path / "cut/model/tiny.pt")["progress"]
    found = [progress[name] for name in ("epoch", "batch", "step", "unclosed")]
    assert found == [1, 2, 4, 2] and len(progress["history"]) == 1  # the validation after it is still to be made
    history = check_resumed(script.main, data, tmp_path, "--num-workers", workers)
    assert [r["step"] for r in history] == [2, 4, 6]


def test_augmentations_of_views():
    """Those that keep all points differ between teacher and student, the others come first. Breaks if views of
    different points, or of other events, are matched."""
    flags = "--no-probe --drop-points 0.1 --energy-jitter 0.1 --mix-events 0.5".split()
    run = SimpleNamespace(settings=parse(PretrainingSettings, "", [*NETWORKS["distill"], *flags]).settings())
    task = make_pretraining(run, pretraining_network(run.settings.network), {})
    assert [step.func for step in task.augmentations] == [drop_points, mix_events]
    rotation, jitter = task.own
    assert rotation is lattice_symmetry and jitter.func is jitter_energies


def test_pictures_of_an_earlier_run(data, tmp_path):
    """They are deleted with the run, and other files of their folder stay."""
    folder = tmp_path / "log/tiny"
    folder.mkdir(parents=True)
    drawn, others = (
        ("step0000002.event3.energy.png", "end.event17.tokens.pdf", "end.event17.html"),
        ("events.out.tfevents.1", "own.event3.png", "end.event3.energy.png.bak"),
    )
    for name in (*drawn, *others):
        (folder / name).touch()
    script.main(command(data, tmp_path, "--num-step", "1", "--no-plot", "--no-probe"))
    assert {path.name for path in folder.iterdir()} == set(others)


def test_workers_change_nothing(data, tmp_path):
    """Breaks if random numbers are drawn in the workers."""
    for workers in "01":
        flags = f"--num-workers {workers} --num-epoch 1 --no-plot --no-probe".split()
        script.main(command(data, tmp_path / workers, *flags))
    assert same(*(weights(tmp_path / k / "model/tiny.pt") for k in "01"))


def test_learning_rates(data, tmp_path):
    """--lr-scale sqrt counts the events of a step. The warm-up starts from --lr-start; its length may be in steps."""
    flags = "--lr-scale sqrt --accumulate 4 --batch-size 2 --lr-init 1e-3 --lr-start 2e-4 --warmup-steps 4".split()
    script.main(command(data, tmp_path, *flags, "--num-step", "1", "--no-plot", "--no-probe"))
    (only,) = read_checkpoint(tmp_path / "model/tiny.pt")["progress"]["history"]
    # a warm-up longer than the run is shortened
    assert only["lr"] == pytest.approx(1e-3 * (8 / 128) ** 0.5) and only["step"] == 1


def test_presets(data, tmp_path):
    """The presets in config/ can be read, and so can log/PREFIX.yaml. Breaks if a flag without a value is in it."""
    script.main(command(data, tmp_path, "--num-step", "1", "--no-plot", "--no-probe"))
    flags = parse(PretrainingSettings, "", ["--yaml", str(tmp_path / "log/tiny.yaml")])
    assert [flags[name] for name in ("depth", "context", "radius", "num_step")] == [1, 60, None, 1]
    assert "clip" in flags.given and "clip" not in parse(PretrainingSettings, "", ["--depth", "2"]).given
    for name in ("pointmae", "polarmae", "pointmae_quick", "voxelmae", "voxeldistill"):
        settings = parse(PretrainingSettings, "", ["--yaml", str(ROOT / f"config/{name}.yaml")]).settings()
        assert settings.network.model == ("pointmae" if name == "pointmae" else "polarmae")
        assert settings.network.backbone == ("unet" if name.startswith("voxel") else "transformer")
        assert settings.network.method == ("distill" if name == "voxeldistill" else "masked")


@pytest.mark.parametrize("path", golden_files("polarmae", "p*mae.ckpt"), ids=lambda path: path.stem)
def test_published_checkpoint(path, data, tmp_path):
    """It can be evaluated and fine-tuned; the fine-tuned network keeps its norms and can be evaluated."""
    evaluate = ["--eval", "--min-points", "50"]
    script.main(existing_run(data, tmp_path, *evaluate, "--loadfile", str(path), prefix="first"))
    assert float(row(tmp_path / "log/first.Best.metrics.csv")["chamfer"]) > 0
    more = "--num-step 1 --batch-size 3 --min-points 50 --no-plot --no-probe --cpu --prefix more".split()
    script.main(["--loadfile", str(path), *more, "--datadir", str(data), "--workdir", str(tmp_path)])
    state = read_checkpoint(tmp_path / "model/more.pt")
    assert state["args"]["published_norms"] and state["args"]["context"]
    script.main(existing_run(data, tmp_path, *evaluate, "--no-probe", prefix="more"))


def test_checkpoint_of_another_network(data, tmp_path, capsys, run_folder):
    """A contradicting flag, a jet network and a segmentation network are refused; a published run cannot be resumed."""
    (golden, *_), (segmentation, *_) = (
        golden_files("polarmae", "polarmae.ckpt"),
        golden_files("polarmae", "segmentation.ckpt"),
    )
    start = ["--eval", "--cpu", "--datadir", str(data), "--workdir", str(tmp_path / "w"), "--loadfile"]
    assert "--depth 7 contradicts" in refused([*start, str(golden), "--depth", "7"], capsys)
    assert "expected a checkpoint of a masked" in refused([*start, str(run_folder / "ref_best.pt")], capsys)
    assert "expected a checkpoint of a masked autoencoder, found a segmentation network" in refused(
        [*start, str(segmentation)], capsys
    )
    assert "fine-tune from it without --load" in refused(["--load", *start[1:], str(golden)], capsys)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "backbone, flags, message",
    [
        ("transformer", "--unet-width 8", "--unet-width: only --backbone unet"),
        ("transformer", "--mask-block 4", "--mask-block: only --backbone unet"),
        ("transformer", "--geometry", "--geometry: a transformer is pretrained without it"),
        ("unet", "--decoder-depth 2", "--decoder-depth: only --backbone transformer"),
        ("unet", "--mask-block 8", "--mask-block: expected one of 2, 4"),
        ("unet", "--model pointmae", "--model: expected polarmae"),
        ("unet", "--best-by chamfer", "--best-by chamfer: a U-Net"),
        ("unet", "--rotations any --no-rotate", "use only one of them"),
        ("unet", "--crops 3", "--crops: only --method distill"),
        ("transformer", "--method distill", "--method: distill needs backbone unet"),
        ("distill", "--teacher-temperature 0.01", "--teacher-temperature: expected a number from 0.03 to 1"),
        ("distill", "--best-by chamfer", "--best-by chamfer: a U-Net"),
    ],
)
def test_flags_of_the_other_backbone(data, tmp_path, capsys, backbone, flags, message):
    """Breaks if a flag that has no effect is accepted in silence."""
    assert message in refused(command(data, tmp_path, *flags.split(), backbone=backbone), capsys)


def test_points_between_voxels(data, tmp_path, capsys):
    """A U-Net refuses coordinates that are not whole voxels; a transformer takes them. Breaks if they are rounded."""
    damaged(data / "train/events_v2.h5", "off the lattice")
    flags = "--num-epoch 1 --no-plot --no-probe".split()
    line = refused(command(data, tmp_path / "unet", *flags, backbone="unet"), capsys)
    assert "event 1: expected whole numbers as coordinates" in line
    script.main(command(data, tmp_path, *flags))


# ---- bad input: one line each


def damaged(path, kind):
    """Damage the second event of a file."""
    with h5py.File(path) as file:
        events = [
            (file["point"][k].reshape(-1, 8), file["cluster"][k].reshape(-1, 6)) for k in range(len(file["point"]))
        ]
    points, clusters = events[1]
    if kind == "row width":
        points = points.reshape(-1)[:-3]
    elif kind == "sizes":
        clusters[1, 0] += 1
    elif kind == "nan":
        points[7, 3] = np.nan
    elif kind == "off the lattice":
        points[7, 0] += 0.25
    elif kind == "outside":
        points[7, 0] = 768
    events[1] = points, clusters
    write(path, events)


BAD = {
    "row width": "rows of 8 numbers",
    "sizes": "add up to its",
    "nan": "got NaN",
    "outside": "coordinates 0 to 767",
}


@pytest.mark.parametrize("kind, workers", [*((kind, "0") for kind in BAD), ("nan", "1")])
def test_bad_event(data, tmp_path, capsys, kind, workers):
    """One line names it, also if a worker reads it; with --skip-bad it is counted and dropped."""
    damaged(data / "train/events_v2.h5", kind)
    flags = command(data, tmp_path / "w", *f"--num-workers {workers} --num-epoch 1 --no-plot --no-probe".split())
    line = refused(flags, capsys)
    assert BAD[kind] in line and "event 1" in line and "--skip-bad" in line and "worker" not in line
    index_path(data / "train/events_v2.h5").unlink(missing_ok=True)
    script.main([*flags, "--skip-bad"])
    log = (tmp_path / "w/log/tiny.log").read_text()
    assert "bad events skipped: 1" in log and torch.isfinite(weights(tmp_path / "w/model/tiny.pt")["mask_token"]).all()


@pytest.mark.parametrize(
    "kind, flags, message",
    [
        ("text", "", "not a readable HDF5 file"),
        ("empty", "", "expected .h5 files"),
        ("missing", "", "no such folder"),
        ("", "--min-points 100000", "--min-points"),
        ("", "--mask-ratio 1.5", "--mask-ratio"),
        ("", "--mask-ratio 0", "--mask-ratio: expected a number above 0"),
        ("", "--depth -1", "--depth: expected an integer of at least 1"),
        ("", "--depth 0", "--depth: expected an integer of at least 1"),
        ("", "--decoder-depth -1", "--decoder-depth: expected an integer of at least 0"),
        ("", "--clip nan", "--clip: expected a number of at least 0"),
        ("", "--context 0", "context"),
        ("", "--overlap -1", "overlap: expected"),
        ("", "--seeds -5", "seeds: expected"),
        ("", "--radius nan", "radius: expected"),
        ("", "--accumulate 0", "--accumulate"),
        ("", "--lr-start 1", "--lr-start"),
        ("", "--compile", "--compile"),
        ("", "--test", "--test"),
        ("", "--best-by probe_f1_mean --probe-every 1 --no-probe", "--best-by probe_f1_mean: training makes no probes"),
        ("", "--best-by probe_f1_mean", "--probe-every N"),
        ("", "--best-by probe_f1_mean --num-step 3 --probe-every 4", "give --probe-every N, within the run"),
        ("", "--eval", "no such checkpoint"),
        ("no plotly", "--plot-html", "pip install plotly"),
    ],
)
def test_bad_flags_and_folders(data, tmp_path, capsys, monkeypatch, kind, flags, message):
    """One line, a non-zero status, nothing written, and no file of an earlier run of the prefix is changed."""
    earlier = [
        tmp_path / "w" / name
        for name in ("log/tiny.log", "model/tiny.pt", "model/tiny_best.pt", "log/tiny/end.event0.energy.png")
    ]
    if flags != "--eval":
        for path in earlier:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("precious")
    files = {p: p.read_bytes() for p in (tmp_path / "w").rglob("*") if p.is_file()}
    if kind == "text":
        (data / "train/events_v2.h5").write_text("not HDF5")
    elif kind == "no plotly":
        monkeypatch.setitem(sys.modules, "plotly", None)
    elif kind:
        shutil.rmtree(data)
        if kind == "empty":
            data.mkdir()
    assert message in refused(command(data, tmp_path / "w", *flags.split()), capsys)
    assert {p: p.read_bytes() for p in (tmp_path / "w").rglob("*") if p.is_file()} == files


def test_diverged_network(data, tmp_path, capsys):
    """A huge learning rate: the validation after the step ends the run, and names the flag; no epoch is stored.

    Breaks if the probe passes nan on to scikit-learn, or if a checkpoint with nan replaces a good one."""
    line = refused_by(script.main, command(data, tmp_path, *"--lr-init 1e30 --warmup 0 --num-step 1".split()), capsys)
    assert "valid: the loss is" in line and "--lr-init" in line
    progress = read_checkpoint(tmp_path / "model/tiny.pt")["progress"]
    assert not progress["history"] and not (tmp_path / "model/tiny_best.pt").exists()
