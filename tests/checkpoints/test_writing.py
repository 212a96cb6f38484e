"""Checkpoints: whole or absent, and never code."""

import argparse
import csv
import os
import pickle

import pytest
import torch

from puffin.checkpoints.checkpoint import Checkpoint
from puffin.checkpoints.reading import Placeholder, read_checkpoint
from puffin.checkpoints.writing import save_checkpoint
from puffin.errors import InputError
from puffin.files import append_row, whole_file


def test_round_trip(tmp_path):
    """Tensors and plain types come back equal."""
    save_checkpoint(tmp_path / "a.pt", {"x": torch.arange(3), "n": {"k": [1, 2.5, "s", None]}})
    back = read_checkpoint(tmp_path / "a.pt")
    assert torch.equal(back["x"], torch.arange(3)) and back["n"] == {"k": [1, 2.5, "s", None]}


def test_failed_write_keeps_the_old_file(tmp_path):
    """An error in the middle of writing must leave the former content and no temporary file."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_damaged_file(tmp_path, content):
    """Both readers name the file in one line."""
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    for read in (Checkpoint.read, read_checkpoint):
        with pytest.raises(InputError, match="bad.pt"):
            read(path)


class _Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("raw", [False, True])
def test_hostile_file_runs_nothing(tmp_path, legacy, raw):
    """os.system in a __reduce__ must not run, in any file format that torch.load takes."""
    proof = tmp_path / "proof"
    content = {"model_state": {"w": torch.ones(2)}, "args": argparse.Namespace(a=1), "x": _Hostile(f"touch {proof}")}
    path = tmp_path / "hostile.pt"
    if raw:
        path.write_bytes(pickle.dumps(content["x"]))
        with pytest.raises(InputError):
            read_checkpoint(path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        back = read_checkpoint(path)
        assert (
            isinstance(back["x"], Placeholder)
            and back["args"].a == 1
            and torch.equal(back["model_state"]["w"], torch.ones(2))
        )
    assert not proof.exists()


def test_published_checkpoint(run_folder):
    """The golden checkpoint pickles foreign schedulers; they come back inert, tensors and Namespace as they are."""
    content = read_checkpoint(run_folder / "ref_best.pt")
    assert isinstance(content["args"], argparse.Namespace) and content["args"].nobj == 85
    assert all(isinstance(v, torch.Tensor) for v in content["model_state"].values())
    assert isinstance(content["scheduler_state"]["after_scheduler"], Placeholder)


def test_rows_from_many_processes(tmp_path):
    """Rows appended at once must all be there, under one header, though half of the processes have a column of
    their own."""
    import multiprocessing

    path = tmp_path / "t.csv"
    workers = [multiprocessing.get_context("fork").Process(target=_append, args=(path, k)) for k in range(4)]
    [w.start() for w in workers]
    [w.join() for w in workers]
    with open(path) as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"who", "n", "odd"}
    found = sorted((int(r["who"]), int(r["n"]), r["odd"]) for r in rows)
    assert found == [(k, n, "x" if k % 2 else "") for k in range(4) for n in range(20)]


def _append(path, k):
    for n in range(20):
        append_row(path, {"who": k, "n": n} | ({"odd": "x"} if k % 2 else {}))


def test_rows_with_other_columns(tmp_path):
    """New columns are added, and no row is lost or mixed; a line that a full disk tore stays a line of its own."""
    path = tmp_path / "t.csv"
    for row in ({"a": 1, "b": "x, y"}, {"b": 2, "c": 3}, {"a": 4}):
        append_row(path, row)
    assert path.read_text() == 'a,b,c\n1,"x, y",\n,2,3\n4,,\n'
    path.write_text("a,b\n1,2\n3")
    append_row(path, {"b": 5})
    append_row(path, {"c": 6})
    assert path.read_text() == "a,b,c\n1,2,\n3,,\n,5,\n,,6\n"
