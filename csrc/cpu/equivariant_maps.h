// The linear maps of an equivariant layer that depend on one index or none; see src/puffin/ops/equivariant_nodes.py.
#pragma once

#include <cstdint>
#include <vector>

namespace puffin {

enum Quantity : int64_t { Diagonal, Rows, Columns, Trace, Total };

// Adds factor * quantity * coefficients to a target, where factor = (n / nbar)^alpha / (nbar^by_nbar n^by_n).
struct EquivariantMap {
  int64_t target;    // u, v or w: 0, 1 or 2; -1: the map takes no part
  int64_t quantity;  // a Quantity
  int64_t exponent;  // column of alphas, or -1 for alpha = 0
  int64_t by_nbar, by_n;

  bool takes_part() const { return target >= 0; }
  bool of_nodes() const { return quantity < Trace; }
};

// All maps, and the sizes of a layer.
struct EquivariantMaps {
  std::vector<EquivariantMap> maps;
  int64_t in, out;     // channels
  int64_t quantities;  // of nodes: 1 (the diagonal) or 3
  int64_t targets;     // 1 (u) to 3
  bool any_of_nodes;   // if not, u has one row for each event

  int64_t inputs() const { return quantities * in; }
  int64_t outputs() const { return targets * out; }
};

// One event, or a whole batch.
template <class T>
struct NodeInputs {
  int64_t nodes;
  const T* quantities[3];   // (nodes, in) each: diagonal, row sums, column sums, before scale and shift
  const T *scale, *shift;   // (in)
  const T* weights;         // (nodes) or null
  const T* coefficients;    // (maps, in, out)
  const T* coefficients_t;  // (maps, out, in)
  const T* factors;         // (maps, in)
  const T* bias;            // (outputs)
};

// Sums over events of the gradients of what all events share, one after another in memory.
template <class T>
struct SharedGradients {
  T *coefficients, *factors_times_log, *scale, *shift, *bias;  // (maps, in, out), (maps, in), (in), (in), (outputs)

  static int64_t size(const EquivariantMaps& m) {
    return int64_t(m.maps.size()) * m.in * (m.out + 1) + 2 * m.in + m.outputs();
  }
  SharedGradients(T* p, const EquivariantMaps& m) {
    coefficients = p;
    factors_times_log = coefficients + int64_t(m.maps.size()) * m.in * m.out;
    scale = factors_times_log + int64_t(m.maps.size()) * m.in;
    shift = scale + m.in;
    bias = shift + m.in;
  }
};

}  // namespace puffin
