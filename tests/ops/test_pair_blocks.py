"""All blocks in one operator against one operator after the other."""

import pytest
import torch
from torch.utils._pytree import tree_map_only

from puffin.models.pelican import Net2to2, PelicanClassifier
from puffin.ops import library
from tests.conftest import TOLERANCE, relative
from tests.models.test_pelican import jets, small
from tests.ops.processor import with_threads
from tests.ops.samples import samples

# single nodes, empty events, several groups of events
SIZES = {"some": (7, 0, 4), "groups": (40, 0, 33, 6, 1, 50), "one": (1,), "empty": (0, 0), "none": ()}
needs_kernels = pytest.mark.skipif(not library.loaded() or library.EMULATED, reason="kernels not built")


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernel_equals_oracle(dtype, sizes):
    """Breaks if an event reads another one, a block of a table is copied to a wrong place, or a layer is left out."""
    args = samples(dtype, SIZES[sizes])["pair_blocks"]
    got, want = torch.ops.puffin.pair_blocks(*args), library.oracle_of("pair_blocks")(*args)
    assert got.shape == want.shape and relative(got, want) < 10 * TOLERANCE[dtype]


def trained(**changes) -> PelicanClassifier:
    """A network whose batch statistics are not those of the start."""
    model = PelicanClassifier(small(**changes))
    model(jets([5, 9, 3], seed=3).to(torch.device("cpu"), torch.float32))
    return model.eval()


CONFIGS = {
    "letters": {"config": "sM"},
    "not factorised": {"factorize": False, "config": "m"},
    "IRC-safe": {"irc_safe": True, "stabilizer": "so13", "config": "s", "config_out": "s", "num_channels_scalar": 0},
    "no activation": {"activate_lin": False},
    "maxima": {"config": "x"},
    "another activation": {"activation": "gelu"},
    "deep messages": {"num_channels_m": ((8, 6), (8, 6))},
    "another norm": {"batchnorm": "layer"},
}


@needs_kernels
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_inference_gives_the_same_bits(changes, half, monkeypatch):
    """Of a network, for layers that the operator has and for others. Breaks if the operator is used where it computes
    something else, or a layer's own numbers are mixed up."""
    model, batch = trained(**changes), jets([20, 1, 31, 6]).to(torch.device("cpu"), torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        at_once = model(batch)
        monkeypatch.setattr(Net2to2, "_can_be_one_operator", False)
        assert torch.equal(at_once, model(batch))


@needs_kernels
def test_only_inference_uses_it(monkeypatch):
    """The operator has no derivative. Breaks if a training step, or an explanation in eval mode, uses it."""
    calls = []
    monkeypatch.setattr("puffin.layers.packed_pairs.pair_blocks", lambda x, *_: calls.append(1) or x[:, :7])
    model, batch = trained(), jets([5, 4]).to(torch.device("cpu"), torch.float32)
    model(batch).sum().backward()
    with torch.no_grad():
        model.train()(batch)
    assert not calls
    with torch.no_grad():
        model.eval()(batch)
    assert calls == [1]


@needs_kernels
def test_result_does_not_depend_on_threads():
    """Bit for bit with 1 and 3 threads."""
    args = samples(torch.float32, (40, 1, 60, 25, 70))["pair_blocks"]
    assert torch.equal(*with_threads((1, 3), lambda: torch.ops.puffin.pair_blocks(*args)))


@needs_kernels
def test_wrong_shapes_raise():
    """From any thread; the kernel would read beyond the end."""
    good = list(samples(torch.float32, (40, 30, 50))["pair_blocks"])
    bad = {0: good[0][:-1], 1: good[1][:1], 3: [good[3][0], good[3][1][:2]], 5: good[5][::-1][:1], 10: good[10][:2]}
    for position, value in bad.items():
        with pytest.raises(RuntimeError):
            torch.ops.puffin.pair_blocks(*good[:position], value, *good[position + 1 :])


@needs_kernels
@pytest.mark.parametrize("threads", [1, 3])
def test_errors_in_threads_keep_their_text(threads):
    """The numbers of a block are checked in the threads. Breaks if the error says only that some thread failed."""
    good = list(samples(torch.float32, (40, 30, 50))["pair_blocks"])
    good[3] = [good[3][0], good[3][1][:2]]

    def run():
        with pytest.raises(RuntimeError, match=r"scale: expected sizes \(\d\)"):
            torch.ops.puffin.pair_blocks(*good)

    with_threads((threads,), run)


@needs_kernels
def test_half_tables():
    """A table of bfloat16 gives what the operators give with it, and float32 numbers stay float32."""
    args = samples(torch.float32, (12, 5))["pair_blocks"]
    got = torch.ops.puffin.pair_blocks(args[0].bfloat16(), *args[1:])
    wide = tree_map_only(torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, args[1:])
    want = library.oracle_of("pair_blocks")(args[0].bfloat16().double(), *wide)
    assert got.dtype == torch.bfloat16
    assert relative(got.double(), want) < 4 * TOLERANCE[torch.bfloat16]
