// Where a convolution reads and writes: sizes, the planes its input is laid out in, and strips.
//
// Each of the three axes (depth, height, width; one that is missing has size 1) is seen from the
// output: output place j of phase r stands at out_step * j + r and reads, by tap t, the input at
// step * j + start(t). The input is copied into planes: place e of a plane holds the input at
// step * e + base(plane), zero outside the tensor, so that a tap is one plane and one shift and
// every sum runs over neighbors in memory, whatever stride and dilation are. A forward convolution
// has one phase and as many planes as residues of its taps modulo the stride; its transpose has
// one plane and one phase per residue of its outputs.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "../conv/geometry.h"

namespace sparseq::sparse_conv {

using conv::floor_div;
using conv::Geometry;
using conv::kAxes;
using conv::Sizes;

// Number of the plane and shift of a tap along one axis; `used` if it ever meets the input.
struct Tap {
  int64_t phase, plane, shift;
  bool used;
};

struct Axis {
  int64_t in, out, step, out_step;
  std::vector<int64_t> bases;  // of the planes
  std::vector<Tap> taps;
  int64_t reach = 0;  // largest shift

  // Output places of a phase.
  int64_t places(int64_t phase) const {
    return phase < out ? (out - phase + out_step - 1) / out_step : 0;
  }
};

// From the taps' starts and phases. `apart`: each start gets a plane of its own, without shift.
inline Axis make_axis(int64_t in, int64_t out, int64_t step, int64_t out_step,
                      const std::vector<int64_t>& starts, const std::vector<int64_t>& phases,
                      bool apart) {
  Axis axis{in, out, step, out_step, {}, {}};
  const auto used = [&](size_t t) {
    const int64_t first = starts[t] < 0 ? (step - 1 - starts[t]) / step : 0;
    return first < axis.places(phases[t]) && step * first + starts[t] < in;
  };
  int64_t low = 0;
  bool any = false;
  for (size_t t = 0; t < starts.size(); ++t) {
    if (!used(t)) continue;
    low = any ? std::min(low, floor_div(starts[t], step)) : floor_div(starts[t], step);
    any = true;
  }
  for (size_t t = 0; t < starts.size(); ++t) {
    if (!used(t)) {
      axis.taps.push_back({phases[t], 0, 0, false});
      continue;
    }
    const int64_t shift = apart ? 0 : floor_div(starts[t], step) - low;
    const int64_t base = starts[t] - shift * step;
    size_t plane = 0;
    while (plane < axis.bases.size() && axis.bases[plane] != base) ++plane;
    if (plane == axis.bases.size()) axis.bases.push_back(base);
    axis.taps.push_back({phases[t], static_cast<int64_t>(plane), shift, true});
    axis.reach = std::max(axis.reach, shift);
  }
  if (axis.bases.empty()) axis.bases.push_back(0);
  return axis;
}

// The axis of a convolution from `in` to `out`, or of its transpose from `out` to `in`.
inline Axis conv_axis(const Geometry& g, int axis, int64_t in, int64_t out, bool transposed,
                      bool apart) {
  const int64_t stride = g.stride[axis], padding = g.padding[axis];
  std::vector<int64_t> starts, phases;
  for (int64_t t = 0; t < g.kernel[axis]; ++t) {
    const int64_t offset = t * g.dilation[axis] - padding;
    const int64_t phase = transposed ? offset - floor_div(offset, stride) * stride : 0;
    phases.push_back(phase);
    starts.push_back(transposed ? (phase - offset) / stride : offset);
  }
  if (transposed) return make_axis(out, in, 1, stride, starts, phases, apart);
  return make_axis(in, out, stride, 1, starts, phases, apart);
}

// An axis along which a tensor is only read place by place.
inline Axis plain_axis(int64_t size) { return make_axis(size, size, 1, 1, {0}, {0}, false); }

using Axes = std::array<Axis, kAxes>;

// The axes of a convolution between maps of these sizes, or of its transpose.
inline Axes conv_axes(const Geometry& g, const Sizes& in, const Sizes& out, bool transposed,
                      bool apart) {
  Axes axes;
  for (int i = 0; i < kAxes; ++i) {
    const bool innermost = i == (g.dims == 1 ? 1 : 2);
    axes[i] = conv_axis(g, i, in[i], out[i], transposed, apart && innermost);
  }
  return axes;
}

// Memory of one strip: elements of type T, images of `lanes` (a whole vector, or 1) together.
struct PlaneLayout {
  int64_t lanes;
  Sizes extent, planes;
  int64_t plane, channel, channels;  // elements of a plane, of a channel; channels

  int64_t image() const { return channel * channels; }
  int64_t row() const { return extent[2] * lanes; }
  int64_t place(int64_t plane_of, int64_t d, int64_t h, int64_t w) const {
    return plane_of * plane + ((d * extent[1] + h) * extent[2] + w) * lanes;
  }
  int64_t plane_number(int64_t d, int64_t h, int64_t w) const {
    return (d * planes[1] + h) * planes[2] + w;
  }
};

// `counts`: output places of a strip along each axis; `vector`: elements of T in a vector.
inline PlaneLayout make_layout(const Axes& axes, const Sizes& counts, int64_t lanes,
                               int64_t channels, int64_t vector) {
  PlaneLayout layout{lanes, {}, {}, lanes, 0, channels};
  int64_t planes = 1;
  for (int i = 0; i < kAxes; ++i) {
    layout.extent[i] = counts[i] + axes[i].reach;
    layout.planes[i] = static_cast<int64_t>(axes[i].bases.size());
    layout.plane *= layout.extent[i];
    planes *= layout.planes[i];
  }
  layout.plane = (layout.plane + vector - 1) / vector * vector;
  layout.channel = layout.plane * planes;
  // a power of two would put the same place of all channels into the same few sets of a cache
  if (layout.channel % (16 * vector) == 0) layout.channel += vector;
  // indirections hold offsets of an image in 32 bits
  SPARSEQ_CHECK(layout.channel <= conv::kMostPlaces / std::max<int64_t>(channels, 1), "sparse_conv",
                "x", "must have planes that fit in 32 bits", layout.channel);
  return layout;
}

// Offset of each tap in a channel, -1 where it never meets the input; and its output phase.
inline void tap_offsets(const Axes& axes, const PlaneLayout& layout, std::vector<int64_t>& offsets,
                        std::vector<int64_t>& phases) {
  for (const Tap& d : axes[0].taps) {
    for (const Tap& h : axes[1].taps) {
      for (const Tap& w : axes[2].taps) {
        const int64_t plane = layout.plane_number(d.plane, h.plane, w.plane);
        const bool used = d.used && h.used && w.used;
        offsets.push_back(used ? layout.place(plane, d.shift, h.shift, w.shift) : -1);
        phases.push_back((d.phase * axes[1].out_step + h.phase) * axes[2].out_step + w.phase);
      }
    }
  }
}

// Output places a strip covers: [first, first + count) along each axis; the width is never cut.
struct Strip {
  Sizes first, count;
};

// Output places per strip, such that its planes take at most `bytes` where one row of places can.
inline Sizes strip_size(const Axes& axes, int64_t lanes, int64_t channels, int64_t bytes,
                        int64_t element) {
  Sizes size = {axes[0].places(0), axes[1].places(0), axes[2].places(0)};
  for (int axis = 0; axis < 2; ++axis) {
    while (size[axis] > 1) {
      const PlaneLayout layout = make_layout(axes, size, lanes, channels, 1);
      if (layout.image() * element <= bytes) return size;
      size[axis] = (size[axis] + 1) / 2;
    }
  }
  return size;
}

inline std::vector<Strip> make_strips(const Axes& axes, const Sizes& size) {
  std::vector<Strip> strips;
  for (int64_t d = 0; d < axes[0].places(0); d += size[0]) {
    for (int64_t h = 0; h < axes[1].places(0); h += size[1]) {
      strips.push_back({{d, h, 0}, size});
    }
  }
  return strips;
}

// Output places of one phase that a strip covers along an axis.
inline int64_t places_in(const Axis& axis, int64_t phase, int64_t first, int64_t count) {
  return std::max<int64_t>(0, std::min(first + count, axis.places(phase)) - first);
}

}  // namespace sparseq::sparse_conv
