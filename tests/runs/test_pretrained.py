"""Fine-tuning of jet networks with --pretrained, from flags to files."""

from functools import partial

import h5py
import numpy as np
import pytest
import torch

import optuna_search
import puffin
import train_pelican_classifier as script
import train_pelican_cov as regressor
from puffin.checkpoints.reading import read_checkpoint
from puffin.tasks.classification import JetClassification
from tests.conftest import GOLDEN, ROOT, golden_files
from tests.runs.helpers import (
    check_resumed,
    copy_jets,
    existing_run,
    refused_by,
    row,
    stop_in_training_step,
    weights,
)

PUBLISHED = GOLDEN / "pelican_run/ref_best.pt"  # of two classes
SMALL = "--nobj 10 --batch-size 20 --num-epoch 2 --warmup 0 --cooldown 0 --cpu --threads 1 --prefix tiny --no-plot"
NEW = {"mlp_out.linear.0.weight", "mlp_out.linear.0.bias"}
HEAD = ("msg_2to0.", "agg_2to0.", "mlp_out.")
refused = partial(refused_by, script.main)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Jets of three classes with particle types and true momenta."""
    folder = tmp_path_factory.mktemp("jets")
    for split, n in (("train", 60), ("valid", 30), ("test", 30)):
        sample = ROOT / f"data/sample_data/multiclass/{split}.h5"
        copy_jets(sample, folder / f"{split}.h5", ("Pmu", "jet_tag", "pdgid", "truth_Pmu"), n)
        with h5py.File(folder / f"{split}.h5", "a") as file:
            file["class"] = file["jet_tag"][()] % 3
    return folder


def command(data, work, *flags, pretrained=PUBLISHED):
    """Return the flags of a short fine-tuning to three classes."""
    classes = f"--target class --num-classes 3 --pretrained {pretrained}"
    return [*SMALL.split(), *classes.split(), "--datadir", str(data), "--workdir", str(work), *flags]


@pytest.mark.parametrize("finetune", ["all", "head"])
def test_published_checkpoint_to_three_classes(data, tmp_path, finetune):
    """With head, the embedding and the blocks stay as they were, batch statistics too, and all of the head moves.

    The checkpoint can be evaluated and trained further without these flags. Breaks if the last layer is taken over, or
    if a part of the head is frozen."""
    script.main(command(data, tmp_path, "--finetune", finetune, "--drop-rate", "0.2"))
    before, after = weights(PUBLISHED), weights(tmp_path / "model/tiny.pt")
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name].to(weight))}
    head = {name for name in after if name.startswith(HEAD)}
    assert after["mlp_out.linear.0.weight"].shape == (3, 11) and before.keys() == after.keys()
    assert moved == (set(after) if finetune == "all" else head)
    log = (tmp_path / "log/tiny.log").read_text()
    assert "ref_best.pt, but for a new head" in log and "layers with new weights: mlp_out.linear.0" in log
    settings = read_checkpoint(tmp_path / "model/tiny.pt")["args"]
    assert (
        settings["finetune"] == finetune and settings["num_channels_m"] == [[11]] * 5 and settings["target"] == "class"
    )
    script.main(existing_run(data, tmp_path, "--eval", "--no-plot"))
    first, again = (tmp_path / "log/tiny.Best.metrics.csv").read_text().splitlines()[1:]
    first, again = ([float(x) for x in line.split(",")[2:5]] for line in (first, again))
    assert again == pytest.approx(first, rel=1e-5)
    further = f"--loadfile {tmp_path}/model/tiny.pt --target class --prefix more --num-epoch 1".split()
    script.main([*SMALL.split(), "--datadir", str(data), "--workdir", str(tmp_path), *further])
    assert set(moved_of(tmp_path / "model/tiny.pt", tmp_path / "model/more.pt")) == set(after)


def moved_of(first, second) -> list[str]:
    """Return the names of the weights that differ."""
    a, b = weights(first), weights(second)
    return [name for name in a if not torch.equal(a[name], b[name])]


def test_only_the_last_layer_is_new(data, tmp_path):
    """At a learning rate of nearly 0 all other weights are those of the checkpoint; with --scratch none is."""
    rates = "--lr-init 1e-9 --lr-final 1e-9 --num-epoch 1".split()
    before = weights(PUBLISHED)
    for name, flags in (("fine", []), ("scratch", ["--scratch"])):
        script.main(command(data, tmp_path / name, *rates, *flags, "--no-predict"))
        after = weights(tmp_path / name / "model/tiny.pt")
        tensors = {k for k, w in after.items() if k not in NEW and "running" not in k and "num_batches" not in k}
        close = {k for k in tensors if torch.allclose(after[k], before[k], atol=1e-6)}
        assert (close == tensors) == (name == "fine") and ("net2to2.eq_layers.0.coefs00" in close) == (name == "fine")


def test_start_from_classes_of_the_checkpoint(data, tmp_path):
    """Breaks if the last layer starts at random, or with the rows of other classes."""
    script.main(command(data, tmp_path, "--pretrained-classes", "1,0,1", *"--lr-init 1e-9 --lr-final 1e-9".split()))
    before, after = weights(PUBLISHED), weights(tmp_path / "model/tiny.pt")
    for name in NEW:
        assert torch.allclose(after[name], before[name][[1, 0, 1]], atol=1e-6)
    assert "layers with new weights: none" in (tmp_path / "log/tiny.log").read_text()
    script.main(existing_run(data, tmp_path, "--eval", "--no-plot"))


@pytest.mark.parametrize("finetune", ["all --layer-decay 0.7 --lr-head-factor 3", "head"])
def test_stopped_run_continues_bit_for_bit(data, tmp_path, monkeypatch, finetune):
    """SIGTERM in the second epoch, then --load without the flags of the run, and with the pretrained file deleted.

    Breaks if the frozen part is trained after --load, or if the checkpoint does not store how it was fine-tuned."""
    copy = tmp_path / "pretrained.pt"
    copy.write_bytes(PUBLISHED.read_bytes())
    every = f"--finetune {finetune} --drop-rate 0.2 --ema 0.5 --no-predict".split()
    script.main(command(data, tmp_path / "whole", *every, pretrained=copy))
    again = command(data, tmp_path / "cut", *every, pretrained=copy)
    stop_in_training_step(monkeypatch, JetClassification, 5, script.main, again)
    copy.unlink()
    check_resumed(script.main, data, tmp_path)


def test_learning_rates(data, tmp_path):
    """The first step of SGD is proportional to the learning rate, and so to the factor. The table leaves that out."""
    moved = {}
    for factor in ("1", "4"):
        flags = f"--num-step 1 --lr-init 0.001 --lr-decay-type flat --lr-head-factor {factor} --no-predict".split()
        script.main(command(data, tmp_path / factor, *flags, "--optim", "sgd", "--weight-decay", "0"))
        first, last = weights(PUBLISHED), weights(tmp_path / factor / "model/tiny.pt")
        moved[factor] = {name: last[name] - first[name] for name in ("msg_2to0.linear.0.weight", "linear.weight")}
        history = read_checkpoint(tmp_path / factor / "model/tiny.pt")["progress"]["history"]
        assert history[0]["lr"] == pytest.approx(0.001)
    for name, times in (("msg_2to0.linear.0.weight", 4), ("linear.weight", 1)):
        torch.testing.assert_close(moved["4"][name], times * moved["1"][name], rtol=1e-2, atol=1e-6)
        assert moved["1"][name].any()


def test_regression_from_classification_and_back(data, tmp_path):
    """Without a new flag, the way back keeps the particle types that the regressor has learned to use.

    Breaks if --target, the number of classes or the momenta are taken over, or if the log says nothing."""
    common = [*SMALL.split(), "--num-epoch", "1", "--datadir", str(data)]
    there = ["--pretrained", str(PUBLISHED), "--read-pid", "--workdir", str(tmp_path / "momenta")]
    regressor.main([*common, *there])
    log = (tmp_path / "momenta/log/tiny.log").read_text()
    assert "layers with new weights: agg_2to1, mlp_out_1" in log and "start at zero: pdgid=22, pdgid=211," in log
    assert "settings that differ" not in log
    settings = read_checkpoint(tmp_path / "momenta/model/tiny.pt")["args"]
    assert settings["target"] == "truth_Pmu" and settings["read_pid"] and not settings["published_projections"]
    assert np.isfinite(float(row(tmp_path / "momenta/log/tiny.Best.metrics.csv")["loss"]))

    best = tmp_path / "momenta/model/tiny_best.pt"
    script.main(command(data, tmp_path, "--finetune", "head", "--num-epoch", "1", pretrained=best))
    assert read_checkpoint(tmp_path / "model/tiny.pt")["args"]["read_pid"]
    before, after = weights(best), weights(tmp_path / "model/tiny.pt")
    assert all(torch.equal(w, before[name]) for name, w in after.items() if not name.startswith(HEAD))
    assert after["eq1to2.coefs"].shape[0] == 18
    script.main(command(data, tmp_path, "--no-read-pid", "--num-epoch", "1", pretrained=best))
    assert f"features of {best} that this run does not use: pdgid=22," in (tmp_path / "log/tiny.log").read_text()
    assert weights(tmp_path / "model/tiny.pt")["eq1to2.coefs"].shape[0] == 3


def test_sweep(data, tmp_path):
    """Trials start from the pretrained weights, and the best one is evaluated without them."""
    (tmp_path / "space.yaml").write_text("finetune: {choices: [all, head]}\n")
    sweep = f"--task classifier --study-name s --space {tmp_path}/space.yaml --sampler grid --optuna-test".split()
    flags = command(data, tmp_path, "--num-epoch", "1")
    prefix = flags.index("--prefix")
    optuna_search.main([*sweep, *flags[:prefix], *flags[prefix + 2 :]])
    found = [read_checkpoint(tmp_path / f"model/s-{k}.pt")["args"] for k in (0, 1)]
    assert {trial["finetune"] for trial in found} == {"all", "head"}
    assert all(trial["pretrained"] == str(PUBLISHED) for trial in found)
    assert "\ns-best," in (tmp_path / "log/s.Best.metrics.csv").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--pretrained NOWHERE", "nowhere.pt: no such checkpoint"),
        (
            "--pretrained other",
            "other: no such checkpoint; give the path of a file, or a name of weights that come with Puffin: ",
        ),
        ("--pretrained 48", "48: no such checkpoint (did you mean 48k?); give the path of a file"),
        ("--pretrained lartpc_unet", "--pretrained lartpc_unet: not a checkpoint of a PELICAN classifier or PELICAN"),
        ("--pretrained CLOUD", "not a checkpoint of a PELICAN classifier or PELICAN regressor, found a segmentation"),
        ("--pretrained JETS --loadfile JETS", "use only one of them"),
        ("--pretrained JETS --stabilizer so13", "--stabilizer so13 contradicts"),
        ("--pretrained JETS --num-channels-m [5] --num-channels-2to2 [5]", "--num-channels-m [5] contradicts"),
        ("--pretrained JETS --num-classes 2", "found class 2, but --num-classes is 2"),
        ("--pretrained JETS --finetune fft", "--finetune"),
        ("--pretrained JETS --finetune head --read-pid", "has no weights for the features pdgid=22,"),
        ("--finetune head", "random weights would never be trained"),
        ("--pretrained JETS --scratch --finetune head", "random weights would never be trained"),
        ("--pretrained JETS --finetune head --layer-decay 0.5", "only --finetune all trains the blocks"),
        ("--lr-head-factor 0", "--lr-head-factor"),
        ("--pretrained JETS --pretrained-classes 0,x,1", "expected class numbers separated by commas"),
        ("--pretrained JETS --pretrained-classes 0,1,0", "expected a class for each of the 2 of this run"),
        ("--pretrained JETS --pretrained-classes 0,2", "ref_best.pt has 2 classes, numbered from 0"),
        ("--pretrained JETS --scratch --pretrained-classes 0,1", "needs --pretrained FILE, without --scratch"),
        ("--pretrained-classes 0,1", "needs --pretrained FILE, without --scratch"),
        ("--pretrained JETS --eval --loadfile JETS", "--pretrained: an evaluation uses"),
        ("--pretrained JETS --test", "--pretrained: a symmetry report uses"),
    ],
)
def test_bad_flags(data, tmp_path, capsys, flags, message):
    """One line, a non-zero status, and nothing written."""
    places = {
        "JETS": PUBLISHED,
        "CLOUD": golden_files("polarmae", "segmentation.ckpt")[0],
        "NOWHERE": tmp_path / "nowhere.pt",
    }
    base = f"{SMALL} --target class --datadir {data} --workdir {tmp_path / 'w'}".split()
    assert message in refused([*base, *(str(places.get(flag, flag)) for flag in flags.split())], capsys)
    assert not (tmp_path / "w").exists()


def test_pretrained_network_is_never_replaced(data, tmp_path, capsys):
    """If the checkpoint belongs to the run of that prefix, the script refuses and the file stays."""
    (tmp_path / "model").mkdir()
    best = tmp_path / "model/tiny_best.pt"
    best.write_bytes(PUBLISHED.read_bytes())
    assert "choose another --prefix" in refused(command(data, tmp_path, pretrained=best), capsys)
    assert best.exists()


def test_pretrained_by_name(data, tmp_path, monkeypatch, capsys):
    """Weights that come with Puffin are found by their name, which the run keeps, wherever it is evaluated.

    The weights are never replaced. Breaks if the name is taken for a file in the current folder."""
    shipped = tmp_path / "model"  # also the folder of the run
    shipped.mkdir()
    (shipped / "tops.pt").write_bytes(PUBLISHED.read_bytes())
    monkeypatch.setattr("puffin.checkpoints.reading.WEIGHTS", shipped)
    flags = command(data, tmp_path, "--num-epoch", "1", pretrained="tops")
    assert "choose another --prefix" in refused([*flags, "--prefix", "tops"], capsys)
    script.main(flags)
    assert read_checkpoint(shipped / "tiny.pt")["args"]["pretrained"] == "tops"
    script.main([*flags, "--load", "--num-epoch", "2"])
    evaluate = f"--eval --loadfile tiny --cpu --datadir {data} --workdir {tmp_path} --prefix e --no-plot".split()
    script.main(evaluate)
    values = [float(row(tmp_path / f"log/{name}.Best.metrics.csv")["loss"]) for name in ("tiny", "e")]
    assert np.isfinite(values).all()
    assert puffin.load("tops").predict(data / "test.h5").shape == (30, 2)


def test_resuming_refuses_another_fine_tuning(data, tmp_path, capsys):
    """What is trained cannot change within a run; the same command with --load resumes it."""
    short = command(data, tmp_path, "--num-epoch", "1", "--no-predict")
    script.main(short)
    for flags in (["--finetune", "head"], ["--pretrained", str(ROOT / "weights/lartpc_unet.pt")], ["--scratch"]):
        line = refused([*short, "--load", *flags], capsys)
        assert f"{flags[0]} " in line and "cannot be continued with another" in line
    script.main([*short, "--load", "--num-epoch", "2"])
    assert row(tmp_path / "log/tiny.Best.metrics.csv")["prefix"] == "tiny"
