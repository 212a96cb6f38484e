"""The calibration of a classifier, in a file beside its checkpoint: NAME_best.pt has NAME_best.calibration.json.

The checkpoint itself is not changed, so the file may belong to a published checkpoint, and to a run that goes on.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from puffin.errors import InputError, not_a_file
from puffin.files import whole_file
from puffin.metrics.calibration import Reliability, efficiency, fit_temperature, reliability, thresholds
from puffin.metrics.classification import probabilities, signal_scores
from puffin.metrics.missing import missing_of_classes, not_finite

EFFICIENCIES = np.round(np.arange(0.01, 1, 0.01), 2)
_HINT = "write it from the validation jets with --eval --calibrate"


@dataclass(frozen=True)
class Calibration:
    """A temperature and thresholds from validation jets.

    temperature: probabilities are softmax(logits / temperature); thresholds: on the difference of the two class scores,
    for the signal efficiencies EFFICIENCIES, empty for more than two classes; jets: number of validation jets; weights:
    digest of the weights of the network."""

    temperature: float
    thresholds: list[float]
    jets: int
    weights: str

    @staticmethod
    def path(checkpoint: Path) -> Path:
        """Return the path of the file of a checkpoint."""
        return checkpoint.with_suffix(".calibration.json")

    @classmethod
    def fit(
        cls, logits: np.ndarray, target: np.ndarray, weights: np.ndarray | None, network: Mapping[str, Tensor]
    ) -> "Calibration":
        """Fit to the class scores (N, K) of validation jets with classes (N,) and weights (N,), or None.

        network: the weights of the network. InputError if a class is absent, or a score is not finite."""
        num_classes = logits.shape[1]
        problem = missing_of_classes(target, weights, num_classes).get("AUC") or not_finite(logits, "class scores")
        if problem:
            raise InputError(f"--calibrate: {problem} in the validation jets; choose other ones with --datadir")
        found = []
        if num_classes == 2:
            found = thresholds(signal_scores(logits), target == 1, EFFICIENCIES, weights).tolist()
        return cls(fit_temperature(logits, target, weights), found, len(target), digest(network))

    def threshold(self, working_point: float) -> float:
        """Return the threshold for a signal efficiency, interpolated between those of the file."""
        return float(np.interp(working_point, EFFICIENCIES, self.thresholds))

    def tagged(self, logits: np.ndarray, working_point: float) -> np.ndarray:
        """Return which jets (N, 2) exceed the threshold for a signal efficiency, (N,) bool."""
        return signal_scores(logits) > self.threshold(working_point)

    def reliabilities(
        self, logits: np.ndarray, target: np.ndarray, weights: np.ndarray | None
    ) -> tuple[Reliability, Reliability]:
        """Compare confidence and accuracy without and with the temperature. logits (N, K), target and weights (N,)."""
        before, after = (probabilities(each) for each in (logits, logits / self.temperature))
        return reliability(before, target, weights), reliability(after, target, weights)

    def metrics(
        self, logits: np.ndarray, target: np.ndarray, weights: np.ndarray | None, working_point: float
    ) -> dict[str, float]:
        """Compute the calibration error with the temperature, and the efficiencies at a working point other than 0."""
        calibrated = self.reliabilities(logits, target, weights)[1]
        found = {"temperature": self.temperature, "ECE_calibrated": calibrated.error}
        if working_point:
            found["threshold"] = self.threshold(working_point)
            passing = self.tagged(logits, working_point)
            for name, number in (("signal_efficiency", 1), ("background_efficiency", 0)):
                jets = target == number
                measured = efficiency(passing[jets], None if weights is None else weights[jets])
                found |= dict(zip((name, f"{name}_error"), measured, strict=True))
        return found

    def outputs(self, logits: np.ndarray, working_point: float) -> dict[str, Tensor]:
        """Return the calibrated `probability` (N, K), and at a working point other than 0 the `decision` (N,): 1 for
        tagged jets, else 0."""
        found = {"probability": torch.from_numpy(probabilities(logits / self.temperature))}
        if working_point:
            found["decision"] = torch.from_numpy(self.tagged(logits, working_point).astype(np.uint8))
        return found

    def write(self, checkpoint: Path) -> Path:
        """Write the file of a checkpoint, and return it."""
        path = self.path(checkpoint)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, checkpoint: Path, network: Mapping[str, Tensor]) -> "Calibration":
        """Read the file of a checkpoint; InputError if it is missing, damaged, or of other weights than `network`."""
        path = cls.path(checkpoint)
        if not path.is_file():
            raise InputError(f"{not_a_file(path)}; {_HINT}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = cls(float(content["temperature"]), content["thresholds"], content["jets"], content["weights"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a readable calibration ({error}); {_HINT}") from error
        if found.weights != digest(network):
            raise InputError(f"{path}: belongs to other weights than those in {checkpoint}; {_HINT}")
        return found


def digest(network: Mapping[str, Tensor]) -> str:
    """Return a short digest of the weights of a network."""
    found = hashlib.sha256()
    for name in sorted(network):
        found.update(name.encode())
        found.update(network[name].contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
