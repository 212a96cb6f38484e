"""The segmentation script, from its flags to its files."""

import os
import signal
from functools import partial
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score, precision_recall_fscore_support

import puffin
import train_pointmae as pretraining
import train_segmentation as script
from puffin.checkpoints.reading import read_checkpoint
from puffin.data.augment import (
    any_rotation,
    any_voxel_rotation,
    drop_points,
    jitter_energies,
    lattice_symmetry,
    mix_events,
)
from puffin.data.pilarnet_files import EventFile
from puffin.errors import InputError
from puffin.runs.clouds import augmentations
from puffin.runs.entry import run_script
from puffin.settings.clouds import PointSegmentationSettings, PretrainingSettings
from puffin.settings.flags import parse
from puffin.tasks.point_predictions import PointPredictions
from tests.conftest import ROOT, golden_files
from tests.runs.helpers import TINY_CLOUDS as TINY
from tests.runs.helpers import (
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

UNET = "--backbone unet --unet-width 4 --unet-levels 3 --geometry --no-plot".split()
SCRATCH = "--arch vit_tiny --depth 1 --head-dim 16".split()
AUGMENTED = "--drop-points 0.5 --energy-jitter 0.2 --mix-events 0.7".split()
EVALUATE = "--eval --min-points 50".split()
refused = partial(refused_by, script.main)
CLASSES = ("shower", "track", "michel", "delta")


@pytest.fixture(scope="module")
def data(small_clouds):
    return small_clouds


def command(data, work, *flags):
    """Return the flags of a tiny run."""
    return [*TINY, "--head-dim", "16", "--datadir", str(data), "--workdir", str(work), *flags]


def encoder_of(path) -> dict:
    """Return the weights of the encoder in a segmentation checkpoint."""
    return {k.removeprefix("encoder."): v for k, v in weights(path).items() if k.startswith("encoder.")}


def test_probe_then_evaluate(data, pretrained, tmp_path):
    """Train with a frozen encoder, and check every documented output.

    The metrics agree with scikit-learn's on the predictions, which name the right points of the input. The encoder is
    bitwise identical to the averaged one of the pretraining. An evaluation in another folder repeats the numbers."""
    probe = f"--finetune peft --pretrained {pretrained} --loss focal:1,dice:0.5 --predict valid test".split()
    history = script.main(command(data, tmp_path, *probe, *"--plot-numbers 1 6 --plot-format svg".split()))
    assert len(history) == 2 and history[0]["valid_f1_macro"] >= 0
    for name in (
        "log/tiny.log",
        "log/tiny.png",
        "log/tiny/end.event1.classes.png",
        "log/tiny/end.event6.classes.png",
        "log/tiny/end.event6.classes.svg",
        "model/tiny_best.pt",
        "predict/tiny.best.valid.h5",
        "predict/tiny.final.test.h5",
        "predict/tiny.best.test_confusion.png",
        "predict/tiny.best.test_confusion.svg",
    ):
        assert (tmp_path / name).stat().st_size > 0, name
    found = row(tmp_path / "log/tiny.Best.metrics.csv")
    assert list(found)[:6] == ["prefix", "timestamp", "loss", "loss_focal", "loss_dice", "accuracy"]

    with h5py.File(tmp_path / "predict/tiny.best.test.h5") as file, EventFile(data / "val/events_v2.h5") as source:
        truth, given, ptr = file["truth"][()], file["class"][()], file["ptr"][()]
        assert file.attrs["files"].tolist() == [str((data / "val/events_v2.h5").resolve())] and file["event"][
            ()
        ].tolist() == list(range(7))
        assert ptr[0] == 0 and ptr[5] == ptr[6] < ptr[7] == len(truth) == len(file["probability"])
        assert (file["probability"][()].argmax(1) == given).mean() > 0.99  # half precision ties
        for event, (first, last) in enumerate(zip(ptr[:-1], ptr[1:], strict=False)):
            points, clusters = source.read(event)
            rows = file["row"][first:last]
            assert np.array_equal(np.repeat(clusters[:, 4], clusters[:, 0])[rows], truth[first:last])
            assert len(rows) == ((points[:, 3] > 0.2) & (np.arange(len(points)) >= clusters[0, 0])).sum()
    labels = np.union1d(truth, given)
    numbers = precision_recall_fscore_support(truth, given, labels=labels, zero_division=0)[:3]
    each = dict(zip(("precision", "recall", "f1"), numbers, strict=False)) | {
        "iou": jaccard_score(truth, given, labels=labels, average=None)
    }
    assert float(found["accuracy"]) == pytest.approx(accuracy_score(truth, given), rel=1e-12)
    for metric, values in each.items():
        assert float(found[f"{metric}_macro"]) == pytest.approx(values.mean(), rel=1e-12)
        for k, name in enumerate(CLASSES):
            expected = values[labels == k][0] if k in labels else np.nan
            assert float(found[f"{metric}_{name}"]) == pytest.approx(expected, rel=1e-12, nan_ok=True), (metric, name)
    table = np.loadtxt(tmp_path / "predict/tiny.best.test_confusion.csv", delimiter=",", skiprows=1)
    assert table.sum() == len(truth) and table.trace() == (truth == given).sum()

    before = read_checkpoint(pretrained)
    averaged = {k.removeprefix("module."): v for k, v in before["average_state"].items()}
    for name, value in encoder_of(tmp_path / "model/tiny.pt").items():
        assert torch.equal(value, averaged.get(f"encoder.{name}", before["model_state"][f"encoder.{name}"])), name

    files = f"--testfile {data}/val/events_v2.h5 --loadfile {tmp_path}/model/tiny_best.pt"
    best = [*EVALUATE, "--cpu", *files.split()]
    script.main([*best, "--workdir", str(tmp_path / "e"), "--prefix", "again", "--batch-size", "2"])
    again = row(tmp_path / "e/log/again.Best.metrics.csv")
    for name in list(found)[2:-2]:
        assert float(again[name]) == pytest.approx(float(found[name]), rel=1e-5, nan_ok=True), name
    script.main(
        [*best, "--workdir", str(tmp_path / "e"), "--prefix", "few", "--num-test", "2", "--no-predict", "--no-plot"]
    )
    script.main(existing_run(data, tmp_path, *EVALUATE, *"--num-valid 2 --predict valid --no-plot".split()))
    with h5py.File(tmp_path / f"predict/tiny.best.valid.{data.name}.h5") as file:
        assert file["event"].shape == (2,)
    assert not list((tmp_path / "e/predict").glob("few*"))


@pytest.mark.parametrize(
    "flags", [["--finetune", "lora", "--lora-rank", "2"], ["--layer-decay", "0.5", "--geometry"]], ids=["lora", "decay"]
)
def test_fine_tuning(data, pretrained, tmp_path, flags):
    """Only the weights that are to be trained change; with LoRA the pretrained weights stay and its updates grow.

    The checkpoint stores how it was fine-tuned, so it can be evaluated and trained further without these flags. The
    hand-made features are inputs of the head, whatever the pretraining had."""
    script.main(
        command(data, tmp_path, "--pretrained", str(pretrained), "--no-plot", "--no-predict", "--num-step", "3", *flags)
    )
    before, after = read_checkpoint(pretrained), encoder_of(tmp_path / "model/tiny.pt")
    before = {
        k.removeprefix("module.encoder."): v
        for k, v in before["average_state"].items()
        if k.startswith("module.encoder.")
    }
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    if "lora" in flags:
        assert (
            not moved
            and all(value.any() for name, value in after.items() if name.endswith(".up"))
            and len(after) > len(before)
        )
    else:
        assert moved == set(before)
        scales = [
            group.get("lr_scale")
            for group in read_checkpoint(tmp_path / "model/tiny.pt")["optimizer_state"]["param_groups"]
        ]
        assert scales == [1, 0.5, 0.25]
    script.main(existing_run(data, tmp_path, *EVALUATE, "--no-plot"))
    first, again = (tmp_path / "log/tiny.Best.metrics.csv").read_text().splitlines()[1:]
    assert [float(x) for x in again.split(",")[2:6]] == pytest.approx(
        [float(x) for x in first.split(",")[2:6]], rel=1e-5
    )
    further = f"--loadfile {tmp_path}/model/tiny.pt --prefix more --num-step 1 --no-plot".split()
    script.main(command(data, tmp_path, *further))
    assert read_checkpoint(tmp_path / "model/more.pt")["args"]["finetune"] == ("lora" if "lora" in flags else "fft")


def test_pictures_are_of_the_best(data, tmp_path, monkeypatch):
    """--eval --prefix evaluates the final network too, but the pictures are of the best one.

    Breaks if the final network is evaluated last."""
    script.main(command(data, tmp_path, *SCRATCH, "--num-epoch", "1", "--no-predict", "--no-plot"))
    model = tmp_path / "model"
    state = torch.load(model / "tiny.pt", weights_only=True)
    state["model_state"]["head.linear3.bias"] += 1  # so that they differ
    torch.save(state, model / "tiny.pt")
    drawn = []
    monkeypatch.setattr(
        "puffin.runs.clouds.draw_labels",
        lambda folder, stem, network, *_: drawn.append((stem, network.head.linear3.bias.clone())) or [],
    )
    script.main(existing_run(data, tmp_path, *EVALUATE, "--no-predict"))
    ((stem, bias),) = drawn
    assert stem == f"eval.{data.name}" and torch.equal(bias, weights(model / "tiny_best.pt")["head.linear3.bias"])
    assert "final test" in (tmp_path / "log/tiny.log").read_text()


def test_low_energy_deposits_as_a_class(data, tmp_path):
    """Five classes, class weights from the data (stored in the checkpoint), a transformer in the head, all losses."""
    flags = [
        *SCRATCH,
        *"--no-remove-led --class-weights data --head-depth 1 --loss nll:0.1,focal,dice:2 --no-plot".split(),
    ]
    script.main(command(data, tmp_path, *flags, "--num-step", "1"))
    found = row(tmp_path / "log/tiny.Best.metrics.csv")
    assert {"recall_led", "loss_nll"} <= found.keys()
    total = 0.1 * float(found["loss_nll"]) + float(found["loss_focal"]) + 2 * float(found["loss_dice"])
    assert float(found["loss"]) == pytest.approx(total, rel=1e-9)
    kept = [float(x) for x in read_checkpoint(tmp_path / "model/tiny.pt")["args"]["class_weights"].split(",")]
    with EventFile(data / "train/events_v2.h5") as file:
        counts = np.zeros(5)
        for event in range(len(file)):
            points, clusters = file.read(event)
            counts += np.bincount(np.repeat(clusters[:, 4], clusters[:, 0])[points[:, 3] > 0.13], minlength=5)
    assert kept == pytest.approx([counts.sum() / n if n else 0 for n in counts], rel=1e-6)
    # the other flags come from the checkpoint
    script.main(existing_run(data, tmp_path, *EVALUATE, "--no-predict", "--plot-events", "0"))


@pytest.mark.parametrize("workers, finetune", [("0", "fft"), ("1", "lora"), ("0", "peft")])
def test_stopped_run_continues_bit_for_bit(data, pretrained, tmp_path, monkeypatch, workers, finetune):
    """SIGTERM between two validations: --load without the flags of the run, and with the pretrained file deleted, gives
    the weights and the numbers of a run that was not stopped.

    Breaks if a rotation or dropout comes from a generator that is not in the checkpoint, or if a validation or a
    picture draws from one that is."""
    copy = tmp_path / "pretrained.pt"
    copy.write_bytes(pretrained.read_bytes())
    every = f"--pretrained {copy} --finetune {finetune} --drop-path 0.2 --loss focal,dice --class-weights data".split()
    every += ["--layer-decay", "0.7"] if finetune == "fft" else []
    every += "--valid-every 2 --accumulate 2 --num-step 6 --batch-size 2 --ema 0.5 --no-predict".split()
    script.main(
        command(data, tmp_path / "whole", *every, *(["--no-plot"] if workers == "1" else ["--plot-every", "4"]))
    )
    every += ["--no-plot"]
    from puffin.tasks.segmentation import PointSegmentation

    # five batches make the three steps of the first epoch
    stop_in_training_step(monkeypatch, PointSegmentation, 6, script.main, command(data, tmp_path / "cut", *every))
    assert read_checkpoint(tmp_path / "cut/model/tiny.pt")["progress"]["step"] == 4
    copy.unlink()
    history = check_resumed(script.main, data, tmp_path, "--num-workers", workers)
    assert [r["step"] for r in history] == [2, 4, 6]


def unet(data, work, *flags):
    """Return the flags of a tiny run with a U-Net."""
    common = "--min-points 50 --batch-size 3 --cpu --threads 1 --num-epoch 2 --prefix tiny".split()
    return [*common, *UNET, "--datadir", str(data), "--workdir", str(work), *flags]


def test_unet(data, tmp_path, monkeypatch):
    """Train a U-Net, stop and resume it to the same bits, evaluate it, and load it from Python.

    Breaks if the backbone is not rebuilt from the checkpoint, or its augmentation draws from another generator."""
    from puffin.tasks.segmentation import PointSegmentation

    script.main(unet(data, tmp_path / "whole"))
    stop_in_training_step(monkeypatch, PointSegmentation, 5, script.main, unet(data, tmp_path / "cut"))
    check_resumed(script.main, data, tmp_path)
    script.main(existing_run(data, tmp_path / "whole", *EVALUATE, "--no-plot"))
    first, again = (tmp_path / "whole/log/tiny.Best.metrics.csv").read_text().splitlines()[1:]
    first, again = ([float(x) for x in line.split(",")[2:6]] for line in (first, again))
    assert again == pytest.approx(first, rel=1e-5)
    network = puffin.load(tmp_path / "whole/model/tiny_best.pt")
    found = np.concatenate(network.predict(data / "val/events_v2.h5"))
    with h5py.File(tmp_path / "whole/predict/tiny.best.test.h5") as file:
        expected = file["probability"][()]
    np.testing.assert_allclose(found[np.isfinite(found[:, 0])], expected, atol=1e-3)


def test_pretrained_unet(data, pretrained_unet, tmp_path):
    """Fine-tuning starts from the averaged weights of the pretraining, with its settings and none of its mask.

    --scratch takes the settings alone. The run is evaluated and resumed without the file. Breaks if a part of the
    backbone, or the norm of the hand-made features, keeps its random weights."""
    flags = f"{' '.join(TINY_TRAINING)} --pretrained {pretrained_unet} --datadir {data} --no-plot --num-step 1"
    flags = f"{flags} --lr-init 1e-9 --lr-start 1e-9 --lr-final 1e-9".split()
    before = read_checkpoint(pretrained_unet)
    averaged = {name.removeprefix("module."): w for name, w in before["average_state"].items()}
    for name, more in (("fine", []), ("scratch", ["--scratch"])):
        script.main([*flags, *more, "--workdir", str(tmp_path / name)])
        after = read_checkpoint(tmp_path / name / "model/tiny.pt")
        settings = ("backbone", "unet_width", "unet_levels", "geometry", "energy_threshold")
        assert {key: after["args"][key] for key in settings} == {key: before["args"][key] for key in settings}
        network = {k: w for k, w in after["model_state"].items() if not k.startswith("head.")}
        close = {k for k, w in network.items() if k in averaged and torch.allclose(w, averaged[k], atol=1e-6)}
        weights_alone = {k for k in network if k in averaged and "running" not in k and "num_batches" not in k}
        assert (weights_alone <= close) == (name == "fine") and {"geometry.norm.weight"} < weights_alone
    script.main(existing_run(data, tmp_path / "fine", *EVALUATE, "--no-plot"))
    script.main(existing_run(data, tmp_path / "fine", "--load", "--num-step", "2", "--no-plot"))


def test_distilled_unet(data, tmp_path):
    """Fine-tuning starts from the teacher, whose features `puffin.load` gives, too. Breaks if it is the student."""
    distill = [*TINY_UNET, *TINY_TRAINING, *"--mask-block 4 --method distill --num-step 2 --no-plot --no-probe".split()]
    pretraining.main([*distill, "--datadir", str(data), "--workdir", str(tmp_path)])
    path = tmp_path / "model/tiny_best.pt"
    teacher = read_checkpoint(path)["model_state"]
    assert not torch.equal(teacher["backbone.stem.conv.weight"], teacher["student.backbone.stem.conv.weight"])
    flags = f"{' '.join(TINY_TRAINING)} --pretrained {path} --datadir {data} --no-plot --num-step 1 --prefix fine"
    script.main([*f"{flags} --lr-init 1e-9 --lr-start 1e-9 --lr-final 1e-9".split(), "--workdir", str(tmp_path)])
    after = read_checkpoint(tmp_path / "model/fine.pt")["model_state"]
    names = [name for name in after if name.endswith("weight") and not name.startswith("head.")]
    assert "geometry.norm.weight" in names
    assert all(torch.allclose(after[name], teacher[name], atol=1e-6) for name in names)
    width = puffin.load(path).predict(data / "val/events_v2.h5")[0].shape[1]
    assert width == len(after["head.weight"][0])


def test_features_of_a_pretrained_unet(data, pretrained_unet):
    """From Python: one row of features for each point, nan for dropped ones. Breaks if tokens are expected."""
    events = puffin.load(pretrained_unet).predict(data / "val/events_v2.h5")
    with EventFile(data / "val/events_v2.h5") as file:
        for number, found in enumerate(events):
            points, clusters = file.read(number)
            dropped = (points[:, 3] <= 0.2) | (np.arange(len(points)) < clusters[0, 0])
            assert len(found) == len(points) and np.array_equal(np.isnan(found[:, 0]), dropped)


@pytest.mark.parametrize("backbone", ["unet", "transformer"])
def test_augmented_run_continues_bit_for_bit(data, tmp_path, monkeypatch, backbone):
    """Every augmentation, stopped in the second epoch and resumed without its flags.

    Breaks if an augmentation draws from a generator that is not in the checkpoint, is not applied, or is not stored."""
    from puffin.tasks.segmentation import PointSegmentation

    flags = unet if backbone == "unet" else lambda *arguments: command(*arguments, *SCRATCH, "--no-plot")
    augmented = [*AUGMENTED, "--rotations", "any" if backbone == "unet" else "lattice"]
    script.main(flags(data, tmp_path / "whole", *augmented))
    stop_in_training_step(monkeypatch, PointSegmentation, 6, script.main, flags(data, tmp_path / "cut", *augmented))
    history = check_resumed(script.main, data, tmp_path)
    losses = [history[1]["train_loss"]]
    for k in range(0, len(augmented), 2):
        others = [*augmented[:k], *augmented[k + 2 :]]
        losses.append(script.main(flags(data, tmp_path / str(k), *others))[1]["train_loss"])
    assert len(set(losses)) == 5


def test_pseudo_labels(data, tmp_path, monkeypatch, capsys):
    """A student of two labelled events, and of a network's labels for the others, is stopped and resumed.

    Breaks if the pseudo-labels change nothing, if they replace true labels, or if a resumed run loses them."""
    from puffin.tasks.segmentation import PointSegmentation

    two = ["--num-train", "2", *AUGMENTED]
    first = script.main(unet(data, tmp_path / "teacher", *two))
    script.main(existing_run(data, tmp_path / "teacher", *EVALUATE, "--no-plot", "--testfile", str(data / "train")))
    name = f"tiny.best.test.{data.name}.h5"
    student = [*two, "--pseudo-labels", str(tmp_path / "teacher/predict" / name)]
    assert "have no true labels" in refused(unet(data, tmp_path / "no", *student, "--predict", "train"), capsys)
    trained = script.main(unet(data, tmp_path / "whole", *student, "--labelled-fraction", "0.5"))
    assert "2 with true labels, used 4 times per epoch, and 8 with pseudo-labels" in capsys.readouterr().err
    assert trained[1]["train_loss"] != first[1]["train_loss"] and trained[1]["step"] == 2 * 6
    cut = unet(data, tmp_path / "cut", *student, "--labelled-fraction", "0.5")
    stop_in_training_step(monkeypatch, PointSegmentation, 8, script.main, cut)
    check_resumed(script.main, data, tmp_path)
    script.main(existing_run(data, tmp_path / "whole", *EVALUATE, "--no-plot"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--backbone unet", [lattice_symmetry]),
        ("--backbone unet --rotations any", [any_voxel_rotation]),
        ("--backbone transformer", [any_rotation]),
        ("--rotations lattice --drop-points 0.1", [lattice_symmetry, drop_points]),
        ("--no-rotate --mix-events 1 --energy-jitter 0.1", [jitter_energies, mix_events]),
    ],
)
def test_augmentations(flags, expected):
    """Breaks if a backbone gets the rotations of the other, or an augmentation is applied before an earlier one."""
    for schema in (PointSegmentationSettings, PretrainingSettings):
        run = SimpleNamespace(settings=parse(schema, "", flags.split()).settings())
        assert [getattr(step, "func", step) for step in augmentations(run)] == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arch", "vit_tiny"], "--arch: only --backbone transformer"),
        (["--layer-decay", "0.5"], "--layer-decay: only --backbone transformer"),
        (["--backbone", "transformer"], "--unet-levels: only --backbone unet"),
        (["--unet-levels", "20"], "unet-levels: expected at most 16"),
    ],
)
def test_flags_of_the_other_backbone(data, tmp_path, capsys, flags, message):
    """Breaks if a flag that has no effect is accepted in silence."""
    assert message in refused(unet(data, tmp_path, *flags), capsys)


def test_preset_of_the_other_backbone(data, tmp_path, capsys):
    """A preset for fine-tuning a transformer is refused by name, too."""
    (tmp_path / "peft.yaml").write_text("layer-decay: 0.5")
    assert "layer_decay: 0.5: only --backbone" in refused(
        unet(data, tmp_path, "--yaml", str(tmp_path / "peft.yaml")), capsys
    )


def test_published_checkpoints(data, tmp_path):
    """Evaluate a published segmentation network. Fine-tune a published masked autoencoder, which keeps its norms."""
    (fine, *_), (masked, *_) = golden_files("polarmae", "segmentation.ckpt"), golden_files("polarmae", "polarmae.ckpt")
    common = ["--cpu", "--datadir", str(data), "--min-points", "50", "--workdir", str(tmp_path), "--no-plot"]
    script.main(["--eval", "--loadfile", str(fine), *common, "--prefix", "fine"])
    assert 0 < float(row(tmp_path / "log/fine.Best.metrics.csv")["f1_macro"]) < 1
    more = "--finetune lora --num-step 1 --batch-size 5 --head-dim 16 --prefix more".split()
    script.main(["--pretrained", str(masked), *more, *common])
    stored = read_checkpoint(tmp_path / "model/more.pt")["args"]
    assert stored["published_norms"] and stored["layers"] == [0, 1] and stored["context"]
    script.main(["--eval", "--prefix", "more", *common])


def test_presets(data, tmp_path):
    """The presets in config/ can be read, and so can log/PREFIX.yaml."""
    script.main(command(data, tmp_path, *SCRATCH, "--num-step", "1", "--no-plot", "--no-predict"))
    flags = parse(PointSegmentationSettings, "", ["--yaml", str(tmp_path / "log/tiny.yaml")])
    assert [flags[name] for name in ("layers", "class_weights", "head_dim")] == [(0,), "pilarnet", 16]
    presets = sorted((ROOT / "config").glob("segmentation_*.yaml"))
    assert len(presets) == 6
    for path in presets:
        settings = parse(PointSegmentationSettings, "", ["--yaml", str(path)]).settings()
        config = settings.network
        if path.stem.endswith("unet"):
            assert config.backbone == "unet" and config.geometry and settings.augmentation.mix_events == 0.5
            continue
        assert path.stem.endswith("quick") or (config.averaged_layers == (3, 7, 11) and config.finetune in path.stem)


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--finetune peft", "give --pretrained"),
        ("--pretrained nowhere.pt", "make one with train_pointmae.py"),
        ("--pretrained PRETRAINED --depth 7", "--depth 7 contradicts"),
        ("--loadfile PRETRAINED", "to fine-tune it: --pretrained"),
        ("--load --loadfile SEGMENTATION", "fine-tune from it without --load"),
        ("--pretrained PRETRAINED --backbone unet", "--backbone unet contradicts"),
        ("--pretrained UNET --backbone transformer", "--backbone transformer contradicts"),
        ("--pretrained UNET --unet-width 8", "--unet-width 8 contradicts"),
        ("--pretrained UNET --head-depth 1", "--head-depth: only --backbone transformer"),
        ("--pretrained PUBLISHED --backbone unet", "--backbone unet contradicts"),
        ("--pretrained UNET --finetune peft", "--finetune: only --backbone transformer"),
        ("--pretrained JETS", "not a checkpoint of a masked autoencoder"),
        ("--pretrained SEGMENTATION", "start from it with --loadfile"),
        ("--pretrained PRETRAINED --loadfile SEGMENTATION", "use only one of them"),
        ("--loadfile SEGMENTATION --layers 0", "--layers 0 contradicts"),
        ("--loadfile SEGMENTATION --no-remove-led", "--remove-led off contradicts"),
        ("--pretrained PRETRAINED --finetune peft --layer-decay 0.5", "only --finetune fft trains"),
        ("--layer-decay 1.5", "--layer-decay"),
        ("--eval --loadfile SEGMENTATION --pretrained PRETRAINED", "as it is; leave the flag out"),
        ("--eval --loadfile SEGMENTATION --scratch", "--scratch: an evaluation"),
        ("--class-weights 1,2", "expected 4 numbers"),
        ("--class-weights 1,-2,3,4", "'pilarnet', 'data', 'none'"),
        ("--class-weights data --eval --loadfile SEGMENTATION --testfile TEST", "found no training events"),
        ("--loss focal:1,dce:1", "expected terms of focal, nll, dice"),
        ("--layers 1 --depth 1", "blocks of the encoder, 0 to 0"),
        ("--drop-points 1", "--drop-points"),
        ("--rotations any --no-rotate", "use only one of them"),
        ("--mix-events 0.5 --batch-size 1", "no pair of events"),
        ("--predict-format pt", "are written to HDF5 files"),
        ("--plot-numbers 7", "expected 0 to 6"),
        ("--lora-rank 0", "--lora-rank"),
        ("--labelled-fraction 0.5", "only runs with --pseudo-labels"),
        ("--pseudo-labels TEST", "key 'file' not found"),
        ("--best-by AUC", "--best-by"),
        ("--compile", "--compile"),
    ],
)
def test_bad_flags(data, pretrained, pretrained_unet, tmp_path, capsys, run_folder, flags, message):
    """One line, a non-zero status, and nothing written."""
    places = {
        "PRETRAINED": pretrained,
        "UNET": pretrained_unet,
        "PUBLISHED": golden_files("polarmae", "polarmae.ckpt")[0],
        "JETS": run_folder / "ref_best.pt",
        "SEGMENTATION": golden_files("polarmae", "segmentation.ckpt")[0],
        "TEST": data / "val/events_v2.h5",
    }
    flags = [str(places.get(flag, flag)) for flag in flags.split()]
    small = [] if "--loadfile" in flags or "--pretrained" in flags else SCRATCH
    base = ["--cpu", "--min-points", "50", "--datadir", str(data), "--workdir", str(tmp_path / "w")]
    assert message in refused([*base, *small, *flags], capsys)
    assert not (tmp_path / "w").exists()


def test_pretraining_is_never_replaced(data, pretrained, tmp_path, capsys):
    """If the checkpoint of the encoder belongs to the run of that prefix, the script refuses and the file stays."""
    (tmp_path / "model").mkdir()
    best = tmp_path / "model/tiny_best.pt"
    best.write_bytes(pretrained.read_bytes())
    assert "choose another --prefix" in refused(command(data, tmp_path, "--pretrained", str(best), "--no-plot"), capsys)
    assert best.exists()


def test_probe_first_then_all_weights(data, pretrained, tmp_path):
    """--loadfile with another --finetune starts from the same weights and trains more of them.

    Such a run can be resumed without repeating --loadfile and --finetune. Both have the names of the jet scripts
    here."""
    probe = f"--finetune head --pretrained {pretrained} --num-step 1 --no-plot --no-predict".split()
    script.main(command(data, tmp_path, *probe))
    first = encoder_of(tmp_path / "model/tiny.pt")
    more = f"--loadfile {tmp_path}/model/tiny.pt --finetune all --prefix all --num-step 1".split()
    script.main(command(data, tmp_path, *more, "--no-plot", "--no-predict"))
    assert not same(first, encoder_of(tmp_path / "model/all.pt"))
    script.main(existing_run(data, tmp_path, "--load", "--num-step", "2", prefix="all"))
    # the table of runs with few labels reads it
    assert read_checkpoint(tmp_path / "model/all.pt")["args"]["loadfile"] == more[1]


def test_resuming_refuses_another_fine_tuning(data, pretrained, tmp_path, capsys):
    """--finetune cannot change within a run, because the optimizer's state would not fit.

    Nor can the pretrained encoder, which is not read again. The same command with --load resumes the run."""
    script.main(command(data, tmp_path, *SCRATCH, "--num-step", "1", "--no-plot", "--no-predict"))
    for flags in (["--finetune", "peft"], ["--pretrained", str(pretrained)], ["--scratch"]):
        line = refused(command(data, tmp_path, *SCRATCH, "--load", *flags), capsys)
        assert f"{flags[0]} " in line and "cannot be continued with another" in line
    same_command = command(
        data, tmp_path, "--pretrained", str(pretrained), "--scratch", "--prefix", "more", "--no-plot", "--no-predict"
    )
    script.main([*same_command, "--num-step", "1"])
    script.main([*same_command, "--num-step", "2", "--load"])
    assert read_checkpoint(tmp_path / "model/more.pt")["progress"]["step"] == 2


def test_unexpected_class(data, tmp_path, capsys):
    """Low-energy deposits outside of cluster 0, for a network without that class.

    The error names the event; with --skip-bad it is dropped and counted."""
    rng = np.random.default_rng(1)
    events = [walk(rng, 100), walk(rng, 100)]
    events[1][1][2, 4] = 4
    for split in ("train", "val"):
        write(tmp_path / "bad" / split / "events_v2.h5", events)
    flags = command(tmp_path / "bad", tmp_path, *SCRATCH, "--class-weights", "none", "--num-step", "1", "--no-plot")
    line = refused(flags, capsys)
    assert "events_v2.h5: event 1: expected low-energy deposits in cluster 0 alone" in line and "--skip-bad" in line
    script.main([*flags, "--skip-bad"])
    assert "bad events skipped: 1" in (tmp_path / "log/tiny.log").read_text()
    with h5py.File(tmp_path / "predict/tiny.best.test.h5") as file:
        assert file["event"][()].tolist() == [0]


def test_sigterm_in_an_evaluation(data, tmp_path, monkeypatch):
    """Status 143, and neither a complete nor a partial file of predictions. Breaks if SIGTERM is not handled."""
    append, before = PointPredictions.append, signal.getsignal(signal.SIGTERM)

    def append_and_signal(self, rows):
        append(self, rows)
        assert len(list((tmp_path / "predict").iterdir())) == 1
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(PointPredictions, "append", append_and_signal)
    flags = [*EVALUATE, "--batch-size", "2", "--no-plot"]
    flags += ["--loadfile", str(golden_files("polarmae", "segmentation.ckpt")[0])]
    with pytest.raises(SystemExit) as stop:
        run_script(script.main, existing_run(data, tmp_path, *flags, prefix="cut"))
    assert stop.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) == before
    assert (
        list((tmp_path / "predict").iterdir()) == [] and "stopped by SIGTERM" in (tmp_path / "log/cut.log").read_text()
    )


def test_every_event_gets_labels(tmp_path):
    """--min-points 0: empty events have an entry in the file too. Otherwise the log counts the dropped events."""
    rng = np.random.default_rng(3)
    empty = np.zeros((0, 8), np.float32), np.zeros((0, 6), np.int32)
    path = write(tmp_path / "data/events_v2.h5", [empty, walk(rng, 90), walk(rng, 20), empty, walk(rng, 60), empty])
    checkpoint = golden_files("polarmae", "segmentation.ckpt")[0]
    flags = f"--eval --cpu --testfile {path} --batch-size 2 --workdir {tmp_path} --no-plot".split()
    flags += ["--loadfile", str(checkpoint)]
    script.main([*flags, "--min-points", "0", "--prefix", "all"])
    with h5py.File(tmp_path / "predict/all.best.test.events_v2.h5") as file:
        assert file["event"][()].tolist() == list(range(6)) and (np.diff(file["ptr"]) > 0).tolist() == [
            False,
            True,
            True,
            False,
            True,
            False,
        ]
        assert file.attrs["checkpoint"] == str(checkpoint.resolve())
    script.main([*flags, "--min-points", "50", "--prefix", "few"])
    assert "have fewer points than --min-points: 4" in (tmp_path / "log/few.log").read_text()
    assert "without labels" not in (tmp_path / "log/all.log").read_text()


def test_files_and_folders_to_label(tmp_path):
    """--testfile with a file and a folder: the predictions store the file and the row of each event.

    Each file alone gives the same labels. Breaks if only the first path is read, or if the predictions are not in the
    order of the files."""
    rng = np.random.default_rng(4)
    one = write(tmp_path / "z_v2.h5", [walk(rng, 90), walk(rng, 120)])
    two, three = (
        write(tmp_path / "more" / folder / "a_v2.h5", [walk(rng, n) for n in sizes])
        for folder, sizes in (("x", (80,)), ("y", (100, 70)))
    )
    checkpoint = golden_files("polarmae", "segmentation.ckpt")[0]
    flags = f"--eval --cpu --min-points 0 --batch-size 1 --workdir {tmp_path} --no-plot".split()
    flags += ["--loadfile", str(checkpoint)]
    script.main([*flags, "--prefix", "every", "--testfile", str(one), str(tmp_path / "more")])
    with h5py.File(tmp_path / "predict/every.best.test.z_v2-and-1-more.h5") as file:
        files = [file.attrs["files"][f] for f in file["file"]]
        assert files == [str(path.resolve()) for path in (two, three, three, one, one)] and file["event"][
            ()
        ].tolist() == [0, 0, 1, 0, 1]
        labels, begin = file["class"][()], file["ptr"][()]
    for path, first, end in ((two, 0, 1), (three, 1, 3), (one, 3, 5)):
        script.main([*flags, "--prefix", "alone", "--overwrite", "--testfile", str(path)])
        with h5py.File(tmp_path / f"predict/alone.best.test.{path.stem}.h5") as file:
            assert len(file["event"]) == end - first and np.array_equal(
                file["class"], labels[begin[first] : begin[end]]
            )
    (tmp_path / "old.yaml").write_text("testfile: ''\n")  # as in the settings of older runs
    with pytest.raises(InputError, match="nowhere: no such folder"):
        script.main(
            [*flags, "--prefix", "none", "--yaml", str(tmp_path / "old.yaml"), "--datadir", str(tmp_path / "nowhere")]
        )
