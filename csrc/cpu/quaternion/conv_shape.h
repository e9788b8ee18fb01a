// Sizes of a quaternion convolution: channels count quaternions.
#pragma once

#include <utility>

#include "../conv/geometry.h"

namespace sparseq::quaternion {

using conv::each_place;
using conv::Sizes;

struct ConvShape : conv::Shape {
  Sizes extra = {0, 0, 0};  // zeros behind the padding

  // Multiply-adds of the sixteen products.
  int64_t operations() const { return batch * pixels() * 16 * out_channels * depth(); }

  // The convolution with the flipped weight that is the gradient of the input at stride 1.
  ConvShape backward() const {
    ConvShape shape = *this;
    std::swap(shape.in_channels, shape.out_channels);
    std::swap(shape.in, shape.out);
    for (int i = 0; i < conv::kAxes; ++i) shape.g.padding[i] = g.span(i) - g.padding[i];
    return shape;
  }

  // Sizes of the input with its padding.
  Sizes padded() const {
    Sizes sizes;
    for (int i = 0; i < conv::kAxes; ++i) sizes[i] = in[i] + 2 * g.padding[i] + extra[i];
    return sizes;
  }
};

}  // namespace sparseq::quaternion
