// Reductions of n consecutive rows of C channels; the inner loops run over the channels, which are contiguous.

template <class T>
void sum_rows(const T* x, int64_t n, int64_t channels, T* __restrict out) {
  for (int64_t c = 0; c < channels; ++c) out[c] = T(0);
  for (int64_t r = 0; r < n; ++r, x += channels)
    for (int64_t c = 0; c < channels; ++c) out[c] += x[c];
}

// 0 for no rows; NaN wins, as in PyTorch
template <class T>
void extremum_rows(const T* x, int64_t n, int64_t channels, bool largest, T* __restrict out) {
  for (int64_t c = 0; c < channels; ++c) out[c] = n > 0 ? x[c] : T(0);
  for (int64_t r = 1; r < n; ++r) {
    const T* __restrict row = x + r * channels;
    if (largest)
      for (int64_t c = 0; c < channels; ++c) out[c] = row[c] > out[c] || row[c] != row[c] ? row[c] : out[c];
    else
      for (int64_t c = 0; c < channels; ++c) out[c] = row[c] < out[c] || row[c] != row[c] ? row[c] : out[c];
  }
}

// grad / (number of tied rows) where a row is the extremum, 0 elsewhere. The first row of `out` holds these numbers
// until the end.
template <class T>
void share_gradient(const T* grad, const T* extremum, const T* x, int64_t n, int64_t channels, T* __restrict out) {
  if (n == 0) return;
  for (int64_t c = 0; c < channels; ++c) out[c] = T(0);
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < channels; ++c) out[c] += x[r * channels + c] == extremum[c] ? T(1) : T(0);
  for (int64_t c = 0; c < channels; ++c) out[c] = grad[c] / (out[c] > T(0) ? out[c] : T(1));
  for (int64_t r = n - 1; r >= 0; --r)
    for (int64_t c = 0; c < channels; ++c) {
      const T share = out[c];
      out[r * channels + c] = x[r * channels + c] == extremum[c] ? share : T(0);
    }
}
