// Padded images as the convolution kernels read them: eight blocks (the components and their H
// transforms, see hamilton.cpp), in which a channel's entries for one tap lie a fixed distance from
// its entries for another. Nothing is copied per tap.
//
//   rows:   [image][block][channel][z][y][x mod stride][x / stride], vectors along x
//   batch:  [block][channel][z][y][x][image], vectors along the images
//   gather: [block][channel][tap][output place], vectors along the places: copied per tap, for
//           the few places that fill no vector otherwise
#pragma once

#include "conv_shape.h"
#include "product.h"

namespace sparseq::quaternion {

enum class ImageLayout { rows, batch, gather };

// Entry (channel, tap) of the vector v of block b: data[b * block + start(v) + offsets[entry]].
template <typename T>
struct PaddedImage {
  T* data;
  int64_t block;                 // entries from one block to the next
  std::vector<int64_t> starts;   // of each vector
  std::vector<int32_t> offsets;  // of each (channel, tap)
};

// What the layout costs: steps through memory, for `images` images.
struct ImageSteps {
  ImageLayout layout;
  int64_t images, lane;  // lane: entries of the innermost dimension of gather and batch
  int64_t pitch, row, plane, channel, block, image, total;
};

template <typename T>
ImageSteps steps_of(const ConvShape& shape, ImageLayout layout, int64_t images) {
  const Sizes padded = shape.padded();
  constexpr int64_t n = kLanes<T>;
  ImageSteps s{layout, images, 0, 0, 0, 0, 0, 0, 0, 0};
  if (layout == ImageLayout::gather) {
    s.lane = (images * shape.pixels() + n - 1) / n * n;
    s.channel = shape.taps() * s.lane;
  } else if (layout == ImageLayout::batch) {
    s.lane = (images + n - 1) / n * n;
    s.row = padded[2] * s.lane;
    s.plane = padded[1] * s.row;
    s.channel = padded[0] * s.plane;
  } else {
    s.pitch = (padded[2] + shape.g.stride[2] - 1) / shape.g.stride[2];
    s.row = s.pitch * shape.g.stride[2];
    s.plane = padded[1] * s.row;
    s.channel = padded[0] * s.plane;
  }
  s.block = shape.group_in() * s.channel;
  s.image = layout == ImageLayout::rows ? 8 * s.block : 0;
  s.total = (layout == ImageLayout::rows ? images : 1) * 8 * s.block + 2 * n;  // vectors reach over
  return s;
}

// Entries from a channel's first tap to each of its taps.
inline std::vector<int64_t> tap_steps(const ConvShape& shape, const ImageSteps& s) {
  std::vector<int64_t> steps(shape.taps());
  each_place(shape.g.kernel, [&](int64_t i, int64_t z, int64_t y, int64_t x) {
    const Sizes at = {z * shape.g.dilation[0], y * shape.g.dilation[1], x * shape.g.dilation[2]};
    if (s.layout == ImageLayout::gather) {
      steps[i] = i * s.lane;
    } else if (s.layout == ImageLayout::batch) {
      steps[i] = at[0] * s.plane + at[1] * s.row + at[2] * s.lane;
    } else {
      const int64_t stride = shape.g.stride[2];
      steps[i] = at[0] * s.plane + at[1] * s.row + at[2] % stride * s.pitch + at[2] / stride;
    }
  });
  return steps;
}

// Where the first tap of the output place (z, y, x) reads.
inline int64_t place_start(const ConvShape& shape, const ImageSteps& s, int64_t z, int64_t y,
                           int64_t x) {
  const int64_t step = s.layout == ImageLayout::batch ? shape.g.stride[2] * s.lane : 1;
  return z * shape.g.stride[0] * s.plane + y * shape.g.stride[1] * s.row + x * step;
}

inline std::vector<int32_t> depth_offsets(const ConvShape& shape, const ImageSteps& s) {
  const std::vector<int64_t> taps = tap_steps(shape, s);
  std::vector<int32_t> offsets;
  offsets.reserve(shape.depth());
  for (int64_t c = 0; c < shape.group_in(); ++c) {
    for (const int64_t tap : taps) offsets.push_back(static_cast<int32_t>(c * s.channel + tap));
  }
  return offsets;
}

// One channel of one image to `to`, padded, rows split by x mod stride.
template <typename S, typename T>
void pad_plane(const ConvShape& shape, const ImageSteps& s, const S* from, T* to) {
  const Sizes padded = shape.padded();
  const int64_t stride = shape.g.stride[2], left = shape.g.padding[2], width = shape.in[2];
  for (int64_t z = 0; z < padded[0]; ++z) {
    for (int64_t y = 0; y < padded[1]; ++y, to += s.row) {
      const int64_t in_z = z - shape.g.padding[0], in_y = y - shape.g.padding[1];
      std::memset(to, 0, s.row * sizeof(T));
      if (in_z < 0 || in_z >= shape.in[0] || in_y < 0 || in_y >= shape.in[1]) continue;
      const S* line = from + (in_z * shape.in[1] + in_y) * width;
      if (stride == 1) {
        copy_row<T>(line, to + left, width);
        continue;
      }
      for (int64_t x = 0; x < width; ++x) {
        const int64_t at = x + left;
        to[at % stride * s.pitch + at / stride] = static_cast<T>(line[x]);
      }
    }
  }
}

// One channel of all images to `to`, padded, images innermost. `room`: area * lane entries.
template <typename S, typename T>
void pad_batch(const ConvShape& shape, const ImageSteps& s, const S* from, int64_t image, T* room,
               T* to) {
  const Sizes padded = shape.padded();
  const int64_t lane = s.lane, width = shape.in[2];
  if (s.images < lane) std::memset(room, 0, shape.area() * lane * sizeof(T));
  copy2d(from, 1, image, room, lane, shape.area(), s.images);
  for (int64_t z = 0; z < padded[0]; ++z) {
    for (int64_t y = 0; y < padded[1]; ++y, to += s.row) {
      const int64_t in_z = z - shape.g.padding[0], in_y = y - shape.g.padding[1];
      const bool outside = in_z < 0 || in_z >= shape.in[0] || in_y < 0 || in_y >= shape.in[1];
      const int64_t left = outside ? s.row : shape.g.padding[2] * lane;
      std::memset(to, 0, left * sizeof(T));
      if (outside) continue;
      std::memcpy(to + left, room + (in_z * shape.in[1] + in_y) * width * lane,
                  width * lane * sizeof(T));
      std::memset(to + left + width * lane, 0, (s.row - left - width * lane) * sizeof(T));
    }
  }
}

// One channel of all images to `to`, for each tap its entries at all output places.
template <typename S, typename T>
void gather_taps(const ConvShape& shape, const ImageSteps& s, const S* from, int64_t image, T* to) {
  const Sizes& k = shape.g.kernel;
  each_place(k, [&](int64_t, int64_t tz, int64_t ty, int64_t tx) {
    T* lane = to;
    to += s.lane;
    for (int64_t i = 0; i < s.images; ++i) {
      each_place({shape.out[0], shape.out[1], 1}, [&](int64_t, int64_t z, int64_t y, int64_t) {
        const int64_t in_z = z * shape.g.stride[0] + tz * shape.g.dilation[0] - shape.g.padding[0];
        const int64_t in_y = y * shape.g.stride[1] + ty * shape.g.dilation[1] - shape.g.padding[1];
        const bool outside = in_z < 0 || in_z >= shape.in[0] || in_y < 0 || in_y >= shape.in[1];
        const S* line = from + i * image + (in_z * shape.in[1] + in_y) * shape.in[2];
        int64_t at = tx * shape.g.dilation[2] - shape.g.padding[2];
        for (int64_t x = 0; x < shape.out[2]; ++x, at += shape.g.stride[2]) {
          const bool zero = outside || at < 0 || at >= shape.in[2];
          *lane++ = zero ? T(0) : static_cast<T>(line[at]);
        }
      });
    }
    while (lane < to) *lane++ = T(0);
  });
}

// Prepares one channel, of one image in rows, of all images otherwise. `x` is where the channel's
// component r of the first image lies; its components are `component`, images `image` apart.
template <typename S, typename T>
void prepare_channel(const ConvShape& shape, const ImageSteps& s, const S* x, int64_t component,
                     int64_t image, bool eight, bool conjugate, T* to) {
  static thread_local Scratch scratch;
  T* room = s.layout == ImageLayout::batch ? scratch.get<T>(shape.area() * s.lane) : nullptr;
  for (int b = 0; b < 4; ++b) {
    const S* from = x + b * component;
    T* block = to + b * s.block;
    if (s.layout == ImageLayout::rows) pad_plane(shape, s, from, block);
    if (s.layout == ImageLayout::batch) pad_batch(shape, s, from, image, room, block);
    if (s.layout == ImageLayout::gather) gather_taps(shape, s, from, image, block);
  }
  if (eight) transform_blocks(to, s.block, s.channel, conjugate, T(1));
}

// What of the input is prepared together.
struct ImagePart {
  int64_t first, group;  // image, and group of channels
};

// Prepares a group of s.images images of x (n, 4 in, area).
template <typename S, typename T>
void prepare_image(const ConvShape& shape, const ImageSteps& s, const S* x, const ImagePart& part,
                   bool eight, bool conjugate, T* data, int64_t threads) {
  const int64_t area = shape.area(), channels = shape.group_in();
  const int64_t image = 4 * shape.in_channels * area;
  const bool apart = s.layout == ImageLayout::rows;
  parallel_items(channels * (apart ? s.images : 1), threads, [&](int64_t item) {
    const int64_t i = item / channels, c = item % channels;
    prepare_channel(shape, s, x + (part.first + i) * image + (part.group * channels + c) * area,
                    shape.in_channels * area, image, eight, conjugate,
                    data + i * s.image + c * s.channel);
  });
}

}  // namespace sparseq::quaternion
