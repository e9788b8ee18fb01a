// quaternion_norm: y = M (x - s) + b + K z for each quaternion channel, and what normalizing by a
// batch needs beside it: its moments, its products with a gradient, and the inverse Cholesky factor
// of covariances. Every op reads its features once.
//
// x, z, y (n, 4 c, ...) in four blocks of channels, of any floating type; s, b (4 c), M, K
// (4, 4, c) and all sums are in float, or double with double features.

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <optional>
#include <string>

#include "../common/tensors.h"
#include "dtypes.h"
#include "quaternion_moments.h"

namespace sparseq {
namespace {

// Where the coefficients of a channel begin: s, b, M, K.
enum Part { kCenter = 0, kBias = 4, kMatrix = 8, kOther = 24, kCoefficients = 40 };

template <typename L, bool kPair, typename S>
SPARSEQ_INLINE void map_at(const S* x, const S* z, S* y, int64_t stride,
                           const typename L::V (&c)[kCoefficients]) {
  using V = typename L::V;
  V in[4], second[4];
  for (int b = 0; b < 4; ++b) {
    in[b] = L::get(x + b * stride) - c[kCenter + b];
    if (kPair) second[b] = L::get(z + b * stride);
  }
  for (int a = 0; a < 4; ++a) {
    V sum = c[kBias + a];
    for (int b = 0; b < 4; ++b) sum = fmadd(c[kMatrix + 4 * a + b], in[b], sum);
    for (int b = 0; kPair && b < 4; ++b) sum = fmadd(c[kOther + 4 * a + b], second[b], sum);
    L::put(y + a * stride, sum);
  }
}

// One channel of one example: the lanes run along its positions, the last vector starts early.
template <bool kPair, typename S, typename T>
void map_plane(const S* x, const S* z, S* y, const Walk& w, const T* coefficients) {
  using L = Lanes<T>;
  constexpr int used = kPair ? kCoefficients : kOther;
  Vec<T> c[kCoefficients];
  for (int k = 0; k < used; ++k) c[k] = broadcast(coefficients[k]);
  const int64_t last = w.positions - L::width;
  for (int64_t s = 0; s < last; s += L::width) {
    map_at<L, kPair>(x + s, kPair ? z + s : z, y + s, w.stride, c);
  }
  map_at<L, kPair>(x + last, kPair ? z + last : z, y + last, w.stride, c);
}

// One example: the lanes run along its channels.
template <typename L, bool kPair, typename S, typename T>
void map_row(const S* x, const S* z, S* y, const Walk& w, const T* coefficients, int64_t first,
             int64_t end) {
  constexpr int used = kPair ? kCoefficients : kOther;
  for (int64_t i = first; i + L::width <= end; i += L::width) {
    typename L::V c[kCoefficients];
    for (int k = 0; k < used; ++k) c[k] = L::get(coefficients + k * w.stride + i);
    map_at<L, kPair>(x + i, kPair ? z + i : z, y + i, w.stride, c);
  }
}

template <bool kPair, typename S, typename T>
void map_all(const S* x, const S* z, S* y, const Walk& w, const T* coefficients) {
  const int64_t planes = w.planes ? w.channels : 1;
  const int64_t threads = useful_threads(w.batch * w.stride * (kPair ? 40 : 24) / kLanes<T>);
  parallel_items(w.batch * planes, threads, [&](int64_t i) {
    const int64_t channel = i % planes;
    const int64_t at = i / planes * 4 * w.stride + channel * w.positions;
    const S* second = kPair ? z + at : z;
    if (w.planes) {
      return map_plane<kPair>(x + at, second, y + at, w, coefficients + channel * kCoefficients);
    }
    const int64_t whole = w.stride / kLanes<T> * kLanes<T>;
    map_row<Lanes<T>, kPair>(x + at, second, y + at, w, coefficients, 0, whole);
    map_row<SingleLane<T>, kPair>(x + at, second, y + at, w, coefficients, whole, w.stride);
  });
}

// (k, c) coefficients as a channel's own run of kCoefficients, or as rows of one for each channel
// of the walk; absent ones are zero.
template <typename T>
void place(const T* from, int first, int count, int64_t channels, const Walk& w, T* to) {
  const int64_t repeats = w.channels / channels;
  for (int k = 0; k < count; ++k) {
    for (int64_t c = 0; c < channels; ++c) {
      const T value = from == nullptr ? T{0} : from[k * channels + c];
      if (w.planes) {
        to[c * kCoefficients + first + k] = value;
      } else {
        std::fill_n(to + (first + k) * w.stride + c * repeats, repeats, value);
      }
    }
  }
}

struct Sizes {
  int64_t batch, channels, positions;
};

Sizes sizes_of(const char* op, const char* argument, const Tensor& x) {
  SPARSEQ_CHECK(x.dim() >= 2 && x.size(1) % 4 == 0, op, argument, "must be (n, 4 c, ...) features",
                x.numel());
  Sizes sizes{x.size(0), x.size(1) / 4, 1};
  for (int64_t i = 2; i < x.dim(); ++i) sizes.positions *= x.size(i);
  return sizes;
}

// Data of `count` numbers for each channel, in the type of sums; null where there are none.
template <typename T>
const T* numbers(const char* op, const char* argument, const std::optional<Tensor>& x,
                 int64_t count) {
  if (!x.has_value()) return nullptr;
  using torch::headeronly::ScalarType;
  SPARSEQ_CHECK(
      x->scalar_type() == (std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float), op,
      argument, "must be float32, or float64 with float64 features",
      static_cast<int>(x->scalar_type()));
  SPARSEQ_CHECK(x->numel() == count, op, argument, "must have one entry for each channel and place",
                x->numel());
  return static_cast<const T*>(x->const_data_ptr());
}

void check_twin(const char* op, const char* argument, const Tensor& x, const Tensor& z) {
  check_same_type(op, argument, x, z);
  bool same = x.dim() == z.dim();
  for (int64_t i = 0; same && i < x.dim(); ++i) same = x.size(i) == z.size(i);
  SPARSEQ_CHECK(same, op, argument, "must have the shape of x", z.numel());
}

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
    const Walk w = Walk::of<T>(sizes.batch, channels, sizes.positions);
    static thread_local Scratch scratch;
    T* c = scratch.get<T>(kCoefficients * w.channels);
    place(numbers<T>(op, "center", shift, 4 * channels), kCenter, 4, channels, w, c);
    place(numbers<T>(op, "bias", offset, 4 * channels), kBias, 4, channels, w, c);
    place(numbers<T>(op, "matrix", first, 16 * channels), kMatrix, 16, channels, w, c);
    const S* in = static_cast<const S*>(input.const_data_ptr());
    S* out = static_cast<S*>(y.mutable_data_ptr());
    if (!z.has_value()) return map_all<false>(in, in, out, w, c);
    place(numbers<T>(op, "other", third, 16 * channels), kOther, 16, channels, w, c);
    map_all<true>(in, data_or_null<S>(second), out, w, c);
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

// (5, 4, c): sums of dy, then of dy_a (x_b - s_b).
template <typename S, typename T>
void find_cross(const S* dy, const S* x, const T* center, const Walk& w, int64_t channels, T* out) {
  static thread_local Scratch scratch;
  const int64_t repeats = w.channels / channels;
  double* parts = scratch.get<double>(w.chunks * w.channels * kCrossSums);
  over_channels<T>(w, [&](auto lanes, int64_t chunk, int64_t channel) {
    using L = decltype(lanes);
    CrossSums<L> sums;
    for (int b = 0; b < 4; ++b) {
      T shift[L::width] = {};
      for (int i = 0; center != nullptr && i < L::width; ++i) {
        shift[i] = center[b * channels + (w.planes ? channel : (channel + i) / repeats)];
      }
      sums.center[b] = L::get(shift);
    }
    over_chunk<L>(w, chunk, channel,
                  [&](int64_t at, int64_t count) { sums.add(dy + at, x + at, w.stride, count); });
    double* to = parts + (chunk * w.channels + channel) * kCrossSums;
    if (w.planes) {
      L::totals(sums.values, kCrossSums, to);
      return;
    }
    for (int i = 0; i < L::width * kCrossSums; ++i) {
      to[i] = static_cast<double>(L::lane(sums.values[i % kCrossSums], i / kCrossSums));
    }
  });
  for (int64_t c = 0; c < channels; ++c) {
    double all[kCrossSums] = {};
    for (int64_t chunk = 0; chunk < w.chunks; ++chunk) {
      const double* from = parts + (chunk * w.channels + c * repeats) * kCrossSums;
      for (int64_t i = 0; i < repeats * kCrossSums; ++i) all[i % kCrossSums] += from[i];
    }
    for (int k = 0; k < kCrossSums; ++k) out[k * channels + c] = static_cast<T>(all[k]);
  }
}

// Uninitialized (rows, 4, c), or zeros, in the type of the sums of x.
template <typename T>
Tensor new_numbers(const Tensor& x, int64_t rows, int64_t channels, bool zeros = false) {
  using torch::headeronly::ScalarType;
  const auto type = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  return zeros ? torch::stable::new_zeros(x, {rows, 4, channels}, type)
               : torch::stable::new_empty(x, {rows, 4, channels}, type);
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

// W = L^-1 with V + eps 1 = L L^T for as many channels as L has lanes; entries `stride` apart.
template <typename L, typename T>
void factor_at(const T* cov, T eps, int64_t stride, T* out) {
  using V = typename L::V;
  const V least = L::all(eps), zero = L::all(T{0});
  V lower[4][4], inverse[4][4];
  for (int i = 0; i < 4; ++i) {
    const auto entry = [&](int j) {
      return (L::get(cov + (4 * i + j) * stride) + L::get(cov + (4 * j + i) * stride)) *
             L::all(T{0.5});
    };
    V own = entry(i) + least;
    for (int j = 0; j < i; ++j) {
      V rest = entry(j);
      for (int k = 0; k < j; ++k) rest = rest - lower[i][k] * lower[j][k];
      lower[i][j] = rest * inverse[j][j];
      own = own - lower[i][j] * lower[i][j];
    }
    own = own < least ? least : own;  // exact arithmetic never gets there; NaN stays
    for (int lane = 0; lane < L::width; ++lane)
      L::set(own, lane, 1 / std::sqrt(L::lane(own, lane)));
    inverse[i][i] = own;
    for (int j = 0; j < i; ++j) {
      V sum = zero;
      for (int k = j; k < i; ++k) sum = fmadd(lower[i][k], inverse[k][j], sum);
      inverse[i][j] = -own * sum;
    }
    for (int j = 0; j < 4; ++j) L::put(out + (4 * i + j) * stride, j <= i ? inverse[i][j] : zero);
  }
}

Tensor quaternion_norm_factor(const Tensor& cov, double eps) {
  constexpr const char* op = "quaternion_norm_factor";
  SPARSEQ_CHECK(cov.dim() == 3 && cov.size(0) == 4 && cov.size(1) == 4, op, "cov",
                "must have shape (4, 4, c)", cov.numel());
  const Tensor input = as_contiguous(cov);
  const int64_t channels = cov.size(2);
  Tensor out = new_output(cov, {4, 4, channels});
  with_types(op, cov, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    if constexpr (std::is_same_v<S, T>) {
      const T* from = static_cast<const T*>(input.const_data_ptr());
      T* to = static_cast<T*>(out.mutable_data_ptr());
      const int64_t whole = channels / kLanes<T> * kLanes<T>;
      for (int64_t c = 0; c < whole; c += kLanes<T>) {
        factor_at<Lanes<T>>(from + c, static_cast<T>(eps), channels, to + c);
      }
      for (int64_t c = whole; c < channels; ++c) {
        factor_at<SingleLane<T>>(from + c, static_cast<T>(eps), channels, to + c);
      }
    } else {
      SPARSEQ_CHECK(false, op, "cov", "must be float32 or float64", 16);
    }
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("quaternion_norm", TORCH_BOX(&quaternion_norm));
  m.impl("quaternion_norm_moments", TORCH_BOX(&quaternion_norm_moments));
  m.impl("quaternion_norm_cross", TORCH_BOX(&quaternion_norm_cross));
  m.impl("quaternion_norm_factor", TORCH_BOX(&quaternion_norm_factor));
}

}  // namespace sparseq
