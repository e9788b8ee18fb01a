// The step of every dense micro-kernel: some entries of a column times a tile row.
#pragma once

#include <type_traits>

#include "../simd/vec.h"

namespace sparseq::tiles {

using namespace simd;

// NV vectors of a tile row.
template <typename T, int NV>
SPARSEQ_INLINE void load_row(const T* from, Vec<T> (&row)[NV]) {
  for (int i = 0; i < NV; ++i) row[i] = load(from + i * kLanes<T>);
}

// sums[r] += entries[r * stride] * row.
template <typename T, int MR, int NV>
SPARSEQ_INLINE void add_outer(const T* entries, int64_t stride, const Vec<T> (&row)[NV],
                              Vec<T> (&sums)[MR][NV]) {
  for (int r = 0; r < MR; ++r) {
    const Vec<T> entry = broadcast(entries[r * stride]);
    for (int i = 0; i < NV; ++i) sums[r][i] = fmadd(entry, row[i], sums[r][i]);
  }
}

// Calls body(r, constant) for rows first .. last - 1 in blocks of Height, then of 2, then of 1.
template <int Height, typename Body>
SPARSEQ_INLINE void over_row_blocks(int64_t first, int64_t last, const Body& body) {
  int64_t r = first;
  for (; r + Height <= last; r += Height) body(r, std::integral_constant<int, Height>{});
  for (; r + 2 <= last; r += 2) body(r, std::integral_constant<int, 2>{});
  if (r < last) body(r, std::integral_constant<int, 1>{});
}

}  // namespace sparseq::tiles
