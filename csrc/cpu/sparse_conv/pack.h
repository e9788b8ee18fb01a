// Copies a strip of the input into its planes (sparse_conv_planes.h), zeros around it included.
//
// Images are either one by one, with the pixels of a row side by side, or as many together as a
// vector has lanes, one lane each; the latter takes a square transpose of every block.
#pragma once

#include <algorithm>

#include "../simd/convert.h"
#include "../simd/shuffles.h"
#include "planes.h"

namespace sparseq::sparse_conv {

using namespace simd;

// Vector at `from` of which `count` elements count and none lies at `end` or behind; zeros
// in their place.
template <typename T, typename S>
SPARSEQ_INLINE Vec<T> load_some(const S* from, const S* end, int64_t count) {
  if (from + kLanes<T> <= end) return load_as<T>(from);
  T numbers[kLanes<T>] = {};
  for (int64_t i = 0; i < std::min<int64_t>(count, kLanes<T>); ++i) {
    numbers[i] = static_cast<T>(from[i]);
  }
  return load(numbers);
}

// Where the input of a strip goes, for images in the lanes.
struct PackPlan {
  Sizes low, high;              // box of the input that the strip reads; the width is whole
  std::vector<int32_t> places;  // of the box's pixels: offset in the channel, or -1
  std::vector<int32_t> holes;   // offsets in a channel that lie outside the tensor
};

// Offsets (plane and place times their units) of an axis' inputs low .. high - 1, or -1.
inline std::vector<int64_t> axis_places(const Axis& axis, int64_t first, int64_t extent,
                                        int64_t low, int64_t high, int64_t plane_unit,
                                        int64_t place_unit) {
  std::vector<int64_t> offsets(high - low, -1);
  for (size_t plane = 0; plane < axis.bases.size(); ++plane) {
    for (int64_t e = 0; e < extent; ++e) {
      const int64_t input = axis.step * (first + e) + axis.bases[plane];
      if (input < low || input >= high) continue;
      offsets[input - low] = static_cast<int64_t>(plane) * plane_unit + e * place_unit;
    }
  }
  return offsets;
}

inline PackPlan plan_pack(const Axes& axes, const PlaneLayout& layout, const Strip& strip) {
  PackPlan plan{{0, 0, 0}, {axes[0].in, axes[1].in, axes[2].in}, {}, {}};
  for (int i = 0; i < 2; ++i) {
    const auto [least, most] = std::minmax_element(axes[i].bases.begin(), axes[i].bases.end());
    const int64_t last = strip.first[i] + layout.extent[i] - 1;
    plan.low[i] = std::clamp<int64_t>(axes[i].step * strip.first[i] + *least, 0, axes[i].in);
    plan.high[i] = std::clamp<int64_t>(axes[i].step * last + *most + 1, plan.low[i], axes[i].in);
  }
  std::vector<int64_t> parts[kAxes];
  int64_t plane_unit = layout.plane, place_unit = layout.lanes;
  for (int i = kAxes - 1; i >= 0; --i) {
    parts[i] = axis_places(axes[i], strip.first[i], layout.extent[i], plan.low[i], plan.high[i],
                           plane_unit, place_unit);
    plane_unit *= layout.planes[i];
    place_unit *= layout.extent[i];
  }
  std::vector<bool> filled(layout.channel / layout.lanes, false);
  const auto add = [&](int64_t d, int64_t h, int64_t w) {
    const bool read = d >= 0 && h >= 0 && w >= 0;
    plan.places.push_back(read ? static_cast<int32_t>(d + h + w) : -1);
    if (read) filled[(d + h + w) / layout.lanes] = true;
  };
  for (const int64_t d : parts[0]) {
    for (const int64_t h : parts[1]) {
      for (const int64_t w : parts[2]) add(d, h, w);
    }
  }
  for (size_t place = 0; place < filled.size(); ++place) {
    if (!filled[place]) plan.holes.push_back(static_cast<int32_t>(place * layout.lanes));
  }
  return plan;
}

// The tensor that is packed: channels of contiguous pixels, `image` elements between images.
template <typename S>
struct Source {
  const S* data;
  int64_t images, image;
  Sizes size;

  int64_t pixels() const { return size[0] * size[1] * size[2]; }
  const S* end() const { return data + images * image; }
};

// Pixels of some images, `step` elements from one to the next, none of them at `end` or behind.
template <typename S>
struct Pixels {
  const S *data, *end;
  int64_t step, images;
};

// `count` neighbors of the images to one lane each; the places of `period` pixels repeat with every
// channel.
template <typename T, typename S>
void pack_pixels(const Pixels<S>& x, int64_t count, const int32_t* places, int64_t period,
                 int64_t channel, T* to) {
  constexpr int n = kLanes<T>;
  int64_t k = 0;
  for (int64_t f = 0; f < count; f += n) {
    const int64_t valid = std::min<int64_t>(n, count - f);
    Vec<T> rows[n];
    for (int i = 0; i < n; ++i) {
      rows[i] = i < x.images ? load_some<T>(x.data + i * x.step + f, x.end, valid) : Vec<T>{};
    }
    transpose<T>(rows);
    for (int i = 0; i < n; ++i) {
      if (i >= valid) break;
      if (places[k] >= 0) store(to + places[k], rows[i]);
      if (++k == period) {
        k = 0;
        to += channel;
      }
    }
  }
}

// Channels first .. last - 1 of the `images` images from image `at`, one lane each.
template <typename S, typename T>
void pack_lanes(const Source<S>& x, const PackPlan& plan, const PlaneLayout& layout, int64_t at,
                int64_t images, int64_t first, int64_t last, T* to) {
  constexpr int n = kLanes<T>;
  const Sizes &low = plan.low, &high = plan.high;
  const int64_t line = x.size[2], slab = x.size[1] * line, map = x.pixels();
  const bool rows_whole = low[1] == 0 && high[1] == x.size[1];
  const bool whole = rows_whole && low[0] == 0 && high[0] == x.size[0];
  const int64_t box_rows = (high[1] - low[1]) * line;
  for (int64_t lane = 0; lane < layout.lanes; lane += n) {
    const S* from = x.data + (at + lane) * x.image;
    const int64_t some = std::clamp<int64_t>(images - lane, 0, n);
    const auto pixels = [&](int64_t offset, int64_t count, int64_t table, int64_t period, T* out) {
      pack_pixels<T>(Pixels<S>{from + offset, x.end(), x.image, some}, count,
                     plan.places.data() + table, period, layout.channel, out + lane);
    };
    if (whole) {
      pixels(first * map, (last - first) * map, 0, map, to + first * layout.channel);
      continue;
    }
    for (int64_t c = first; c < last; ++c) {
      for (int64_t d = low[0]; d < high[0]; ++d) {
        pixels(c * map + d * slab + low[1] * line, box_rows, (d - low[0]) * box_rows, box_rows,
               to + c * layout.channel);
      }
    }
  }
  for (int64_t c = first; c < last; ++c) {
    for (const int32_t hole : plan.holes) {
      for (int64_t lane = 0; lane < layout.lanes; lane += n) {
        store(to + c * layout.channel + hole + lane, Vec<T>{});
      }
    }
  }
}

// The row of the input that a row of places copies, or -1.
inline int64_t input_row(const Axes& axes, const PlaneLayout& layout, const Strip& strip,
                         int64_t plane, int64_t d, int64_t h) {
  const int64_t rest = plane / layout.planes[2];
  const int64_t z = axes[0].step * (strip.first[0] + d) + axes[0].bases[rest / layout.planes[1]];
  const int64_t y = axes[1].step * (strip.first[1] + h) + axes[1].bases[rest % layout.planes[1]];
  const bool inside = z >= 0 && z < axes[0].in && y >= 0 && y < axes[1].in;
  return inside ? z * axes[1].in + y : -1;
}

// One row of places of a plane: the inputs step * e + base for begin <= e < end, zeros around them.
struct Line {
  int64_t base, begin, end;
};

inline Line plan_line(const Axis& axis, int64_t base, int64_t extent) {
  const int64_t first = base < 0 ? (axis.step - 1 - base) / axis.step : 0;
  const int64_t last = base < axis.in ? (axis.in - 1 - base) / axis.step + 1 : 0;
  const int64_t begin = std::clamp<int64_t>(first, 0, extent);
  return {base, begin, std::clamp<int64_t>(last, begin, extent)};
}

// Where the places of a channel come from: rows of the input, and lines within them.
struct ImagePlan {
  std::vector<int64_t> rows;     // of the places' rows, or -1
  std::vector<Line> lines;       // of the planes along the width
  std::vector<int32_t> sources;  // of each place where rows are short: pixel, or -1
};

constexpr int64_t kShortLine = 16;  // places of a row that is copied one by one

inline ImagePlan plan_image(const Axes& axes, const PlaneLayout& layout, const Strip& strip) {
  ImagePlan plan;
  const int64_t planes = layout.planes[0] * layout.planes[1] * layout.planes[2];
  for (const int64_t base : axes[2].bases) {
    plan.lines.push_back(plan_line(axes[2], base, layout.extent[2]));
  }
  for (int64_t plane = 0; plane < planes; ++plane) {
    for (int64_t d = 0; d < layout.extent[0]; ++d) {
      for (int64_t h = 0; h < layout.extent[1]; ++h) {
        plan.rows.push_back(input_row(axes, layout, strip, plane, d, h));
      }
    }
  }
  if (layout.extent[2] > kShortLine) return plan;
  plan.sources.assign(layout.channel, -1);
  const int64_t rows = layout.extent[0] * layout.extent[1];
  for (int64_t i = 0; i < planes * rows; ++i) {
    const Line& line = plan.lines[i / rows % layout.planes[2]];
    for (int64_t e = line.begin; e < line.end && plan.rows[i] >= 0; ++e) {
      plan.sources[i / rows * layout.plane + i % rows * layout.extent[2] + e] =
          static_cast<int32_t>(plan.rows[i] * axes[2].in + axes[2].step * e + line.base);
    }
  }
  return plan;
}

// One channel of one image, its pixels side by side.
template <typename S, typename T>
void pack_image(const S* from, const Axis& width, const ImagePlan& plan, const PlaneLayout& layout,
                T* to) {
  if (!plan.sources.empty()) {
    const int32_t* sources = plan.sources.data();
    for (int64_t i = 0; i < layout.channel; ++i) {
      to[i] = sources[i] < 0 ? T(0) : static_cast<T>(from[sources[i]]);
    }
    return;
  }
  const int64_t rows = layout.extent[0] * layout.extent[1], extent = layout.extent[2];
  const int64_t step = width.step, count = static_cast<int64_t>(plan.rows.size());
  for (int64_t i = 0; i < count; ++i) {
    const int64_t plane = i / rows;
    const Line& line = plan.lines[plane % layout.planes[2]];
    T* row = to + plane * layout.plane + i % rows * extent;
    const int64_t begin = plan.rows[i] < 0 ? extent : line.begin;
    const int64_t end = plan.rows[i] < 0 ? extent : line.end;
    const S* source = from + plan.rows[i] * width.in + line.base;
    std::fill(row, row + begin, T(0));
    if (step == 1) {
      copy_row<T>(source + begin, row + begin, end - begin);
    } else {
      for (int64_t e = begin; e < end; ++e) row[e] = static_cast<T>(source[step * e]);
    }
    std::fill(row + end, row + extent, T(0));
  }
}

// Channels first .. last - 1 of the `images` images from image `at`, as the layout has them.
template <typename S, typename T>
void pack_strip(const Source<S>& x, const Axes& axes, const PlaneLayout& layout, const Strip& strip,
                int64_t at, int64_t images, T* to) {
  if (layout.lanes > 1) {
    pack_lanes(x, plan_pack(axes, layout, strip), layout, at, images, 0, layout.channels, to);
    return;
  }
  const ImagePlan plan = plan_image(axes, layout, strip);
  for (int64_t i = 0; i < images; ++i) {
    for (int64_t c = 0; c < layout.channels; ++c) {
      pack_image(x.data + (at + i) * x.image + c * x.pixels(), axes[2], plan, layout,
                 to + i * layout.image() + c * layout.channel);
    }
  }
}

}  // namespace sparseq::sparse_conv
