// y = M (x - s) + b + K z for each quaternion channel, and the operands of the ops that have it.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>
#include <type_traits>

#include "../common/tensors.h"
#include "dtypes.h"
#include "quaternion_moments.h"

namespace sparseq {

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

// Coefficients as they come, for each of `channels`; null stands for zeros.
template <typename T>
struct MapNumbers {
  const T *center, *bias, *matrix, *other;
};

// y = M (x - s) + b, and + K z where z is not null.
template <typename S, typename T>
void map_features(const S* x, const S* z, S* y, const Walk& w, int64_t channels,
                  const MapNumbers<T>& numbers) {
  static thread_local Scratch scratch;
  T* c = scratch.get<T>(kCoefficients * w.channels);
  place(numbers.center, kCenter, 4, channels, w, c);
  place(numbers.bias, kBias, 4, channels, w, c);
  place(numbers.matrix, kMatrix, 16, channels, w, c);
  if (z == nullptr) return map_all<false>(x, x, y, w, c);
  place(numbers.other, kOther, 16, channels, w, c);
  map_all<true>(x, z, y, w, c);
}

struct Sizes {
  int64_t batch, channels, positions;
};

inline Sizes sizes_of(const char* op, const char* argument, const Tensor& x) {
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

inline void check_twin(const char* op, const char* argument, const Tensor& x, const Tensor& z) {
  check_same_type(op, argument, x, z);
  bool same = x.dim() == z.dim();
  for (int64_t i = 0; same && i < x.dim(); ++i) same = x.size(i) == z.size(i);
  SPARSEQ_CHECK(same, op, argument, "must have the shape of x", z.numel());
}

// Uninitialized (rows, 4, c), or zeros, in the type of the sums of x.
template <typename T>
Tensor new_numbers(const Tensor& x, int64_t rows, int64_t channels, bool zeros = false) {
  using torch::headeronly::ScalarType;
  const auto type = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  return zeros ? torch::stable::new_zeros(x, {rows, 4, channels}, type)
               : torch::stable::new_empty(x, {rows, 4, channels}, type);
}

}  // namespace sparseq
