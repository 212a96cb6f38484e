#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Export a trained PELICAN network to ONNX, for one jet with any number of particles, and check it with onnxruntime.

    pip install --no-build-isolation -e '.[export]'
    python3 tools/export_onnx.py model/top_best.pt --out top.onnx

The file is written only if its outputs agree with PyTorch. docs/export_to_onnx.md describes its inputs, outputs and
metadata, and shows how to run it.
"""

import copy
import importlib
import json
import logging
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import InputError, explain_missing_packages, first_line, plural
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer, number

SAMPLE = Path(__file__).resolve().parents[1] / "data/sample_data/run12/test.h5"
MINIMUM_OPSET = 18  # PyTorch's exporter writes no older one
TOLERANCE = 1e-5  # the default
# Float32 rounding errors of PyTorch and of the file can have opposite signs, so where PyTorch's error is larger than
# half the default, the tolerance is twice that error, up to this limit. Small exponents of the input encoder and
# instance norms of small jets turn a difference in the last bit into 5e-5.
LARGEST_TOLERANCE = 1e-4


def make_parser() -> OneLineParser:
    """Return the parser of all flags."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        metavar="FILE",
        help="checkpoint of a PELICAN script, or a published PELICAN checkpoint",
    )
    add("--out", type=Path, metavar="FILE", help="file to write (default: the checkpoint's name, with .onnx)")
    add(
        "--opset",
        type=integer(MINIMUM_OPSET),
        default=MINIMUM_OPSET,
        metavar="N",
        help="version of the ONNX operator set, at least %(default)s; newer ones need a newer onnxruntime "
        "(default: %(default)s)",
    )
    add(
        "--check-sizes",
        type=integer(1),
        nargs="+",
        default=[1, 2, 10, 50, 100],
        metavar="N",
        help="numbers of particles of the jets with which the file is compared to PyTorch (default: 1 2 10 50 100)",
    )
    add(
        "--check-file",
        type=Path,
        default=SAMPLE,
        metavar="FILE",
        help="HDF5 file of jets; some of them are compared in addition to random jets (default: the sample jets)",
    )
    add(
        "--tolerance",
        type=number(minimum=0),
        metavar="X",
        help="maximum difference from PyTorch, relative to the largest output "
        f"(default: {TOLERANCE:g}, or twice the float32 rounding error of PyTorch itself if that is larger, "
        f"up to {LARGEST_TOLERANCE:g})",
    )
    return parser


if __name__ == "__main__":  # --help and bad flags are answered before the imports that take seconds
    explain_missing_packages()
    make_parser().parse_args()

import numpy as np
import torch
from torch import Tensor

from puffin.checkpoints.checkpoint import CLASSIFIER, REGRESSOR, Checkpoint
from puffin.checkpoints.networks import network_of_checkpoint, settings_of_checkpoint
from puffin.checkpoints.writing import git_commit
from puffin.data.jets import JetDataset, JetSelection
from puffin.data.packing import JetBatch
from puffin.data.scalars import scalars_of
from puffin.files import whole_file
from puffin.models.pelican import PelicanClassifier, PelicanRegressor
from puffin.models.single_jet import SingleJet, single_jet
from puffin.runs.entry import run_script
from puffin.settings.jets import JetDataSettings

INPUTS = ("fourmomenta", "scalars")
_SAMPLES = 2000  # number of jets of a file that are searched for jets to compare
Network = PelicanClassifier | PelicanRegressor
Jet = tuple[Tensor, ...]  # fourmomenta (n, 4) [GeV] and, if the network takes scalars, scalars (n, S); float32


def main(argv: list[str] | None = None) -> None:
    """Export the network, compare it with PyTorch, and write the file if they agree."""
    args = make_parser().parse_args(argv)
    onnxruntime = exporter()
    model, settings, checkpoint = load_network(args.checkpoint)
    num_scalars = model.config.num_scalars
    jets = random_jets(args.check_sizes, num_scalars) + sample_jets(args.check_file, args.check_sizes, num_scalars)
    out = args.out or args.checkpoint.with_suffix(".onnx")
    with whole_file(out) as temporary:
        properties = metadata(model, settings, checkpoint, args.checkpoint.name)
        export(single_jet(model, settings.scale), temporary, args.opset, properties)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        differences = deviations(session, model, settings.scale, jets)
        worst = int(np.argmax(differences))  # nan counts as the largest
        largest = f"{differences[worst]:.2g} (a jet of {len(jets[worst][0])} particles)"
        tolerance, reason = choose_tolerance(args.tolerance, differences[worst], model, settings.scale, jets)
        if not differences[worst] <= tolerance:
            expected = f"expected at most {tolerance:.2g} ({reason}); --tolerance sets another limit"
            raise InputError(f"{out}: not written: differs from PyTorch by {largest}, {expected}")
    sizes = f"{min(args.check_sizes)} to {max(args.check_sizes)} particles"
    print(f"{out}: {type(model).__name__}, {out.stat().st_size / 1024:.0f} KiB, opset {args.opset}")
    print(
        f"{plural(len(jets), 'jet')} of {sizes} agree with PyTorch; largest relative deviation {largest}, "
        f"tolerance {tolerance:.2g} ({reason})"
    )


def exporter():
    """Return the module onnxruntime; InputError with the command to install it if a package is missing."""
    try:
        _, _, onnxruntime = map(importlib.import_module, ("onnx", "onnxscript", "onnxruntime"))
    except ImportError as error:
        remedy = "pip install --no-build-isolation -e '.[export]'"
        raise InputError(f"exporting needs onnx, onnxscript and onnxruntime ({error}): {remedy}") from error
    return onnxruntime


def load_network(path: Path) -> tuple[Network, JetDataSettings, Checkpoint]:
    """Load a network in float32 and eval mode; return it with the settings of its data and the checkpoint.

    InputError if there is no such file, or no PELICAN network in it."""
    checkpoint = Checkpoint.read(path).expect(CLASSIFIER, REGRESSOR)
    model = network_of_checkpoint(checkpoint)
    return model.float().eval(), settings_of_checkpoint(checkpoint).data, checkpoint


def metadata(model: Network, settings: JetDataSettings, checkpoint: Checkpoint, name: str) -> dict[str, str]:
    """Return what a user of the file needs to know; all values are text, lists and dicts as JSON."""
    config = model.config
    classifier = isinstance(model, PelicanClassifier)
    return {
        "kind": "classifier" if classifier else "regressor",
        **({"num_classes": str(config.num_classes)} if classifier else {"num_targets": str(config.num_targets)}),
        "units": "GeV",
        "scale": f"{settings.scale:g}",
        "nobj": str(settings.nobj),
        "spurions": str(len(config.spurions)),
        "target": settings.target or "",
        "scalars": json.dumps([{"key": s.key, "columns": s.width} for s in scalars_of(settings)]),
        "scalars_flags": json.dumps({k: getattr(settings, k) for k in ("dataset", "read_pid", "scalars_keys")}),
        "network": json.dumps(asdict(config)),
        "checkpoint": name,
        "checkpoint_commit": checkpoint.commit,
        "puffin_commit": git_commit(),
    }


def export(network: SingleJet, path: Path, opset: int, properties: dict[str, str]) -> None:
    """Write the network with a dynamic number of particles, without paths or stack traces of this machine."""
    import onnx_ir.passes.common as passes

    config = network.network.config
    example = random_jets([7], config.num_scalars)[0]
    particles = torch.export.Dim("particles", min=1)
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):  # their messages are noise; errors are raised below
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                network,
                example,
                input_names=INPUTS[: len(example)],
                output_names=network.outputs,
                opset_version=opset,
                dynamic_shapes=({0: particles},) * len(example),
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise InputError(f"PyTorch cannot export the network with opset {opset}: {first_line(error)}") from error
    written = program.model.opset_imports[""]
    if written != opset:  # the exporter keeps its own version if it cannot convert
        raise InputError(
            f"--opset: PyTorch's exporter cannot write version {opset}, it wrote {written}. Use {written}."
        )
    passes.ClearMetadataAndDocStringPass()(program.model)
    for value in (*program.model.graph.inputs, *program.model.graph.outputs):
        value.metadata_props.clear()
    program.model.metadata_props.clear()
    program.model.metadata_props.update(properties)
    program.save(path, external_data=False)


def random_jets(sizes: list[int], num_scalars: int) -> list[Jet]:
    """Make jets of pions, 10 GeV each on average, in a cone around a random axis; scalars are normally distributed."""
    generator = torch.Generator().manual_seed(0)
    jets = []
    for n in sizes:
        axis = torch.randn(3, generator=generator)
        direction = axis / axis.norm() + 0.2 * torch.randn(n, 3, generator=generator)
        momentum = direction * torch.rand(n, 1, generator=generator).log().neg() * 10
        energy = (momentum.square().sum(1, keepdim=True) + 0.14**2).sqrt()
        jets.append(with_scalars(torch.cat([energy, momentum], 1), num_scalars, generator))
    return jets


def sample_jets(path: Path, sizes: list[int], num_scalars: int) -> list[Jet]:
    """Read for each size the first jet with at least that many particles, cut to it; skip sizes that no jet reaches."""
    data = JetDataset([path], JetSelection(target=None, in_memory=False))
    batch = data.__getitems__(list(range(min(len(data), _SAMPLES))))
    data.close()
    generator = torch.Generator().manual_seed(1)
    jets = batch.fourmomenta.split(batch.lengths.tolist())
    cut = [next((p[:n] for p in jets if len(p) >= n), None) for n in sizes]
    return [with_scalars(p, num_scalars, generator) for p in cut if p is not None]


def with_scalars(p: Tensor, num_scalars: int, generator: torch.Generator) -> Jet:
    """Add random scalars to a jet if the network takes any: the inputs of the network."""
    return (p, torch.randn(len(p), num_scalars, generator=generator)) if num_scalars else (p,)


def as_batch(jet: Jet, scale: float) -> JetBatch:
    """Return the jet in the form that the trained network takes."""
    return JetBatch(jet[0] * scale, torch.tensor([len(jet[0])]), scalars=jet[1] if len(jet) > 1 else None)


def choose_tolerance(
    requested: float | None, deviation: float, model: Network, scale: float, jets: list[Jet]
) -> tuple[float, str]:
    """Return the tolerance and its reason; PyTorch's rounding is measured only if the result depends on it."""
    if requested is not None:
        return requested, "--tolerance"
    if deviation <= TOLERANCE or (of_pytorch := rounding(model, scale, jets)) <= TOLERANCE / 2:
        return TOLERANCE, "the default"
    if 2 * of_pytorch > LARGEST_TOLERANCE:
        return LARGEST_TOLERANCE, f"the maximum; twice PyTorch's own float32 rounding, {of_pytorch:.2g}, is larger"
    return 2 * of_pytorch, f"twice PyTorch's own float32 rounding, {of_pytorch:.2g}"


@torch.no_grad()
def outputs(model: Network, batch: JetBatch) -> tuple[np.ndarray, ...]:
    """Compute the outputs of the trained network for a batch of one jet, in the order of the file."""
    out = model(batch)
    classifier = isinstance(model, PelicanClassifier)
    expected = (out[0], out[0].softmax(0)) if classifier else (out.fourmomenta[0], out.weights)
    return tuple(x.numpy() for x in expected)


def relative(computed: list, expected: list) -> list[float]:
    """Return the largest relative difference of the outputs of each jet.

    Relative means: divided by the largest entry of the same output in all jets. One jet is not enough for this scale,
    because scores near 0 are differences of larger numbers, rounded in float32.
    """
    differences = [
        [np.abs(x - y).max() for x, y in zip(*both, strict=True)] for both in zip(computed, expected, strict=True)
    ]
    sizes = [[np.abs(y).max() for y in jet] for jet in expected]
    return (np.array(differences) / np.array(sizes).max(0)).max(1).tolist()


def deviations(session, model: Network, scale: float, jets: list[Jet]) -> list[float]:
    """Return for each jet how much the outputs of the ONNX file differ from those of the trained network."""
    computed = [session.run(None, {name: x.numpy() for name, x in zip(INPUTS, jet, strict=False)}) for jet in jets]
    return relative(computed, [outputs(model, as_batch(jet, scale)) for jet in jets])


def rounding(model: Network, scale: float, jets: list[Jet]) -> float:
    """Return how much the float32 outputs of the trained network differ from its float64 outputs.

    Both use the float32 dot products: the file computes them by the same operations, so they have the same bits.
    """
    exact, dots = copy.deepcopy(model).double(), []
    handle = model.input_encoder.register_forward_pre_hook(lambda _, inputs: dots.append(inputs[0]))
    exact.input_encoder.register_forward_pre_hook(lambda _, inputs: (dots.pop().double(), *inputs[1:]))
    pairs = []
    for batch in (as_batch(jet, scale) for jet in jets):
        pairs.append((outputs(model, batch), outputs(exact, batch.to("cpu", torch.float64))))
    handle.remove()
    return max(relative(*zip(*pairs, strict=False)))


if __name__ == "__main__":
    run_script(main, hint="")
