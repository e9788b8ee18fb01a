// spmm_chain: sparse linear maps one after another, each with its bias and, where asked, a ReLU:
//
//     x_0 = x,   x_l = f_l(A_l x_(l-1) + b_l),   y = x_L,   f_l the identity or max(0, .)
//
// One task is a tile of batch rows, taken through all maps: packed once, kept feature-major between
// them in two buffers, unpacked once. x and y are batch-major and contiguous; 16-bit types are
// computed in float throughout and rounded at the end. The tile's width depends on the sizes alone,
// so the bits do not depend on the threads.

#include <torch/csrc/stable/library.h>

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

constexpr const char* kOp = "spmm_chain";

template <typename T>
struct Map {
  Csr csr;
  const T* values;  // (nnz)
  const T* bias;    // (rows) or null
  bool relu;
};

template <typename S, typename T>
struct Chain {
  std::vector<Map<T>> maps;
  const S* x;
  S* y;
  int64_t batch, widest, operations;  // widest: most features of any x_l; operations: of one lane

  int64_t inputs() const { return maps.front().csr.columns; }
  int64_t outputs() const { return maps.back().csr.rows; }
};

// to = f(A from + b), both feature-major tiles of NV vectors.
template <typename T, int NV>
void apply(const Map<T>& map, const T* from, T* to) {
  constexpr int lanes = NV * kLanes<T>;
  for (int64_t row = 0; row < map.csr.rows; ++row) {
    T* out = to + row * lanes;
    const T start = map.bias == nullptr ? T(0) : map.bias[row];
    sum_row<T, NV, false>(map.csr, row, map.values, nullptr, from, start, out);
    for (int i = 0; map.relu && i < NV; ++i) {
      store(out + i * kLanes<T>, relu(load(out + i * kLanes<T>)));
    }
  }
}

template <typename S, typename T, int NV>
void run_tile(const Chain<S, T>& chain, int64_t row0, int64_t count) {
  constexpr int lanes = NV * kLanes<T>;
  static thread_local Scratch scratch;
  T* from = scratch.get<T>(2 * chain.widest * lanes);
  T* to = from + chain.widest * lanes;
  const int64_t inputs = chain.inputs(), outputs = chain.outputs();
  pack_tile(chain.x + row0 * inputs, inputs, inputs, count, lanes, from);
  for (const Map<T>& map : chain.maps) {
    apply<T, NV>(map, from, to);
    std::swap(from, to);
  }
  unpack_tile(from, lanes, outputs, count, chain.y + row0 * outputs, outputs);
}

// Vectors of a tile: as many as near_vectors allows, and at least two tiles where rows allow.
template <typename S, typename T>
int chain_vectors(const Chain<S, T>& chain) {
  int vectors = near_vectors<T>(chain.widest);
  while (vectors > 1 && chain.batch <= vectors * kLanes<T>) vectors /= 2;
  return vectors;
}

template <typename S, typename T>
void run(const Chain<S, T>& chain) {
  const int vectors = chain_vectors(chain);
  const int64_t lanes = vectors * kLanes<T>, tiles = (chain.batch + lanes - 1) / lanes;
  const int64_t threads = useful_threads(chain.operations * tiles * vectors);
  parallel_items(tiles, threads, [&](int64_t tile) {
    const int64_t row0 = tile * lanes, count = std::min(lanes, chain.batch - row0);
    if (vectors == 1) return run_tile<S, T, 1>(chain, row0, count);
    if (vectors == 2) return run_tile<S, T, 2>(chain, row0, count);
    run_tile<S, T, 4>(chain, row0, count);
  });
}

using Tensors = std::vector<Tensor>;

int64_t total(const Tensors& tensors) {
  int64_t count = 0;
  for (const Tensor& tensor : tensors) count += tensor.numel();
  return count;
}

// The patterns of the maps, each checked against what reaches it.
std::vector<Pattern> view_maps(const Tensor& x, const Tensors& values, const Tensors& biases,
                               const Tensors& patterns) {
  std::vector<Pattern> maps;
  int64_t features = x.size(-1);
  for (size_t i = 0; i < values.size(); ++i) {
    maps.push_back(view_link(kOp, patterns, i));
    const Csr& csr = maps[i].forward;
    SPARSEQ_CHECK(csr.columns == features, kOp, "patterns",
                  text("must take the ", features, " features that come to map ", i), csr.columns);
    check_link(kOp, "map", i, csr, x, values[i], biases[i]);
    features = csr.rows;
  }
  return maps;
}

Tensor spmm_chain(const Tensor& x, const Tensors& values, const Tensors& biases,
                  const Tensors& patterns, const std::vector<int64_t>& relu) {
  const size_t count = values.size();
  SPARSEQ_CHECK(
      count > 0 && biases.size() == count && relu.size() == count && patterns.size() == 5 * count,
      kOp, "values, biases, patterns, relu",
      "must have an entry for each map, at least one, and five of patterns",
      text(count, ", ", biases.size(), ", ", patterns.size(), " and ", relu.size()));
  SPARSEQ_CHECK(x.dim() > 0, kOp, "x", "must have a dimension of features", shape_text(x));
  const Tensor input = as_contiguous(x);
  const Tensors matrices = as_contiguous(values), offsets = as_contiguous(biases);
  const std::vector<Pattern> maps = view_maps(x, matrices, offsets, patterns);
  const int64_t outputs = maps.back().forward.rows;
  Tensor y = new_output(x, with_last(x, outputs));
  if (y.numel() == 0) return y;
  with_types(kOp, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    static thread_local Scratch scratch;
    T* memory = scratch.get<T>(converted_size<S, T>(total(matrices) + total(offsets)));
    const auto numbers = [&](const Tensor& tensor) {
      return as_sum_type(data_of<S>(tensor), tensor.numel(), memory);
    };
    Chain<S, T> chain{{},
                      data_of<S>(input),
                      mutable_data_of<S>(y),
                      y.numel() / outputs,
                      maps.front().forward.columns,
                      0};
    for (size_t i = 0; i < count; ++i) {
      const Csr& csr = maps[i].forward;
      const T* bias = offsets[i].numel() == 0 ? nullptr : numbers(offsets[i]);
      chain.maps.push_back({csr, numbers(matrices[i]), bias, relu[i] != 0});
      chain.widest = std::max(chain.widest, csr.rows);
      chain.operations += csr.nnz() + csr.rows;
    }
    run(chain);
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) { m.impl("spmm_chain", TORCH_BOX(&spmm_chain)); }

}  // namespace sparseq::ops
