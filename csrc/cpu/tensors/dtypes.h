// From a tensor's dtype to a pair of C++ types: what is stored, and what sums are kept in.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "messages.h"

namespace sparseq::tensors {

template <typename Stored, typename Sum>
struct Types {
  using S = Stored;
  using T = Sum;
};

// Calls body(Types<stored, sum>{}); 16-bit types are summed in float.
template <typename Body>
void with_types(const char* op, const Tensor& x, const Body& body) {
  using torch::headeronly::ScalarType;
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return body(Types<float, float>{});
    case ScalarType::Double:
      return body(Types<double, double>{});
    case ScalarType::BFloat16:
      return body(Types<torch::headeronly::BFloat16, float>{});
    case ScalarType::Half:
      return body(Types<torch::headeronly::Half, float>{});
    default:
      SPARSEQ_CHECK(false, op, "x", "must be float32, float64, bfloat16 or float16", dtype_text(x));
  }
}

}  // namespace sparseq::tensors
