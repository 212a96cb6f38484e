"""The study of label budgets: trains what is missing, once."""

import pytest

import bench.label_budgets as study
from puffin.errors import InputError
from tools import plot_label_budgets


def test_study(small_clouds, pretrained, tmp_path, monkeypatch, capsys):
    """Every run once, and a table; after a stop in the second run, the first is not repeated and the second continues; the
    tool draws the same table."""
    seen, main = [], study.train_segmentation.main

    def spied(argv):
        seen.append((argv[argv.index("--prefix") + 1], "--load" in argv))
        return main(argv, stop if len(seen) == 2 else None)

    def stop(history):
        raise KeyboardInterrupt

    monkeypatch.setattr(study.train_segmentation, "main", spied)
    flags = [
        "--pretrained",
        str(pretrained),
        "--datadir",
        str(small_clouds),
        "--workdir",
        str(tmp_path),
        "--methods",
        "scratch",
        "peft",
        "--budgets",
        "4",
    ]
    flags += [
        "--seeds",
        "1",
        "--",
        "--cpu",
        "--threads",
        "1",
        "--min-points",
        "50",
        "--num-step",
        "2",
        "--valid-every",
        "1",
        "--batch-size",
        "2",
        "--head-dim",
        "16",
    ]
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


def test_more_labels_than_there_are(small_clouds, tmp_path):
    """10 training events have 50 points or more: refused before anything is trained."""
    flags = [
        "--pretrained",
        "x.pt",
        "--datadir",
        str(small_clouds),
        "--workdir",
        str(tmp_path / "w"),
        "--budgets",
        "4",
        "11",
        "--",
        "--min-points",
        "50",
    ]
    with pytest.raises(InputError, match="expected 1 to 10, .* got .4, 11."):
        study.main(flags)
    assert not (tmp_path / "w").exists()


def test_bad_name():
    with pytest.raises(InputError, match="without dashes"):
        study.parse(["--pretrained", "x", "--study", "a-b"])
