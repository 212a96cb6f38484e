"""Settings of encoders of point clouds: tokens and transformer.  Source: arXiv 2502.02558, sec. 3."""

import functools
import math
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from puffin.detector import PILARNET
from puffin.settings import roles
from puffin.settings.declare import setting
from puffin.settings.roles import Role
from puffin.settings.types import integer, number

CENTRES = ("cnms", "fps")
NEIGHBOURS = ("ball", "knn")
REDUCTIONS = ("fps", "energy")
VOXEL = PILARNET.voxel  # one voxel (3 mm) in the units of prepared points, whose detector has radius 1
ARCHITECTURES = {"vit_tiny": (192, 6), "vit_small": (384, 6), "vit_base": (768, 12)}  # name -> width, heads

# --voxels -> the published settings of its tokens
TOKENIZERS = {
    "2.5": {"radius": 2.5 * VOXEL, "context": 1024, "group_size": 16, "upscale": 64, "overlap": 0.73},
    "5": {"radius": 5 * VOXEL, "context": 512, "group_size": 32, "upscale": 256, "overlap": 0.72},
    "25": {
        "radius": 25 * VOXEL,
        "context": 128,
        "group_size": 128,
        "upscale": 2048,
        "overlap": 0.72,
        "seeds": 256,
        "mean_centres": True,
    },
}
_EVERYWHERE = {"centres": "cnms", "neighbours": "ball", "reduction": "fps", "seeds": 0, "mean_centres": False}


@dataclass(frozen=True)
class TokenizerConfig:
    """How points become tokens.  What is None is as --voxels sets it; `complete` fills it in."""

    TITLE: ClassVar[str] = "network"
    ROLE: ClassVar[Role] = roles.NETWORK

    radius: float | None = setting(
        None,
        f"radius of a token, in units of half the detector's diagonal (one voxel: {VOXEL:.7f}), from 1e-6 to 2",
        type=number(1e-6, 2),  # its square must not vanish in float32; the detector's diameter is 2
        metavar="R",
        shown="as --voxels sets it",
    )
    context: int | None = setting(
        None,
        "maximum number of tokens per event; with --centres fps their number",
        type=integer(1),
        metavar="N",
        shown="as --voxels sets it",
    )
    group_size: int | None = setting(
        None, "maximum number of points per token", type=integer(1), metavar="N", shown="as --voxels sets it"
    )
    upscale: int | None = setting(
        None,
        "maximum number of points that are found for a token, before they are reduced to --group-size",
        type=integer(1),
        metavar="N",
        shown="as --voxels sets it",
    )
    overlap: float | None = setting(
        None,
        "cnms places centres at least 2 R F apart",
        type=number(above=0),
        metavar="F",
        shown="as --voxels sets it",
    )
    centres: str | None = setting(
        None,
        "how centres of tokens are chosen: cnms as many as needed, fps always --context of them",
        choices=CENTRES,
        shown="cnms",
    )
    neighbours: str | None = setting(
        None,
        "points of a token: all in the ball around its centre, or the nearest",
        choices=NEIGHBOURS,
        shown="ball",
    )
    reduction: str | None = setting(
        None,
        "which points of a full ball are kept: those farthest from each other (fps), or those of highest energy",
        choices=REDUCTIONS,
        shown="fps",
    )
    seeds: int | None = setting(
        None,
        "number of farthest points among which cnms chooses centres (0: all points)",
        type=integer(0),
        metavar="N",
        shown="as --voxels sets it",
    )
    mean_centres: bool | None = setting(
        None, "move the centre of a token to the mean of its points", switch=True, shown="as --voxels sets it"
    )
    voxels: str = setting(
        "5",
        "radius of a token in voxels; sets the other flags of tokens that are not given",
        choices=tuple(TOKENIZERS),
    )

    def __post_init__(self):
        for name, choices in (
            ("voxels", TOKENIZERS),
            ("centres", CENTRES),
            ("neighbours", NEIGHBOURS),
            ("reduction", REDUCTIONS),
        ):
            if getattr(self, name) not in (None, *choices):
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        full = self.complete() if None in self._values() else self
        if not 1e-6 <= full.radius <= 2:
            raise ValueError(f"radius: expected 1e-6 to 2 (one voxel: {VOXEL:.7f}), got {full.radius}")
        if not 0 < full.overlap < math.inf:
            raise ValueError(f"overlap: expected a finite number above 0, got {full.overlap}")
        for name, minimum in (("context", 1), ("group_size", 1), ("upscale", full.group_size), ("seeds", 0)):
            if getattr(full, name) < minimum:
                where = " (group_size)" if name == "upscale" else ""
                raise ValueError(f"{name}: expected at least {minimum}{where}, got {getattr(full, name)}")

    def _values(self) -> list:
        return [getattr(self, entry.name) for entry in fields(self)]

    def complete(self) -> "TokenizerConfig":
        """Return the same settings with every None replaced by what --voxels sets."""
        return _complete(self)


@functools.cache
def _complete(tokens: TokenizerConfig) -> TokenizerConfig:
    standard = _EVERYWHERE | TOKENIZERS[tokens.voxels]
    missing = {name: value for name, value in standard.items() if getattr(tokens, name) is None}
    return replace(tokens, **missing) if missing else tokens


@dataclass(frozen=True)
class TransformerConfig:
    """Blocks of a vision transformer.

    final_norm: normalise the output; batch_wide_norm: the norm of published checkpoints (see `EncoderConfig`).
    """

    TITLE: ClassVar[str] = "network"
    ROLE: ClassVar[Role] = roles.NETWORK

    arch: str = setting(
        "vit_small",
        "size of the transformer (width, heads): "
        + ", ".join(f"{name} {size}" for name, size in ARCHITECTURES.items()),
        choices=tuple(ARCHITECTURES),
    )
    depth: int = setting(12, "number of blocks of the encoder", type=integer(1), metavar="N")
    attention_dropout: float = setting(
        0.05, "dropout of the attention weights", type=number(minimum=0, below=1), metavar="P", role=roles.TRAINING
    )
    drop_path: float = setting(
        0.25,
        "stochastic depth: probability to drop a branch of the last block, falling linearly to 0 in the first",
        type=number(minimum=0, below=1),
        metavar="P",
        role=roles.TRAINING,
    )
    final_norm: bool = False
    batch_wide_norm: bool = False

    def __post_init__(self):
        if self.arch not in ARCHITECTURES:
            raise ValueError(f"arch: expected one of {', '.join(ARCHITECTURES)}, got {self.arch!r}")

    @property
    def dim(self) -> int:
        """Width of a token."""
        return ARCHITECTURES[self.arch][0]


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that defines an encoder.  in_channels: columns of a point (x, y, z, energy)."""

    TITLE: ClassVar[str] = "network"
    ROLE: ClassVar[Role] = roles.NETWORK

    tokenizer: TokenizerConfig = TokenizerConfig()
    transformer: TransformerConfig = TransformerConfig()
    in_channels: int = 4
    published_norms: bool = setting(
        False,
        "padding rows in the embedding and norms over the whole minibatch, which published weights need; "
        "set by their checkpoints",
    )
    sync_batchnorm: bool = setting(
        True, "with torchrun: batch statistics over the events of all processes", role=roles.TRAINING
    )

    def __post_init__(self):
        if self.transformer.batch_wide_norm != self.published_norms:
            transformer = replace(self.transformer, batch_wide_norm=self.published_norms)
            object.__setattr__(self, "transformer", transformer)  # one flag, two places

    @property
    def dim(self) -> int:
        """Width of a token."""
        return self.transformer.dim

    @property
    def tokens(self) -> TokenizerConfig:
        """The tokens' settings, complete."""
        return self.tokenizer.complete()

    def without_dropout(self) -> "EncoderConfig":
        """Return what weights and their outputs depend on."""
        transformer = replace(self.transformer, attention_dropout=0.0, drop_path=0.0)
        return replace(self, tokenizer=self.tokens, transformer=transformer, sync_batchnorm=False)
