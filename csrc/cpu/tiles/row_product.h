// One row of a sparse matrix times a feature-major tile: what every sparse product is made of.
#pragma once

#include "../../common/csr.h"
#include "../simd/vec.h"

namespace sparseq::tiles {

using namespace simd;

// out (NV vectors) = start + sum over the entries of `row` of value * tile row of the entry's
// column. The value of entry p is values[order[p]] if Ordered, else values[p]. The order of the sum
// depends on the pattern and on NV alone.
template <typename T, int NV, bool Ordered>
SPARSEQ_INLINE void sum_row(const Csr& csr, int64_t row, const T* values, const int32_t* order,
                            const T* tile, T start, T* out) {
  const int32_t* ids = csr.col_idx;
  const auto value_of = [&](int64_t p) { return broadcast(values[Ordered ? order[p] : p]); };
  constexpr int lanes = NV * kLanes<T>;
  constexpr int chains = NV >= 4 ? 2 : 8 / NV;  // independent sums hide the FMA's latency
  Vec<T> sums[chains][NV];
  for (int c = 0; c < chains; ++c) {
    for (int i = 0; i < NV; ++i) sums[c][i] = broadcast(c == 0 ? start : T(0));
  }
  int64_t p = csr.row_ptr[row];
  const int64_t end = csr.row_ptr[row + 1];
  for (; p + chains <= end; p += chains) {
    for (int c = 0; c < chains; ++c) {
      const Vec<T> value = value_of(p + c);
      const T* column = tile + static_cast<int64_t>(ids[p + c]) * lanes;
      for (int i = 0; i < NV; ++i) {
        sums[c][i] = fmadd(value, load(column + i * kLanes<T>), sums[c][i]);
      }
    }
  }
  for (; p < end; ++p) {
    const Vec<T> value = value_of(p);
    const T* column = tile + static_cast<int64_t>(ids[p]) * lanes;
    for (int i = 0; i < NV; ++i) {
      sums[0][i] = fmadd(value, load(column + i * kLanes<T>), sums[0][i]);
    }
  }
  for (int i = 0; i < NV; ++i) {
    for (int c = 1; c < chains; ++c) sums[0][i] += sums[c][i];
    store(out + i * kLanes<T>, sums[0][i]);
  }
}

}  // namespace sparseq::tiles
