// Convolutions of 3x3 taps that keep the map's size, images in the lanes, without a padded border.
//
// The entries of an output channel stand by tap. A tap is then a loop by itself, in which a tile
// at the border leaves out the pixels whose neighbor lies outside the map: on a 4x4 map that is
// 31 % of the work, on a 2x2 map 56 %, and nothing is padded with zeros.
#pragma once

#include <array>
#include <utility>

#include "../../common/csr.h"
#include "epilogue.h"
#include "planes.h"

namespace sparseq::sparse_conv {

using namespace simd;

constexpr int kTaps = 9;
enum Side { kTop = 1, kBottom = 2, kLeft = 4, kRight = 8, kAllSides = 15 };

// Pixels of a tile: as many sums as half the registers hold.
constexpr int64_t kTileRows = kVectorRegisters >= 32 ? 4 : 2;
constexpr int64_t kTileColumns = 4;
constexpr int64_t kSmallMap = 2;  // rows and columns of a map that is one tile

// Entries of output channel o and tap t: pointers[9 o + t] .. pointers[9 o + t + 1] - 1.
template <typename T>
struct EntriesByTap {
  const int32_t* pointers;
  const int32_t* channels;  // that an entry reads
  const T* values;
  const T* bias;    // or null
  int64_t channel;  // elements of a channel of the input
};

// Whether a convolution is of this kind and its maps hold a tile.
inline bool is_unpadded_3x3(const Geometry& g, const Sizes& in) {
  for (int axis = 1; axis < kAxes; ++axis) {
    if (g.kernel[axis] != 3 || g.stride[axis] != 1 || g.padding[axis] != 1 ||
        g.dilation[axis] != 1) {
      return false;
    }
  }
  const bool small = in[1] == kSmallMap && in[2] == kSmallMap;
  return g.dims == 2 && (small || (in[1] >= kTileRows && in[2] >= kTileColumns));
}

// Puts rows first .. last - 1 in the order of their taps.
template <typename S, typename T>
void sort_by_tap(const Csr& csr, const S* values, int64_t group_rows, int64_t first, int64_t last,
                 int32_t* pointers, int32_t* channels, T* ordered) {
  const int32_t count = static_cast<int32_t>(csr.columns / kTaps);
  for (int64_t o = first; o < last; ++o) {
    int32_t next[kTaps + 1] = {};
    const int32_t *begin = csr.col_idx + csr.row_ptr[o], *end = csr.col_idx + csr.row_ptr[o + 1];
    for (const int32_t* id = begin; id < end; ++id) ++next[*id % kTaps + 1];
    next[0] = csr.row_ptr[o];
    for (int t = 0; t < kTaps; ++t) {
      pointers[o * kTaps + t] = next[t];
      next[t + 1] += next[t];
    }
    const int32_t group = static_cast<int32_t>(o / group_rows) * count;
    for (const int32_t* id = begin; id < end; ++id) {
      const int32_t channel = *id / kTaps, to = next[*id - channel * kTaps]++;
      channels[to] = group + channel;
      T value = static_cast<T>(values[id - csr.col_idx]);
      keep_scalar(value);
      ordered[to] = value;
    }
  }
  if (last == csr.rows) pointers[last * kTaps] = static_cast<int32_t>(csr.nnz());
}

// Adds the entries of one tap to the sums of a tile that touches `Sides` of the map.
template <typename T, int H, int W, int Sides, int Tap>
SPARSEQ_INLINE void add_tap(const EntriesByTap<T>& entries, int64_t o, const T* at, int64_t row,
                            Vec<T> (&sums)[H][W]) {
  constexpr int first_row = Tap / 3 == 0 && (Sides & kTop) ? 1 : 0;
  constexpr int last_row = Tap / 3 == 2 && (Sides & kBottom) ? H - 1 : H;
  constexpr int first_column = Tap % 3 == 0 && (Sides & kLeft) ? 1 : 0;
  constexpr int last_column = Tap % 3 == 2 && (Sides & kRight) ? W - 1 : W;
  const T* base = at + (Tap / 3 - 1) * row + (Tap % 3 - 1) * kLanes<T>;
  const int64_t end = entries.pointers[o * kTaps + Tap + 1];
  for (int64_t p = entries.pointers[o * kTaps + Tap]; p < end; ++p) {
    const T* from = base + entries.channels[p] * entries.channel;
    const Vec<T> value = broadcast(entries.values[p]);
    for (int i = first_row; i < last_row; ++i) {
      for (int j = first_column; j < last_column; ++j) {
        sums[i][j] = fmadd(value, load(from + i * row + j * kLanes<T>), sums[i][j]);
      }
    }
  }
}

template <typename T, int H, int W, int Sides, int... Taps>
SPARSEQ_INLINE void add_taps(const EntriesByTap<T>& entries, int64_t o, const T* at, int64_t row,
                             Vec<T> (&sums)[H][W], std::integer_sequence<int, Taps...>) {
  (add_tap<T, H, W, Sides, Taps>(entries, o, at, row, sums), ...);
}

// Output channels first .. last - 1 of the tile of H rows and W columns whose first pixel is `at`.
template <typename T, int H, int W, int Sides>
void unpadded_tile(const EntriesByTap<T>& entries, int64_t first, int64_t last, const T* at,
                   int64_t row, const Epilogue<T>& epilogue, int64_t h, int64_t w) {
  for (int64_t o = first; o < last; ++o) {
    Vec<T> sums[H][W];
    const Vec<T> start = broadcast(entries.bias == nullptr ? T(0) : entries.bias[o]);
    for (auto& line : sums) {
      for (Vec<T>& sum : line) sum = start;
    }
    add_taps<T, H, W, Sides>(entries, o, at, row, sums, std::make_integer_sequence<int, kTaps>{});
    put_tile<T, H, W>(epilogue, o, h, w, sums);
  }
}

template <typename T>
using UnpaddedTile = void (*)(const EntriesByTap<T>&, int64_t, int64_t, const T*, int64_t,
                              const Epilogue<T>&, int64_t, int64_t);

template <typename T, int... Sides>
UnpaddedTile<T> unpadded_tile_of(int sides, std::integer_sequence<int, Sides...>) {
  static constexpr UnpaddedTile<T> tiles[] = {unpadded_tile<T, kTileRows, kTileColumns, Sides>...};
  return tiles[sides];
}

// All tiles of a map, output channels first .. last - 1; the last tiles overlap where sizes ask it.
template <typename T>
void unpadded_map(const EntriesByTap<T>& entries, int64_t first, int64_t last, const T* map,
                  int64_t height, int64_t width, const Epilogue<T>& epilogue) {
  const int64_t row = width * kLanes<T>;
  if (height == kSmallMap && width == kSmallMap) {
    unpadded_tile<T, kSmallMap, kSmallMap, kAllSides>(entries, first, last, map, row, epilogue, 0,
                                                      0);
    return;
  }
  for (int64_t i = 0; i < height; i += kTileRows) {
    const int64_t h = std::min(i, height - kTileRows);
    for (int64_t j = 0; j < width; j += kTileColumns) {
      const int64_t w = std::min(j, width - kTileColumns);
      const int sides = (h == 0 ? kTop : 0) | (h + kTileRows == height ? kBottom : 0) |
                        (w == 0 ? kLeft : 0) | (w + kTileColumns == width ? kRight : 0);
      unpadded_tile_of<T>(sides, std::make_integer_sequence<int, kAllSides + 1>{})(
          entries, first, last, map + h * row + w * kLanes<T>, row, epilogue, h, w);
    }
  }
}

}  // namespace sparseq::sparse_conv
