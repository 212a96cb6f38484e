"""CSV tables as spreadsheet programs save them."""

import pytest

from puffin.errors import InputError
from puffin.files import append_row
from puffin.tables import read_records, read_table

TABLE = [["prefix", "timestamp", "AUC", "loss", "note"], ["a", "2026-01-02 03:04:05", "0.98", "1.5e-05", "x, y"]]
COMMAS = 'prefix,timestamp,AUC,loss,note\na,2026-01-02 03:04:05,0.98,1.5e-05,"x, y"\n'
SEMICOLONS = "prefix;timestamp;AUC;loss;note\r\na;2026-01-02 03:04:05;0,98;1,5e-05;x, y\r\n"


@pytest.mark.parametrize(
    "data",
    [
        COMMAS.encode(),
        COMMAS.replace("\n", "\r\n").encode("utf-8-sig"),
        SEMICOLONS.encode(),
        SEMICOLONS.encode("utf-8-sig"),
        SEMICOLONS.replace(";", "\t").encode("utf-16"),
        COMMAS.encode() + b"\n,,,,\n",
    ],
)
def test_every_way_of_saving_gives_the_same_table(tmp_path, data):
    """Breaks if the mark becomes part of the first name, or commas of numbers are taken for columns."""
    (tmp_path / "t.csv").write_bytes(data)
    assert read_table(tmp_path / "t.csv") == TABLE
    assert read_records(tmp_path / "t.csv") == [dict(zip(*TABLE, strict=True))]


def test_names_with_accents(tmp_path):
    """UTF-8, as we write it, and the code page of Western Europe."""
    for encoding in ("utf-8", "cp1252"):
        (tmp_path / "t.csv").write_bytes("prefix,AUC\nlüge,1\n".encode(encoding))
        assert read_records(tmp_path / "t.csv") == [{"prefix": "lüge", "AUC": "1"}]


def test_rows_of_other_lengths(tmp_path):
    """A short row has empty columns; a long one is an error, as its numbers would be lost."""
    (tmp_path / "t.csv").write_text("a,b\n1\n", encoding="utf-8")
    assert read_records(tmp_path / "t.csv") == [{"a": "1", "b": ""}]
    (tmp_path / "t.csv").write_text("a,b\n1,2\n1,2,3\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"t.csv: row 3 has 3 columns, but the header has 2"):
        read_table(tmp_path / "t.csv")


def test_empty_and_binary_files(tmp_path):
    """No rows, and one line."""
    (tmp_path / "t.csv").write_bytes(b"")
    assert read_table(tmp_path / "t.csv") == read_records(tmp_path / "t.csv") == []
    (tmp_path / "t.csv").write_bytes(b"PK\x03\x04\0\0")
    with pytest.raises(InputError, match="Save it as CSV"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("data", [SEMICOLONS.encode("utf-8-sig"), COMMAS.encode("utf-8-sig"), COMMAS.encode()])
def test_rows_are_appended_to_a_saved_table(tmp_path, data):
    """By the next run. Breaks if its row becomes a single column, or a column 'prefix' is added beside the old one."""
    (tmp_path / "t.csv").write_bytes(data)
    append_row(tmp_path / "t.csv", {"prefix": "b", "AUC": 0.5, "new": "ü"})
    expected = COMMAS.replace("note", "note,new").replace('y"', 'y",') + "b,,0.5,,,ü\n"
    assert (tmp_path / "t.csv").read_text(encoding="utf-8") == expected
    append_row(tmp_path / "t.csv", {"prefix": "c"})
    assert (tmp_path / "t.csv").read_text(encoding="utf-8") == expected + "c,,,,,\n"
