"""The roofline of the kernels, on a batch of two small jets."""

import re

import torch

from bench import roofline
from puffin.ops.pair_index import PairIndex


def test_every_operator_has_a_row(tmp_path):
    """Breaks if an operator refuses its arguments, in float32 or in bfloat16, or a share of the floor is no number."""
    out = tmp_path / "roofline.txt"
    roofline.main(f"--jets 2 --nobj 5 --message 6 --mixed 4 --repeat 1 --out {out}".split())
    rows = [line for line in out.read_text().splitlines() if re.match("float32|bfloat16", line)]
    assert len(rows) == 8 and all(re.search(r"\d%$", row) for row in rows)


def test_operations_and_bytes():
    """A message of 2 channels from 3: one product of 2 x 3 for each of 9 pairs, and both tables and three sums."""
    case = roofline.cases(PairIndex(torch.tensor([3]), torch.device("cpu")), 2, 3, torch.float32)[0]
    assert case.operations == 2 * 9 * 2 * 3
    assert case.size == 4 * (9 * 3 + 9 * 2 + 3 * 3 * 2)
