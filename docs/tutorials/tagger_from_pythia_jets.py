# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A tagger from Pythia jets
#
# You train a network that tells jets of top quarks from jets of light quarks and gluons, read its metrics, and use it from Python. The jets come with the repository: Pythia 8 generated them, FastJet clustered them (anti-kT, R = 0.8, 550 to 650 GeV). Everything here takes a minute on one core. Work in the main folder of your clone, with the environment that `make quickstart` created:

# %%
# %cd -q ../..
import h5py
import matplotlib.pyplot as plt
import numpy as np

# %% [markdown]
# ## Look at the jets
#
# A file holds one row per jet: the four-momenta `Pmu` of its particles, by falling pT and padded with zeros, and the label `is_signal`.

# %%
with h5py.File("data/sample_data/run12/train.h5") as file:
    for key, values in file.items():
        print(f"{key:12} {str(values.shape):16} {values.dtype}")
    momenta, is_top = file["Pmu"][:], file["is_signal"][:] == 1

# %% [markdown]
# The mass of the sum of the particles separates the two kinds already: it peaks at the masses of the top quark and, where the b quark is outside of the jet, of the W boson.

# %%
energy, *three = momenta.sum(1).T
mass = np.sqrt(np.maximum(energy**2 - sum(p**2 for p in three), 0))
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for chosen, label, colour in ((is_top, "top", "#0072b2"), (~is_top, "QCD", "#d55e00")):
    axes.hist(mass[chosen], np.linspace(0, 300, 61), histtype="step", lw=1.6, color=colour, label=label)
axes.set(xlabel="jet mass [GeV]", ylabel="jets per 5 GeV")
_ = axes.legend(frameon=False)
# %% [markdown]
# ## Train
#
# The preset `config/3k.yaml` is a small PELICAN network. `--num-train`, `--nobj` (particles per jet) and `--num-epoch` keep this first training short. Leave them out, and take `config/11k.yaml`, for a better tagger.

# %% language="bash"
# python3 train_pelican_classifier.py --yaml config/3k.yaml --datadir data/sample_data/run12 --prefix tutorial \
#     --num-train 1000 --num-valid 500 --nobj 25 --num-epoch 5 --batch-size 16 \
#     --lr-decay-type cos --lr-init 0.004 --warmup 1 --cooldown 0 --cpu --threads 1

# %% [markdown]
# The last lines name the files of the run. The table has the metrics of the best epoch on the 2000 test jets. A background rejection of 50 at a signal efficiency of 0.3 means: if the cut accepts 30% of the top jets, it accepts one of 50 QCD jets.

# %% language="bash"
# python3 tools/show_metrics.py log/tutorial.Best.metrics.csv

# %% [markdown]
# The picture shows the loss per epoch and the background rejection against the signal efficiency. The band is the statistical error, which comes from the number of QCD jets in the test set.

# %%
from IPython.display import Image

Image("log/tutorial.png")

# %% [markdown]
# ## Check the symmetries
#
# The preset's network is invariant under permutations of the particles and under the Lorentz transformations that keep the beam (`--stabilizer`). The script measures it:

# %% language="bash"
# python3 train_pelican_classifier.py --test --prefix tutorial --cpu --threads 1

# %% [markdown]
# ## Use the tagger from Python
#
# `puffin.load` rebuilds the network from its checkpoint, and `predict` takes files or arrays of E, px, py, pz in GeV.

# %%
import puffin

tagger = puffin.load("model/tutorial_best.pt")
probability = tagger.predict_probabilities("data/sample_data/run12/test.h5")[:, 1]
with h5py.File("data/sample_data/run12/test.h5") as file:
    is_top = file["is_signal"][:] == 1

threshold = np.quantile(probability[is_top], 0.5)
accepted = probability >= threshold
print(f"{tagger}")
print(f"above {threshold:.3f}: {accepted[is_top].mean():.1%} of the top jets, {accepted[~is_top].mean():.2%} of QCD")

# %% [markdown]
# ## Go on
#
# - [Train a jet tagger](../train_a_tagger.md): presets, several classes, features of the particles, large data.
# - [Report results with errors](../results_with_errors.md): several seeds, bootstrap intervals, comparisons.
# - [Your own jets](your_own_jets.md): ROOT, NumPy and HDF5 files in a layout of their own.
# - [Generate jets](../generate_jets.md) of twelve kinds yourself.
