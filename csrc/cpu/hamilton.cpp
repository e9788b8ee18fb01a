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
// B is packed in feature-major tiles, an A row is broadcast entry by entry, and each block product
// is added to the components it belongs to straight from registers. Sums over the depth run in one
// order whatever the threads.

#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>

#include "../common/tensors.h"
#include "dtypes.h"
#include "quaternion_direct.h"
#include "quaternion_product.h"

namespace sparseq {
namespace {

bool use_eight(const std::string& algorithm, int64_t depth) {
  return algorithm == "8" || (algorithm != "16" && depth >= 16);
}

void check_quaternion(const char* op, const char* argument, const Tensor& x, int64_t features) {
  SPARSEQ_CHECK(x.dim() > 0 && x.size(-1) == features, op, argument,
                "must have four features for each quaternion of the weight", x.numel());
}

Tensor hamilton(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                std::string algorithm) {
  SPARSEQ_CHECK(weight.dim() == 3 && weight.size(0) == 4, "hamilton", "weight",
                "must have shape (4, m, k)", weight.dim());
  const int64_t m = weight.size(1), k = weight.size(2);
  check_quaternion("hamilton", "x", x, 4 * k);
  check_same_type("hamilton", "weight", x, weight);
  const Tensor input = as_contiguous(x), matrix = as_contiguous(weight);
  if (bias.has_value()) check_same_type("hamilton", "bias", x, *bias);
  const std::optional<Tensor> offset = as_contiguous(bias);
  Tensor y = new_output(x, with_last(x, 4 * m));
  if (y.numel() == 0) return y;
  with_types("hamilton", x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const S* in = static_cast<const S*>(input.const_data_ptr());
    const S* w = static_cast<const S*>(matrix.const_data_ptr());
    const S* b = data_or_null<S>(offset);
    S* out = static_cast<S*>(y.mutable_data_ptr());
    const int64_t batch = y.numel() / (4 * m);
    if (direct_serves(batch, algorithm)) return direct_y<T>(in, w, b, out, batch, m, k);
    multiply<S, T>({{w, m * k, k, 1, false},
                    {in, k, 1, 4 * k, false},
                    {out, m, 1, 4 * m, false},
                    b,
                    m,
                    k,
                    batch,
                    use_eight(algorithm, k)});
  });
  return y;
}

Tensor hamilton_dx(const Tensor& dy, const Tensor& weight, std::string algorithm) {
  SPARSEQ_CHECK(weight.dim() == 3 && weight.size(0) == 4, "hamilton_dx", "weight",
                "must have shape (4, m, k)", weight.dim());
  const int64_t m = weight.size(1), k = weight.size(2);
  check_quaternion("hamilton_dx", "dy", dy, 4 * m);
  check_same_type("hamilton_dx", "weight", dy, weight);
  const Tensor input = as_contiguous(dy), matrix = as_contiguous(weight);
  Tensor dx = new_output(dy, with_last(dy, 4 * k));
  if (dx.numel() == 0) return dx;
  with_types("hamilton_dx", dy, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const S* in = static_cast<const S*>(input.const_data_ptr());
    const S* w = static_cast<const S*>(matrix.const_data_ptr());
    S* out = static_cast<S*>(dx.mutable_data_ptr());
    const int64_t batch = dx.numel() / (4 * k);
    if constexpr (std::is_same_v<S, T>) {
      if (direct_serves(batch, algorithm)) return direct_dx(in, w, out, batch, m, k);
    }
    multiply<S, T>({{w, m * k, 1, k, true},
                    {in, m, 1, 4 * m, false},
                    {out, k, 1, 4 * k, false},
                    nullptr,
                    k,
                    m,
                    batch,
                    use_eight(algorithm, m)});
  });
  return dx;
}

Tensor hamilton_dw(const Tensor& dy, const Tensor& x, std::string algorithm) {
  SPARSEQ_CHECK(dy.dim() > 0 && dy.size(-1) % 4 == 0, "hamilton_dw", "dy",
                "must have a multiple of 4 features", dy.numel());
  SPARSEQ_CHECK(x.dim() > 0 && x.size(-1) % 4 == 0, "hamilton_dw", "x",
                "must have a multiple of 4 features", x.numel());
  const int64_t m = dy.size(-1) / 4, k = x.size(-1) / 4;
  const int64_t batch = m == 0 ? 0 : dy.numel() / (4 * m);
  SPARSEQ_CHECK(m == 0 || x.numel() == batch * 4 * k, "hamilton_dw", "x", "must have dy's batch",
                x.numel());
  check_same_type("hamilton_dw", "x", dy, x);
  const Tensor left = as_contiguous(dy), right = as_contiguous(x);
  if (batch == 0) return torch::stable::new_zeros(dy, {4, m, k});
  Tensor dw = new_output(dy, {4, m, k});
  if (dw.numel() == 0) return dw;
  with_types("hamilton_dw", dy, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const S* a = static_cast<const S*>(left.const_data_ptr());
    const S* b = static_cast<const S*>(right.const_data_ptr());
    S* out = static_cast<S*>(dw.mutable_data_ptr());
    if constexpr (std::is_same_v<S, T>) {
      if (direct_serves(batch, algorithm)) return direct_dw(a, b, out, batch, m, k);
    }
    multiply<S, T>({{a, m, 1, 4 * m, false},
                    {b, k, 4 * k, 1, true},
                    {out, m * k, k, 1, false},
                    nullptr,
                    m,
                    batch,
                    k,
                    use_eight(algorithm, batch)});
  });
  return dw;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("hamilton", TORCH_BOX(&hamilton));
  m.impl("hamilton_dx", TORCH_BOX(&hamilton_dx));
  m.impl("hamilton_dw", TORCH_BOX(&hamilton_dw));
}

}  // namespace sparseq
