"""Segment reductions against loops over segments, and their gradients."""

import pytest
import torch

from puffin.ops import library, segments
from tests.conftest import DEVICES, TOLERANCE, relative
from tests.ops.processor import with_threads

SIZES = [[3, 0, 5, 1], [1, 2, 1, 1, 40, 1, 1], [2000, 0, 0, 1500, 1], [0, 0], [1], []]


def rows_of(sizes, channels=5, dtype=torch.float64, device="cpu"):
    """Rows with many ties, and where each segment begins."""
    x = torch.randint(-3, 4, (sum(sizes), channels), device=device).to(dtype) / 2
    return x, torch.tensor([0, *torch.tensor(sizes, dtype=torch.long).cumsum(0).tolist()], device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 5, 16])
@pytest.mark.parametrize("sizes", SIZES)
def test_kernel_equals_oracle_and_loops(sizes, channels, dtype, device):
    """Empty segments, none at all, one that spans several tasks, non-contiguous rows, gradients shared by ties."""
    x, ptr = rows_of(sizes, channels, dtype, device)
    x = torch.cat([x, x], 1)[:, :channels].requires_grad_()  # rows with a stride
    parts = x.split(sizes) if sizes else ()

    def stack(rows):
        return torch.stack(rows) if rows else x.new_zeros(0, channels)

    empty = x.new_zeros(channels)
    cases = [
        (segments.segment_sum(x, ptr), [p.sum(0) for p in parts]),
        (segments.segment_extremum(x, ptr, True), [p.amax(0) if len(p) else empty for p in parts]),
        (segments.segment_extremum(x, ptr, False), [p.amin(0) if len(p) else empty for p in parts]),
    ]
    for got, want in cases:
        want = stack(want)
        direction = torch.randn_like(want)
        assert relative(got, want) < TOLERANCE[dtype]
        if len(x):
            a, b = (torch.autograd.grad((v * direction).sum(), x, retain_graph=True)[0] for v in (got, want))
            assert relative(a, b) < TOLERANCE[dtype]
    values = torch.randn(len(sizes), channels, dtype=dtype, device=device)
    spread = segments.segment_expand(values, ptr, len(x))
    assert torch.equal(spread, values.repeat_interleave(ptr.diff(), 0))
    for oracle, op, args in (
        (segments._sum_oracle, "segment_sum", (x.detach(), ptr)),
        (segments._expand_oracle, "segment_expand", (values, ptr, len(x))),
        (segments._extremum_oracle, "segment_extremum", (x.detach(), ptr, True)),
        (
            segments._extremum_backward_oracle,
            "segment_extremum_backward",
            (values, cases[1][0].detach(), x.detach(), ptr),
        ),
    ):
        assert relative(getattr(torch.ops.puffin, op)(*args), oracle(*args)) < TOLERANCE[dtype]


@pytest.mark.parametrize("device", DEVICES)
def test_rows_beyond_the_table_are_not_read(device):
    """CUDA kernels do not check ptr, because the host would wait: breaks when an end beyond the rows reads other
    memory."""
    if device == "cpu" and not library.EMULATED:
        pytest.skip("the CPU kernel refuses such pointers")
    x, ptr = torch.ones(20, 3, device=device)[:7], torch.tensor([-2, 3, 15], device=device)
    assert torch.ops.puffin.segment_sum(x, ptr).tolist() == [[3.0] * 3, [4.0] * 3]
    assert torch.ops.puffin.segment_extremum(x, ptr, True).tolist() == [[1.0] * 3] * 2


def test_nan_wins():
    """A NaN that an extremum drops would hide a broken network."""
    x = torch.tensor([[1.0, 2.0], [float("nan"), 3.0], [5.0, 1.0]])
    for largest, other in ((True, 3.0), (False, 1.0)):
        got = segments.segment_extremum(x, torch.tensor([0, 3]), largest)[0]
        assert got[0].isnan() and float(got[1]) == other


def test_gradcheck_and_opcheck():
    """Numerical derivatives, second ones of the linear pair too; schema, fake kernels, autograd registration."""
    x, ptr = torch.randn(9, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 4, 4, 9])
    events = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: segments.segment_sum(a, ptr), x)
    assert torch.autograd.gradgradcheck(lambda a: segments.segment_sum(a, ptr), x)
    assert torch.autograd.gradcheck(lambda a: segments.segment_expand(a, ptr, 9), events)
    assert torch.autograd.gradcheck(lambda a: segments.segment_extremum(a, ptr, True), x)
    ops = torch.ops.puffin
    torch.library.opcheck(ops.segment_sum.default, (x, ptr))
    torch.library.opcheck(ops.segment_expand.default, (events, ptr, 9))
    torch.library.opcheck(ops.segment_extremum.default, (x, ptr, False))


def test_compile_without_graph_breaks():
    """A function of the operators compiles whole and gives the same numbers."""
    x, ptr = rows_of([3, 4])

    def function(x):
        best = segments.segment_extremum(x * 2, ptr, True)
        return segments.segment_expand(best + segments.segment_sum(x, ptr), ptr, 7)

    assert torch.equal(torch.compile(function, fullgraph=True, backend="aot_eager")(x), function(x))


def test_half_precision_is_added_up_in_float32():
    """4096 ones are 4096, where bfloat16 would stop at 256."""
    x = torch.ones(4096, 1, dtype=torch.bfloat16)
    assert float(segments.segment_sum(x, torch.tensor([0, 4096]))) == 4096


def test_result_does_not_depend_on_threads():
    """Bit for bit with 1 and 3 threads."""
    ptr = torch.tensor([0, 3000, 3001, 7000, 9000])
    x = torch.randn(9000, 7)
    assert torch.equal(*with_threads((1, 3), lambda: segments.segment_sum(x, ptr)))


def test_bad_input_is_refused():
    """Clear errors from the face; the kernels do not read beyond the end when called directly."""
    x, ptr = rows_of([3, 4])
    with pytest.raises(ValueError, match="x: expected .M, C. floating point"):
        segments.segment_sum(x.long(), ptr)
    with pytest.raises(ValueError, match="ptr: expected .S . 1,. int64"):
        segments.segment_sum(x, ptr.int())
    with pytest.raises(ValueError, match="one row for each segment"):
        segments.segment_expand(x, ptr, 7)
    if library.loaded():
        for bad in (torch.tensor([0, 3, 8]), torch.tensor([0, 5, 3, 7]), torch.tensor([1, 7])):
            with pytest.raises(RuntimeError, match="ptr: expected"):
                torch.ops.puffin.segment_sum(x, bad)
