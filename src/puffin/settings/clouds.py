"""Settings of the two scripts on point clouds: data, networks, losses, pictures."""

from dataclasses import dataclass, replace
from typing import ClassVar

from puffin.settings import roles
from puffin.settings.common import DataSettings, OptimisationSettings, RunSettings, ScriptSettings
from puffin.settings.declare import setting
from puffin.settings.distillation import DistillationConfig
from puffin.settings.encoder import EncoderConfig, TransformerConfig
from puffin.settings.finetuning import ALL, HEAD, FinetuningSettings
from puffin.settings.names import CLASS_LOSSES, MASKED_MODELLING_METRICS, SEGMENTATION_METRICS
from puffin.settings.roles import Role
from puffin.settings.self_training import SelfTrainingSettings
from puffin.settings.types import checked, class_weights, integer, loss_terms, number
from puffin.settings.unet import UNetConfig

MODELS = ("pointmae", "polarmae")
METHODS = ("masked", "distill")
FINETUNE = ("fft", "peft", "lora")
_OF_JETS = {ALL: "fft", HEAD: "peft"}  # names of the jet scripts
BACKBONES = ("transformer", "unet")
ROTATIONS = ("any", "lattice")
POINT_WEIGHT_WORDS = ("pilarnet", "data", "none")
_NO_SYMMETRY_REPORT = "the symmetry report is for jet networks"
_NO_COMPILE = "point-cloud networks cannot be compiled with torch.compile"


@dataclass(frozen=True)
class CloudDataSettings(DataSettings):
    """Which events to read, and which of their points to use."""

    TITLES: ClassVar[dict[str, str]] = {"rotate": "augmentation"}

    datadir: str = setting(
        "./data/sample_data/lartpc",
        "folder with HDF5 files in train/, val/ and, if there is one, test/",
        metavar="DIR",
        role=roles.EVENTS,
    )
    testfile: tuple[str, ...] = setting(
        (),
        "test files, or folders that are searched for .h5 files, instead of those in --datadir",
        many="+",
        collect=lambda paths: tuple(path for path in paths if path),  # older runs store '' for none
        metavar="PATH",
        role=roles.EVENTS,
    )
    min_points: int = setting(
        1024,
        "minimum number of points per event, before any cuts",
        type=integer(0),
        metavar="N",
        role=roles.SELECTION,
    )
    energy_threshold: float = setting(
        0.13, "drop points at or below this energy [MeV]", type=number(0), metavar="MEV", role=roles.PREPARATION
    )
    emin: float | None = setting(
        None,
        "energy that is scaled to about -1 [MeV]",
        type=number(above=0),
        metavar="MEV",
        shown="--energy-threshold, or 0.01 if that is 0",
        role=roles.PREPARATION,
    )
    remove_led: bool = setting(True, "remove the low-energy deposits", role=roles.PREPARATION)
    skip_bad: bool = setting(False, "skip bad files and events, and count them")
    rotate: bool = setting(True, "apply a random rotation to each training event", role=roles.ORIGIN)


@dataclass(frozen=True)
class AugmentationSettings:
    """How training events are changed at random, so that few labelled events teach more."""

    TITLE: ClassVar[str] = "augmentation"
    ROLE: ClassVar[Role] = roles.ORIGIN

    rotations: str | None = setting(
        None,
        "how --rotate rotates; any: by any rotation, after which a U-Net moves the points to the nearest voxels, where "
        "some merge; lattice: by one of the 48 symmetries of the cube, which keep all voxels, with a shift; try any "
        "with a U-Net if tracks have preferred directions",
        choices=ROTATIONS,
        shown="lattice with a U-Net, else any",
    )
    drop_points: float = setting(
        0.0,
        "remove a random fraction of the points of each training event, from 0 to F, which is below 1 (0: off; lowers "
        "the F1 with --geometry, whose features change with the points)",
        type=number(minimum=0, below=1),
        metavar="F",
    )
    energy_jitter: float = setting(
        0.0,
        "add Gaussian noise to the scaled energies (-1 to about 1): each training event draws its standard deviation "
        "from 0 to S, and a shift of all its points with standard deviation S/2; S is 0 or more (0: off; with few "
        "labelled events try 0.1)",
        type=number(minimum=0),
        metavar="S",
    )
    mix_events: float = setting(
        0.0,
        "overlay random pairs of the events of a minibatch, each pair with probability P, from 0 to 1: both become one "
        "event, so points are classified by what is near them (0: off; with few labelled events try 0.5)",
        type=number(minimum=0, maximum=1),
        metavar="P",
    )


@dataclass(frozen=True)
class PictureSettings:
    """Pictures of events."""

    TITLE: ClassVar[str] = "pictures"

    plot_every: int = setting(
        0,
        "draw events at the first validation after every N steps (0: only at the end)",
        type=integer(0),
        metavar="N",
    )
    plot_events: int = setting(
        1,
        "number of validation events to draw to LOGDIR/PREFIX/ (none with --no-plot)",
        type=integer(0),
        metavar="N",
    )
    plot_numbers: tuple[int, ...] | None = setting(
        None,
        "numbers of the validation events to draw, counted from 0, instead of the first --plot-events",
        type=integer(0),
        many="+",
        collect=tuple,
        metavar="EVENT",
        shown="the first --plot-events",
    )
    plot_html: bool = setting(False, "also draw them as interactive HTML pages (needs plotly)")


@dataclass(frozen=True)
class BackboneConfig:
    """Which network reads the points; pretraining and segmentation share it, so that weights fit both."""

    TITLE: ClassVar[str] = "network"
    ROLE: ClassVar[Role] = roles.NETWORK

    encoder: EncoderConfig = EncoderConfig()
    backbone: str = setting(
        "transformer",
        "transformer: a transformer on tokens of points; unet: sparse convolutions on the voxels at several "
        "resolutions, better with few labelled events",
        choices=BACKBONES,
    )
    unet: UNetConfig = UNetConfig()
    geometry: bool = setting(
        False,
        "give the network hand-made features of each point: shape, energy and number of points around it at several "
        "scales; helps most with few labelled events; pretraining has them with a U-Net only",
    )

    def __post_init__(self):
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone: expected one of {', '.join(BACKBONES)}, got {self.backbone!r}")


@dataclass(frozen=True)
class PointMAEConfig(BackboneConfig):
    """Everything that defines a network for pretraining: a masked autoencoder, or teacher and student.

    published_decoder: of a published network, whose decoder may differ from the encoder in more than its depth.
    """

    model: str = setting(
        "polarmae",
        "pointmae: reconstruct the positions of masked points; polarmae: their energies too, as a U-Net always does",
        choices=MODELS,
    )
    decoder_depth: int = setting(
        4,
        "number of blocks of the decoder; 0: no decoder, the encoder sees mask tokens instead of the masked ones "
        "(SimMIM), which teaches it more in a short run",
        type=integer(0),
        metavar="N",
    )
    mask_ratio: float = setting(
        0.6, "fraction of tokens, or of blocks of voxels, to mask", type=number(above=0, below=1), metavar="F"
    )
    mask_block: int = setting(
        8,
        "with --backbone unet: edge of the cubes that are masked as a whole [voxels]; a power of two, from 2 to half "
        "the edge of the coarsest voxels, which is 16 with 5 levels",
        type=integer(2),
        metavar="N",
    )
    method: str = setting(
        "masked",
        "masked: predict the masked tokens or voxels; distill, with --backbone unet: predict from crops and masked "
        "events the features that a moving average of the network has of the whole events",
        choices=METHODS,
    )
    distillation: DistillationConfig = DistillationConfig()
    published_decoder: TransformerConfig | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {self.method!r}")
        if self.method == "distill" and self.backbone != "unet":
            raise ValueError(f"method: distill needs backbone unet, got {self.backbone}")
        if self.model not in MODELS:
            raise ValueError(f"model: expected one of {', '.join(MODELS)}, got {self.model!r}")
        if self.decoder.dim != self.encoder.dim:
            raise ValueError(f"decoder: expected the encoder's width {self.encoder.dim}, got {self.decoder.dim}")
        if self.decoder.depth < 0:
            raise ValueError(f"decoder: expected 0 blocks or more, got {self.decoder.depth}")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio: expected a number above 0 and below 1, got {self.mask_ratio}")
        if self.backbone == "unet":
            if not self.energy:
                raise ValueError(f"model: expected polarmae (backbone unet), got {self.model}")
            levels = self.unet.unet_levels
            possible = [2**level for level in range(1, levels - 1)]
            if not possible:
                raise ValueError(f"unet_levels: expected at least 3 for pretraining, got {levels}")
            if self.mask_block not in possible:
                choices = ", ".join(map(str, possible))
                raise ValueError(f"mask_block: expected one of {choices} (unet_levels {levels}), got {self.mask_block}")
        elif self.geometry:
            raise ValueError("geometry: a transformer is pretrained without it; use backbone unet, or leave it out")

    @property
    def mask_level(self) -> int:
        """The level of the U-Net whose voxels are the blocks."""
        return self.mask_block.bit_length() - 1

    @property
    def energy(self) -> bool:
        """Whether energies are predicted, as in PoLAr-MAE."""
        return self.model == "polarmae"

    @property
    def decoder(self) -> TransformerConfig:
        """The decoder's transformer: the encoder's with a depth of its own."""
        own = replace(self.encoder.transformer, depth=self.decoder_depth, final_norm=True)
        return own if self.published_decoder is None else self.published_decoder

    def without_dropout(self) -> "PointMAEConfig":
        """Return what weights and their outputs depend on."""
        decoder = replace(self.decoder, attention_dropout=0.0, drop_path=0.0)
        return replace(self, encoder=self.encoder.without_dropout(), published_decoder=decoder)


@dataclass(frozen=True)
class SegmentationConfig(BackboneConfig):
    """Everything that defines a segmentation network.

    num_classes: follows from --remove-led; neighbours: tokens from which a point's features are interpolated."""

    TITLES: ClassVar[dict[str, str]] = dict.fromkeys(("finetune", "lora_rank", "lora_alpha"), "fine-tuning")

    num_classes: int = 4
    layers: tuple[int, ...] | None = setting(
        None,
        "blocks of the encoder, counted from 0, whose outputs are averaged",
        type=integer(0),
        many="+",
        collect=tuple,
        metavar="BLOCK",
        shown="3 7 11 of 12 blocks, else at the same fractions",
    )
    head_dim: int = setting(
        512, "width of the first layer of the head; the second has half of it", type=integer(2), metavar="N"
    )
    head_dropout: float = setting(
        0.5,
        "dropout between these two layers",
        type=number(minimum=0, below=1),
        metavar="P",
        role=roles.TRAINING,
    )
    neighbours: int = 5
    head_depth: int = setting(
        0, "number of transformer blocks on the tokens between encoder and points", type=integer(0), metavar="N"
    )
    finetune: str = setting(
        "fft",
        "which encoder weights are trained: all (fft or all), none (peft or head, a probe), or low-rank updates of the "
        "attention (lora); the head is always trained",
        type=lambda text: _OF_JETS.get(text, text),
        choices=FINETUNE,
        role=roles.ORIGIN,
    )
    lora_rank: int = setting(8, "with lora: rank of the updates", type=integer(1), metavar="N", role=roles.TRAINING)
    lora_alpha: float = setting(
        16.0, "with lora: the updates are multiplied by A / rank", type=number(0), metavar="A", role=roles.TRAINING
    )

    def __post_init__(self):
        super().__post_init__()
        if self.finetune not in FINETUNE:
            raise ValueError(f"finetune: expected one of {', '.join(FINETUNE)}, got {self.finetune!r}")
        for name, minimum in (("num_classes", 2), ("head_dim", 2), ("head_depth", 0)):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}: expected at least {minimum}, got {getattr(self, name)}")
        depth = self.encoder.transformer.depth
        if not self.averaged_layers or not all(0 <= layer < depth for layer in self.averaged_layers):
            raise ValueError(f"layers: expected blocks of the encoder, 0 to {depth - 1}, got {self.layers}")

    @property
    def averaged_layers(self) -> tuple[int, ...]:
        """The blocks whose outputs are averaged: `layers`, or three at the published fractions of the depth."""
        return spread_layers(self.encoder.transformer.depth) if self.layers is None else self.layers

    def without_dropout(self) -> "SegmentationConfig":
        """Return what weights and their outputs depend on."""
        return replace(
            self,
            encoder=self.encoder.without_dropout(),
            layers=self.averaged_layers,
            head_dropout=0.0,
            finetune="fft",
        )


def spread_layers(depth: int) -> tuple[int, ...]:
    """Return three blocks of an encoder of this depth, the last one among them: 3, 7, 11 of 12, as published."""
    return tuple(sorted({-(-third * depth // 3) - 1 for third in (1, 2, 3)}))


@dataclass(frozen=True)
class MaskedModellingSettings:
    """What is measured during pretraining."""

    TITLE: ClassVar[str] = "pretraining"
    TITLES: ClassVar[dict[str, str]] = {"best_by": "training"}

    probe: bool = setting(
        True,
        "linear probe: how well a linear classifier finds the classes of points in the embeddings of tokens, or in the "
        "features of points with --backbone unet; needs the training events of --datadir, with --eval too",
    )
    probe_every: int = setting(
        0,
        "probe at the first validation after every N steps (0: only at the end)",
        type=integer(0),
        metavar="N",
    )
    best_by: str = setting(
        "loss", "validation metric that chooses the best epoch", choices=tuple(MASKED_MODELLING_METRICS)
    )


@dataclass(frozen=True)
class SegmentationSettings(FinetuningSettings):
    """Where the encoder comes from, the loss, and how the best epoch is chosen."""

    TITLES: ClassVar[dict[str, str]] = {"loss": "loss", "class_weights": "loss", "best_by": "training"}

    pretrained: str = setting(
        "",
        "checkpoint of a pretrained network, ours or published, or a name of weights/README.md, from which the encoder "
        "or the U-Net and its settings are taken",
        metavar="FILE",
        role=roles.ORIGIN,
    )
    loss: str = setting(
        "focal",
        "loss terms and their weights, such as focal:1,dice:1; terms: "
        + "; ".join(f"{name}: {text}" for name, text in CLASS_LOSSES.items()),
        type=checked(loss_terms, CLASS_LOSSES),
        metavar="TERMS",
        role=roles.KEPT_LOSS,
    )
    class_weights: str = setting(
        "pilarnet",
        "weight of each class in the loss, inversely proportional to its number of points in PILArNet-M's training "
        "set (pilarnet) or in this one (data); none; or numbers such as 1,1,20,5",
        type=checked(class_weights, POINT_WEIGHT_WORDS),
        metavar="W",
        role=roles.KEPT_LOSS,
    )
    best_by: str = setting(
        "f1_macro", "validation metric that chooses the best epoch", choices=tuple(SEGMENTATION_METRICS)
    )

    @property
    def terms(self) -> dict[str, float]:
        """Weight of each loss term by its name."""
        return loss_terms(self.loss, CLASS_LOSSES)


_HIDDEN = {"test": _NO_SYMMETRY_REPORT, "compile": _NO_COMPILE}
# as published, except for the length of the run
_PUBLISHED = OptimisationSettings(num_epoch=20, lr_decay_type="cos", warmup=1, cooldown=0, weight_decay=0.05, clip=3.0)


@dataclass(frozen=True)
class PretrainingSettings(ScriptSettings):
    """All settings of train_pointmae.py."""

    HIDDEN: ClassVar[dict[str, str]] = _HIDDEN

    run: RunSettings = RunSettings(prefix="pointmae")
    data: CloudDataSettings = CloudDataSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    network: PointMAEConfig = PointMAEConfig()
    pretraining: MaskedModellingSettings = MaskedModellingSettings()
    pictures: PictureSettings = PictureSettings()
    optimisation: OptimisationSettings = replace(
        _PUBLISHED, batch_size=32, lr_init=1e-4, lr_start=8.6e-6, lr_final=8.6e-6
    )


@dataclass(frozen=True)
class PointSegmentationSettings(ScriptSettings):
    """All settings of train_segmentation.py."""

    HIDDEN: ClassVar[dict[str, str]] = _HIDDEN | {
        "predict_format": "predictions of points are written to HDF5 files (h5), batch by batch"
    }
    ROLES: ClassVar[dict[str, Role]] = {"remove_led": roles.NETWORK}  # it decides the number of classes

    run: RunSettings = RunSettings(prefix="segmentation", predict_format="h5")
    data: CloudDataSettings = CloudDataSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    network: SegmentationConfig = SegmentationConfig()
    finetuning: SegmentationSettings = SegmentationSettings()
    self_training: SelfTrainingSettings = SelfTrainingSettings()
    pictures: PictureSettings = PictureSettings()
    optimisation: OptimisationSettings = replace(_PUBLISHED, batch_size=16, lr_init=3e-4, lr_start=1e-6, lr_final=1e-6)
