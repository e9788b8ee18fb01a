// The inner loops of sparse convolution: one nonzero is one broadcast against neighbors in memory.
#pragma once

#include <algorithm>

#include "../common/csr.h"
#include "simd/vec.h"

namespace sparseq {

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
struct Program {
  const int32_t* pointers;
  const int32_t* ids;
  const T* values;
  const int32_t* table;
  const T* bias;       // or null
  int64_t group_rows;  // output channels of a group
  int64_t group_step;  // elements from the planes of one group to those of the next
  int64_t panels = 0;  // 0: the entries are in order of the channels
  bool more = false;   // add to the sums there are

  // The entries of one panel for the channels from `o`, the first of a group.
  Program panel(int64_t o, int64_t number) const {
    Program found = *this;
    if (panels > 0) {
      found.pointers += o / kGroup * (panels * kGroup + 1) + number * kGroup - o;
      found.more = number > 0;
    }
    return found;
  }
  int64_t passes() const { return panels > 0 ? panels : 1; }
};

// Sums of output channels first .. last - 1 over a tile of R rows (`stride` apart) of V vectors.
// out[(o - first) * out_channel + r * out_row + lane].
template <typename T, int R, int V, bool Table>
void sum_tile(const Program<T>& program, int64_t first, int64_t last, const T* at, int64_t stride,
              T* out, int64_t out_channel, int64_t out_row) {
  constexpr int n = kLanes<T>;
  constexpr int chains = std::max(1, kMostSums / (R * V));  // independent sums hide latency
  for (int64_t o = first; o < last; ++o, out += out_channel) {
    const T* own = program.group_step == 0 ? at : at + o / program.group_rows * program.group_step;
    Vec<T> sums[chains][R][V];
    for (int c = 0; c < chains; ++c) {
      const T start = c == 0 && program.bias != nullptr ? program.bias[o] : T(0);
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) sums[c][r][v] = broadcast(start);
      }
    }
    if (program.more) {
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) sums[0][r][v] = load(out + r * out_row + v * n);
      }
    }
    const auto add = [&](int64_t p, Vec<T>(&to)[R][V]) __attribute__((always_inline)) {
      const int32_t id = program.ids[p];
      const T* from = own + static_cast<int64_t>(Table ? program.table[id] : id);
      const Vec<T> value = broadcast(program.values[p]);
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) {
          to[r][v] = fmadd(value, load(from + r * stride + v * n), to[r][v]);
        }
      }
    };
    int64_t p = program.pointers[o];
    const int64_t end = program.pointers[o + 1];
    for (; p + chains <= end; p += chains) {
      __builtin_prefetch(program.ids + p + kAhead);
      __builtin_prefetch(program.values + p + kAhead);
      for (int c = 0; c < chains; ++c) add(p + c, sums[c]);
    }
    for (; p < end; ++p) add(p, sums[0]);
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) {
        for (int c = 1; c < chains; ++c) sums[0][r][v] += sums[c][r][v];
        store(out + r * out_row + v * n, sums[0][r][v]);
      }
    }
  }
}

template <typename T>
using SumTile = void (*)(const Program<T>&, int64_t, int64_t, const T*, int64_t, T*, int64_t,
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

// A stretch of positions in which a dot product runs: V vectors at `own` in dy, at `at` in x.
struct Stretch {
  int64_t own, at;
};

// Packed dy and x, and the elements of a channel of dy.
template <typename T>
struct Operands {
  const T* dy;
  int64_t dy_channel;
  const T* x;
};

// dv[p] (+)= sum over the stretches of dy's channel o times x at entry p's offset, for the entries
// of rows first .. last - 1. `Last`: lanes from `valid` on of the only vector do not count.
template <typename T, int V, bool Last>
void dot_tile(const Program<T>& program, int64_t first, int64_t last, const Operands<T>& packed,
              const Stretch* stretches, int64_t count, int64_t valid, bool start, T* dv) {
  constexpr int n = kLanes<T>;
  for (int64_t o = first; o < last; ++o) {
    const T* plane = packed.x + o / program.group_rows * program.group_step;
    const T* dy = packed.dy + o * packed.dy_channel;
    const int64_t end = program.pointers[o + 1];
    for (int64_t p = program.pointers[o]; p < end; p += n) {
      const int entries = static_cast<int>(std::min<int64_t>(n, end - p));
      const T* from[n];
      for (int j = 0; j < n; ++j) {  // spare lanes repeat the last one
        from[j] = plane + program.table[program.ids[p + std::min(j, entries - 1)]];
      }
      Vec<T> sums[n] = {};
      for (int64_t s = 0; s < count; ++s) {
        Vec<T> own[V];
        for (int v = 0; v < V; ++v) {
          own[v] = load(dy + stretches[s].own + v * n);
          if constexpr (Last) own[v] = join<T>(own[v], Vec<T>{}, n - valid);
        }
        for (int j = 0; j < n; ++j) {
          for (int v = 0; v < V; ++v) {
            Vec<T> other = load(from[j] + stretches[s].at + v * n);
            if constexpr (Last) other = join<T>(other, Vec<T>{}, n - valid);
            sums[j] = fmadd(own[v], other, sums[j]);
          }
        }
      }
      alignas(64) T out[n];
      store(out, sum_each<T>(sums));
      for (int j = 0; j < entries; ++j) dv[p + j] = start ? out[j] : dv[p + j] + out[j];
    }
  }
}

}  // namespace sparseq
