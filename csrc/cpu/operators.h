// Operators that other operators call; each is explained where it is defined.
#pragma once

#include "../common.h"

#include <tuple>
#include <vector>

namespace puffin {

// messages.cpp
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> pair_message(
    const Tensor x, const Tensor weight, const Tensor bias, double slope, const std::optional<Tensor> weights,
    const Tensor node_ptr, const Tensor upper_ptr, int64_t num_nodes);

// equivariant.cpp
std::tuple<std::vector<Tensor>, Tensor, Tensor, Tensor> equivariant_nodes(
    const std::vector<Tensor> quantities, const Tensor scale, const Tensor shift, const Tensor coefficients,
    const Tensor alphas, const Tensor bias, const std::optional<Tensor> diagonal_bias,
    const std::optional<Tensor> weights, const Tensor multiplicity, const Tensor node_ptr,
    const std::vector<int64_t> table, bool pairs, double nbar);

// pairs.cpp
Tensor pair_mix(const Tensor x, const Tensor even, const Tensor odd, const Tensor u, const Tensor v,
                const std::optional<Tensor> w, const Tensor node_ptr, const Tensor upper_ptr, double slope);

}  // namespace puffin
