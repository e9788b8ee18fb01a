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

// Sorted entries that one output channel sums: ids at .. end - 1 of the pattern.
struct Stream {
  int32_t at, end;
  int64_t shift;  // added to the offset of an id
};

// Where entries come from: streams of a channel, ids that rise in each, the offset of an id (below
// 0: left out), and the place of an entry's value in CSR order.
struct Entries {
  const int32_t* ids;
  const int32_t* perm;  // or null
  int64_t id_count;
  const int64_t* offsets;  // of an id, or null: id * unit
  int64_t unit;

  int64_t offset(int32_t id) const { return offsets == nullptr ? id * unit : offsets[id]; }
};

// Copies the entries of the channels of one group, panel by panel; `next` is where they begin.
template <typename S, typename T>
void fill_group(const Entries& entries, std::vector<std::vector<Stream>>& streams, int64_t panels,
                const S* values, int32_t next, int32_t* pointers, int32_t* ids, T* kept) {
  for (int64_t k = 0; k < panels; ++k) {
    const int64_t bound = (entries.id_count * (k + 1) + panels - 1) / panels;
    for (std::vector<Stream>& channel : streams) {
      *pointers++ = next;
      for (Stream& stream : channel) {
        for (; stream.at < stream.end && entries.ids[stream.at] < bound; ++stream.at) {
          const int64_t offset = entries.offset(entries.ids[stream.at]);
          if (offset < 0) continue;
          ids[next] = static_cast<int32_t>(offset + stream.shift);
          kept[next++] =
              static_cast<T>(values[entries.perm == nullptr ? stream.at : entries.perm[stream.at]]);
        }
      }
    }
  }
  *pointers = next;
}

// Programs with panels, one per output phase; streams_of(phase, channel) gives a channel's streams.
template <typename S, typename T, typename StreamsOf>
std::vector<Program<T>> make_programs(const Entries& entries, int64_t channels, int64_t phases,
                                      int64_t panels, int64_t nnz, const S* values,
                                      const StreamsOf& streams_of, ProgramMemory& memory) {
  const int64_t groups = (channels + kGroup - 1) / kGroup, stride = panels * kGroup + 1;
  int32_t* pointers = memory.pointers.get<int32_t>(phases * groups * stride);
  int32_t* ids = memory.ids.get<int32_t>(nnz);
  T* kept = memory.values.get<T>(nnz);
  std::vector<int32_t> begins(phases * groups + 1, 0);
  const auto group_streams = [&](int64_t item) {
    std::vector<std::vector<Stream>> found(kGroup);
    for (int64_t r = 0; r < kGroup && item % groups * kGroup + r < channels; ++r) {
      found[r] = streams_of(item / groups, item % groups * kGroup + r);
    }
    return found;
  };
  for (int64_t item = 0; item < phases * groups; ++item) {
    begins[item + 1] = begins[item];
    for (const auto& channel : group_streams(item)) {
      for (const Stream& stream : channel) begins[item + 1] += stream.end - stream.at;
    }
  }
  parallel_items(phases * groups, useful_threads(nnz), [&](int64_t item) {
    std::vector<std::vector<Stream>> streams = group_streams(item);
    fill_group(entries, streams, panels, values, begins[item], pointers + item * stride, ids, kept);
  });
  std::vector<Program<T>> programs;
  for (int64_t i = 0; i < phases; ++i) {
    programs.push_back(
        {pointers + i * groups * stride, ids, kept, nullptr, nullptr, channels, 0, panels});
  }
  return programs;
}

// Programs of a convolution: rows of the weight; with `panels`, in the order they are used.
template <typename S, typename T>
std::vector<Program<T>> forward_programs(const Csr& csr, const S* values, const Geometry& g,
                                         const TapOffsets& taps, const Layout& layout,
                                         int64_t panels, ProgramMemory& memory) {
  const int64_t rows = csr.rows / g.groups, columns = csr.columns, count = g.taps();
  const int64_t step = g.groups == 1 ? 0 : columns / count * layout.channel;
  if (panels > 0 || !taps.all_used()) {
    std::vector<int64_t> offsets(columns);
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t offset = taps.offsets[c % count];
      offsets[c] = offset < 0 ? -1 : c / count * layout.channel + offset;
    }
    const Entries entries = {csr.col_idx, nullptr, columns, offsets.data(), 0};
    const auto streams = [&](int64_t, int64_t o) {
      return std::vector<Stream>{{csr.row_ptr[o], csr.row_ptr[o + 1], o / rows * step}};
    };
    return make_programs<S, T>(entries, csr.rows, 1, std::max<int64_t>(1, panels), csr.nnz(),
                               values, streams, memory);
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
                                            int64_t phases, const Layout& layout, int64_t panels,
                                            ProgramMemory& memory) {
  const Csr& csr = pattern.transposed;
  const int64_t count = g.taps(), own = csr.rows / count, rows = csr.columns / g.groups;
  const Entries entries = {csr.col_idx, pattern.perm, csr.columns, nullptr, layout.channel};
  const auto streams = [&](int64_t phase, int64_t channel) {
    std::vector<Stream> found;
    const int64_t group = channel / own, column = channel % own * count;
    for (int64_t t = 0; t < count; ++t) {
      if (taps.offsets[t] < 0 || taps.phases[t] != phase) continue;
      const int32_t* begin = csr.col_idx + csr.row_ptr[column + t];
      const int32_t* end = csr.col_idx + csr.row_ptr[column + t + 1];
      const int32_t *first = begin, *last = end;
      if (g.groups > 1) {
        first = std::lower_bound(begin, end, static_cast<int32_t>(group * rows));
        last = std::lower_bound(first, end, static_cast<int32_t>((group + 1) * rows));
      }
      found.push_back({static_cast<int32_t>(first - csr.col_idx),
                       static_cast<int32_t>(last - csr.col_idx), taps.offsets[t]});
    }
    return found;
  };
  return make_programs<S, T>(entries, own * g.groups, phases, std::max<int64_t>(1, panels),
                             csr.nnz(), values, streams, memory);
}

}  // namespace sparseq
