"""Does a trained network have the symmetries that it promises?  Measured in double precision, then judged."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.packing import JetBatch
from ..errors import InputError
from ..layers.lorentz import COMPONENTS
from ..models.pelican import PelicanBackbone, PelicanConfig

LIMIT = 1e-6  # relative change that rounding may cause; boosts of massless jets lose many digits
CONTROL = 1e-5  # least change that a broken symmetry must show


class Measured(NamedTuple):
    """One line of the report.  change: largest change of the output, relative to its largest entry."""

    name: str
    change: float
    must_change: bool

    @property
    def passed(self) -> bool:
        """Whether the change is as small, or for a control as large, as it must be."""
        return self.change > CONTROL if self.must_change else self.change < LIMIT


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
    moved = torch.cat([f for f in fixed], 1).t() if fixed else torch.zeros(1, 6, dtype=torch.float64)
    _, singular, basis = torch.linalg.svd(moved, full_matrices=True)
    rank = int((singular > 1e-9).sum())
    combine = lambda rows: torch.einsum("ka,aij->kij", rows, g)  # noqa: E731
    return combine(basis[rank:]), combine(basis[:rank])


def toy_jets(num_jets: int, seed: int, massless: bool = False) -> JetBatch:
    """Jets of 2 to 20 particles along +x with momenta of some GeV, float64."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 21, (num_jets,), generator=generator)
    n = int(lengths.sum())
    direction = torch.randn(n, 3, generator=generator, dtype=torch.float64) * 0.3 + torch.tensor([1.0, 0.3, 0.2], dtype=torch.float64)
    momentum = direction * torch.rand(n, 1, generator=generator, dtype=torch.float64).add(0.05) * 30
    mass = 0.0 if massless else 0.14
    energy = (momentum.square().sum(1, keepdim=True) + mass**2).sqrt()
    return JetBatch(torch.cat([energy, momentum], 1), lengths, index=torch.arange(num_jets))


def _changed(batch: JetBatch, fourmomenta: Tensor, lengths: Tensor | None = None) -> JetBatch:
    return JetBatch(fourmomenta, batch.lengths if lengths is None else lengths, index=batch.index)


def _per_jet(batch: JetBatch):
    return batch.fourmomenta.split(batch.lengths.tolist())


@torch.no_grad()
def measure_symmetries(model: PelicanBackbone, seed: int = 0, trained: bool = True) -> list[Measured]:
    """Changes of the scores of toy jets under permutation, batch-mates, the stabilizer, a control, and IRC splittings.

    trained: False leaves out the Lorentz control of --method input, whose weights start on the invariant alone."""
    model = copy.deepcopy(model).cpu().double().eval()
    config, jets = model.config, toy_jets(8, seed, massless=model.config.irc_safe)
    if config.num_scalars:
        raise InputError("--test: networks with per-particle scalars are not covered by the symmetry report yet")
    generator = torch.Generator().manual_seed(seed + 1)
    reference = model(jets)

    def change(batch: JetBatch) -> float:
        return float((model(batch) - reference).abs().max() / reference.abs().max())

    permuted = torch.cat([jet[torch.randperm(len(jet), generator=generator)] for jet in _per_jet(jets)])
    alone = torch.cat([model(JetBatch(jet, torch.tensor([len(jet)]))) for jet in _per_jet(jets)])
    results = [
        Measured("permutation of particles", change(_changed(jets, permuted)), False),
        Measured("each jet alone", float((alone - reference).abs().max() / reference.abs().max()), False),
    ]
    kept, broken = split_generators(config)

    def transformed(generators: Tensor) -> float:
        angles = torch.randn(len(generators), generator=generator, dtype=torch.float64) * 0.5
        matrix = torch.linalg.matrix_exp(torch.einsum("k,kij->ij", angles, generators))
        return change(_changed(jets, jets.fourmomenta @ matrix.t()))

    if len(kept):
        results.append(Measured(f"stabilizer {config.stabilizer} ({len(kept)} generators)", transformed(kept), False))
    if len(broken) and (trained or config.method == "spurions"):
        results.append(Measured("control: Lorentz outside the stabilizer", transformed(broken), True))
    stretch = torch.diag(torch.tensor([1.0, 1.3, 0.8, 1.1], dtype=torch.float64))
    results.append(Measured("control: stretched space", change(_changed(jets, jets.fourmomenta @ stretch)), True))
    if config.irc_safe:
        soft, split = irc_variants(jets)
        results += [Measured("a particle of no momentum added", change(soft), False), Measured("massless particle split", change(split), False)]
    return results


def irc_variants(jets: JetBatch) -> tuple[JetBatch, JetBatch]:
    """The jets with a particle of 1e-13 of the first one's momentum added at an angle, and with the first one split in two."""
    soft, split = [], []
    for jet in _per_jet(jets):
        extra = 1e-13 * jet[:1, [0, 2, 1, 3]]
        soft.append(torch.cat([jet, extra]))
        split.append(torch.cat([0.3 * jet[:1], 0.7 * jet[:1], jet[1:]]))
    return _changed(jets, torch.cat(soft), jets.lengths + 1), _changed(jets, torch.cat(split), jets.lengths + 1)


def report_symmetries(model: PelicanBackbone, seed: int = 0, trained: bool = True) -> None:
    """Print the table; InputError if a line fails."""
    results = measure_symmetries(model, seed, trained)
    print(f"{'transformation':45s} {'change':>9s}   verdict")
    for r in results:
        must = f"must exceed {CONTROL:.0e}" if r.must_change else f"limit {LIMIT:.0e}"
        print(f"{r.name:45s} {r.change:9.1e}   {'pass' if r.passed else 'FAIL'} ({must})")
    failed = [r.name for r in results if not r.passed]
    if failed:
        raise InputError(f"symmetry report: {len(failed)} of {len(results)} failed: {', '.join(failed)}")
