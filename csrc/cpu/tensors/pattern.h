// The five pattern tensors of an op call, as the kernels use them.
#pragma once

#include <vector>

#include "../../common/check.h"
#include "../../common/csr.h"
#include "messages.h"
#include "tensors.h"

namespace sparseq::tensors {

// row_ptr, col_idx, row_ptr_t, col_idx_t, perm: int32, contiguous, contents checked when the
// pattern was made (sparseq.formats.CSRPattern).
struct Pattern {
  Csr forward;
  Csr transposed;
  const int32_t* perm;  // transposed order -> CSR order
};

inline Pattern view_pattern(const char* op, const std::vector<Tensor>& tensors) {
  SPARSEQ_CHECK(tensors.size() == 5, op, "pattern", "must be five tensors", tensors.size());
  for (const Tensor& tensor : tensors) {
    SPARSEQ_CHECK(tensor.scalar_type() == torch::headeronly::ScalarType::Int, op, "pattern",
                  "must be int32", static_cast<int>(tensor.scalar_type()));
    SPARSEQ_CHECK(tensor.is_contiguous(), op, "pattern", "must be contiguous", "strides");
  }
  const int64_t m = tensors[0].numel() - 1, k = tensors[2].numel() - 1;
  const auto ids = [&](int i) { return data_of<int32_t>(tensors[i]); };
  return {{ids(0), ids(1), m, k}, {ids(2), ids(3), k, m}, ids(4)};
}

// The pattern of link `index` of a chain, whose patterns follow each other.
inline Csr view_link(const char* op, const std::vector<Tensor>& patterns, size_t index) {
  const auto first = patterns.begin() + static_cast<std::ptrdiff_t>(5 * index);
  return view_pattern(op, std::vector<Tensor>(first, first + 5)).forward;
}

// Checks the values and the bias of link `index` of a chain, which calls its links by `link`.
inline void check_link(const char* op, const char* link, size_t index, const Csr& csr,
                       const Tensor& x, const Tensor& values, const Tensor& bias) {
  if (values.numel() != csr.nnz()) {
    check_values(op, text("values[", index, "]").c_str(), values, csr.nnz());
  }
  SPARSEQ_CHECK(bias.numel() == 0 || bias.numel() == csr.rows, op, text("biases[", index, "]"),
                text("must be empty or have shape (", csr.rows, ",)"), shape_text(bias));
  const auto same = [&](const Tensor& y) { return y.scalar_type() == values.scalar_type(); };
  if (same(x) && (bias.numel() == 0 || same(bias))) return;
  const std::string name = text(op, ", ", link, " ", index);
  check_dtype(name.c_str(), {"x", x}, {"values", values});
  check_dtype(name.c_str(), {"bias", bias}, {"values", values});
}

}  // namespace sparseq::tensors
