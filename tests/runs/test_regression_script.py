"""The regression script, and the classifier with several classes, features and weights, from flags to files."""

import csv

import h5py
import numpy as np
import pytest
import torch

import train_pelican_classifier as classifier
import train_pelican_cov as regressor
from puffin.checkpoints.reading import read_checkpoint
from puffin.metrics.classification import columns as classification_columns
from puffin.metrics.regression import columns as regression_columns
from puffin.runs.entry import run_script
from tests.conftest import ROOT
from tests.runs.helpers import copy_jets, existing_run, refused_by, same, weights
from tests.runs.test_classifier_script import TINY


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Jets of five classes with particle types; each event has a weight and two target momenta."""
    folder = tmp_path_factory.mktemp("jets")
    for split, n in (("train", 120), ("valid", 40), ("test", 61)):
        sample = ROOT / "data/sample_data/multiclass" / f"{split}.h5"
        copy_jets(sample, folder / f"{split}.h5", ("Pmu", "jet_tag", "pdgid", "truth_Pmu"), n)
        with h5py.File(folder / f"{split}.h5", "a") as file:
            file["jet_tag_one_hot"] = np.eye(5)[file["jet_tag"][()]]
            file["event_weight"] = np.where(file["jet_tag"][()] == 4, 2.0, 0.5)
            file["truth_Pmu_0"], file["truth_Pmu_1"] = file["truth_Pmu"][()], 0.5 * file["truth_Pmu"][()]
    return folder


def flags(data, work, *further):
    """Return the flags of a tiny run."""
    return [*TINY, "--datadir", str(data), "--workdir", str(work), "--prefix", "tiny", "--num-epoch", "2", *further]


def evaluation(data, work, *further):
    """Return the flags that evaluate the best checkpoint of the run in work/0."""
    best = str(work / "0/model/tiny_best.pt")
    return existing_run(data, work / "e", "--eval", "--overwrite", "--loadfile", best, *further, prefix="e")


def evaluated(script, data, work, *further) -> dict:
    """Evaluate that checkpoint; return the metrics."""
    script.main(evaluation(data, work, *further))
    return row(work / "e/log/e.Best.metrics.csv")


def row(path):
    """Return the last row of a table."""
    with open(path) as file:
        return list(csv.DictReader(file))[-1]


@pytest.mark.parametrize("method", ["spurions", "input"])
def test_regression(data, tmp_path, method):
    """Metrics, predictions and weights of the constituents; an evaluation of the checkpoint repeats them."""
    regressor.main(flags(data, tmp_path, "--method", method, "--stabilizer", "so2", "--scale", "0.1"))
    metrics = row(tmp_path / "log/tiny.Best.metrics.csv")
    assert tuple(metrics)[2:-2] == regression_columns(1) and all(
        np.isfinite(float(v)) for v in list(metrics.values())[2:-2]
    )
    saved = torch.load(tmp_path / "predict/tiny.best.test.pt", weights_only=True)
    spurions = 2 if method == "spurions" else 0
    assert saved["predict"].shape == (61, 1, 4) and saved["particle_weights"].shape[1:] == (1, 3 - spurions)
    with h5py.File(data / "test.h5") as file:
        momenta = torch.from_numpy(file["Pmu"][:, :12]).double()
    lengths = (momenta[..., 0] != 0).sum(1)
    assert torch.equal(saved["lengths"], lengths + spurions)
    assert torch.allclose(saved["jet"], momenta.sum(1), rtol=1e-5)
    if method == "spurions":  # the prediction is the weighted sum of the inputs, with unit spurions
        unit = torch.tensor([[10.0, 0, 0, 0], [0, 0, 0, 10.0]], dtype=torch.float64)
        w = saved["particle_weights"][:, 0].split(saved["lengths"].tolist())
        sums = [x.t() @ torch.cat([unit, p[:n]]) for x, p, n in zip(w, momenta, lengths, strict=False)]
        assert torch.allclose(torch.stack(sums), saved["predict"], rtol=1e-4, atol=1e-3)
    best = str(tmp_path / "model/tiny_best.pt")
    evaluate = ["--eval", "--loadfile", best, "--predict-format", "h5"]
    regressor.main(existing_run(data, tmp_path / "e", *evaluate, prefix="regressor"))
    again = row(tmp_path / "e/log/regressor.Best.metrics.csv")
    assert float(again["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-5)
    with h5py.File(tmp_path / f"e/predict/regressor.best.test.{data.name}.h5") as file:
        assert np.allclose(file["predict"][()], saved["predict"]) and file["index"][()].tolist() == list(range(61))


def test_published_example_command(data, tmp_path):
    """The command of the original project runs unchanged, apart from fewer jets and epochs and a folder of our own."""
    published = (
        f"--datadir={data} --target=truth_Pmu --yaml={ROOT}/config/48k.yaml --nobj=80 "
        "--nobj-avg=20 --batch-size=64 --prefix=regressor"
    )
    further = f"--cpu --workdir {tmp_path} --num-epoch 1 --num-train 30 --num-valid 10 --num-test 20 --no-plot"
    regressor.main([*published.split(), *further.split()])
    assert np.isfinite(float(row(tmp_path / "log/regressor.Best.metrics.csv")["loss"]))


def test_two_targets(data, tmp_path):
    """The keys are given by a list or by their number; the columns are numbered."""
    for k, target in enumerate(("--target truth_Pmu_0,truth_Pmu_1".split(), ["--num-targets", "2"])):
        further = "--num-epoch 1 --loss m,E:0.1,psi:2 --no-plot --weights-key event_weight".split()
        regressor.main(flags(data, tmp_path / str(k), *target, *further))
        assert tuple(row(tmp_path / str(k) / "log/tiny.Best.metrics.csv"))[2:-2] == regression_columns(2)
    assert same(*(weights(tmp_path / k / "model/tiny.pt") for k in "01"))
    # an evaluation uses the loss and the event weights of the training
    trained = row(tmp_path / "0/log/tiny.Best.metrics.csv")
    saved = torch.load(tmp_path / "0/predict/tiny.best.test.pt", weights_only=True)
    with h5py.File(data / "test.h5") as file:
        event_weight = file["event_weight"][()]
    assert saved["weights"].tolist() == event_weight.tolist()
    energy = (saved["predict"] - saved["targets"])[:, 1, 0].abs().numpy()
    assert float(trained["loss_E_1"]) == pytest.approx(np.average(energy, weights=event_weight), rel=1e-6)
    again = evaluated(regressor, data, tmp_path)
    assert all(float(again[name]) == pytest.approx(float(trained[name]), rel=1e-5) for name in regression_columns(2))
    assert float(evaluated(regressor, data, tmp_path, "--loss", "m")["loss"]) < 0.9 * float(trained["loss"])


def test_best_by_one_of_several_targets(data, tmp_path):
    """The metrics of several targets are numbered; --best-by takes the numbered names, also in a preset."""
    (tmp_path / "p.yaml").write_text("best_by: dm_1\n")
    history = regressor.main(
        flags(data, tmp_path, *f"--num-targets 2 --yaml {tmp_path}/p.yaml --num-epoch 3 --no-plot --no-predict".split())
    )
    best = read_checkpoint(tmp_path / "model/tiny_best.pt")["progress"]["best"]
    assert best["dm_1"] == min(row["valid_dm_1"] for row in history) == -best["value"]


def test_predictions_name_the_rows_of_the_files(tmp_path):
    """`row` is the number of a jet in the test files, counted through all of them.

    Jets without a top are dropped, and only some of the others are used. Breaks if `row` counts only the jets that are
    used, or starts from 0 in the second file."""
    files = []
    for name, source, jets in (
        ("train", "train", slice(0, 60)),
        ("test_a", "test", slice(0, 50)),
        ("test_b", "test", slice(50, 90)),
    ):
        with (
            h5py.File(ROOT / f"data/sample_data/run12/{source}.h5") as old,
            h5py.File(tmp_path / f"{name}.h5", "w") as file,
        ):
            for key in ("Pmu", "truth_Pmu"):
                file[key] = old[key][jets]
            files.append(file["truth_Pmu"][()])
    truth = np.concatenate(files[1:])
    assert 20 < truth.any(1).sum() < 70
    regressor.main(flags(tmp_path, tmp_path / "0", "--num-epoch", "1", "--num-test", "20", "--no-plot"))
    saved = torch.load(tmp_path / "0/predict/tiny.best.test.pt", weights_only=True)
    rows = saved["row"].numpy()
    assert len(set(rows)) == 20 and rows.min() < 50 < rows.max() and saved["index"].tolist() == list(range(20))
    assert np.allclose(saved["targets"][:, 0], truth[rows])
    evaluated(regressor, tmp_path, tmp_path, "--num-test", "20", "--predict-format", "h5")
    with h5py.File(tmp_path / f"e/predict/e.best.test.{tmp_path.name}.h5") as file:
        assert file["row"][()].tolist() == rows.tolist()


def test_stopped_regression_is_resumed(data, tmp_path):
    """Stopped after one epoch and resumed: the same weights as without the stop."""
    regressor.main(flags(data, tmp_path / "whole", "--no-plot"))
    from puffin.training.trainer import Trainer

    close = Trainer._close_row

    def stop_after_first(self, *args):
        close(self, *args)
        raise KeyboardInterrupt

    Trainer._close_row = stop_after_first
    try:
        with pytest.raises(KeyboardInterrupt):
            regressor.main(flags(data, tmp_path / "cut", "--no-plot"))
    finally:
        Trainer._close_row = close
    regressor.main(flags(data, tmp_path / "cut", "--no-plot", "--load"))
    assert same(*(weights(tmp_path / k / "model/tiny.pt") for k in ("whole", "cut")))


def test_several_classes(data, tmp_path):
    """All columns, one-hot labels, balanced classes, event weights, particle types together with spurions."""
    weighting = "--class-weights balanced --weights-key event_weight".split()
    further = "--num-classes 5 --target jet_tag_one_hot --read-pid".split()
    classifier.main(flags(data, tmp_path, *further, *weighting))
    metrics = row(tmp_path / "log/tiny.Best.metrics.csv")
    assert tuple(metrics)[2:-2] == classification_columns(5)
    for name in ("tiny.best.test.pt", "tiny.best.test_confusion.csv", "tiny.best.test_ROC_4.csv"):
        assert (tmp_path / "predict" / name).stat().st_size > 0
    table = np.loadtxt(tmp_path / "predict/tiny.best.test_confusion.csv", delimiter=",", skiprows=1)
    with h5py.File(data / "test.h5") as file:
        want = np.bincount(file["jet_tag"][()], file["event_weight"][()], minlength=5)
    assert np.allclose(table.sum(1), want)


def test_evaluation_repeats_the_numbers_of_the_training(data, tmp_path, capsys):
    """A checkpoint stores its features, the key of its event weights, and the class weights from its training data.

    Breaks if one of them is lost, or if the class weights are computed from the test file, which has other fractions
    of the classes."""
    further = "--num-classes 5 --target jet_tag --read-pid --weights-key event_weight --no-plot --num-epoch 1".split()
    classifier.main(flags(data, tmp_path / "0", *further, "--class-weights", "balanced"))
    trained = row(tmp_path / "0/log/tiny.Best.metrics.csv")
    for more in ([], ["--class-weights", "balanced"]):
        again = evaluated(classifier, data, tmp_path, *more)
        for name in ("loss", "accuracy", "AUC_4"):
            assert float(again[name]) == pytest.approx(float(trained[name]), rel=1e-5), (name, more)
    assert float(evaluated(classifier, data, tmp_path, "--class-weights", "none")["loss"]) != pytest.approx(
        float(trained["loss"]), rel=1e-3
    )

    (tmp_path / "bare").mkdir()
    with h5py.File(data / "test.h5") as source, h5py.File(tmp_path / "bare/test.h5", "w") as file:
        for key in ("Pmu", "jet_tag", "pdgid"):
            file[key] = source[key][()]
    capsys.readouterr()
    bare = evaluated(classifier, tmp_path / "bare", tmp_path)
    assert "key 'event_weight' of the event weights not found" in capsys.readouterr().err
    assert float(bare["accuracy"]) != float(trained["accuracy"])
    assert "key 'event_weight' not found" in refused_by(
        classifier.main, evaluation(tmp_path / "bare", tmp_path, "--weights-key", "event_weight"), capsys
    )

    classifier.main(flags(data, tmp_path / "0", *further))
    assert "holds no class weights from its training" in refused_by(
        classifier.main, evaluation(data, tmp_path, "--class-weights", "balanced"), capsys
    )


@pytest.mark.parametrize(
    "script, argv, message",
    [
        (regressor, "--target Pmu_truth", "key 'Pmu_truth' not found"),
        (regressor, "--target truth_Pmu_0,truth_Pmu_1 --num-targets 3", "names 2 momenta"),
        (regressor, "--loss m:0.05,energy:1", "expected terms of inv, m"),
        (regressor, "--loss m:much", "expected a number"),
        *(
            (regressor, f"--loss {loss}", f"finite, not negative and not all zero, got '{loss}'")
            for loss in ("m:-1", "m,3d:nan", "m:inf", "m:0,3d:0")
        ),
        (regressor, "--loss m:1,3d,m:2", "m: expected each term once"),
        (classifier, "--target jet_tag --num-classes 5 --class-weights nan,1,1,1,1", "expected 'balanced'"),
        (classifier, "--target jet_tag --num-classes 5 --class-weights 1,1,inf,1,1", "expected 'balanced'"),
        (regressor, "--best-by AUC", "invalid choice"),
        (regressor, "--best-by loss_E_0", "invalid choice"),
        (
            regressor,
            "--num-targets 2 --best-by dm",
            "--best-by: expected one of loss, dPsi_0, dR_0, dpT_0, dm_0, loss_m_0, loss_3d_0, dPsi_1",
        ),
        (regressor, "--best-by dm_0", "dm, loss_m, loss_3d, pT_resolution, m_resolution, got dm_0"),
        (classifier, "--target jet_tag --num-classes 5 --class-weights 1,2", "expected 5 numbers"),
        (classifier, "--target jet_tag --class-weights 1,-2", "expected 'balanced'"),
        (classifier, "--target jet_tag", "found class 4"),
        (
            classifier,
            "--target jet_tag --num-classes 5 --best-by BgRejectionAt0.3",
            "--best-by: expected one of loss, accuracy, AUC, got",
        ),
        (classifier, "--target jet_tag --num-classes 5 --scalars-keys d0val", "key 'd0val' not found"),
    ],
)
def test_bad_input(data, tmp_path, capsys, script, argv, message):
    """One clear line and a non-zero exit."""
    with pytest.raises(SystemExit) as stop:
        run_script(script.main, flags(data, tmp_path, *argv.split()))
    assert stop.value.code not in (0, None) and message in capsys.readouterr().err


def test_checkpoint_of_the_other_script(data, tmp_path, capsys):
    """The message names the script that the checkpoint belongs to, whatever is done with it."""
    regressor.main(flags(data, tmp_path, "--num-epoch", "1", "--no-plot", "--num-train", "20"))
    checkpoint = f"{tmp_path}/model/tiny.pt"
    for further in (["--load"], ["--eval"], ["--loadfile", checkpoint, "--prefix", "b"]):
        line = refused_by(classifier.main, existing_run(data, tmp_path, *further), capsys)
        assert "found a PELICAN regressor; its script is train_pelican_cov.py" in line


def test_diverged_network(data, tmp_path, capsys):
    """A learning rate that makes the network nan is named, in the step or in the validation after it."""
    huge = ["--lr-init", "1e30", "--warmup", "0", "--num-epoch", "1", "--batch-size", "120"]
    for script in (regressor, classifier):
        target = ["--target", "jet_tag", "--num-classes", "5"] if script is classifier else []
        line = refused_by(script.main, flags(data, tmp_path, "--no-plot", *huge, *target), capsys)
        assert "--lr-init" in line and "nan" in line


def test_jets_without_true_momenta(data, tmp_path):
    """The same momenta as with the true ones, but no metrics."""
    regressor.main(flags(data, tmp_path / "0"))
    expected = torch.load(tmp_path / "0/predict/tiny.best.test.pt", weights_only=True)
    bare = tmp_path / "bare.h5"
    copy_jets(data / "test.h5", bare, ("Pmu",), 61)
    regressor.main(evaluation(data, tmp_path, "--testfile", str(bare)))
    found = torch.load(tmp_path / "e/predict/e.best.test.bare.pt", weights_only=True)
    torch.testing.assert_close(found["predict"], expected["predict"])
    assert "targets" not in found and not (tmp_path / "e/log/e.Best.metrics.csv").exists()
