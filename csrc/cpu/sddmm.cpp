// sddmm: dv[p] = sum over n of dy[n, row(p)] * x[n, col_idx[p]], for the entries of a pattern only.
//
// dy (n, m) and x (n, k) are batch-major and contiguous; dv (nnz) is in CSR order, and zero for an
// empty batch; float, double, or 16-bit summed in float. Pointers and strides count elements.
//
// dy and x are packed feature-major; the lanes of a dy row stay in registers while its entries
// pass, one vector of partial sums each, and one butterfly sums as many entries as a vector has
// lanes. The batch is added tile by tile in order, by the one thread that owns the row: same bits
// on any threads.

#include <torch/csrc/stable/library.h>

#include "tensors/pattern.h"
#include "tensors/sum_type.h"
#include "tiles/sampled_product.h"

namespace sparseq::ops {
namespace {

using namespace simd;
using namespace tensors;
using namespace tiles;

// Most vectors of a tile row: more would pay the sum over lanes less often, but read x from
// further.
constexpr int kMostVectors = 2;

// Sums over the lanes for `count` entries of one row, at most a vector of them.
template <typename T, int NV>
SPARSEQ_INLINE Vec<T> entry_sums(const Vec<T> (&row)[NV], const int32_t* ids, int count,
                                 const T* x) {
  constexpr int n = kLanes<T>, lanes = NV * n;
  Vec<T> sums[n];
  for (int j = 0; j < n; ++j) {
    // spare lanes repeat the last entry
    const T* column = x + static_cast<int64_t>(ids[std::min(j, count - 1)]) * lanes;
    sums[j] = row[0] * load(column);
    for (int i = 1; i < NV; ++i) sums[j] = fmadd(row[i], load(column + i * n), sums[j]);
  }
  return sum_each<T>(sums);
}

template <typename T, int NV>
void tile_entries(const Csr& csr, const T* dy, const T* x, int64_t first, int64_t last, bool start,
                  T* dv) {
  constexpr int n = kLanes<T>;
  for (int64_t r = first; r < last; ++r) {
    Vec<T> row[NV];
    for (int i = 0; i < NV; ++i) row[i] = load(dy + (r * NV + i) * n);
    const int64_t end = csr.row_ptr[r + 1];
    int64_t p = csr.row_ptr[r];
    for (; p + n <= end; p += n) {
      put_sums(entry_sums<T, NV>(row, csr.col_idx + p, n, x), n, start, dv + p);
    }
    const int left = static_cast<int>(end - p);
    if (left == 0) continue;
    put_sums(entry_sums<T, NV>(row, csr.col_idx + p, left, x), left, start, dv + p);
  }
}

template <typename S, typename T>
void sample(const Csr& csr, const GradientData<S>& data, T* dv) {
  const auto begins = [&](int64_t part, int64_t parts) { return balanced_row(csr, part, parts); };
  over_packed_pairs<T>(data, {1, 1}, kMostVectors, csr.nnz(), begins,
                       [&](const PackedPair<T>& pair, int64_t first, int64_t last) {
                         const auto run =
                             pair.vectors == 1 ? tile_entries<T, 1> : tile_entries<T, kMostVectors>;
                         run(csr, pair.dy, pair.x, first, last, pair.start, dv);
                       });
}

// One batch row: each entry is one product.
template <typename S, typename T>
void sample_row(const Csr& csr, const S* dy, const S* x, T* dv) {
  const int64_t threads = useful_threads(csr.nnz() + csr.rows);
  parallel_items(threads, threads, [&](int64_t part) {
    const int64_t last = balanced_row(csr, part + 1, threads);
    for (int64_t row = balanced_row(csr, part, threads); row < last; ++row) {
      const T gradient = static_cast<T>(dy[row]);
      for (int64_t p = csr.row_ptr[row]; p < csr.row_ptr[row + 1]; ++p) {
        T other = static_cast<T>(x[csr.col_idx[p]]);
        keep_scalar(other);
        dv[p] = gradient * other;
      }
    }
  });
}

Tensor sddmm(const Tensor& dy, const Tensor& x, const std::vector<Tensor>& pattern) {
  const Pattern both = view_pattern("sddmm", pattern);
  const Csr& csr = both.forward;
  const auto body = [&](auto types, const auto& data) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    with_sums<S, T>(data.out, csr.nnz(), [&](T* sums) {
      if (data.batch == 1) return sample_row(csr, data.dy, data.x, sums);
      sample(csr, data, sums);
    });
  };
  return weight_gradient("sddmm", dy, csr.rows, x, csr.columns, {csr.nnz()}, body);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) { m.impl("sddmm", TORCH_BOX(&sddmm)); }

}  // namespace sparseq::ops
