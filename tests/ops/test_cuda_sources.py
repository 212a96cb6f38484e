"""What the CUDA sources may name: nothing that waits, allocates or runs beside PyTorch's device, stream and allocator.

The emulator cannot count such calls: its `cuda_runtime.h` does not declare them, so a kernel that uses one does not
compile there.  These tests also see code that the emulator leaves out, and need no compiler.
"""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
SOURCES = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.iterdir())}
LAUNCHER = "launch.cuh"  # the one file with a device guard, a stream and launches

# Of CUDA's own functions none: they allocate, copy, set a device or wait. All else goes through PyTorch, where these
# functions queue their work on the current stream, and take memory from the allocator that keeps stream order.
CUDA_NAMES = {"cudaStream_t"}
STABLE_NAMES = {"contiguous", "empty_like", "new_empty", "transpose", "zero_", "Tensor", "detail"}
ATEN_NAMES = {"sort"}  # with stable=True it sorts on the device, and reads nothing back
# what runs on the device, or allocates on it: nothing of it may come before the device guard
WORK = re.compile(
    r"\b(PUFFIN_LAUNCH|new_tensor|new_index|stored_by_columns|sort_rows|launch_\w+|Blocks<\w+>|"
    r"(?:torch::stable::)?(?:contiguous|empty_like|new_empty|zero_))\s*\(?"
)
SCOPE = re.compile(r"\bScope\s+scope\(")


def code_of(source: str) -> str:
    """The source without comments."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", source, flags=re.DOTALL)


def closing(code: str, start: int, pair: str = "()") -> int:
    """The position of the bracket that closes the one at `start`."""
    depth = 0
    for position in range(start, len(code)):
        depth += (code[position] == pair[0]) - (code[position] == pair[1])
        if depth == 0:
            return position
    raise AssertionError(f"unbalanced {pair}")


def arguments(code: str, start: int) -> list[str]:
    """The arguments of a macro, whose bracket opens at `start`, cut as the preprocessor does."""
    parts, depth = [""], 0
    for character in code[start + 1 : closing(code, start)]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def body_of(code: str, name: str) -> str:
    """The body of the function that is defined at namespace scope."""
    for match in re.finditer(rf"^[\w:<>, &]+\s{name}\(", code, flags=re.MULTILINE):
        behind = closing(code, match.end() - 1) + 1
        if code[behind:].lstrip().startswith("{"):
            opening = code.index("{", behind)
            return code[opening : closing(code, opening, "{}") + 1]
    raise AssertionError(f"no definition of {name}")


def forbidden_names(name: str, source: str) -> list[str]:
    """Names that wait, copy or allocate."""
    code = code_of(source)
    found = [word for word in re.findall(r"\b(?:cuda|cu(?=[A-Z]))[A-Z]\w*", code) if word not in CUDA_NAMES]
    found += [f"torch::stable::{w}" for w in re.findall(r"torch::stable::(\w+)", code) if w not in STABLE_NAMES]
    found += [f"aten::{word}" for word in re.findall(r"aten::(\w+)", code) if word not in ATEN_NAMES]
    found += re.findall(
        r"\b(?:thrust|cub|at|c10)::\w+|\.(?:item|cpu|to)\s*[<(]|\b(?:printf|assert|malloc|new)\s*\(", code
    )
    found += ["<<<"] if "<<<" in code and name != LAUNCHER else []
    if name == LAUNCHER:  # the guard, of the stable interface
        found = [word for word in found if word != "torch::stable::accelerator"]
    return found


def launch_faults(source: str) -> list[str]:
    """Launches on a stream that does not come from a Scope."""
    code, faults = code_of(source), []
    for match in re.finditer(r"PUFFIN_LAUNCH\s*\(", code):
        stream = arguments(code, match.end() - 1)[3]
        if stream not in ("stream", "scope.stream", "in.scope.stream"):
            faults.append(f"a launch on {stream!r}")
    for match in re.finditer(r"[^\n;]*\bstream\s*=[^=][^\n]*", code):
        faults.append(f"an assignment: {match.group().strip()}")
    return faults


def scope_faults(source: str) -> list[str]:
    """Exported functions that work on the device before they have made it current."""
    code, faults = code_of(source), []
    for name in re.findall(r"TORCH_BOX\(&puffin::cuda::(\w+)\)", code):
        body = body_of(code, name)
        delegate = re.fullmatch(r"\{\s*return (\w+)\([^;{}]*\);\s*\}", body)
        body = body_of(code, delegate.group(1)) if delegate else body
        work = WORK.search(body)
        before = body[: work.start()] if work else body
        inputs = re.search(r"\bconst Inputs \w+\(", before) and re.search(r"struct Inputs \{\s*Scope scope;", code)
        if not (inputs or SCOPE.search(before)):
            faults.append(f"{name}: no Scope before {work.group(1) if work else 'its end'}")
    return faults


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_waits_copies_or_allocates(name):
    """Breaks if a CUDA source names a function of the CUDA runtime, or one of PyTorch's that may wait."""
    assert forbidden_names(name, SOURCES[name]) == []


@pytest.mark.parametrize("name", [name for name in SOURCES if name != LAUNCHER])
def test_launches_use_the_current_stream(name):
    """Breaks if a launch bypasses PUFFIN_LAUNCH, which checks it, or uses another stream than the Scope's."""
    assert launch_faults(SOURCES[name]) == []


@pytest.mark.parametrize("name", [name for name in SOURCES if name.endswith(".cu")])
def test_exported_functions_make_the_device_current(name):
    """Breaks if a function allocates or launches before its Scope: on another GPU than that of its tensors."""
    assert "TORCH_BOX" in SOURCES[name]
    assert scope_faults(SOURCES[name]) == []


def test_all_launches_are_seen():
    """Breaks if the pattern of launches no longer matches the sources."""
    assert sum(len(re.findall(r"PUFFIN_LAUNCH\s*\(", code_of(source))) for source in SOURCES.values()) > 18


CHANGES = {
    "a wait": ("cnms.cu", "  torch::stable::zero_(drawn);", "  torch::stable::zero_(drawn); cudaDeviceSynchronize();"),
    "a copy": ("fps.cu", "  const int64_t batch = points.size(0);", "  cudaMemcpy(a, b, 8, kind);"),
    "an allocation": ("pairs.cu", "  const Scope scope(x_in);", "  const Scope scope(x_in); cudaMalloc(&p, 8);"),
    "a value": ("segments.cu", "const int64_t segments = ptr.size(0) - 1", "const int64_t segments = ptr.item<int>()"),
    "another operator": ("device.cuh", "aten::sort", "aten::nonzero"),
    "a raw launch": ("cnms.cu", "  return {index, count};\n}", "  compact<<<1, 32>>>(s, n, rows, i, c);\n}"),
    "the default stream": ("fps.cu", "threads_per_block, scope.stream, view,", "threads_per_block, nullptr, view,"),
    "no guard": ("chamfer.cu", "  const Scope scope(x_in);", ""),
    "a late guard": (
        "segments.cu",
        "  const Scope scope(x_in);\n  const Tensor x = torch::stable::contiguous(x_in);",
        "  const Tensor x = torch::stable::contiguous(x_in);\n  const Scope scope(x_in);",
    ),
    "inputs without guard": ("neighbors.cu", "struct Inputs {\n  Scope scope;", "struct Inputs {\n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_faults_are_found(change):
    """Breaks if one of these faults, put into a source, is not seen."""
    name, old, new = CHANGES[change]
    assert old in SOURCES[name]
    changed = SOURCES[name].replace(old, new)
    assert forbidden_names(name, changed) + launch_faults(changed) + (scope_faults(changed) if name[-1] == "u" else [])
