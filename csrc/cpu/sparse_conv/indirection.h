// What each output channel of a call sums, as offsets into the planes of the input.
#pragma once

#include <algorithm>
#include <vector>

#include "../tensors/pattern.h"
#include "../tensors/sum_type.h"
#include "planes.h"
#include "sum_tile.h"

namespace sparseq::sparse_conv {

using tensors::as_sum_type;
using tensors::parallel_items;
using tensors::Pattern;
using tensors::Scratch;
using tensors::useful_threads;

// Memory of a call's indirections, kept between calls.
struct IndirectionMemory {
  Scratch table, pointers, ids, values;
};

// Offset of every tap in a channel, -1 where it never meets the input, and its output phase.
struct TapOffsets {
  std::vector<int64_t> offsets, phases;

  TapOffsets(const Axes& axes, const PlaneLayout& layout) {
    tap_offsets(axes, layout, offsets, phases);
  }
  bool all_used() const { return *std::min_element(offsets.begin(), offsets.end()) >= 0; }
};

// Offset of every column (channel of a group, tap) of the weight; 0 where the tap is not used.
inline int32_t* column_table(const TapOffsets& taps, const PlaneLayout& layout, int64_t columns,
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

// Where the entries of a group go: in the order they are used, `next` the first that is free.
template <typename S, typename T>
struct OrderedEntries {
  const S* values;
  int32_t next;
  int32_t* ids;
  T* ordered;
};

// Appends the entries of a stream whose ids are below `bound`.
template <typename S, typename T>
void append_stream(const Entries& entries, int64_t bound, Stream& stream,
                   OrderedEntries<S, T>& to) {
  for (; stream.at < stream.end && entries.ids[stream.at] < bound; ++stream.at) {
    const int64_t offset = entries.offset(entries.ids[stream.at]);
    if (offset < 0) continue;
    const int32_t place = entries.perm == nullptr ? stream.at : entries.perm[stream.at];
    to.ids[to.next] = static_cast<int32_t>(offset + stream.shift);
    to.ordered[to.next++] = static_cast<T>(to.values[place]);
  }
}

// Copies the entries of the channels of one group, panel by panel.
template <typename S, typename T>
void fill_group(const Entries& entries, std::vector<std::vector<Stream>>& streams, int64_t panels,
                OrderedEntries<S, T> to, int32_t* pointers) {
  for (int64_t k = 0; k < panels; ++k) {
    const int64_t bound = (entries.id_count * (k + 1) + panels - 1) / panels;
    for (std::vector<Stream>& channel : streams) {
      *pointers++ = to.next;
      for (Stream& stream : channel) append_stream(entries, bound, stream, to);
    }
  }
  *pointers = to.next;
}

// Indirections with panels, one per output phase; streams_of(phase, channel) gives a channel's
// streams.
template <typename S, typename T, typename StreamsOf>
std::vector<Indirection<T>> paneled_indirections(const Entries& entries, int64_t channels,
                                                 int64_t phases, int64_t panels, int64_t nnz,
                                                 const S* values, const StreamsOf& streams_of,
                                                 IndirectionMemory& memory) {
  const int64_t groups = (channels + kGroup - 1) / kGroup, stride = panels * kGroup + 1;
  int32_t* pointers = memory.pointers.get<int32_t>(phases * groups * stride);
  int32_t* ids = memory.ids.get<int32_t>(nnz);
  T* ordered = memory.values.get<T>(nnz);
  std::vector<int32_t> begins(phases * groups + 1, 0);
  const auto group_streams = [&](int64_t item) {
    std::vector<std::vector<Stream>> channels_of(kGroup);
    for (int64_t r = 0; r < kGroup && item % groups * kGroup + r < channels; ++r) {
      channels_of[r] = streams_of(item / groups, item % groups * kGroup + r);
    }
    return channels_of;
  };
  for (int64_t item = 0; item < phases * groups; ++item) {
    begins[item + 1] = begins[item];
    for (const auto& channel : group_streams(item)) {
      for (const Stream& stream : channel) begins[item + 1] += stream.end - stream.at;
    }
  }
  parallel_items(phases * groups, useful_threads(nnz), [&](int64_t item) {
    std::vector<std::vector<Stream>> streams = group_streams(item);
    const OrderedEntries<S, T> to{values, begins[item], ids, ordered};
    fill_group(entries, streams, panels, to, pointers + item * stride);
  });
  std::vector<Indirection<T>> indirections;
  for (int64_t i = 0; i < phases; ++i) {
    indirections.push_back(
        {pointers + i * groups * stride, ids, ordered, nullptr, nullptr, channels, 0, panels});
  }
  return indirections;
}

// Indirections of a convolution: rows of the weight; with `panels`, in the order they are used.
template <typename S, typename T>
std::vector<Indirection<T>> forward_indirections(const Csr& csr, const S* values, const Geometry& g,
                                                 const TapOffsets& taps, const PlaneLayout& layout,
                                                 int64_t panels, IndirectionMemory& memory) {
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
    return paneled_indirections<S, T>(entries, csr.rows, 1, std::max<int64_t>(1, panels), csr.nnz(),
                                      values, streams, memory);
  }
  const T* converted = as_sum_type<T>(values, csr.nnz(), memory.values);
  const int32_t* table = column_table(taps, layout, columns, memory.table);
  return {{csr.row_ptr, csr.col_idx, converted, table, nullptr, rows, step}};
}

// Indirections of the transpose, one per output phase: the columns of a channel, each with its
// taps.
template <typename S, typename T>
std::vector<Indirection<T>> transposed_indirections(const Pattern& pattern, const S* values,
                                                    const Geometry& g, const TapOffsets& taps,
                                                    int64_t phases, const PlaneLayout& layout,
                                                    int64_t panels, IndirectionMemory& memory) {
  const Csr& csr = pattern.transposed;
  const int64_t count = g.taps(), group_channels = csr.rows / count;
  const int64_t rows = csr.columns / g.groups;
  const Entries entries = {csr.col_idx, pattern.perm, csr.columns, nullptr, layout.channel};
  const auto streams = [&](int64_t phase, int64_t channel) {
    std::vector<Stream> taken;
    const int64_t group = channel / group_channels, column = channel % group_channels * count;
    for (int64_t t = 0; t < count; ++t) {
      if (taps.offsets[t] < 0 || taps.phases[t] != phase) continue;
      const int32_t* begin = csr.col_idx + csr.row_ptr[column + t];
      const int32_t* end = csr.col_idx + csr.row_ptr[column + t + 1];
      const int32_t *first = begin, *last = end;
      if (g.groups > 1) {
        first = std::lower_bound(begin, end, static_cast<int32_t>(group * rows));
        last = std::lower_bound(first, end, static_cast<int32_t>((group + 1) * rows));
      }
      taken.push_back({static_cast<int32_t>(first - csr.col_idx),
                       static_cast<int32_t>(last - csr.col_idx), taps.offsets[t]});
    }
    return taken;
  };
  return paneled_indirections<S, T>(entries, group_channels * g.groups, phases,
                                    std::max<int64_t>(1, panels), csr.nnz(), values, streams,
                                    memory);
}

}  // namespace sparseq::sparse_conv
