"""Does a trained network have the symmetries that it promises?  Measured in double precision, then judged."""

import copy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from puffin.data.packing import JetBatch
from puffin.errors import InputError
from puffin.layers.lorentz import COMPONENTS
from puffin.models.pelican import PelicanBackbone, PelicanRegressor
from puffin.settings.pelican import PelicanConfig

LIMIT = 1e-6  # relative change that rounding may cause; boosts of massless jets lose many digits
CONTROL = 1e-5  # least change that a broken symmetry must show


class Measured(NamedTuple):
    """One line of the report.

    change: largest change of the output, relative to its largest entry; promise: 'kept' if there must be none beyond
    rounding, 'broken' if there must be one (a control), 'none' where the network promises nothing."""

    name: str
    change: float
    promise: str

    @property
    def passed(self) -> bool:
        """Whether the change is as small, or for a control as large, as it must be."""
        return {"kept": self.change < LIMIT, "broken": self.change > CONTROL, "none": True}[self.promise]


def lorentz_generators() -> Tensor:
    """Three boosts, then three rotations: (6, 4, 4) float64."""
    g = torch.zeros(6, 4, 4, dtype=torch.float64)
    for k in range(3):
        g[k, 0, k + 1] = g[k, k + 1, 0] = 1
        i, j = (k + 1) % 3 + 1, (k + 2) % 3 + 1
        g[3 + k, i, j], g[3 + k, j, i] = -1, 1
    return g


def split_generators(config: PelicanConfig) -> tuple[Tensor, Tensor]:
    """Generators (k, 4, 4) of the network's stabilizer, and of its complement in the Lorentz algebra."""
    g = lorentz_generators()
    fixed = [g @ torch.tensor(s, dtype=torch.float64) for s in config.spurions]
    if config.method == "input":
        fixed += [torch.tensor(r, dtype=torch.float64) @ g for r in COMPONENTS[config.stabilizer]]
    moved = torch.cat(list(fixed), 1).t() if fixed else torch.zeros(1, 6, dtype=torch.float64)
    _, singular, basis = torch.linalg.svd(moved, full_matrices=True)
    rank = int((singular > 1e-9).sum())

    def combine(rows):
        return torch.einsum("ka,aij->kij", rows, g)

    return combine(basis[rank:]), combine(basis[:rank])


def toy_jets(num_jets: int, seed: int, massless: bool = False, num_scalars: int = 0) -> JetBatch:
    """Jets of 2 to 20 particles along +x with momenta of some GeV, and random features, float64."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 21, (num_jets,), generator=generator)
    n = int(lengths.sum())
    direction = torch.randn(n, 3, generator=generator, dtype=torch.float64) * 0.3 + torch.tensor(
        [1.0, 0.3, 0.2], dtype=torch.float64
    )
    momentum = direction * torch.rand(n, 1, generator=generator, dtype=torch.float64).add(0.05) * 30
    mass = 0.0 if massless else 0.14
    energy = (momentum.square().sum(1, keepdim=True) + mass**2).sqrt()
    scalars = torch.randn(n, num_scalars, generator=generator, dtype=torch.float64) if num_scalars else None
    return JetBatch(torch.cat([energy, momentum], 1), lengths, scalars=scalars, index=torch.arange(num_jets))


@torch.no_grad()
def measure_symmetries(model: PelicanBackbone, seed: int = 0, trained: bool = True) -> list[Measured]:
    """Changes of the output of toy jets under permutation, batch-mates, the stabilizer, controls, and IRC splittings.

    Scores must not change under the stabilizer, momenta must follow it.
    trained: False leaves out the Lorentz control of --method input, whose weights start on the invariant alone."""
    model = copy.deepcopy(model).cpu().double().eval()
    config = model.config
    jets = toy_jets(8, seed, config.irc_safe, config.num_scalars)
    generator = torch.Generator().manual_seed(seed + 1)
    follows = isinstance(model, PelicanRegressor)

    def output(batch: JetBatch) -> Tensor:
        return model(batch).fourmomenta if follows else model(batch)

    reference = output(jets)

    def change(batch: JetBatch, matrix: Tensor | None = None) -> float:
        expected = reference @ matrix.t() if follows and matrix is not None else reference
        return float((output(batch) - expected).abs().max() / expected.abs().max())

    def moved(matrix: Tensor) -> float:
        return change(replace(jets, fourmomenta=jets.fourmomenta @ matrix.t()), matrix)

    def random_element(generators: Tensor) -> Tensor:
        angles = torch.randn(len(generators), generator=generator, dtype=torch.float64) * 0.5
        return torch.linalg.matrix_exp(torch.einsum("k,kij->ij", angles, generators))

    ends = jets.lengths.cumsum(0).tolist()
    order = torch.cat(
        [torch.randperm(n, generator=generator) + end - n for n, end in zip(jets.lengths.tolist(), ends, strict=False)]
    )
    permuted = replace(
        jets, fourmomenta=jets.fourmomenta[order], scalars=None if jets.scalars is None else jets.scalars[order]
    )
    alone = torch.cat([output(jets.part(k, k + 1)) for k in range(len(jets))])
    results = [
        Measured("permutation of particles", change(permuted), "kept"),
        Measured("each jet alone", float((alone - reference).abs().max() / reference.abs().max()), "kept"),
    ]
    kept, broken = split_generators(config)
    if len(kept):
        results.append(
            Measured(f"stabilizer {config.stabilizer} ({len(kept)} generators)", moved(random_element(kept)), "kept")
        )
    if len(broken) and (trained or config.method == "spurions"):
        results.append(Measured("control: Lorentz outside the stabilizer", moved(random_element(broken)), "broken"))
    stretch = torch.diag(torch.tensor([1.0, 1.3, 0.8, 1.1], dtype=torch.float64))
    results.append(Measured("control: stretched space", moved(stretch), "broken"))
    if not config.num_scalars:  # the features of a split particle are nobody's to say
        promise = "kept" if config.irc_safe else "none"
        for name, variant in zip(
            ("a particle of no momentum added", "a particle split in two"), irc_variants(jets), strict=False
        ):
            results.append(Measured(name, change(variant), promise))
    return results


def _per_jet(batch: JetBatch):
    return batch.fourmomenta.split(batch.lengths.tolist())


def irc_variants(jets: JetBatch) -> tuple[JetBatch, JetBatch]:
    """The jets with a particle of 1e-13 of the first one's momentum added at an angle, and with the first one split in two."""
    soft, split = [], []
    for jet in _per_jet(jets):
        extra = 1e-13 * jet[:1, [0, 2, 1, 3]]
        soft.append(torch.cat([jet, extra]))
        split.append(torch.cat([0.3 * jet[:1], 0.7 * jet[:1], jet[1:]]))
    return replace(jets, fourmomenta=torch.cat(soft), lengths=jets.lengths + 1), replace(
        jets, fourmomenta=torch.cat(split), lengths=jets.lengths + 1
    )


def report_symmetries(model: PelicanBackbone, seed: int = 0, trained: bool = True) -> None:
    """Print the table; InputError if a line fails."""
    results = measure_symmetries(model, seed, trained)
    print(f"{'transformation':45s} {'change':>9s}   verdict")
    for r in results:
        must = {"kept": f"limit {LIMIT:.0e}", "broken": f"must exceed {CONTROL:.0e}", "none": "not promised"}[r.promise]
        verdict = "-   " if r.promise == "none" else "pass" if r.passed else "FAIL"
        print(f"{r.name:45s} {r.change:9.1e}   {verdict} ({must})")
    failed = [r.name for r in results if not r.passed]
    if failed:
        raise InputError(f"symmetry report: {len(failed)} of {len(results)} failed: {', '.join(failed)}")
