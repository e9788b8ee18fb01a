// The inner loops of sparse convolution: one nonzero is one broadcast against neighbors in memory.
#pragma once

#include <algorithm>

#include "../../common/csr.h"
#include "../simd/vec.h"

namespace sparseq::sparse_conv {

using namespace simd;

// Most sums of a register tile: enough independent ones to hide the latency of the FMA.
constexpr int kMostSums = 8;

// Entries that are fetched ahead.
constexpr int64_t kAhead = 256;

// Output channels whose sums go from memory to memory together.
constexpr int64_t kGroup = 16;

// What each output channel sums: entries pointers[o] .. pointers[o + 1] - 1, whose offset into the
// planes is table[ids[p]], or ids[p] where there is no table. With panels, the entries stand in the
// order they are used: by group of channels, panel of the input, channel; a group has panels *
// kGroup + 1 pointers.
template <typename T>
struct Indirection {
  const int32_t* pointers;
  const int32_t* ids;
  const T* values;
  const int32_t* table;
  const T* bias;       // or null
  int64_t group_rows;  // output channels of a group
  int64_t group_step;  // elements from the planes of one group to those of the next
  int64_t panels = 0;  // 0: the entries are in order of the channels
  bool more = false;   // add to the sums that are in memory

  // The entries of one panel for the channels from `o`, the first of a group.
  Indirection panel(int64_t o, int64_t number) const {
    Indirection entries = *this;
    if (panels > 0) {
      entries.pointers += o / kGroup * (panels * kGroup + 1) + number * kGroup - o;
      entries.more = number > 0;
    }
    return entries;
  }
  int64_t passes() const { return panels > 0 ? panels : 1; }

  // Elements from the planes of the first group to those that channel o reads.
  int64_t group_offset(int64_t o) const {
    return group_step == 0 ? 0 : o / group_rows * group_step;
  }
};

// A register tile of R rows of V vectors: all lanes one value; from and to rows in memory.
template <typename T, int R, int V>
SPARSEQ_INLINE void fill_tile(T value, Vec<T> (&tile)[R][V]) {
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) tile[r][v] = broadcast(value);
  }
}

template <typename T, int R, int V>
SPARSEQ_INLINE void load_tile(const T* from, int64_t row, Vec<T> (&tile)[R][V]) {
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) tile[r][v] = load(from + r * row + v * kLanes<T>);
  }
}

template <typename T, int R, int V>
SPARSEQ_INLINE void store_tile(const Vec<T> (&tile)[R][V], T* to, int64_t row) {
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) store(to + r * row + v * kLanes<T>, tile[r][v]);
  }
}

// tile += value * the tile at `from`.
template <typename T, int R, int V>
SPARSEQ_INLINE void add_tile(T value, const T* from, int64_t row, Vec<T> (&tile)[R][V]) {
  const Vec<T> factor = broadcast(value);
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      tile[r][v] = fmadd(factor, load(from + r * row + v * kLanes<T>), tile[r][v]);
    }
  }
}

// The sum of tiles, in the first of them.
template <typename T, int N, int R, int V>
SPARSEQ_INLINE void merge_tiles(Vec<T> (&tiles)[N][R][V]) {
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      for (int c = 1; c < N; ++c) tiles[0][r][v] += tiles[c][r][v];
    }
  }
}

// Sums of output channels first .. last - 1 over a tile of R rows (`stride` apart) of V vectors.
// out[(o - first) * out_channel + r * out_row + lane].
template <typename T, int R, int V, bool Table>
void sum_tile(const Indirection<T>& indirection, int64_t first, int64_t last, const T* at,
              int64_t stride, T* out, int64_t out_channel, int64_t out_row) {
  constexpr int chains = std::max(1, kMostSums / (R * V));  // independent sums hide latency
  for (int64_t o = first; o < last; ++o, out += out_channel) {
    const T* planes = at + indirection.group_offset(o);
    Vec<T> sums[chains][R][V];
    for (int c = 0; c < chains; ++c) {
      fill_tile(c == 0 && indirection.bias != nullptr ? indirection.bias[o] : T(0), sums[c]);
    }
    if (indirection.more) load_tile(out, out_row, sums[0]);
    const auto add = [&](int64_t p, Vec<T>(&to)[R][V]) __attribute__((always_inline)) {
      const int32_t id = indirection.ids[p];
      const T* from = planes + static_cast<int64_t>(Table ? indirection.table[id] : id);
      add_tile(indirection.values[p], from, stride, to);
    };
    int64_t p = indirection.pointers[o];
    const int64_t end = indirection.pointers[o + 1];
    for (; p + chains <= end; p += chains) {
      __builtin_prefetch(indirection.ids + p + kAhead);
      __builtin_prefetch(indirection.values + p + kAhead);
      for (int c = 0; c < chains; ++c) add(p + c, sums[c]);
    }
    for (; p < end; ++p) add(p, sums[0]);
    merge_tiles<T>(sums);
    store_tile(sums[0], out, out_row);
  }
}

template <typename T>
using SumTile = void (*)(const Indirection<T>&, int64_t, int64_t, const T*, int64_t, T*, int64_t,
                         int64_t);

// The kernel of a tile; rows is a power of two and rows * vectors at most kMostSums.
template <typename T, bool Table>
SumTile<T> sum_tile_of(int64_t rows, int64_t vectors) {
  static constexpr SumTile<T> one[] = {sum_tile<T, 1, 1, Table>, sum_tile<T, 1, 2, Table>,
                                       sum_tile<T, 1, 3, Table>, sum_tile<T, 1, 4, Table>,
                                       sum_tile<T, 1, 5, Table>, sum_tile<T, 1, 6, Table>,
                                       sum_tile<T, 1, 7, Table>, sum_tile<T, 1, 8, Table>};
  static constexpr SumTile<T> two[] = {sum_tile<T, 2, 1, Table>, sum_tile<T, 2, 2, Table>,
                                       sum_tile<T, 2, 3, Table>, sum_tile<T, 2, 4, Table>};
  static constexpr SumTile<T> four[] = {sum_tile<T, 4, 1, Table>, sum_tile<T, 4, 2, Table>};
  if (rows == 1) return one[vectors - 1];
  if (rows == 2) return two[vectors - 1];
  return rows == 4 ? four[vectors - 1] : sum_tile<T, 8, 1, Table>;
}

// Most rows, a power of two, of a register tile `vectors` wide.
inline int64_t tile_rows_of(int64_t vectors, int64_t rows) {
  int64_t most = 1;
  while (2 * most <= rows && 2 * most * vectors <= kMostSums) most *= 2;
  return most;
}

// Equal steps of at most kMostSums vectors through `vectors`.
inline int64_t tile_step(int64_t vectors) {
  const int64_t pieces = (vectors + kMostSums - 1) / kMostSums;
  return (vectors + pieces - 1) / pieces;
}

}  // namespace sparseq::sparse_conv
