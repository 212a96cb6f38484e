"""A dense PELICAN classifier, the reference of `bench/pelican.py`.

It computes the formulas of the papers literally: every event is padded to the longest of its batch, every rank-2
feature is one (B, N, N, C) tensor, all 15 maps of Eq2to2 are built, and masks exclude the padding. No algebra is
simplified and nothing is recomputed. Names of parameters and of settings are the published ones.

Shapes: B events, N particles of the longest event (spurions included), C and S input and output channels, M maps.
Between layers, features are zero wherever a particle or a pair is padding; each layer keeps it so.

Source: Bogatskiy et al., arXiv 2211.00454 and 2307.16506.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

ACTIVATIONS = {
    "leakyrelu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}

E, X, Y, Z, AHEAD, BACK = (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 0, 1), (1, 0, 0, -1)
SPURIONS = {
    "so13": [],
    "so3": [E],
    "so12": [Z],
    "se2": [BACK],
    "so2": [E, Z],
    "so2_0": [AHEAD, BACK],
    "R": [X, Y],
    "1": [E, X, Y, Z],
    "1_0": [AHEAD, (1, 1, 0, 0), (1, 0, 1, 0), BACK],
}
SPURIONS |= {"11": SPURIONS["1"], "11_0": SPURIONS["1_0"]}
# Method "input": the coefficients of r in E, px, py, pz (a plain sum, no metric).
COMPONENTS = SPURIONS | {"1_0": [AHEAD, (1, -1, 0, 0), (1, 0, -1, 0), BACK]}
NO_DOT_PRODUCT = ("1", "1_0")  # with method "input" these take the products r_i r_j only

SCALARS = {"": 0, "jc": 12}  # scalars per particle that a data set brings


@dataclass(frozen=True)
class Settings:
    """The arguments of the published constructor, under their names; `batchnorm` is "b" or None."""

    num_channels_m: list[list[int]]
    num_channels_2to2: list[int]
    num_channels_m_out: list[int]
    num_channels_out: list[int]
    num_channels_scalar: int = 10
    num_classes: int = 2
    stabilizer: str = "so2"
    method: str = "spurions"
    config: str = "M"
    config_out: str = "M"
    average_nobj: float = 49
    factorize: bool = True
    activation: str = "leakyrelu"
    activate_agg: bool = False
    activate_lin: bool = True
    activate_agg_out: bool = True
    activate_lin_out: bool = False
    mlp_out: bool = True
    masked: bool = True
    batchnorm: str | None = "b"
    dropout: bool = False
    drop_rate: float = 0.0
    drop_rate_out: float = 0.0
    irc_safe: bool = False
    scale: float = 1.0  # the data set has multiplied momenta with it already; only a regressor needs to know
    dataset: str = ""
    rank1_dim_multiplier: int = 1  # published networks of other kinds use it; accepted so that their metadata loads

    def __post_init__(self):
        for name, choices in {"batchnorm": ("b", None), "method": ("spurions", "input")}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, not {getattr(self, name)!r}")
        if self.irc_safe and (set(self.config + self.config_out) != {"s"} or self.num_rank1):
            raise ValueError("irc_safe needs config and config_out 's', no spurions and no scalars here")

    @property
    def spurions(self) -> list[tuple]:
        return SPURIONS[self.stabilizer] if self.method == "spurions" else []

    @property
    def num_rank1(self) -> int:
        """Number of scalars and one-hot labels per particle."""
        return SCALARS[self.dataset] + (1 + len(self.spurions) if self.spurions else 0)


@dataclass(frozen=True)
class Events:
    """Masks and multiplicities of a padded batch. Masks are 1.0 where valid, 0.0 at padding."""

    particles: Tensor  # (B, N, 1)
    pairs: Tensor  # (B, N, N, 1)
    diagonal: Tensor  # (N, N, 1) delta_ij
    n: Tensor  # (B,) particles, spurions included
    weight: Tensor | None  # (B, N) weights of IRC-safe sums

    def reduce(self, x: Tensor, dims: tuple[int, ...], letter: str, nbar: float) -> Tensor:
        """Aggregate x (B, N, C) or (B, N, N, C), zero at padding, over the particle axes `dims`."""
        kind, rank = letter.lower(), x.dim() - 2
        n = self.n.view(-1, *[1] * (x.dim() - 1 - len(dims)))
        if kind in "sm":
            for dim in dims if self.weight is not None else ():
                x = x * (self.weight if rank == 1 else self.weight.unsqueeze(3 - dim))[..., None]
            return x.sum(dims) / (nbar if kind == "s" else n) ** len(dims)
        padding = (self.particles if rank == 1 else self.pairs) == 0
        sign = 1 if kind == "x" else -1  # the minimum is a maximum of -x
        x = (sign * x).masked_fill(padding, -torch.inf).amax(dims) - n.log()
        return sign * x.masked_fill(x.isinf(), 0)  # a padded row has no valid entry


def spread(v: Tensor) -> tuple[Tensor, Tensor]:
    """Return v_i (B, N, 1, C) and v_j (B, 1, N, C), which broadcast to pairs, from v (B, N, C)."""
    return v[:, :, None], v[:, None]


def diagonal_of(x: Tensor) -> Tensor:
    """Return the diagonal (B, N, C) of x (B, N, N, C)."""
    return x.diagonal(dim1=1, dim2=2).transpose(1, 2)


class Aggregator(nn.Module):
    """The shared part of the equivariant layers: bias, activations, and the exponents alpha of the capital letters.

    There is one tensor of exponents per capital letter, keyed by the letter's position.
    """

    def __init__(self, letters: str, settings: Settings, alphas: Tensor, bias: Tensor, activate: tuple[bool, bool]):
        super().__init__()
        self.letters, self.nbar = letters, settings.average_nobj
        self.alphas = nn.ParameterDict({str(k): alphas.clone() for k, c in enumerate(letters) if c.isupper()})
        self.bias = nn.Parameter(bias)
        activation = ACTIVATIONS[settings.activation]()
        self.activate_maps, self.activate_mix = (activation if on else nn.Identity() for on in activate)

    def multiply(self, x: Tensor, k: int, events: Events, maps: slice = slice(None)) -> Tensor:
        """Multiply x (B, ..., M, C) by (n / nbar)^alpha if the k-th letter is a capital."""
        if str(k) not in self.alphas:
            return x
        alphas = self.alphas[str(k)].reshape(1, x.shape[-1], -1)[..., maps].transpose(1, 2)  # (1, M, C)
        factor = (events.n / self.nbar).view(-1, 1, 1) ** alphas
        return x * factor.view(factor.shape[0], *[1] * (x.dim() - 3), *factor.shape[1:])


class Eq2to2(Aggregator):
    """Map (B, N, N, C) to (B, N, N, S) by all 15 permutation-equivariant maps, and 10 more for each further letter."""

    def __init__(self, c_in: int, c_out: int, settings: Settings):
        s, maps, alphas = settings, 5 + 10 * len(settings.config), torch.rand(1, c_in, 10, 1, 1)
        super().__init__(s.config, s, alphas, torch.zeros(c_out), (s.activate_agg, s.activate_lin))
        self.diag_bias = nn.Parameter(torch.zeros(c_out))
        self.factorize = s.factorize
        if s.factorize:
            self.coefs00 = nn.Parameter(torch.randn(c_in, maps) / maps**0.5)
            self.coefs01 = nn.Parameter(torch.randn(c_out, maps) / maps**0.5)
            self.coefs10 = nn.Parameter(torch.randn(c_in, c_out) / c_in**0.5)
            self.coefs11 = nn.Parameter(torch.randn(c_in, c_out) / c_in**0.5)
        else:
            self.coefs = nn.Parameter(torch.randn(c_in, c_out, maps) * (2 / (c_in * maps)) ** 0.5)

    def coefficients(self) -> Tensor:
        """Return the coefficients (C, S, M)."""
        if not self.factorize:
            return self.coefs
        return self.coefs00[:, None] * self.coefs10[..., None] + self.coefs01 * self.coefs11[..., None]

    def maps(self, x: Tensor, events: Events) -> Tensor:
        """Build all maps (B, N, N, M, C) of x (B, N, N, C)."""
        delta, diagonal = events.diagonal, diagonal_of(x)
        maps = [x, x.transpose(1, 2), delta * x, *reversed(spread(diagonal))]
        for k, letter in enumerate(self.letters):
            row, column, total = (events.reduce(x, dims, letter, self.nbar) for dims in ((2,), (1,), (1, 2)))
            trace = events.reduce(diagonal, (1,), letter, self.nbar)
            vectors = torch.stack([column] * 3 + [row] * 3, dim=2)
            vectors = self.multiply(vectors, k, events, slice(0, 6)).unbind(2)
            constants = torch.stack([trace, trace, total, total], dim=1)
            constants = self.multiply(constants, k, events, slice(6, 10))[:, :, None, None].unbind(1)
            for c in (vectors[:3], vectors[3:]):
                maps += [delta * spread(c[0])[0], spread(c[1])[1], spread(c[2])[0]]
            for c in (constants[:2], constants[2:]):
                maps += [c[0], delta * c[1]]
        return torch.stack([m.expand_as(x) for m in maps], dim=3)

    def forward(self, x: Tensor, events: Events) -> Tensor:
        maps = self.activate_maps(self.maps(x, events))
        x = torch.einsum("nijbd,dsb->nijs", maps, self.coefficients())
        return self.activate_mix(x + (self.bias + events.diagonal * self.diag_bias)) * events.pairs


class Eq1to2(Aggregator):
    """Map (B, N, C) to (B, N, N, S): mix the 5 maps of each letter, then apply the activation."""

    def __init__(self, c_in: int, c_out: int, settings: Settings):
        maps, alphas = 5 * len(settings.config_out), torch.zeros(1, c_in, 5, 1, 1)
        super().__init__(settings.config_out, settings, alphas, torch.zeros(c_out), (False, True))
        self.coefs = nn.Parameter(torch.randn(c_in, c_out, maps) * (2 / (c_in * maps)) ** 0.5)

    def forward(self, v: Tensor, events: Events) -> Tensor:
        (v_i, v_j), maps = spread(v), []
        for k, letter in enumerate(self.letters):
            total = events.reduce(v, (1,), letter, self.nbar)[:, None, None]
            ops = torch.broadcast_tensors(events.diagonal * v_i, v_j, v_i, events.diagonal * total, total)
            maps.append(self.multiply(torch.stack(ops, dim=3), k, events))
        x = torch.einsum("nijbd,dsb->nijs", torch.cat(maps, dim=3), self.coefs)
        return self.activate_mix(x + self.bias) * events.pairs


class Eq2to0(Aggregator):
    """Map (B, N, N, C) to (B, S): mix the total and the trace of each letter."""

    def __init__(self, c_in: int, c_out: int, settings: Settings):
        s, maps, alphas = settings, 2 * len(settings.config_out), torch.rand(1, c_in, 2)
        super().__init__(s.config_out, s, alphas, torch.zeros(1, c_out), (s.activate_agg_out, s.activate_lin_out))
        self.coefs = nn.Parameter(torch.randn(c_in, c_out, maps) * (4 / (c_in * maps)) ** 0.5)

    def forward(self, x: Tensor, events: Events) -> Tensor:
        maps = []
        for k, letter in enumerate(self.letters):
            ops = events.reduce(x, (1, 2), letter, self.nbar), events.reduce(diagonal_of(x), (1,), letter, self.nbar)
            maps.append(self.multiply(torch.stack(ops, dim=1), k, events))
        maps = self.activate_maps(torch.cat(maps, dim=1))
        return self.activate_mix(torch.einsum("nbd,dsb->ns", maps, self.coefs) + self.bias)


class MaskedBatchNorm(nn.BatchNorm1d):
    """Normalise (B, N, N, C) with batch statistics over valid pairs; over all entries if not `masked`."""

    def __init__(self, channels: int, masked: bool):
        super().__init__(channels)
        self.masked = masked

    def forward(self, x: Tensor, events: Events) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            pairs = events.pairs if self.masked else torch.ones_like(events.pairs)
            count = pairs.sum()
            mean = (x * pairs).sum((0, 1, 2)) / count
            var = ((x - mean) * pairs).square().sum((0, 1, 2)) / count
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * count / (count - 1), self.momentum)
        slope = self.weight / (var + self.eps).sqrt()
        return x * slope + (self.bias - mean * slope)


class MessageNet(nn.Module):
    """A linear layer and an activation for each consecutive pair of widths, then a norm if `norm`."""

    def __init__(self, widths: list[int], settings: Settings, norm: bool = True):
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        for linear in self.linear:
            nn.init.kaiming_normal_(linear.weight, a=0.01)
        self.activation = ACTIVATIONS[settings.activation]()
        self.normlayer = MaskedBatchNorm(widths[-1], settings.masked) if norm and settings.batchnorm else None

    def forward(self, x: Tensor, events: Events | None = None) -> Tensor:
        """Map x (B, N, N, C) with its events, and mask the result; or (B, C) without events."""
        for linear in self.linear:
            x = self.activation(linear(x))
        x = x if self.normlayer is None else self.normlayer(x, events)
        return x if events is None else x * events.pairs


class Net2to2(nn.Module):
    """The blocks: message layer, dropout, and Eq2to2 to the width of the next block."""

    def __init__(self, settings: Settings):
        super().__init__()
        s = settings
        widths = [m + [d] for m, d in zip(s.num_channels_m, s.num_channels_2to2, strict=True)]
        following = [w[0] for w in widths[1:]] + s.num_channels_m_out[:1]
        self.message_layers = nn.ModuleList(MessageNet(w, s) for w in widths)
        self.eq_layers = nn.ModuleList(Eq2to2(w[-1], c, s) for w, c in zip(widths, following, strict=False))
        self.dropout = nn.Dropout(s.drop_rate if s.dropout else 0)

    def forward(self, x: Tensor, events: Events) -> Tensor:
        for message, equivariant in zip(self.message_layers, self.eq_layers, strict=False):
            x = equivariant(self.dropout(message(x, events)), events)
        return x


class InputEncoder(nn.Module):
    """Compress the range of x per channel: logarithmic for alpha = 0, linear for alpha = 1."""

    def __init__(self, channels: int, irc_safe: bool):
        super().__init__()
        self.rank2_alphas = nn.Parameter(torch.linspace(0.05, 0.5, channels))
        self.irc_safe = irc_safe

    def forward(self, x: Tensor) -> Tensor:
        a = 1e-6 + self.rank2_alphas.square()
        if self.irc_safe:
            return ((1e-5 + x.abs()) ** a - 1) / a
        return x.sign() * ((1 + x.abs()) ** a - 1) / a


class DensePelican(nn.Module):
    """The classifier. Its keyword arguments are those of `Settings`."""

    def __init__(self, **kwargs):
        super().__init__()
        self.settings = s = Settings(**kwargs)
        components = COMPONENTS[s.stabilizer] if s.method == "input" else []
        self.dot_product = s.method == "spurions" or s.stabilizer not in NO_DOT_PRODUCT
        width = (s.num_channels_m[0] + s.num_channels_2to2[:1])[0] - (s.num_channels_scalar if s.num_rank1 else 0)
        start = [0.0] * len(components) + [1.0] if self.dot_product else [1.0, -1.0, -1.0, -1.0]
        self.linear = nn.Linear(len(start), width)
        self.linear.weight.data = torch.tensor(start).repeat(width, 1)
        self.linear.bias.data.zero_()
        self.input_encoder = InputEncoder(width, s.irc_safe)
        self.eq1to2 = Eq1to2(s.num_rank1, s.num_channels_scalar, s) if s.num_rank1 else None
        self.net2to2 = Net2to2(s)
        self.msg_2to0 = MessageNet(s.num_channels_m_out, s)
        self.agg_2to0 = Eq2to0(s.num_channels_m_out[-1], s.num_channels_out[0] if s.mlp_out else s.num_classes, s)
        self.mlp_out = MessageNet(s.num_channels_out + [s.num_classes], s, norm=False) if s.mlp_out else nn.Identity()
        self.dropout = nn.Dropout(s.drop_rate if s.dropout else 0)
        self.dropout_out = nn.Dropout(s.drop_rate_out if s.dropout else 0)
        self.register_buffer("spurions", torch.tensor(s.spurions).float().reshape(-1, 4), persistent=False)
        self.register_buffer("components", torch.tensor(components).float().reshape(-1, 4), persistent=False)
        self.register_buffer("metric", torch.tensor([1.0, -1.0, -1.0, -1.0]), persistent=False)

    def forward(self, fourmomenta: Tensor, mask: Tensor | None = None, scalars: Tensor | None = None) -> Tensor:
        """Compute the logits (B, num_classes).

        fourmomenta (B, N, 4) as E, px, py, pz, zero-padded; mask (B, N) bool, by default where E is not 0; scalars
        (B, N, K) if the data set has them.
        """
        mask = fourmomenta[..., 0] != 0 if mask is None else mask
        p, mask, rank1 = self.with_spurions(fourmomenta, mask.to(fourmomenta.dtype), scalars)
        pairs = (mask[:, :, None] * mask[:, None])[..., None]
        dots = torch.einsum("bic,bjc->bij", p * self.metric, p)[..., None] * pairs
        weight = dots.sum((2, 3)) / dots.sum((1, 2, 3))[:, None] if self.settings.irc_safe else None
        delta = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)[..., None]
        events = Events(mask[..., None], pairs, delta, mask.sum(1), weight)
        x = self.net2to2(self.embed(p, dots, rank1, events), events)
        x = self.agg_2to0(self.dropout(self.msg_2to0(x, events)), events)
        return self.mlp_out(self.dropout_out(x))

    def with_spurions(self, p: Tensor, mask: Tensor, scalars: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Put spurions before the particles, and one-hot labels after the scalars."""
        batch, extra = p.shape[0], len(self.spurions)
        if not extra:
            return p, mask, scalars
        p = torch.cat([self.spurions.expand(batch, -1, -1), p], dim=1)
        mask = torch.cat([mask.new_ones(batch, extra), mask], dim=1)
        kind = torch.arange(p.shape[1], device=p.device) + 1
        labels = nn.functional.one_hot(kind.where(kind <= extra, 0)).to(p) * mask[..., None]
        if scalars is not None:
            labels = torch.cat([nn.functional.pad(scalars, (0, 0, extra, 0)), labels], dim=2)
        return p, mask, labels

    def embed(self, p: Tensor, dots: Tensor, rank1: Tensor | None, events: Events) -> Tensor:
        """Compute the first rank-2 features (B, N, N, C)."""
        if self.settings.irc_safe:
            e_i, e_j = spread(dots.sum(2))
            dots = 2 * dots / (1e-12 + e_i * e_j / e_i.sum(1, keepdim=True))
        r_i, r_j = spread(p @ self.components.T)
        inputs = [r_i * r_j] + [dots] * self.dot_product
        x = [self.input_encoder(self.linear(torch.cat(inputs, dim=3)))]
        x += [self.eq1to2(rank1, events)] if self.eq1to2 is not None else []
        return torch.cat(x, dim=3) * events.pairs
