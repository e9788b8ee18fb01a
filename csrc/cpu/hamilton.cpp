// hamilton: Y = W (x) X, quaternion linear maps and their gradients, by one blocked product
//
//     C = A (x) B,   A (rows, depth), B (depth, lanes), C (rows, lanes), entries quaternions
//
// forward: A = W, B = x^T;   dx: A = W* (conjugate transpose), B = dy^T;   dW: A = dy^T, B = x*.
// The four components of an operand are four real matrices a fixed distance apart. "16" is the
// sixteen block products of the definition; "8" (Howell & Lafon 1975) forms with H = [[1,1,1,1],
// [1,-1,1,-1],[1,1,-1,-1],[1,-1,-1,1]]
//
//     S_r = 1/4 sum_i H[r,i] A_i,  V_r = sum_j H[r,j] B_j,  G = H (S_r V_r)
//     C_0 = 2 A_0 B_0 - G_0   C_1 = G_1 - 2 A_3 B_2   C_2 = G_2 - 2 A_1 B_3   C_3 = G_3 - 2 A_2 B_1
//
// x (n, 4 k) and y (n, 4 m) are batch-major and contiguous, weight (4, m, k), b (4 m) or none;
// float, double, or 16-bit summed in float. Pointers and strides count elements.
//
// B is packed in feature-major tiles, an A row is broadcast entry by entry, and each block product
// is added to the components it belongs to straight from registers. Sums over the depth run in one
// order whatever the threads.

#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>

#include "quaternion/direct.h"
#include "quaternion/product.h"
#include "tensors/operands.h"

namespace sparseq::ops {
namespace {

using namespace quaternion;
using namespace tensors;

void check_weight(const char* op, const Tensor& weight) {
  SPARSEQ_CHECK(weight.dim() == 3 && weight.size(0) == 4, op, "weight", "must have shape (4, m, k)",
                shape_text(weight));
  size_product(op, "weight", 16, size_product(op, "weight", weight.size(1), weight.size(2)));
  size_product(op, "weight", 4, std::max(weight.size(1), weight.size(2)));
}

Tensor hamilton(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                std::string algorithm) {
  check_algorithm("hamilton", algorithm);
  check_weight("hamilton", weight);
  const int64_t m = weight.size(1), k = weight.size(2);
  const auto body = [&](auto types, const auto& data) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    if (direct_serves(data.batch, algorithm)) {
      return direct_y<T>(data.x, data.weight, data.bias, data.y, data.batch, m, k);
    }
    multiply<S, T>({{data.weight, m * k, k, 1, false},
                    {data.x, k, 1, 4 * k, false},
                    {data.y, m, 1, 4 * m, false},
                    data.bias,
                    m,
                    k,
                    data.batch,
                    use_eight(algorithm, k)});
  };
  return linear_map("hamilton", {"x", x}, {4 * k, " (4 k of the weight)"}, {"weight", weight}, bias,
                    4 * m, body);
}

Tensor hamilton_dx(const Tensor& dy, const Tensor& weight, std::string algorithm) {
  check_algorithm("hamilton_dx", algorithm);
  check_weight("hamilton_dx", weight);
  const int64_t m = weight.size(1), k = weight.size(2);
  const auto body = [&](auto types, const auto& data) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    if constexpr (std::is_same_v<S, T>) {
      if (direct_serves(data.batch, algorithm)) {
        return direct_dx(data.x, data.weight, data.y, data.batch, m, k);
      }
    }
    multiply<S, T>({{data.weight, m * k, 1, k, true},
                    {data.x, m, 1, 4 * m, false},
                    {data.y, k, 1, 4 * k, false},
                    nullptr,
                    k,
                    m,
                    data.batch,
                    use_eight(algorithm, m)});
  };
  return linear_map("hamilton_dx", {"dy", dy}, {4 * m}, {"weight", weight}, std::nullopt, 4 * k,
                    body);
}

Tensor hamilton_dw(const Tensor& dy, const Tensor& x, std::string algorithm) {
  check_algorithm("hamilton_dw", algorithm);
  SPARSEQ_CHECK(dy.dim() > 0 && dy.size(-1) % 4 == 0, "hamilton_dw", "dy",
                "must have a multiple of 4 features", shape_text(dy));
  SPARSEQ_CHECK(x.dim() > 0 && x.size(-1) % 4 == 0, "hamilton_dw", "x",
                "must have a multiple of 4 features", shape_text(x));
  const int64_t m = dy.size(-1) / 4, k = x.size(-1) / 4;
  const auto body = [&](auto types, const auto& data) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    if constexpr (std::is_same_v<S, T>) {
      if (direct_serves(data.batch, algorithm)) {
        return direct_dw(data.dy, data.x, data.out, data.batch, m, k);
      }
    }
    multiply<S, T>({{data.dy, m, 1, 4 * m, false},
                    {data.x, k, 4 * k, 1, true},
                    {data.out, m * k, k, 1, false},
                    nullptr,
                    m,
                    data.batch,
                    k,
                    use_eight(algorithm, data.batch)});
  };
  return weight_gradient("hamilton_dw", dy, 4 * m, x, 4 * k, {4, m, k}, body);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("hamilton", TORCH_BOX(&hamilton));
  m.impl("hamilton_dx", TORCH_BOX(&hamilton_dx));
  m.impl("hamilton_dw", TORCH_BOX(&hamilton_dw));
}

}  // namespace sparseq::ops
