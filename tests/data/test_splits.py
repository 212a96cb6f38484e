"""Which files are used for training, validation and test, and what is said about the others."""

import logging

import numpy as np
import pytest

from puffin.data import jets, pilarnet
from puffin.data.jets import JetSelection
from puffin.data.pilarnet import CloudSelection
from puffin.data.splits import files_by_folder, files_by_name, log_splits, splits_of
from puffin.errors import InputError
from tests.runs.helpers import walk, write


def touch(folder, names: str):
    for name in names.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names_of(found) -> dict[str, list[str]]:
    return {split: [path.name for path in paths] for split, paths in found.items()}


def test_names_as_people_write_them(tmp_path):
    """A split is a word of the name. A file of a killed writer is ignored.

    Breaks if validation.h5 is not used, or if constrained.h5 is a training file."""
    touch(tmp_path, "train_1.h5 top-training.hdf5 constrained.h5 .train.h5.x.h5 val.h5 x_valid_2.h5 Validation.H5")
    touch(tmp_path, "dev7.h5 test.txt Test_A.h5 holdout.h5")
    assert names_of(files_by_name(tmp_path)) == {
        "train": ["top-training.hdf5", "train_1.h5"],
        "valid": ["Validation.H5", "dev7.h5", "val.h5", "x_valid_2.h5"],
        "test": ["Test_A.h5", "holdout.h5"],
    }


@pytest.mark.parametrize(
    "name, words",
    [
        ("top_test_train.h5", "'test' and 'train'"),
        ("train-holdout.hdf5", "'train' and 'holdout'"),
        ("VAL.test.h5", "'VAL' and 'test'"),
    ],
)
def test_a_file_of_two_splits_is_refused(tmp_path, name, words):
    """Breaks if the same jets are used for training and for the test."""
    touch(tmp_path, f"train.h5 val.h5 {name}")
    with pytest.raises(InputError, match=rf"{name}: the name contains {words}, so it is not clear"):
        files_by_name(tmp_path)


def test_two_names_of_one_split(tmp_path):
    """Only the split counts: dev_val.h5 is for validation."""
    assert (splits_of("dev_val"), splits_of("latest"), splits_of("protest_1")) == (["valid"], [], [])


def test_files_that_are_not_used_are_named(tmp_path, caplog):
    """Breaks if jets.h5, which belongs to no split, or train.npz, which is not read, is left out without a word."""
    touch(tmp_path, "train.h5 jets.h5 trainjets.hdf5 test.npz other.npz notes.txt test.txt val/a.h5 old/train.h5")
    files_by_name(tmp_path)
    first, second = caplog.messages
    assert "not used: jets.h5, trainjets.hdf5, val/a.h5. Files must lie in the folder itself, and their names" in first
    assert "not used: test.npz. Only .h5 and .hdf5" in second


def test_folders_as_people_write_them(tmp_path, caplog):
    """Breaks if validation/ is not used, or if files in other folders are left out without a word."""
    touch(tmp_path, "train/a.h5 Validation/b.h5 val/c.hdf5 holdout/d.h5 train/more/e.h5 train_old/f.h5 g.h5 .x/h.h5")
    assert names_of(files_by_folder(tmp_path)) == {"train": ["a.h5"], "valid": ["b.h5", "c.hdf5"], "test": ["d.h5"]}
    (message,) = caplog.messages
    assert "not used: g.h5, train/more/e.h5, train_old/f.h5. Files must lie directly in a folder called" in message


def test_folders_of_no_split(tmp_path):
    """The files that were found are named."""
    touch(tmp_path, "train_a.h5 valid_a.h5")
    with pytest.raises(InputError, match=r"in train/, val/ or test/, found only train_a.h5, valid_a.h5. Pass another"):
        files_by_folder(tmp_path)
    for find in (files_by_name, files_by_folder):
        with pytest.raises(InputError, match="train_a.h5: is a file, not a folder"):
            find(tmp_path / "train_a.h5")


def test_log(tmp_path, caplog):
    """The log says which files are which split, and which split has none."""
    caplog.set_level(logging.INFO, "puffin")
    touch(tmp_path, " ".join(f"train_{k:02}.h5" for k in range(25)))
    log_splits(files_by_name(tmp_path), ("train", "valid"))
    assert caplog.messages[0].startswith("train: train_00.h5, train_01.h5, ")
    assert caplog.messages[0].endswith("train_19.h5 and 5 more")
    assert caplog.messages[1].startswith("no valid files (expected valid, validation, val or dev in their names)")


def test_both_kinds_of_data_say_it(small_jets, tmp_path, caplog):
    """Breaks if one of the two readers finds its files in another way."""
    caplog.set_level(logging.INFO, "puffin")
    (tmp_path / "jets").mkdir()
    (tmp_path / "jets/training.h5").symlink_to(small_jets / "train.h5")
    datasets = jets.open_splits(tmp_path / "jets", JetSelection(), {"train": -1, "valid": -1}, 0)
    assert list(datasets) == ["train"] and len(datasets["train"]) == 100
    assert "train: training.h5" in caplog.text and "no valid files" in caplog.text
    write(tmp_path / "clouds/validation/a.h5", [walk(np.random.default_rng(0), 100)])
    datasets = pilarnet.open_splits(tmp_path / "clouds", CloudSelection(min_points=0), {"valid": -1}, 0)
    assert list(datasets) == ["valid"] and "valid: a.h5" in caplog.text
