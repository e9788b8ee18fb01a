// sddmm: dv[p] = sum over n of dy[n, row(p)] * x[n, col_idx[p]], for the entries of a pattern only.
//
// dy (n, m) and x (n, k) are batch-major and contiguous; dv (nnz) is in CSR order. Both are packed
// feature-major; the lanes of a dy row stay in registers while its entries pass, one vector of
// partial sums each, and one butterfly sums as many entries as a vector has lanes. The batch is
// added tile by tile in order, by the one thread that owns the row: same bits on any threads.

#include <torch/csrc/stable/library.h>

#include "dtypes.h"
#include "pattern.h"
#include "tiles.h"

namespace sparseq {
namespace {

// Most vectors of a tile row: more would pay the sum over lanes less often, but read x from
// further.
constexpr int kMostVectors = 2;

template <typename T, int NV>
void tile_entries(const Csr& csr, const T* dy, const T* x, int64_t first, int64_t last, bool start,
                  T* dv) {
  constexpr int n = kLanes<T>, lanes = NV * n;
  for (int64_t row = first; row < last; ++row) {
    Vec<T> own[NV];
    for (int i = 0; i < NV; ++i) own[i] = load(dy + row * lanes + i * n);
    const int64_t end = csr.row_ptr[row + 1];
    for (int64_t p = csr.row_ptr[row]; p < end; p += n) {
      const int entries = static_cast<int>(std::min<int64_t>(n, end - p));
      Vec<T> sums[n];
      for (int j = 0; j < n; ++j) {
        const int64_t entry = p + std::min(j, entries - 1);  // spare lanes repeat the last one
        const T* column = x + static_cast<int64_t>(csr.col_idx[entry]) * lanes;
        sums[j] = own[0] * load(column);
        for (int i = 1; i < NV; ++i) sums[j] = fmadd(own[i], load(column + i * n), sums[j]);
      }
      const Vec<T> total = sum_each<T>(sums);
      alignas(64) T out[n];
      store(out, total);
      for (int j = 0; j < entries; ++j) dv[p + j] = start ? out[j] : dv[p + j] + out[j];
    }
  }
}

template <typename S, typename T>
void sample(const Csr& csr, const S* dy, const S* x, int64_t batch, T* dv) {
  const int64_t width = tile_vectors<T>(batch, kMostVectors) * kLanes<T>;
  const int64_t tiles = (batch + width - 1) / width;
  const int64_t vectors = width / kLanes<T>, features = csr.rows + csr.columns;
  const int64_t threads = useful_threads((csr.nnz() + features) * tiles * vectors);
  static thread_local Scratch scratch;
  T* packed = scratch.get<T>(tiles * width * features);  // per tile: dy, then x
  parallel_items(tiles, threads, [&](int64_t tile) {
    const int64_t row0 = tile * width, count = std::min(width, batch - row0);
    const int lanes = tile_vectors<T>(count, kMostVectors) * kLanes<T>;
    T* to = packed + tile * width * features;
    pack_tile(dy + row0 * csr.rows, csr.rows, csr.rows, count, lanes, to);
    pack_tile(x + row0 * csr.columns, csr.columns, csr.columns, count, lanes,
              to + csr.rows * lanes);
  });
  parallel_items(threads, threads, [&](int64_t part) {
    const int64_t first = balanced_row(csr, part, threads);
    const int64_t last = balanced_row(csr, part + 1, threads);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t count = std::min(width, batch - tile * width);
      const int used = tile_vectors<T>(count, kMostVectors);
      const T* from = packed + tile * width * features;
      const T* columns = from + csr.rows * used * kLanes<T>;
      if (used == 1) {
        tile_entries<T, 1>(csr, from, columns, first, last, tile == 0, dv);
      } else {
        tile_entries<T, kMostVectors>(csr, from, columns, first, last, tile == 0, dv);
      }
    }
  });
}

// One batch row: each entry is one product.
template <typename S, typename T>
void sample_row(const Csr& csr, const S* dy, const S* x, T* dv) {
  const int64_t threads = useful_threads(csr.nnz() + csr.rows);
  parallel_items(threads, threads, [&](int64_t part) {
    const int64_t last = balanced_row(csr, part + 1, threads);
    for (int64_t row = balanced_row(csr, part, threads); row < last; ++row) {
      const T own = static_cast<T>(dy[row]);
      for (int64_t p = csr.row_ptr[row]; p < csr.row_ptr[row + 1]; ++p) {
        T other = static_cast<T>(x[csr.col_idx[p]]);
        keep_scalar(other);
        dv[p] = own * other;
      }
    }
  });
}

Tensor sddmm(const Tensor& dy, const Tensor& x, const std::vector<Tensor>& pattern) {
  const Csr csr = view_pattern("sddmm", pattern).forward;
  SPARSEQ_CHECK(dy.dim() > 0 && dy.size(-1) == csr.rows, "sddmm", "dy",
                "must have as many features as the pattern has rows", dy.numel());
  const int64_t batch = csr.rows == 0 ? 0 : dy.numel() / csr.rows;
  SPARSEQ_CHECK(x.dim() > 0 && x.size(-1) == csr.columns && x.numel() == batch * csr.columns,
                "sddmm", "x", "must have dy's batch and the pattern's columns", x.numel());
  check_same_type("sddmm", "x", dy, x);
  const Tensor rows = as_contiguous(dy), columns = as_contiguous(x);
  if (batch == 0) return torch::stable::new_zeros(dy, {csr.nnz()});
  Tensor dv = new_output(dy, {csr.nnz()});
  if (csr.nnz() == 0) return dv;
  with_types("sddmm", dy, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    static thread_local Scratch scratch;
    S* out = static_cast<S*>(dv.mutable_data_ptr());
    T* sums = std::is_same_v<S, T> ? reinterpret_cast<T*>(out) : scratch.get<T>(csr.nnz());
    const S* left = static_cast<const S*>(rows.const_data_ptr());
    const S* right = static_cast<const S*>(columns.const_data_ptr());
    if (batch == 1) {
      sample_row(csr, left, right, sums);
    } else {
      sample(csr, left, right, batch, sums);
    }
    if constexpr (!std::is_same_v<S, T>) std::copy(sums, sums + csr.nnz(), out);
  });
  return dv;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) { m.impl("sddmm", TORCH_BOX(&sddmm)); }

}  // namespace sparseq
