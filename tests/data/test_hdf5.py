import h5py
import pytest

from puffin.data.hdf5 import open_hdf5
from puffin.errors import InputError


def test_opens_for_reading_only(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = [1, 2]
    with open_hdf5(tmp_path / "a.h5") as file:
        assert file["x"][()].tolist() == [1, 2] and file.mode == "r"


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.h5", "no such file"), ("text.h5", "not a readable HDF5 file"), (".", "no such file")],
)
def test_what_cannot_be_read_is_named(tmp_path, name, message):
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(InputError, match=message) as error:
        open_hdf5(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
