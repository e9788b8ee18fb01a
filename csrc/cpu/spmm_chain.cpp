// spmm_chain: sparse linear maps one after another, each with its bias and, where asked, a ReLU:
//
//     x_0 = x,   x_l = f_l(A_l x_(l-1) + b_l),   y = x_L,   f_l the identity or max(0, .)
//
// One task is a tile of batch rows, taken through all maps: packed once, kept feature-major between
// them in two buffers, unpacked once. x and y are batch-major and contiguous; 16-bit types are
// computed in float throughout and rounded at the end. The tile's width depends on the sizes alone,
// so the bits do not depend on the threads.

#include <torch/csrc/stable/library.h>

#include "dtypes.h"
#include "pattern.h"
#include "sparse_row.h"
#include "tiles.h"

namespace sparseq {
namespace {

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
      const Vec<T> v = load(out + i * kLanes<T>);
      store(out + i * kLanes<T>, v < Vec<T>{} ? Vec<T>{} : v);  // a NaN stays one
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

// The pattern of map `index` of `count`, checked against the features that reach it.
Csr csr_of(const Tensors& patterns, size_t index, size_t count, int64_t features) {
  SPARSEQ_CHECK(patterns.size() == 5 * count, "spmm_chain", "patterns",
                "must be five tensors for each map", patterns.size());
  const auto first = patterns.begin() + static_cast<std::ptrdiff_t>(5 * index);
  const Csr csr = view_pattern("spmm_chain", Tensors(first, first + 5)).forward;
  SPARSEQ_CHECK(csr.columns == features, "spmm_chain", "patterns",
                "must take as many features as come in", csr.columns);
  return csr;
}

void check_map(const Tensor& x, const Tensor& values, const Tensor& bias, const Csr& csr) {
  SPARSEQ_CHECK(values.numel() == csr.nnz(), "spmm_chain", "values", "must fit the pattern",
                values.numel());
  SPARSEQ_CHECK(bias.numel() == 0 || bias.numel() == csr.rows, "spmm_chain", "biases",
                "must be empty or have an entry for each row", bias.numel());
  check_same_type("spmm_chain", "values", x, values);
  check_same_type("spmm_chain", "biases", x, bias);
}

// Contiguous numbers as T: the tensor's own, or converted into `memory`, which is advanced.
template <typename S, typename T>
const T* as_sums(const Tensor& tensor, T*& memory) {
  if (tensor.numel() == 0) return nullptr;
  const S* stored = static_cast<const S*>(tensor.const_data_ptr());
  if constexpr (std::is_same_v<S, T>) {
    return stored;
  } else {
    T* converted = memory;
    gather_values(stored, nullptr, tensor.numel(), 1, converted);
    memory += tensor.numel();
    return converted;
  }
}

int64_t total(const Tensors& tensors) {
  int64_t count = 0;
  for (const Tensor& tensor : tensors) count += tensor.numel();
  return count;
}

Tensor spmm_chain(const Tensor& x, const Tensors& values, const Tensors& biases,
                  const Tensors& patterns, const std::vector<int64_t>& relu) {
  const size_t count = values.size();
  SPARSEQ_CHECK(count > 0 && biases.size() == count && relu.size() == count, "spmm_chain", "values",
                "must be one tensor for each bias and each relu, at least one", count);
  SPARSEQ_CHECK(x.dim() > 0, "spmm_chain", "x", "must have a dimension of features", x.dim());
  const Tensor input = as_contiguous(x);
  const Tensors kept = as_contiguous(values), offsets = as_contiguous(biases);
  std::vector<Csr> csrs;
  for (size_t i = 0; i < count; ++i) {
    csrs.push_back(csr_of(patterns, i, count, i == 0 ? x.size(-1) : csrs.back().rows));
    check_map(x, kept[i], offsets[i], csrs.back());
  }
  Tensor y = new_output(x, with_last(x, csrs.back().rows));
  if (y.numel() == 0) return y;
  with_types("spmm_chain", x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    static thread_local Scratch scratch;
    T* memory = scratch.get<T>(std::is_same_v<S, T> ? 0 : total(kept) + total(offsets));
    Chain<S, T> chain{{},
                      static_cast<const S*>(input.const_data_ptr()),
                      static_cast<S*>(y.mutable_data_ptr()),
                      y.numel() / csrs.back().rows,
                      csrs.front().columns,
                      0};
    for (size_t i = 0; i < count; ++i) {
      const T* stored = as_sums<S>(kept[i], memory);
      chain.maps.push_back({csrs[i], stored, as_sums<S>(offsets[i], memory), relu[i] != 0});
      chain.widest = std::max(chain.widest, csrs[i].rows);
      chain.operations += csrs[i].nnz() + csrs[i].rows;
    }
    run(chain);
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) { m.impl("spmm_chain", TORCH_BOX(&spmm_chain)); }

}  // namespace sparseq
