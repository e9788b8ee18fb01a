// The heads of linear ops: checks, contiguous data, the result in the dtype of the operands.
#pragma once

#include <optional>
#include <vector>

#include "dtypes.h"
#include "messages.h"
#include "tensors.h"

namespace sparseq::tensors {

// How many features an operand must have, and what an error says of where the number is from.
struct Features {
  int64_t count;
  const char* origin = "";
};

// y = A x + b of `batch` rows; bias may be null.
template <typename S>
struct MapData {
  const S* x;
  const S* weight;
  const S* bias;
  S* y;
  int64_t batch;
};

inline void check_features(const char* op, const Named& x, const Features& features) {
  SPARSEQ_CHECK(x.tensor.dim() > 0 && x.tensor.size(-1) == features.count, op, x.name,
                text("must have ", features.count, " features", features.origin),
                shape_text(x.tensor));
}

// A linear map of x's last dimension, from `columns` features to `rows`; all tensors of one dtype.
// body(Types, MapData<S>) fills the result; it is not called for an empty one.
template <typename Body>
Tensor linear_map(const char* op, const Named& x, const Features& columns, const Named& weight,
                  const std::optional<Tensor>& bias, int64_t rows, const Body& body) {
  check_features(op, x, columns);
  check_dtype(op, x, weight);
  if (bias.has_value()) {
    check_vector(op, {"bias", *bias}, rows);
    check_dtype(op, {"bias", *bias}, weight);
  }
  const Tensor input = as_contiguous(x.tensor), matrix = as_contiguous(weight.tensor);
  const std::optional<Tensor> offset = as_contiguous(bias);
  Tensor y = new_output(x.tensor, with_last(x.tensor, rows));
  const int64_t numbers = y.numel();
  if (numbers == 0) return y;
  with_types(op, x.tensor, [&](auto types) {
    using S = typename decltype(types)::S;
    body(types, MapData<S>{data_of<S>(input), data_of<S>(matrix), data_or_null<S>(offset),
                           mutable_data_of<S>(y), numbers / rows});
  });
  return y;
}

// The gradient of A in dy . A x, over `batch` rows of dy (m features) and x (k features).
template <typename S>
struct GradientData {
  const S* dy;
  const S* x;
  S* out;
  int64_t batch, m, k;
};

// The gradient of an (m, k) matrix, or of what it is made of, as a tensor of `sizes`.
// body(Types, GradientData<S>) fills it; it is zero without being called for an empty batch.
template <typename Body>
Tensor weight_gradient(const char* op, const Tensor& dy, int64_t m, const Tensor& x, int64_t k,
                       const std::vector<int64_t>& sizes, const Body& body) {
  check_features(op, {"dy", dy}, {m});
  const int64_t batch = m == 0 ? 0 : dy.numel() / m;
  const std::vector<int64_t> shape = with_last(dy, k);
  SPARSEQ_CHECK(sizes_of(x) == shape, op, "x", text("must have shape ", tuple_text(shape)),
                shape_text(x));
  check_dtype(op, {"x", x}, {"dy", dy});
  if (batch == 0) return torch::stable::new_zeros(dy, sizes);
  const Tensor left = as_contiguous(dy), right = as_contiguous(x);
  Tensor gradient = new_output(dy, sizes);
  if (gradient.numel() == 0) return gradient;
  with_types(op, dy, [&](auto types) {
    using S = typename decltype(types)::S;
    body(types, GradientData<S>{data_of<S>(left), data_of<S>(right), mutable_data_of<S>(gradient),
                                batch, m, k});
  });
  return gradient;
}

}  // namespace sparseq::tensors
