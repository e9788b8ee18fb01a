// quaternion_norm: y = M (x - s) + b + K z for each quaternion channel, and what normalizing by a
// batch needs beside it: its moments, and its products with a gradient. Every op reads its features
// once.
//
// x, z, y (n, 4 c, ...) in four blocks of channels, of any floating type; s, b (4 c), M, K
// (4, 4, c) and all sums are in float, or double with double features.

#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "quaternion_map.h"

namespace sparseq {
namespace {

Tensor quaternion_norm(const Tensor& x, const std::optional<Tensor>& center, const Tensor& matrix,
                       const std::optional<Tensor>& bias, const std::optional<Tensor>& z,
                       const std::optional<Tensor>& other) {
  constexpr const char* op = "quaternion_norm";
  const Sizes sizes = sizes_of(op, "x", x);
  SPARSEQ_CHECK(z.has_value() == other.has_value(), op, "z", "must come with its matrix", 1);
  if (z.has_value()) check_twin(op, "z", x, *z);
  const Tensor input = as_contiguous(x), first = as_contiguous(matrix);
  const std::optional<Tensor> second = as_contiguous(z), third = as_contiguous(other);
  const std::optional<Tensor> shift = as_contiguous(center), offset = as_contiguous(bias);
  Tensor y = new_output(x, std::vector<int64_t>(x.sizes().begin(), x.sizes().end()));
  if (y.numel() == 0) return y;
  with_types(op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const int64_t channels = sizes.channels;
    map_features(static_cast<const S*>(input.const_data_ptr()), data_or_null<S>(second),
                 static_cast<S*>(y.mutable_data_ptr()),
                 Walk::of<T>(sizes.batch, channels, sizes.positions), channels,
                 MapNumbers<T>{numbers<T>(op, "center", shift, 4 * channels),
                               numbers<T>(op, "bias", offset, 4 * channels),
                               numbers<T>(op, "matrix", first, 16 * channels),
                               numbers<T>(op, "other", third, 16 * channels)});
  });
  return y;
}

// Adds up what chunks and lanes found, in order; (5, 4, c): means, then covariances.
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
  const Sizes sizes = sizes_of("quaternion_norm_moments", "x", x);
  const Tensor input = as_contiguous(x);
  Tensor out = x;
  with_types("quaternion_norm_moments", x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    out = new_numbers<T>(x, 5, sizes.channels, x.numel() == 0);
    if (x.numel() == 0) return;
    find_moments(static_cast<const S*>(input.const_data_ptr()),
                 Walk::of<T>(sizes.batch, sizes.channels, sizes.positions), sizes.channels,
                 static_cast<T*>(out.mutable_data_ptr()));
  });
  return out;
}

Tensor quaternion_norm_cross(const Tensor& dy, const Tensor& x,
                             const std::optional<Tensor>& center) {
  constexpr const char* op = "quaternion_norm_cross";
  const Sizes sizes = sizes_of(op, "x", x);
  check_twin(op, "dy", x, dy);
  const Tensor left = as_contiguous(dy), right = as_contiguous(x);
  const std::optional<Tensor> shift = as_contiguous(center);
  Tensor out = x;
  with_types(op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    out = new_numbers<T>(x, 5, sizes.channels, x.numel() == 0);
    const T* s = numbers<T>(op, "center", shift, 4 * sizes.channels);
    if (x.numel() == 0) return;
    find_cross(static_cast<const S*>(left.const_data_ptr()),
               static_cast<const S*>(right.const_data_ptr()), s,
               Walk::of<T>(sizes.batch, sizes.channels, sizes.positions), sizes.channels,
               static_cast<T*>(out.mutable_data_ptr()));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("quaternion_norm", TORCH_BOX(&quaternion_norm));
  m.impl("quaternion_norm_moments", TORCH_BOX(&quaternion_norm_moments));
  m.impl("quaternion_norm_cross", TORCH_BOX(&quaternion_norm_cross));
}

}  // namespace sparseq
