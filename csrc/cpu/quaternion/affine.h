// y = M (x - s) + b + K z for each quaternion channel, and the operands of the ops that have it.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <type_traits>
#include <vector>

#include "../tensors/messages.h"
#include "moments.h"

namespace sparseq::quaternion {

using tensors::data_of;
using tensors::dtype_text;
using tensors::shape_text;
using tensors::sizes_of;
using tensors::Tensor;
using tensors::text;
using tensors::tuple_text;

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

// (k, c) coefficients as a run of kCoefficients for each channel, or as rows of one for each
// channel of the walk; absent ones are zero.
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
struct Coefficients {
  const T *center, *bias, *matrix, *other;
};

// y = M (x - s) + b, and + K z where z is not null.
template <typename S, typename T>
void apply_affine(const S* x, const S* z, S* y, const Walk& w, int64_t channels,
                  const Coefficients<T>& numbers) {
  static thread_local Scratch scratch;
  T* c = scratch.get<T>(kCoefficients * w.channels);
  place(numbers.center, kCenter, 4, channels, w, c);
  place(numbers.bias, kBias, 4, channels, w, c);
  place(numbers.matrix, kMatrix, 16, channels, w, c);
  if (z == nullptr) return map_all<false>(x, x, y, w, c);
  place(numbers.other, kOther, 16, channels, w, c);
  map_all<true>(x, z, y, w, c);
}

// The dtype of sums that are kept as T.
template <typename T>
constexpr torch::headeronly::ScalarType sum_dtype() {
  using torch::headeronly::ScalarType;
  return std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
}

struct FeatureSizes {
  int64_t batch, channels, positions;
};

inline FeatureSizes feature_sizes(const char* op, const Tensor& x) {
  SPARSEQ_CHECK(x.dim() >= 2 && x.size(1) % 4 == 0, op, "x", "must be features (N, 4 C, ...)",
                shape_text(x));
  FeatureSizes sizes{x.size(0), x.size(1) / 4, 1};
  for (int64_t i = 2; i < x.dim(); ++i) {
    sizes.positions = tensors::size_product(op, "x", sizes.positions, x.size(i));
  }
  return sizes;
}

// Data of coefficients of a shape, in the type of sums; null where there are none.
template <typename T>
const T* coefficients_of(const char* op, const char* name, const std::optional<Tensor>& x,
                         std::initializer_list<int64_t> shape) {
  if (!x.has_value()) return nullptr;
  SPARSEQ_CHECK(sizes_of(*x) == std::vector<int64_t>(shape), op, name,
                text("must have shape ", tuple_text(shape)), shape_text(*x));
  SPARSEQ_CHECK(
      x->scalar_type() == sum_dtype<T>(), op, name,
      text("must have dtype ", std::is_same_v<T, double> ? "torch.float64" : "torch.float32"),
      dtype_text(*x));
  return data_of<T>(*x);
}

// Checks that z is features like x.
inline void check_twin(const char* op, const char* name, const Tensor& x, const Tensor& z) {
  SPARSEQ_CHECK(sizes_of(x) == sizes_of(z), op, name, text("must have shape ", shape_text(x)),
                shape_text(z));
  SPARSEQ_CHECK(x.scalar_type() == z.scalar_type(), op, name,
                text("must have dtype ", dtype_text(x)), dtype_text(z));
}

// Uninitialized (rows, 4, c), or zeros, in the type of the sums of x.
template <typename T>
Tensor new_coefficients(const Tensor& x, int64_t rows, int64_t channels, bool zeros = false) {
  const std::vector<int64_t> sizes = {rows, 4, channels};
  return zeros ? torch::stable::new_zeros(x, sizes, sum_dtype<T>())
               : torch::stable::new_empty(x, sizes, sum_dtype<T>());
}

}  // namespace sparseq::quaternion
