// The convolution as torch's own, of the rebuilt real weight (4 out, 4 in / groups, taps): where
// that is faster, and for the gradients that have no kernel. With groups, channels are brought to
// group-major order and back, since group g has a part of each of the four blocks.
//
// Torch cuts its sums and picks its algorithms by the number of threads. So each of its calls gets
// one thread and one part of the work, cut by the sizes alone, and what parts sum is added in
// order: same bits on any threads.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "../tensors/one_thread.h"
#include "../tensors/parallel.h"
#include "../tensors/tensors.h"
#include "conv_shape.h"
#include "hamilton_table.h"

namespace sparseq::quaternion {

using tensors::as_contiguous;
using tensors::new_output;
using tensors::parallel_items;
using tensors::Tensor;
using tensors::useful_threads;

constexpr int64_t kMostParts = 16;
constexpr int64_t kPartOperations = int64_t{1} << 21;  // multiply-adds worth a call of their own

struct DenseConv {
  const ConvShape& shape;
  std::vector<int64_t> stride, padding, dilation;  // of the tensor's dimensions
};

struct Range {
  int64_t first, count;
};

// How the work is cut: into ranges of images, and where these are few, of one component each.
struct Parts {
  int64_t batch, ranges, components = 1;

  explicit Parts(const ConvShape& shape) : batch(shape.batch) {
    const int64_t worth = std::max<int64_t>(1, shape.operations() / kPartOperations);
    ranges = std::min({kMostParts, worth, std::max<int64_t>(1, batch)});
    if (shape.g.groups == 1 && ranges < 4 && worth >= 4) components = 4;
  }

  Range images(int64_t range) const {
    const int64_t first = tensors::part_begin(batch, range, ranges);
    return {first, tensors::part_begin(batch, range + 1, ranges) - first};
  }

  // Of `channels` in blocks of the components.
  Range channels(int64_t component, int64_t channels) const {
    return {component * (channels / components), channels / components};
  }

  // Calls body(range, component), each on one thread: also a lone part, since torch would use all
  // for it.
  template <typename Body>
  void each(const Body& body) const {
    const int64_t count = ranges * components;
    parallel_items(std::max<int64_t>(2, count), 2 * count, [&](int64_t item) {
      if (item >= count) return;
      const tensors::OneThread alone;
      body(item / components, item % components);
    });
  }
};

// A range of the first dimension and one of the second of a contiguous tensor, in its memory.
inline Tensor part_of(const Tensor& x, Range rows, Range columns) {
  std::vector<int64_t> sizes = tensors::sizes_of(x),
                       strides = {x.strides().begin(), x.strides().end()};
  sizes[0] = rows.count;
  sizes[1] = columns.count;
  const int64_t first = rows.first * strides[0] + columns.first * strides[1];
  int32_t dtype, device, index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &device));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x.get(), &index));
  char* data = static_cast<char*>(x.mutable_data_ptr()) + first * x.element_size();
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(
      data, x.dim(), sizes.data(), strides.data(), 0, dtype, device, index, &handle));
  return Tensor(handle);
}

inline Range all(const Tensor& x, int dim) { return {0, x.size(dim)}; }

// Copies `part`, contiguous, to its place in `whole`.
inline void put_part(const Tensor& part, const Tensor& whole, Range rows, Range columns) {
  if (part.numel() == 0) return;
  const int64_t bytes = part.numel() / rows.count * part.element_size();
  const int64_t row = whole.numel() / whole.size(0) * whole.element_size();
  const char* from = static_cast<const char*>(part.const_data_ptr());
  char* to = static_cast<char*>(whole.mutable_data_ptr()) + rows.first * row +
             columns.first * (bytes / columns.count);
  for (int64_t i = 0; i < rows.count; ++i) std::memcpy(to + i * row, from + i * bytes, bytes);
}

// Planes (batch, outer, inner, count, area) to (batch, inner, outer, count, area).
inline Tensor regroup(const Tensor& x, int64_t outer, int64_t inner) {
  if (outer == 1 || inner == 1 || x.numel() == 0) return x;
  Tensor y = new_output(x, tensors::sizes_of(x));
  const int64_t bytes = x.element_size() * x.numel() / x.size(0) / (outer * inner);
  const char* from = static_cast<const char*>(x.const_data_ptr());
  char* to = static_cast<char*>(y.mutable_data_ptr());
  for (int64_t i = 0; i < x.size(0) * outer * inner; ++i) {
    const int64_t n = i / (outer * inner), o = i / inner % outer, j = i % inner;
    std::memcpy(to + ((n * inner + j) * outer + o) * bytes, from + i * bytes, bytes);
  }
  return y;
}

// Calls body(compact index, real index, sign) with the first entries of each run of `depth` that
// the real weight copies from the compact one: out rows of 4 in / groups * taps.
template <typename Body>
void each_run(const ConvShape& shape, const Body& body) {
  const int64_t rows = shape.group_out(), depth = shape.depth();
  parallel_items(shape.out_channels, useful_threads(16 * shape.out_channels * depth / 8),
                 [&](int64_t row) {
                   const int64_t group = row / rows, r = row % rows;
                   for (int a = 0; a < 4; ++a) {
                     const int64_t real_row = (group * 4 + a) * rows + r;
                     for (int b = 0; b < 4; ++b) {
                       body((kComponent[a][b] * shape.out_channels + row) * depth,
                            (real_row * 4 + b) * depth, kSign[a][b]);
                     }
                   }
                 });
}

template <typename S, typename D>
void build_real(const ConvShape& shape, const S* weight, D* real) {
  const int64_t depth = shape.depth();
  each_run(shape, [&](int64_t from, int64_t to, int sign) {
    for (int64_t i = 0; i < depth; ++i) {
      const D entry = static_cast<D>(weight[from + i]);
      real[to + i] = sign > 0 ? entry : static_cast<D>(-entry);
    }
  });
}

// The adjoint of build_real, of the sum of `count` real gradients one after the other.
template <typename S, typename T>
void fold_real(const ConvShape& shape, const T* real, int64_t count, S* weight) {
  const int64_t depth = shape.depth(), rows = shape.group_out();
  const int64_t apart = 16 * shape.out_channels * depth;
  parallel_items(4 * shape.out_channels, useful_threads(count * apart / 8), [&](int64_t item) {
    const int64_t c = item / shape.out_channels, row = item % shape.out_channels;
    const int64_t first = row / rows * 4 * rows + row % rows;
    S* to = weight + item * depth;
    for (int64_t i = 0; i < depth; ++i) {
      T sum = 0;
      for (int64_t a = 0; a < 4; ++a) {
        const int64_t b = kComponent[a][c];  // so that kComponent[a][b] == c
        const T* from = real + ((first + a * rows) * 4 + b) * depth + i;
        for (int64_t part = 0; part < count; ++part) sum += kSign[a][b] * from[part * apart];
      }
      to[i] = static_cast<S>(sum);
    }
  });
}

// One call of torch's convolution, and of its gradients: dx (which = 0) or dW (which = 1).
inline Tensor convolve_part(const DenseConv& conv, const Tensor& x, const Tensor& real,
                            const std::optional<Tensor>& bias) {
  const int64_t dims = static_cast<int64_t>(conv.stride.size());
  const std::vector<int64_t> none(dims, 0);
  AtenTensorHandle offset = bias.has_value() ? bias->get() : nullptr, result = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_convolution(
      x.get(), real.get(), bias.has_value() ? &offset : nullptr, conv.stride.data(), dims,
      conv.padding.data(), dims, conv.dilation.data(), dims, 0, none.data(), dims,
      conv.shape.g.groups, &result));
  return as_contiguous(Tensor(result));
}

inline Tensor differentiate_part(const DenseConv& conv, const Tensor& dy, const Tensor& x,
                                 const Tensor& real, int which) {
  const int64_t dims = static_cast<int64_t>(conv.stride.size());
  const std::vector<int64_t> none(dims, 0);
  const int32_t mask[3] = {which == 0, which == 1, 0};
  AtenTensorHandle results[3] = {};
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_convolution_backward(
      dy.get(), x.get(), real.get(), nullptr, 0, conv.stride.data(), dims, conv.padding.data(),
      dims, conv.dilation.data(), dims, 0, none.data(), dims, conv.shape.g.groups, mask, 3,
      &results[0], &results[1], &results[2]));
  for (int i = 0; i < 3; ++i) {
    if (i != which && results[i] != nullptr) Tensor unused(results[i]);
  }
  return as_contiguous(Tensor(results[which]));
}

// y, of the sizes of `y` and in its memory where there are no groups.
inline Tensor dense_forward(const DenseConv& conv, const Tensor& x, const Tensor& real,
                            const std::optional<Tensor>& bias, const Tensor& y) {
  const int64_t groups = conv.shape.g.groups, outputs = 4 * conv.shape.out_channels;
  const Tensor input = regroup(x, 4, groups);
  std::optional<Tensor> offset;
  if (bias.has_value()) {
    offset = regroup(torch::stable::reshape(*bias, {1, outputs}), 4, groups);
  }
  const Parts parts(conv.shape);
  parts.each([&](int64_t range, int64_t component) {
    const Range images = parts.images(range), rows = parts.channels(component, outputs);
    std::optional<Tensor> shift;
    if (offset.has_value()) {
      shift = torch::stable::reshape(part_of(*offset, {0, 1}, rows), {rows.count});
    }
    const Tensor part = convolve_part(conv, part_of(input, images, all(input, 1)),
                                      part_of(real, rows, all(real, 1)), shift);
    put_part(part, y, images, rows);
  });
  return regroup(y, groups, 4);
}

// dx, of the sizes of `dx` and in its memory where there are no groups.
inline Tensor dense_dx(const DenseConv& conv, const Tensor& dy, const Tensor& real,
                       const Tensor& dx) {
  const int64_t groups = conv.shape.g.groups;
  const Tensor gradient = regroup(dy, 4, groups);
  const Parts parts(conv.shape);
  parts.each([&](int64_t range, int64_t component) {
    const Range images = parts.images(range), columns = parts.channels(component, dx.size(1));
    const Range inputs = {columns.first / groups, columns.count / groups};
    const Tensor like = part_of(dx, images, columns), weight = part_of(real, all(real, 0), inputs);
    const Tensor from = part_of(gradient, images, all(gradient, 1));
    put_part(differentiate_part(conv, from, like, weight, 0), dx, images, columns);
  });
  return regroup(dx, groups, 4);
}

// The gradient of the weight (4, out, in / groups, taps), from dy and x in the type of the sums.
template <typename S, typename T>
void dense_dw(const DenseConv& conv, const Tensor& dy, const Tensor& x,
              std::vector<int64_t> real_sizes, S* dw) {
  const int64_t groups = conv.shape.g.groups;
  const Tensor gradient = regroup(dy, 4, groups), input = regroup(x, 4, groups);
  const Parts parts(conv.shape);
  const int64_t rows_of_one = real_sizes[0];
  real_sizes[0] *= parts.ranges;
  const Tensor real = new_output(dy, real_sizes);
  parts.each([&](int64_t range, int64_t component) {
    const Range images = parts.images(range), rows = parts.channels(component, dy.size(1));
    const Range place = {range * rows_of_one + rows.first, rows.count};
    const Tensor part = differentiate_part(conv, part_of(gradient, images, rows),
                                           part_of(input, images, all(input, 1)),
                                           part_of(real, place, all(real, 1)), 1);
    put_part(part, real, place, all(real, 1));
  });
  fold_real<S, T>(conv.shape, tensors::data_of<T>(real), parts.ranges, dw);
}

}  // namespace sparseq::quaternion
