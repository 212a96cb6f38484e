#!/usr/bin/env python3
"""Export a trained PELICAN network to ONNX, for one jet with any number of particles, and check it with onnxruntime.

    pip install --no-build-isolation -e '.[export]'
    python3 tools/export_onnx.py model/top_best.pt --out top.onnx

The file appears only if it agrees with PyTorch.  docs/EXPORT.md: its inputs, outputs and metadata, and how to run it.
"""

import argparse
import copy
import importlib
import json
import logging
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.checkpoints.reading import read_checkpoint
from puffin.checkpoints.writing import git_commit
from puffin.cli.arguments import Formatter, add_jet_data_arguments, add_pelican_arguments
from puffin.cli.jets import names
from puffin.cli.pelican import pelican_config, take_network_from
from puffin.data.jets import JetDataset, JetSelection
from puffin.data.packing import JetBatch
from puffin.data.scalars import chosen_scalars
from puffin.errors import InputError, first_line
from puffin.files import whole_file
from puffin.models.pelican import PelicanClassifier, PelicanRegressor
from puffin.models.single_jet import SingleJet, single_jet
from puffin.runs.run import load_weights, run_script

SAMPLE = Path(__file__).resolve().parents[1] / "data/sample_data/run12/test.h5"
INPUTS = ("fourmomenta", "scalars")
LEAST_OPSET = 18  # of PyTorch's exporter
TOLERANCE = 1e-5  # the default
# Where float32 rounding moves PyTorch's own outputs by more, so it does the file's, maybe the other way: twice that, up to this.
# Small exponents of the input encoder and instance norms of small jets make 5e-5 of a last bit in which two libraries differ.
LARGEST_TOLERANCE = 1e-4
_SAMPLES = 2000  # jets of a file among which those to compare are looked for
Network = PelicanClassifier | PelicanRegressor
Jet = tuple[Tensor, ...]  # fourmomenta (n, 4) [GeV] and, for networks that take them, scalars (n, S); float32


def make_parser() -> argparse.ArgumentParser:
    """All flags of this tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=Formatter)
    parser.add_argument("checkpoint", type=Path, help="of a PELICAN script, or a published one")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write; None: the checkpoint's name with .onnx"
    )
    parser.add_argument("--opset", type=int, default=LEAST_OPSET, metavar="N", help="version of ONNX's operators")
    add = parser.add_argument
    add("--check-sizes", type=int, nargs="+", default=[1, 2, 10, 50, 100], metavar="N", help="sizes of compared jets")
    add("--check-file", type=Path, default=SAMPLE, metavar="FILE", help="jets to compare beside random ones, HDF5")
    add(
        "--tolerance",
        type=float,
        metavar="X",
        help=f"most difference to PyTorch, relative to the largest output; None: {TOLERANCE:g}, or twice PyTorch's own float32 "
        f"rounding where that is more, up to {LARGEST_TOLERANCE:g}",
    )
    return parser


def main(argv=None) -> None:
    """Export, check, and write the file if the check passes."""
    args = make_parser().parse_args(argv)
    if args.opset < LEAST_OPSET:
        raise InputError(f"--opset: expected at least {LEAST_OPSET}, got {args.opset}")
    if min(args.check_sizes) < 1:
        raise InputError(f"--check-sizes: expected at least 1, got {min(args.check_sizes)}")
    onnxruntime = exporter()
    model, settings, checkpoint = load_network(args.checkpoint)
    num_scalars = model.config.num_scalars
    jets = random_jets(args.check_sizes, num_scalars) + sample_jets(args.check_file, args.check_sizes, num_scalars)
    out = args.out or args.checkpoint.with_suffix(".onnx")
    with whole_file(out) as temporary:
        properties = metadata(model, settings, checkpoint, args.checkpoint.name)
        export(single_jet(model, settings.scale), temporary, args.opset, properties)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        found = deviations(session, model, settings.scale, jets)
        worst = int(np.argmax(found))  # nan counts as the largest
        said = f"{found[worst]:.2g} (a jet of {len(jets[worst][0])} particles)"
        tolerance, reason = choose_tolerance(args.tolerance, found[worst], model, settings.scale, jets)
        if not found[worst] <= tolerance:
            expected = f"expected at most {tolerance:.2g} ({reason}); --tolerance sets another limit"
            raise InputError(f"{out}: not written: differs from PyTorch by {said}, {expected}")
    sizes = f"{min(args.check_sizes)} to {max(args.check_sizes)} particles"
    print(f"{out}: {type(model).__name__}, {out.stat().st_size / 1024:.0f} KiB, opset {args.opset}")
    print(
        f"{len(jets)} jets of {sizes} agree with PyTorch; largest relative deviation {said}, "
        f"tolerance {tolerance:.2g} ({reason})"
    )


def exporter():
    """onnxruntime, if all that exporting needs is there; else InputError with the remedy."""
    try:
        _, _, onnxruntime = map(importlib.import_module, ("onnx", "onnxscript", "onnxruntime"))
    except ImportError as error:
        remedy = "pip install --no-build-isolation -e '.[export]'"
        raise InputError(f"exporting needs onnx, onnxscript and onnxruntime ({error}): {remedy}") from error
    return onnxruntime


def load_network(path: Path) -> tuple[Network, argparse.Namespace, dict]:
    """The network of a checkpoint in float32 and eval mode, the settings of its training, and the checkpoint."""
    checkpoint = read_checkpoint(path)
    parser = argparse.ArgumentParser()
    add_jet_data_arguments(parser, target="", target_help="")
    add_pelican_arguments(parser)
    settings = parser.parse_args([])
    take_network_from(settings, set(), checkpoint, path)
    state = checkpoint.get("model_state", checkpoint.get("state_dict"))
    regressor = isinstance(state, dict) and any("agg_2to1." in name for name in state)
    network = PelicanRegressor if regressor else PelicanClassifier
    model = network(pelican_config(settings, sum(s.width for s in chosen(settings))))
    load_weights(model, checkpoint, path)
    return model.float().eval(), settings, checkpoint


def chosen(settings: argparse.Namespace):
    """The features of particles that the network takes, in the order of its columns."""
    return chosen_scalars(settings.dataset, settings.read_pid, names(settings.scalars_keys))


def metadata(model: Network, settings: argparse.Namespace, checkpoint: dict, name: str) -> dict[str, str]:
    """What a reader of the file has to know; every value is text, lists and dicts as JSON."""
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
        "scalars": json.dumps([{"key": s.key, "columns": s.width} for s in chosen(settings)]),
        "scalars_flags": json.dumps({k: getattr(settings, k) for k in ("dataset", "read_pid", "scalars_keys")}),
        "network": json.dumps(asdict(config)),
        "checkpoint": name,
        "checkpoint_commit": str(checkpoint.get("git_commit", "")),
        "puffin_commit": git_commit(),
    }


def export(network: SingleJet, path: Path, opset: int, properties: dict[str, str]) -> None:
    """Write the network with a dynamic number of particles.  Nothing of this machine (paths, traces) goes in."""
    import onnx_ir.passes.common as passes

    config = network.network.config
    example = random_jets([7], config.num_scalars)[0]
    particles = torch.export.Dim("particles", min=1)
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):  # what they say is noise, or raised below
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
            raise InputError(f"PyTorch could not export it with opset {opset}: {first_line(error)}") from error
    written = program.model.opset_imports[""]
    if written != opset:  # the exporter gives its own where it cannot convert
        raise InputError(f"--opset: PyTorch's exporter cannot write {opset}, it gives {written}")
    passes.ClearMetadataAndDocStringPass()(program.model)
    for value in (*program.model.graph.inputs, *program.model.graph.outputs):
        value.metadata_props.clear()
    program.model.metadata_props.clear()
    program.model.metadata_props.update(properties)
    program.save(path, external_data=False)


def random_jets(sizes: list[int], num_scalars: int) -> list[Jet]:
    """Jets of pions in a cone around a random axis, with 10 GeV each on average; scalars from a normal distribution."""
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
    """For each size the first jet of a file with as many particles, cut to it; sizes that none reaches are left out."""
    data = JetDataset([path], JetSelection(target=None, in_memory=False))
    batch = data.__getitems__(list(range(min(len(data), _SAMPLES))))
    data.close()
    generator = torch.Generator().manual_seed(1)
    jets = batch.fourmomenta.split(batch.lengths.tolist())
    found = [next((p[:n] for p in jets if len(p) >= n), None) for n in sizes]
    return [with_scalars(p, num_scalars, generator) for p in found if p is not None]


def with_scalars(p: Tensor, num_scalars: int, generator: torch.Generator) -> Jet:
    """The inputs of a network that takes `num_scalars` features of each particle."""
    return (p, torch.randn(len(p), num_scalars, generator=generator)) if num_scalars else (p,)


def as_batch(jet: Jet, scale: float) -> JetBatch:
    """The jet as the trained network takes it."""
    return JetBatch(jet[0] * scale, torch.tensor([len(jet[0])]), scalars=jet[1] if len(jet) > 1 else None)


def choose_tolerance(
    given: float | None, deviation: float, model: Network, scale: float, jets: list[Jet]
) -> tuple[float, str]:
    """The most that a file may differ from PyTorch, and why as much; PyTorch's rounding is measured only where it matters."""
    if given is not None:
        return given, "--tolerance"
    if deviation <= TOLERANCE or (of_pytorch := rounding(model, scale, jets)) <= TOLERANCE / 2:
        return TOLERANCE, "the default"
    if 2 * of_pytorch > LARGEST_TOLERANCE:
        return LARGEST_TOLERANCE, f"the most, as twice PyTorch's own float32 rounding, {of_pytorch:.2g}, is more"
    return 2 * of_pytorch, f"twice PyTorch's own float32 rounding, {of_pytorch:.2g}"


@torch.no_grad()
def outputs(model: Network, batch: JetBatch) -> tuple[np.ndarray, ...]:
    """What the trained network gives for a batch of one jet, in the order of the file."""
    out = model(batch)
    classifier = isinstance(model, PelicanClassifier)
    expected = (out[0], out[0].softmax(0)) if classifier else (out.fourmomenta[0], out.weights)
    return tuple(x.numpy() for x in expected)


def relative(found: list, expected: list) -> list[float]:
    """For each jet the largest difference of its outputs, relative to the largest entry that the output has for any of
    the jets: scores near 0 are differences of larger numbers, rounded in float32."""
    differences = [
        [np.abs(x - y).max() for x, y in zip(*both, strict=True)] for both in zip(found, expected, strict=True)
    ]
    sizes = [[np.abs(y).max() for y in jet] for jet in expected]
    return (np.array(differences) / np.array(sizes).max(0)).max(1).tolist()


def deviations(session, model: Network, scale: float, jets: list[Jet]) -> list[float]:
    """For each jet how far the ONNX file is from the trained network."""
    found = [session.run(None, {name: x.numpy() for name, x in zip(INPUTS, jet, strict=False)}) for jet in jets]
    return relative(found, [outputs(model, as_batch(jet, scale)) for jet in jets])


def rounding(model: Network, scale: float, jets: list[Jet]) -> float:
    """How far float32 takes the trained network from what it gives in float64 for the same dot products.

    Those stay float32's, cancellation included: the file makes them by the same operations, with the same bits."""
    exact, dots = copy.deepcopy(model).double(), []
    handle = model.linear.register_forward_pre_hook(lambda _, inputs: dots.append(inputs[0]))
    exact.linear.register_forward_pre_hook(lambda _, inputs: dots.pop().double())
    pairs = []
    for batch in (as_batch(jet, scale) for jet in jets):
        pairs.append((outputs(model, batch), outputs(exact, batch.to("cpu", torch.float64))))
    handle.remove()
    return max(relative(*zip(*pairs, strict=False)))


if __name__ == "__main__":
    run_script(main)
