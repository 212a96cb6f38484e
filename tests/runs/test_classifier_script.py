"""The classifier script, from its flags to its files."""

import csv
import os
import random
import shutil
import subprocess
import sys
import time
from functools import partial

import h5py
import numpy as np
import pytest
import torch
import yaml

import train_pelican_classifier as script
from puffin.checkpoints.reading import read_checkpoint
from puffin.runs.paths import RunPaths
from puffin.settings.flags import parse
from puffin.settings.jets import ClassifierSettings
from puffin.tasks.classification import JetClassification
from tests.conftest import ROOT
from tests.patience import PATIENCE, wait_until
from tests.runs.helpers import TINY_PELICAN, copy_jets, existing_run, refused_by, same, stop_in_training_step, weights
from tools import results

TINY = [
    *TINY_PELICAN,
    *"--nobj 12 --batch-size 20 --drop-rate 0.1 --warmup 0.5 --cooldown 0.5 --summarize-csv all".split(),
]

refused = partial(refused_by, script.main)


@pytest.fixture(scope="module")
def data(small_jets):
    return small_jets


def command(data, work, *flags):
    """Return the flags of a tiny run."""
    return [*TINY, "--datadir", str(data), "--workdir", str(work), "--prefix", "tiny", "--num-epoch", "2", *flags]


def test_train_then_evaluate(data, tmp_path):
    """Every documented output exists and has the documented content."""
    script.main(command(data, tmp_path, *"--predict --ema 0.5 --summarize --plot-format pdf".split()))
    for name in (
        "log/tiny.log",
        "log/tiny.yaml",
        "log/tiny.png",
        "log/tiny.pdf",
        "log/tiny.epochs.csv",
        "model/tiny.pt",
        "model/tiny_best.pt",
        *(
            f"predict/tiny.{k}.{s}{e}"
            for k in ("best", "final")
            for s in ("train", "valid", "test")
            for e in (".pt", "_ROC.csv")
        ),
    ):
        assert (tmp_path / name).stat().st_size > 0, name
    assert list((tmp_path / "log/tiny").glob("events*"))
    with open(tmp_path / "log/tiny.Best.metrics.csv") as file:
        first = next(csv.DictReader(file))
    assert list(first)[:5] == ["prefix", "timestamp", "loss", "accuracy", "AUC"]
    saved = torch.load(tmp_path / "predict/tiny.best.test.pt", weights_only=True)
    assert saved["predict"].shape == (60, 2) and saved["index"].tolist() == list(range(60))
    with open(tmp_path / "log/tiny.epochs.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    assert yaml.safe_load((tmp_path / "log/tiny.yaml").read_text())["drop_rate"] == 0.1

    # evaluation needs no training file, no network flags and no training settings, and repeats the numbers
    only_test = tmp_path / "only"
    only_test.mkdir()
    (only_test / "test.h5").symlink_to(data / "test.h5")
    best = str(tmp_path / "model/tiny_best.pt")
    script.main(existing_run(only_test, tmp_path / "e", "--eval", "--loadfile", best, prefix="tiny-e"))
    with open(tmp_path / "e/log/tiny.Best.metrics.csv") as file:
        again = next(csv.DictReader(file))
    assert float(again["loss"]) == pytest.approx(float(first["loss"]), rel=1e-5) and again["AUC"] == first["AUC"]

    named = f"--eval --cpu --loadfile {best} --workdir {tmp_path}/e --prefix named --predict valid".split()
    script.main([*named, "--datadir", str(data), "--num-valid", "7"])
    predicted = tmp_path / f"e/predict/named.best.valid.{data.name}.pt"
    assert list((tmp_path / "e/predict").glob("named*.pt")) == [predicted]
    assert torch.load(predicted, weights_only=True)["predict"].shape == (7, 2)
    script.main([*named, "--datadir", str(only_test)])
    assert "found no valid events" in (tmp_path / "e/log/named.log").read_text()

    # the same prefix without --load replaces the run; the table keeps both rows
    script.main(command(data, tmp_path, "--num-epoch", "1"))
    assert (
        not list((tmp_path / "predict").glob("*train*"))
        and len((tmp_path / "log/tiny.Best.metrics.csv").read_text().splitlines()) == 3
    )


def test_published_run(run_folder, tmp_path):
    """The published checkpoint gives the published metrics to 1e-5 and predictions to 1e-4."""
    files = ["--loadfile", str(run_folder / "ref_best.pt"), "--testfile", str(run_folder / "test.h5")]
    script.main([*f"--eval --cpu --workdir {tmp_path} --prefix ref --nobj=85".split(), *files])
    ours, published = (
        torch.as_tensor(read_checkpoint(p)["predict"])
        for p in (tmp_path / "predict/ref.best.test.pelican_run.pt", run_folder / "ref.best.test.pt")
    )
    assert float((ours - published).abs().max()) < 1e-4
    rows = []
    for path in (tmp_path / "log/ref.Best.metrics.csv", run_folder / "ref.Best.metrics.csv"):
        with open(path) as file:
            rows.append(next(csv.DictReader(file)))
    assert list(rows[0]) == [*rows[1], "ECE", "evaluated", "run"]
    for name in list(rows[1])[2:]:
        assert float(rows[0][name]) == pytest.approx(
            float(rows[1][name]), abs=1e-5 * max(1, abs(float(rows[1][name])))
        ), name


def test_fine_tuning_from_a_published_checkpoint(run_folder, data, tmp_path):
    """Training starts from the weights of the checkpoint and changes them; the network is the checkpoint's."""
    flags = f"--datadir {data} --workdir {tmp_path} --num-epoch 1 --num-train 20 --nobj 10 --cpu --no-plot".split()
    script.main(["--loadfile", str(run_folder / "ref_best.pt"), *flags])
    before, after = weights(run_folder / "ref_best.pt"), weights(tmp_path / "model/classifier.pt")
    assert before.keys() == after.keys() and not same(before, after)


def test_fine_tuning_is_resumed_where_it_was_stopped(run_folder, data, tmp_path, monkeypatch):
    """The same command with --load, as a batch system repeats it. Breaks if it starts from --loadfile again."""

    def line(work):
        flags = "--num-epoch 2 --num-train 30 --nobj 10 --batch-size 10 --cpu --no-plot".split()
        folders = ["--datadir", str(data), "--workdir", str(tmp_path / work)]
        return ["--loadfile", str(run_folder / "ref_best.pt"), *folders, *flags]

    script.main(line("whole"))
    stop_in_training_step(monkeypatch, JetClassification, 4, script.main, line("cut"))
    script.main([*line("cut"), "--load"])
    assert "resuming at epoch 2, batch 1 (step 4)" in (tmp_path / "cut/log/classifier.log").read_text()
    assert same(weights(tmp_path / "whole/model/classifier.pt"), weights(tmp_path / "cut/model/classifier.pt"))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_killed_run_continues_bit_for_bit(data, tmp_path, workers):
    """kill -9 at a random moment, then --load: the final weights equal those of an uninterrupted run."""

    def start(work, *flags):
        argv = command(data, work, *f"--save-every 1 --num-epoch 4 --num-workers {workers} --no-plot".split(), *flags)
        return subprocess.Popen(
            [sys.executable, "train_pelican_classifier.py", *argv], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )

    whole = start(tmp_path / "whole")
    assert whole.wait(PATIENCE) == 0, whole.stderr.read()
    killed = start(tmp_path / "killed")
    checkpoint = tmp_path / "killed/model/tiny.pt"
    wait_until(lambda: checkpoint.exists() or killed.poll() is not None)
    time.sleep(random.SystemRandom().uniform(0, 0.4))
    killed.kill()
    killed.wait()
    table = tmp_path / "killed/log/tiny.Best.metrics.csv"
    rows = 2 + table.exists()  # a slow machine kills it after its end
    assert checkpoint.exists()
    again = start(tmp_path / "killed", "--load")
    assert again.wait(PATIENCE) == 0, again.stderr.read()
    assert same(weights(tmp_path / "whole/model/tiny.pt"), weights(checkpoint))
    assert same(weights(tmp_path / "whole/model/tiny_best.pt"), weights(tmp_path / "killed/model/tiny_best.pt"))
    assert len(table.read_text().splitlines()) == rows


@pytest.mark.parametrize(
    "ways", [[[], [], []], [["--no-RAMdataset"], ["--no-RAMdataset", "--num-workers", "2"], ["--num-workers", "1"]]]
)
def test_sigterm_saves_mid_epoch(data, tmp_path, monkeypatch, ways):
    """A signal after the third batch: the state is saved there, and the resumed run equals an uninterrupted one.

    The same holds for jets that are streamed, with any number of workers. --load remembers how they are read."""
    monkeypatch.setattr("puffin.data.sampler.GROUP", 30)
    whole, cut, continued = ways
    script.main(command(data, tmp_path / "whole", "--no-plot", *whole))
    with pytest.MonkeyPatch.context() as patch:
        stop_in_training_step(
            patch, JetClassification, 3, script.main, command(data, tmp_path / "cut", "--no-plot", *cut)
        )
    assert read_checkpoint(tmp_path / "cut/model/tiny.pt")["progress"]["batch"] == 3
    script.main(command(data, tmp_path / "cut", "--no-plot", "--load", *continued))
    assert same(weights(tmp_path / "whole/model/tiny.pt"), weights(tmp_path / "cut/model/tiny.pt"))


def test_continued_run_keeps_its_settings(data, tmp_path):
    """--load without the flags of the run: its settings come from the checkpoint, and the weights are identical."""
    half = ["--num-epoch", "2", "--no-plot", "--seed", "7", "--double"]
    script.main(command(data, tmp_path / "whole", *half))
    script.main(command(data, tmp_path / "cut", *half))
    state = read_checkpoint(tmp_path / "cut/model/tiny_best.pt")
    assert state["args"]["seed"] == 7 and state["args"]["drop_rate"] == 0.1
    (tmp_path / "cut/model/tiny.pt").write_bytes((tmp_path / "cut/model/tiny_best.pt").read_bytes())
    script.main(existing_run(data, tmp_path / "cut", *"--load --threads 1 --seed 7".split()))
    assert same(weights(tmp_path / "whole/model/tiny.pt"), weights(tmp_path / "cut/model/tiny.pt"))


def test_continuing_refuses_another_order(data, tmp_path, capsys):
    """With another batch size or way of reading, the rest of the epoch would silently have other events."""
    script.main(command(data, tmp_path, "--no-plot"))
    for flags in (["--batch-size", "30"], ["--no-RAMdataset"]):
        assert "cannot be continued" in refused(command(data, tmp_path, "--load", *flags), capsys)


def test_changed_settings_are_refused_or_logged(data, tmp_path, capsys):
    """--load with other constituents is refused; with another learning rate the log shows both values.

    So it does for an evaluation with other constituents, which is possible. Breaks if either is silent."""
    script.main(command(data, tmp_path, "--no-plot", "--num-epoch", "1"))
    before = (tmp_path / "model/tiny.pt").read_bytes()
    again = existing_run(data, tmp_path, "--no-plot", "--num-epoch", "2")
    line = refused([*again, "--load", "--nobj", "7"], capsys)
    assert "--nobj 7: the run was started with 12" in line and (tmp_path / "model/tiny.pt").read_bytes() == before
    script.main([*again, "--load", "--lr-init", "0.0005"])
    log = (tmp_path / "log/tiny.log").read_text()
    assert "tiny.pt: --num-epoch 1 -> 2, --lr-init 0.0025 -> 0.0005\n" in log
    capsys.readouterr()
    script.main(existing_run(data, tmp_path, "--eval", "--nobj", "7"))
    assert "tiny_best.pt: --nobj 12 -> 7\n" in capsys.readouterr().err


def test_continuing_keeps_its_data(data, tmp_path, capsys):
    """--load without --datadir and --testfile takes those of the run, not the defaults.

    One that does not exist any more is named in the error. One on the command line wins."""
    folder, work = tmp_path / "jets", tmp_path / "work"
    shutil.copytree(data, folder)
    shutil.copy(data / "test.h5", tmp_path / "other.h5")
    script.main(command(folder, work, "--no-plot", "--num-epoch", "1", "--testfile", str(tmp_path / "other.h5")))
    (folder / "test.h5").unlink()  # not the one that was tested with
    again = ["--load", "--cpu", "--prefix", "tiny", "--workdir", str(work), "--no-plot", "--num-epoch", "2"]
    script.main(again)
    state = read_checkpoint(work / "model/tiny.pt")
    assert (
        state["args"]["datadir"] == str(folder)
        and state["args"]["testfile"] == str(tmp_path / "other.h5")
        and state["progress"]["epoch"] == 2
    )
    assert f"with the data of {folder}" in (work / "log/tiny.log").read_text()
    (tmp_path / "other.h5").unlink()
    assert f"--testfile: the run was started with {tmp_path}/other.h5, which does not exist any more" in refused(
        again, capsys
    )
    folder.rename(tmp_path / "moved")
    assert f"--datadir: the run was started with {folder}, which does not exist any more" in refused(again, capsys)
    script.main([*again, "--datadir", str(tmp_path / "moved"), "--testfile", str(data / "test.h5")])


def test_continuing_refuses_other_data(data, tmp_path, capsys):
    """Another number of training events is refused: the order and the length of the epoch would change.

    A checkpoint that does not store the number is resumed."""
    work, fewer = tmp_path / "work", tmp_path / "fewer"
    script.main(command(data, work, "--no-plot", "--num-epoch", "1"))
    shutil.copytree(data, fewer)
    shutil.copy(data / "valid.h5", fewer / "train.h5")
    before, log = (work / "model/tiny.pt").read_bytes(), (work / "log/tiny.log").read_text()
    again = existing_run(fewer, work, *"--load --num-epoch 2 --no-plot".split())
    line = refused(again, capsys)
    assert (
        "expected the 100 training events" in line
        and "got 40" in line
        and "--num-train" in line
        and "without --load" in line
    )
    assert (work / "model/tiny.pt").read_bytes() == before and (work / "log/tiny.log").read_text() == log
    state = torch.load(work / "model/tiny.pt", weights_only=True)
    del state["progress"]["train_events"]
    torch.save(state, work / "model/tiny.pt")
    script.main(again)
    assert read_checkpoint(work / "model/tiny.pt")["progress"]["train_events"] == 40


def test_settings_of_a_run_are_a_preset(data, tmp_path):
    """log/PREFIX.yaml can be given to --yaml, as documented."""
    script.main(command(data, tmp_path, "--no-plot", "--num-epoch", "1"))
    flags = parse(ClassifierSettings, "", ["--yaml", str(tmp_path / "log/tiny.yaml")])
    assert (flags["num_channels_2to2"], flags["predict"], flags["device"]) == ((4, 4), ("test",), "cpu")


def test_preset_values_are_checked(tmp_path):
    """Values of a preset, and those in lists, are checked like flags."""
    from puffin.errors import InputError

    for line in ("dtype: half", "device: gpu", "predict: [tset]", "num-epoch: many", "factorize: 3"):
        (tmp_path / "p.yaml").write_text(line + "\n")
        with pytest.raises(InputError, match=line.split(":")[0]):
            parse(ClassifierSettings, "", ["--yaml", str(tmp_path / "p.yaml")])


def test_symmetries_of_which_network(data, tmp_path, capsys):
    """--test checks the best checkpoint of the prefix, or a new network if there is none, and says which."""
    test = ["--test", "--cpu", "--threads", "1", "--workdir", str(tmp_path), "--prefix", "tiny"]
    script.main([*test, *TINY])
    assert capsys.readouterr().out.startswith("network: a new one, with random weights\n")
    report = tmp_path / "log/tiny.symmetry.txt"
    assert not report.exists()
    script.main(command(data, tmp_path, "--num-epoch", "1", "--no-plot", "--stabilizer", "so3"))
    best, last = tmp_path / "model/tiny_best.pt", tmp_path / "model/tiny.pt"
    capsys.readouterr()
    for further, path in (([], best), (["--loadfile", str(last)], last)):
        script.main([*test, *further])
        output = capsys.readouterr().out
        assert output == f"network: {path}\n{report.read_text()}" and "stabilizer so3" in output
    assert "contradicts" in refused([*test, "--stabilizer", "so2"], capsys)


def test_working_point(data, tmp_path, capsys):
    """Thresholds of the validation jets, and the temperature, are stored beside the checkpoint and applied by others.

    Breaks if a calibration of other weights is used, or if the test jets choose the threshold."""
    script.main(command(data, tmp_path, "--no-plot", "--predict", "valid", "test"))
    evaluate = existing_run(data, tmp_path, "--eval", "--loadfile", str(tmp_path / "model/tiny_best.pt"), prefix="e")
    assert "tiny_best.calibration.json: no such file" in refused([*evaluate, "--working-point", "0.5"], capsys)
    script.main([*evaluate, "--calibrate"])
    stored = tmp_path / "model/tiny_best.calibration.json"
    assert stored.is_file() and not (tmp_path / "predict/e.best.valid.pt").exists()
    script.main([*evaluate, "--working-point", "0.5", "--overwrite"])
    (stem,) = {path.name.split(".pt")[0] for path in (tmp_path / "predict").glob("e.best.test.*.pt")}
    saved = torch.load(tmp_path / f"predict/{stem}.pt", weights_only=True)
    assert (tmp_path / f"predict/{stem}_ECE.png").stat().st_size > 0
    valid = torch.load(tmp_path / "predict/tiny.best.valid.pt", weights_only=True)
    scores = [(s["predict"][:, 1] - s["predict"][:, 0])[s["targets"] == 1] for s in (valid, saved)]
    assert torch.equal(saved["decision"][saved["targets"] == 1].bool(), scores[1] > scores[0].median())
    with open(tmp_path / "log/e.Best.metrics.csv") as file:
        numbers = list(csv.DictReader(file))[-1]
    passing = float(saved["decision"][saved["targets"] == 1].double().mean())
    assert float(numbers["signal_efficiency"]) == pytest.approx(passing)
    assert float(numbers["signal_efficiency_error"]) > 0 and float(numbers["ECE_calibrated"]) >= 0
    logits = saved["predict"] / float(numbers["temperature"])
    torch.testing.assert_close(saved["probability"], logits.softmax(1))

    # the weights change, the file stays; a new run of the same name removes it
    stored.rename(other := tmp_path / "model/tiny.calibration.json")
    content = read_checkpoint(tmp_path / "model/tiny_best.pt")
    next(iter(content["model_state"].values())).add_(1)
    torch.save(content, tmp_path / "model/tiny.pt")
    changed = existing_run(data, tmp_path, "--eval", "--loadfile", str(tmp_path / "model/tiny.pt"), prefix="f")
    assert "belongs to other weights than those in" in refused([*changed, "--working-point", "0.5"], capsys)
    other.write_text("{}")
    assert "not a readable calibration ('temperature')" in refused([*changed, "--working-point", "0.5"], capsys)
    assert other in RunPaths("tiny", tmp_path / "log", tmp_path / "model", tmp_path / "predict").of_earlier_run()


def test_pseudo_labels(data, tmp_path, capsys):
    """A student of twenty labelled jets, and of two networks' labels for other jets; both formats of predictions.

    It is resumed and evaluated as any run. Breaks if the pseudo-labels change nothing."""
    few, other = ["--num-train", "20"], str(data / "valid.h5")
    for name, format_ in (("a", "pt"), ("b", "h5")):
        script.main(command(data, tmp_path / name, *few))
        evaluation = ["--eval", "--loadfile", str(tmp_path / name / "model/tiny_best.pt"), "--predict-format", format_]
        script.main(command(data, tmp_path / name, *evaluation, "--testfile", other))
    labels = [
        str(tmp_path / f"{name}/predict/tiny.best.test.{data.name}.{name_}")
        for name, name_ in (("a", "pt"), ("b", "h5"))
    ]
    student = [*few, "--unlabelled", other, "--pseudo-labels", *labels, "--labelled-fraction", "0.5"]
    capsys.readouterr()
    trained = script.main(command(data, tmp_path / "student", *student))
    assert "20 with true labels, used 2 times per epoch, and 40 with pseudo-labels" in capsys.readouterr().err
    alone = script.main(command(data, tmp_path / "alone", *few))
    assert trained[0]["train_loss"] != alone[0]["train_loss"]
    script.main(command(data, tmp_path / "student", "--load", "--num-epoch", "3"))
    for flags, message in (
        ([*few, "--pseudo-labels", *labels], "--unlabelled"),
        ([*student, "--predict", "train"], "have no true labels"),
        (["--unlabelled", other], "only runs with --pseudo-labels"),
        ([*student[:-2], "--num-classes", "3"], "expected scores of 3 classes"),
    ):
        assert message in refused(command(data, tmp_path / "refused", *flags), capsys)


def test_calibrations_that_make_no_sense(data, tmp_path, capsys):
    """Without --eval, for more than two classes, outside the range, and with validation jets of one class."""
    train = command(data, tmp_path, "--no-plot", "--num-epoch", "1", "--no-predict")
    assert "--calibrate: needs a trained network" in refused([*train, "--calibrate"], capsys)
    assert "--working-point: needs a trained network" in refused([*train, "--working-point", "0.5"], capsys)
    script.main(train)
    evaluate = existing_run(data, tmp_path, "--eval")
    assert "--working-point: expected 0, or 0.01 to 0.99" in refused([*evaluate, "--working-point", "0.001"], capsys)
    only_signal = tmp_path / "signal"
    only_signal.mkdir()
    for split in ("valid", "test"):
        copy_jets(data / f"{split}.h5", only_signal / f"{split}.h5", ("Pmu", "is_signal"), 20)
    with h5py.File(only_signal / "valid.h5", "r+") as file:
        file["is_signal"][:] = 1
    problem = refused(existing_run(only_signal, tmp_path, "--eval", "--calibrate"), capsys)
    assert "--calibrate: no event is of class 0 in the validation jets" in problem
    script.main(command(data, tmp_path, "--no-plot", "--num-epoch", "1", "--num-classes", "3", "--prefix", "three"))
    three = existing_run(data, tmp_path, "--eval", prefix="three")
    assert "--working-point: needs two classes, and the network has 3" in refused(
        [*three, "--working-point", "0.5"], capsys
    )


def test_files_of_an_earlier_run(tmp_path):
    """A prefix is a name, not a pattern: the run 'k*' must find its own predictions, and not those of 'keep'."""
    paths = RunPaths("k*[1]", tmp_path / "log", tmp_path / "model", tmp_path / "predict")
    own = [tmp_path / f"predict/k*[1].{name}" for name in ("best.test.pt", "final.valid_ROC.csv")]
    others = [tmp_path / f"predict/{name}.best.test.pt" for name in ("keep1", "k*[1]-2", "k1", "k*1")]
    (tmp_path / "predict").mkdir()
    for path in own + others:
        path.touch()
    assert paths.of_earlier_run() == own


def test_fine_tuning_never_deletes_its_source(data, tmp_path, capsys):
    """If --loadfile belongs to the run that would be replaced, the script refuses and the file stays."""
    script.main(command(data, tmp_path, "--no-plot", "--num-epoch", "1"))
    best = tmp_path / "model/tiny_best.pt"
    assert "choose another --prefix" in refused(command(data, tmp_path, "--loadfile", str(best)), capsys)
    assert best.exists()


def test_continuing_from_another_run(data, tmp_path):
    """--load --loadfile A --prefix B writes a best checkpoint of B, even if no epoch of B is better than A's best."""
    script.main(command(data, tmp_path, "--no-plot"))
    other = f"--load --loadfile {tmp_path}/model/tiny.pt --prefix other --num-epoch 3 --no-plot".split()
    script.main(command(data, tmp_path, *other))
    assert (tmp_path / "model/other_best.pt").exists()


@pytest.mark.parametrize(
    "before, now", [(["--best-by", "AUC"], ["--best-by", "loss"]), ([], ["--class-weights", "9,9.5"]), ([], [])]
)
def test_best_epoch_by_another_metric(data, tmp_path, before, now):
    """After resuming with another --best-by or other class weights, only the new epochs compete for the best one.

    After resuming with the same ones, an earlier epoch can stay the best. Breaks if a loss is compared with an AUC, or
    with a loss of other weights."""
    short = ["--no-plot", "--num-epoch", "1", "--lr-init", "1e-6"]  # the epochs hardly differ
    script.main(command(data, tmp_path, *short, *before))
    best = tmp_path / "model/tiny_best.pt"
    state = read_checkpoint(tmp_path / "model/tiny.pt")
    state["progress"]["best"]["value"] = 0.9  # possible for an AUC; too high for the negative of a loss
    torch.save(state, tmp_path / "model/tiny.pt")
    script.main(command(data, tmp_path, *short, *now, "--num-epoch", "3", "--load"))
    chosen, text = read_checkpoint(best)["progress"]["best"], (tmp_path / "log/tiny.log").read_text()
    assert ("the best epoch is chosen from the next validation on" in text) == bool(now)
    if now:
        last = read_checkpoint(tmp_path / "model/tiny.pt")["progress"]
        assert chosen["loss"] == min(row["valid_loss"] for row in last["history"][1:]) == -last["best"]["value"]
    else:
        assert chosen["epoch"] == 1


def test_non_finite_loss_stops_before_the_update(data, tmp_path, monkeypatch, capsys):
    """The error names the step, and the weights of the last checkpoint are finite."""
    step, calls = JetClassification.step, []

    def bad_step(self, batch):
        calls.append(1)
        out = step(self, batch)
        return out._replace(loss=out.loss * float("nan")) if len(calls) == 4 else out

    monkeypatch.setattr(JetClassification, "step", bad_step)
    line = refused(command(data, tmp_path, "--save-every", "1"), capsys)
    assert "step 3 (epoch 1, batch 3)" in line
    assert all(torch.isfinite(v).all() for v in weights(tmp_path / "model/tiny.pt").values())


def test_published_example_command(data, tmp_path):
    """The command of the original project runs unchanged, apart from fewer epochs and a folder of our own."""
    published = (
        f"--datadir={data} --target=is_signal --nobj=85 --nobj-avg=40 --num-epoch=64 "
        "--num-train=60000 --num-valid=60000 "
        "--batch-size=64 --prefix=classifier --optim=adamw --activation=leakyrelu --factorize "
        "--lr-decay-type=warm --lr-init=0.0025 "
        "--lr-final=1e-6 --drop-rate=0.05 --drop-rate-out=0.05 --weight-decay=0.025"
    )
    script.main([*published.split(), "--cpu", "--workdir", str(tmp_path), "--num-epoch", "1", "--no-plot"])
    assert (tmp_path / "model/classifier_best.pt").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--datadir nowhere", "no such folder"),
        ("--target jet_tag", "key 'jet_tag' not found"),
        ("--cuda", "use --cpu"),
        ("--yaml nowhere.yaml", "no such preset"),
        ("--config Z", "letters"),
        ("--nobj 0", "--nobj"),
        ("--drop-rate 1.5", "--drop-rate"),
        ("--lr-final 1", "expected --lr-init >= --lr-final > 0"),
        ("--prefix a/b", "--prefix"),
        ("--load", "tiny.pt: no such checkpoint"),
        ("--load --eval", "--load resumes a training, and --eval trains nothing"),
        ("--load --test", "--load resumes a training, and --test trains nothing"),
        ("--loadfile nowhere.pt", "no such checkpoint"),
        ("--eval", "no such checkpoint"),
        ("--num-classes 1", "--num-classes: expected an integer of at least 2"),
        ("--irc-safe", "IRC-safe"),
        ("--num-epoch 0", "--num-epoch: expected an integer of at least 1"),
        ("--clip -1", "--clip: expected a number of at least 0"),
        ("--num-train 0", "--num-train: expected an integer of at least 1, or -1 for all"),
        ("--ema 1", "--ema"),
    ],
)
def test_bad_flags_leave_the_earlier_run_alone(data, tmp_path, capsys, flags, message):
    """One line, a non-zero status, and no file of an earlier run of the same prefix is changed."""
    if flags == "--cuda" and torch.cuda.is_available():
        pytest.skip("this machine has the device")
    earlier = tmp_path / "log/tiny.log"
    earlier.parent.mkdir()
    earlier.write_text("precious")
    assert message in refused(command(data, tmp_path, *flags.split()), capsys)
    assert earlier.read_text() == "precious" and os.listdir(tmp_path) == ["log"]


def test_unknown_preset_key(data, tmp_path, capsys):
    """The error names a misspelled key of a preset."""
    (tmp_path / "p.yaml").write_text("drop-rte: 0.1\n")
    assert "unknown key 'drop-rte'" in refused(command(data, tmp_path, "--yaml", str(tmp_path / "p.yaml")), capsys)


def test_command_line_wins_over_preset(tmp_path):
    """A preset sets defaults only."""
    (tmp_path / "p.yaml").write_text("drop_rate: 0.2\nnum-epoch: 7\nbatchnorm: b\n")
    flags = parse(ClassifierSettings, "", ["--yaml", str(tmp_path / "p.yaml"), "--num-epoch", "9"])
    assert [flags[name] for name in ("num_epoch", "drop_rate", "batchnorm")] == [9, 0.2, "batch"]
    assert {"drop_rate", "num_epoch"} <= flags.given and "batch_size" not in flags.given


def test_checkpoint_of_another_network(data, tmp_path, run_folder, capsys):
    """A contradicting flag, the weights of another model, and a file without settings are refused."""
    reference = str(run_folder / "ref_best.pt")
    test = ["--eval", "--cpu", "--testfile", str(data / "test.h5"), "--workdir", str(tmp_path), "--loadfile"]
    assert "--stabilizer so13 contradicts" in refused([*test, reference, "--stabilizer", "so13"], capsys)
    content = read_checkpoint(run_folder / "ref_best.pt")
    torch.save({"args": vars(content["args"]), "model_state": {"w": torch.ones(1)}}, tmp_path / "other.pt")
    assert "another network" in refused([*test, str(tmp_path / "other.pt")], capsys)
    torch.save({"model_state": {}}, tmp_path / "none.pt")
    assert "not a checkpoint of a network that we know" in refused([*test, str(tmp_path / "none.pt")], capsys)


def test_columns_of_a_file(data, tmp_path, capsys):
    """Jets in other columns give the same network with --columns, and are refused without; --eval takes the columns
    from the checkpoint. Breaks if such jets are trained on as they are."""
    (tmp_path / "other").mkdir()
    for path in data.glob("*.h5"):
        with h5py.File(path) as file, h5py.File(tmp_path / "other" / path.name, "w") as out:
            out["Pmu"], out["is_signal"] = file["Pmu"][:][..., [1, 2, 3, 0]], file["is_signal"][:]
    line = refused(command(tmp_path / "other", tmp_path / "a"), capsys)
    assert "Pmu: expected the columns E,px,py,pz, but they look like px,py,pz,E. Give --columns px,py,pz,E." in line
    line = refused(command(data, tmp_path / "a", "--columns", "px,py,pz"), capsys)
    assert "--columns" in line and "expected one of these in any order: E,px,py,pz; pt,eta,phi,m;" in line
    assert not (tmp_path / "a").exists()
    script.main(command(data, tmp_path / "a", "--num-epoch", "1"))
    script.main(command(tmp_path / "other", tmp_path / "b", "--num-epoch", "1", "--columns", "px, py,pz,e"))
    a, b = (weights(tmp_path / f"{run}/model/tiny.pt") for run in "ab")
    assert all(torch.equal(b[key], value) for key, value in a.items())
    script.main(command(tmp_path / "other", tmp_path / "b", "--eval"))
    assert "they look like E,px,py,pz" in refused(command(data, tmp_path / "b", "--eval"), capsys)


def test_nan_and_truncated_files(data, tmp_path, capsys):
    """Bad data stops the run before anything is written."""
    with h5py.File(data / "train.h5") as file:
        momenta, labels = file["Pmu"][:], file["is_signal"][:]
    momenta[3, 0, 1] = np.nan
    (tmp_path / "bad").mkdir()
    with h5py.File(tmp_path / "bad/train.h5", "w") as file:
        file["Pmu"], file["is_signal"] = momenta, labels
    assert "event 3 is not finite" in refused(command(tmp_path / "bad", tmp_path / "w"), capsys)
    whole = (data / "train.h5").read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/train.h5").write_bytes(whole[: len(whole) // 2])
    assert "train.h5" in refused(command(tmp_path / "cut", tmp_path / "w"), capsys)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_start_methods_of_workers(data, tmp_path, method):
    """Workers that start as on macOS (spawn) or with Python 3.14 (forkserver) give the same weights as none.

    Breaks if something that a worker gets, such as a feature, cannot be pickled. The data have particle types."""
    code = (
        "import multiprocessing, sys\n"
        "sys.path[:0] = ['.', 'src']\n"
        "if __name__ == '__main__':\n"
        f"    multiprocessing.set_start_method('{method}')\n"
        "    import train_pelican_classifier as script\n"
        "    script.main(sys.argv[1:])\n"
    )
    (tmp_path / "run.py").write_text(code)
    flags = ["--no-plot", "--num-epoch", "1", "--read-pid"]
    folder = tmp_path / "jets"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        sample = ROOT / f"data/sample_data/run12/{split}.h5"
        copy_jets(sample, folder / f"{split}.h5", ("Pmu", "is_signal", "pdgid"), 40)
    script.main(command(folder, tmp_path / "none", *flags))
    argv = command(folder, tmp_path / method, *flags, "--num-workers", "2")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), *argv], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr
    assert same(weights(tmp_path / "none/model/tiny.pt"), weights(tmp_path / method / "model/tiny.pt"))


def test_files_without_a_split(data, tmp_path, capsys):
    """Files whose names say nothing of the splits: the error says how to go on."""
    folder = tmp_path / "named otherwise"
    folder.mkdir()
    (folder / "fit.h5").symlink_to(data / "train.h5")
    line = refused(["--datadir", str(folder), "--workdir", str(tmp_path)], capsys)
    assert "no train file (*.h5 with 'train' in its name). Rename the files, or link them under such names" in line


def test_jets_without_labels(data, tmp_path, capsys):
    """The same scores as with labels, but no metrics; tools and trainings say what is missing.

    Breaks if an evaluation needs labels, writes a row without numbers, or takes a misspelt --target for their
    absence."""
    script.main(command(data, tmp_path))
    expected = torch.load(tmp_path / "predict/tiny.best.test.pt", weights_only=True)
    (tmp_path / "bare").mkdir()
    bare = tmp_path / "bare/jets_test.h5"
    copy_jets(data / "test.h5", bare, ("Pmu",), 100)
    evaluation = ["--eval", "--loadfile", str(tmp_path / "model/tiny_best.pt"), "--testfile", str(bare)]
    capsys.readouterr()
    script.main(command(data, tmp_path / "e", *evaluation))
    text = capsys.readouterr().err
    assert "no key 'is_signal', so these jets get predictions but no metrics" in text
    assert "best test: no metrics, as the events have no labels" in text
    found = torch.load(tmp_path / "e/predict/tiny.best.test.jets_test.pt", weights_only=True)
    number = len(found["predict"])
    torch.testing.assert_close(found["predict"], expected["predict"][:number])
    assert "targets" not in found and not (tmp_path / "e/log/tiny.Best.metrics.csv").exists()
    assert not list((tmp_path / "e/predict").glob("*ROC*"))
    assert "no array 'targets'" in refused_by(
        results.main, [str(tmp_path / "e/predict/tiny.best.test.jets_test.pt")], capsys
    )
    misspelt = command(data, tmp_path / "e2", *evaluation, "--target", "is_signa")
    assert "is_signa" in refused(misspelt, capsys)
    copy_jets(data / "test.h5", tmp_path / "bare/train.h5", ("Pmu",), 20)
    assert "is_signal" in refused(command(tmp_path / "bare", tmp_path / "t"), capsys)
