"""Settings of the two jet scripts: data, target, loss."""

import argparse
from dataclasses import dataclass
from typing import ClassVar

from puffin.settings import roles
from puffin.settings.common import DataSettings, OptimisationSettings, RunSettings, ScriptSettings
from puffin.settings.declare import setting
from puffin.settings.finetuning import ClassifierFinetuningSettings, JetFinetuningSettings
from puffin.settings.names import (
    CLASSIFICATION_METRICS,
    JET_DATASETS,
    MOMENTUM_LOSSES,
    REGRESSION_METRICS,
    TRANSFORMS,
)
from puffin.settings.pelican import PelicanConfig
from puffin.settings.self_training import JetSelfTrainingSettings
from puffin.settings.types import (
    checked,
    class_weights,
    count_or_all,
    dataset_key,
    loss_terms,
    number,
)

CLASS_WEIGHT_WORDS = ("balanced", "none")
# columns of a four-momentum, which a file may have in any order; y is the rapidity
COLUMNS = (("E", "px", "py", "pz"), ("pt", "eta", "phi", "m"), ("pt", "eta", "phi", "E"), ("pt", "y", "phi", "m"))


def scalars_keys(text: str) -> str:
    """Accept keys separated by commas, each with a known transform after a colon or without one."""
    for key in names(text):
        _, colon, transform = key.partition(":")
        if colon and transform not in TRANSFORMS:
            raise argparse.ArgumentTypeError(f"{key}: expected one of {', '.join(TRANSFORMS)} after the colon")
    return text


def momentum_columns(text: str) -> str:
    """Accept four columns that determine a four-momentum, in any order; return them without spaces."""
    spelling = {name.lower(): name for known in COLUMNS for name in known}
    columns = [spelling.get(name.lower(), name) for name in names(text)]
    if not any(sorted(columns) == sorted(known) for known in COLUMNS):
        orders = "; ".join(",".join(known) for known in COLUMNS)
        raise argparse.ArgumentTypeError(f"expected one of these in any order: {orders}; got {text!r}")
    return ",".join(columns)


def names(text: str) -> list[str]:
    """Split names at commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


@dataclass(frozen=True)
class JetDataSettings(DataSettings):
    """Which jets to read, and which of their particles and features to use."""

    datadir: str = setting(
        "./data/sample_data/run12",
        "folder with HDF5 files for training, validation and test",
        metavar="DIR",
        role=roles.EVENTS,
    )
    testfile: str = setting("", "test file, instead of those in --datadir", metavar="FILE", role=roles.EVENTS)
    target: str = setting(
        "is_signal",
        "key of the labels: class numbers or one-hot",
        type=dataset_key,
        metavar="KEY",
        role=roles.PREPARATION,
    )
    weights_key: str = setting(
        "", "key of a weight for each event (in the loss and in the metrics)", metavar="KEY", role=roles.LOSS
    )
    dataset: str = setting(
        "jet",
        "features of each particle: " + "; ".join(f"{name}: {text}" for name, text in JET_DATASETS.items()),
        choices=tuple(JET_DATASETS),
        role=roles.PREPARATION,
    )
    read_pid: bool = setting(False, "use the particle types of the key pdgid as features", role=roles.PREPARATION)
    scalars_keys: str = setting(
        "",
        "further features of each particle: keys separated by commas, each followed by a transform or not, such as "
        f"d0val:tanh (transforms: {', '.join(TRANSFORMS)})",
        type=scalars_keys,
        metavar="KEYS",
        role=roles.PREPARATION,
    )
    columns: str = setting(
        "E,px,py,pz",
        "what the four columns of Pmu and of true momenta hold: E,px,py,pz or pt,eta,phi with m or E, or pt,y,phi,m; "
        "in any order",
        type=momentum_columns,
        metavar="C,C,C,C",
        role=roles.PREPARATION,
    )
    nobj: int = setting(
        -1,
        "maximum number of constituents per jet, in the order of the file",
        type=count_or_all,
        metavar="N",
        shown="-1: all",
        role=roles.PREPARATION,
    )
    scale: float = setting(1.0, "factor on all momenta", type=number(above=0), metavar="F", role=roles.PREPARATION)
    RAMdataset: bool = setting(
        True, "read all data into memory at the start; off: read as needed, shuffled by chunks", role=roles.ORIGIN
    )

    @property
    def momentum_columns(self) -> tuple[str, ...]:
        """Names of the columns of a momentum, such as ("E", "px", "py", "pz")."""
        return tuple(names(self.columns))

    def keys_of_momenta(self, num_targets: int) -> tuple[str, ...]:
        """Return the keys of the true momenta, numbered if one key is given for several targets."""
        keys = names(self.target)
        if len(keys) == 1 and num_targets > 1:
            keys = [f"{keys[0]}_{k}" for k in range(num_targets)]
        return tuple(keys)


@dataclass(frozen=True)
class ClassifierDataSettings(JetDataSettings):
    """Jets with class labels."""

    observables: bool = setting(
        False,
        "also give 47 hand-made observables of each jet to the last layers: mass, multiplicity, N-subjettiness, ... "
        "(needs FastJet)",
        role=roles.PREPARATION,
    )


def reads_observables(data: JetDataSettings) -> bool:
    """Return whether a network on these data takes observables; a regressor never does."""
    return isinstance(data, ClassifierDataSettings) and data.observables


@dataclass(frozen=True)
class MomentumDataSettings(JetDataSettings):
    """Jets with the true momenta of the particles that initiated them."""

    target: str = setting(
        "truth_Pmu",
        "key of the true four-momentum [GeV], or several keys separated by commas",
        type=dataset_key,
        metavar="KEY",
        role=roles.PREPARATION,
    )


@dataclass(frozen=True)
class ClassificationSettings:
    """Loss of a classifier, and how its best epoch is chosen."""

    TITLE: ClassVar[str] = "loss"
    TITLES: ClassVar[dict[str, str]] = {"best_by": "training"}

    class_weights: str = setting(
        "none",
        "weight of each class in the loss, such as 1,2.5, or balanced: inversely proportional to the number of "
        "training events of the class",
        type=checked(class_weights, CLASS_WEIGHT_WORDS),
        metavar="W",
        role=roles.LOSS,
    )
    best_by: str = setting(
        "loss", "validation metric that chooses the best epoch", choices=tuple(CLASSIFICATION_METRICS)
    )


@dataclass(frozen=True)
class RegressionSettings:
    """Loss of a regressor, and how its best epoch is chosen."""

    TITLE: ClassVar[str] = "loss"
    TITLES: ClassVar[dict[str, str]] = {"best_by": "training"}

    loss: str = setting(
        "m:0.05,3d:0.01",
        "loss terms and their weights; terms: "
        + "; ".join(f"{name}: {text}" for name, text in MOMENTUM_LOSSES.items()),
        type=checked(loss_terms, MOMENTUM_LOSSES),
        metavar="TERMS",
        role=roles.LOSS,
    )
    best_by: str = setting("loss", "validation metric that chooses the best epoch", choices=REGRESSION_METRICS)

    @property
    def terms(self) -> dict[str, float]:
        """Weight of each loss term by its name."""
        return loss_terms(self.loss, MOMENTUM_LOSSES)


@dataclass(frozen=True)
class ClassifierRunSettings(RunSettings):
    """What to do, with the calibration of a classifier."""

    calibrate: bool = setting(
        False,
        "with --eval: fit a temperature and the thresholds of --working-point to the validation jets of --datadir, and "
        "write them to a file beside the checkpoint",
        role=roles.COMMAND,
    )
    working_point: float = setting(
        0.0,
        "with --eval: signal efficiency, from 0.01 to 0.99, at which jets are tagged, with the threshold that "
        "--calibrate has written (0: none)",
        type=number(0, 0.99),
        metavar="S",
        role=roles.COMMAND,
    )


@dataclass(frozen=True)
class ClassifierSettings(ScriptSettings):
    """All settings of train_pelican_classifier.py."""

    HIDDEN: ClassVar[dict[str, str]] = {
        "num_targets": "a classifier predicts no momenta; train_pelican_cov.py does",
        "published_projections": "a classifier predicts no momenta; train_pelican_cov.py does",
    }

    run: ClassifierRunSettings = ClassifierRunSettings(prefix="classifier")
    data: ClassifierDataSettings = ClassifierDataSettings()
    network: PelicanConfig = PelicanConfig()
    finetuning: ClassifierFinetuningSettings = ClassifierFinetuningSettings()
    self_training: JetSelfTrainingSettings = JetSelfTrainingSettings()
    loss: ClassificationSettings = ClassificationSettings()
    optimisation: OptimisationSettings = OptimisationSettings()


@dataclass(frozen=True)
class RegressorSettings(ScriptSettings):
    """All settings of train_pelican_cov.py."""

    HIDDEN: ClassVar[dict[str, str]] = {
        "num_classes": "a regressor predicts momenta, not classes; train_pelican_classifier.py does"
    }

    run: RunSettings = RunSettings(prefix="regressor")
    data: MomentumDataSettings = MomentumDataSettings()
    network: PelicanConfig = PelicanConfig()
    finetuning: JetFinetuningSettings = JetFinetuningSettings()
    loss: RegressionSettings = RegressionSettings()
    optimisation: OptimisationSettings = OptimisationSettings()
