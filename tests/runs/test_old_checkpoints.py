"""Runs from before the settings were declared in dataclasses are resumed with the same results as then."""

import shutil

import pytest
import torch

import train_pelican_classifier
import train_pelican_cov
from tests.conftest import GOLDEN, ROOT, relative


@pytest.mark.parametrize("name, script", [("classifier", train_pelican_classifier), ("cov", train_pelican_cov)])
def test_resumed_as_before(name, script, tmp_path, monkeypatch):
    """A run of two epochs in double precision, stopped within the first one, ends with the same weights and numbers.

    Breaks if a setting of the checkpoint is lost, or a random number is drawn at another place. The weights are bitwise
    identical on the type of CPU that wrote the files; elsewhere they may differ by rounding."""
    monkeypatch.chdir(ROOT)  # the checkpoint names the sample data relative to it
    (tmp_path / "model").mkdir()
    shutil.copy(GOLDEN / f"resume/old_{name}.pt", tmp_path / "model")
    script.main(["--load", "--cpu", "--prefix", f"old_{name}", "--workdir", str(tmp_path), "--threads", "1"])
    found = torch.load(tmp_path / f"model/old_{name}.pt", weights_only=True)
    expected = torch.load(GOLDEN / f"resume/old_{name}_end.pt", weights_only=True)
    assert found["model_state"].keys() == expected["model_state"].keys()
    for key, value in expected["model_state"].items():
        assert relative(found["model_state"][key].double(), value.double()) < 1e-9, key
    for row, old in zip(found["progress"]["history"], expected["history"], strict=True):
        expected_row = {k: v for k, v in old.items() if "second" not in k}  # metrics may have been added since
        assert {k: row[k] for k in expected_row} == pytest.approx(expected_row, rel=1e-9, nan_ok=True)
