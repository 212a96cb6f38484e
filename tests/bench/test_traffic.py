"""The CUDA kernels read and write memory with neighbouring lanes on neighbouring words, as the emulator counts it."""

import pytest

from bench.traffic import count
from bench.traffic_cases import feature_cases, jet_cases, loss_cases, mix_cases, search_cases
from puffin.ops import library

# Sectors per request over the fewest possible; above this a kernel wastes a third of what the caches can move.
MOST = 1.5
# Sectors that a launch touches over the bytes that it must move: more than this is memory that nobody needs.
MOST_TOUCHED = 1.25

pytestmark = pytest.mark.skipif(
    not (library.EMULATED and library.loaded("CPU")), reason="counts the emulated kernels (make check-cuda)"
)


@pytest.mark.parametrize(
    "cases", [jet_cases, lambda: search_cases(1500), lambda: loss_cases(1500), lambda: feature_cases(150)]
)
def test_requests_are_coalesced_and_only_the_needed_memory_is_touched(cases):
    """Fails if lanes read rows of a table one by one, or a kernel reads more than its inputs; and if nothing ran."""
    for case in cases():
        kernels = count(case.run)
        assert set(kernels) == set(case.must)
        for name, traffic in kernels.items():
            assert 0 < traffic.in_global.fewest
            assert traffic.in_global.passes <= MOST * traffic.in_global.fewest, f"{case.name}, {name}: scattered"
            assert traffic.touched <= MOST_TOUCHED * case.must[name], f"{case.name}, {name}: too much memory"


def test_fused_products_are_coalesced_and_read_their_rows_once():
    """One jet. Fails if lanes read rows or matrices one by one, or write their sums apart; if the rows of a product are
    read for each piece of its channels; or if lanes wait for each other in shared memory."""
    for case in mix_cases(jets=1):
        kernels = count(case.run)
        assert set(kernels) == set(case.must)
        for name, traffic in kernels.items():
            if name in ("add_partial_sums", "merge_moments"):  # small, and bound by their latency
                continue
            assert traffic.in_global.passes <= MOST * traffic.in_global.fewest, f"{case.name}, {name}: scattered"
            assert traffic.in_shared.passes <= MOST * traffic.in_shared.fewest, f"{case.name}, {name}: bank conflicts"
            if name != "add_outer_products":  # which also writes partial sums
                assert traffic.touched <= MOST_TOUCHED * case.must[name], f"{case.name}, {name}: too much memory"
