// The inner loop of the values' gradient: a dot product over positions for every entry.
#pragma once

#include <algorithm>

#include "../simd/shuffles.h"
#include "sum_tile.h"

namespace sparseq::sparse_conv {

// Positions in which a dot product runs: some vectors at `dy` in packed dy, at `x` in packed x.
struct Stretch {
  int64_t dy, x;
};

// Stretches of the same width; `valid` lanes of the last vector count.
struct Stretches {
  const Stretch* data;
  int64_t count, valid;
};

// Packed dy and x, and the elements of a channel of dy.
template <typename T>
struct PackedMaps {
  const T* dy;
  int64_t dy_channel;
  const T* x;
};

// Vector at `from`; Last: its lanes from `valid` on are zero.
template <typename T, bool Last>
SPARSEQ_INLINE Vec<T> load_valid(const T* from, int64_t valid) {
  const Vec<T> v = load(from);
  if constexpr (Last) return join<T>(v, Vec<T>{}, kLanes<T> - valid);
  return v;
}

// Adds V vectors of dy times those of x at from[j] + at to the sums of as many entries.
template <typename T, int V, bool Last>
SPARSEQ_INLINE void add_stretch(const T* dy, const T* const (&from)[kLanes<T>], int64_t at,
                                int64_t valid, Vec<T> (&sums)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  Vec<T> row[V];
  for (int v = 0; v < V; ++v) row[v] = load_valid<T, Last>(dy + v * n, valid);
  for (int j = 0; j < n; ++j) {
    for (int v = 0; v < V; ++v) {
      sums[j] = fmadd(row[v], load_valid<T, Last>(from[j] + at + v * n, valid), sums[j]);
    }
  }
}

// dv[p] (+)= sum over the stretches of dy's channel o times x at entry p's offset, for the entries
// of rows first .. last - 1.
template <typename T, int V, bool Last>
void dot_tile(const Indirection<T>& indirection, int64_t first, int64_t last,
              const PackedMaps<T>& packed, const Stretches& stretches, bool start, T* dv) {
  constexpr int n = kLanes<T>;
  for (int64_t o = first; o < last; ++o) {
    const T* planes = packed.x + o / indirection.group_rows * indirection.group_step;
    const T* dy = packed.dy + o * packed.dy_channel;
    const int64_t end = indirection.pointers[o + 1];
    for (int64_t p = indirection.pointers[o]; p < end; p += n) {
      const int entries = static_cast<int>(std::min<int64_t>(n, end - p));
      const T* from[n];
      for (int j = 0; j < n; ++j) {  // spare lanes repeat the last one
        from[j] = planes + indirection.table[indirection.ids[p + std::min(j, entries - 1)]];
      }
      Vec<T> sums[n] = {};
      for (int64_t s = 0; s < stretches.count; ++s) {
        const Stretch& stretch = stretches.data[s];
        add_stretch<T, V, Last>(dy + stretch.dy, from, stretch.x, stretches.valid, sums);
      }
      put_sums(sum_each<T>(sums), entries, start, dv + p);
    }
  }
}

}  // namespace sparseq::sparse_conv
