"""The check of momenta: valid data pass unchanged, and each kind of wrong data has its cause named."""

import h5py
import numpy as np
import pytest

from puffin.data import jet_blocks
from puffin.data.jet_writer import jet_rows
from puffin.data.jets import JetDataset, JetSelection
from puffin.data.momenta import Source, find_particles
from puffin.data.targets import Momenta
from puffin.errors import InputError
from tests.conftest import GOLDEN

POLAR = ("pt", "eta", "phi", "m")


@pytest.fixture(scope="module")
def jets() -> np.ndarray:
    """Real jets, (200, 126, 4) float32, zero-padded."""
    with h5py.File(GOLDEN / "pelican_run" / "valid.h5") as file:
        return file["Pmu"][()]


def polar(momenta: np.ndarray, last: str = "m") -> np.ndarray:
    """Convert to pt, eta, phi and m or E, by formulas that share nothing with the code."""
    energy, px, py, pz = np.moveaxis(momenta.astype(np.float64), -1, 0)
    p = np.sqrt(px**2 + py**2 + pz**2)
    with np.errstate(all="ignore"):
        eta = np.where(p > 0, np.arctanh(np.divide(pz, p)), 0)
    fourth = np.sqrt(np.maximum(energy**2 - p**2, 0)) if last == "m" else energy
    phi = np.where(energy > 0, np.arctan2(py, px), 0)
    return np.stack([np.sqrt(px**2 + py**2), eta, phi, fourth], -1)


def padded(jets: np.ndarray, value: float) -> np.ndarray:
    return np.where(jets[..., :1] == 0, value, jets)


def save(path, momenta, **arrays):
    with h5py.File(path, "w") as file:
        for key, values in ({"Pmu": momenta, "is_signal": np.arange(len(momenta)) % 2} | arrays).items():
            file[key] = values
    return path


def changed(jets, jet, particle, values) -> np.ndarray:
    out = jets.copy()
    out[jet, particle] = values
    return out


WRONG = {
    "px,py,pz,E": (
        lambda x: x[..., [1, 2, 3, 0]],
        r"the columns E,px,py,pz, but they look like px,py,pz,E\. Give --col",
    ),
    "pt,eta,phi,m": (polar, "look like pt,eta,phi,m. Give --columns pt,eta,phi,m"),
    "pt,eta,phi,E": (lambda x: polar(x, "E"), "look like pt,eta,phi,E"),
    "E,pt,eta,phi": (lambda x: polar(x, "E")[..., [3, 0, 1, 2]], "look like E,pt,eta,phi"),
    "hardest only": (
        lambda x: polar(x * (np.hypot(x[..., 1:2], x[..., 2:3]) > 9)),
        "Pmu: the columns look like pt,eta,phi,m. Give --columns pt,eta,phi,m",
    ),
    "padding -1": (lambda x: padded(x, -1), r"of event 0: -1 is used as padding \(\d+% of the entries\). Set"),
    "padding -999": (lambda x: padded(x, -999), "-999 is used as padding"),
    "padding nan": (lambda x: padded(x, np.nan), "nan is used as padding"),
    "energy -1": (lambda x: np.where(x[..., :1] == 0, [-1, 0, 0, 0], x), "-1 is used as padding"),
    "padding -999, E last": (lambda x: padded(x, -999)[..., [1, 2, 3, 0]], "-999 is used as padding"),
    "all zero": (np.zeros_like, "no jet has particles, as all energies are 0. The array was probably never written"),
    "one energy": (lambda x: changed(x, 7, 1, [-3, 1, 0, 0]), r"event 7, particle 1: the energy is negative \(-3\)"),
    "too heavy p": (lambda x: changed(x, 7, 1, [3, 4, 0, 0]), r"event 7, particle 1: E = 3 is less than \|p\| = 4"),
    "no energy": (lambda x: changed(x, 7, 125, [0, 4, 0, 0]), "particle 125: the energy is 0, as of padding, but"),
    "infinite": (lambda x: changed(x, 7, 1, np.inf), "Pmu of event 7 is not finite"),
    "huge": (
        lambda x: x.astype(np.float64) * 1e36,
        r"event 0, particle 0: the energy is \d.*, which is too large in any unit",
    ),
    "one flipped bit": (lambda x: changed(x, 3, 2, [1.84e21, 5, 0, 0]), "event 3, particle 2: the energy is 1.84e.21"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("in_memory", [True, False])
def test_data_that_only_look_right(jets, tmp_path, name, in_memory):
    """Breaks if such data are trained on, as they once were."""
    change, message = WRONG[name]
    path = save(tmp_path / "train.h5", change(jets))
    with pytest.raises(InputError, match=message) as error:
        dataset = JetDataset([path], JetSelection(in_memory=in_memory))
        dataset.__getitems__(list(range(len(jets))))
    assert str(error.value).startswith(f"{path}: Pmu") and "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in WRONG if name not in ("all zero", "infinite", "huge")])
def test_converters_check_the_same(jets, name):
    """All converters make their rows here. Breaks if a converter writes what training would refuse."""
    change, message = WRONG[name]
    with pytest.raises(
        InputError, match=message.replace("event", "jet").replace("Pmu: ", "").split(r"\. Give")[0].split(". Give")[0]
    ):
        jet_rows(change(jets), 126, "source.h5")


def test_valid_momenta_pass_unchanged(jets):
    """Bit for bit; also those of heavy particles, of float64 and of half precision, whose E^2 - p^2 is far below 0."""
    for momenta in (jets, jets.astype(np.float64), jets.astype(np.float16)):
        found = find_particles(momenta, Source("x"))
        expected = momenta.astype(np.float32)
        np.testing.assert_array_equal(found.momenta, expected[expected[..., 0] != 0])
        assert found.counts.tolist() == (expected[..., 0] != 0).sum(1).tolist()
    half = jets.astype(np.float16).astype(np.float64)
    assert (half[..., 0] ** 2 * 1.0005 < (half[..., 1:] ** 2).sum(-1)).any()
    at_rest = np.array([[[5, 0, 0, 0], [1, 0, 0, 1], [0, -0.0, 0, 0]]])  # integers, and a negative zero
    assert find_particles(at_rest, Source("x")).counts.tolist() == [2]
    assert len(find_particles(jets[:0], Source("x")).momenta) == 0


def test_scale_must_fit(jets):
    """Breaks if an infinite momentum, or one whose square is infinite, goes on to the network."""
    for scale in (1e30, 1e37):
        with pytest.raises(InputError, match="x of events from 5: momenta are too large or too small for single"):
            find_particles(jets.astype(np.float64), Source("x", 5, "event"), scale=scale)


def test_scale_comes_after_the_check(jets):
    """The scaled momenta are those of before: stored dtype times the factor, then single precision."""
    for momenta in (jets, jets.astype(np.float64)):
        found = find_particles(momenta, Source("x"), scale=0.1)
        expected = (momenta * 0.1).astype(np.float32)
        np.testing.assert_array_equal(found.momenta, expected[expected[..., 0] != 0])


@pytest.mark.parametrize(
    "columns, stored",
    [
        ("px,py,pz,E", lambda x: x[..., [1, 2, 3, 0]]),
        ("pz,E,px,py", lambda x: x[..., [3, 0, 1, 2]]),
        ("pt,eta,phi,m", polar),
        ("m,phi,eta,pt", lambda x: polar(x)[..., ::-1]),
        ("E,pt,eta,phi", lambda x: polar(x, "E")[..., [3, 0, 1, 2]]),
    ],
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_columns(jets, tmp_path, columns, stored, in_memory):
    """The momenta are those of a file in our order; also those of the truth. The given columns are not doubted.

    Breaks if the columns of the truth are not converted."""
    truth = jets[:, 0]
    path = save(tmp_path / "train.h5", stored(jets), truth_Pmu=stored(truth), Nobj=(jets[..., 0] != 0).sum(1))
    names = tuple(columns.split(","))
    dataset = JetDataset([path], JetSelection(Momenta(columns=names), in_memory=in_memory, columns=names))
    batch = dataset.__getitems__([3, 1])
    expected = np.concatenate([x[x[:, 0] != 0] for x in jets[[3, 1]]])
    np.testing.assert_allclose(batch.fourmomenta.numpy(), expected, rtol=2e-5, atol=2e-3)
    np.testing.assert_allclose(batch.target[:, 0].numpy(), truth[[3, 1]], rtol=2e-5, atol=2e-3)
    if set(columns) == set("px,py,pz,E"):
        np.testing.assert_array_equal(batch.fourmomenta.numpy(), expected)


@pytest.mark.parametrize(
    "columns, stored, message",
    [
        (
            POLAR,
            lambda x: x,
            "expected the columns pt,eta,phi,m, but they look like E,px,py,pz. Give --columns E,px,py",
        ),
        (POLAR, lambda x: polar(x) * [1, 1, 57.3, 1], "phi is not within -2 pi and 2 pi"),
        (POLAR, lambda x: padded(polar(x), -999), "-999 is used as padding"),
        (("px", "py", "pz", "E"), lambda x: x, "they look like E,px,py,pz"),
    ],
)
def test_wrong_columns_that_were_asked_for(jets, columns, stored, message):
    """--columns, too, is checked by the values."""
    with pytest.raises(InputError, match=message):
        find_particles(stored(jets), Source("x", columns=columns))


@pytest.mark.parametrize(
    "truth, message",
    [
        (lambda t: t[:, [1, 2, 3, 0]], "truth_Pmu: expected the columns E,px,py,pz, but they look like px,py,pz,E"),
        (lambda t: np.where(np.arange(len(t))[:, None] % 2, t, -999), "-999 is used as padding"),
    ],
)
def test_true_momenta_are_checked(jets, tmp_path, truth, message):
    """A relative: with -999 for unknown momenta, a regressor learned -999."""
    path = save(tmp_path / "train.h5", jets, truth_Pmu=truth(jets.sum(1)))
    with pytest.raises(InputError, match=message):
        JetDataset([path], JetSelection(Momenta()))


# ---- numbers of particles


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda n: n - (np.arange(200) == 50),
            r"event 50: Nobj is \d+, but the jet has \d+ particles with E > 0. Corr",
        ),
        (lambda n: n + (np.arange(200) == 50), "event 50: Nobj is"),
        (lambda n: n[:, None] * [1, 1], r"Nobj: expected \(200,\), one number for each jet, got \(200, 2\)"),
        (lambda n: n[:100], r"Nobj: expected \(200,\)"),
    ],
)
def test_nobj_is_contradicted(jets, tmp_path, in_memory, change, message):
    """Breaks if a padding entry with energy counts as a particle although Nobj says otherwise."""
    path = save(tmp_path / "train.h5", jets, Nobj=change((jets[..., 0] != 0).sum(1)))
    with pytest.raises(InputError, match=message):
        JetDataset([path], JetSelection(in_memory=in_memory)).__getitems__(list(range(200)))


@pytest.mark.parametrize("nobj", [-1, 5])
def test_nobj_is_respected(jets, tmp_path, nobj):
    """Jets of which a file holds only the hardest particles, jets with a gap that Nobj counts or not, and a column."""
    number = (jets[..., 0] != 0).sum(1)
    jets = jets.copy()
    jets[0, 1] = jets[1, 1] = 0
    number[1] -= 1
    number[2:4] += 100
    jets[2:4] = jets[2:4, :1]
    path = save(tmp_path / "train.h5", jets, Nobj=number[:, None])
    assert len(JetDataset([path], JetSelection(nobj=nobj))) == 200


@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_that_were_never_written(jets, tmp_path, in_memory):
    """Nobj was written, but not all momenta: breaks if such jets count as background."""
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file.create_dataset("Pmu", jets.shape, np.float32, chunks=(20, 126, 4))[:120] = jets[:120]
        file["Nobj"], file["is_signal"] = (jets[..., 0] != 0).sum(1), np.zeros(200)
    with pytest.raises(InputError, match="event 120: Nobj is .* but the jet has 0 particles .* were probably never"):
        JetDataset([tmp_path / "train.h5"], JetSelection(in_memory=in_memory)).__getitems__(list(range(200)))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("with_number", [True, False])
def test_jets_without_particles_are_counted(jets, tmp_path, caplog, in_memory, with_number):
    """They remain, as before, but the log has their share; also in a virtual array with a gap."""
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["Pmu"] = jets[:150]
    layout = h5py.VirtualLayout(jets.shape, np.float32)
    layout[:150] = h5py.VirtualSource(tmp_path / "part.h5", "Pmu", (150, 126, 4))
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file.create_virtual_dataset("Pmu", layout)
        file["is_signal"] = np.zeros(200)
        if with_number:
            file["Nobj"] = np.where(np.arange(200) < 150, (jets[..., 0] != 0).sum(1), 0)
    dataset = JetDataset([tmp_path / "train.h5"], JetSelection(in_memory=in_memory))
    assert len(dataset) == 200 and dataset.__getitems__([199]).lengths.tolist() == [0]
    assert [m for m in caplog.messages if "train.h5: 25% of the jets have no particles" in m]


@pytest.mark.parametrize("first", [0, 600])
def test_only_some_rows_are_looked_at_before_streaming(jets, tmp_path, caplog, monkeypatch, first):
    """Without Nobj the share is that of three blocks. Breaks if one jet in the middle is overlooked, so that a file
    counts as never written, or if the whole of a good file is read before the training."""
    monkeypatch.setattr(jet_blocks, "_LOOKED_AT", 10)
    momenta = np.zeros((1000, 126, 4), np.float32)
    momenta[first : first + 1] = jets[:1]
    path = save(tmp_path / "train.h5", momenta)
    assert len(JetDataset([path], JetSelection(in_memory=False))) == 1000
    assert "train.h5: about" in caplog.text
    read = []
    monkeypatch.setattr(
        jet_blocks.JetFile,
        "read",
        lambda file, rows, *a, f=jet_blocks.JetFile.read, **k: (read.append(rows.start), f(file, rows, *a, **k))[1],
    )
    JetDataset([save(tmp_path / "good.h5", np.tile(jets, (5, 1, 1)))], JetSelection(in_memory=False))
    assert read == [0, 495, 990]


@pytest.mark.parametrize(
    "factor, message",
    [(1000, "unusual in GeV. If the momenta are in MeV, give --scale 0.001"), (1e-3, "are in TeV, give --scale 1000")],
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_unit(jets, tmp_path, caplog, factor, message, in_memory):
    """A warning, once; none with the right --scale. Breaks if momenta in MeV are used as GeV without a word."""
    path = save(tmp_path / "train.h5", jets * np.float32(factor))
    for scale in (1.0, 1 / factor):
        caplog.clear()
        dataset = JetDataset([path], JetSelection(in_memory=in_memory, scale=scale))
        dataset.__getitems__([0])
        assert caplog.text.count(message) == (scale == 1)


def test_columns_without_jets(jets, tmp_path, caplog):
    """Momenta that point everywhere, as if columns were mixed between particles, are a warning."""
    rng = np.random.default_rng(0)
    momenta = jets.copy()
    momenta[..., 1:] *= rng.choice([-1, 1], (*jets.shape[:2], 3))
    JetDataset([save(tmp_path / "train.h5", momenta)], JetSelection())
    assert "their particles fly apart" in caplog.text
    caplog.clear()
    JetDataset([save(tmp_path / "train.h5", jets)], JetSelection())
    assert caplog.messages == []
