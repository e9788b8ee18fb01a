// Convolutions whose entries are whole 3x3 slices, at a stride and dilation of 1: an edge between
// two channels has all nine taps, so that a load of the input serves three of them.
#pragma once

#include "indirection.h"
#include "interleaved.h"
#include "tile_walks.h"

namespace sparseq::sparse_conv {

constexpr int kSide = 3;
constexpr int kSlice = kSide * kSide;
constexpr int64_t kSliceBytes = 768 << 10;  // of packed maps: what leaves room in an L2 cache
constexpr int64_t kSlicePixels = 256;       // of channels whose sums are written together

// Whether the entries are slices of `taps` neighbors; as ids rise in a row, their ends tell.
inline bool whole_slices(const Csr& csr, int64_t taps) {
  for (int64_t r = 0; r < csr.rows; ++r) {
    if (csr.row_ptr[r + 1] % taps != 0) return false;
  }
  for (int64_t p = 0; p < csr.nnz(); p += taps) {
    const int32_t first = csr.col_idx[p];
    if (first % taps != 0 || csr.col_idx[p + taps - 1] - first != taps - 1) return false;
  }
  return true;
}

// An axis along which three neighbors of the input are read, from one plane.
inline bool three_neighbors(const Axis& axis) {
  if (axis.taps.size() != kSide || axis.bases.size() != 1 || axis.reach != kSide - 1) return false;
  if (axis.step != 1 || axis.out_step != 1 || axis.bases[0] > 0) return false;
  return axis.taps[0].used && axis.taps[1].used && axis.taps[2].used;
}

// Whether rows of so many pixels fill vectors well enough to be laid out side by side.
template <typename T>
bool fills_vectors(int64_t width) {
  const int64_t vectors = (width + kLanes<T> - 1) / kLanes<T>;
  return 5 * width >= 3 * vectors * kLanes<T>;
}

// The slices that each output channel sums: edges begins[o] .. begins[o + 1] - 1.
template <typename T>
struct Edges {
  const int32_t* begins;
  const int32_t* offsets;  // of the channel that is read, in the packed planes
  const T* weights;        // nine an edge, in the order in which the planes are passed
  const T* bias;           // or null
};

// The edges of a convolution: rows of the weight.
template <typename S, typename T>
Edges<T> forward_edges(const Csr& csr, const S* values, int64_t groups, const PlaneLayout& layout,
                       IndirectionMemory& memory) {
  int32_t* begins = memory.pointers.get<int32_t>(csr.rows + 1);
  int32_t* offsets = memory.ids.get<int32_t>(csr.nnz() / kSlice);
  const int64_t rows = csr.rows / groups, channels = csr.columns / kSlice;
  begins[0] = 0;
  for (int64_t o = 0; o < csr.rows; ++o) {
    begins[o + 1] = csr.row_ptr[o + 1] / kSlice;
    const int64_t shift = rows == 0 ? 0 : o / rows * channels;
    for (int64_t e = begins[o]; e < begins[o + 1]; ++e) {
      offsets[e] =
          static_cast<int32_t>((shift + csr.col_idx[e * kSlice] / kSlice) * layout.channel);
    }
  }
  return {begins, offsets, as_sum_type<T>(values, csr.nnz(), memory.values), nullptr};
}

// The edges of the transpose: columns of the weight, their taps in reverse.
template <typename S, typename T>
Edges<T> transposed_edges(const Pattern& pattern, const S* values, int64_t groups,
                          const PlaneLayout& layout, IndirectionMemory& memory) {
  const Csr& csr = pattern.transposed;
  const int64_t group_channels = csr.rows / kSlice, rows = csr.columns / groups;
  int32_t* begins = memory.pointers.get<int32_t>(group_channels * groups + 1);
  int32_t* offsets = memory.ids.get<int32_t>(csr.nnz() / kSlice);
  T* weights = memory.values.get<T>(csr.nnz());
  int32_t next = 0;
  for (int64_t channel = 0; channel < group_channels * groups; ++channel) {
    begins[channel] = next;
    const int64_t column = channel % group_channels * kSlice, group = channel / group_channels;
    for (int64_t p = csr.row_ptr[column]; p < csr.row_ptr[column + 1]; ++p) {
      if (csr.col_idx[p] / rows != group) continue;
      for (int i = 0; i < kSlice; ++i) {
        weights[next * kSlice + i] = static_cast<T>(values[pattern.perm[p] + kSlice - 1 - i]);
      }
      offsets[next++] = static_cast<int32_t>(csr.col_idx[p] * layout.channel);
    }
  }
  begins[group_channels * groups] = next;
  return {begins, offsets, weights, nullptr};
}

// Adds row r of the input to the rows of sums that it is a neighbor of; its three shifts are `step`
// apart.
template <typename T, int R, int V>
SPARSEQ_INLINE void add_input_row(const T* row, int64_t step, int r, const Vec<T> (&taps)[kSlice],
                                  Vec<T> (&sums)[R][V]) {
#pragma GCC unroll 16
  for (int i = 0; i < V * kSide; ++i) {
    const int v = i / kSide, s = i % kSide;
    Vec<T> x = load(row + s * step + v * kLanes<T>);
    keep_loaded(x);
#pragma GCC unroll 4
    for (int t = 0; t < kSide; ++t) {
      if (r < t || r - t >= R) continue;
      sums[r - t][v] = fmadd(taps[t * kSide + s], x, sums[r - t][v]);
    }
  }
}

// Sums of output channel o over R rows of V vectors: rows of the input `pitch` apart, neighbors
// `step` apart; rows of the output `out_row` apart.
template <typename T, int R, int V>
void slice_tile(const Edges<T>& edges, int64_t o, const T* at, int64_t pitch, int64_t step, T* out,
                int64_t out_row) {
  Vec<T> sums[R][V];
  fill_tile(edges.bias == nullptr ? T(0) : edges.bias[o], sums);
  for (int64_t e = edges.begins[o]; e < edges.begins[o + 1]; ++e) {
    const T* row = at + edges.offsets[e];
    Vec<T> taps[kSlice];
    for (int i = 0; i < kSlice; ++i) taps[i] = broadcast(edges.weights[e * kSlice + i]);
#pragma GCC unroll 16
    for (int r = 0; r < R + kSide - 1; ++r, row += pitch) {
      keep_pointer(row);
      add_input_row<T>(row, step, r, taps, sums);
    }
  }
  store_tile(sums, out, out_row);
}

template <typename T>
using SliceTile = void (*)(const Edges<T>&, int64_t, const T*, int64_t, int64_t, T*, int64_t);

// Most rows and sums of a tile: the taps and a row of the input take registers too.
constexpr int kSliceSums = kVectorRegisters >= 32 ? 8 : 4;

// The kernel of a tile of `rows` rows; rows * vectors is at most kSliceSums.
template <typename T>
SliceTile<T> slice_tile_of(int64_t rows, int64_t vectors) {
  static constexpr SliceTile<T> one[] = {
      slice_tile<T, 1, 1>, slice_tile<T, 2, 1>, slice_tile<T, 3, 1>, slice_tile<T, 4, 1>,
      slice_tile<T, 5, 1>, slice_tile<T, 6, 1>, slice_tile<T, 7, 1>, slice_tile<T, 8, 1>};
  static constexpr SliceTile<T> two[] = {slice_tile<T, 1, 2>, slice_tile<T, 2, 2>,
                                         slice_tile<T, 3, 2>, slice_tile<T, 4, 2>};
  static constexpr SliceTile<T> four[] = {slice_tile<T, 1, 4>, slice_tile<T, 2, 4>};
  if (vectors == 1) return one[rows - 1];
  return vectors == 2 ? two[rows - 1] : four[rows - 1];
}

// Rows of a tile: equal pieces of `rows`; and its vectors, 1, 2 or 4, of `vectors` that are left.
inline int64_t slice_rows(int64_t rows) {
  const int64_t pieces = (rows + kSliceSums - 1) / kSliceSums;
  return (rows + pieces - 1) / pieces;
}
inline int64_t slice_vectors(int64_t rows, int64_t vectors) {
  int64_t some = 1;
  while (some < 4 && 2 * some * rows <= kSliceSums && 2 * some <= vectors) some *= 2;
  return some;
}

// One call, for images that are laid out alike: of `conv` all but the indirections.
template <typename S, typename T>
struct SliceJob {
  ConvJob<S, T> conv;
  Edges<T> edges;
};

// Sums of output channel o over `rows` rows of `vectors` vectors.
template <typename S, typename T>
void slice_sums(const SliceJob<S, T>& job, int64_t o, const T* at, int64_t rows, int64_t vectors,
                T* out, int64_t out_row) {
  constexpr int n = kLanes<T>;
  const PlaneLayout& layout = job.conv.layout;
  const int64_t most = slice_rows(rows);
  for (int64_t h = 0; h < rows; h += most) {
    const int64_t high = std::min(most, rows - h);
    for (int64_t v = 0; v < vectors;) {
      const int64_t wide = slice_vectors(high, vectors - v);
      slice_tile_of<T>(high, wide)(job.edges, o, at + h * layout.row() + v * n, layout.row(),
                                   layout.lanes, out + h * out_row + v * n, out_row);
      v += wide;
    }
  }
}

// One column of tiles of output channel o, a vector wide, of which `count` lanes go to y.
template <typename S, typename T>
void slice_column(const SliceJob<S, T>& job, int64_t o, const T* planes, int64_t rows,
                  int64_t count, S* to) {
  constexpr int n = kLanes<T>;
  alignas(64) T buffer[kSliceSums * n];
  const int64_t width = job.conv.axes[2].out, most = slice_rows(rows);
  for (int64_t h = 0; h < rows; h += most) {
    const int64_t high = std::min(most, rows - h);
    slice_sums(job, o, planes + h * job.conv.layout.row(), high, 1, buffer, n);
    for (int64_t r = 0; r < high; ++r) put(buffer + r * n, count, to + (h + r) * width, 1);
  }
}

// Pixels side by side: each channel's rows, from the packed planes of an image straight to y where
// whole vectors of its type fit.
template <typename S, typename T>
void slice_lines(const SliceJob<S, T>& job, const PhasePart& part, const T* planes, int64_t image,
                 int64_t first, int64_t last) {
  constexpr int n = kLanes<T>;
  const ConvJob<S, T>& conv = job.conv;
  const int64_t rows = part.count[1], width = part.count[2];
  const int64_t whole = std::is_same_v<S, T> ? width / n : 0;
  for (int64_t o = first; o < last; ++o) {
    S* to = conv.y + (image * conv.channels + o) * conv.map() + part.pixel(conv.axes, 0, 0, 0);
    if constexpr (std::is_same_v<S, T>) slice_sums(job, o, planes, rows, whole, to, width);
    for (int64_t q = whole * n; q < width; q += n) {
      slice_column(job, o, planes + q, rows, std::min<int64_t>(n, width - q), to + q);
    }
  }
}

// Interleaved images: the sums of a whole channel, then image by image to y.
template <int Images, typename S, typename T>
void slice_interleaved(const SliceJob<S, T>& job, const T* planes, int64_t at, int64_t images,
                       int64_t first, int64_t last, T* buffer) {
  const ConvJob<S, T>& conv = job.conv;
  const int64_t rows = conv.axes[1].out, line = conv.axes[2].out * Images;
  const int64_t image = conv.channels * conv.map();
  for (int64_t o = first; o < last; ++o) {
    slice_sums(job, o, planes, rows, line / kLanes<T>, buffer, line);
    unpack_interleaved<Images>(buffer, rows * conv.axes[2].out, images,
                               conv.y + at * image + o * conv.map(), image);
  }
}

// Images in the lanes: the sums of some channels, then their transpose to y.
template <typename S, typename T>
void slice_lanes(const SliceJob<S, T>& job, const LaneWalk<S, T>& walk, T* buffer) {
  const int64_t height = walk.part.count[1], width = walk.part.count[2];
  const int64_t lanes = job.conv.layout.lanes, line = width * lanes;
  const int64_t rows = std::clamp<int64_t>(kSlicePixels / width, 1, height);
  const int64_t group = std::clamp<int64_t>(kSlicePixels / (rows * width), 1, kGroup);
  for (int64_t h = 0; h < height; h += rows) {
    const int64_t high = std::min(rows, height - h);
    const T* at = walk.planes + job.conv.layout.place(0, 0, h, 0);
    for (int64_t o = walk.first; o < walk.last; o += group) {
      const int64_t end = std::min(walk.last, o + group);
      for (int64_t c = o; c < end; ++c) {
        slice_sums(job, c, at, high, line / kLanes<T>, buffer + (c - o) * high * line, line);
      }
      walk.store_channels(buffer, o, end, {0, h, 0}, high, width);
    }
  }
}

// One strip of some images, output channels of part `part` of `parts`.
template <typename S, typename T>
void run_slice_strip(const SliceJob<S, T>& job, const Strip& strip, int64_t at, int64_t images,
                     int64_t part, int64_t parts) {
  static thread_local Scratch scratch;
  constexpr int n = kLanes<T>;
  const ConvJob<S, T>& conv = job.conv;
  const PlaneLayout& layout = conv.layout;
  const int64_t width = strip.count[2];
  const int64_t sums = std::max(kSlicePixels, width * strip.count[1]) * layout.lanes;
  const int64_t size = (layout.image() + 2 * n) / n * n;  // a tile's loads end behind the planes
  T* planes = scratch.get<T>(size + sums);
  pack_neighbors(conv.x, conv.axes, layout, strip, at, images, planes);
  const PhasePart phase = phase_parts(conv.axes, strip)[0];
  if (phase.count[1] == 0 || phase.count[2] == 0) return;
  const int64_t first = part_begin(conv.channels, part, parts, kGroup);
  const int64_t last = part_begin(conv.channels, part + 1, parts, kGroup);
  if (layout.lanes == 1) return slice_lines(job, phase, planes, at, first, last);
  if (layout.lanes < n) {
    return with_image_count<T>(layout.lanes, [&](auto count) {
      slice_interleaved<count()>(job, planes, at, images, first, last, planes + size);
    });
  }
  const Indirection<T> none{};
  slice_lanes(job, LaneWalk<S, T>{conv, phase, none, planes, at, images, first, last},
              planes + size);
}

}  // namespace sparseq::sparse_conv
