import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from puffin.ops import chamfer, cnms, fps, library, neighbors
from tests.ops.clouds import DEVICES, cloud, require_kernels
from tests.ops.samples import stated_schemas
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = [
    fps.SCHEMA,
    neighbors.KNN_SCHEMA,
    neighbors.BALL_COUNT_SCHEMA,
    neighbors.BALL_QUERY_SCHEMA,
    cnms.SCHEMA,
    chamfer.SCHEMA,
    chamfer.BACKWARD_SCHEMA,
]


def run(*command, **environment):
    """stdout and stderr of a Python command in the root of the repository, which must succeed."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_schemas_are_those_of_the_sources():
    """Breaks when csrc/puffin.cpp and src/puffin/ops state different schemas."""
    assert set(SCHEMAS) <= stated_schemas()


@pytest.mark.parametrize("environment", [{}, {"PUFFIN_KERNELS": "0"}], ids=["kernels", "plain"])
def test_description_lists_every_op(environment):
    """Breaks when a module of ops is forgotten, or the list depends on what was used or is compiled."""
    listed = run("-m", "puffin.ops", **environment).splitlines()[-1]
    assert listed == "ops: " + ", ".join(sorted(schema.split("(")[0] for schema in stated_schemas()))


def test_description_names_both_libraries():
    """Breaks when `python -m puffin.ops` fails or does not say why a library is not loaded."""
    text = run("-m", "puffin.ops")
    assert re.search(r"puffin_cpu: (loaded|not built)", text)
    assert re.search(r"puffin_cuda: (loaded|not built|not needed|this PyTorch)", text)
    assert "PUFFIN_KERNELS=0" in run("-m", "puffin.ops", PUFFIN_KERNELS="0")


def test_fallback_serves_every_op_and_says_so_once():
    """PUFFIN_KERNELS=0: breaks when an op needs the library, or the log says nothing or says it twice."""
    text = run(
        "-c",
        "import logging, torch; logging.basicConfig(level=logging.INFO)\n"
        "from puffin.ops import library, fps, neighbors, cnms, chamfer\n"
        "assert not library.loaded()\n"
        "p = torch.rand(2, 40, 3).requires_grad_()\n"
        "fps.farthest_point_sampling(p, None, 5); neighbors.knn(p, p, None, None, 3)\n"
        "neighbors.ball_query(p, p, 0.3); cnms.centrality_nms(p, None, 0.1)\n"
        "f = torch.compile(chamfer.chamfer_distance, fullgraph=True, backend='aot_eager')\n"
        "f(p, p.flip(1) + 1).backward(); assert p.grad.abs().sum() > 0\n",
        PUFFIN_KERNELS="0",
    )
    assert text.count("use plain PyTorch: disabled by PUFFIN_KERNELS=0") == 1


def test_importing_is_quiet():
    """Breaks when importing the ops initialises CUDA, compiles, seeds or logs."""
    text = run(
        "-c",
        "import torch; s = torch.random.get_rng_state()\n"
        "from puffin.ops import chamfer, cnms, fps, neighbors\n"
        "assert torch.equal(s, torch.random.get_rng_state()) and not torch.cuda.is_initialized()\n",
    )
    assert text == ""


def test_stale_library_is_refused(monkeypatch):
    """Breaks when a library built from other schemas is used silently."""
    require_kernels()
    with pytest.raises(ImportError, match="out of date.*make kernels"):
        library.define("knn(Tensor queries, int k) -> Tensor", neighbors.knn_oracle, neighbors._knn_fake)


@pytest.mark.parametrize("cpu", ["puffin_cpu", "puffin_emulated"])
@pytest.mark.parametrize("cpu_only", [False, True])
def test_devices_without_a_kernel_get_the_oracle(monkeypatch, cpu_only, cpu):
    """Breaks if an operator is left without an implementation, or an oracle takes the place of its kernel."""
    keys = []
    monkeypatch.setattr(library, "KEYS", {"CPU": cpu, "CUDA": "puffin_cuda", "MPS": None})
    monkeypatch.setattr(library, "_state", {cpu: "loaded", "puffin_cuda": "loaded"})
    monkeypatch.setattr(library, "_definitions", SimpleNamespace(impl=lambda name, function, key: keys.append(key)))
    monkeypatch.setattr(library, "_cpu_only", set())
    monkeypatch.setattr(torch.library, "register_fake", lambda *args, **kwargs: None)
    library.define(neighbors.KNN_SCHEMA, neighbors.knn_oracle, neighbors._knn_fake, cpu_only)
    without_kernel = ["CPU"] if cpu_only and cpu == "puffin_emulated" else []
    assert keys == [*without_kernel, *(["CUDA"] if cpu_only else []), "MPS"]
    assert library.is_cpu_only("knn") == cpu_only


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_lower_instruction_sets_agree(level):
    """Breaks when the code for machines without AVX-512 or AVX2 gives other indices."""
    require_kernels()
    files = [f"tests/ops/test_{op}.py" for op in ("fps", "neighbors", "cnms", "chamfer")]
    run(
        "-m",
        "pytest",
        "-q",
        "-x",
        *files,
        "-k",
        "equals_oracle and (tracks or lattice_ties or outliers or some_empty)",
        PUFFIN_ISA=level,
    )


def all_ops(points, lengths, targets):
    index = fps.farthest_point_sampling(points, lengths, 16)
    seeds = points.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, 3))
    groups = neighbors.ball_query(seeds, points, 0.3, 8, None, lengths)
    weights = 1 / (neighbors.knn(points, seeds, lengths, None, 3)[0] + 1e-3)
    centres = cnms.centrality_nms(points, lengths, 0.1)
    counts = neighbors.ball_count(points, points, 0.2, lengths, lengths)
    return chamfer.chamfer_distance(seeds, targets), groups, weights, centres.index, centres.lengths, counts


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_graph_breaks(backend, device):
    """Breaks when a face reads a value of a tensor, or a fake kernel has another shape."""
    points, lengths = (t.to(device) for t in cloud("random"))
    targets = torch.rand(3, 20, 3, device=device)
    inputs = [points.clone().requires_grad_(), points.clone().requires_grad_()]
    eager = all_ops(inputs[0], lengths, targets)
    compiled = torch.compile(all_ops, fullgraph=True, backend=backend)(inputs[1], lengths, targets)
    for a, b in zip(eager, compiled, strict=False):
        torch.testing.assert_close(a, b)
    eager[0].backward()
    compiled[0].backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


def test_no_advice_about_cuda_without_a_gpu(monkeypatch):
    """Breaks if a user without a GPU is told to compile CUDA kernels; with one, the advice stays."""
    monkeypatch.setitem(library._state, "puffin_cuda", "not built: run `make kernels`")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (
        library.states()["puffin_cuda"] == "not needed (no GPU found)"
        and "make" not in library.describe().split("puffin_cuda")[1].split("\n")[0]
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "make kernels" in library.states()["puffin_cuda"]
