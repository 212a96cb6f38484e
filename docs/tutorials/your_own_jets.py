# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own jets into the tagger
#
# You turn jets in a layout of your own (a ROOT tree, a NumPy archive, an HDF5 file with other names and units) into files that `train_pelican_classifier.py` reads, and train on them. All three paths end in the same way: one HDF5 file per split, with the four-momenta `Pmu` and a label. ROOT files need the package uproot (`pip install --no-build-isolation -e '.[convert]'`).

# %%
# %cd -q ../..
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import uproot

folder = Path("data/mine")
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# To have something to convert, this cell takes jets of the sample data and writes them as others might have done. You would start from the files that you have.

# %%
with h5py.File("data/sample_data/run12/train.h5") as file:
    momenta, labels, lengths = (file[key][:1200] for key in ("Pmu", "is_signal", "Nobj"))
energy, px, py, pz = np.moveaxis(momenta, -1, 0)
pt = np.hypot(px, py)
eta = np.arcsinh(np.divide(pz, pt, out=np.zeros_like(pz), where=pt > 0))
phi = np.arctan2(py, px)

particles = {"pt": pt, "eta": eta, "phi": phi, "e": energy}
filled = np.arange(momenta.shape[1]) < lengths[:, None]
particles = {name: ak.unflatten(column[filled], lengths) for name, column in particles.items()}
with uproot.recreate(folder / "jets.root") as file:
    file.mktree("tree", {"part": ak.zip(particles), "label": labels.astype(np.int32)})
np.savez(folder / "jets.npz", pt_eta_phi_e=np.stack([pt, eta, phi, energy], -1), top=labels)
with h5py.File(folder / "analysis.hdf5", "w") as file:
    file["constituents"] = momenta[..., [1, 2, 3, 0]] * 1000  # px, py, pz, E in MeV
    file["truth/label"] = labels


# %% [markdown]
# ## Write the files of the splits
#
# One function serves all layouts. It divides the jets among training, validation and test, and stores chunks of whole jets, which are the fastest to read. Divide by event or by run, not by jet, if an event holds several jets.


# %%
def write_splits(name, momenta, labels, fractions=(0.7, 0.15, 0.15)):
    """momenta (jets, particles, 4), padded with zeros; labels (jets,)."""
    order = np.random.default_rng(0).permutation(len(labels))
    ends = np.round(np.cumsum(fractions) * len(labels)).astype(int)
    for split, rows in zip(("train", "valid", "test"), np.split(order, ends[:-1]), strict=True):
        with h5py.File(folder / f"{name}_{split}.h5", "w") as file:
            file.create_dataset("Pmu", data=momenta[rows].astype("f4"), chunks=(128, *momenta.shape[1:]), compression=1)
            file["is_signal"] = labels[rows].astype("i1")
        print(f"{name}_{split}.h5: {len(rows)} jets, {labels[rows].mean():.0%} signal")


# %% [markdown]
# ## From ROOT
#
# uproot reads the branches as arrays with as many entries as the jet has particles. awkward pads them with zeros. The particles should be sorted by falling pT, because `--nobj` keeps the first ones.

# %%
with uproot.open(folder / "jets.root") as file:
    branches = file["tree"].arrays(["part_pt", "part_eta", "part_phi", "part_e", "label"])
order = ak.argsort(branches.part_pt, ascending=False)
most = int(ak.max(ak.num(order)))
columns = [
    ak.to_numpy(ak.fill_none(ak.pad_none(branches[f"part_{name}"][order], most, clip=True), 0))
    for name in ("pt", "eta", "phi", "e")
]
write_splits("root", np.stack(columns, -1), ak.to_numpy(branches.label))

# %% [markdown]
# The columns are pT, eta, phi, E instead of E, px, py, pz. There is no need to compute the others: `--columns` names those of the file, and the checkpoint remembers them.

# %% language="bash"
# mkdir -p data/mine/root
# mv data/mine/root_*.h5 data/mine/root
# python3 train_pelican_classifier.py --yaml config/3k.yaml --datadir data/mine/root --columns pt,eta,phi,E --prefix root \
#     --nobj 30 --num-epoch 2 --batch-size 32 --warmup 0 --cooldown 0 --cpu --threads 1

# %% [markdown]
# Files with the wrong columns are noticed before the training: every particle needs E > 0 and E ≥ |p|.

# %%
# !python3 train_pelican_classifier.py --yaml config/3k.yaml --datadir data/mine/root --prefix wrong --cpu --threads 1 | tail -1

# %% [markdown]
# ## From NumPy
#
# A padded array is written as it is. Particles without energy are padding; -1 or nan as padding must be set to zero first.

# %%
with np.load(folder / "jets.npz") as archive:
    momenta, labels = archive["pt_eta_phi_e"], archive["top"]
momenta = np.where(momenta[..., 3:] > 0, momenta, 0)
write_splits("numpy", momenta, labels)

# %% [markdown]
# ## From HDF5 with other names and units
#
# Here the columns are px, py, pz, E in MeV. The values can stay: `--scale 0.001` turns them into GeV. A large file should be copied in blocks, which needs little memory.

# %%
with h5py.File(folder / "analysis.hdf5") as file:
    write_splits("hdf5", file["constituents"][:], file["truth/label"][:])

# %% language="bash"
# mkdir -p data/mine/hdf5
# mv data/mine/hdf5_*.h5 data/mine/hdf5
# python3 train_pelican_classifier.py --yaml config/3k.yaml --datadir data/mine/hdf5 --columns px,py,pz,E --scale 0.001 --prefix hdf5 \
#     --nobj 30 --num-epoch 2 --batch-size 32 --warmup 0 --cooldown 0 --cpu --threads 1

# %% [markdown]
# ## One file, one checkpoint
#
# The checkpoint knows columns and scale, so an evaluation needs only the file. `puffin.load(...).predict(array)` takes the columns E, px, py, pz in any case, in the unit of the training files.

# %% language="bash"
# python3 train_pelican_classifier.py --eval --loadfile model/root_best.pt --testfile data/mine/root/root_test.h5 --prefix again --cpu --threads 1
# python3 tools/show_metrics.py log/again.Best.metrics.csv

# %% [markdown]
# ## Go on
#
# - [Use your own jets](../use_your_own_jets.md): all keys of a file, further features, converters for public data sets.
# - [Fine-tune a trained network](../fine_tune_a_tagger.md) to your jets.
# - [A sweep, read and used](sweep_read_and_used.md): better settings for your data.
