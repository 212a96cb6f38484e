"""Tables of runs with few labels: how each run is classified, means and standard deviations."""

import pytest
import yaml

from puffin.errors import InputError
from puffin.files import append_row
from puffin.plots.label_budgets import draw_label_budgets, markdown, read_runs, summarize


def make_table(folder, rows):
    """Write a metrics table and the settings of its runs; rows: (prefix, macro F1, settings)."""
    lines = ["prefix,timestamp,f1_macro,f1_shower,f1_michel"]
    for prefix, f1, settings in rows:
        lines.append(f"{prefix},now,{f1},{f1 + 0.1},nan")
        (folder / f"{prefix}.yaml").write_text(
            yaml.safe_dump(
                {"pretrained": "", "loadfile": "", "scratch": False, "finetune": "fft", "num_train": -1} | settings
            )
        )
    (folder / "b.Best.metrics.csv").write_text("\n".join(lines) + "\n")
    return folder / "b.Best.metrics.csv"


def test_runs_and_their_spread(tmp_path):
    """A run from random weights is `scratch`, however its settings say so; the last row of a prefix counts."""
    table = make_table(
        tmp_path,
        [
            ("b-1", 0.5, {"pretrained": "x.pt", "num_train": 10}),
            ("b-2", 0.7, {"pretrained": "x.pt", "num_train": 10}),
            ("b-3", 0.1, {"num_train": 10}),
            ("b-4", 0.2, {"pretrained": "x.pt", "scratch": True}),
            ("b-5", 0.3, {"pretrained": "x.pt", "finetune": "peft"}),
            ("b-3", 0.4, {"num_train": 10}),
            ("b-6", 0.6, {"method": "baseline", "num_train": 10}),
        ],
    )
    append_row(table, {"prefix": "b-mae", "timestamp": "now", "loss": 0.2})  # of another script: no F1
    found = summarize(read_runs([table], all_events=1000))
    assert list(found) == [("baseline", 10), ("scratch", 10), ("scratch", 1000), ("peft", 1000), ("fft", 10)]
    assert found["scratch", 10].mean["macro"] == 0.4 and found["fft", 10].runs == 2
    assert found["fft", 10].mean["shower"] == pytest.approx(0.7) and found["fft", 10].spread["macro"] == pytest.approx(
        0.02**0.5
    )
    lines = markdown(found).splitlines()
    assert lines[0] == "| method | labels | seeds | F1 macro | F1 shower | F1 michel |"
    assert lines[-1].startswith("| fft | 10 | 2 | 0.600 ± 0.141 | 0.700 ± 0.141 |") and lines[3].startswith(
        "| scratch | 10 | 1 | 0.400 |"
    )
    draw_label_budgets(tmp_path / "b.png", found)
    assert (tmp_path / "b.png").stat().st_size > 10_000


def test_bad_tables(tmp_path):
    """Each error says what is missing."""
    table = make_table(tmp_path, [("b-1", 0.5, {})])
    with pytest.raises(InputError, match="--all"):
        read_runs([table])
    (tmp_path / "b-1.yaml").unlink()
    with pytest.raises(InputError, match="b-1.yaml: not found"):
        read_runs([table])
    assert read_runs([table], wanted={"b-2"}) == []
    other = make_table(tmp_path, [("b-1", 0.5, {})]).rename(tmp_path / "other.csv")
    five = make_table(tmp_path, [("b-2", 0.5, {})])
    five.write_text(five.read_text().replace("f1_shower", "f1_led"))
    with pytest.raises(
        InputError, match="b-2: expected the classes of b-1 .macro, shower, michel., got macro, michel, led"
    ):
        read_runs([other, five], 10)
    (tmp_path / "jets.csv").write_text("prefix,AUC\na,1\n")
    with pytest.raises(InputError, match="column 'f1_macro'"):
        read_runs([tmp_path / "jets.csv"])
    with pytest.raises(InputError, match="no such file"):
        read_runs([tmp_path / "none.csv"])
