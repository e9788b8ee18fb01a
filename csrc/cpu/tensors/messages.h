// What errors say of tensors, in the words of the Python ops.
#pragma once

#include <sstream>
#include <string>
#include <vector>

#include "../../common/check.h"
#include "tensors.h"

namespace sparseq::tensors {

// An argument as an error names it.
struct Named {
  const char* name;
  const Tensor& tensor;
};

// The parts as one text.
template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// Sizes as Python writes a tuple: (3, 19), (7,), ().
inline std::string tuple_text(const std::vector<int64_t>& sizes) {
  std::string out = "(";
  for (size_t i = 0; i < sizes.size(); ++i) {
    out += text(i > 0 ? ", " : "", sizes[i]);
  }
  return out + (sizes.size() == 1 ? ",)" : ")");
}

inline std::string shape_text(const Tensor& x) { return tuple_text(sizes_of(x)); }

// The dtype as torch names it, or its number.
inline std::string dtype_text(const Tensor& x) {
  using torch::headeronly::ScalarType;
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return "torch.float32";
    case ScalarType::Double:
      return "torch.float64";
    case ScalarType::BFloat16:
      return "torch.bfloat16";
    case ScalarType::Half:
      return "torch.float16";
    case ScalarType::Int:
      return "torch.int32";
    case ScalarType::Long:
      return "torch.int64";
    default:
      return text("dtype ", static_cast<int>(x.scalar_type()));
  }
}

// Checks that a tensor has the dtype of another one.
inline void check_dtype(const char* op, const Named& x, const Named& wanted) {
  SPARSEQ_CHECK(x.tensor.scalar_type() == wanted.tensor.scalar_type(), op, x.name,
                text("must have the dtype of ", wanted.name, ", ", dtype_text(wanted.tensor)),
                dtype_text(x.tensor));
}

// Checks the values of a pattern, one each.
inline void check_values(const char* op, const char* name, const Tensor& values, int64_t nnz) {
  SPARSEQ_CHECK(values.dim() == 1 && values.numel() == nnz, op, name,
                text("must have one entry for each of the ", nnz, " column ids"),
                shape_text(values));
}

// Checks a vector of one number for each of `rows`.
inline void check_vector(const char* op, const Named& x, int64_t rows) {
  SPARSEQ_CHECK(x.tensor.dim() == 1 && x.tensor.numel() == rows, op, x.name,
                text("must have shape (", rows, ",)"), shape_text(x.tensor));
}

// a * b of sizes, which must fit in 64 bits.
inline int64_t size_product(const char* op, const char* name, int64_t a, int64_t b) {
  int64_t product = 0;
  SPARSEQ_CHECK(a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, &product), op, name,
                "must be sizes whose products fit in 64 bits", text(a, " and ", b));
  return product;
}

}  // namespace sparseq::tensors
