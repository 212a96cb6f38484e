"""Attention within events against softmax written out, its gradients, and its dropout."""

import pytest
import torch

from puffin.ops import attention, library
from puffin.ops.attention import segment_attention
from tests.conftest import TOLERANCE, relative
from tests.ops.processor import check_instruction_set, with_threads

# 48 queries and 64 keys are a tile
LENGTHS = {"some": [4, 0, 1, 7], "tiles": [130, 1, 48, 64, 0, 49], "one": [1], "empty": [0, 0], "none": []}
SHAPES = [(64, 2), (5, 3), (1, 1), (33, 2)]  # numbers of a head, heads
SEED = torch.tensor(-(2**40) - 3)
needs_kernels = pytest.mark.skipif(not library.has_cpu_kernel(SEED), reason="CPU kernels not built")


def sample(lengths, size, heads, dtype=torch.float64):
    """qkv, and where each event begins."""
    qkv = torch.randn(sum(lengths), 3 * heads * size, dtype=torch.float64) * 1.5
    return qkv.to(dtype), torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0)])


def literal(qkv, ptr, heads, factors=lambda event: 1.0):
    """Write softmax out, event by event and head by head; factors(event): what multiplies the weights."""
    out = []
    for event, tokens in enumerate(qkv.split(ptr.diff().tolist())):
        q, k, v = tokens.unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
        weights = (q @ k.transpose(1, 2) / q.shape[2] ** 0.5).softmax(2) * factors(event)
        out.append((weights @ v).transpose(0, 1).flatten(1))
    return torch.cat(out) if out else qkv[:, : qkv.shape[1] // 3]


def both(function, qkv, direction):
    """The result, and the gradient of its product with a direction."""
    qkv = qkv.detach().requires_grad_()
    out = function(qkv)
    return out, torch.autograd.grad((out * direction.to(out)).sum(), qkv)[0]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size, heads", SHAPES)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_values_and_gradients(lengths, size, heads, dtype, dropout):
    """Tiles that are not full, events that span several, empty ones, padded heads, with and without dropout, against
    float64 autograd. Breaks if padding has weight, or forward and backward pass drop different weights."""
    qkv, ptr = sample(LENGTHS[lengths], size, heads, dtype)
    direction = torch.randn(len(qkv), heads * size, dtype=torch.float64).to(dtype)
    got = both(lambda x: torch.ops.puffin.segment_attention(x, ptr, SEED, heads, dropout)[0], qkv, direction)
    want = both(
        lambda x: literal(x, ptr, heads, lambda e: attention.dropout_factors(ptr, e, SEED, heads, dropout)),
        qkv.double(),
        direction.double(),
    )
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype and relative(a.double(), b) < TOLERANCE[dtype]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_oracle_equals_kernel(dropout):
    """All outputs of both operators, on events of all sizes."""
    qkv, ptr = sample(LENGTHS["tiles"], 5, 3)
    where = (ptr, SEED, 3, dropout)
    out = torch.ops.puffin.segment_attention(qkv, *where)
    grad = torch.randn_like(out[0])
    args = (grad, qkv, *out, *where)
    results = [*out, torch.ops.puffin.segment_attention_backward(*args)]
    oracles = [*attention._oracle(qkv, *where), attention._backward_oracle(*args)]
    assert all(relative(a, b) < TOLERANCE[torch.float64] for a, b in zip(results, oracles, strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradcheck(dropout):
    """Numerical derivatives in float64."""
    qkv, ptr = sample([3, 0, 1, 4], 3, 2)
    qkv.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: torch.ops.puffin.segment_attention(x, ptr, SEED, 2, dropout)[0], (qkv,))


def test_events_do_not_see_each_other():
    """NaN and infinity in one event, or another event before and after: the same bits. Breaks if a tile takes
    rows of a neighbour, or multiplies its numbers by 0."""
    qkv, ptr = sample([50, 65, 3], 5, 2, torch.float32)
    alone = both(lambda x: segment_attention(x, torch.tensor([0, 65]), 2), qkv[50:115], torch.ones(65, 10))
    dirty = qkv.clone()
    dirty[:50], dirty[115:] = torch.nan, torch.inf
    out, grad = both(lambda x: segment_attention(x, ptr, 2), dirty, torch.ones(118, 10))
    assert out[:50].isnan().all() and out[115:].isnan().all()
    assert torch.equal(out[50:115], alone[0]) and torch.equal(grad[50:115], alone[1])


def test_large_scores():
    """Scores of thousands, of which a softmax without its maximum would overflow; the largest comes last."""
    qkv, ptr = sample([100], 4, 1, torch.float32)
    qkv[:, :8] *= 60
    qkv[99, 4:8] *= 5
    out, grad = both(lambda x: segment_attention(x, ptr, 1), qkv, torch.ones(100, 4))
    want, want_grad = both(lambda x: literal(x, ptr, 1), qkv.double(), torch.ones(100, 4))
    assert relative(out.double(), want) < 1e-3 and relative(grad.double(), want_grad) < 1e-2


def remaining(n, seed, heads=2, dropout=0.25, offset=0):
    """Which weights remain for n tokens after `offset` others, from outputs with values of one key at a time."""
    qkv = torch.zeros(offset + n, 3, heads, n)
    qkv[offset:, 2] = torch.eye(n)[:, None]  # equal scores; the value of each key is a unit vector
    where = (torch.tensor([0, offset, offset + n]), torch.tensor(seed), heads, dropout)
    out = torch.ops.puffin.segment_attention(qkv.flatten(1), *where)[0][offset:]
    return out.view(n, heads, n).transpose(0, 1) * n * (1 - dropout)  # (heads, queries, keys)


def test_dropout_statistics():
    """Fractions in each head, query and key; no correlation of neighbours, heads, tokens or seeds: within 5 sigma."""
    n, p = 200, 0.25
    masks = torch.stack([remaining(n, seed) for seed in (0, 1, 2**32, -1)])
    torch.testing.assert_close(masks, masks.round())
    x = masks - (1 - p)
    sigma = (p * (1 - p)) ** 0.5

    def check(mean, number, what):
        assert float(mean.abs().max()) < 5 * what / number**0.5

    check(x.mean(), x.numel(), sigma)
    check(x.mean((2, 3)), n * n, sigma)
    check(x.mean(3), n, sigma)
    check(x.mean(2), n, sigma)
    for a, b in (
        (x[..., 1:], x[..., :-1]),
        (x[..., 1:, :], x[..., :-1, :]),
        (x[..., 1:, 1:], x[..., :-1, :-1]),
        (x, x.transpose(2, 3).triu(1)),
        (x[:, :1], x[:, 1:]),
        (x[:1], x[1:2]),
        (x[:1], x[2:3]),
        (x[:1], x[3:]),
    ):
        product = a * b
        check(product.mean(), product.numel(), sigma**2)


def test_dropout_depends_on_seed_and_token():
    """The mask of a token is its own: equal seeds give equal masks, others and later tokens do not."""
    mask = remaining(20, 5)
    assert torch.equal(mask, remaining(20, 5))
    assert not torch.equal(mask, remaining(20, 6)) and not torch.equal(mask, remaining(20, 5, offset=1))


def test_dropout_follows_the_generator():
    """The face draws a seed for each call, so that a resumed run drops the same weights."""
    qkv, ptr = sample([9], 2, 2)
    state = torch.get_rng_state()
    first, second = (segment_attention(qkv, ptr, 2, 0.5) for _ in range(2))
    torch.set_rng_state(state)
    assert torch.equal(first, segment_attention(qkv, ptr, 2, 0.5)) and not torch.equal(first, second)
    state = torch.get_rng_state()
    assert torch.equal(segment_attention(qkv, ptr, 2), segment_attention(qkv, ptr, 2))
    assert torch.equal(state, torch.get_rng_state())


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_result_does_not_depend_on_threads(dtype):
    """Bit for bit with 1 and 3 threads."""
    qkv, ptr = sample([60, 0, 130, 25, 70], 12, 3, dtype)
    direction = torch.ones(len(qkv), 36)

    def attend(x):
        return torch.ops.puffin.segment_attention(x, ptr, SEED, 3, 0.2)[0]

    results = with_threads((1, 3), lambda: both(attend, qkv, direction))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_kernels
@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_lower_instruction_sets_agree(level):
    """The tests of values above, with the code for machines that lack the instructions of this one."""
    check_instruction_set(level, [__file__], "values or oracle or see or large or statistics")


def test_bad_arguments_raise():
    """The face names the argument."""
    qkv, ptr = sample([3, 2], 2, 2)
    for args, name in (
        ((qkv[0], ptr, 2), "qkv"),
        ((qkv, ptr, 5), "qkv"),
        ((qkv.long(), ptr, 2), "qkv"),
        ((qkv, ptr.int(), 2), "ptr"),
        ((qkv, ptr[:0], 2), "ptr"),
        ((qkv, ptr.to("meta"), 2), "ptr"),
        ((qkv, ptr, 2, 1.0), "dropout"),
        ((qkv, ptr, 2, -0.1), "dropout"),
    ):
        with pytest.raises(ValueError, match=name):
            segment_attention(*args)


@needs_kernels
def test_wrong_shapes_raise():
    """A kernel would read beyond the end."""
    qkv, ptr = sample([3, 2], 2, 2)
    where = (ptr, SEED, 2, 0.5)
    out, lse = torch.ops.puffin.segment_attention(qkv, *where)
    good = (out, qkv, out, lse, *where)
    bad = {
        0: (out[1:], out.float(), out[:, 1:]),
        1: (qkv[1:], qkv[:, 1:], qkv.half(), qkv[:, :0]),
        2: (out[1:], out.float(), out[:, 1:]),
        3: (lse[1:], lse.float(), lse[:, 1:]),
        4: (ptr[1:], ptr[:-1], ptr.int(), torch.tensor([0, 6, 5])),
        5: (None, SEED.int(), torch.stack([SEED, SEED])),
        6: (0, -1, 5),
        7: (1.0, -0.1),
    }
    for position, values in bad.items():
        for value in values:
            with pytest.raises(RuntimeError):
                torch.ops.puffin.segment_attention_backward(*good[:position], value, *good[position + 1 :])
            if position in (1, 4, 5, 6, 7):
                args = (*good[1:position], value, *good[position + 1 :])
                args = args if position == 1 else (qkv, *args[3:])
                with pytest.raises(RuntimeError):
                    torch.ops.puffin.segment_attention(*args)
