"""Opening HDF5 files and arrays: each kind of thing that is no array of numbers has its own message."""

import h5py
import numpy as np
import pytest

from puffin.data.hdf5 import ArrayFile, open_array, open_hdf5
from puffin.data.jets import JetDataset, JetSelection
from puffin.data.pilarnet_files import EventFile
from puffin.errors import InputError


def test_opens_for_reading_only(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = [1, 2]
    with open_hdf5(tmp_path / "a.h5") as file:
        assert file["x"][()].tolist() == [1, 2] and file.mode == "r"


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.h5", "no such file"), ("text.h5", "not a readable HDF5 file"), (".", "is a folder, not a file")],
)
def test_what_cannot_be_read_is_named(tmp_path, name, message):
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(InputError, match=message) as error:
        open_hdf5(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


@pytest.fixture
def zoo(tmp_path):
    """A file with an array, and with everything that is none; `source.h5` holds what the virtual arrays show."""
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["part"] = np.ones((3, 2))
    with h5py.File(tmp_path / "zoo.h5", "w") as file:
        file["inner/array"] = np.ones(3)
        file["soft"] = h5py.SoftLink("/nowhere")
        file["circle"] = h5py.SoftLink("/circle")
        file["external"] = h5py.ExternalLink("gone.h5", "/part")
        file["wrong"] = h5py.ExternalLink("source.h5", "/other")
        file["good"] = h5py.ExternalLink("source.h5", "/part")
        file["text"] = ["signal", "background"]
        file["bytes"] = np.array([b"signal"])
        file["table"] = np.zeros(3, [("E", "f4"), ("px", "f4")])
        file["complex"] = np.ones(3, complex)
        file["nothing"] = h5py.Empty("f4")
        file["type"] = np.dtype("f4")
        file.create_dataset("ragged", (2,), h5py.vlen_dtype(np.float32))
        file["reference"] = np.array([file["inner"].ref], h5py.ref_dtype)
        for name, source, key in (
            ("v_file", "gone.h5", "part"),
            ("v_key", "source.h5", "x"),
            ("v", "source.h5", "part"),
        ):
            layout = h5py.VirtualLayout((5, 2), "f4")
            layout[:3] = h5py.VirtualSource(source, key, (3, 2))
            file.create_virtual_dataset(name, layout)
    return tmp_path / "zoo.h5"


@pytest.mark.parametrize(
    "key, message",
    [
        ("missing", r"key 'missing' not found \(has: bytes, circle.*\)\. Do that\.$"),
        ("inner/missing", "key 'inner/missing' not found"),
        ("inner/array/deeper", "key 'inner/array/deeper' not found"),
        ("inner", r"'inner' is a group \(holds: array\), expected an array\. Do that\.$"),
        ("soft", "'soft' is a link to '/nowhere', which does not exist"),
        ("soft/array", "'soft' is a link to '/nowhere', which does not exist"),
        ("circle", "'circle' is a link to '/circle', which does not exist"),
        ("external", "'external' is a link to '/part' in gone.h5, which cannot be opened"),
        ("wrong", "'wrong' is a link to '/other' in source.h5, which cannot be opened"),
        ("text", r"text: holds text, expected numbers\. Number the values: numpy.unique"),
        ("bytes", "bytes: holds text, expected numbers"),
        ("table", "table: is a table with the columns E, px, expected an array"),
        ("complex", "complex: holds complex128, expected numbers"),
        ("nothing", "'nothing' holds no values"),
        ("type", "'type' holds no values"),
        ("ragged", "ragged: holds rows of different lengths"),
        ("reference", "reference: holds object, expected numbers"),
        (
            "v_file",
            "v_file is virtual, and takes numbers from gone.h5, which does not exist. They would be read as zeros",
        ),
        ("v_key", "v_key is virtual, and takes numbers from 'x' of source.h5, which cannot be read"),
    ],
)
def test_what_is_no_array_is_named(zoo, key, message):
    """Breaks if a traceback of h5py appears instead, or if a virtual array without its file is read as zeros."""
    with open_hdf5(zoo) as file, pytest.raises(InputError, match=message) as error:
        open_array(file, zoo, key, "Do that.")
    assert str(error.value).startswith(f"{zoo}: ") and "\n" not in str(error.value)


def test_arrays_stay_open(zoo):
    """Breaks if each read opens the array anew, as HDF5 then decompresses its chunks again."""
    with ArrayFile(zoo) as file:
        assert file.array("good") is file.array("good") and file.values("v").sum() == 6
        assert file.values("inner/array", slice(1, 3)).tolist() == [1, 1] and "inner" in file and "soft" in file
        assert "missing" not in file


@pytest.mark.parametrize("key", ["soft", "external", "inner", "text", "v_file"])
@pytest.mark.parametrize("role", ["Pmu", "is_signal", "Nobj"])
def test_jets_name_what_is_no_array(zoo, key, role):
    """For momenta, labels and the number of particles alike. Breaks if a dead link Nobj counts as no Nobj."""
    with h5py.File(zoo, "a") as file:
        file["Pmu"], file["is_signal"] = np.full((5, 2, 4), [2.0, 1, 1, 1]), np.zeros(5)
        if role in file:
            del file[role]
        file.move(key, role)
    with pytest.raises(InputError, match=f"zoo.h5: '?{role}'?:? (is|holds)"):
        JetDataset([zoo], JetSelection())


@pytest.mark.parametrize("key, message", [("inner", "is a group"), ("soft", "is a link"), ("external", "is a link")])
def test_clouds_name_what_is_no_array(zoo, key, message):
    """For files of events alike."""
    with h5py.File(zoo, "a") as file:
        file.move(key, "point")
    with pytest.raises(InputError, match=f"zoo.h5: 'point' {message}"):
        EventFile(zoo)


@pytest.mark.parametrize("key", ["point", "cluster"])
def test_a_single_number_is_no_cloud(tmp_path, key):
    """Breaks if h5py's TypeError appears."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, kind in (("point", np.float32), ("cluster", np.int32)):
            if name == key:
                file[name] = 3.0
            else:
                file.create_dataset(name, (2,), h5py.vlen_dtype(kind))
    with pytest.raises(InputError, match=rf"a.h5: {key}: expected \w+ ?\w* rows of variable length"):
        EventFile(tmp_path / "a.h5")


def test_a_file_with_a_damaged_list_of_keys(tmp_path):
    """A key cannot be found, and the keys cannot be listed for the message."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for k in range(100):
            file.create_dataset(f"key{k:03}", data=[k], track_times=False)
    content = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(content.replace(b"TREE", b"EERT").replace(b"SNOD", b"DONS"))
    with pytest.raises(InputError, match=r"key 'Pmu' not found \(has: a damaged list of keys\)"):
        JetDataset([tmp_path / "a.h5"], JetSelection())
