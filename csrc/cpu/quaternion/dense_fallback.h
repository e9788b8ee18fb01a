// The convolution as torch's own, of the rebuilt real weight (4 out, 4 in / groups, taps): where
// that is faster, and for the gradients that have no kernel. With groups, channels are brought to
// group-major order and back, since group g has a part of each of the four blocks.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <cstring>
#include <optional>
#include <vector>

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

struct DenseConv {
  const ConvShape& shape;
  std::vector<int64_t> stride, padding, dilation;  // of the tensor's dimensions
};

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

template <typename S>
void build_real(const ConvShape& shape, const S* weight, S* real) {
  const int64_t depth = shape.depth();
  each_run(shape, [&](int64_t from, int64_t to, int sign) {
    if (sign > 0) {
      std::memcpy(real + to, weight + from, depth * sizeof(S));
    } else {
      for (int64_t i = 0; i < depth; ++i) real[to + i] = static_cast<S>(-weight[from + i]);
    }
  });
}

// The adjoint of build_real; 16-bit types are summed in T.
template <typename S, typename T>
void fold_real(const ConvShape& shape, const S* real, S* weight) {
  const int64_t depth = shape.depth(), rows = shape.group_out();
  parallel_items(4 * shape.out_channels, useful_threads(16 * shape.out_channels * depth / 8),
                 [&](int64_t item) {
                   const int64_t c = item / shape.out_channels, row = item % shape.out_channels;
                   const int64_t first = row / rows * 4 * rows + row % rows;
                   S* to = weight + item * depth;
                   for (int64_t i = 0; i < depth; ++i) {
                     T sum = 0;
                     for (int64_t a = 0; a < 4; ++a) {
                       const int64_t b = kComponent[a][c];  // so that kComponent[a][b] == c
                       sum += kSign[a][b] *
                              static_cast<T>(real[((first + a * rows) * 4 + b) * depth + i]);
                     }
                     to[i] = static_cast<S>(sum);
                   }
                 });
}

inline Tensor dense_forward(const DenseConv& conv, const Tensor& x, const Tensor& real,
                            const std::optional<Tensor>& bias) {
  const int64_t groups = conv.shape.g.groups, dims = static_cast<int64_t>(conv.stride.size());
  const std::vector<int64_t> none(dims, 0);
  const Tensor input = regroup(x, 4, groups);
  AtenTensorHandle offset = nullptr, result = nullptr;
  std::optional<Tensor> regrouped;
  if (bias.has_value()) {
    regrouped = regroup(torch::stable::reshape(*bias, {1, 4 * conv.shape.out_channels}), 4, groups);
    regrouped = torch::stable::reshape(*regrouped, {4 * conv.shape.out_channels});
    offset = regrouped->get();
  }
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_convolution(
      input.get(), real.get(), bias.has_value() ? &offset : nullptr, conv.stride.data(), dims,
      conv.padding.data(), dims, conv.dilation.data(), dims, 0, none.data(), dims, groups,
      &result));
  return regroup(as_contiguous(Tensor(result)), groups, 4);
}

// dx (which = 0) or the gradient of the real weight (which = 1).
inline Tensor dense_backward(const DenseConv& conv, const Tensor& dy, const Tensor& x,
                             const Tensor& real, int which) {
  const int64_t groups = conv.shape.g.groups, dims = static_cast<int64_t>(conv.stride.size());
  const std::vector<int64_t> none(dims, 0);
  const int32_t mask[3] = {which == 0, which == 1, 0};
  const Tensor gradient = regroup(dy, 4, groups), input = which == 1 ? regroup(x, 4, groups) : x;
  AtenTensorHandle results[3] = {};
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_convolution_backward(
      gradient.get(), input.get(), real.get(), nullptr, 0, conv.stride.data(), dims,
      conv.padding.data(), dims, conv.dilation.data(), dims, 0, none.data(), dims, groups, mask, 3,
      &results[0], &results[1], &results[2]));
  for (int i = 0; i < 3; ++i) {
    if (i != which && results[i] != nullptr) Tensor unused(results[i]);
  }
  const Tensor result = as_contiguous(Tensor(results[which]));
  return which == 0 ? regroup(result, groups, 4) : result;
}

}  // namespace sparseq::quaternion
