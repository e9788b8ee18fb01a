// The heads of linear ops: checks, contiguous data, the result in the dtype of the operands.
#pragma once

#include <optional>
#include <vector>

#include "../common/check.h"
#include "../common/tensors.h"
#include "dtypes.h"

namespace sparseq {

// An argument as an error names it.
struct Named {
  const char* name;
  const Tensor& tensor;
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

// A linear map of x's last dimension, from `columns` features to `rows`; all tensors of one dtype.
// body(Types, MapData<S>) fills the result; it is not called for an empty one.
template <typename Body>
Tensor linear_map(const char* op, const Named& x, int64_t columns, const Named& weight,
                  const std::optional<Tensor>& bias, int64_t rows, const Body& body) {
  SPARSEQ_CHECK(x.tensor.dim() > 0 && x.tensor.size(-1) == columns, op, x.name,
                "must have one feature for each column of the matrix", x.tensor.numel());
  check_same_type(op, weight.name, x.tensor, weight.tensor);
  if (bias.has_value()) {
    check_same_type(op, "bias", x.tensor, *bias);
    SPARSEQ_CHECK(bias->numel() == rows, op, "bias", "must have one entry for each row",
                  bias->numel());
  }
  const Tensor input = as_contiguous(x.tensor), kept = as_contiguous(weight.tensor);
  const std::optional<Tensor> offset = as_contiguous(bias);
  Tensor y = new_output(x.tensor, with_last(x.tensor, rows));
  const int64_t numbers = y.numel();
  if (numbers == 0) return y;
  with_types(op, x.tensor, [&](auto types) {
    using S = typename decltype(types)::S;
    body(types, MapData<S>{static_cast<const S*>(input.const_data_ptr()),
                           static_cast<const S*>(kept.const_data_ptr()), data_or_null<S>(offset),
                           static_cast<S*>(y.mutable_data_ptr()), numbers / rows});
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
  SPARSEQ_CHECK(dy.dim() > 0 && dy.size(-1) == m, op, "dy",
                "must have one feature for each row of the matrix", dy.numel());
  const int64_t batch = m == 0 ? 0 : dy.numel() / m;
  SPARSEQ_CHECK(x.dim() > 0 && x.size(-1) == k && (m == 0 || x.numel() == batch * k), op, "x",
                "must have dy's batch and one feature for each column", x.numel());
  check_same_type(op, "x", dy, x);
  if (batch == 0) return torch::stable::new_zeros(dy, sizes);
  const Tensor left = as_contiguous(dy), right = as_contiguous(x);
  Tensor gradient = new_output(dy, sizes);
  if (gradient.numel() == 0) return gradient;
  with_types(op, dy, [&](auto types) {
    using S = typename decltype(types)::S;
    body(types, GradientData<S>{static_cast<const S*>(left.const_data_ptr()),
                                static_cast<const S*>(right.const_data_ptr()),
                                static_cast<S*>(gradient.mutable_data_ptr()), batch, m, k});
  });
  return gradient;
}

}  // namespace sparseq
