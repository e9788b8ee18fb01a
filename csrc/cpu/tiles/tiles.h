// Feature-major tiles: the layout all kernels compute in.
//
// A tile holds `lanes` consecutive batch rows (or pixels) of a batch-major tensor with the batch
// index innermost: tile[feature * lanes + lane]. One weight is then one broadcast against
// contiguous lanes. Lanes past the end of the batch are zero.
#pragma once

#include <cstring>
#include <type_traits>

#include "../simd/convert.h"
#include "../simd/shuffles.h"

namespace sparseq::tiles {

using namespace simd;

// Vectors per tile row, from the number of batch rows left: whole registers, few of them wasted.
template <typename T>
inline int tile_vectors(int64_t rows_left, int most = 4) {
  int vectors = 1;
  while (vectors < most && vectors * kLanes<T> < rows_left) vectors *= 2;
  return vectors;
}

// Most vectors of a tile row when the tile's features are read in no order: past about twice L1 the
// reads are bound by L2, and a tile of fewer lanes then keeps more of its features near.
template <typename T>
inline int near_vectors(int64_t features) {
  constexpr int64_t near_bytes = 64 * 1024;
  return 4 * features * kVectorBytes <= near_bytes ? 4 : 2;
}

// Rows of a register block NV vectors wide: as many sums as registers hold beside a tile row.
template <int NV>
constexpr int kTileHeight =
    NV == 4 ? (kVectorRegisters >= 32 ? 6 : 2)
            : (NV == 2 ? (kVectorRegisters >= 32 ? 12 : 4) : (kVectorRegisters >= 32 ? 12 : 8));

// dst[i * ld + j] = src[j * sj + i], both extents one vector of T, the wider of the two types.
template <typename T, typename S, typename D>
SPARSEQ_INLINE void transpose_block(const S* src, int64_t sj, D* dst, int64_t ld) {
  constexpr int n = kLanes<T>;
  Vec<T> rows[n];
  for (int j = 0; j < n; ++j) rows[j] = load_as<T>(src + j * sj);
  transpose<T>(rows);
  for (int i = 0; i < n; ++i) store_as<D, T>(dst + i * ld, rows[i]);
}

// dst[i * ld + j] = src[i * si + j * sj] for i < rows, j < columns, converting the type.
// Fast where si or sj is 1. Inlined, for hot places whose strides are constants.
template <typename S, typename D>
SPARSEQ_INLINE void copy2d_inlined(const S* src, int64_t si, int64_t sj, D* dst, int64_t ld,
                                   int64_t rows, int64_t columns) {
  using T = std::conditional_t<(sizeof(S) > sizeof(D)), S, D>;
  constexpr int n = kLanes<T>;
  if (sj == 1) {
    for (int64_t i = 0; i < rows; ++i) {
      copy_row<T>(src + i * si, dst + i * ld, columns);
    }
    return;
  }
  const int64_t blocked_rows = si == 1 ? rows / n * n : 0;
  const int64_t blocked_columns = si == 1 ? columns / n * n : 0;
  for (int64_t j = 0; j < blocked_columns; j += n) {
    for (int64_t i = 0; i < blocked_rows; i += n) {
      transpose_block<T>(src + i + j * sj, sj, dst + i * ld + j, ld);
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = i < blocked_rows ? blocked_columns : 0; j < columns; ++j) {
      dst[i * ld + j] = static_cast<D>(src[i * si + j * sj]);
    }
  }
}

template <typename S, typename D>
void copy2d(const S* src, int64_t si, int64_t sj, D* dst, int64_t ld, int64_t rows,
            int64_t columns) {
  copy2d_inlined(src, si, sj, dst, ld, rows, columns);
}

// Packs `count` batch rows of x (row-major, `stride` elements apart) into a tile of `lanes`.
template <typename S, typename T>
void pack_tile(const S* x, int64_t stride, int64_t features, int64_t count, int lanes, T* tile) {
  if (count < lanes) std::memset(tile, 0, features * lanes * sizeof(T));
  copy2d(x, 1, stride, tile, lanes, features, count);
}

// Unpacks `features` rows of a tile to batch rows y (row-major, `stride` elements apart).
template <typename T, typename S>
void unpack_tile(const T* tile, int lanes, int64_t features, int64_t count, S* y, int64_t stride) {
  copy2d(tile, 1, lanes, y, stride, count, features);
}

}  // namespace sparseq::tiles
