// spmm: y[n, r] = b[r] + sum over p in row r of values[p] * x[n, col_idx[p]]   (A^T: transposed)
//
// x (n, k) and y (n, m) are batch-major and contiguous, values (nnz) in CSR order, b (m) or none;
// float, double, or 16-bit summed in float. Pointers and strides count elements.
//
// One task is a tile of batch rows times a range of output rows: the tile is packed feature-major,
// so one nonzero is one broadcast against contiguous lanes, and an output row stays in registers
// over all its nonzeros. An empty row gives its bias. Every sum has one order, fixed by the pattern
// and the batch size, so the bits do not depend on the threads.

#include <torch/csrc/stable/library.h>

#include <optional>

#include "tensors/operands.h"
#include "tensors/pattern.h"
#include "tensors/sum_type.h"
#include "tiles/row_product.h"
#include "tiles/tiles.h"

namespace sparseq::ops {
namespace {

using namespace simd;
using namespace tensors;
using namespace tiles;

constexpr int kGroup = 16;         // output rows computed into one buffer before they are stored
constexpr int kGatherBatch = 128;  // from here on, putting the values in order first pays

template <typename S, typename T>
struct Problem {
  Csr csr;
  const T* values;
  const int32_t* order;  // value of entry p is values[order[p]]; null: values[p]
  const S* bias;         // or null
  const S* x;
  S* y;
  int64_t batch;
};

// Output rows first .. last - 1 for the `count` batch rows from `row0` that the tile holds.
template <typename S, typename T, int NV, bool Ordered>
void tile_rows(const Problem<S, T>& problem, const T* tile, int64_t row0, int64_t count,
               int64_t first, int64_t last) {
  constexpr int lanes = NV * kLanes<T>;
  alignas(64) T buffer[kGroup * lanes];
  const Csr& csr = problem.csr;
  for (int64_t group = first; group < last; group += kGroup) {
    const int64_t rows = std::min<int64_t>(kGroup, last - group);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = group + r;
      const T start = problem.bias == nullptr ? T(0) : static_cast<T>(problem.bias[row]);
      sum_row<T, NV, Ordered>(csr, row, problem.values, problem.order, tile, start,
                              buffer + r * lanes);
    }
    unpack_tile(buffer, lanes, rows, count, problem.y + row0 * csr.rows + group, csr.rows);
  }
}

template <typename S, typename T, bool Ordered>
void tile_rows_of(int vectors, const Problem<S, T>& problem, const T* tile, int64_t row0,
                  int64_t count, int64_t first, int64_t last) {
  switch (vectors) {
    case 1:
      return tile_rows<S, T, 1, Ordered>(problem, tile, row0, count, first, last);
    case 2:
      return tile_rows<S, T, 2, Ordered>(problem, tile, row0, count, first, last);
    default:
      return tile_rows<S, T, 4, Ordered>(problem, tile, row0, count, first, last);
  }
}

// Batches of two and more. Threads split the tiles, and the rows too where tiles are few.
template <typename S, typename T>
void multiply_tiles(const Problem<S, T>& problem) {
  const Csr& csr = problem.csr;
  const int most = near_vectors<T>(csr.columns);
  const int64_t width = tile_vectors<T>(problem.batch, most) * kLanes<T>;
  const int64_t tiles = (problem.batch + width - 1) / width;
  const int64_t threads = useful_threads((csr.nnz() + csr.rows) * tiles * width / kLanes<T>);
  const int64_t parts = parts_per_item(tiles, threads);
  parallel_items(tiles * parts, threads, [&](int64_t item) {
    const int64_t row0 = item / parts * width, part = item % parts;
    const int64_t count = std::min(width, problem.batch - row0);
    const int vectors = tile_vectors<T>(count, most);
    static thread_local Scratch scratch;
    T* tile = scratch.get<T>(csr.columns * vectors * kLanes<T>);
    pack_tile(problem.x + row0 * csr.columns, csr.columns, csr.columns, count, vectors * kLanes<T>,
              tile);
    const int64_t first = balanced_row(csr, part, parts), last = balanced_row(csr, part + 1, parts);
    if (problem.order != nullptr) {
      tile_rows_of<S, T, true>(vectors, problem, tile, row0, count, first, last);
    } else {
      tile_rows_of<S, T, false>(vectors, problem, tile, row0, count, first, last);
    }
  });
}

// One batch row: no lanes to fill, so plain sums with eight chains.
template <typename S, typename T, bool Ordered>
void multiply_vector(const Problem<S, T>& problem) {
  const Csr& csr = problem.csr;
  const int64_t threads = useful_threads(csr.nnz() + csr.rows);
  const auto product = [&](int64_t p) {
    T x = static_cast<T>(problem.x[csr.col_idx[p]]);
    keep_scalar(x);
    return problem.values[Ordered ? problem.order[p] : p] * x;
  };
  parallel_items(threads, threads, [&](int64_t part) {
    const int64_t last = balanced_row(csr, part + 1, threads);
    for (int64_t row = balanced_row(csr, part, threads); row < last; ++row) {
      T sums[8] = {problem.bias == nullptr ? T(0) : static_cast<T>(problem.bias[row])};
      int64_t p = csr.row_ptr[row];
      const int64_t end = csr.row_ptr[row + 1];
      for (; p + 8 <= end; p += 8) {
        for (int c = 0; c < 8; ++c) sums[c] += product(p + c);
      }
      for (; p < end; ++p) sums[0] += product(p);
      problem.y[row] = static_cast<S>(((sums[0] + sums[1]) + (sums[2] + sums[3])) +
                                      ((sums[4] + sums[5]) + (sums[6] + sums[7])));
    }
  });
}

Tensor spmm(const Tensor& x, const Tensor& values, const std::optional<Tensor>& bias,
            const std::vector<Tensor>& pattern, bool transposed) {
  const Pattern both = view_pattern("spmm", pattern);
  const Csr& csr = transposed ? both.transposed : both.forward;
  check_values("spmm", "values", values, csr.nnz());
  const auto body = [&](auto types, const auto& data) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const int32_t* perm = transposed ? both.perm : nullptr;
    const bool stay = std::is_same_v<S, T> && !(transposed && data.batch >= kGatherBatch);
    const T* ordered = values_as<T>(data.weight, perm, csr.nnz(), 1, stay);
    const Problem<S, T> problem{csr,    ordered,   stay ? perm : nullptr, data.bias, data.x,
                                data.y, data.batch};
    if (problem.batch > 1) return multiply_tiles(problem);
    if (problem.order != nullptr) return multiply_vector<S, T, true>(problem);
    multiply_vector<S, T, false>(problem);
  };
  return linear_map("spmm", {"x", x}, {csr.columns}, {"values", values}, bias, csr.rows, body);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) { m.impl("spmm", TORCH_BOX(&spmm)); }

}  // namespace sparseq::ops
