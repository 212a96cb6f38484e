"""Blocks of jets from a file (momenta: test_momenta.py; features and order: test_jets.py)."""

import h5py
import numpy as np
import pytest

from puffin.data.jet_blocks import Block, JetFile, JetSelection, log_empty, look_at
from puffin.data.scalars import plain
from puffin.errors import InputError


@pytest.fixture
def file(tmp_path):
    """20 jets of up to 3 particles with the energies 2, 4, ...; jet k has k % 4 of them, and a charge for each."""
    valid = np.arange(3) < (np.arange(20) % 4)[:, None]
    momenta = np.arange(1, 61).reshape(20, 3, 1) * np.array([2, 1, 1, 1], np.float32) * valid[..., None]
    with h5py.File(tmp_path / "train.h5", "w") as out:
        out["Pmu"], out["charge"] = momenta, np.arange(60).reshape(20, 3)
        out["Nobj"] = valid.sum(1)
    with JetFile(tmp_path / "train.h5") as opened:
        yield opened


def test_features_follow_their_particles(file):
    """Breaks if the charge of padding, which is not zero here, is taken for that of a particle."""
    block = file.read(slice(5, 8), JetSelection(scalars=(plain("charge"),)))
    assert block.counts.tolist() == [1, 2, 3] and block.particles.dtype == np.float32
    assert block.particles[:, 4].tolist() == [15, 18, 19, 21, 22, 23]
    assert block.particles[:, 0].tolist() == [2 * k for k in (16, 19, 20, 22, 23, 24)]


def test_some_jets_of_a_block():
    """Breaks if the particles of a jet that was left out remain."""
    block = Block(np.arange(6)[:, None] * np.ones((1, 4), np.float32), np.array([1, 0, 3, 2]))
    some = block.jets(np.array([0, 1, 3]))
    assert some.counts.tolist() == [1, 0, 2] and some.particles[:, 0].tolist() == [0, 4, 5]
    assert block.jets(np.arange(4)) is block and len(block.jets(np.array([], int)).counts) == 0


def test_share_of_empty_jets(file, caplog):
    """Every fourth jet has no particles."""
    assert file.check(JetSelection()) == 20 and look_at(file, 20, JetSelection()) == (0.25, True)
    log_empty(file.path, 0, True)
    assert caplog.messages == []
    log_empty(file.path, 0.25, True)
    assert "train.h5: 25% of the jets have no particles" in caplog.text
    with pytest.raises(InputError, match="no jet has particles"):
        log_empty(file.path, 1.0, True)


@pytest.mark.parametrize("nobj", [0, -2])
def test_nobj_is_a_number_of_particles(nobj):
    with pytest.raises(InputError, match="--nobj: expected a positive number"):
        JetSelection(nobj=nobj)
