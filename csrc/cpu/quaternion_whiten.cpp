// quaternion_whiten: y = gamma W (x - m) + beta for each quaternion channel, with the inverse
// Cholesky factor W of its covariance, and what the gradient by a batch's own statistics needs.
//
// Features lie as in quaternion_norm, in any floating type; means and beta (4, c), matrices
// (4, 4, c) and sums (5, 4, c) are in float, or double with double features. What is computed for
// each channel has a channel a lane.

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <optional>
#include <vector>

#include "quaternion_map.h"

namespace sparseq {
namespace {

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
  Matrix<L> given = Matrix<L>::from(cov, stride), lower, inverse;
  for (int i = 0; i < 4; ++i) {
    const auto entry = [&](int j) { return (given.at[i][j] + given.at[j][i]) * L::all(T{0.5}); };
    V own = entry(i) + least;
    for (int j = 0; j < i; ++j) {
      V rest = entry(j);
      for (int k = 0; k < j; ++k) rest = rest - lower.at[i][k] * lower.at[j][k];
      lower.at[i][j] = rest * inverse.at[j][j];
      own = own - lower.at[i][j] * lower.at[i][j];
    }
    own = own < least ? least : own;  // exact arithmetic never gets there; NaN stays
    for (int lane = 0; lane < L::width; ++lane)
      L::set(own, lane, 1 / std::sqrt(L::lane(own, lane)));
    for (int j = 0; j < 4; ++j) inverse.at[i][j] = j == i ? own : zero;
    for (int j = 0; j < i; ++j) {
      V sum = zero;
      for (int k = j; k < i; ++k) sum = fmadd(lower.at[i][k], inverse.at[k][j], sum);
      inverse.at[i][j] = -own * sum;
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
    const Matrix<L> found = Matrix<L>::from(products + c, by.channels);
    (found * by.template factor<L>(c).transposed()).put(products + c, by.channels);
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
    const Matrix<L> found = Matrix<L>::from(sums + 4 * stride + c, stride);
    const Matrix<L> product =
        by.gamma == nullptr ? found : Matrix<L>::from(by.gamma + c, stride).transposed() * found;
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
  Sizes sizes;
  Tensor x, mean, cov;
  std::optional<Tensor> gamma, beta;

  template <typename T>
  Whitening<T> read(double eps) const {
    const int64_t c = sizes.channels;
    return {numbers<T>(op, "mean", mean, 4 * c),
            numbers<T>(op, "cov", cov, 16 * c),
            numbers<T>(op, "gamma", gamma, 16 * c),
            numbers<T>(op, "beta", beta, 4 * c),
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
          sizes_of(op, "x", x),
          as_contiguous(x),
          as_contiguous(mean),
          as_contiguous(cov),
          as_contiguous(gamma),
          as_contiguous(beta)};
}

Tensor quaternion_whiten(const Tensor& x, const Tensor& mean, const Tensor& cov,
                         const std::optional<Tensor>& gamma, const std::optional<Tensor>& beta,
                         double eps) {
  const Operands given = operands_of("quaternion_whiten", x, mean, cov, gamma, beta);
  Tensor y = new_output(x, std::vector<int64_t>(x.sizes().begin(), x.sizes().end()));
  with_types(given.op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const Whitening<T> by = given.read<T>(eps);
    if (y.numel() == 0) return;
    static thread_local Scratch scratch;
    T* matrix = scratch.get<T>(16 * by.channels);
    find_matrix(by, matrix);
    map_features<S, T>(static_cast<const S*>(given.x.const_data_ptr()), nullptr,
                       static_cast<S*>(y.mutable_data_ptr()), given.walk<T>(), by.channels,
                       {by.mean, by.beta, matrix, nullptr});
  });
  return y;
}

Tensor quaternion_whiten_sums(const Tensor& dy, const Tensor& x, const Tensor& mean,
                              const Tensor& cov, double eps) {
  const Operands given = operands_of("quaternion_whiten_sums", x, mean, cov, {}, {});
  check_twin(given.op, "dy", x, dy);
  const Tensor left = as_contiguous(dy);
  Tensor out = x;
  with_types(given.op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const Whitening<T> by = given.read<T>(eps);
    out = new_numbers<T>(x, 5, by.channels, x.numel() == 0);
    if (x.numel() == 0) return;
    T* sums = static_cast<T*>(out.mutable_data_ptr());
    find_cross(static_cast<const S*>(left.const_data_ptr()),
               static_cast<const S*>(given.x.const_data_ptr()), by.mean, given.walk<T>(),
               by.channels, sums);
    whiten_products(by, sums + 4 * by.channels);
  });
  return out;
}

Tensor quaternion_whiten_dx(const Tensor& dy, const Tensor& x, const Tensor& mean,
                            const Tensor& cov, const std::optional<Tensor>& gamma,
                            const Tensor& sums, double eps) {
  const Operands given = operands_of("quaternion_whiten_dx", x, mean, cov, gamma, {});
  check_twin(given.op, "dy", x, dy);
  const Tensor left = as_contiguous(dy), found = as_contiguous(sums);
  Tensor dx = new_output(x, std::vector<int64_t>(x.sizes().begin(), x.sizes().end()));
  with_types(given.op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const Whitening<T> by = given.read<T>(eps);
    const T* in = numbers<T>(given.op, "sums", found, 20 * by.channels);
    if (dx.numel() == 0) return;
    static thread_local Scratch scratch;
    T* matrix = scratch.get<T>(36 * by.channels);
    const T *other = matrix + 16 * by.channels, *bias = matrix + 32 * by.channels;
    const double count = static_cast<double>(given.sizes.batch * given.sizes.positions);
    find_gradient(by, in, static_cast<T>(1 / count), matrix);
    map_features<S, T>(static_cast<const S*>(given.x.const_data_ptr()),
                       static_cast<const S*>(left.const_data_ptr()),
                       static_cast<S*>(dx.mutable_data_ptr()), given.walk<T>(), by.channels,
                       {by.mean, bias, matrix, other});
  });
  return dx;
}

Tensor quaternion_whiten_factor(const Tensor& cov, double eps) {
  constexpr const char* op = "quaternion_whiten_factor";
  SPARSEQ_CHECK(cov.dim() == 3 && cov.size(0) == 4 && cov.size(1) == 4, op, "cov",
                "must have shape (4, 4, c)", cov.numel());
  const Tensor input = as_contiguous(cov);
  Tensor out = new_output(cov, {4, 4, cov.size(2)});
  with_types(op, cov, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const T* from = numbers<T>(op, "cov", input, cov.numel());
    if constexpr (std::is_same_v<S, T>) {
      T* to = static_cast<T*>(out.mutable_data_ptr());
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

}  // namespace sparseq
