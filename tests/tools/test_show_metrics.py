"""tools/show_metrics.py: what `make quickstart` prints at the end."""

import pytest

from puffin.files import append_row
from tools import show_metrics


def test_the_last_row(tmp_path, capsys):
    """The numbers of the last row, without the columns that only other runs have."""
    append_row(tmp_path / "t.csv", {"prefix": "a", "loss": 1.5})
    append_row(tmp_path / "t.csv", {"prefix": "b", "AUC": 0.123456789})
    show_metrics.main([str(tmp_path / "t.csv")])
    assert capsys.readouterr().out.split() == ["prefix", "b", "AUC", "0.12346"]


def test_a_missing_or_empty_table(tmp_path):
    """One line names the file."""
    (tmp_path / "t.csv").write_text("prefix,loss\n")
    with pytest.raises(SystemExit, match="t.csv: the table has no rows"):
        show_metrics.main([str(tmp_path / "t.csv")])
    with pytest.raises(SystemExit, match="missing.csv: no such file"):
        show_metrics.main([str(tmp_path / "missing.csv")])
    with pytest.raises(SystemExit, match="is a folder, not a file"):
        show_metrics.main([str(tmp_path)])
