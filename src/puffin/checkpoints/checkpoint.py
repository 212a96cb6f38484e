"""One `Checkpoint`, whatever wrote the file: Puffin, the published PELICAN scripts, or the published PoLAr-MAE code."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from puffin.checkpoints.polarmae import published_network, published_settings
from puffin.checkpoints.reading import checkpoint_path, read_checkpoint
from puffin.checkpoints.writing import FORMAT
from puffin.errors import InputError
from puffin.settings.pelican import norm_name

PUFFIN, PELICAN, POLARMAE = "puffin", "pelican", "polarmae"
CLASSIFIER, REGRESSOR = "PELICAN classifier", "PELICAN regressor"
AUTOENCODER, SEGMENTATION = "masked autoencoder", "segmentation network"
SCRIPTS = {  # the script that trains each network
    CLASSIFIER: "train_pelican_classifier.py",
    REGRESSOR: "train_pelican_cov.py",
    AUTOENCODER: "train_pointmae.py",
    SEGMENTATION: "train_segmentation.py",
}

# what the published PELICAN networks always have, and our flags must ask for
_PUBLISHED_PELICAN = {"irc_diagonal": True, "published_projections": True}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    origin: who wrote it (PUFFIN, PELICAN, POLARMAE); settings: of the training, by name; weights: those with which the
    network is evaluated, under our names (see `evaluated_weights`); state: all that a run needs to resume, None if the
    file does not have it; commit: of the code of Puffin that wrote it; run_id: of the run that wrote it, "" in older
    files; stamp: what changes when the file is written again."""

    path: Path
    origin: str
    settings: Mapping[str, Any]
    weights: Mapping[str, Tensor] = field(repr=False)
    state: Mapping[str, Any] | None = field(repr=False)
    commit: str = ""
    run_id: str = ""
    stamp: tuple[int, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> "Checkpoint":
        """Read a file on the CPU, without unpickling code. InputError if it is missing, damaged, or no checkpoint.

        path: of the file, or the name of weights that come with Puffin."""
        path = checkpoint_path(path)
        stamp = _stamp(path)
        content = read_checkpoint(path)
        if "hyper_parameters" in content:
            model = published_network(content, str(path))
            return cls(path, POLARMAE, published_settings(model.config, path), model.state_dict(), None)
        settings = content.get("args")
        settings = vars(settings) if isinstance(settings, argparse.Namespace) else settings
        if not isinstance(settings, dict):
            raise InputError(
                f"{path}: not a checkpoint of a network that we know (the settings, key 'args', are missing)"
            )
        weights = evaluated_weights(content, path)
        if "git_commit" in content:
            state, run_id = content if "rng" in content else None, str(content.get("run_id", ""))
            return cls(path, PUFFIN, settings, weights, state, content["git_commit"], run_id, stamp)
        return cls(path, PELICAN, _settings_of_pelican(settings), weights, None)

    @property
    def network(self) -> str:
        """Which network the weights belong to: CLASSIFIER, REGRESSOR, AUTOENCODER, SEGMENTATION, or "" if unknown."""
        known = self.settings.keys()
        if {"num_channels_m", "stabilizer"} <= known:
            return REGRESSOR if any(name.startswith("agg_2to1.") for name in self.weights) else CLASSIFIER
        if {"voxels", "finetune"} <= known:
            return SEGMENTATION
        return AUTOENCODER if {"voxels", "decoder_depth"} <= known else ""

    def expect(self, *networks: str, hint: str = "") -> "Checkpoint":
        """Return the checkpoint if it is of one of these networks; InputError, which ends with the hint, if not.

        Without a hint the message names the script for the network that it is of."""
        if self.network not in networks:
            found = f"a {self.network}" if self.network else "no network that we know"
            if self.network and not hint:
                hint = f"; its script is {SCRIPTS[self.network]}"
            raise InputError(f"{self.path}: expected a checkpoint of a {' or '.join(networks)}, found {found}{hint}")
        return self

    def load_into(self, model: nn.Module) -> None:
        """Copy the weights with which the network is evaluated; InputError if they belong to another network."""
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise InputError(f"{self.path}: the weights belong to another network: {first[:200]}") from error

    def resumable(self) -> Mapping[str, Any]:
        """Return the state of the run; InputError if it cannot be resumed from this file."""
        if self.state is None:
            raise InputError(
                f"{self.path}: not written by Puffin, so the run cannot be resumed; fine-tune from it without --load"
            )
        if self.state.get("format") != FORMAT:
            raise InputError(f"{self.path}: expected a checkpoint of format {FORMAT}, got {self.state.get('format')}")
        return self.state

    def is_current(self) -> bool:
        """Return whether the file is still the one that was read."""
        return _stamp(self.path) == self.stamp

    @property
    def num_processes(self) -> int:
        """Number of processes of the run that wrote the checkpoint."""
        random_states = self.resumable()["rng"]
        return len(random_states) if isinstance(random_states, list) else 1

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation metric so far."""
        progress = self.resumable()["progress"]
        return progress["best"].get("epoch", progress["epoch"])


def evaluated_weights(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the weights with which a checkpoint's network is evaluated: averaged ones where there are any.

    Buffers, such as running statistics, are never averaged. InputError if there are no weights."""
    state = content.get("model_state", content.get("state_dict"))
    if not isinstance(state, dict):
        found = ", ".join(map(str, content))
        raise InputError(f"{path}: holds no weights (expected a key 'model_state'; found: {found})")
    average = content.get("average_state") or {}
    return {**state, **{k.removeprefix("module."): v for k, v in average.items() if k.startswith("module.")}}


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _settings_of_pelican(published: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a published PELICAN checkpoint as our scripts spell them."""
    ours = {**published, **_PUBLISHED_PELICAN, "dataset": published.get("dataset") or "jet"}
    ours["batchnorm"] = norm_name(published.get("batchnorm"))  # None: no normalisation
    not_ours = ("loss", "class_weights", "weights_key")  # other losses under the same names
    return {name: value for name, value in ours.items() if value is not None and name not in not_ours}
