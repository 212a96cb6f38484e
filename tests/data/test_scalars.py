"""Features of particles: columns, order, transforms."""

import pickle

import numpy as np
import pytest

from puffin.data.scalars import DATASETS, PDG_IDS, TRANSFORMS, OneHot, chosen_scalars, plain
from puffin.errors import InputError


def test_particle_types():
    """Each code sets its own column.

    An unlisted code sets the last column, or none if there is no column for others."""
    codes = np.array([*PDG_IDS, 310])
    with_others = OneHot("pdgid", PDG_IDS, others=True).columns(codes)
    assert np.array_equal(with_others, np.eye(15, dtype=bool))
    assert OneHot("pdgid", PDG_IDS).columns(codes)[-1].sum() == 0


def test_jetclass_order():
    """The order of published checkpoints: 3 charges, 5 types, 4 impact parameters."""
    keys = [s.key for s in DATASETS["jc"]]
    assert keys == "charge isChargedHadron isElectron isMuon isNeutralHadron isPhoton d0val d0err dzval dzerr".split()
    assert sum(s.width for s in DATASETS["jc"]) == 12
    assert DATASETS["jc"][0].columns(np.array([-1.0, 0, 1])).tolist() == np.eye(3).tolist()


def test_flags_choose_in_order():
    """--dataset, --read-pid and --scalars-keys choose the columns, in this order."""
    chosen = chosen_scalars("qg", True, ["d0val:tanh", "charge"])
    assert [s.key for s in chosen] == ["pdgid", "pdgid", "d0val", "charge"]
    assert [s.width for s in chosen] == [14, 15, 1, 1]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_odd_and_keep_zero(name):
    """Padding is zero and must stay so; signs must survive."""
    x = np.array([-30.0, -0.5, 0, 0.5, 30])
    y = plain("d0val", name).columns(x)[:, 0]
    assert np.allclose(y, -y[::-1]) and y[2] == 0 and (np.diff(y) >= 0).all()


def test_unknown_transform():
    """The message names the choices."""
    with pytest.raises(InputError, match="expected one of raw, tanh, log, clip"):
        chosen_scalars("jet", False, ["d0val:sqrt"])


@pytest.mark.parametrize("dataset", DATASETS)
def test_features_travel_to_workers(dataset):
    """With spawn and forkserver (macOS, Python 3.14) workers get them pickled. Breaks if a feature holds a closure."""
    features = chosen_scalars(dataset, True, [f"d0val:{name}" for name in TRANSFORMS])
    copies = pickle.loads(pickle.dumps(features))
    x = np.array([-211.0, 0.5, 22])
    assert copies == features
    assert all(np.array_equal(a.columns(x), b.columns(x)) for a, b in zip(features, copies, strict=True))
