"""The emulator of CUDA (csrc/emulate) itself: it refuses wrong kernels, and gives the results of correct ones.

Each test fails if its check is taken out of the emulator: the wrong kernel then ends with status 0, or never.
"""

import re

import pytest

SEEDS = ["0", "1", "2", "3", "4"]

# case -> kernel, block and thread, and what is wrong (regular expressions)
WRONG = {
    "diverge": (
        "diverge, block [01], thread [0-9]+",
        r"__shfl_sync at wrong.cu:\d+ waits for lane \d+, which is in __shfl_sync at wrong.cu:\d+",
    ),
    "leave_early": ("leave_early, block 0, thread [0-9]+", "__ballot_sync at .* waits for lane 5, which has returned"),
    "short_warp": ("short_warp, block 0, thread [0-9]+", "__any_sync at .* waits for lane 8, which does not exist"),
    "other_masks": (
        "other_masks, block 0, thread [0-3]",
        "__syncwarp at .* waits for lane [0-3], which has another mask",
    ),
    "read_outside_mask": (
        "read_outside_mask, block 0, thread 12",
        "__shfl_down_sync at .*: reads lane 16, which is not in the mask",
    ),
    "read_inactive": (
        "read_inactive, block 0, thread [0-9]+",
        "__shfl_sync at .* waits for lane 16, which has returned",
    ),
    "not_in_mask": (
        "not_in_mask, block 0, thread (0|1[6-9]|2.|3.)",
        "__shfl_sync at .*: the calling lane is not in the mask",
    ),
    "odd_width": (
        "odd_width, block 0, thread [0-9]+",
        "__shfl_xor_sync at .*: the width is not a power of two up to 32",
    ),
    "zero_width": ("zero_width, block 0, thread [0-9]+", "__shfl_sync at .*: the width is not a power of two up to 32"),
    "some_arrive": (
        "some_arrive, block [0-2], thread 70",
        r"has returned, but thread \d+ waits for it at the barrier at wrong.cu:\d+",
    ),
    "warp_at_barrier": (
        "warp_at_barrier, block 0, thread [0-9]+",
        "__syncwarp at .* waits for lane [0-9]+, which waits at the barrier at",
    ),
    "two_barriers": (
        "two_barriers, block 0, thread [0-9]+",
        r"waits at the barrier at wrong.cu:\d+, but thread \d+ waits at that at wrong.cu:\d+",
    ),
    "wait_for": ("wait_for, block 0, thread [0-9]+", "waits for something that no resident block does"),
    "write_beyond": (
        "write_beyond, block [01], thread 3",
        "shared memory out of bounds: byte 32 of small, which has 32",
    ),
    "write_before": ("write_beyond, block [01], thread 3", "shared memory out of bounds"),
    "write_far_beyond": (
        "write_beyond, block [01], thread 3",
        "shared memory out of bounds: byte .* of other, which has 32",
    ),
    "read_unwritten": (
        "read_unwritten, block 0, thread 31",
        "reads shared part, which no thread of the block has written",
    ),
    "read_of_last_block": (
        "read_of_last_block, block [1-8], thread 0",
        "reads shared kept, which no thread of the block has written",
    ),
    "fill_49_kb": ("fill_49_kb, block 0, thread [0-9]+", "more than 48 KB of shared memory"),
    "no_blocks": ("nothing", "a launch of 0 blocks of 32 threads is not possible"),
    "no_threads": ("nothing", "a launch of 1 blocks of 0 threads is not possible"),
    "many_threads": ("nothing", "a launch of 1 blocks of 1025 threads is not possible"),
}

# case -> kernel and what the race is on; None: no race, because something orders the accesses
RACES = {
    "shared": ("read_neighbour<false>", "a word of shared part"),
    "shared_ordered": None,
    "read_then_write": ("read_then_write<false>", "writes a word of shared sum that .* has read"),
    "read_then_write_ordered": None,
    "warp_of_half": ("read_neighbour_in_warp<0xffffu>", "a word of global memory"),
    "warp_ordered": None,
    "shuffle": ("shuffle_orders_nothing", "a word of global memory"),
    "blocks": ("write_same", "writes a word of global memory that block [01], thread 0 has written"),
    "plain_count": ("count_plainly", "a word of global memory"),
    "atomic_count": None,
    "atomic_and_plain": ("count_and_read", "a word of global memory"),
    "flag": ("wait_for_flag", "reads a word of global memory that block 0, thread 0 has written"),
    "own_words": None,
    "beside": None,
    "overlapping": ("overlapping", "a word of global memory"),
    "two_launches": None,
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", WRONG)
def test_wrong_kernel_is_refused(run_case, case, seed):
    """In every order of the threads, with the kernel, the block and the thread."""
    status, output = run_case(case, PUFFIN_EMULATE_SEED=seed)
    where, what = WRONG[case]
    assert status == 3 and re.match(f"{where}: {what}", output), output


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", RACES)
def test_races(run_case, case, seed):
    """A race is found in every order of the threads; its twin with a barrier is not one."""
    status, output = run_case(case, PUFFIN_EMULATE_SEED=seed)
    if RACES[case] is None:
        assert status == 0, output
    else:
        kernel, what = RACES[case]
        pattern = rf"{kernel}, block \d+, thread \d+: race: .*{what}.* without a barrier in between \(addr2line"
        assert status == 3 and re.match(pattern, output), output


def numbers(run_case, case: str, **environment) -> list[int]:
    """The numbers that a case prints."""
    status, output = run_case(case, **environment)
    assert status == 0, output
    return list(map(int, output.split()))


def shuffled(width: int) -> list[int]:
    """What the kernel `shuffle` reads: the lane modulo the width; beyond the ends of a group, a lane reads itself."""
    groups = [(t, t - t % width) for t in range(32)]
    rows = [
        [first + 3 % width for _, first in groups],
        [first + (t + 5) % width for t, first in groups],
        [t - 3 if t - 3 >= first else t for t, first in groups],
        [t + 3 if t + 3 < first + width else t for t, first in groups],
        [t ^ 5 if t ^ 5 < first + width else t for t, first in groups],  # lower groups are allowed
    ]
    return sum(rows, [])


def voted() -> list[int]:
    """What the kernel `vote` finds: even lanes and odd lanes vote apart, then all together."""
    odd = [t % 2 for t in range(32)]
    rows = [[0b10101010 if o else 0b01010101 for o in odd], odd, odd, [11] * 32, [8] * 32]
    return sum(rows, [])


EXPECTED = {
    **{f"shuffle_{width}": shuffled(width) for width in (1, 2, 4, 8, 16, 32)},
    "shuffle_wide": [((31 - t) << 40) + 1 for t in range(32)] + [2 * min(t + 1, 31) + 1 for t in range(32)],
    "vote": voted(),
    "vote_in_last_warp": [32] * 32 + [8] * 8,
    "sum": [500500] * 9,
    "sum_after_an_error": [20, 500500],
    "wait_for_earlier": list(range(20)),
    "built_in": [5000 + i for i in range(165)],
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", EXPECTED)
def test_correct_kernel(run_case, case, seed):
    """The results are those of CUDA's programming guide, in every order of the threads."""
    assert numbers(run_case, case, PUFFIN_EMULATE_SEED=seed) == EXPECTED[case]


def test_atomics_give_every_ticket_once(run_case):
    """350 threads add 1 to a counter that starts at 5."""
    counter, *tickets = numbers(run_case, "add")
    assert counter == 355 and sorted(tickets) == list(range(5, 355))


def test_blocks_that_wait_for_each_other(run_case):
    """Three blocks that meet need to be resident together; one that waits for an earlier ticket needs no other."""
    for resident in ("1", "2"):
        status, output = run_case("meet", PUFFIN_EMULATE_RESIDENT=resident)
        assert status == 3 and re.match("meet, block [0-2], thread 0: waits for something that no", output), output
    assert run_case("meet", PUFFIN_EMULATE_RESIDENT="3") == (0, "")
    assert numbers(run_case, "wait_for_earlier", PUFFIN_EMULATE_RESIDENT="1") == list(range(20))


def test_order_depends_on_the_seed(run_case):
    """The same seed repeats the order of the threads; each other seed changes the order of blocks, warps and lanes."""
    orders = [numbers(run_case, "order", PUFFIN_EMULATE_SEED=seed) for seed in SEEDS]
    assert orders[0] == numbers(run_case, "order", PUFFIN_EMULATE_SEED="0") == numbers(run_case, "order")
    assert len(set(map(tuple, orders))) == len(SEEDS)
    assert len({min(range(256), key=order.__getitem__) // 64 for order in orders}) > 1  # the first block
    assert all(order[:32] != sorted(order[:32]) for order in orders)  # the lanes of a warp
