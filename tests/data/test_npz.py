"""Reading .npz block by block: the same numbers as NumPy, and every kind of bad file named."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from puffin.data.npz import NpzArray, npz_keys
from puffin.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_blocks_are_the_array(tmp_path, save):
    """Breaks if blocks overlap or the header is misread.

    Big-endian and one-dimensional arrays must be those that NumPy reads."""
    arrays = {"x": np.arange(7 * 5 * 3, dtype=np.float64).reshape(7, 5, 3), "y": np.arange(7, dtype=">i4")}
    save(tmp_path / "a.npz", **arrays)
    assert npz_keys(tmp_path / "a.npz") == ["x", "y"]
    for key, array in arrays.items():
        with NpzArray(tmp_path / "a.npz", key) as stream:
            assert stream.shape == array.shape and stream.dtype == array.dtype
            np.testing.assert_array_equal(np.concatenate([stream.read(n) for n in (3, 0, 4)]), array)


@pytest.mark.parametrize(
    "array",
    [np.array([{}, 1], object), np.asfortranarray(np.ones((3, 2))), np.float64(3)],
    ids=["objects", "fortran", "scalar"],
)
def test_unreadable_arrays_are_refused(tmp_path, array):
    """Breaks if Python objects are unpickled, or columns are read as rows."""
    np.savez(tmp_path / "a.npz", x=array)
    with pytest.raises(InputError, match="C order"):
        NpzArray(tmp_path / "a.npz", "x")


def test_bad_files_are_named(tmp_path):
    """Breaks if a missing key, another kind of file, or one cut short shows as a traceback."""
    path = tmp_path / "a.npz"
    np.savez(path, x=np.ones(3))
    with pytest.raises(InputError, match=r"array 'z' not found \(has: x\)"):
        NpzArray(path, "z")
    with NpzArray(path, "x") as stream, pytest.raises(InputError, match="ends too early"):
        stream.read(4)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="not a readable .npz"):
        NpzArray(path, "x")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"nothing of the kind")
    with pytest.raises(InputError, match="not a readable .npy"):
        NpzArray(path, "x")


def test_damaged_data_is_named(tmp_path):
    """Breaks if a changed byte passes: the archive has a check sum."""
    path = tmp_path / "a.npz"
    np.savez(path, x=np.full(1000, 7.0))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with NpzArray(path, "x") as stream, pytest.raises(InputError, match="damaged"):
        stream.read(1000)


def test_memory_does_not_grow_with_the_array(tmp_path):
    """Breaks if the array is read whole: 80 MB in blocks of 0.8 MB must not raise the peak by 20 MB."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((100, 100_000)))
    code = f"""if True:
        import resource
        from puffin.data.npz import NpzArray
        def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with NpzArray({str(path)!r}, "x") as stream:
            stream.read(1)
            before = peak()
            for _ in range(99): stream.read(1)
        print(peak() - before)"""
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(out.stdout) * unit < 20e6
