// The nodes of pairs that are processed tile by tile, in the namespace of the instruction set that includes this file.
// The pairs i < j of a group of events follow each other, row by row: they are runs of pairs with the same i.
#include "gemm_tile.h"

constexpr int64_t message_tile = 48;  // rows at a time: a multiple of every micro-kernel's rows

// The next pairs i < j of a group. first_node (events + 1): first node of each event; nodes are numbered from the
// group's first.
class Runs {
 public:
  Runs(const int64_t* first_node, int64_t events) : first_node_(first_node), events_(events) { start_event(); }

  // Calls use(r, i, j, count) for the runs of the next `rows` pairs: pairs r..r + count - 1 are (i, j), (i, j + 1), ...
  template <class Use>
  inline void next(int64_t rows, const Use& use) {
    for (int64_t r = 0; r < rows;) {
      while (j_ == end_) {
        j_ = ++i_ + 1;
        if (i_ >= end_) {
          ++event_;
          start_event();
        }
      }
      const int64_t count = std::min(rows - r, end_ - j_);
      use(r, i_, j_, count);
      r += count;
      j_ += count;
    }
  }

 private:
  // Begins with pair (first, first + 1) of the current event, or of the next that has a node.
  inline void start_event() {
    while (event_ < events_ && first_node_[event_ + 1] == first_node_[event_]) ++event_;
    if (event_ == events_) return;
    i_ = first_node_[event_] - first_node_[0];
    end_ = first_node_[event_ + 1] - first_node_[0];
    j_ = i_ + 1;
  }

  const int64_t* first_node_;
  int64_t events_, event_ = 0, i_ = 0, j_ = 0, end_ = 0;
};

// Sums of a pair feature for each node of a group, (nodes, columns) each.
template <class T>
struct NodeSums {
  T *diagonal, *rows, *columns;
};

// Sets the sums of the nodes from `first` on to the diagonal pairs of a tile; weights (nodes) or null.
template <class E, class T = Sum<E>>
static inline void start_sums(const E* tile, int64_t first, int64_t n, const T* weights, int64_t columns,
                              const NodeSums<T>& sums) {
  using S = Simd<T>;
  for (int64_t r = 0; r < n; ++r)
    for (int64_t s = 0; s < columns; s += S::lanes) {
      const int64_t at = (first + r) * columns + s, left = columns - s;
      const typename S::V value = read(tile + r * columns + s, left);
      const typename S::V own = weights ? value * S::splat(weights[first + r]) : value;
      S::store_first(sums.diagonal + at, value, left);
      S::store_first(sums.rows + at, own, left);
      S::store_first(sums.columns + at, own, left);
    }
}

// Adds a tile of the pairs (i, j) with i < j (above), or of their transposes (j, i), to the sums of their nodes.
template <class E, class T = Sum<E>>
static inline void add_sums(const E* tile, int64_t n, Runs& runs, const T* weights, int64_t columns, bool above,
                            const NodeSums<T>& sums) {
  using S = Simd<T>;
  using V = typename S::V;
  T *of_i = above ? sums.rows : sums.columns, *of_j = above ? sums.columns : sums.rows;
  runs.next(n, [&](int64_t r, int64_t i, int64_t j, int64_t count) {
    for (int64_t s = 0; s < columns; s += S::lanes) {
      const int64_t left = columns - s;
      const E* from = tile + r * columns + s;
      T *to_i = of_i + i * columns + s, *to_j = of_j + j * columns + s;
      V sum = S::load_first(to_i, left);
      const auto add = [&](int64_t k, V for_i, V for_j) {
        sum += for_i;
        S::store_first(to_j + k * columns, S::load_first(to_j + k * columns, left) + for_j, left);
      };
      if (weights) {
        const V own = S::splat(weights[i]);
        for (int64_t k = 0; k < count; ++k) {
          const V value = read(from + k * columns, left);
          add(k, value * S::splat(weights[j + k]), value * own);
        }
      } else {
        for (int64_t k = 0; k < count; ++k) {
          const V value = read(from + k * columns, left);
          add(k, value, value);
        }
      }
      S::store_first(to_i, sum, left);
    }
  });
}

// What a map to pairs adds: u_i w_j + v_j w_i at pair (i, j), and d_i at the diagonal; features of nodes of a group.
template <class T>
struct NodeTerms {
  const T *u, *v, *d;
};

// These terms for the rows of a tile: adds a sum of two rows of numbers, each times a factor, to row r.
template <class T>
class PairTerms {
 public:
  explicit PairTerms(int64_t columns) : columns_(columns), combined_(message_tile * columns), zeros_(columns, T(0)) {}

  // For the pairs (i, j) with i < j (above), or for their transposes.
  inline const PairTerms& of_pairs(const NodeTerms<T>& nodes, const T* weights, Runs& runs, int64_t n, bool above) {
    const T *of_i = above ? nodes.u : nodes.v, *of_j = above ? nodes.v : nodes.u;
    weighted_ = weights != nullptr;
    runs.next(n, [&](int64_t r, int64_t i, int64_t j, int64_t count) {
      for (int64_t k = 0; k < count; ++k) {
        one_[r + k] = of_i + i * columns_;
        two_[r + k] = of_j + (j + k) * columns_;
        if (!weighted_) continue;
        factor_one_[r + k] = weights[j + k];
        factor_two_[r + k] = weights[i];
      }
    });
    return *this;
  }

  // For the diagonal pairs of n nodes.
  inline const PairTerms& of_diagonal(const NodeTerms<T>& nodes, const T* weights, int64_t first, int64_t n) {
    weighted_ = false;
    for (int64_t r = 0; r < n; ++r) {
      const int64_t at = (first + r) * columns_;
      const T own = weights ? weights[first + r] : T(1);
      for (int64_t s = 0; s < columns_; ++s)
        combined_[r * columns_ + s] = (nodes.u[at + s] + nodes.v[at + s]) * own + nodes.d[at + s];
      one_[r] = combined_.data() + r * columns_;
      two_[r] = zeros_.data();
    }
    return *this;
  }

  inline typename Simd<T>::V operator()(int64_t r, int64_t s, typename Simd<T>::V value) const {
    using S = Simd<T>;
    const int64_t left = columns_ - s;
    const typename S::V one = S::load_first(one_[r] + s, left), two = S::load_first(two_[r] + s, left);
    if (!weighted_) return value + (one + two);
    return value + (one * S::splat(factor_one_[r]) + two * S::splat(factor_two_[r]));
  }

 private:
  int64_t columns_;
  std::vector<T> combined_, zeros_;
  const T *one_[message_tile], *two_[message_tile];
  T factor_one_[message_tile], factor_two_[message_tile];
  bool weighted_ = false;
};
