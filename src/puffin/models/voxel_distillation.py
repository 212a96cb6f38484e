"""Self-distillation of a U-Net on voxels: a student that sees parts of events learns a teacher's features of the whole.

Source: a moving average as teacher, local views against global ones, DINO, arXiv 2104.14294; masked views, iBOT,
arXiv 2111.07832; features of several levels of a hierarchical network of points, Sonata, arXiv 2503.16429, sec. 3.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puffin.layers.grouping import count_chosen
from puffin.layers.packed import offsets, to_device
from puffin.layers.transformer import init_weights
from puffin.layers.voxels import Pyramid, voxelise
from puffin.models.point_mae import MaskedAutoencoder
from puffin.models.unet import VoxelFeatures
from puffin.models.voxel_mae import masked_autoencoder
from puffin.ops.segments import segment_expand
from puffin.settings.clouds import PointMAEConfig

_HIDDEN, _COMPARED = 256, 64  # channels of the two layers before the prototypes


class PrototypeHead(nn.Module):
    """Compare features with learned prototypes.  Source: the head of DINO, arXiv 2104.14294, sec. 3.1."""

    def __init__(self, channels_in: int, prototypes: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels_in, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _COMPARED))
        self.layers.apply(init_weights)
        self.prototypes = nn.Parameter(torch.randn(prototypes, _COMPARED))

    def forward(self, x: Tensor) -> Tensor:
        """Map features (P, channels_in) to their cosines with the prototypes, (P, K), in the precision of weights."""
        weights = self.prototypes
        return F.linear(F.normalize(self.layers(x), dim=1), F.normalize(weights, dim=1)).to(weights.dtype)


class PrototypeNetwork(VoxelFeatures):
    """A U-Net with a head that compares the features of all levels of its way up with prototypes."""

    def __init__(self, config: PointMAEConfig):
        super().__init__(config)
        self.head = PrototypeHead(sum(config.unet.widths), config.distillation.prototypes)

    def compare(self, points: Tensor, lengths: Tensor, inputs: Tensor) -> Tensor:
        """Return cosines with the prototypes (P, K) of points (P, 4) with features `inputs`; lengths (B,) on the CPU.

        Each level has the features of the voxel that holds the point, so the coarse levels learn as the fine ones."""
        voxels = voxelise(points, lengths, len(self.backbone.config.widths))
        found = self.backbone.descend(voxels.mean(inputs), voxels.pyramid)
        levels = list(self.backbone.ascend(found, voxels.pyramid))[::-1]
        return self.head(voxels.to_points(at_finest(levels, voxels.pyramid)))


def at_finest(levels: list[Tensor], pyramid: Pyramid) -> Tensor:
    """Give each of the finest voxels its features of all levels, finest first: levels[k] (V_k, C_k) -> (V_0, sum C)."""
    *finer, x = levels
    for own, coarser in zip(finer[::-1], pyramid.coarser[::-1], strict=True):
        children = (coarser.forward >= 0).sum(1)  # which follow each other, as voxels are in Morton order
        x = torch.cat([own, segment_expand(x, offsets(children), len(own))], 1)
    return x


class VoxelDistillation(PrototypeNetwork):
    """The teacher, whose weights are a moving average of those of its student; only the student gets gradients.

    After the training the teacher is the one to use: it is the smoother one, and its running statistics are those of
    whole events. So `backbone` and `geometry` are the teacher's, as in the other networks; `student` has its own.
    """

    def __init__(self, config: PointMAEConfig):
        super().__init__(config)
        self.config = config
        student = PrototypeNetwork(config)
        self.load_state_dict(student.state_dict())
        self.requires_grad_(False)
        self.student = student
        channels = self.backbone.stem.conv.weight.shape[1]
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(channels), std=0.02))

    @property
    def terms(self) -> dict[str, str]:
        """Name of the loss, and of the output that counts the points that it is a mean over."""
        return {"loss": "matched"}

    def forward(self, points: Tensor, lengths: Tensor, hidden: Tensor) -> Tensor:
        """Return the student's cosines with its prototypes, (P, K), of points (P, 4).

        lengths (B,) int64 and hidden (P,) bool on the CPU. Of hidden points the student sees the position alone: a
        learned token stands for the energy and the hand-made features, for which the point does not exist."""
        visible = to_device((~hidden).nonzero()[:, 0], points.device)
        inputs = self.student.inputs(points[visible], count_chosen(~hidden, lengths))
        token = self.mask_token.to(inputs.dtype).expand(len(points), -1)
        return self.student.compare(points, lengths, token.index_copy(0, visible, inputs))

    @torch.no_grad()
    def teach(self, points: Tensor, lengths: Tensor) -> Tensor:
        """Return the teacher's cosines with its prototypes, (P, K), of points (P, 4); lengths (B,) on the CPU."""
        return self.compare(points, lengths, self.inputs(points, lengths))

    def momentum(self, done: float) -> float:
        """Return the fraction of the teacher's weights that an update keeps; done: fraction of the run, 0 to 1."""
        return 1 - (1 - self.config.distillation.teacher_momentum) * (1 + math.cos(math.pi * done)) / 2

    @torch.no_grad()
    def update_teacher_(self, momentum: float) -> None:
        """Move the teacher's weights towards the student's by the fraction 1 - momentum; buffers are its own."""
        for name, weight in self.student.named_parameters():
            self.get_parameter(name).lerp_(weight, 1 - momentum)


def pretraining_network(config: PointMAEConfig) -> MaskedAutoencoder | VoxelDistillation:
    """Make the network of these settings, with random weights."""
    return VoxelDistillation(config) if config.method == "distill" else masked_autoencoder(config)
