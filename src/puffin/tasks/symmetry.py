"""The symmetry report of --test: does a network have the symmetries that it promises?"""

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from puffin.data.packing import JetBatch
from puffin.errors import InputError
from puffin.files import whole_file
from puffin.layers.lorentz import COMPONENTS
from puffin.layers.symmetries import (
    CHANGED,
    CONTROL,
    LIMIT,
    UNCHANGED,
    UNSPECIFIED,
    Measurement,
    failures,
    random_permutation,
    random_transformation,
    relative_change,
    split_generators,
    stretched_space,
    toy_momenta,
)
from puffin.models.pelican import PelicanBackbone, PelicanRegressor
from puffin.settings.pelican import PelicanConfig


def network_generators(config: PelicanConfig) -> tuple[Tensor, Tensor]:
    """Return the generators (k, 4, 4) of a network's stabilizer, and of its complement in the Lorentz algebra."""
    return split_generators(config.spurions, COMPONENTS[config.stabilizer] if config.method == "input" else ())


def toy_jets(
    num_jets: int, seed: int, massless: bool = False, num_scalars: int = 0, num_observables: int = 0
) -> JetBatch:
    """Draw jets of 2 to 20 particles (see `toy_momenta`) with random features and observables, float64."""
    random = torch.Generator().manual_seed(seed)
    momenta, lengths = toy_momenta(num_jets, random, massless)
    scalars = torch.randn(len(momenta), num_scalars, generator=random, dtype=torch.float64) if num_scalars else None
    size = (num_jets, num_observables)
    observables = torch.randn(*size, generator=random, dtype=torch.float64) if num_observables else None
    return JetBatch(momenta, lengths, scalars=scalars, index=torch.arange(num_jets), observables=observables)


class _Probe:
    """A network in float64 and eval mode, and the change of its output when its jets change.

    Observables are held fixed: what is measured is the part of the network that reads particles."""

    def __init__(self, model: PelicanBackbone, seed: int):
        self.network = copy.deepcopy(model).cpu().double().eval()
        self.predicts_momenta = isinstance(model, PelicanRegressor)
        config = model.config
        self.jets = toy_jets(8, seed, config.irc_safe, config.num_scalars, config.num_observables)
        self.reference = self.output(self.jets)

    def output(self, jets: JetBatch) -> Tensor:
        """Return the scores, which must not change under the stabilizer, or the momenta, which must transform."""
        return self.network(jets).fourmomenta if self.predicts_momenta else self.network(jets)

    def change(self, jets: JetBatch) -> float:
        """Compare with the output of the original jets."""
        return relative_change(self.output(jets), self.reference)

    def change_under(self, matrix: Tensor) -> float:
        """Transform the momenta by a matrix (4, 4), and compare with the transformed output."""
        jets = replace(self.jets, fourmomenta=self.jets.fourmomenta @ matrix.t())
        expected = self.reference @ matrix.t() if self.predicts_momenta else self.reference
        return relative_change(self.output(jets), expected)


@torch.no_grad()
def measure_symmetries(model: PelicanBackbone, seed: int = 0, trained: bool = True) -> list[Measurement]:
    """Measure how the output for toy jets changes under permutations, batch-mates, Lorentz transformations, splittings.

    trained: False leaves out the Lorentz control of --method input, whose weights start on the invariant alone.
    """
    probe, config = _Probe(model, seed), model.config
    jets, random = probe.jets, torch.Generator().manual_seed(seed + 1)
    order = random_permutation(jets.lengths, random)
    scalars = None if jets.scalars is None else jets.scalars[order]
    permuted = replace(jets, fourmomenta=jets.fourmomenta[order], scalars=scalars)
    alone = torch.cat([probe.output(jets.part(k, k + 1)) for k in range(len(jets))])
    results = [
        Measurement("permutation of particles", probe.change(permuted), UNCHANGED),
        Measurement("each jet alone", relative_change(alone, probe.reference), UNCHANGED),
    ]
    stabilizer, complement = network_generators(config)
    if len(stabilizer):
        name = f"stabilizer {config.stabilizer} ({len(stabilizer)} generators)"
        results.append(Measurement(name, probe.change_under(random_transformation(stabilizer, random)), UNCHANGED))
    if len(complement) and (trained or config.method == "spurions"):
        change = probe.change_under(random_transformation(complement, random))
        results.append(Measurement("control: Lorentz outside the stabilizer", change, CHANGED))
    results.append(Measurement("control: stretched space", probe.change_under(stretched_space()), CHANGED))
    if not config.num_scalars:  # nothing defines the features of the parts of a split particle
        expected = UNCHANGED if config.irc_safe else UNSPECIFIED
        with_soft, with_split = irc_variants(jets)
        results.append(Measurement("a particle of no momentum added", probe.change(with_soft), expected))
        results.append(Measurement("a particle split in two", probe.change(with_split), expected))
    return results


def irc_variants(jets: JetBatch) -> tuple[JetBatch, JetBatch]:
    """Return the jets with a soft particle added, and the jets with their first particle split in two.

    The soft particle has 1e-13 of the first one's momentum, at an angle to it.
    """
    soft, split = [], []
    for jet in jets.fourmomenta.split(jets.lengths.tolist()):
        extra = 1e-13 * jet[:1, [0, 2, 1, 3]]
        soft.append(torch.cat([jet, extra]))
        split.append(torch.cat([0.3 * jet[:1], 0.7 * jet[:1], jet[1:]]))
    return replace(jets, fourmomenta=torch.cat(soft), lengths=jets.lengths + 1), replace(
        jets, fourmomenta=torch.cat(split), lengths=jets.lengths + 1
    )


def report_symmetries(model: PelicanBackbone, seed: int = 0, trained: bool = True, out: Path | None = None) -> None:
    """Print the table of `measure_symmetries`; raise InputError if a line fails. out: file for the table too."""
    results = measure_symmetries(model, seed, trained)
    limits = {
        UNCHANGED: f"limit {LIMIT:.0e}",
        CHANGED: f"must exceed {CONTROL:.0e}",
        UNSPECIFIED: "not promised",
    }
    lines = [f"{'transformation':45s} {'change':>9s}   verdict"]
    for r in results:
        verdict = "-   " if r.expected == UNSPECIFIED else "pass" if r.passed else "FAIL"
        lines.append(f"{r.name:45s} {r.change:9.1e}   {verdict} ({limits[r.expected]})")
    table = "\n".join(lines)
    print(table)
    if out is not None:
        with whole_file(out) as temporary:
            temporary.write_text(f"{table}\n", encoding="utf-8")
    failed = [r.name for r in failures(results)]
    if failed:
        raise InputError(f"symmetry report: {len(failed)} of {len(results)} failed: {', '.join(failed)}")
