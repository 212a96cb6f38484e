// The columns of local_geometry for a number of neighbours, from sums over the neighbourhood: see
// src/puffin/ops/geometry.py. For the CPU and CUDA.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define PUFFIN_BOTH __host__ __device__
#else
#define PUFFIN_BOTH
#endif

namespace puffin {

constexpr int shape_sums = 11;  // of x, y, z, energy, xx, xy, xz, yy, yz, zz and energy^2, relative to the query

struct Shape {
  double covariance[6];  // xx, xy, xz, yy, yz, zz
  double trace, centroid, energy, deviation;
};

PUFFIN_BOTH inline double or_zero(double x) { return x > 0 ? x : 0; }

// energy: of the query
PUFFIN_BOTH inline Shape shape_of(int64_t count, const double* sums, double energy) {
  const double n = double(count), x = sums[0] / n, y = sums[1] / n, z = sums[2] / n, e = sums[3] / n;
  Shape s{{sums[4] / n - x * x, sums[5] / n - x * y, sums[6] / n - x * z, sums[7] / n - y * y, sums[8] / n - y * z,
           sums[9] / n - z * z},
          0,
          std::sqrt(x * x + y * y + z * z),
          energy + e,
          std::sqrt(or_zero(sums[10] / n - e * e))};
  s.trace = or_zero(s.covariance[0] + s.covariance[3] + s.covariance[5]);
  return s;
}

// The eigenvalues of the covariance over their sum, descending, from the trigonometric solution of the cubic equation.
// Its error is below 1e-7: the angle loses half of the digits where two eigenvalues are equal.
PUFFIN_BOTH inline void find_shares(const Shape& s, double* share) {
  share[0] = share[1] = share[2] = 0;
  if (!(s.trace > 0)) return;
  const double* c = s.covariance;
  const double third = 1.0 / 3, a = c[0] / s.trace - third, d = c[3] / s.trace - third, f = c[5] / s.trace - third;
  const double b = c[1] / s.trace, g = c[2] / s.trace, e = c[4] / s.trace;
  const double radius = std::sqrt((a * a + d * d + f * f + 2 * (b * b + g * g + e * e)) / 6);
  const double cubed = radius * radius * radius;
  double cosine = (a * (d * f - e * e) - b * (b * f - e * g) + g * (b * e - d * g)) / (2 * cubed);
  cosine = cosine < -1 ? -1 : cosine > 1 ? 1 : cosine;
  const double angle = cubed > 0 ? std::acos(cosine) / 3 : 0;
  share[0] = third + 2 * radius * std::cos(angle);
  share[2] = or_zero(third + 2 * radius * std::cos(angle + 2.0943951023931957));  // 2 pi / 3
  share[1] = or_zero(1 - share[0] - share[2]);
}

PUFFIN_BOTH inline double inner(const double* a, const double* b) {
  return a[0] * b[0] + a[3] * b[3] + a[5] * b[5] + 2 * (a[1] * b[1] + a[2] * b[2] + a[4] * b[4]);
}

// Writes eight columns; nine if there is the covariance of the number of neighbours before. reach: a squared distance
template <class T>
PUFFIN_BOTH void write_shape(const Shape& s, const double* before, T reach, T* out) {
  double share[3];
  find_shares(s, share);
  for (int i = 0; i < 3; ++i) out[i] = T(share[i]);
  out[3] = T(std::sqrt(s.trace));
  out[4] = T(s.centroid);
  out[5] = std::sqrt(reach);
  out[6] = T(s.energy);
  out[7] = T(s.deviation);
  if (!before) return;
  const double norms = std::sqrt(inner(s.covariance, s.covariance)) * std::sqrt(inner(before, before));
  out[8] = norms > 0 ? T(inner(s.covariance, before) / norms) : T(0);
}

}  // namespace puffin
