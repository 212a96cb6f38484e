"""A device named `stub` that records what a GPU would have to wait for: PyTorch's privateuse1 backend, in Python.

A tensor of the device holds its numbers in a CPU tensor, so networks compute real results, forward and backward. Layers
see a device that is not the CPU, and take the same paths as on a GPU. `Recorder` intercepts every operation, and notes
those that make the host wait for a GPU: a value that Python reads, an output whose size depends on values, a copy to
the CPU, and a copy from it that does not say non_blocking. An operation on tensors of two devices raises.

The backend can be registered once in a process and changes global state, so the tests use it in a process of its own.
"""

import traceback
from pathlib import Path

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

SOURCES = Path(__file__).resolve().parents[2] / "src" / "puffin"
DEVICE = "stub:0"
aten = torch.ops.aten
# operations whose CUDA kernel reads a value or a size back
READS = {
    aten._local_scalar_dense,
    aten.bincount,
    aten.equal,
    aten.is_nonzero,
    aten.item,
    aten.masked_select,
    aten.nonzero,
    aten.unique_consecutive,
    aten.unique_dim,
    aten._unique,
    aten._unique2,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
COPIES = {aten._to_copy, aten.copy_, aten.copy}


class _Module(_DummyBackendModule):
    """What PyTorch asks of `torch.stub`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_library = torch.library.Library("aten", "IMPL")
_fallback = torch.library.Library("_", "IMPL")
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)


def _autocast(operation):
    def run(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            cast = lambda x: x.bfloat16() if x.dtype == torch.float32 else x  # noqa: E731
            return operation(*pytree.tree_map_only(torch.Tensor, cast, args), **kwargs)

    return run


def register() -> None:
    """Register the device; once in a process."""
    _setup_privateuseone_for_python_backend("stub", _Module())
    # new_tensor and torch.tensor copy Python numbers below the level of the Recorder
    _library.impl("empty_strided", _empty_strided, "PrivateUse1")
    _library.impl("_copy_from", _copy_from, "PrivateUse1")
    _fallback.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in ("linear", "matmul", "addmm"):  # of the operations that autocast computes in half precision
        _library.impl(name, _autocast(getattr(aten, name).default), "AutocastPrivateUse1")


def _empty_strided(size, stride, *, dtype=None, **_):
    if Recorder.active is not None:
        Recorder.active.note("makes a tensor of Python numbers")
    return StubTensor(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _copy_from(source, target, non_blocking=False):
    target.raw.copy_(source)
    return target


class StubTensor(torch.Tensor):
    """A tensor of the device; raw: its numbers, on the CPU."""

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> "StubTensor":
        out = torch.Tensor._make_wrapper_subclass(
            cls, raw.shape, raw.stride(), raw.storage_offset(), dtype=raw.dtype, device=DEVICE
        )
        out.raw = raw
        return out

    def __repr__(self, **_) -> str:
        return f"StubTensor({self.raw!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} on the stub device outside of a Recorder")


class Recorder(TorchDispatchMode):
    """Runs operations on the stub device, and lists in `waits` those that wait: "file.py:function: why"."""

    active: "Recorder | None" = None

    def __init__(self):
        super().__init__()
        Recorder.active = self
        self.waits: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_stub = any(isinstance(x, StubTensor) for x in tensors)
        to_stub = on_stub
        if kwargs.get("device") is not None:
            to_stub = torch.device(kwargs["device"]).type == "stub"
            kwargs["device"] = "cpu"
        self._check(function, args, kwargs, tensors, on_stub, to_stub)
        self.operations += on_stub or to_stub
        raw_args, raw_kwargs = pytree.tree_map_only(StubTensor, lambda x: x.raw, (args, kwargs))
        out = function(*raw_args, **raw_kwargs)
        if function.overloadpacket is aten._to_copy and on_stub != to_stub and out is raw_args[0]:
            out = out.clone()
        if not to_stub:
            return out
        return self._wrapped(function, out, args, kwargs)

    def _wrapped(self, function, out, args, kwargs):
        """Wrap the results; one that is an argument (in-place operations) is that argument's own wrapper."""
        own = {id(x.raw): x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, StubTensor)}
        wrap = lambda raw: own[id(raw)] if id(raw) in own else StubTensor(raw)  # noqa: E731
        if function.overloadpacket is aten.copy_ and not isinstance(args[0], StubTensor):
            return out
        return pytree.tree_map_only(torch.Tensor, wrap, out)

    def _check(self, function, args, kwargs, tensors, on_stub: bool, to_stub: bool) -> None:
        packet = function.overloadpacket
        if packet in COPIES:
            from_stub = isinstance(args[-1 if packet is not aten._to_copy else 0], StubTensor)
            if packet is not aten._to_copy:
                from_stub, to_stub = isinstance(args[1], StubTensor), isinstance(args[0], StubTensor)
            if from_stub and not to_stub:
                self.note("copies a tensor to the CPU")
            elif to_stub and not from_stub:
                blocking = not (kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2]))
                if blocking:
                    self.note("copies a tensor from the CPU without non_blocking=True")
            return
        if not on_stub:
            return
        if packet in READS:
            self.note(f"reads values: {packet.__name__}")
        if packet is aten.repeat_interleave and kwargs.get("output_size") is None:
            self.note("repeat_interleave without output_size")
        if packet in INDEXING:
            for index in (x for x in args[1] if isinstance(x, torch.Tensor)):
                if index.dtype in (torch.bool, torch.uint8):
                    self.note("indexes with a mask, whose number of entries is read")
                elif not isinstance(index, StubTensor):
                    self.note("indexes with a tensor on the CPU, which is copied")
                elif packet in (aten.index_put, aten.index_put_, aten._index_put_impl_) and args[2].dim() == 0:
                    self.note("assigns a Python number by index, which CUDA copies")
            return
        mixed = [x for x in tensors if not isinstance(x, StubTensor) and x.dim() > 0]
        if mixed:
            raise RuntimeError(f"{function}: expected all tensors to be on the same device, found stub:0 and cpu")

    def note(self, why: str) -> None:
        where = "?"
        for frame in traceback.extract_stack()[::-1]:
            if SOURCES in Path(frame.filename).parents:
                where = f"{Path(frame.filename).relative_to(SOURCES)}:{frame.name}"
                break
        self.waits.append(f"{where}: {why}")
