"""Trained networks from Python: `puffin.load(checkpoint)`, then `predict`.

Events are prepared as in the training of the network (number of constituents, scale, energy threshold, ...), so the
numbers are those that a script gives with --eval.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from puffin.checkpoints.checkpoint import Checkpoint
from puffin.checkpoints.networks import network_of_checkpoint, settings_of_checkpoint
from puffin.data.jet_observables import observables
from puffin.data.jets import JetDataset, JetSelection
from puffin.data.momenta import Source, find_particles
from puffin.data.packing import CloudBatch, JetBatch
from puffin.data.pilarnet import CloudDataset, CloudSelection, normalize_coordinates, normalize_energy
from puffin.errors import InputError
from puffin.models.pelican import PelicanClassifier, PelicanRegressor
from puffin.models.point_mae import PointMAE
from puffin.models.segmentation import Segmentation, VoxelSegmentation
from puffin.models.voxel_distillation import VoxelDistillation
from puffin.models.voxel_mae import VoxelMAE

Arrays = Sequence[np.ndarray] | np.ndarray


def load(path: str | Path, device: str | torch.device = "cpu") -> "Predictor":
    """Load a checkpoint, ours or a published one: a JetClassifier, JetRegressor, TokenEncoder, PointEncoder
    or PointClassifier.

    path: of the file, or the name of weights that come with Puffin, such as "lartpc_unet" (weights/README.md).
    InputError if the file is missing, damaged, or of no network that we know."""
    checkpoint = Checkpoint.read(path)
    settings = settings_of_checkpoint(checkpoint)
    network = network_of_checkpoint(checkpoint)
    if settings.machine.dtype == "double":
        network.double()
    return _PREDICTORS[type(network)](network.to(device), settings)


class Predictor(ABC):
    """A trained network and how its events are prepared.

    network: the nn.Module, in evaluation mode; settings: of the training, by part (settings.network,
    settings.data, ...)."""

    def __init__(self, network: nn.Module, settings: Any):
        self.network, self.settings = network, settings

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of its weights."""
        return next(self.network.parameters()).dtype

    def __repr__(self) -> str:
        number = sum(p.numel() for p in self.network.parameters())
        return f"{type(self).__name__}({type(self.network).__name__}, {number:,} parameters, {self.device})"

    def _outputs(self, batches: Iterator, number: int, progress: bool | None) -> Iterator:
        """Yield the network's output for each minibatch, with a progress bar for more than one of them."""
        disable = None if progress is None else not progress
        with torch.inference_mode(), tqdm(total=number, unit="event", disable=disable, leave=False) as bar:
            for batch in batches:
                yield self._compute(batch.to(self.device, self.dtype))
                bar.update(len(batch))

    @abstractmethod
    def _compute(self, batch) -> Any:
        """Compute the outputs of a minibatch, on the CPU."""


# -- jets ------------------------------------------------------------------------------------------------------------


class _JetPredictor(Predictor):
    """What both jet networks share: reading and preparing jets."""

    def predict(
        self,
        jets: Arrays | str | Path,
        scalars: Arrays | None = None,
        batch_size: int = 64,
        progress: bool | None = None,
    ) -> np.ndarray:
        """Predict for jets: one row of the result per jet, in their order.

        jets: a list of arrays (n, 4), one padded array (N, M, 4), or the path of an HDF5 file with the key Pmu; columns
        E, px, py, pz [GeV]; particles with E = 0 are padding. scalars: further features of each particle in the same
        form, (n, S) or (N, M, S), for networks that take them; a file holds them under its own keys.
        progress: show a progress bar (None: on a terminal). InputError for input of another form."""
        if batch_size < 1:
            raise InputError(f"batch_size: expected at least 1, got {batch_size}")
        source = self._open(Path(jets)) if isinstance(jets, (str, Path)) else jets
        number = len(source)

        def batch_of(first: int) -> JetBatch:
            numbers = list(range(first, min(first + batch_size, number)))
            return (
                source.__getitems__(numbers) if isinstance(source, JetDataset) else self._pack(jets, scalars, numbers)
            )

        batches = (batch_of(first) for first in range(0, number, batch_size))
        outputs = list(self._outputs(batches, number, progress))
        return np.concatenate([self._empty(), *outputs])

    def _open(self, path: Path) -> JetDataset:
        return JetDataset([path], JetSelection.of(self.settings.data, None, in_memory=False))

    def _pack(self, jets: Arrays, scalars: Arrays | None, numbers: list[int]) -> JetBatch:
        """Pack jets of these numbers, prepared like those of a file."""
        wanted = self.network.config.num_scalars
        if (scalars is None) != (wanted == 0):
            raise InputError(f"scalars: the network takes {wanted} features of each particle")
        nobj = self.settings.data.nobj
        given, momenta, features, lengths, whole = [], [], [], [], []
        for number in numbers:
            jet = _array(jets[number], 4, f"jet {number}")
            whole.append(jet[jet[:, 0] != 0])
            p = jet[: nobj if nobj > 0 else None]
            real = p[:, 0] != 0
            given.append(p)
            momenta.append(p[real] * np.float32(self.settings.data.scale))
            lengths.append(int(real.sum()))
            if scalars is not None:
                x = _array(scalars[number], wanted, f"scalars of jet {number}")[: len(p)]
                if len(x) != len(p):
                    raise InputError(f"scalars of jet {number}: expected {len(p)} particles, got {len(x)}")
                features.append(x[real])
        _check_momenta(given, numbers)
        observed = None
        if self.network.config.num_observables:  # of all particles
            observed = torch.from_numpy(observables(np.concatenate(whole), np.array([len(p) for p in whole])))
        return JetBatch(
            _joined(momenta, 4),
            torch.tensor(lengths, dtype=torch.int64),
            scalars=_joined(features, wanted) if scalars is not None else None,
            index=torch.tensor(numbers),
            observables=observed,
        )

    @abstractmethod
    def _empty(self) -> np.ndarray:
        """Return the prediction for no jets."""


class JetClassifier(_JetPredictor):
    """Jets to class scores (N, K) before the softmax, as in the prediction files of train_pelican_classifier.py."""

    def _compute(self, batch: JetBatch) -> np.ndarray:
        return self.network(batch).cpu().numpy()

    def _empty(self) -> np.ndarray:
        return np.zeros((0, self.network.config.num_classes), np.float32)

    def predict_probabilities(self, jets: Arrays | str | Path, **options) -> np.ndarray:
        """Predict class probabilities (N, K), which add up to 1; arguments as of `predict`."""
        return torch.from_numpy(self.predict(jets, **options)).softmax(1).numpy()


class JetRegressor(_JetPredictor):
    """Jets to four-momenta (N, T, 4) [GeV], as in the prediction files of train_pelican_cov.py."""

    def _compute(self, batch: JetBatch) -> np.ndarray:
        return self.network(batch).fourmomenta.cpu().numpy()

    def _empty(self) -> np.ndarray:
        return np.zeros((0, self.network.config.num_targets, 4), np.float32)


# -- point clouds ----------------------------------------------------------------------------------------------------


class _CloudPredictor(Predictor):
    """What both networks on point clouds share: reading and preparing events."""

    def predict(
        self, events: Sequence[np.ndarray] | str | Path, batch_size: int = 16, progress: bool | None = None
    ) -> list[np.ndarray]:
        """Predict for events: one array per event, in their order.

        events: a list of arrays (n, 4) with the columns x, y, z [voxels] and energy [MeV], or the path of an HDF5 file
        of PILArNet-M. Points at or below the energy threshold of the training are dropped, and the low-energy deposits
        of a file if the training was without them; in arrays nothing tells them from other points.
        progress: show a progress bar (None: on a terminal). InputError for input of another form."""
        if batch_size < 1:
            raise InputError(f"batch_size: expected at least 1, got {batch_size}")
        data = self.settings.data
        selection = CloudSelection(
            data.remove_led, data.energy_threshold, data.emin, min_points=0, skip_bad=False, rows=True
        )
        if isinstance(events, (str, Path)):
            dataset = CloudDataset([Path(events)], selection)
            number, sizes = len(dataset), dataset.points[dataset.events].tolist()
        else:
            arrays = [_array(event, 4, f"event {k}") for k, event in enumerate(events)]
            number, sizes = len(arrays), [len(event) for event in arrays]

        def batch_of(first: int) -> CloudBatch:
            numbers = list(range(first, min(first + batch_size, number)))
            if isinstance(events, (str, Path)):
                return dataset.__getitems__(numbers)
            return _prepared([arrays[k] for k in numbers], selection)

        batches = (batch_of(first) for first in range(0, number, batch_size))
        found = [array for batch in self._outputs(batches, number, progress) for array in batch]
        return [self._complete(array, size) for array, size in zip(found, sizes, strict=True)]

    def _complete(self, array, size: int) -> np.ndarray:
        """Return the result of an event of `size` points."""
        return array


class TokenEncoder(_CloudPredictor):
    """Events to the embeddings of their tokens, (T, D) per event, from a masked autoencoder; nothing is masked."""

    def _compute(self, batch: CloudBatch) -> list[np.ndarray]:
        tokens, features = self.network.encoder(batch.points, batch.lengths)
        return [x.cpu().numpy() for x in features.split(tokens.lengths.tolist())]


class _PointPredictor(_CloudPredictor):
    """Events to numbers of their points, (n, C) per event; nan for points that were dropped."""

    def _compute(self, batch: CloudBatch) -> list[tuple[np.ndarray, np.ndarray]]:
        numbers, sizes = self._numbers(batch).cpu(), batch.lengths.tolist()
        parts = zip(batch.row.split(sizes), numbers.split(sizes), strict=True)
        return [(row.numpy(), part.numpy()) for row, part in parts]

    def _complete(self, array: tuple[np.ndarray, np.ndarray], size: int) -> np.ndarray:
        rows, numbers = array
        result = np.full((size, numbers.shape[1]), np.nan, numbers.dtype)
        result[rows] = numbers
        return result

    @abstractmethod
    def _numbers(self, batch: CloudBatch) -> Tensor:
        """Compute the numbers of the points of a minibatch, (P, C)."""


class PointEncoder(_PointPredictor):
    """Events to the features of their points, (n, D) per event, from a pretrained U-Net."""

    def _numbers(self, batch: CloudBatch) -> Tensor:
        return self.network.features(batch.points, batch.lengths)


class PointClassifier(_PointPredictor):
    """Events to class probabilities of their points, (n, classes) per event; nan for points that were dropped."""

    def _numbers(self, batch: CloudBatch) -> Tensor:
        return self.network(batch.points, batch.lengths).logits.softmax(1)


_PREDICTORS: dict[type[nn.Module], Callable[..., Predictor]] = {
    PelicanClassifier: JetClassifier,
    PelicanRegressor: JetRegressor,
    PointMAE: TokenEncoder,
    VoxelMAE: PointEncoder,
    VoxelDistillation: PointEncoder,
    Segmentation: PointClassifier,
    VoxelSegmentation: PointClassifier,
}


# -- arrays ----------------------------------------------------------------------------------------------------------


def _array(rows, columns: int, name: str) -> np.ndarray:
    array = np.asarray(rows, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != columns:
        raise InputError(f"{name}: expected an array (n, {columns}), got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: holds numbers that are not finite")
    return array


def _check_momenta(jets: list[np.ndarray], numbers: list[int]) -> None:
    """Raise InputError if an entry of the jets (n, 4) is neither a particle nor padding; it names the jet."""
    remedy = "Pass the columns E, px, py, pz, not {}.".format
    try:  # all at once, which is faster
        find_particles(np.concatenate(jets)[None], Source("jets", remedy=remedy))
    except InputError:
        for number, jet in zip(numbers, jets, strict=True):
            find_particles(jet[None], Source("momenta", number, remedy=remedy))
        raise


def _joined(arrays: list[np.ndarray], columns: int) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros((0, columns), np.float32), *arrays]))


def _prepared(events: list[np.ndarray], selection: CloudSelection) -> CloudBatch:
    """Prepare and pack events as the data set does."""
    chosen = [np.flatnonzero(event[:, 3] > selection.energy_threshold) for event in events]
    rows = _joined([event[index] for event, index in zip(events, chosen, strict=True)], 4).numpy()
    rows[:, :3] = normalize_coordinates(rows[:, :3])
    rows[:, 3] = normalize_energy(rows[:, 3], selection.eps, selection.emax)
    return CloudBatch(
        torch.from_numpy(rows),
        torch.tensor([len(index) for index in chosen], dtype=torch.int64),
        index=torch.arange(len(events)),
        row=torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *chosen])),
    )
