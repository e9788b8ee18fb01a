// feature_sum: db[f] = sum over n and s of dy[n, f, s], the gradient of a bias.
//
// dy (n, features, s) contiguous, float, double, or 16-bit summed in float and rounded once.
//
// Where the s positions of a feature fill a vector, its lanes run along them; else they run along
// the (feature, position) columns. The batch is cut into chunks by its shape alone, and the sums of
// chunks and lanes are added in order, in double: same bits on any threads.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "simd/convert.h"
#include "simd/shuffles.h"
#include "tensors/dtypes.h"
#include "tensors/parallel.h"

namespace sparseq::ops {
namespace {

using namespace simd;
using namespace tensors;

constexpr int64_t kChunkPositions = 8192;  // short enough for sums in float
constexpr int64_t kChunkRows = 256;
constexpr int kBlock = 4;  // vectors of columns at a time

struct Features {
  int64_t batch, count, positions;
};

// The sum of `count` numbers side by side.
template <typename T, typename S>
double sum_of(const S* x, int64_t count) {
  constexpr int n = kLanes<T>;
  Vec<T> sums[kBlock] = {};
  int64_t i = 0;
  for (; i + kBlock * n <= count; i += kBlock * n) {
    for (int v = 0; v < kBlock; ++v) sums[v] = sums[v] + load_as<T>(x + i + v * n);
  }
  for (; i + n <= count; i += n) sums[0] = sums[0] + load_as<T>(x + i);
  const Vec<T> all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double total = 0;
  for (int lane = 0; lane < n; ++lane) total += static_cast<double>(all[lane]);
  for (; i < count; ++i) total += static_cast<double>(x[i]);
  return total;
}

// Sums of feature f over examples first .. last - 1.
template <typename T, typename S>
double plane_sum(const Features& f, const S* dy, int64_t feature, int64_t first, int64_t last) {
  double total = 0;
  for (int64_t n = first; n < last; ++n) {
    const S* plane = dy + (n * f.count + feature) * f.positions;
    for (int64_t s = 0; s < f.positions; s += kChunkPositions) {
      total += sum_of<T>(plane + s, std::min(kChunkPositions, f.positions - s));
    }
  }
  return total;
}

// Sums of the NV vectors of columns at x, rows `apart`.
template <typename T, int NV, typename S>
void column_sums(const S* x, int64_t rows, int64_t apart, double* out) {
  constexpr int n = kLanes<T>;
  Vec<T> sums[NV] = {};
  for (int64_t row = 0; row < rows; ++row) {
    for (int v = 0; v < NV; ++v) sums[v] = sums[v] + load_as<T>(x + row * apart + v * n);
  }
  for (int i = 0; i < NV * n; ++i) out[i] = static_cast<double>(sums[i / n][i % n]);
}

// Sums of columns first .. last - 1, in the order of `column_sums` whatever their number.
template <typename T, typename S>
void sum_columns(const S* x, int64_t rows, int64_t apart, int64_t first, int64_t last,
                 double* out) {
  constexpr int n = kLanes<T>;
  int64_t i = first;
  for (; i + kBlock * n <= last; i += kBlock * n) {
    column_sums<T, kBlock>(x + i, rows, apart, out + i);
  }
  for (; i + n <= last; i += n) column_sums<T, 1>(x + i, rows, apart, out + i);
  for (; i < last; ++i) {
    T sum = 0;
    for (int64_t row = 0; row < rows; ++row) sum += static_cast<T>(x[row * apart + i]);
    out[i] = static_cast<double>(sum);
  }
}

template <typename S, typename T>
void sum_features(const Features& f, const S* dy, S* out) {
  static thread_local Scratch scratch;
  const bool planes = f.positions >= kLanes<T>;
  const int64_t columns = planes ? f.count : f.count * f.positions;
  const int64_t repeats = planes ? 1 : f.positions, step = planes ? 1 : kBlock * kLanes<T>;
  const int64_t examples =
      planes ? std::max<int64_t>(1, kChunkPositions / f.positions) : kChunkRows;
  const int64_t chunks = (f.batch + examples - 1) / examples, blocks = (columns + step - 1) / step;
  double* parts = scratch.get<double>(chunks * columns);
  const int64_t vectors = f.batch * f.count * f.positions / kLanes<T>;
  parallel_items(chunks * blocks, useful_threads(vectors), [&](int64_t item) {
    const int64_t chunk = item / blocks, column = item % blocks * step;
    const int64_t first = chunk * examples, last = std::min(f.batch, first + examples);
    double* to = parts + chunk * columns;
    if (planes) {
      to[column] = plane_sum<T>(f, dy, column, first, last);
    } else {
      sum_columns<T>(dy + first * columns, last - first, columns, column,
                     std::min(columns, column + step), to);
    }
  });
  for (int64_t i = 0; i < f.count; ++i) {
    double total = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (int64_t s = 0; s < repeats; ++s) total += parts[chunk * columns + i * repeats + s];
    }
    out[i] = static_cast<S>(static_cast<T>(total));
  }
}

Tensor feature_sum(const Tensor& dy, int64_t features) {
  const char* op = "feature_sum";
  const int64_t dims = dy.dim();
  SPARSEQ_CHECK(features >= 0 && features < dims, op, "features", "must be a dimension of dy",
                features);
  Features f{1, dy.size(features), 1};
  for (int64_t i = 0; i < dims; ++i) {
    if (i != features) (i < features ? f.batch : f.positions) *= dy.size(i);
  }
  const Tensor gradient = as_contiguous(dy);
  Tensor out = new_output(dy, {f.count});
  with_types(op, dy, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    sum_features<S, T>(f, data_of<S>(gradient), mutable_data_of<S>(out));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) { m.impl("feature_sum", TORCH_BOX(&feature_sum)); }

}  // namespace sparseq::ops
