"""bench/label_budgets.py: trains each missing run once."""

import pytest

import bench.label_budgets as study
from puffin.errors import InputError
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
