// The events of a packed batch of pairs, and how threads share them. The layout of the pairs is described in
// src/puffin/ops/pairs.py.
#pragma once

#include "checks.h"
#include "parallel.h"

#include <vector>

namespace puffin {

// Positions of the events of a batch in packed features.
struct Events {
  const int64_t *node, *upper;  // (B + 1): first node and first pair i < j of each event
  int64_t count, nodes, uppers;
  std::vector<int64_t> groups;  // first event of each group, and the end

  Events(const Tensor& node_ptr, const Tensor& upper_ptr) {
    for (const Tensor& t : {node_ptr, upper_ptr})
      STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == node_ptr.size(0) && t.size(0) > 0 && t.is_contiguous() &&
                          t.scalar_type() == ScalarType::Long && t.is_cpu(),
                      "node_ptr, upper_ptr: expected contiguous (B + 1,) int64 on the CPU");
    node = node_ptr.const_data_ptr<int64_t>();
    upper = upper_ptr.const_data_ptr<int64_t>();
    count = node_ptr.size(0) - 1;
    STD_TORCH_CHECK(node[0] == 0 && upper[0] == 0, "node_ptr, upper_ptr: expected to start at 0");
    groups.push_back(0);
    for (int64_t b = 0; b < count; ++b) {
      const int64_t n = node[b + 1] - node[b];
      STD_TORCH_CHECK(n >= 0 && upper[b + 1] - upper[b] == n * (n - 1) / 2, "upper_ptr: does not fit node_ptr");
      if (upper[b + 1] - upper[groups.back()] + node[b + 1] - node[groups.back()] >= 1024 || b + 1 == count)
        groups.push_back(b + 1);
    }
    nodes = node[count];
    uppers = upper[count];
  }

  int64_t pairs() const { return nodes + 2 * uppers; }
  int64_t size(int64_t b) const { return node[b + 1] - node[b]; }
  int64_t num_groups() const { return int64_t(groups.size()) - 1; }
  int64_t first_node(int64_t g) const { return node[groups[g]]; }
  int64_t pairs_of(int64_t g) const {
    return first_node(g + 1) - first_node(g) + 2 * (upper[groups[g + 1]] - upper[groups[g]]);
  }

  // Calls fn(event) for every event; the threads share the groups.
  template <class F>
  void for_each(const F& fn) const {
    for_each_task(num_groups(), [&](int64_t g) {
      for (int64_t b = groups[g]; b < groups[g + 1]; ++b) fn(b);
    });
  }
};

// The three blocks of one event in a packed feature.
template <class P>
struct Blocks {
  P *diagonal = nullptr, *upper = nullptr, *lower = nullptr;
  Blocks() = default;
  Blocks(P* x, const Events& events, int64_t b, int64_t channels)
      : diagonal(x + events.node[b] * channels),
        upper(x + (events.nodes + events.upper[b]) * channels),
        lower(x + (events.nodes + events.uppers + events.upper[b]) * channels) {}
};

// The same of group g of events: their diagonal pairs follow each other, as do those above and below the diagonal.
// Without a feature (x is null) the blocks are null.
template <class P>
struct Group : Blocks<P> {
  const int64_t* first_node;  // (events + 1)
  int64_t events, nodes, uppers;

  Group(P* x, const Events& all, int64_t g, int64_t channels) {
    const int64_t first = all.groups[g], last = all.groups[g + 1];
    if (x) Blocks<P>::operator=(Blocks<P>(x, all, first, channels));
    first_node = all.node + first;
    events = last - first;
    nodes = all.node[last] - all.node[first];
    uppers = all.upper[last] - all.upper[first];
  }
};

// IRC-safe weights of the nodes, contiguous; type: that of features of nodes.
inline std::optional<Tensor> checked_weights(const std::optional<Tensor>& weights, const Events& events,
                                             ScalarType type) {
  if (weights) check_tensor(*weights, {events.nodes}, type, "weights");
  return contiguous(weights);
}

}  // namespace puffin
