// Sizes of a quaternion convolution, and its steps through memory. Three dimensions z, y, x always;
// those a tensor lacks are of size 1.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace sparseq {

using Triple = std::array<int64_t, 3>;

inline int64_t product_of(const Triple& sizes) { return sizes[0] * sizes[1] * sizes[2]; }

struct ConvShape {
  int64_t batch, in, out, groups;  // in, out: quaternion channels of all groups
  Triple size, kernel, result;     // of the input, the taps and the output
  Triple stride, padding, dilation;
  Triple extra = {0, 0, 0};  // zeros behind the padding

  int64_t group_in() const { return in / groups; }
  int64_t group_out() const { return out / groups; }
  int64_t taps() const { return product_of(kernel); }
  int64_t area() const { return product_of(size); }
  int64_t pixels() const { return product_of(result); }
  int64_t depth() const { return group_in() * taps(); }

  // Multiply-adds of the sixteen-product form.
  int64_t operations() const { return batch * pixels() * 16 * out * depth(); }

  // The convolution with the flipped weight that is the gradient of the input at stride 1.
  ConvShape backward() const {
    ConvShape shape = *this;
    std::swap(shape.in, shape.out);
    std::swap(shape.size, shape.result);
    for (int i = 0; i < 3; ++i) {
      shape.padding[i] = dilation[i] * (kernel[i] - 1) - padding[i];
    }
    return shape;
  }

  bool unit_stride() const { return product_of(stride) == 1; }

  // Sizes of the input with its padding.
  Triple padded() const {
    Triple sizes;
    for (int i = 0; i < 3; ++i) sizes[i] = size[i] + 2 * padding[i] + extra[i];
    return sizes;
  }

  // Calls body(i, z, y, x) on each place of a box, in order.
  template <typename Body>
  static void each(const Triple& box, const Body& body) {
    int64_t i = 0;
    for (int64_t z = 0; z < box[0]; ++z) {
      for (int64_t y = 0; y < box[1]; ++y) {
        for (int64_t x = 0; x < box[2]; ++x) body(i++, z, y, x);
      }
    }
  }
};

}  // namespace sparseq
