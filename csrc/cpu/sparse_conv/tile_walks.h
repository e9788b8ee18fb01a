// A convolution, or its transpose, over all strips: pack a strip, then every output channel over
// each tile of it, so that what a tile reads stays near.
#pragma once

#include "../tensors/parallel.h"
#include "pack.h"
#include "sum_tile.h"

namespace sparseq::sparse_conv {

using tensors::part_begin;
using tensors::Scratch;

constexpr int64_t kStripBytes = 2 << 20;  // of packed input: about what an L2 cache holds

// One call, for images that are laid out alike.
template <typename S, typename T>
struct ConvJob {
  Axes axes;
  PlaneLayout layout;
  Source<S> x;
  S* y;
  int64_t channels;                          // of y
  std::vector<Indirection<T>> indirections;  // one per output phase
  SumTile<T> (*kernel)(int64_t rows, int64_t vectors);

  int64_t map() const { return axes[0].out * axes[1].out * axes[2].out; }
};

// The part of one output phase that a strip computes, and where it goes.
struct PhasePart {
  Sizes phase, count, first, step;

  int64_t pixel(const Axes& axes, int64_t d, int64_t h, int64_t w) const {
    const int64_t z = step[0] * (first[0] + d) + phase[0];
    const int64_t y = step[1] * (first[1] + h) + phase[1];
    return (z * axes[1].out + y) * axes[2].out + step[2] * (first[2] + w) + phase[2];
  }
};

inline std::vector<PhasePart> phase_parts(const Axes& axes, const Strip& strip) {
  std::vector<PhasePart> parts;
  const Sizes phases = {axes[0].out_step, axes[1].out_step, axes[2].out_step};
  conv::each_place(phases, [&](int64_t, int64_t d, int64_t h, int64_t w) {
    PhasePart part{{d, h, w}, {}, strip.first, phases};
    for (int i = 0; i < kAxes; ++i) {
      part.count[i] = places_in(axes[i], part.phase[i], strip.first[i], strip.count[i]);
    }
    parts.push_back(part);
  });
  return parts;
}

// `count` values at a step of 1, or one by one at `step`.
template <typename T, typename S>
SPARSEQ_INLINE void put(const T* from, int64_t count, S* to, int64_t step) {
  if (step == 1) return copy_row<T>(from, to, count);
  for (int64_t i = 0; i < count; ++i) to[i * step] = static_cast<S>(from[i]);
}

// Pixels side by side: registers run along a row of places, or along several rows that adjoin.
template <typename S, typename T>
struct LineWalk {
  const ConvJob<S, T>& job;
  const PhasePart& part;
  const Indirection<T>& indirection;
  const T* planes;
  int64_t begin, images, first, last;  // first image and images of this block; output channels

  bool joined() const { return job.layout.extent[2] == part.count[2]; }

  // `count` sums that begin at place q of the row(s) from (d, h).
  void store_line(const T* from, int64_t image, int64_t o, int64_t d, int64_t h, int64_t q,
                  int64_t count) const {
    S* to = job.y + ((begin + image) * job.channels + o) * job.map();
    const int64_t width = part.count[2];
    if (part.step[1] == 1 && part.step[2] == 1 &&
        (width == job.axes[2].out || q + count <= width)) {
      return put(from, count, to + part.pixel(job.axes, d, h, 0) + q, 1);
    }
    while (count > 0) {
      const int64_t some = std::min(count, width - q % width);
      put(from, some, to + part.pixel(job.axes, d, h + q / width, q % width), part.step[2]);
      from += some;
      q += some;
      count -= some;
    }
  }

  // Tile rows are images where rows adjoin, else rows of places; `at` is the first.
  void tile(int64_t image, int64_t d, int64_t h, int64_t q, int64_t rows, int64_t vectors) const {
    constexpr int n = kLanes<T>;
    alignas(64) T buffer[kGroup * kMostSums * n];
    const int64_t length = joined() ? part.count[1] * part.count[2] : part.count[2];
    const int64_t valid = std::min(vectors * n, length - q), line = vectors * n;
    const PlaneLayout& layout = job.layout;
    const T* at = planes + image * layout.image() + layout.place(0, d, h, 0) + q;
    const int64_t stride = joined() ? layout.image() : layout.row();
    const SumTile<T> kernel = job.kernel(rows, vectors);
    for (int64_t o = first; o < last; o += kGroup) {
      const int64_t end = std::min(last, o + kGroup);
      for (int64_t k = 0; k < indirection.passes(); ++k) {
        kernel(indirection.panel(o, k), o, end, at, stride, buffer, rows * line, line);
      }
      for (int64_t i = 0; i < (end - o) * rows; ++i) {
        const int64_t r = i % rows;
        store_line(buffer + i * line, image + (joined() ? r : 0), o + i / rows, d,
                   h + (joined() ? 0 : r), q, valid);
      }
    }
  }

  // All tiles of one run of `vectors` vectors per row, over `count` rows.
  template <typename At>
  void rows(int64_t count, int64_t vectors, const At& at) const {
    const int64_t step = tile_step(vectors);
    for (int64_t r = 0; r < count;) {
      const int64_t some = tile_rows_of(step, count - r);
      for (int64_t v = 0; v < vectors; v += step) {
        at(r, some, v * kLanes<T>, std::min(step, vectors - v));
      }
      r += some;
    }
  }

  void run() const {
    constexpr int n = kLanes<T>;
    const int64_t height = part.count[1], width = part.count[2];
    if (height == 0 || width == 0) return;
    for (int64_t d = 0; d < part.count[0]; ++d) {
      if (joined()) {
        rows(images, (height * width + n - 1) / n,
             [&](int64_t r, int64_t some, int64_t q, int64_t v) { tile(r, d, 0, q, some, v); });
        continue;
      }
      for (int64_t i = 0; i < images; ++i) {
        rows(height, (width + n - 1) / n,
             [&](int64_t r, int64_t some, int64_t q, int64_t v) { tile(i, d, r, q, some, v); });
      }
    }
  }
};

// `count` pixels of `images` images, one lane each, to the rows of y: to[i * image + f].
template <typename T, typename S>
void unpack_pixels(const T* from, int64_t lanes, int64_t count, int64_t images, S* to,
                   int64_t image) {
  constexpr int n = kLanes<T>;
  for (int64_t f = 0; f < count; f += n) {
    const int64_t valid = std::min<int64_t>(n, count - f);
    Vec<T> rows[n];
    for (int i = 0; i < n; ++i) rows[i] = i < valid ? load(from + (f + i) * lanes) : Vec<T>{};
    transpose<T>(rows);
    for (int i = 0; i < n; ++i) {
      if (i >= images) break;
      if (valid == n) {
        store_as<S, T>(to + i * image + f, rows[i]);
        continue;
      }
      alignas(64) T some[n];
      store(some, rows[i]);
      for (int64_t j = 0; j < valid; ++j) to[i * image + f + j] = static_cast<S>(some[j]);
    }
  }
}

// Images in the lanes: a tile is a rectangle of at most a vector's number of pixels.
template <typename S, typename T>
struct LaneWalk {
  const ConvJob<S, T>& job;
  const PhasePart& part;
  const Indirection<T>& indirection;
  const T* planes;
  int64_t at, images, first, last;  // first image and images of this block; output channels
  static constexpr int n = kLanes<T>;

  // Sums of output channels o .. end - 1 over a rectangle: buffer[(o * pixels + pixel) * lanes].
  void sum(int64_t o, int64_t end, const Sizes& from, int64_t height, int64_t width,
           T* buffer) const {
    const PlaneLayout& layout = job.layout;
    const int64_t vectors = width * layout.lanes / n, step = tile_step(vectors);
    const int64_t line = width * layout.lanes;
    const T* corner = planes + layout.place(0, from[0], from[1], from[2]);
    for (int64_t r = 0; r < height;) {
      const int64_t some = tile_rows_of(step, height - r);
      for (int64_t v = 0; v < vectors; v += step) {
        const SumTile<T> kernel = job.kernel(some, std::min(step, vectors - v));
        for (int64_t k = 0; k < indirection.passes(); ++k) {
          kernel(indirection.panel(o, k), o, end, corner + r * layout.row() + v * n, layout.row(),
                 buffer + r * line + v * n, height * line, line);
        }
      }
      r += some;
    }
  }

  // The same sums to y; `whole`: the rectangle is all of a channel.
  void store_channels(const T* buffer, int64_t o, int64_t end, const Sizes& from, int64_t height,
                      int64_t width) const {
    const int64_t pixels = height * width, lanes = job.layout.lanes,
                  image = job.channels * job.map();
    const bool dense =
        part.step[1] == 1 && part.step[2] == 1 && (height == 1 || width == job.axes[2].out);
    const bool whole = pixels == job.map();
    for (int64_t lane = 0; lane < std::min(lanes, images); lane += n) {
      const int64_t some = std::min<int64_t>(n, images - lane);
      S* to = job.y + (at + lane) * image + o * job.map();
      if (whole) {
        unpack_pixels(buffer + lane, lanes, (end - o) * pixels, some, to, image);
        continue;
      }
      for (int64_t c = 0; c < end - o; ++c, to += job.map()) {
        const T* sums = buffer + c * pixels * lanes + lane;
        if (dense) {
          const int64_t pixel = part.pixel(job.axes, from[0], from[1], from[2]);
          unpack_pixels(sums, lanes, pixels, some, to + pixel, image);
        } else {
          scatter(sums, from, pixels, width, some, to);
        }
      }
    }
  }

  void scatter(const T* sums, const Sizes& from, int64_t pixels, int64_t width, int64_t some,
               S* to) const {
    for (int64_t f = 0; f < pixels; ++f) {
      const int64_t pixel = part.pixel(job.axes, from[0], from[1] + f / width, from[2] + f % width);
      for (int64_t i = 0; i < some; ++i) {
        to[i * job.channels * job.map() + pixel] = static_cast<S>(sums[f * job.layout.lanes + i]);
      }
    }
  }

  // All output channels of a rectangle.
  void rectangle(const Sizes& from, int64_t height, int64_t width, T* buffer) const {
    for (int64_t o = first; o < last; o += kGroup) {
      const int64_t end = std::min(last, o + kGroup);
      sum(o, end, from, height, width, buffer);
      store_channels(buffer, o, end, from, height, width);
    }
  }

  void run(T* buffer) const {
    const int64_t most = n, height = part.count[1], width = part.count[2];
    if (height == 0 || width == 0) return;
    const int64_t pieces = (width + most - 1) / most;
    const int64_t columns = (width + pieces - 1) / pieces;
    const int64_t rows = pieces > 1 ? 1 : std::max<int64_t>(1, most / width);
    for (int64_t d = 0; d < part.count[0]; ++d) {
      for (int64_t h = 0; h < height; h += rows) {
        for (int64_t w = 0; w < width; w += columns) {
          const int64_t high = std::min(rows, height - h), wide = std::min(columns, width - w);
          rectangle({d, h, w}, high, wide, buffer);
        }
      }
    }
  }

  static int64_t buffer_size(int64_t lanes) { return kGroup * n * lanes; }
};

template <typename S, typename T>
void run_strip(const ConvJob<S, T>& job, const Strip& strip, int64_t at, int64_t images,
               int64_t part, int64_t parts) {
  static thread_local Scratch scratch;
  const PlaneLayout& layout = job.layout;
  const int64_t copies = layout.lanes > 1 ? 1 : images;
  const int64_t buffer = LaneWalk<S, T>::buffer_size(layout.lanes);
  T* planes = scratch.get<T>(copies * layout.image() + kLanes<T> + buffer);
  T* sums = planes + (copies * layout.image() + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  pack_strip(job.x, job.axes, layout, strip, at, images, planes);
  const std::vector<PhasePart> phases = phase_parts(job.axes, strip);
  for (size_t i = 0; i < phases.size(); ++i) {
    const Indirection<T>& indirection = job.indirections[i];
    const int64_t first = part_begin(job.channels, part, parts, kGroup);
    const int64_t last = part_begin(job.channels, part + 1, parts, kGroup);
    if (layout.lanes > 1) {
      LaneWalk<S, T>{job, phases[i], indirection, planes, at, images, first, last}.run(sums);
    } else {
      LineWalk<S, T>{job, phases[i], indirection, planes, at, images, first, last}.run();
    }
  }
}

}  // namespace sparseq::sparse_conv
