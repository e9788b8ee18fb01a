// What each output channel of a call sums, as offsets into the planes of the input.
#pragma once

#include <algorithm>
#include <vector>

#include "pattern.h"
#include "sparse_conv_kernel.h"
#include "sparse_conv_layout.h"

namespace sparseq {

// Memory of a call's programs, kept between calls.
struct ProgramMemory {
  Scratch table, pointers, ids, values, bias;
};

// Offset of every tap in a channel, -1 where it never meets the input, and its output phase.
struct TapOffsets {
  std::vector<int64_t> offsets, phases;

  TapOffsets(const Axes& axes, const Layout& layout) { tap_offsets(axes, layout, offsets, phases); }
  bool all_used() const { return *std::min_element(offsets.begin(), offsets.end()) >= 0; }
};

// Offset of every column (channel of a group, tap) of the weight; 0 where the tap is not used.
inline int32_t* column_table(const TapOffsets& taps, const Layout& layout, int64_t columns,
                             Scratch& memory) {
  const int64_t count = static_cast<int64_t>(taps.offsets.size());
  int32_t* table = memory.get<int32_t>(columns);
  for (int64_t column = 0; column < columns; ++column) {
    const int64_t offset = std::max<int64_t>(0, taps.offsets[column % count]);
    table[column] = static_cast<int32_t>(column / count * layout.channel + offset);
  }
  return table;
}

// Programs from entries in any order: visit(channel, emit) calls emit(phase, offset, entry), where
// `entry` is the place of the value in CSR order.
template <typename S, typename T, typename Visit>
std::vector<Program<T>> make_programs(int64_t channels, int64_t phases, int64_t nnz,
                                      const S* values, const Visit& visit, ProgramMemory& memory) {
  int32_t* pointers = memory.pointers.get<int32_t>(phases * channels + 1);
  int32_t* ids = memory.ids.get<int32_t>(nnz);
  T* kept = memory.values.get<T>(nnz);
  const int64_t threads = useful_threads(nnz);
  std::fill(pointers, pointers + phases * channels + 1, 0);
  parallel_items(channels, threads, [&](int64_t c) {
    visit(c, [&](int64_t phase, int64_t, int64_t) { ++pointers[phase * channels + c + 1]; });
  });
  for (int64_t i = 0; i < phases * channels; ++i) pointers[i + 1] += pointers[i];
  parallel_items(channels, threads, [&](int64_t c) {
    std::vector<int32_t> next(phases);
    for (int64_t i = 0; i < phases; ++i) next[i] = pointers[i * channels + c];
    visit(c, [&](int64_t phase, int64_t offset, int64_t entry) {
      ids[next[phase]] = static_cast<int32_t>(offset);
      kept[next[phase]++] = static_cast<T>(values[entry]);
    });
  });
  std::vector<Program<T>> programs;
  for (int64_t i = 0; i < phases; ++i) {
    programs.push_back({pointers + i * channels, ids, kept, nullptr, nullptr, channels, 0});
  }
  return programs;
}

// Programs of a convolution: rows of the weight, as they stand.
template <typename S, typename T>
std::vector<Program<T>> forward_programs(const Csr& csr, const S* values, const Geometry& g,
                                         const TapOffsets& taps, const Layout& layout,
                                         ProgramMemory& memory) {
  const int64_t rows = csr.rows / g.groups, columns = csr.columns, count = g.taps();
  const int64_t step = g.groups == 1 ? 0 : columns / count * layout.channel;
  if (!taps.all_used()) {
    const auto visit = [&](int64_t o, const auto& emit) {
      for (int64_t p = csr.row_ptr[o]; p < csr.row_ptr[o + 1]; ++p) {
        const int64_t column = csr.col_idx[p], offset = taps.offsets[column % count];
        if (offset >= 0) emit(0, o / rows * step + column / count * layout.channel + offset, p);
      }
    };
    return make_programs<S, T>(csr.rows, 1, csr.nnz(), values, visit, memory);
  }
  const T* kept;
  if constexpr (std::is_same_v<S, T>) {
    kept = values;
  } else {
    T* converted = memory.values.get<T>(csr.nnz());
    gather_values(values, nullptr, csr.nnz(), 1, converted);
    kept = converted;
  }
  const int32_t* table = column_table(taps, layout, columns, memory.table);
  return {{csr.row_ptr, csr.col_idx, kept, table, nullptr, rows, step}};
}

// Programs of the transpose, one per output phase: the columns of a channel, each with its taps.
template <typename S, typename T>
std::vector<Program<T>> transposed_programs(const Pattern& pattern, const S* values,
                                            const Geometry& g, const TapOffsets& taps,
                                            int64_t phases, const Layout& layout,
                                            ProgramMemory& memory) {
  const Csr& csr = pattern.transposed;
  const int64_t count = g.taps(), own = csr.rows / count, rows = csr.columns / g.groups;
  const auto visit = [&](int64_t channel, const auto& emit) {
    const int64_t group = channel / own, column = channel % own * count;
    for (int64_t t = 0; t < count; ++t) {
      if (taps.offsets[t] < 0) continue;
      const int32_t* begin = csr.col_idx + csr.row_ptr[column + t];
      const int32_t* end = csr.col_idx + csr.row_ptr[column + t + 1];
      const int32_t *first = begin, *last = end;
      if (g.groups > 1) {
        first = std::lower_bound(begin, end, static_cast<int32_t>(group * rows));
        last = std::lower_bound(first, end, static_cast<int32_t>((group + 1) * rows));
      }
      for (const int32_t* id = first; id < last; ++id) {
        emit(taps.phases[t], *id * layout.channel + taps.offsets[t],
             pattern.perm[id - csr.col_idx]);
      }
    }
  };
  return make_programs<S, T>(own * g.groups, phases, csr.nnz(), values, visit, memory);
}

}  // namespace sparseq
