// hamilton_conv: y = W (x) x + b, quaternion convolutions over 1 to 3 dimensions, dx and dW.
//
// x (n, 4 in, spatial), weight (4, out, in / groups, kernel), y (n, 4 out, spatial'). Each is a
// product of quaternion matrices by the eight (or sixteen) block products of hamilton.cpp: the
// H transforms of x are made once per image, those of the weight once per call, and the taps are
// read where they lie (quaternion_conv.h, quaternion_conv_dw.h), or, for 3x3 kernels and enough
// images, by Winograd's tiles (quaternion_winograd.h). At stride 1, dx is the convolution of dy
// with the flipped conjugate transpose. Torch's convolution of the real weight takes what
// is faster there (conv_dense.h).

#include <torch/csrc/stable/library.h>

#include <string>

#include "conv_dense.h"
#include "dtypes.h"
#include "quaternion_conv_dw.h"
#include "quaternion_winograd.h"

namespace sparseq {
namespace {

using Numbers = std::vector<int64_t>;

Triple triple(const Numbers& numbers, int64_t missing) {
  Triple found = {missing, missing, missing};
  std::copy(numbers.begin(), numbers.end(), found.end() - numbers.size());
  return found;
}

Numbers spatial(const Tensor& x, int64_t from) {
  return {x.sizes().begin() + from, x.sizes().end()};
}

struct Settings {
  Numbers stride, padding, dilation;
  int64_t groups;
};

ConvShape shape_of(const char* op, int64_t batch, int64_t in, int64_t out, const Numbers& size,
                   const Numbers& kernel, const Settings& settings) {
  const size_t dims = kernel.size();
  SPARSEQ_CHECK(dims >= 1 && dims <= 3 && size.size() == dims && settings.stride.size() == dims &&
                    settings.padding.size() == dims && settings.dilation.size() == dims,
                op, "stride, padding, dilation", "must have a number for each dimension", dims);
  SPARSEQ_CHECK(settings.groups > 0 && in % settings.groups == 0 && out % settings.groups == 0, op,
                "groups", "must divide the quaternion channels", settings.groups);
  ConvShape shape{batch,
                  in,
                  out,
                  settings.groups,
                  triple(size, 1),
                  triple(kernel, 1),
                  {},
                  triple(settings.stride, 1),
                  triple(settings.padding, 0),
                  triple(settings.dilation, 1)};
  for (int i = 0; i < 3; ++i) {
    const int64_t left = shape.padded()[i] - shape.dilation[i] * (shape.kernel[i] - 1) - 1;
    SPARSEQ_CHECK(shape.stride[i] > 0 && shape.padding[i] >= 0 && shape.dilation[i] > 0, op,
                  "stride, padding, dilation", "must be positive", shape.stride[i]);
    SPARSEQ_CHECK(left >= 0, op, "kernel", "must be no larger than the padded input", left);
    shape.result[i] = left / shape.stride[i] + 1;
  }
  return shape;
}

void check_weight(const char* op, const Tensor& weight, int64_t dims) {
  SPARSEQ_CHECK(weight.dim() == dims + 1 && weight.size(0) == 4, op, "weight",
                "must have shape (4, m, k / groups, kernel)", weight.dim());
}

Numbers result_sizes(const ConvShape& shape, const Triple& spatial, int64_t channels, size_t dims) {
  Numbers sizes = {shape.batch, 4 * channels};
  sizes.insert(sizes.end(), spatial.end() - dims, spatial.end());
  return sizes;
}

// Channels last and nothing else, as torch decides it.
bool channels_last(const Tensor& x) {
  if (x.dim() != 4 || x.is_contiguous()) return false;
  int64_t expected = 1;
  for (const int i : {1, 3, 2, 0}) {
    if (x.size(i) != 1 && x.stride(i) != expected) return false;
    expected *= x.size(i);
  }
  return true;
}

// `y`, in the memory format of `like`.
Tensor in_format_of(const Tensor& like, const Tensor& y) {
  if (!channels_last(like)) return y;
  const Numbers sizes = {y.size(0), y.size(2), y.size(3), y.size(1)};
  const Tensor last = new_output(y, sizes);
  Tensor view = torch::stable::transpose(torch::stable::transpose(last, 1, 3), 2, 3);
  return torch::stable::copy_(view, y);
}

bool fits(const ConvShape& shape) {
  const Triple padded = shape.padded();
  return product_of(padded) * std::max(shape.in, shape.out) * 64 < (int64_t{1} << 31);
}

// Whether the kernels take what "auto" leaves open; measured against torch's convolution of the
// rebuilt weight. They need some channels in each group, more where taps are copied or a lone tap
// leaves little depth. Bfloat16 has products in hardware that float has not; float16 in torch is
// many times slower.
template <typename S, typename T>
bool by_kernel(const ConvShape& shape, const std::string& algorithm, bool gradient) {
  if (!fits(shape) || algorithm != "auto") return fits(shape);
  if (std::is_same_v<S, torch::headeronly::Half>) return true;
  if (std::is_same_v<S, torch::headeronly::BFloat16>) return false;
  const bool lone = shape.taps() == 1, copied = layout_of<T>(shape) == Layout::gather;
  if (lone && !shape.unit_stride()) return false;
  const int64_t least = lone || (copied && !gradient) ? 32 : (gradient ? 16 : 8);
  return std::min(shape.group_in(), shape.group_out()) >= least;
}

bool use_eight(const ConvShape& shape, const std::string& algorithm) {
  return algorithm == "8" || (algorithm != "16" && shape.depth() >= 16);
}

template <typename S>
Tensor real_of(const ConvShape& shape, const Tensor& weight) {
  Numbers sizes = spatial(weight, 1);
  sizes[0] = 4 * shape.out;
  sizes[1] = 4 * shape.group_in();
  Tensor real = new_output(weight, sizes);
  build_real(shape, static_cast<const S*>(weight.const_data_ptr()),
             static_cast<S*>(real.mutable_data_ptr()));
  return real;
}

// y = weight (x) x by the quickest of our kernels.
template <typename S, typename T>
void convolve(const ConvShape& shape, const ConvWeight<S>& weight, const S* x, const S* bias, S* y,
              const std::string& algorithm) {
  const bool eight = use_eight(shape, algorithm);
  if (eight && Winograd<S, T>::serves(shape)) {
    return Winograd<S, T>(shape, weight).run(x, bias, y);
  }
  Convolution<S, T>(shape, weight, eight).run(x, bias, y);
}

Tensor hamilton_conv(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                     Numbers stride, Numbers padding, Numbers dilation, int64_t groups,
                     std::string algorithm) {
  const char* op = "hamilton_conv";
  check_weight(op, weight, x.dim());
  check_same_type(op, "weight", x, weight);
  if (bias.has_value()) check_same_type(op, "bias", x, *bias);
  const int64_t in = weight.size(2) * groups;
  SPARSEQ_CHECK(x.size(1) == 4 * in, op, "x", "must have four channels for each quaternion",
                x.size(1));
  const ConvShape shape = shape_of(op, x.size(0), in, weight.size(1), spatial(x, 2),
                                   spatial(weight, 3), {stride, padding, dilation, groups});
  const Tensor input = as_contiguous(x), matrix = as_contiguous(weight);
  const std::optional<Tensor> offset = as_contiguous(bias);
  Tensor y = new_output(x, result_sizes(shape, shape.result, shape.out, stride.size()));
  if (y.numel() == 0) return y;
  with_types(op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    if (!by_kernel<S, T>(shape, algorithm, false)) {
      const DenseConv dense{shape, stride, padding, dilation};
      y = dense_forward(dense, input, real_of<S>(shape, matrix), offset);
      return;
    }
    const ConvWeight<S> w{static_cast<const S*>(matrix.const_data_ptr()), false};
    convolve<S, T>(shape, w, static_cast<const S*>(input.const_data_ptr()), data_or_null<S>(offset),
                   static_cast<S*>(y.mutable_data_ptr()), algorithm);
  });
  return in_format_of(x, y);
}

Tensor hamilton_conv_dx(const Tensor& dy, const Tensor& weight, Numbers size, Numbers stride,
                        Numbers padding, Numbers dilation, int64_t groups, std::string algorithm) {
  const char* op = "hamilton_conv_dx";
  check_weight(op, weight, dy.dim());
  check_same_type(op, "weight", dy, weight);
  const ConvShape shape = shape_of(op, dy.size(0), weight.size(2) * groups, weight.size(1), size,
                                   spatial(weight, 3), {stride, padding, dilation, groups});
  SPARSEQ_CHECK(dy.numel() == shape.batch * 4 * shape.out * shape.pixels(), op, "dy",
                "must be the shape of the convolution's result", dy.numel());
  const Tensor input = as_contiguous(dy), matrix = as_contiguous(weight);
  Tensor dx = new_output(dy, result_sizes(shape, shape.size, shape.in, stride.size()));
  if (dx.numel() == 0) return dx;
  const ConvShape back = shape.backward();
  const bool served =
      shape.unit_stride() && *std::min_element(back.padding.begin(), back.padding.end()) >= 0;
  with_types(op, dy, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    if (!served || !by_kernel<S, T>(back, algorithm, false)) {
      const DenseConv dense{shape, stride, padding, dilation};
      dx = dense_backward(dense, input, dx, real_of<S>(shape, matrix), 0);
      return;
    }
    const ConvWeight<S> w{static_cast<const S*>(matrix.const_data_ptr()), true};
    convolve<S, T>(back, w, static_cast<const S*>(input.const_data_ptr()), nullptr,
                   static_cast<S*>(dx.mutable_data_ptr()), algorithm);
  });
  return in_format_of(dy, dx);
}

Tensor hamilton_conv_dw(const Tensor& dy, const Tensor& x, Numbers kernel, Numbers stride,
                        Numbers padding, Numbers dilation, int64_t groups, std::string algorithm) {
  const char* op = "hamilton_conv_dw";
  check_same_type(op, "x", dy, x);
  const ConvShape shape = shape_of(op, x.size(0), x.size(1) / 4, dy.size(1) / 4, spatial(x, 2),
                                   kernel, {stride, padding, dilation, groups});
  SPARSEQ_CHECK(x.size(1) % 4 == 0 && dy.numel() == shape.batch * 4 * shape.out * shape.pixels(),
                op, "dy", "must be the shape of the convolution's result", dy.numel());
  const Tensor left = as_contiguous(dy), right = as_contiguous(x);
  Numbers sizes = {4, shape.out, shape.group_in()};
  sizes.insert(sizes.end(), kernel.begin(), kernel.end());
  if (shape.batch == 0) return torch::stable::new_zeros(dy, sizes);
  Tensor dw = new_output(dy, sizes);
  if (dw.numel() == 0) return dw;
  with_types(op, dy, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    S* out = static_cast<S*>(dw.mutable_data_ptr());
    if (!by_kernel<S, T>(shape, algorithm, true)) {
      sizes.erase(sizes.begin());
      sizes[0] *= 4;
      sizes[1] *= 4;
      const DenseConv dense{shape, stride, padding, dilation};
      const Tensor real = dense_backward(dense, left, right, new_output(dy, sizes), 1);
      return fold_real<S, T>(shape, static_cast<const S*>(real.const_data_ptr()), out);
    }
    const bool eight = algorithm == "8" || (algorithm != "16" && shape.pixels() >= 16);
    WeightGradient<S, T>(shape, eight)
        .run(static_cast<const S*>(left.const_data_ptr()),
             static_cast<const S*>(right.const_data_ptr()), out);
  });
  return dw;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("hamilton_conv", TORCH_BOX(&hamilton_conv));
  m.impl("hamilton_conv_dx", TORCH_BOX(&hamilton_conv_dx));
  m.impl("hamilton_conv_dw", TORCH_BOX(&hamilton_conv_dw));
}

}  // namespace sparseq
