// block_mm: y = A x + b for a sparse grid of dense blocks of r rows and c columns, y = A^T x
// (transposed), and the gradient of the kept blocks.
//
//     y[n, I r + i] = b[I r + i] + sum over blocks p = (I, J) and j < c of
//                     values[p, i, j] x[n, J c + j]
//
// x (n, columns c) and y (n, rows r) are batch-major and contiguous; values (blocks, r, c) in the
// grid's CSR order; float, double, or 16-bit summed in float. Pointers and strides count elements.
// A grid row without blocks gives its bias.
//
// One task is a tile of batch rows times a range of grid rows; a register block of output rows
// meets every block of its grid row as a dense micro-tile. The transpose reads the same values with
// the roles of i and j exchanged. Sums run in the grid's order: same bits on any threads.

#include <torch/csrc/stable/library.h>

#include <optional>

#include "tensors/pattern.h"
#include "tensors/sum_type.h"
#include "tiles/outer_product.h"
#include "tiles/sampled_product.h"

namespace sparseq::ops {
namespace {

using namespace simd;
using namespace tensors;
using namespace tiles;

constexpr int kGroup = 16;  // output rows gathered before they are stored
// Most vectors of the batch a gradient tile is wide: the sum over lanes is paid once a tile.
constexpr int kMostVectors = kVectorRegisters >= 32 ? 8 : 4;

// The multiplied direction: `out` rows and `in` columns per block, entry (o, i) of block p at
// values[p * out * in + o * out_stride + i * in_stride].
template <typename S, typename T>
struct Problem {
  Csr grid;
  const T* values;
  const int32_t* order;  // block p of the grid is values block order[p]; null: p
  const S* bias;         // or null
  const S* x;
  S* y;
  int64_t batch;
  int64_t out, in, out_stride, in_stride;
};

// MR output rows of one grid row, from row `first` of its blocks, over one tile.
template <typename S, typename T, int MR, int NV>
SPARSEQ_INLINE void micro_rows(const Problem<S, T>& problem, int64_t grid_row, int64_t first,
                               const T* tile, T* out) {
  constexpr int n = kLanes<T>, lanes = NV * n;
  const Csr& grid = problem.grid;
  Vec<T> sums[MR][NV];
  for (int r = 0; r < MR; ++r) {
    const S* bias = problem.bias;
    const T start =
        bias == nullptr ? T(0) : static_cast<T>(bias[grid_row * problem.out + first + r]);
    for (int i = 0; i < NV; ++i) sums[r][i] = broadcast(start);
  }
  for (int64_t p = grid.row_ptr[grid_row]; p < grid.row_ptr[grid_row + 1]; ++p) {
    const int64_t block = problem.order == nullptr ? p : problem.order[p];
    const T* values =
        problem.values + block * problem.out * problem.in + first * problem.out_stride;
    const T* column = tile + grid.col_idx[p] * problem.in * lanes;
    for (int64_t j = 0; j < problem.in; ++j) {
      Vec<T> x[NV];
      load_row<T>(column + j * lanes, x);
      add_outer<T>(values + j * problem.in_stride, problem.out_stride, x, sums);
    }
  }
  for (int r = 0; r < MR; ++r) {
    for (int i = 0; i < NV; ++i) store(out + r * lanes + i * n, sums[r][i]);
  }
}

// Output rows are stored in groups, so that the layout change moves whole vectors.
template <typename S, typename T, int NV>
void tile_rows(const Problem<S, T>& problem, const T* tile, int64_t row0, int64_t count,
               int64_t first, int64_t last) {
  constexpr int lanes = NV * kLanes<T>, height = kTileHeight<NV>;
  alignas(64) T buffer[(kGroup + height) * lanes];
  const int64_t rows = problem.grid.rows * problem.out;
  int64_t stored = first * problem.out, filled = 0;
  for (int64_t row = first; row < last; ++row) {
    for (int64_t r = 0; r < problem.out;) {
      const int64_t left = problem.out - r, done = left >= height ? height : left >= 4 ? 4 : 1;
      T* out = buffer + filled * lanes;
      if (done == height) {
        micro_rows<S, T, height, NV>(problem, row, r, tile, out);
      } else if (done == 4) {
        micro_rows<S, T, 4, NV>(problem, row, r, tile, out);
      } else {
        micro_rows<S, T, 1, NV>(problem, row, r, tile, out);
      }
      r += done;
      filled += done;
      if (filled < kGroup && !(row + 1 == last && r == problem.out)) continue;
      copy2d_inlined(buffer, 1, lanes, problem.y + row0 * rows + stored, rows, count, filled);
      stored += filled;
      filled = 0;
    }
  }
}

template <typename S, typename T>
void multiply(const Problem<S, T>& problem) {
  const Csr& grid = problem.grid;
  const int64_t width = tile_vectors<T>(problem.batch) * kLanes<T>;
  const int64_t tiles = (problem.batch + width - 1) / width, columns = grid.columns * problem.in;
  const int64_t work = grid.nnz() * problem.out * problem.in + grid.rows * problem.out;
  const int64_t threads = useful_threads(work * tiles * width / kLanes<T>);
  const int64_t parts = parts_per_item(tiles, threads);
  parallel_items(tiles * parts, threads, [&](int64_t item) {
    const int64_t row0 = item / parts * width, part = item % parts;
    const int64_t count = std::min(width, problem.batch - row0);
    const int vectors = tile_vectors<T>(count);
    static thread_local Scratch scratch;
    T* tile = scratch.get<T>(columns * vectors * kLanes<T>);
    pack_tile(problem.x + row0 * columns, columns, columns, count, vectors * kLanes<T>, tile);
    const int64_t first = balanced_row(grid, part, parts);
    const int64_t last = balanced_row(grid, part + 1, parts);
    if (vectors == 1) return tile_rows<S, T, 1>(problem, tile, row0, count, first, last);
    if (vectors == 2) return tile_rows<S, T, 2>(problem, tile, row0, count, first, last);
    tile_rows<S, T, 4>(problem, tile, row0, count, first, last);
  });
}

struct BlockSize {
  int64_t rows, columns;
};

// Where a corner of a block begins; rows and columns past the end repeat the last.
struct Corner {
  BlockSize block;
  int64_t i, j;
};

// Gradient of a corner of a block, R rows times kLanes / R columns: one vector of partial sums
// each, so that one butterfly sums them all.
template <typename T, int R>
SPARSEQ_INLINE void corner_sums(const T* dy, const T* x, int vectors, const Corner& at, bool start,
                                T* dv) {
  constexpr int n = kLanes<T>, columns = n / R;
  const int64_t lanes = vectors * n;
  const auto [block_rows, block_columns] = at.block;
  Vec<T> sums[n] = {};
  const T *left[R], *right[columns];
  for (int r = 0; r < R; ++r) left[r] = dy + std::min(at.i + r, block_rows - 1) * lanes;
  for (int c = 0; c < columns; ++c) right[c] = x + std::min(at.j + c, block_columns - 1) * lanes;
  for (int64_t v = 0; v < lanes; v += n) {
    Vec<T> column[columns];
    for (int c = 0; c < columns; ++c) column[c] = load(right[c] + v);
    for (int r = 0; r < R; ++r) {
      const Vec<T> row = load(left[r] + v);
      for (int c = 0; c < columns; ++c) {
        sums[r * columns + c] = fmadd(row, column[c], sums[r * columns + c]);
      }
    }
  }
  alignas(64) T total[n];
  store(total, sum_each<T>(sums));
  for (int r = 0; r < R && at.i + r < block_rows; ++r) {
    T* out = dv + (at.i + r) * block_columns + at.j;
    for (int c = 0; c < columns && at.j + c < block_columns; ++c) {
      out[c] = start ? total[r * columns + c] : out[c] + total[r * columns + c];
    }
  }
}

// All corners of one block.
template <typename T, int R>
SPARSEQ_INLINE void block_sums(const T* dy, const T* x, int vectors, const BlockSize& block,
                               bool start, T* dv) {
  for (int64_t i = 0; i < block.rows; i += R) {
    for (int64_t j = 0; j < block.columns; j += kLanes<T> / R) {
      corner_sums<T, R>(dy, x, vectors, {block, i, j}, start, dv);
    }
  }
}

// All blocks of grid rows first .. last - 1.
template <typename T, int R>
void tile_blocks(const Csr& grid, const PackedPair<T>& pair, const BlockSize& block, int64_t first,
                 int64_t last, T* dv) {
  const int64_t lanes = pair.vectors * kLanes<T>;
  for (int64_t row = first; row < last; ++row) {
    for (int64_t p = grid.row_ptr[row]; p < grid.row_ptr[row + 1]; ++p) {
      const T* dy = pair.dy + row * block.rows * lanes;
      const T* x = pair.x + grid.col_idx[p] * block.columns * lanes;
      block_sums<T, R>(dy, x, pair.vectors, block, pair.start, dv + p * block.rows * block.columns);
    }
  }
}

template <typename S, typename T>
void sample(const Csr& grid, const GradientData<S>& data, const BlockSize& block, T* dv) {
  constexpr int n = kLanes<T>;
  const auto begins = [&](int64_t part, int64_t parts) { return balanced_row(grid, part, parts); };
  const auto run = block.columns == 1 ? tile_blocks<T, n> : tile_blocks<T, (n >= 8 ? 4 : 2)>;
  over_packed_pairs<T>(data, {1, block.rows}, kMostVectors, grid.nnz() * block.rows * block.columns,
                       begins, [&](const PackedPair<T>& pair, int64_t first, int64_t last) {
                         run(grid, pair, block, first, last, dv);
                       });
}

Tensor block_mm(const Tensor& x, const Tensor& values, const std::optional<Tensor>& bias,
                const std::vector<Tensor>& pattern, bool transposed) {
  const Pattern both = view_pattern("block_mm", pattern);
  SPARSEQ_CHECK(values.dim() == 3 && values.size(0) == both.forward.nnz(), "block_mm", "values",
                text("must have shape (", both.forward.nnz(), ", r, c)"), shape_text(values));
  const int64_t r = values.size(1), c = values.size(2);
  const Csr& grid = transposed ? both.transposed : both.forward;
  const int64_t out = transposed ? c : r, in = transposed ? r : c;
  const auto body = [&](auto types, const auto& data) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const T* blocks = values_as<T>(data.weight, nullptr, values.numel(), 1, true);
    multiply(Problem<S, T>{grid, blocks, transposed ? both.perm : nullptr, data.bias, data.x,
                           data.y, data.batch, out, in, transposed ? 1 : c, transposed ? c : 1});
  };
  const auto size = [&](int64_t a, int64_t b) { return size_product("block_mm", "values", a, b); };
  return linear_map("block_mm", {"x", x}, {size(grid.columns, in)}, {"values", values}, bias,
                    size(grid.rows, out), body);
}

Tensor block_mm_dv(const Tensor& dy, const Tensor& x, const std::vector<Tensor>& pattern,
                   int64_t rows, int64_t columns) {
  const Pattern both = view_pattern("block_mm_dv", pattern);
  const Csr& grid = both.forward;
  const auto size = [&](int64_t a, int64_t b) {
    return size_product("block_mm_dv", "block", a, b);
  };
  size(grid.nnz(), size(rows, columns));
  const auto body = [&](auto types, const auto& data) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    with_sums<S, T>(data.out, grid.nnz() * rows * columns,
                    [&](T* sums) { sample(grid, data, {rows, columns}, sums); });
  };
  return weight_gradient("block_mm_dv", dy, size(grid.rows, rows), x, size(grid.columns, columns),
                         {grid.nnz(), rows, columns}, body);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("block_mm", TORCH_BOX(&block_mm));
  m.impl("block_mm_dv", TORCH_BOX(&block_mm_dv));
}

}  // namespace sparseq::ops
