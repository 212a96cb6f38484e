"""Messages about checkpoints that are not there."""

from pathlib import Path

import pytest

from puffin.checkpoints import reading
from puffin.checkpoints.checkpoint import Checkpoint
from puffin.checkpoints.reading import about_missing, checkpoint_path, read_checkpoint
from puffin.errors import InputError


def test_missing_checkpoint(tmp_path):
    """The message says what is in the place of the checkpoint, and names a similar one, or what the folder has."""
    model = tmp_path / "model"
    assert about_missing(model / "a.pt") == f"{model}/a.pt: no such checkpoint; {model} is not a folder"
    model.mkdir()
    assert about_missing(model / "a.pt").endswith(f"({model} has no checkpoints: train a network first)")
    (model / "top_best.pt").touch()
    (model / "cloud.ckpt").touch()
    (model / "notes.txt").touch()
    assert about_missing(model / "top_bets.pt").endswith(f"no such checkpoint (did you mean {model}/top_best.pt?)")
    assert about_missing(model / "zzz.pt").endswith(f"no such checkpoint ({model} has cloud.ckpt, top_best.pt)")
    assert about_missing(model).endswith(f"is a folder; expected a checkpoint ({model} has cloud.ckpt, top_best.pt)")
    (model / "old.pt").symlink_to(tmp_path / "gone.pt")
    assert "old.pt: is a link to a file that does not exist" in about_missing(model / "old.pt")
    for number in range(9):
        (model / f"run{number}.pt").touch()
    shown = f"({model} has cloud.ckpt, old.pt, run0.pt, run1.pt, run2.pt, run3.pt and 6 more)"
    assert about_missing(model / "zzz.pt").endswith(shown)


@pytest.mark.parametrize("place", ["nothing", "folder", "link"])
def test_it_is_an_input_error(tmp_path, place):
    """Breaks if a folder or a dead link ends in an error of the operating system."""
    path = tmp_path / "a.pt"
    if place == "folder":
        path.mkdir()
    if place == "link":
        path.symlink_to(tmp_path / "gone.pt")
    with pytest.raises(InputError, match="a.pt"):
        read_checkpoint(path)


def test_names_of_weights(tmp_path, monkeypatch):
    """The name of weights that come with Puffin is found everywhere; a file of that name wins.

    The message about an unknown name lists those there are. A path is never taken for a name."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    for name in ("11k.pt", "48k.pt", "48k-tops.pt", "README.md"):
        (shipped / name).touch()
    monkeypatch.setattr(reading, "WEIGHTS", shipped)
    monkeypatch.chdir(tmp_path)
    assert checkpoint_path("48k-tops") == shipped / "48k-tops.pt"
    known = "give the path of a file, or a name of weights that come with Puffin: 11k, 48k, 48k-tops"
    with pytest.raises(InputError, match=f"^48k-top: no such checkpoint .did you mean 48k-tops.*; {known}$"):
        Checkpoint.read("48k-top")
    for path in ("model/48k", "48k.pt", "README"):
        assert str(checkpoint_path(path)) == path
    assert "come with Puffin" not in about_missing(checkpoint_path("48k.pt"))
    (tmp_path / "48k").touch()
    assert checkpoint_path("48k") == Path("48k")
