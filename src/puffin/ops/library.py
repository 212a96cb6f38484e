"""The compiled kernel libraries: where they are, whether they are loaded, and the plain-PyTorch oracles without them.

Every operation is a PyTorch operator in the namespace `puffin`. Its schema and kernels come from src/puffin/ops/_lib if
that is built (`make kernels`); for every device without a compiled kernel, `define` registers the plain-PyTorch oracle.
So `torch.ops.puffin.<op>` always exists, and `torch.compile` sees the same operator either way. Some operators have a
kernel for the CPU only (`is_cpu_only`).

PUFFIN_KERNELS=0 in the environment disables the compiled libraries. Tests of the CUDA kernels on a CPU set it to
emulated or emulated_asan: the library of that name (csrc/emulate) then serves CPU tensors.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "_lib"
SCHEMAS = Path(__file__).parents[3] / "csrc" / "puffin.cpp"
# dispatch keys that the oracles serve, and the library whose kernels replace them
KEYS = {"CPU": "puffin_cpu", "CUDA": "puffin_cuda", "MPS": None, "XPU": None}

EMULATED = os.environ.get("PUFFIN_KERNELS", "").startswith("emulated")
if EMULATED:
    KEYS = {"CPU": f"puffin_{os.environ['PUFFIN_KERNELS']}", "MPS": None, "XPU": None}

_definitions = torch.library.Library("puffin", "FRAGMENT")
_state: dict[str, str] = {}  # library -> "loaded" or why it is not
_announced_keys: set[str] = set()
_oracles: dict[str, Callable] = {}  # of the operators that `define` has defined
_cpu_only: set[str] = set()  # those of them without a kernel for CUDA


def schema_tag(source: Path) -> str:
    """Return the hash of the schemas, which setup.py stores beside the library that it builds from them."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def _load(name: str) -> str:
    """Load a library; return "loaded" or the reason why it is not."""
    path = FOLDER / f"{name}.so"
    if os.environ.get("PUFFIN_KERNELS") == "0":
        return "disabled by PUFFIN_KERNELS=0"
    if not path.exists():
        return f"not built ({path.name} is not in src/puffin/ops/_lib): run `make kernels`"
    if name == "puffin_cuda":
        if torch.version.cuda is None:
            return "this PyTorch is built without CUDA"
        if _state["puffin_cpu"] != "loaded":
            return "puffin_cpu, which holds the schemas, is not loaded"
    tag = FOLDER / "schemas"
    if (
        name != "puffin_cuda"
        and SCHEMAS.exists()
        and (not tag.exists() or tag.read_text(encoding="utf-8") != schema_tag(SCHEMAS))
    ):
        return "out of date (csrc/puffin.cpp has changed): run `make kernels`"
    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        return f"{error}; rebuild with `make kernels`"
    return "loaded"


def loaded(key: str = "CPU") -> bool:
    """Return whether compiled kernels serve the dispatch key "CPU" or "CUDA"."""
    return _state.get(KEYS.get(key) or "") == "loaded"


def has_kernel(table: Tensor) -> bool:
    """Return whether compiled kernels take tables of pairs of this dtype on this device; bfloat16: only on the CPU."""
    key = table.device.type.upper()
    if table.dtype == torch.bfloat16:
        return has_cpu_kernel(table)
    return table.dtype in (torch.float32, torch.float64) and loaded(key)


def autocast_makes_half_tables(x: Tensor) -> bool:
    """Return whether autocast is on and turns x into a table of bfloat16, whose sums and weights stay float32.

    So it is on a CPU with kernels.  Elsewhere autocast computes everything in bfloat16, as PyTorch's layers do."""
    device_type = x.device.type
    return (
        torch.is_autocast_enabled(device_type)
        and torch.get_autocast_dtype(device_type) == torch.bfloat16
        and x.dtype in (torch.float32, torch.bfloat16)
        and has_cpu_kernel(x)
    )


def has_cpu_kernel(x: Tensor) -> bool:
    """Return whether x is on a CPU and the library puffin_cpu is loaded: `cpu_only` operators then have a kernel."""
    return x.device.type == "cpu" and not EMULATED and loaded()


@contextlib.contextmanager
def without_kernels():
    """Within this block, use plain PyTorch for pairs and messages, for comparisons with their kernels."""
    before = dict(_state)
    _state.update(dict.fromkeys(_state, "hidden by without_kernels"))
    try:
        yield
    finally:
        _state.update(before)


def _announced(name: str, key: str, oracle: Callable) -> Callable:
    def run(*args):
        library = KEYS[key]
        reason = _state[library] if library else "no compiled kernels for this device"
        if key not in _announced_keys and reason != "loaded":
            _announced_keys.add(key)
            logger.info("puffin ops on %s use plain PyTorch: %s", key, reason)
        with torch.autocast(key.lower(), enabled=False):  # kernels ignore it, too
            results = oracle(*args)
        # results of kernels are contiguous, and so the fake kernels state
        return tree_map_only(torch.Tensor, torch.Tensor.contiguous, results)

    run.__name__ = f"{name}_oracle"
    return run


def define(schema: str, oracle: Callable, fake: Callable, cpu_only: bool = False) -> None:
    """Define `puffin::<op>` by its schema, e.g. "knn(Tensor queries, ...) -> Tensor".

    oracle and fake take the arguments of the schema; fake allocates outputs of the right shape. Both libraries have a
    kernel for the operator; with cpu_only just puffin_cpu has one, and all other devices use the oracle.
    Raises ImportError if the compiled library has another schema.
    """
    name = schema.split("(", 1)[0]
    if loaded():
        try:
            built = str(getattr(torch.ops.puffin, name).default._schema)
        except AttributeError:
            built = "no such op"
        if built != str(torch._C.parse_schema(f"puffin::{schema}")):
            raise ImportError(
                f"src/puffin/ops/_lib/puffin_cpu.so is out of date: has {built}, expected {schema}; "
                "run `make kernels`, or set PUFFIN_KERNELS=0"
            )
    else:
        _definitions.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _oracles[name] = oracle
    if cpu_only:
        _cpu_only.add(name)
    for key, library in KEYS.items():
        if not loaded(key) or (cpu_only and library != "puffin_cpu"):
            _definitions.impl(name, _announced(name, key, oracle), key)
    torch.library.register_fake(f"puffin::{name}", fake, lib=_definitions)


def oracle_of(name: str) -> Callable:
    """Return the plain-PyTorch function of an operator, for comparisons with its kernels on any device."""
    return _oracles[name]


def is_cpu_only(name: str) -> bool:
    """Return whether an operator has a kernel for the CPU only."""
    return name in _cpu_only


def states() -> dict[str, str]:
    """Return for each library "loaded", or why it is not; without a GPU nobody is told to build the one for CUDA."""
    states = dict(_state)
    if states["puffin_cuda"] != "loaded" and not torch.cuda.is_available():
        states["puffin_cuda"] = "not needed (no GPU found)"
    return states


def describe() -> str:
    """Return one line per library, and one with the operators of the modules that are imported."""
    lines = [f"PyTorch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, {torch.get_num_threads()} threads"]
    for name, state in states().items():
        path = FOLDER / f"{name}.so"
        size = f"{path.stat().st_size / 2**20:.1f} MB" if path.exists() else "no file"
        lines.append(f"{name}: {state} ({path.relative_to(FOLDER.parents[3])}, {size})")
    lines.append(f"ops: {', '.join(sorted(_oracles))}")
    return "\n".join(lines)


for _name in [_library for _library in KEYS.values() if _library]:
    _state[_name] = _load(_name)
