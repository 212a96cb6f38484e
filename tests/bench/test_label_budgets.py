"""bench/label_budgets.py: trains each missing run once."""

import pytest

import bench.label_budgets as study
from puffin.errors import InputError
from tests.runs.helpers import TINY_UNET
from tools import plot_label_budgets


def test_study(small_clouds, pretrained, tmp_path, monkeypatch, capsys):
    """Each run is trained once. After an interruption of the second run, only the second continues; then the benchmark
    prints a table, and the tool plots the same table."""
    seen, main = [], study.train_segmentation.main

    def spied(argv):
        seen.append((argv[argv.index("--prefix") + 1], "--load" in argv))
        return main(argv, stop if len(seen) == 2 else None)

    def stop(history):
        raise KeyboardInterrupt

    monkeypatch.setattr(study.train_segmentation, "main", spied)
    flags = ["--pretrained", str(pretrained), "--datadir", str(small_clouds), "--workdir", str(tmp_path)]
    flags += "--methods scratch peft --budgets 4 --seeds 1 -- --cpu --threads 1 --min-points 50 --num-step 2".split()
    flags += "--valid-every 1 --batch-size 2 --head-dim 16".split()
    with pytest.raises(KeyboardInterrupt):
        study.main(flags)
    study.main(flags)
    assert seen == [("budgets-scratch-4-s1", False), ("budgets-peft-4-s1", False), ("budgets-peft-4-s1", True)]
    study.main(flags)
    assert len(seen) == 3
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][-4:]
    assert [line.split("|")[1:4] for line in table[2:]] == [[" scratch ", " 4 ", " 1 "], [" peft ", " 4 ", " 1 "]]
    plot_label_budgets.main([str(tmp_path / "log/budgets.Best.metrics.csv")])
    assert capsys.readouterr().out.splitlines()[:4] == table and (tmp_path / "log/budgets.Best.metrics.png").exists()


def test_unet(small_clouds, tmp_path, monkeypatch, capsys):
    """A U-Net needs no pretrained checkpoint: by default the baseline and a training from scratch, and their difference
    with its interval. The predictions of a run can be left out."""
    baseline = study.points_baseline.Baseline
    monkeypatch.setattr(study.points_baseline, "Baseline", lambda classes, iterations: baseline(classes, 2))
    flags = ["--datadir", str(small_clouds), "--workdir", str(tmp_path), *"--budgets 4 --seeds".split()]
    network = ["--", *TINY_UNET, *"--min-points 50 --cpu --threads 1 --num-step 1 --valid-every 1".split()]
    study.main([*flags, "1", *network])
    first, second = capsys.readouterr().out.split("\n\n| ")[-2:]
    assert [line.split("|")[1:4] for line in first.splitlines()[-2:]] == [
        [" baseline ", " 4 ", " 1 "],
        [" scratch ", " 4 ", " 1 "],
    ]
    means = [float(line.split("|")[4]) for line in first.splitlines()[-2:]]
    method, labels, seeds, difference, interval = second.strip("| \n").splitlines()[-1].strip("| ").split(" | ")
    assert (method, labels, seeds) == ("scratch", "4", "1")
    low, high = map(float, interval.split(" to "))
    assert float(difference) == pytest.approx(means[1] - means[0], abs=2e-3) and low <= float(difference) <= high
    study.main([*flags, "1", "2", *network, "--no-predict"])  # the second seed of the network has no predictions
    assert "| scratch | 4 | 2 |" in (out := capsys.readouterr().out) and "| scratch | 4 | 1 | " in out


def test_pretrained_unet(small_clouds, pretrained_unet, tmp_path, monkeypatch):
    """A pretrained U-Net is trained from scratch and fine-tuned as a whole, without the flags of a transformer."""
    seen = []
    monkeypatch.setattr(study.points_baseline, "measure", lambda *args, **more: seen.append("baseline"))
    monkeypatch.setattr(study, "finished", lambda table: {"x-scratch-4-s1"})
    monkeypatch.setattr(study, "markdown", lambda *args: "")
    monkeypatch.setattr(study, "read_runs", lambda *args, **more: [])
    flags = ["--pretrained", str(pretrained_unet), "--datadir", str(small_clouds), "--workdir", str(tmp_path)]
    flags += "--study x --budgets 4 --seeds 1 -- --min-points 50 --cpu --threads 1 --num-step 1 --valid-every 1".split()
    study.main(flags)
    assert seen == ["baseline"] and (tmp_path / "predict/x-fft-4-s1.best.test.h5").exists()
    assert sorted(path.name for path in (tmp_path / "log").glob("*.yaml")) == ["x-fft-4-s1.yaml"]


@pytest.mark.parametrize(
    "checkpoint, method, reason",
    [
        (None, "fft", "needs --pretrained FILE; choose from baseline, scratch"),
        ("pretrained_unet", "lora", "all weights of a U-Net are trained; choose from baseline, scratch, fft"),
    ],
)
def test_methods_that_the_network_does_not_have(small_clouds, checkpoint, method, reason, request):
    """They are refused before anything is trained."""
    flags = ["--pretrained", str(request.getfixturevalue(checkpoint))] if checkpoint else []
    flags += ["--datadir", str(small_clouds), "--methods", "baseline", method, "--", "--min-points", "50"]
    with pytest.raises(InputError, match=f"--methods {method}: {reason}"):
        study.main(flags)


def test_more_labels_than_there_are(small_clouds, pretrained, tmp_path):
    """Only 10 training events have at least 50 points, so 11 are refused before anything is trained."""
    flags = ["--pretrained", str(pretrained), "--datadir", str(small_clouds), "--workdir", str(tmp_path / "w")]
    flags += "--budgets 4 11 -- --min-points 50".split()
    with pytest.raises(InputError, match="expected 1 to 10, .*at least 50 points.* got .4, 11."):
        study.main(flags)
    assert not (tmp_path / "w").exists()


def test_bad_flags(capsys):
    """A name with a dash, which would mix tables, and a budget of no events are refused."""
    with pytest.raises(SystemExit):
        study.parse_arguments(["--pretrained", "x", "--budgets", "0"])
    assert "argument --budgets: expected an integer of at least 1, got '0'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        study.parse_arguments(["--pretrained", "x", "--study", "a-b"])
    assert "without dashes" in capsys.readouterr().err


def test_student(small_clouds, tmp_path, monkeypatch, capsys):
    """A student brings its teachers along; they label all training events. A study that is continued trains no teacher
    again, but needs their labels."""
    baseline = study.points_baseline.Baseline
    monkeypatch.setattr(study.points_baseline, "Baseline", lambda classes, iterations: baseline(classes, 2))
    flags = ["--datadir", str(small_clouds), "--workdir", str(tmp_path), *"--budgets 4 --seeds 1".split()]
    flags += ["--methods", "student", "--", *TINY_UNET, *"--min-points 50 --cpu --threads 1".split()]
    flags += "--num-step 1 --valid-every 1".split()
    study.main(flags)
    table = [line.split("|")[1:4] for line in capsys.readouterr().out.split("\n\n| ")[-2].splitlines()]
    assert table[-3:] == [[f" {method} ", " 4 ", " 1 "] for method in ("baseline", "scratch", "student")]
    labels = [f"budgets{name}-4-s1.best.test.events_v2.h5" for name in ("_labels-scratch", "-baseline")]
    settings = (tmp_path / "log/budgets-student-4-s1.yaml").read_text()
    assert all(f"predict/{name}" in settings for name in labels)
    rows = tmp_path / "log/budgets.Best.metrics.csv"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))  # the student's row is the last one
    (tmp_path / "model/budgets-student-4-s1.pt").unlink()
    study.main(flags)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("run ")] == [
        "run 3 of 3: budgets-student-4-s1"
    ]
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
    (tmp_path / "predict" / labels[1]).unlink()
    with pytest.raises(InputError, match="budgets-baseline-4-s1.*not found. Choose another --study"):
        study.main(flags)
