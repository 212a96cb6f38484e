"""The traffic that the emulator counts (csrc/emulate/traffic.cpp), for kernels whose traffic is known."""

import pytest

# case -> sectors that the launch reads and writes; for each access (shared, write): requests, passes, fewest passes.
# Two blocks of one warp read the same words, and write different ones.
KNOWN = {
    "traffic_of_neighbours": (4, 8, {(0, 0): (2, 8, 8), (0, 1): (2, 8, 8)}),
    "traffic_of_pairs": (8, 8, {(0, 0): (2, 16, 8), (0, 1): (2, 8, 8)}),
    "traffic_of_columns": (32, 8, {(0, 0): (2, 64, 8), (0, 1): (2, 8, 8)}),
    "traffic_unaligned": (5, 8, {(0, 0): (2, 10, 8), (0, 1): (2, 8, 8)}),
    "traffic_of_loops": (12, 8, {(0, 0): (6, 24, 24), (0, 1): (2, 8, 8)}),
    "traffic_of_one_word": (1, 8, {(0, 0): (2, 2, 2), (0, 1): (2, 8, 8)}),
    "traffic_shared": (0, 8, {(1, 1): (2, 2, 2), (1, 0): (2, 2, 2), (0, 1): (2, 8, 8)}),
    "traffic_in_one_bank": (0, 8, {(1, 1): (2, 64, 2), (1, 0): (2, 64, 2), (0, 1): (2, 8, 8)}),
}


@pytest.mark.parametrize("case", KNOWN)
def test_counted_traffic_is_that_of_the_kernel(run_case, case):
    """Fails if accesses of different lanes, loops or warps are put into one request, or one request is split."""
    status, output = run_case(case)
    assert status == 0, output
    lines = [line.split("\t") for line in output.splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    read, written, accesses = KNOWN[case]
    counted: dict[tuple[int, int], list[int]] = {}
    for row in rows:
        assert (int(row["launches"]), int(row["sectors_read"]), int(row["sectors_written"])) == (1, read, written)
        sums = counted.setdefault((int(row["shared"]), int(row["write"])), [0, 0, 0])
        for i, name in enumerate(("requests", "passes", "fewest")):
            sums[i] += int(row[name])
    assert {key: tuple(sums) for key, sums in counted.items()} == accesses
