"""Soft-drop multiplicity of the Lorentz-invariant Cambridge/Aachen tree.

Source: Frye, Larkoski, Thaler, Zhou, arXiv 1704.06266 (iterated soft drop); invariant angles as in arXiv 2307.16506.
"""

import torch
from torch import Tensor

from puffin.ops.pair_index import PairIndex

Z_CUT, BETA, R0, EPS = 0.005, -1.0, 0.8, 1e-12


@torch.no_grad()
def soft_drop_multiplicity(dots: Tensor, pairs: PairIndex) -> Tensor:
    """Count the declusterings along the hardest branch with z > 0.005 (theta / 0.8)^-1: (B,) in the dtype of `dots`.

    dots (P, 1): p_i . p_j.  theta_ij^2 = 2 d_ij / (eps + |e_i e_j| / M^2) with e_i = sum_j d_ij: d and e add up when
    two branches merge, so the tree needs no momenta.  All events are clustered together, one merge of each per step.
    The count is at least 1.
    """
    num_events, longest = len(pairs.lengths), int(pairs.lengths.max()) if len(pairs.lengths) else 0
    d = dots.new_zeros(num_events, longest, longest)
    within = torch.arange(pairs.num_nodes, device=dots.device) - pairs.node_ptr[pairs.event_of_node]
    d[pairs.event_of_pair, within[pairs.row], within[pairs.column]] = dots[:, 0]
    alive = torch.arange(longest, device=dots.device) < pairs.counts[:, None]
    energy = d.sum(2)
    mass2 = energy.sum(1).abs().clamp_min(torch.finfo(d.dtype).tiny)
    passed = d.new_zeros(num_events, longest)
    events = torch.arange(num_events, device=dots.device)
    upper = torch.ones(longest, longest, dtype=torch.bool, device=dots.device).triu(1)
    for _ in range(longest - 1):
        scale = (energy[:, :, None] * energy[:, None, :]).abs() / mass2[:, None, None]
        theta2 = 2 * d / (EPS + scale)
        theta2.masked_fill_(~(alive[:, :, None] & alive[:, None, :] & upper), torch.inf)
        nearest, where = theta2.flatten(1).min(1)
        merges = torch.isfinite(nearest)
        a, b = where // longest, where % longest
        e_a, e_b = energy[events, a], energy[events, b]
        z = torch.minimum(e_a, e_b) / (e_a + e_b)
        passes = z * (nearest.clamp_min(0).sqrt() / R0) > Z_CUT  # z > z_cut (theta / R0)^beta with beta = -1
        count = torch.where(e_a >= e_b, passed[events, a], passed[events, b]) + passes
        # branch b joins branch a; events without a pair add 0, as choosing the others would wait for a GPU
        d[events, a] += torch.where(merges[:, None], d[events, b], 0)
        d[events, :, a] += torch.where(merges[:, None], d[events, :, b], 0)
        energy[events, a] += torch.where(merges, energy[events, b], 0)
        passed[events, a] = torch.where(merges, count.to(d.dtype), passed[events, a])
        alive[events, b] = alive[events, b] & ~merges
    return passed[:, 0].clamp_min(1) if longest else d.new_ones(num_events)
