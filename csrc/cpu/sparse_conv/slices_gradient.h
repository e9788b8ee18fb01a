// The gradient of the values where they are whole slices: of an edge, nine dot products at once,
// for which each row of the input is loaded three times and each row of dy once.
#pragma once

#include "slices.h"

namespace sparseq::sparse_conv {

using tensors::parallel_items;
using tensors::useful_threads;

constexpr int64_t kMostPartials = 16;   // sums of separate images that are added in the end
constexpr int64_t kEdgesTogether = 16;  // whose lanes are summed together

// One call, for images that are laid out alike.
template <typename S, typename T>
struct SliceDotJob {
  Axes axes, plain;  // of x, and of dy
  PlaneLayout layout, dy_layout;
  Source<S> x, dy;
  Edges<T> edges;  // of each output channel; no weights
  int64_t rows, nnz;
};

// A map of dy, or of x in its packed planes.
template <typename T>
struct Rows {
  const T* data;
  int64_t pitch;
};

// Maps of dy, from one channel to the next.
template <typename T>
struct ChannelRows {
  Rows<T> first;
  int64_t channel;

  Rows<T> of(int64_t o) const { return {first.data + o * channel, first.pitch}; }
};

// Nine sums over `rows` rows of one vector: sums[3 t + s] += dy[r] * x[r + t], shifted by s steps.
// `Last`: lanes from `valid` on do not count.
template <typename T, bool Last>
SPARSEQ_INLINE void dot_column(Rows<T> dy, Rows<T> x, int64_t step, int64_t rows, int64_t valid,
                               Vec<T> (&sums)[kSlice]) {
  const auto read = [&](const T* from) __attribute__((always_inline)) {
    const Vec<T> v = load(from);
    if constexpr (Last) return join<T>(v, Vec<T>{}, kLanes<T> - valid);
    return v;
  };
  const auto add = [&](int64_t r, int t, Vec<T> row) __attribute__((always_inline)) {
    for (int s = 0; s < kSide; ++s) {
      sums[t * kSide + s] = fmadd(row, read(x.data + r * x.pitch + s * step), sums[t * kSide + s]);
    }
  };
  Vec<T> row = read(dy.data), above{};
  add(0, 0, row);
  if (rows == 1) {
    add(1, 1, row);
    add(2, 2, row);
    return;
  }
  above = row;
  row = read(dy.data + dy.pitch);
  add(1, 0, row);
  add(1, 1, above);
  const T *from = x.data + 2 * x.pitch, *next = dy.data + 2 * dy.pitch;
#pragma GCC unroll 3
  for (int64_t r = 2; r < rows; ++r, from += x.pitch, next += dy.pitch) {
    const Vec<T> second = above;
    above = row;
    row = read(next);
    for (int s = 0; s < kSide; ++s) {
      Vec<T> input = read(from + s * step);
      keep_loaded(input);
      sums[s] = fmadd(row, input, sums[s]);
      sums[kSide + s] = fmadd(above, input, sums[kSide + s]);
      sums[2 * kSide + s] = fmadd(second, input, sums[2 * kSide + s]);
    }
  }
  add(rows, 1, row);
  add(rows, 2, above);
  add(rows + 1, 2, row);
}

// The nine sums of one edge, lanes apart, over `height` rows of `width` elements; R: the rows where
// they are known, else 0.
template <typename T, int R>
void dot_edge(Rows<T> dy, Rows<T> x, int64_t step, int64_t height, int64_t width, Vec<T>* out) {
  constexpr int n = kLanes<T>;
  const int64_t rows = R > 0 ? R : height;
  Vec<T> sums[kSlice] = {};
  int64_t q = 0;
  for (; q + n <= width; q += n) {
    dot_column<T, false>({dy.data + q, dy.pitch}, {x.data + q, x.pitch}, step, rows, n, sums);
  }
  if (q < width) {
    dot_column<T, true>({dy.data + q, dy.pitch}, {x.data + q, x.pitch}, step, rows, width - q,
                        sums);
  }
  for (int i = 0; i < kSlice; ++i) out[i] = sums[i];
}

// Sums over the lanes of `count` vectors, set or added.
template <typename T>
void add_lanes(Vec<T>* sums, int64_t count, bool start, T* dv) {
  constexpr int n = kLanes<T>;
  for (int64_t i = 0; i < count; i += n) {
    Vec<T> some[n];
    for (int j = 0; j < n; ++j) some[j] = i + j < count ? sums[i + j] : Vec<T>{};
    put_sums(sum_each<T>(some), count - i, start, dv + i);
  }
}

// dv of output channels first .. last - 1 over one strip of packed x.
template <typename S, typename T>
void dot_channels(const SliceDotJob<S, T>& job, const PhasePart& part, const ChannelRows<T>& dy,
                  const T* planes, int64_t first, int64_t last, bool start, T* dv) {
  Vec<T> sums[kEdgesTogether * kSlice];
  const int64_t width = part.count[2] * job.layout.lanes;
  const auto dot = part.count[1] == 4   ? dot_edge<T, 4>
                   : part.count[1] == 8 ? dot_edge<T, 8>
                                        : dot_edge<T, 0>;
  for (int64_t o = first; o < last; ++o) {
    const Rows<T> map = dy.of(o);
    for (int64_t e = job.edges.begins[o]; e < job.edges.begins[o + 1];) {
      const int64_t some = std::min(kEdgesTogether, job.edges.begins[o + 1] - e);
      for (int64_t i = 0; i < some; ++i) {
        dot(map, {planes + job.edges.offsets[e + i], job.layout.row()}, job.layout.lanes,
            part.count[1], width, sums + i * kSlice);
      }
      add_lanes(sums, some * kSlice, start, dv + e * kSlice);
      e += some;
    }
  }
}

// The same of one strip of some images, which are packed first.
template <typename S, typename T>
void dot_slice_strip(const SliceDotJob<S, T>& job, const Strip& strip, int64_t at, int64_t images,
                     int64_t first, int64_t last, bool start, T* dv) {
  static thread_local Scratch scratch;
  constexpr int n = kLanes<T>;
  const int64_t dy_size = (job.dy_layout.image() + 2 * n) / n * n;
  const int64_t x_size = (job.layout.image() + 2 * n) / n * n;
  T* planes = scratch.get<T>(dy_size + x_size);
  T* packed = planes + x_size;
  pack_neighbors(job.x, job.axes, job.layout, strip, at, images, planes);
  const PhasePart part = phase_parts(job.axes, strip)[0];
  const int64_t map = job.dy.pixels(), width = part.count[2];
  if constexpr (std::is_same_v<S, T>) {
    if (job.layout.lanes == 1 && width % n == 0) {
      const T* from = job.dy.data + at * job.dy.image + part.pixel(job.axes, 0, 0, 0);
      return dot_channels<S, T>(job, part, {{from, width}, map}, planes, first, last, start, dv);
    }
  }
  pack_neighbors(job.dy, job.plain, job.dy_layout, strip, at, images, packed);
  const ChannelRows<T> rows{{packed, job.dy_layout.row()}, job.dy_layout.channel};
  dot_channels(job, part, rows, planes, first, last, start, dv);
}

// All strips of `images` images in blocks of as many as there are lanes. Blocks are summed in a
// number of parts that their number alone decides, whatever threads there are.
template <typename S, typename T>
void dot_slice_blocks(const SliceDotJob<S, T>& job, const std::vector<Strip>& strips, int64_t at,
                      int64_t images, bool start, T* dv) {
  static thread_local Scratch scratch;
  const int64_t block = job.layout.lanes, blocks = (images + block - 1) / block;
  const int64_t total = blocks * static_cast<int64_t>(strips.size());
  const int64_t partials = std::min(total, kMostPartials);
  const int64_t map = strips[0].count[1] * strips[0].count[2];
  const int64_t threads = useful_threads(job.nnz * (map * block / kLanes<T> + 1) * total);
  const int64_t parts = tensors::parts_per_item(partials, threads, 4);
  T* sums = scratch.get<T>(partials * job.nnz);
  const Csr rows = {job.edges.begins, nullptr, job.rows, 0};
  parallel_items(partials * parts, threads, [&](int64_t item) {
    const int64_t partial = item / parts;
    const int64_t first = balanced_row(rows, item % parts, parts);
    const int64_t last = balanced_row(rows, item % parts + 1, parts);
    const int64_t begin = tensors::part_begin(total, partial, partials);
    const int64_t end = tensors::part_begin(total, partial + 1, partials);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t from = at + i % blocks * block;
      dot_slice_strip(job, strips[i / blocks], from, std::min(block, at + images - from), first,
                      last, i == begin, sums + partial * job.nnz);
    }
  });
  for (int64_t k = 0; k < partials; ++k) {
    const T* more = sums + k * job.nnz;
    if (start && k == 0) {
      std::copy(more, more + job.nnz, dv);
    } else {
      for (int64_t p = 0; p < job.nnz; ++p) dv[p] += more[p];
    }
  }
}

}  // namespace sparseq::sparse_conv
