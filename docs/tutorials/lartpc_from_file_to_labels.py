# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # LArTPC events, from file to labels
#
# You read events in the layout of PILArNet-M, label every point (shower, track, Michel electron, delta ray) with a network that comes with the repository, draw the result, and fine-tune the network.

# %%
# %cd -q ../..
import h5py
import matplotlib.pyplot as plt
import numpy as np

# %% [markdown]
# ## A raw file
#
# `data/make_lartpc.py` simulates events and writes them in the layout of PILArNet-M, version 2. Take your own files of this layout if you have some.

# %% language="bash"
# python3 data/make_lartpc.py --outdir data/raw --num-train 24 --num-val 8 --seed 5 -j 1

# %% [markdown]
# A row of `point` is an event: eight numbers for each of its points, of which the first four are the voxel x, y, z and the energy in MeV. A row of `cluster` has six numbers for each cluster of points: the first is its number of points, the fifth the class of its points. The points of a cluster follow each other. Class 4 are low-energy deposits (LED), which the network does not label.

# %%
names = ["shower", "track", "Michel", "delta", "LED"]
with h5py.File("data/raw/val/lartpc_8_v2.h5") as file:
    points = file["point"][0].reshape(-1, 8)[:, :4]
    clusters = file["cluster"][0].reshape(-1, 6)
true = np.repeat(clusters[:, 4], clusters[:, 0])
print(f"{len(points)} points in {len(clusters)} clusters")
for number, name in enumerate(names):
    print(f"{name:7} {(true == number).sum():5} points, {points[true == number, 3].sum():7.1f} MeV")


# %%
colours = np.array(["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#bbbbbb"])


def draw(axes, points, classes, title):
    axes.scatter(points[:, 2], points[:, 1], s=1, c=colours[classes], lw=0)
    axes.set(xlabel="z [voxels of 3 mm]", ylabel="y [voxels of 3 mm]", title=title, aspect="equal")


figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
draw(axes, points, true, "true classes (grey: LED)")

# %% [markdown]
# ## Label the points
#
# `weights/lartpc_unet.pt` is a U-Net of sparse convolutions, trained on simulated events. `--min-points 0` labels small events too.

# %% language="bash"
# python3 train_segmentation.py --eval --loadfile lartpc_unet --testfile data/raw/val --min-points 0 --prefix labels --cpu --threads 1
# python3 tools/show_metrics.py log/labels.Best.metrics.csv

# %% [markdown]
# The predictions are in one HDF5 file. The points of all events follow each other; `ptr` says where an event begins, `file` and `event` where it comes from, `row` which points of the raw event these are. Points of LED and those below the energy threshold are missing.

# %%
with h5py.File("predict/labels.best.test.raw.h5") as file:
    k = list(file["event"][:]).index(0)  # the event that was drawn above
    chosen = slice(*file["ptr"][k : k + 2])
    row, predicted = file["row"][chosen], file["class"][chosen]

figure, pair = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
draw(pair[0], points[row], predicted, "predicted")
wrong = predicted != true[row]
pair[1].scatter(points[row, 2], points[row, 1], s=1, c="#dddddd", lw=0)
draw(pair[1], points[row][wrong], predicted[wrong], f"{wrong.mean():.1%} of the points are wrong (predicted class)")

# %% [markdown]
# The script also drew an event, with its errors, to `log/labels/`:

# %%
from pathlib import Path

from IPython.display import Image

Image(next(Path("log/labels").glob("*.classes.png")))

# %% [markdown]
# ## From Python
#
# An array of x, y, z [voxels] and energy [MeV] is enough. The result has the probabilities of the classes for every point, and nan for points that were dropped because of their energy.

# %%
import puffin

network = puffin.load("lartpc_unet")
(probability,) = network.predict([points[true != 4]])
print(network)
print("mean probability of each class:", dict(zip(names, np.nanmean(probability, 0).round(3), strict=False)))

# %% [markdown]
# ## Fine-tune
#
# Labels of your own detector improve the network there. `--loadfile` continues from its weights; `--pretrained lartpc_voxelmae` would start from the weights that were pretrained without labels. Ten steps show only how it works: `config/segmentation_unet.yaml` alone takes 1200.

# %% language="bash"
# python3 train_segmentation.py --yaml config/segmentation_unet.yaml --loadfile lartpc_unet --datadir data/raw --min-points 0 \
#     --num-step 10 --valid-every 10 --warmup-steps 2 --lr-init 0.0005 --prefix finetuned --no-plot --cpu --threads 1

# %% [markdown]
# ## Go on
#
# - [Classify the points of LArTPC events](../segment_lartpc.md): networks, losses, augmentations, how good they are.
# - [Pretrain on LArTPC events](../pretrain_on_lartpc.md) without labels.
# - [Get LArTPC data](../get_lartpc_data.md): PILArNet-M, and packed files, which are faster to read.
