// Sizes of convolutions and of their transposes. Three axes z, y, x (depth, height, width) always;
// those a tensor lacks have size 1.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "../../common/check.h"

namespace sparseq::conv {

constexpr int kAxes = 3;
using Sizes = std::array<int64_t, kAxes>;

// Most places of an axis with its padding, of a stride, a dilation; and most taps. Within these no
// sum and no product of two numbers of a geometry leaves 64 bits.
constexpr int64_t kMostPlaces = std::numeric_limits<int32_t>::max();
constexpr int64_t kMostTaps = int64_t{1} << 24;

inline int64_t volume(const Sizes& sizes) { return sizes[0] * sizes[1] * sizes[2]; }

inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

// Calls body(i, z, y, x) on each place of a box, in order.
template <typename Body>
void each_place(const Sizes& box, const Body& body) {
  int64_t i = 0;
  for (int64_t z = 0; z < box[0]; ++z) {
    for (int64_t y = 0; y < box[1]; ++y) {
      for (int64_t x = 0; x < box[2]; ++x) body(i++, z, y, x);
    }
  }
}

// What a convolution has for each dimension, and its groups.
struct Geometry {
  int dims;
  int lone_axis;  // of a single dimension
  Sizes kernel, stride, padding, dilation, output_padding;
  int64_t groups;

  int64_t taps() const { return volume(kernel); }
  bool unit_stride() const { return volume(stride) == 1; }

  // The axis of a spatial dimension.
  int axis(int dim) const { return dims == 1 ? lone_axis : kAxes - dims + dim; }

  // Sizes of all axes from those of the dimensions.
  Sizes sizes(const int64_t* numbers, int64_t missing = 1) const {
    Sizes all = {missing, missing, missing};
    for (int dim = 0; dim < dims; ++dim) all[axis(dim)] = numbers[dim];
    return all;
  }

  // Distance from the first to the last tap along an axis.
  int64_t span(int axis) const { return dilation[axis] * (kernel[axis] - 1); }

  int64_t output(int axis, int64_t in) const {
    return floor_div(in + 2 * padding[axis] - span(axis) - 1, stride[axis]) + 1;
  }
  int64_t input(int axis, int64_t out) const {
    return (out - 1) * stride[axis] - 2 * padding[axis] + span(axis) + output_padding[axis] + 1;
  }
};

// From kernel, stride, padding, dilation and output padding, a number per dimension each, and the
// groups. `lone_axis`: the axis of one dimension alone.
inline Geometry read_geometry(const char* op, const std::vector<int64_t>& numbers, int lone_axis) {
  const int dims = static_cast<int>(numbers.size() / 5);
  SPARSEQ_CHECK(numbers.size() % 5 == 1 && dims >= 1 && dims <= kAxes, op, "geometry",
                "must hold five numbers per dimension and the groups", numbers.size());
  Geometry g{dims, lone_axis, {}, {}, {}, {}, {}, numbers.back()};
  g.kernel = g.sizes(&numbers[0]);
  g.stride = g.sizes(&numbers[dims]);
  g.padding = g.sizes(&numbers[2 * dims], 0);
  g.dilation = g.sizes(&numbers[3 * dims]);
  g.output_padding = g.sizes(&numbers[4 * dims], 0);
  for (int i = 0; i < kAxes; ++i) {
    SPARSEQ_CHECK(g.kernel[i] >= 1 && g.stride[i] >= 1 && g.dilation[i] >= 1 && g.padding[i] >= 0 &&
                      g.output_padding[i] >= 0 && g.output_padding[i] < g.stride[i],
                  op, "geometry",
                  "must be sizes from 1 and paddings from 0, below the stride for output_padding",
                  i);
    SPARSEQ_CHECK(g.kernel[i] <= kMostTaps && g.stride[i] <= kMostPlaces &&
                      g.dilation[i] <= kMostPlaces && g.padding[i] <= kMostPlaces,
                  op, "geometry", "must fit in 32 bits, and a kernel in 24", i);
  }
  SPARSEQ_CHECK(g.kernel[0] * g.kernel[1] <= kMostTaps && g.taps() <= kMostTaps, op, "geometry",
                "must have at most 2^24 taps", g.kernel[0]);
  SPARSEQ_CHECK(g.groups >= 1, op, "groups", "must be at least 1", g.groups);
  return g;
}

// Checks sizes of maps: with the padding on both sides, and at most so many places along an axis.
inline void check_places(const char* op, const char* name, const Geometry& g, const Sizes& in) {
  for (int i = 0; i < kAxes; ++i) {
    SPARSEQ_CHECK(in[i] >= 0 && in[i] <= kMostPlaces - 2 * g.padding[i], op, name,
                  "must have sizes that fit in 32 bits with the padding", in[i]);
  }
}

// A convolution of tensors of certain sizes.
struct Shape {
  Geometry g;
  int64_t batch, in_channels, out_channels;  // of all groups
  Sizes in, out;                             // of the input's and the output's maps

  int64_t group_in() const { return in_channels / g.groups; }
  int64_t group_out() const { return out_channels / g.groups; }
  int64_t taps() const { return g.taps(); }
  int64_t area() const { return volume(in); }
  int64_t pixels() const { return volume(out); }
  int64_t depth() const { return group_in() * taps(); }
};

}  // namespace sparseq::conv
