// quaternion_whiten: y = gamma W (x - m) + beta for each quaternion channel, with the inverse
// Cholesky factor W of its covariance, and what the gradient by a batch's own statistics needs.
//
// Features (n, 4 c, ...) lie as in quaternion_norm, in any floating type; means and beta (4, c),
// matrices (4, 4, c) and sums (5, 4, c) are in float, or double with double features; gamma and
// beta may be missing. Pointers and strides count elements. Sums of no features are zero. What is
// computed for each channel has a channel a lane; the batch is summed in chunks that its shape
// alone decides: same bits on any threads.

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <optional>
#include <vector>

#include "quaternion/affine.h"
#include "tensors/dtypes.h"

namespace sparseq::ops {
namespace {

using namespace quaternion;
using namespace simd;
using namespace tensors;

// A 4x4 matrix for as many channels as L has lanes; entries lie `stride` apart.
template <typename L>
struct Matrix {
  using T = typename L::T;
  typename L::V at[4][4];

  static Matrix from(const T* data, int64_t stride) {
    Matrix out;
    for (int i = 0; i < 16; ++i) out.at[i / 4][i % 4] = L::get(data + i * stride);
    return out;
  }
  void put(T* data, int64_t stride) const {
    for (int i = 0; i < 16; ++i) L::put(data + i * stride, at[i / 4][i % 4]);
  }
  Matrix transposed() const {
    Matrix out;
    for (int i = 0; i < 16; ++i) out.at[i % 4][i / 4] = at[i / 4][i % 4];
    return out;
  }
  Matrix operator*(const Matrix& right) const {
    Matrix out;
    for (int i = 0; i < 16; ++i) {
      typename L::V sum = at[i / 4][0] * right.at[0][i % 4];
      for (int k = 1; k < 4; ++k) sum = fmadd(at[i / 4][k], right.at[k][i % 4], sum);
      out.at[i / 4][i % 4] = sum;
    }
    return out;
  }
};

// W = L^-1 with (V + V^T) / 2 + eps 1 = L L^T; V at cov.
template <typename L, typename T>
Matrix<L> inverse_factor(const T* cov, T eps, int64_t stride) {
  using V = typename L::V;
  const V least = L::all(eps), zero = L::all(T{0});
  Matrix<L> input = Matrix<L>::from(cov, stride), lower, inverse;
  for (int i = 0; i < 4; ++i) {
    const auto entry = [&](int j) { return (input.at[i][j] + input.at[j][i]) * L::all(T{0.5}); };
    V pivot = entry(i) + least;
    for (int j = 0; j < i; ++j) {
      V rest = entry(j);
      for (int k = 0; k < j; ++k) rest = rest - lower.at[i][k] * lower.at[j][k];
      lower.at[i][j] = rest * inverse.at[j][j];
      pivot = pivot - lower.at[i][j] * lower.at[i][j];
    }
    pivot = pivot < least ? least : pivot;  // exact arithmetic never goes below; NaN stays
    for (int lane = 0; lane < L::width; ++lane) {
      L::set(pivot, lane, 1 / std::sqrt(L::lane(pivot, lane)));
    }
    for (int j = 0; j < 4; ++j) inverse.at[i][j] = j == i ? pivot : zero;
    for (int j = 0; j < i; ++j) {
      V sum = zero;
      for (int k = j; k < i; ++k) sum = fmadd(lower.at[i][k], inverse.at[k][j], sum);
      inverse.at[i][j] = -pivot * sum;
    }
  }
  return inverse;
}

// Calls body(Lanes or SingleLane, channel) for all channels, as many at once as that has lanes.
template <typename T, typename Body>
void over_lanes(int64_t channels, const Body& body) {
  const int64_t whole = channels / kLanes<T> * kLanes<T>;
  for (int64_t c = 0; c < whole; c += kLanes<T>) body(Lanes<T>{}, c);
  for (int64_t c = whole; c < channels; ++c) body(SingleLane<T>{}, c);
}

// What says how channels are whitened; gamma and beta may be null, for 1 and 0.
template <typename T>
struct Whitening {
  const T *mean, *cov, *gamma, *beta;
  T eps;
  int64_t channels;

  template <typename L>
  Matrix<L> factor(int64_t c) const {
    return inverse_factor<L>(cov + c, eps, channels);
  }
  template <typename L>
  Matrix<L> scaled(const Matrix<L>& right, int64_t c) const {
    return gamma == nullptr ? right : Matrix<L>::from(gamma + c, channels) * right;
  }
};

// gamma W, (4, 4, c).
template <typename T>
void find_matrix(const Whitening<T>& by, T* out) {
  over_lanes<T>(by.channels, [&](auto lanes, int64_t c) {
    using L = decltype(lanes);
    by.scaled(by.template factor<L>(c), c).put(out + c, by.channels);
  });
}

// The sums with A from the right: D W^T for the products D with x - m.
template <typename T>
void whiten_products(const Whitening<T>& by, T* products) {
  over_lanes<T>(by.channels, [&](auto lanes, int64_t c) {
    using L = decltype(lanes);
    const Matrix<L> centered = Matrix<L>::from(products + c, by.channels);
    (centered * by.template factor<L>(c).transposed()).put(products + c, by.channels);
  });
}

// The map that is dx: M (4, 4, c) of x - m, K (4, 4, c) of dy and b (4, c), one after the other;
// `share` is 1 / n, sums dbeta and dgamma.
template <typename T>
void find_gradient(const Whitening<T>& by, const T* sums, T share, T* out) {
  const int64_t stride = by.channels;
  over_lanes<T>(stride, [&](auto lanes, int64_t c) {
    using L = decltype(lanes);
    const Matrix<L> inverse = by.template factor<L>(c);
    const Matrix<L> dgamma = Matrix<L>::from(sums + 4 * stride + c, stride);
    const Matrix<L> product =
        by.gamma == nullptr ? dgamma : Matrix<L>::from(by.gamma + c, stride).transposed() * dgamma;
    Matrix<L> even;  // P + P^T, of the lower triangle P with half its diagonal
    for (int i = 0; i < 16; ++i) {
      const int row = i / 4, column = i % 4;
      even.at[row][column] = product.at[std::max(row, column)][std::min(row, column)];
    }
    Matrix<L> inner = inverse.transposed() * even * inverse;
    const Matrix<L> outer = by.scaled(inverse, c).transposed();
    for (int a = 0; a < 4; ++a) {
      typename L::V sum = L::all(T{0});
      for (int b = 0; b < 4; ++b) {
        inner.at[a][b] = inner.at[a][b] * L::all(-share);
        sum = fmadd(outer.at[a][b], L::get(sums + b * stride + c), sum);
      }
      L::put(out + (32 + a) * stride + c, sum * L::all(-share));
    }
    inner.put(out + c, stride);
    outer.put(out + 16 * stride + c, stride);
  });
}

// The arguments all three ops share, contiguous.
struct Operands {
  const char* op;
  FeatureSizes sizes;
  Tensor x, mean, cov;
  std::optional<Tensor> gamma, beta;

  template <typename T>
  Whitening<T> read(double eps) const {
    const int64_t c = sizes.channels;
    return {coefficients_of<T>(op, "mean", mean, {4 * c}),
            coefficients_of<T>(op, "cov", cov, {4, 4, c}),
            coefficients_of<T>(op, "gamma", gamma, {4, 4, c}),
            coefficients_of<T>(op, "beta", beta, {4 * c}),
            static_cast<T>(eps),
            c};
  }
  template <typename T>
  Walk walk() const {
    return Walk::of<T>(sizes.batch, sizes.channels, sizes.positions);
  }
};

Operands operands_of(const char* op, const Tensor& x, const Tensor& mean, const Tensor& cov,
                     const std::optional<Tensor>& gamma, const std::optional<Tensor>& beta) {
  return {op,
          feature_sizes(op, x),
          as_contiguous(x),
          as_contiguous(mean),
          as_contiguous(cov),
          as_contiguous(gamma),
          as_contiguous(beta)};
}

Tensor quaternion_whiten(const Tensor& x, const Tensor& mean, const Tensor& cov,
                         const std::optional<Tensor>& gamma, const std::optional<Tensor>& beta,
                         double eps) {
  const Operands operands = operands_of("quaternion_whiten", x, mean, cov, gamma, beta);
  Tensor y = new_output(x, sizes_of(x));
  with_types(operands.op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const Whitening<T> by = operands.read<T>(eps);
    if (y.numel() == 0) return;
    static thread_local Scratch scratch;
    T* matrix = scratch.get<T>(16 * by.channels);
    find_matrix(by, matrix);
    apply_affine<S, T>(data_of<S>(operands.x), nullptr, mutable_data_of<S>(y), operands.walk<T>(),
                       by.channels, {by.mean, by.beta, matrix, nullptr});
  });
  return y;
}

Tensor quaternion_whiten_sums(const Tensor& dy, const Tensor& x, const Tensor& mean,
                              const Tensor& cov, double eps) {
  const Operands operands = operands_of("quaternion_whiten_sums", x, mean, cov, {}, {});
  check_twin(operands.op, "dy", x, dy);
  const Tensor left = as_contiguous(dy);
  Tensor out = x;
  with_types(operands.op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const Whitening<T> by = operands.read<T>(eps);
    out = new_coefficients<T>(x, 5, by.channels, x.numel() == 0);
    if (x.numel() == 0) return;
    T* sums = mutable_data_of<T>(out);
    find_cross(data_of<S>(left), data_of<S>(operands.x), by.mean, operands.walk<T>(), by.channels,
               sums);
    whiten_products(by, sums + 4 * by.channels);
  });
  return out;
}

Tensor quaternion_whiten_dx(const Tensor& dy, const Tensor& x, const Tensor& mean,
                            const Tensor& cov, const std::optional<Tensor>& gamma,
                            const Tensor& sums, double eps) {
  const Operands operands = operands_of("quaternion_whiten_dx", x, mean, cov, gamma, {});
  check_twin(operands.op, "dy", x, dy);
  const Tensor left = as_contiguous(dy), products = as_contiguous(sums);
  Tensor dx = new_output(x, sizes_of(x));
  with_types(operands.op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const Whitening<T> by = operands.read<T>(eps);
    const T* in = coefficients_of<T>(operands.op, "sums", products, {5, 4, by.channels});
    if (dx.numel() == 0) return;
    static thread_local Scratch scratch;
    T* matrix = scratch.get<T>(36 * by.channels);
    const T *other = matrix + 16 * by.channels, *bias = matrix + 32 * by.channels;
    const double count = static_cast<double>(operands.sizes.batch * operands.sizes.positions);
    find_gradient(by, in, static_cast<T>(1 / count), matrix);
    apply_affine<S, T>(data_of<S>(operands.x), data_of<S>(left), mutable_data_of<S>(dx),
                       operands.walk<T>(), by.channels, {by.mean, bias, matrix, other});
  });
  return dx;
}

Tensor quaternion_whiten_factor(const Tensor& cov, double eps) {
  constexpr const char* op = "quaternion_whiten_factor";
  SPARSEQ_CHECK(cov.dim() == 3 && cov.size(0) == 4 && cov.size(1) == 4, op, "cov",
                "must have shape (4, 4, c)", shape_text(cov));
  const Tensor input = as_contiguous(cov);
  Tensor out = new_output(cov, {4, 4, cov.size(2)});
  with_types(op, cov, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const T* from = coefficients_of<T>(op, "cov", input, {4, 4, cov.size(2)});
    if constexpr (std::is_same_v<S, T>) {
      T* to = mutable_data_of<T>(out);
      find_matrix(Whitening<T>{nullptr, from, nullptr, nullptr, static_cast<T>(eps), cov.size(2)},
                  to);
    }
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("quaternion_whiten", TORCH_BOX(&quaternion_whiten));
  m.impl("quaternion_whiten_sums", TORCH_BOX(&quaternion_whiten_sums));
  m.impl("quaternion_whiten_dx", TORCH_BOX(&quaternion_whiten_dx));
  m.impl("quaternion_whiten_factor", TORCH_BOX(&quaternion_whiten_factor));
}

}  // namespace sparseq::ops
