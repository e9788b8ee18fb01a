// sparse_hamilton: y = W (x) x + b with only some entries of W (4, m, k) kept, y = W* (x) x
// (conjugate), and the gradient of the kept values.
//
// x (n, 4 k) and y (n, 4 m) are batch-major and contiguous, in four blocks of features; b (4 m) or
// none; float, double, or 16-bit summed in float. Pointers and strides count elements. An output
// without entries is its bias.
//
// Two granularities. component: the pattern is that of the (4 m, k) matrix of components and values
// are (nnz), so a row of the product is four pattern rows (c m + r), and in the transposed pattern
// the entries of a row come sorted by component. quaternion: the pattern is that of the (m, k)
// positions, values (nnz, 4). Either way a task is a tile of batch rows times a range of output
// quaternions, whose four components stay in registers over all entries: each activation vector
// that is loaded meets every kept component of the entry, in the sixteen products of the
// definition. One fixed order of sums; same bits on any threads.

#include <torch/csrc/stable/library.h>

#include <optional>

#include "quaternion/hamilton_table.h"
#include "tensors/pattern.h"
#include "tensors/sum_type.h"
#include "tiles/sampled_product.h"

namespace sparseq::ops {
namespace {

using namespace simd;
using namespace tensors;
using namespace tiles;
using quaternion::kComponent;
using quaternion::sign_of;

constexpr int kGroup = 8;  // output quaternions computed into one buffer before they are stored

template <typename S, typename T>
struct Problem {
  Csr csr;          // rows: output quaternions, or components when `by_component`
  const T* values;  // in the order of csr
  const S* bias;    // (4 outputs) or null
  const S* x;
  S* y;
  int64_t outputs, inputs;  // quaternions
  int64_t batch;
  bool whole;      // quaternion granularity
  bool conjugate;  // csr is the transposed pattern, values are conjugated
};

// Adds value * W_c-part: the entry's component c meets the four blocks of x at column `id`.
template <typename T, int NV, int C, bool Conjugate>
SPARSEQ_INLINE void add_component(T value, const T* column, int64_t block, Vec<T> (&sums)[4][NV]) {
#pragma GCC unroll 4
  for (int b = 0; b < 4; ++b) {
    const Vec<T> factor = broadcast(sign_of(C, b, Conjugate) > 0 ? value : -value);
#pragma GCC unroll 4
    for (int i = 0; i < NV; ++i) {
      Vec<T>& sum = sums[kComponent[C][b]][i];
      sum = fmadd(factor, load(column + b * block + i * kLanes<T>), sum);
    }
  }
}

template <typename T, int NV, bool Conjugate>
SPARSEQ_INLINE void add_quaternion(const T* values, const T* column, int64_t block,
                                   Vec<T> (&sums)[4][NV]) {
#pragma GCC unroll 4
  for (int b = 0; b < 4; ++b) {
    Vec<T> x[NV];
#pragma GCC unroll 4
    for (int i = 0; i < NV; ++i) x[i] = load(column + b * block + i * kLanes<T>);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const Vec<T> factor = broadcast(values[c]);
#pragma GCC unroll 4
      for (int i = 0; i < NV; ++i) {
        Vec<T>& sum = sums[kComponent[c][b]][i];
        sum = sign_of(c, b, Conjugate) > 0 ? sum + factor * x[i] : sum - factor * x[i];
      }
    }
  }
}

// Entries of one component c of an output row: begin .. end - 1, ids offset by `shift`.
template <typename T, int NV, int C, bool Conjugate>
SPARSEQ_INLINE void add_run(const Csr& csr, const T* values, int64_t begin, int64_t end,
                            int64_t shift, const T* tile, int64_t block, Vec<T> (&sums)[4][NV]) {
  for (int64_t p = begin; p < end; ++p) {
    const T* column = tile + (csr.col_idx[p] - shift) * NV * kLanes<T>;
    add_component<T, NV, C, Conjugate>(values[p], column, block, sums);
  }
}

// First entry of begin .. end - 1 whose id is not below `limit`.
SPARSEQ_INLINE int64_t split(const Csr& csr, int64_t begin, int64_t end, int64_t limit) {
  const int32_t* ids = csr.col_idx;
  return std::lower_bound(ids + begin, ids + end, static_cast<int32_t>(limit)) - ids;
}

template <typename S, typename T, int NV, bool Conjugate>
SPARSEQ_INLINE void add_row(const Problem<S, T>& problem, int64_t row, const T* tile,
                            Vec<T> (&sums)[4][NV]) {
  const Csr& csr = problem.csr;
  const int64_t block = problem.inputs * NV * kLanes<T>, m = problem.outputs, k = problem.inputs;
  if (problem.whole) {
    for (int64_t p = csr.row_ptr[row]; p < csr.row_ptr[row + 1]; ++p) {
      const T* column = tile + static_cast<int64_t>(csr.col_idx[p]) * NV * kLanes<T>;
      add_quaternion<T, NV, Conjugate>(problem.values + 4 * p, column, block, sums);
    }
    return;
  }
  int64_t at[5], ends[4];
  for (int c = 0; c < 4; ++c) {  // Conjugate: one pattern row, sorted by component
    at[c] = Conjugate ? (c == 0 ? csr.row_ptr[row] : ends[c - 1]) : csr.row_ptr[c * m + row];
    ends[c] = Conjugate ? split(csr, at[c], csr.row_ptr[row + 1], (c + 1) * k)
                        : csr.row_ptr[c * m + row + 1];
  }
  const int64_t step = Conjugate ? k : 0;
  add_run<T, NV, 0, Conjugate>(csr, problem.values, at[0], ends[0], 0, tile, block, sums);
  add_run<T, NV, 1, Conjugate>(csr, problem.values, at[1], ends[1], step, tile, block, sums);
  add_run<T, NV, 2, Conjugate>(csr, problem.values, at[2], ends[2], 2 * step, tile, block, sums);
  add_run<T, NV, 3, Conjugate>(csr, problem.values, at[3], ends[3], 3 * step, tile, block, sums);
}

// The four components of an output quaternion, kGroup rows of `out` apart.
template <typename S, typename T, int NV, bool Conjugate>
SPARSEQ_INLINE void compute_row(const Problem<S, T>& problem, int64_t row, const T* tile, T* out) {
  constexpr int lanes = NV * kLanes<T>;
  Vec<T> sums[4][NV];
  for (int a = 0; a < 4; ++a) {
    const S* bias = problem.bias;
    const T start = bias == nullptr ? T(0) : static_cast<T>(bias[a * problem.outputs + row]);
    for (int i = 0; i < NV; ++i) sums[a][i] = broadcast(start);
  }
  add_row<S, T, NV, Conjugate>(problem, row, tile, sums);
  for (int a = 0; a < 4; ++a) {
    for (int i = 0; i < NV; ++i) store(out + a * kGroup * lanes + i * kLanes<T>, sums[a][i]);
  }
}

template <typename S, typename T, int NV, bool Conjugate>
void tile_rows(const Problem<S, T>& problem, const T* tile, int64_t row0, int64_t count,
               int64_t first, int64_t last) {
  constexpr int lanes = NV * kLanes<T>;
  alignas(64) T buffer[4 * kGroup * lanes];
  const int64_t m = problem.outputs;
  for (int64_t group = first; group < last; group += kGroup) {
    const int64_t rows = std::min<int64_t>(kGroup, last - group);
    for (int64_t r = 0; r < rows; ++r) {
      compute_row<S, T, NV, Conjugate>(problem, group + r, tile, buffer + r * lanes);
    }
    for (int a = 0; a < 4; ++a) {
      unpack_tile(buffer + a * kGroup * lanes, lanes, rows, count,
                  problem.y + (row0 * 4 + a) * m + group, 4 * m);
    }
  }
}

template <typename S, typename T, bool Conjugate>
void tile_rows_of(int vectors, const Problem<S, T>& problem, const T* tile, int64_t row0,
                  int64_t count, int64_t first, int64_t last) {
  if (vectors == 1) {
    return tile_rows<S, T, 1, Conjugate>(problem, tile, row0, count, first, last);
  }
  tile_rows<S, T, 2, Conjugate>(problem, tile, row0, count, first, last);
}

template <typename S, typename T>
void multiply(const Problem<S, T>& problem) {
  const Csr& csr = problem.csr;
  // more lanes would read each activation from further away; whole quaternions read fewer of them
  const int most = problem.whole ? 2 : 1;
  const int64_t width = tile_vectors<T>(problem.batch, most) * kLanes<T>;
  const int64_t tiles = (problem.batch + width - 1) / width, features = 4 * problem.inputs;
  const int64_t work = csr.nnz() * (problem.whole ? 16 : 4) + 4 * problem.outputs;
  const int64_t threads = useful_threads(work * tiles * width / kLanes<T>);
  const int64_t parts = parts_per_item(tiles, threads), m = problem.outputs;
  parallel_items(tiles * parts, threads, [&](int64_t item) {
    const int64_t row0 = item / parts * width, part = item % parts;
    const int64_t count = std::min(width, problem.batch - row0);
    const int vectors = tile_vectors<T>(count, most);
    static thread_local Scratch scratch;
    T* tile = scratch.get<T>(features * vectors * kLanes<T>);
    pack_tile(problem.x + row0 * features, features, features, count, vectors * kLanes<T>, tile);
    const int64_t first = part_begin(m, part, parts), last = part_begin(m, part + 1, parts);
    if (problem.conjugate) {
      tile_rows_of<S, T, true>(vectors, problem, tile, row0, count, first, last);
    } else {
      tile_rows_of<S, T, false>(vectors, problem, tile, row0, count, first, last);
    }
  });
}

// Vectors of a gradient tile row: the four components of a dy row stay in registers.
constexpr int kGradientVectors = kVectorRegisters >= 32 ? 2 : 1;

// Writes, or adds, the sum over the lanes of each of `count` vectors to out.
template <typename T, int N>
SPARSEQ_INLINE void store_sums(const Vec<T> (&sums)[N], int64_t count, bool start, T* out) {
  constexpr int n = kLanes<T>;
#pragma GCC unroll 2
  for (int first = 0; first < N && first < count; first += n) {
    Vec<T> rows[n];
    for (int j = 0; j < n; ++j) rows[j] = sums[first + j];
    put_sums(sum_each<T>(rows), count - first, start, out + first);
  }
}

// What is sampled: dv of the entries of an (m, k) matrix of quaternions, one by one or whole.
template <typename T>
struct Sampling {
  Csr csr;
  int64_t m, k;
  bool whole;
  T* dv;
};

// The products of four rows of dy with the four blocks of x at `column`.
template <typename T, int NV>
SPARSEQ_INLINE Vec<T> add_blocks(const Vec<T> (&rows)[4][NV], const T* column, int64_t block) {
  Vec<T> sum{};
#pragma GCC unroll 4
  for (int b = 0; b < 4; ++b) {
#pragma GCC unroll 2
    for (int i = 0; i < NV; ++i) {
      sum = fmadd(rows[b][i], load(column + b * block + i * kLanes<T>), sum);
    }
  }
  return sum;
}

// Gradient of component C of output quaternion `row`, kept values one by one.
template <typename T, int NV, int C>
void component_entries(const Sampling<T>& to, const PackedPair<T>& pair, int64_t row) {
  constexpr int n = kLanes<T>, lanes = NV * n;
  const int32_t* row_ptr = to.csr.row_ptr + C * to.m + row;
  Vec<T> rows[4][NV];
  for (int b = 0; b < 4; ++b) {
    for (int i = 0; i < NV; ++i) {
      const Vec<T> value = load(pair.dy + (kComponent[C][b] * to.m + row) * lanes + i * n);
      rows[b][i] = sign_of(C, b, false) > 0 ? value : -value;
    }
  }
  const int64_t end = row_ptr[1];
  for (int64_t p = row_ptr[0]; p < end; p += n) {
    const int64_t entries = std::min<int64_t>(n, end - p);
    Vec<T> sums[n];
    for (int j = 0; j < n; ++j) {
      const int32_t id = to.csr.col_idx[p + std::min<int64_t>(j, entries - 1)];
      sums[j] = add_blocks<T, NV>(rows, pair.x + id * lanes, to.k * lanes);
    }
    store_sums<T, n>(sums, entries, pair.start, to.dv + p);
  }
}

// Adds the products of one entry, the four components of dy with the four blocks of x at `column`,
// to its four sums, those from 4 e on.
template <typename T, int NV, int N>
SPARSEQ_INLINE void add_entry(const Vec<T> (&dy)[4][NV], const T* column, int64_t block, int e,
                              Vec<T> (&sums)[N]) {
#pragma GCC unroll 4
  for (int b = 0; b < 4; ++b) {
#pragma GCC unroll 2
    for (int i = 0; i < NV; ++i) {
      const Vec<T> value = load(column + b * block + i * kLanes<T>);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        const Vec<T> factor = dy[kComponent[c][b]][i];
        Vec<T>& sum = sums[4 * e + c];
        sum = sign_of(c, b, false) > 0 ? sum + factor * value : sum - factor * value;
      }
    }
  }
}

// Gradient of the kept quaternions of output quaternion `row`: four sums an entry.
template <typename T, int NV>
void quaternion_entries(const Sampling<T>& to, const PackedPair<T>& pair, int64_t row) {
  constexpr int n = kLanes<T>, lanes = NV * n, together = n >= 4 ? n / 4 : 1;
  Vec<T> dy[4][NV];
  for (int a = 0; a < 4; ++a) {
    for (int i = 0; i < NV; ++i) dy[a][i] = load(pair.dy + (a * to.m + row) * lanes + i * n);
  }
  const int64_t end = to.csr.row_ptr[row + 1];
  for (int64_t p = to.csr.row_ptr[row]; p < end; p += together) {
    const int64_t entries = std::min<int64_t>(together, end - p);
    Vec<T> sums[4 * together] = {};
#pragma GCC unroll 4
    for (int e = 0; e < together; ++e) {
      const int32_t id = to.csr.col_idx[p + std::min<int64_t>(e, entries - 1)];
      add_entry<T, NV>(dy, pair.x + id * lanes, to.k * lanes, e, sums);
    }
    store_sums<T, 4 * together>(sums, 4 * entries, pair.start, to.dv + 4 * p);
  }
}

template <typename T, int NV>
void tile_entries(const Sampling<T>& to, const PackedPair<T>& pair, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    if (to.whole) {
      quaternion_entries<T, NV>(to, pair, row);
      continue;
    }
    component_entries<T, NV, 0>(to, pair, row);
    component_entries<T, NV, 1>(to, pair, row);
    component_entries<T, NV, 2>(to, pair, row);
    component_entries<T, NV, 3>(to, pair, row);
  }
}

template <typename S, typename T>
void sample(const Csr& csr, const GradientData<S>& data, bool whole, T* dv) {
  const Sampling<T> to{csr, data.m / 4, data.k / 4, whole, dv};
  const auto begins = [&](int64_t part, int64_t parts) { return part_begin(to.m, part, parts); };
  over_packed_pairs<T>(data, {4, 1}, kGradientVectors, csr.nnz() * (whole ? 16 : 4), begins,
                       [&](const PackedPair<T>& pair, int64_t first, int64_t last) {
                         const auto run = pair.vectors == 1 ? tile_entries<T, 1>
                                                            : tile_entries<T, kGradientVectors>;
                         run(to, pair, first, last);
                       });
}

Tensor sparse_hamilton(const Tensor& x, const Tensor& values, const std::optional<Tensor>& bias,
                       const std::vector<Tensor>& pattern, bool conjugate) {
  const char* op = "sparse_hamilton";
  const Pattern both = view_pattern(op, pattern);
  const bool whole = values.dim() == 2;
  const int width = whole ? 4 : 1, per_row = whole ? 1 : 4;
  const int64_t nnz = both.forward.nnz();
  SPARSEQ_CHECK(
      (whole || values.dim() == 1) && values.size(0) == nnz && (!whole || values.size(1) == width),
      op, "values", text("must have shape (", nnz, ",) or (", nnz, ", 4)"), shape_text(values));
  SPARSEQ_CHECK(both.forward.rows % per_row == 0, op, "pattern", "must have 4 m rows",
                both.forward.rows);
  SPARSEQ_CHECK(!(conjugate && bias.has_value()), op, "bias", "must be None when conjugate",
                shape_text(*bias));
  const int64_t m = both.forward.rows / per_row, k = both.forward.columns;
  const int64_t outputs = conjugate ? k : m, inputs = conjugate ? m : k;
  const auto body = [&](auto types, const auto& data) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const T* ordered =
        values_as<T>(data.weight, conjugate ? both.perm : nullptr, nnz, width, !conjugate);
    multiply(Problem<S, T>{conjugate ? both.transposed : both.forward, ordered, data.bias, data.x,
                           data.y, outputs, inputs, data.batch, whole, conjugate});
  };
  return linear_map(op, {"x", x}, {4 * inputs}, {"values", values}, bias, 4 * outputs, body);
}

Tensor sparse_hamilton_dv(const Tensor& dy, const Tensor& x, const std::vector<Tensor>& pattern,
                          bool whole) {
  const char* op = "sparse_hamilton_dv";
  const Pattern both = view_pattern(op, pattern);
  const Csr& csr = both.forward;
  const int64_t nnz = csr.nnz();
  SPARSEQ_CHECK(whole || csr.rows % 4 == 0, op, "pattern", "must have 4 m rows", csr.rows);
  const auto body = [&](auto types, const auto& data) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    with_sums<S, T>(data.out, nnz * (whole ? 4 : 1),
                    [&](T* sums) { sample(csr, data, whole, sums); });
  };
  const std::vector<int64_t> sizes = whole ? std::vector<int64_t>{nnz, 4} : std::vector{nnz};
  return weight_gradient(op, dy, csr.rows * (whole ? 4 : 1), x, 4 * csr.columns, sizes, body);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("sparse_hamilton", TORCH_BOX(&sparse_hamilton));
  m.impl("sparse_hamilton_dv", TORCH_BOX(&sparse_hamilton_dv));
}

}  // namespace sparseq::ops
