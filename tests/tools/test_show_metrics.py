"""What `make quickstart` prints at its end."""

from puffin.files import append_row
from tools import show_metrics


def test_the_last_row(tmp_path, capsys):
    """Its numbers, without the columns that only other runs have."""
    append_row(tmp_path / "t.csv", {"prefix": "a", "loss": 1.5})
    append_row(tmp_path / "t.csv", {"prefix": "b", "AUC": 0.123456789})
    show_metrics.main([str(tmp_path / "t.csv")])
    assert capsys.readouterr().out.split() == ["prefix", "b", "AUC", "0.12346"]
