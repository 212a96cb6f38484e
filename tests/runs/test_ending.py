"""The last lines of a run: its files, and the commands that can be typed next."""

import shlex

import show_metrics

import train_pelican_classifier
import train_pointmae
from puffin.settings.clouds import PointSegmentationSettings
from puffin.settings.flags import parse
from tests.runs.helpers import TINY_AUTOENCODER, TINY_CLOUDS, TINY_PELICAN
from tools import report


def commands(log) -> list[list[str]]:
    """Return the commands that a log proposes, in words."""
    return [shlex.split(line.partition("next: ")[2]) for line in log.read_text().splitlines() if "next: " in line]


def test_a_tagger(small_jets, tmp_path, capsys):
    """Breaks if a command cannot be typed as it is, but for FILE."""
    flags = [*TINY_PELICAN, *"--nobj 12 --prefix tiny --num-epoch 1 --no-plot".split()]
    train_pelican_classifier.main([*flags, "--datadir", str(small_jets), "--workdir", str(tmp_path)])
    shown, evaluation, page = commands(tmp_path / "log/tiny.log")
    show_metrics.main(shown[2:])
    assert "AUC" in capsys.readouterr().out
    report.main(page[2:])
    assert "tiny" in (tmp_path / "log/tiny.html").read_text()
    assert evaluation[:2] == ["python3", "train_pelican_classifier.py"] and evaluation[-1] == "FILE"
    line = [*evaluation[2:-1], str(small_jets / "test.h5"), "--cpu", "--logdir", str(tmp_path / "an e/log")]
    train_pelican_classifier.main([*line, "--modeldir", str(tmp_path / "e"), "--predictdir", str(tmp_path / "e")])
    again, page = commands(tmp_path / "an e/log/tiny.log")
    show_metrics.main(again[2:])
    assert page[1:3] == ["tools/report.py", "tiny"]
    report.main([*page[2:], "--out", str(tmp_path / "e.html")])


def test_a_pretraining(small_clouds, tmp_path):
    """Breaks if a pretrained network is not proposed for fine-tuning."""
    flags = [*TINY_AUTOENCODER, *TINY_CLOUDS, "--no-plot", "--no-probe", "--num-epoch", "1"]
    train_pointmae.main([*flags, "--datadir", str(small_clouds), "--workdir", str(tmp_path)])
    *_, command, _ = commands(tmp_path / "log/tiny.log")
    assert command[1] == "train_segmentation.py"
    assert parse(PointSegmentationSettings, "", command[2:])["pretrained"] == str(tmp_path / "model/tiny_best.pt")
