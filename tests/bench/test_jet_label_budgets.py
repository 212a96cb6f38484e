"""bench/jet_label_budgets.py: trains each missing run once, and compares with the baseline."""

from pathlib import Path

import h5py
import pytest

import bench.jet_label_budgets as study
from puffin.errors import InputError
from puffin.settings.presets import read_yaml

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "sample_data" / "run12"


@pytest.fixture
def jets(tmp_path):
    """A folder with 80 training jets and one with 40 test jets."""
    for split, number in (("train", 80), ("test", 40)):
        (tmp_path / split).mkdir()
        with (
            h5py.File(SAMPLES / f"{split}.h5") as whole,
            h5py.File(tmp_path / split / f"{split}.h5", "w") as part,
        ):
            for key in ("Pmu", "Nobj", "is_signal"):
                part[key] = whole[key][:number]
    return tmp_path


@pytest.fixture
def settings(tmp_path):
    """A settings file of a small network."""
    text = "num-channels-scalar: 2\nnum-channels-m: [[3]]\nnum-channels-2to2: [3]\nnum-channels-m-out: [3, 3]\n"
    path = tmp_path / "small.yaml"
    path.write_text(text + "num-channels-out: [3]\nnobj: 8\nnum-epoch: 2\nbatch-size: 10\n")
    return path


def test_study(jets, settings, monkeypatch, capsys):
    """Breaks if a finished run is trained again, a started one is not continued, the jets of the methods differ, or the
    labels of --simulated are not used by the baseline `simulated` alone."""
    pytest.importorskip("fastjet")
    seen, main, trees = [], study.train_pelican_classifier.main, []

    def spied(argv):
        kind = "eval" if "--eval" in argv else "load" if "--load" in argv else "train"
        seen.append((kind, argv[argv.index("--prefix") + 1]))
        return main(argv, stop if len(seen) == 3 else None)

    def stop(history):
        raise KeyboardInterrupt

    def fitted(train, test, *args):
        trees.append((len(train.y), args[3] is not None))
        return original(train, test, *args)

    original = study.jets_baseline.trees
    monkeypatch.setattr(study.train_pelican_classifier, "main", spied)
    monkeypatch.setattr(study.jets_baseline, "trees", fitted)
    flags = ["--datadir", str(jets / "train"), "--testfile", str(jets / "test/test.h5"), "--workdir", str(jets)]
    flags += ["--methods", "baseline", str(settings), "--simulated", str(jets / "train/train.h5")]
    flags += "--budgets 20 --seeds 1 2 -- --cpu --threads 1".split()
    with pytest.raises(KeyboardInterrupt):
        study.main(flags)
    study.main(flags)
    first, second = "budgets-small-20-s1", "budgets-small-20-s2"
    assert seen == [("train", first), ("eval", first), ("train", second), ("load", second), ("eval", second)]
    assert trees == [(20, False), (20, True)] * 2
    capsys.readouterr()
    study.main(flags)
    assert len(seen) == 5 and len(trees) == 4
    lines = capsys.readouterr().out.splitlines()
    methods = [line.split("|")[1].strip() for line in lines if line.startswith("| budgets")]
    assert [name.split("-")[1] for name in methods] == ["baseline", "simulated", "small", *["simulated", "small"] * 2]
    assert "20 labels, 40 test jets" in lines


def test_vary(jets, settings):
    """Breaks if a variation is not trained with its flags and those of the last settings file, and evaluated, or if its
    runs have the name of a variation of another settings file."""
    (jets / "vary.yaml").write_text("longer: --num-epoch 3 --clip 1\n")
    flags = ["--datadir", str(jets / "train"), "--testfile", str(jets / "test/test.h5"), "--workdir", str(jets)]
    flags += ["--methods", str(settings), "--vary", str(jets / "vary.yaml")]
    study.main([*flags, *"--budgets 20 --seeds 1 -- --cpu --threads 1 --num-epoch 1".split()])
    saved = {name: read_yaml(jets / f"log/budgets-{name}-20-s1.yaml", "", "", "") for name in ("small", "small-longer")}
    found = {name: [values[key].value for key in ("num_epoch", "clip", "nobj")] for name, values in saved.items()}
    assert found == {"small": [1, 0, 8], "small-longer": [3, 1, 8]}
    assert len(list((jets / "predict").glob("budgets-small-longer-20-s1.best.test.*.pt"))) == 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            "--methods baseline nothing.yaml",
            "--methods nothing.yaml: neither `baseline`, `simulated` nor a settings file",
        ),
        ("--methods config/11k.yaml config/11k.yaml", "--methods config/11k.yaml: two methods are called 11k"),
        ("--methods simulated", "--methods simulated: needs --simulated FILE"),
        ("--budgets 200 --testfile TEST", "--budgets: expected at most 80"),
        ("--budgets 20", "no test file"),
        ("--methods baseline --vary VARY", "--vary: needs a settings file as the last of --methods"),
        ("--methods config/11k.yaml --vary VARY", "vary.yaml line 1: wide: expected flags"),
        ("--methods config/11k.yaml --vary nothing.yaml", "nothing.yaml: no such file of variations"),
    ],
)
def test_bad_flags(jets, flags, message):
    """They are refused before anything is trained."""
    (jets / "vary.yaml").write_text("wide: 3\n")
    flags = flags.replace("TEST", str(jets / "test/test.h5")).replace("VARY", str(jets / "vary.yaml")).split()
    with pytest.raises(InputError, match=message):
        study.main(["--datadir", str(jets / "train"), "--workdir", str(jets / "w"), *flags])
    assert not (jets / "w").exists()
