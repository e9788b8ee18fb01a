// hamilton_conv: y = W (x) x + b, quaternion convolutions over 1 to 3 dimensions, dx and dW.
//
// x (n, 4 in, *spatial), weight (4, out, in / groups, *kernel), b (4 out) or none, y (n, 4 out,
// *spatial'), contiguous; float, double, or 16-bit summed in float. Pointers and strides count
// elements. dW is zero for an empty batch. Every sum has one order: same bits on any threads.
//
// Each is a product of quaternion matrices by the eight (or sixteen) block products of
// hamilton.cpp: the H transforms of x are made once per image, those of the weight once per call,
// and the taps are read where they lie (quaternion/conv.h, conv_gradient.h), or, for 3x3 kernels
// and enough images, by Winograd's tiles (winograd.h). At stride 1, dx is the convolution of dy
// with the flipped conjugate transpose. Torch's convolution of the real weight takes what is faster
// that way (dense_fallback.h).

#include <torch/csrc/stable/library.h>

#include <string>

#include "quaternion/conv_gradient.h"
#include "quaternion/dense_fallback.h"
#include "quaternion/winograd.h"
#include "tensors/dtypes.h"
#include "tensors/sum_type.h"

namespace sparseq::ops {
namespace {

using namespace quaternion;
using namespace tensors;

using Numbers = std::vector<int64_t>;
constexpr int kWidth = 2;  // the axis of a lone dimension: vectors run along it

Numbers spatial(const Tensor& x, int64_t from) {
  return {x.sizes().begin() + from, x.sizes().end()};
}

struct Settings {
  Numbers stride, padding, dilation;
  int64_t groups;
};

conv::Geometry geometry_of(const char* op, const Numbers& kernel, const Settings& settings) {
  const size_t dims = kernel.size();
  const Numbers &stride = settings.stride, &dilation = settings.dilation;
  SPARSEQ_CHECK(dims >= 1 && dims <= 3 && stride.size() == dims && dilation.size() == dims &&
                    settings.padding.size() == dims,
                op, "stride, padding, dilation", "must have a number for each dimension", dims);
  const auto least = [](const Numbers& numbers) {
    return *std::min_element(numbers.begin(), numbers.end());
  };
  SPARSEQ_CHECK(least(stride) >= 1 && least(dilation) >= 1 && least(settings.padding) >= 0, op,
                "stride, dilation and padding", "must be positive, positive and not negative",
                text("(", tuple_text(stride), ", ", tuple_text(dilation), ", ",
                     tuple_text(settings.padding), ")"));
  Numbers numbers = kernel;
  for (const Numbers& part : {stride, settings.padding, dilation, Numbers(dims, 0)}) {
    numbers.insert(numbers.end(), part.begin(), part.end());
  }
  numbers.push_back(settings.groups);
  return conv::read_geometry(op, numbers, kWidth);
}

// The convolution of an input of `size` by a weight (4, out, in / groups, *kernel).
ConvShape shape_of(const char* op, int64_t batch, int64_t in, int64_t out, const Numbers& size,
                   const Numbers& kernel, const Settings& settings) {
  const int64_t groups = settings.groups;
  SPARSEQ_CHECK(groups >= 1 && in % groups == 0 && out % groups == 0, op, "groups",
                text("must divide ", out, " quaternions"), groups);
  const conv::Geometry g = geometry_of(op, kernel, settings);
  SPARSEQ_CHECK(size.size() == kernel.size(), op, "kernel", "must have the dimensions of the input",
                tuple_text(kernel));
  ConvShape shape{{g, batch, in, out, g.sizes(size.data()), {}}};
  conv::check_places(op, "x", g, shape.in);
  for (int i = 0; i < conv::kAxes; ++i) {
    shape.out[i] = g.output(i, shape.in[i]);
    SPARSEQ_CHECK(shape.out[i] >= 1, op, "kernel",
                  text("must be no larger than the padded input ", tuple_text(size)),
                  tuple_text(kernel));
  }
  return shape;
}

void check_weight(const char* op, const Tensor& weight) {
  SPARSEQ_CHECK(weight.dim() >= 4 && weight.dim() <= 6 && weight.size(0) == 4, op, "weight",
                "must have shape (4, m, k, *kernel) with 1 to 3 sizes of the kernel",
                shape_text(weight));
  int64_t numbers = 16;
  for (int64_t i = 1; i < weight.dim(); ++i) {
    numbers = size_product(op, "weight", numbers, std::max<int64_t>(weight.size(i), 1));
  }
}

void check_image(const char* op, const Named& x, int64_t channels, int64_t dims) {
  SPARSEQ_CHECK(x.tensor.dim() == dims + 2 && x.tensor.size(1) == channels, op, x.name,
                text("must have ", channels, " channels before ", dims, " spatial dimensions"),
                shape_text(x.tensor));
}

Numbers result_sizes(const ConvShape& shape, const conv::Sizes& spatial, int64_t channels,
                     size_t dims) {
  Numbers sizes = {shape.batch, size_product("hamilton_conv", "groups", 4, channels)};
  sizes.insert(sizes.end(), spatial.end() - static_cast<std::ptrdiff_t>(dims), spatial.end());
  return sizes;
}

// Checks that dy is the result's gradient.
void check_result(const char* op, const Tensor& dy, const ConvShape& shape) {
  const Numbers sizes =
      result_sizes(shape, shape.out, shape.out_channels, static_cast<size_t>(shape.g.dims));
  SPARSEQ_CHECK(sizes_of(dy) == sizes, op, "dy", text("must have shape ", tuple_text(sizes)),
                shape_text(dy));
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
  const conv::Sizes padded = shape.padded();  // each of 31 bits
  const double places = static_cast<double>(padded[0]) * padded[1] * padded[2];
  return places * std::max(shape.in_channels, shape.out_channels) * 64 < (int64_t{1} << 31);
}

// Whether the kernels take what "auto" leaves open; measured against torch's convolution of the
// rebuilt weight. They need some channels in each group, more where taps are copied or a lone tap
// leaves little depth. Bfloat16 has products in hardware that float has not; float16 in torch is
// many times slower, and the bits of double in torch differ from call to call.
template <typename S, typename T>
bool by_kernel(const ConvShape& shape, const std::string& algorithm, bool gradient) {
  if (!fits(shape) || algorithm != "auto") return fits(shape);
  if (std::is_same_v<S, torch::headeronly::Half> || std::is_same_v<S, double>) return true;
  if (std::is_same_v<S, torch::headeronly::BFloat16>) return false;
  const bool lone = shape.taps() == 1, copied = layout_of<T>(shape) == ImageLayout::gather;
  if (lone && !shape.g.unit_stride()) return false;
  const int64_t least = lone || (copied && !gradient) ? 32 : (gradient ? 16 : 8);
  return std::min(shape.group_in(), shape.group_out()) >= least;
}

// Calls body(D{}) with the type that torch's convolution gets the numbers in: float instead of
// float16, of which it is slow, and of bfloat16 where a row of results is a single one, which
// oneDNN computes from memory that is not the tensor's.
template <typename S, typename Body>
void with_dense_type(const ConvShape& shape, const Body& body) {
  if constexpr (std::is_same_v<S, torch::headeronly::BFloat16>) {
    if (shape.out[2] > 1) return body(S{});
  }
  body(std::conditional_t<sizeof(S) == 2, float, S>{});
}

// Uninitialized, of D where the numbers of `like` are of S.
template <typename S, typename D>
Tensor new_output_of(const Tensor& like, const Numbers& sizes) {
  if constexpr (std::is_same_v<S, D>) {
    return new_output(like, sizes);
  } else {
    return new_output(like, sizes, aoti_torch_dtype_float32());
  }
}

template <typename S, typename D>
Tensor converted(const Tensor& x) {
  if constexpr (std::is_same_v<S, D>) {
    return x;
  } else {
    const Tensor y = new_output_of<S, D>(x, sizes_of(x));
    gather_values(data_of<S>(x), nullptr, x.numel(), 1, mutable_data_of<D>(y));
    return y;
  }
}

template <typename S, typename D>
std::optional<Tensor> converted(const std::optional<Tensor>& x) {
  return x.has_value() ? std::optional<Tensor>(converted<S, D>(*x)) : std::nullopt;
}

// y of D, rounded to S in the memory of `to` where the types differ.
template <typename S, typename D>
Tensor rounded(const Tensor& y, const Tensor& to) {
  if constexpr (std::is_same_v<S, D>) {
    return y;
  } else {
    simd::copy_row<D>(data_of<D>(y), mutable_data_of<S>(to), y.numel());
    return to;
  }
}

template <typename S, typename D>
Tensor real_of(const ConvShape& shape, const Tensor& weight) {
  Numbers sizes = spatial(weight, 1);
  sizes[0] = 4 * shape.out_channels;
  sizes[1] = 4 * shape.group_in();
  const Tensor real = new_output_of<S, D>(weight, sizes);
  build_real(shape, data_of<S>(weight), mutable_data_of<D>(real));
  return real;
}

// y = weight (x) x by the quickest of our kernels.
template <typename S, typename T>
void convolve(const ConvShape& shape, const ConvWeight<S>& weight, const S* x, const S* bias, S* y,
              const std::string& algorithm) {
  const bool eight = use_eight(algorithm, shape.depth());
  if (eight && Winograd<S, T>::serves(shape)) {
    return Winograd<S, T>(shape, weight).run(x, bias, y);
  }
  Convolution<S, T>(shape, weight, eight).run(x, bias, y);
}

Tensor hamilton_conv(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                     Numbers stride, Numbers padding, Numbers dilation, int64_t groups,
                     std::string algorithm) {
  const char* op = "hamilton_conv";
  check_algorithm(op, algorithm);
  check_weight(op, weight);
  const int64_t in = size_product(op, "groups", weight.size(2), groups);
  check_image(op, {"x", x}, size_product(op, "groups", 4, in), weight.dim() - 3);
  if (bias.has_value()) {
    check_vector(op, {"bias", *bias}, 4 * weight.size(1));
    check_dtype(op, {"bias", *bias}, {"weight", weight});
  }
  check_dtype(op, {"x", x}, {"weight", weight});
  const ConvShape shape = shape_of(op, x.size(0), in, weight.size(1), spatial(x, 2),
                                   spatial(weight, 3), {stride, padding, dilation, groups});
  const Tensor input = as_contiguous(x), matrix = as_contiguous(weight);
  const std::optional<Tensor> offset = as_contiguous(bias);
  Tensor y = new_output(x, result_sizes(shape, shape.out, shape.out_channels, stride.size()));
  if (y.numel() == 0) return y;
  with_types(op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    if (!by_kernel<S, T>(shape, algorithm, false)) {
      const DenseConv dense{shape, stride, padding, dilation};
      return with_dense_type<S>(shape, [&](auto number) {
        using D = decltype(number);
        const Tensor result =
            dense_forward(dense, converted<S, D>(input), real_of<S, D>(shape, matrix),
                          converted<S, D>(offset), new_output_of<S, D>(y, sizes_of(y)));
        y = rounded<S, D>(result, y);
      });
    }
    const ConvWeight<S> w{data_of<S>(matrix), false};
    convolve<S, T>(shape, w, data_of<S>(input), data_or_null<S>(offset), mutable_data_of<S>(y),
                   algorithm);
  });
  return in_format_of(x, y);
}

// dy among the zeros that make it the result of the same convolution at stride 1.
template <typename S>
Tensor spread_places(const ConvShape& shape, const Tensor& dy, size_t dims) {
  conv::Sizes all;
  for (int i = 0; i < conv::kAxes; ++i) {
    all[i] = shape.in[i] + 2 * shape.g.padding[i] - shape.g.span(i);
  }
  const conv::Sizes& stride = shape.g.stride;
  const Tensor spread =
      torch::stable::new_zeros(dy, result_sizes(shape, all, shape.out_channels, dims));
  const S* from = data_of<S>(dy);
  S* to = mutable_data_of<S>(spread);
  for (int64_t plane = 0; plane < shape.batch * 4 * shape.out_channels; ++plane) {
    conv::each_place(shape.out, [&](int64_t i, int64_t z, int64_t y, int64_t x) {
      to[(z * stride[0] * all[1] + y * stride[1]) * all[2] + x * stride[2]] = from[i];
    });
    from += shape.pixels();
    to += conv::volume(all);
  }
  return spread;
}

Tensor hamilton_conv_dx(const Tensor& dy, const Tensor& weight, Numbers size, Numbers stride,
                        Numbers padding, Numbers dilation, int64_t groups, std::string algorithm) {
  const char* op = "hamilton_conv_dx";
  check_algorithm(op, algorithm);
  check_weight(op, weight);
  check_image(op, {"dy", dy}, 4 * weight.size(1), weight.dim() - 3);
  check_dtype(op, {"dy", dy}, {"weight", weight});
  const int64_t in = size_product(op, "groups", weight.size(2), groups);
  const ConvShape shape = shape_of(op, dy.size(0), in, weight.size(1), size, spatial(weight, 3),
                                   {stride, padding, dilation, groups});
  check_result(op, dy, shape);
  if (!shape.g.unit_stride() && dy.element_size() == sizeof(double)) {
    const Numbers ones(stride.size(), 1);
    return hamilton_conv_dx(spread_places<double>(shape, as_contiguous(dy), ones.size()), weight,
                            size, ones, padding, dilation, groups, algorithm);
  }
  const Tensor input = as_contiguous(dy), matrix = as_contiguous(weight);
  Tensor dx = new_output(dy, result_sizes(shape, shape.in, shape.in_channels, stride.size()));
  if (dx.numel() == 0) return dx;
  const ConvShape product = shape.backward();
  const conv::Sizes& border = product.g.padding;
  const bool served = shape.g.unit_stride() && *std::min_element(border.begin(), border.end()) >= 0;
  with_types(op, dy, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    if (!served || !by_kernel<S, T>(product, algorithm, false)) {
      const DenseConv dense{shape, stride, padding, dilation};
      return with_dense_type<S>(shape, [&](auto number) {
        using D = decltype(number);
        const Tensor result = dense_dx(dense, converted<S, D>(input), real_of<S, D>(shape, matrix),
                                       new_output_of<S, D>(dx, sizes_of(dx)));
        dx = rounded<S, D>(result, dx);
      });
    }
    const ConvWeight<S> w{data_of<S>(matrix), true};
    convolve<S, T>(product, w, data_of<S>(input), nullptr, mutable_data_of<S>(dx), algorithm);
  });
  return in_format_of(dy, dx);
}

Tensor hamilton_conv_dw(const Tensor& dy, const Tensor& x, Numbers kernel, Numbers stride,
                        Numbers padding, Numbers dilation, int64_t groups, std::string algorithm) {
  const char* op = "hamilton_conv_dw";
  check_algorithm(op, algorithm);
  SPARSEQ_CHECK(dy.dim() == x.dim() && x.dim() >= 3 && x.size(1) % 4 == 0, op, "x",
                "must be (n, 4 in, *spatial), and dy as many dimensions", shape_text(x));
  check_dtype(op, {"x", x}, {"dy", dy});
  const ConvShape shape = shape_of(op, x.size(0), x.size(1) / 4, dy.size(1) / 4, spatial(x, 2),
                                   kernel, {stride, padding, dilation, groups});
  check_result(op, dy, shape);
  const Tensor left = as_contiguous(dy), right = as_contiguous(x);
  Numbers sizes = {4, shape.out_channels, shape.group_in()};
  sizes.insert(sizes.end(), kernel.begin(), kernel.end());
  if (shape.batch == 0) return torch::stable::new_zeros(dy, sizes);
  Tensor dw = new_output(dy, sizes);
  if (dw.numel() == 0) return dw;
  with_types(op, dy, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    S* out = mutable_data_of<S>(dw);
    if (!by_kernel<S, T>(shape, algorithm, true)) {
      sizes.erase(sizes.begin());
      sizes[0] *= 4;
      sizes[1] *= 4;
      const DenseConv dense{shape, stride, padding, dilation};
      return dense_dw<S, T>(dense, converted<S, T>(left), converted<S, T>(right), sizes, out);
    }
    const bool eight = use_eight(algorithm, shape.pixels());
    WeightGradient<S, T>(shape, eight).run(data_of<S>(left), data_of<S>(right), out);
  });
  return dw;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("hamilton_conv", TORCH_BOX(&hamilton_conv));
  m.impl("hamilton_conv_dx", TORCH_BOX(&hamilton_conv_dx));
  m.impl("hamilton_conv_dw", TORCH_BOX(&hamilton_conv_dw));
}

}  // namespace sparseq::ops
