// quaternion_norm: y = M (x - s) + b + K z for each quaternion channel, and what normalizing by a
// batch needs beside it: its moments, and its products with a gradient. Every op reads its features
// once.
//
// x, z, y (n, 4 c, ...) in four blocks of channels, contiguous, of any floating type; s, b (4 c),
// M, K (4, 4, c) and all sums (5, 4, c) are in float, or double with double features; s, b, K and z
// may be missing. Pointers and strides count elements. Moments and products of no features are
// zero. The batch is summed in chunks that its shape alone decides: same bits on any threads.

#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "quaternion/affine.h"
#include "tensors/dtypes.h"

namespace sparseq::ops {
namespace {

using namespace quaternion;
using namespace simd;
using namespace tensors;

Tensor quaternion_norm(const Tensor& x, const std::optional<Tensor>& center, const Tensor& matrix,
                       const std::optional<Tensor>& bias, const std::optional<Tensor>& z,
                       const std::optional<Tensor>& other) {
  constexpr const char* op = "quaternion_norm";
  const FeatureSizes sizes = feature_sizes(op, x);
  SPARSEQ_CHECK(z.has_value() == other.has_value(), op, "z_matrix", "must come with z",
                other.has_value() ? shape_text(*other) : "None");
  if (z.has_value()) check_twin(op, "z", x, *z);
  const Tensor input = as_contiguous(x), first = as_contiguous(matrix);
  const std::optional<Tensor> second = as_contiguous(z), third = as_contiguous(other);
  const std::optional<Tensor> shift = as_contiguous(center), offset = as_contiguous(bias);
  Tensor y = new_output(x, sizes_of(x));
  with_types(op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const int64_t channels = sizes.channels;
    const Coefficients<T> numbers = {coefficients_of<T>(op, "center", shift, {4 * channels}),
                                     coefficients_of<T>(op, "bias", offset, {4 * channels}),
                                     coefficients_of<T>(op, "matrix", first, {4, 4, channels}),
                                     coefficients_of<T>(op, "z_matrix", third, {4, 4, channels})};
    if (y.numel() == 0) return;
    apply_affine(data_of<S>(input), data_or_null<S>(second), mutable_data_of<S>(y),
                 Walk::of<T>(sizes.batch, channels, sizes.positions), channels, numbers);
  });
  return y;
}

// Adds up what chunks and lanes sum, in order; (5, 4, c): means, then covariances.
template <typename T>
void write_moments(const Spread* parts, const Walk& w, int64_t channels, T* out) {
  const int64_t repeats = w.channels / channels;
  for (int64_t c = 0; c < channels; ++c) {
    Spread all{};
    for (int64_t chunk = 0; chunk < w.chunks; ++chunk) {
      for (int64_t i = 0; i < repeats; ++i) all.merge(parts[chunk * w.channels + c * repeats + i]);
    }
    for (int a = 0, k = 0; a < 4; ++a) {
      out[a * channels + c] = static_cast<T>(all.mean[a]);
      for (int b = 0; b <= a; ++b, ++k) {
        const T value = static_cast<T>(all.product[k] / all.count);
        out[(4 + 4 * a + b) * channels + c] = value;
        out[(4 + 4 * b + a) * channels + c] = value;
      }
    }
  }
}

// The means of a chunk, of all lanes or of each.
template <typename L, typename S>
void find_shift(const S* x, const Walk& w, int64_t chunk, int64_t channel, MomentSums<L>& to) {
  using T = typename L::T;
  PlainSums<L> sums;
  over_chunk<L>(w, chunk, channel,
                [&](int64_t at, int64_t count) { sums.add(x + at, w.stride, count); });
  double totals[4];
  if (w.planes) L::totals(sums.values, 4, totals);
  for (int a = 0; a < 4; ++a) {
    to.shift[a] = w.planes ? L::all(static_cast<T>(totals[a] / w.values(chunk)))
                           : sums.values[a] * L::all(static_cast<T>(1 / w.values(chunk)));
  }
}

template <typename S, typename T>
void find_moments(const S* x, const Walk& w, int64_t channels, T* out) {
  static thread_local Scratch scratch;
  Spread* parts = scratch.get<Spread>(w.chunks * w.channels);
  over_channels<T>(w, [&](auto lanes, int64_t chunk, int64_t channel) {
    using L = decltype(lanes);
    MomentSums<L> sums;
    find_shift(x, w, chunk, channel, sums);
    over_chunk<L>(w, chunk, channel,
                  [&](int64_t at, int64_t count) { sums.add(x + at, w.stride, count); });
    Spread* to = parts + chunk * w.channels + channel;
    if (w.planes) {
      *to = sums.together(w.values(chunk));
    } else {
      for (int i = 0; i < L::width; ++i) to[i] = sums.alone(w.values(chunk), i);
    }
  });
  write_moments(parts, w, channels, out);
}

Tensor quaternion_norm_moments(const Tensor& x) {
  const FeatureSizes sizes = feature_sizes("quaternion_norm_moments", x);
  const Tensor input = as_contiguous(x);
  Tensor out = x;
  with_types("quaternion_norm_moments", x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    out = new_coefficients<T>(x, 5, sizes.channels, x.numel() == 0);
    if (x.numel() == 0) return;
    find_moments(data_of<S>(input), Walk::of<T>(sizes.batch, sizes.channels, sizes.positions),
                 sizes.channels, mutable_data_of<T>(out));
  });
  return out;
}

Tensor quaternion_norm_cross(const Tensor& dy, const Tensor& x,
                             const std::optional<Tensor>& center) {
  constexpr const char* op = "quaternion_norm_cross";
  const FeatureSizes sizes = feature_sizes(op, x);
  check_twin(op, "dy", x, dy);
  const Tensor left = as_contiguous(dy), right = as_contiguous(x);
  const std::optional<Tensor> shift = as_contiguous(center);
  Tensor out = x;
  with_types(op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    out = new_coefficients<T>(x, 5, sizes.channels, x.numel() == 0);
    const T* s = coefficients_of<T>(op, "center", shift, {4 * sizes.channels});
    if (x.numel() == 0) return;
    find_cross(data_of<S>(left), data_of<S>(right), s,
               Walk::of<T>(sizes.batch, sizes.channels, sizes.positions), sizes.channels,
               mutable_data_of<T>(out));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("quaternion_norm", TORCH_BOX(&quaternion_norm));
  m.impl("quaternion_norm_moments", TORCH_BOX(&quaternion_norm_moments));
  m.impl("quaternion_norm_cross", TORCH_BOX(&quaternion_norm_cross));
}

}  // namespace sparseq::ops
