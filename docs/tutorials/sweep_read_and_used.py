# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A sweep, read and used
#
# You search hyperparameters of the jet tagger, read what the search found, and train with the best settings. The trials here are tiny, so that six of them take seconds; the numbers only show how to read them.

# %%
# %cd -q ../..
import csv

from IPython.display import Image

# %% [markdown]
# ## A search space of your own
#
# `config/search/classifier.yaml` varies about fifteen flags, which needs many trials. With few trials vary few flags. All other flags have the value of the command line or of a preset in every trial.

# %%
space = """
lr-init: {type: float, range: [0.0005, 0.02], log: true}
batch-size: {choices: [16, 32, 64]}
num-channels-scalar: {type: int, range: [4, 10], step: 2}
"""
with open("data/space.yaml", "w") as file:
    file.write(space)

# %% [markdown]
# ## Search
#
# Each trial is a run of `train_pelican_classifier.py`, with a log and checkpoints of its own. By default it is judged by the AUC on the validation jets in its best epoch. `-j 2` would run two trials at a time, and the same command on another machine with the same `log/` would help too.

# %% language="bash"
# python3 optuna_search.py --task classifier --study-name tops --space data/space.yaml --num-trials 6 --sampler-seed 1 \
#     --yaml config/3k.yaml --datadir data/sample_data/run12 --nobj 20 --num-train 400 --num-valid 400 --num-test 100 \
#     --num-epoch 3 --lr-decay-type cos --warmup 0 --cooldown 0 --no-plot --no-predict --cpu --threads 1 --log-level warning

# %% [markdown]
# ## Read it
#
# `log/tops.trials.csv` has a row for each trial. A trial that is much worse than the others at the same epoch is pruned, that is, stopped early; with so few epochs none is.

# %%
with open("log/tops.trials.csv") as file:
    trials = list(csv.DictReader(file))
for row in sorted(trials, key=lambda row: row["AUC"], reverse=True):
    settings = "   ".join(f"{name} {row[name]:8.8}" for name in ("lr-init", "batch-size", "num-channels-scalar"))
    print(f"trial {row['trial']}: {row['state']:8}   AUC {row['AUC']:6.6}   {settings}")

# %% [markdown]
# The history says whether more trials still help: the line of the best value is flat where the search has found what it can.

# %%
Image("log/tops.history.png")

# %% [markdown]
# Each line of the next picture is a trial. The good ones are yellow: where they bundle, the flag matters. If they bundle at the edge of a range, widen the range.

# %%
Image("log/tops.parallel.png")

# %% [markdown]
# The importance is the share of the variance of the metric that a flag explains. It needs some tens of trials to mean something.

# %%
Image("log/tops.importance.png")

# %% [markdown]
# Two trials that differ only in the seed differ too. With 400 validation jets the AUC alone has a statistical error of about 0.015. So a difference of 0.01 between two trials means nothing; `--seeds 3` averages each trial over three trainings.
#
# ## Use it
#
# `log/tops.best.yaml` is a preset with the best settings. Its first line is the complete command.

# %%
with open("log/tops.best.yaml") as file:
    print(file.read())

# %% [markdown]
# The trials saw few jets for few epochs. Train with the best settings on more: flags on the command line override the preset.

# %% language="bash"
# python3 train_pelican_classifier.py --yaml log/tops.best.yaml --prefix final --num-train 1000 --num-test 2000 --num-epoch 4 --predict
# python3 tools/show_metrics.py log/final.Best.metrics.csv

# %% [markdown]
# Choose settings with validation jets only, and look at the test jets once, at the end: the best of many trials is partly the luckiest one. The tool below states the result with its statistical error.

# %% language="bash"
# python3 tools/results.py predict/final.best.test.pt

# %% [markdown]
# ## Go on
#
# - [Search hyperparameters](../search_hyperparameters.md): spaces, several metrics, many workers, clusters.
# - [Report results with errors](../results_with_errors.md).
