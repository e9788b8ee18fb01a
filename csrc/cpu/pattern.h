// The five pattern tensors of an op call, as the kernels use them.
#pragma once

#include <vector>

#include "../common/check.h"
#include "../common/csr.h"
#include "../common/parallel.h"
#include "../common/tensors.h"
#include "tiles.h"

namespace sparseq {

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
  const auto ids = [&](int i) { return static_cast<const int32_t*>(tensors[i].const_data_ptr()); };
  return {{ids(0), ids(1), m, k}, {ids(2), ids(3), k, m}, ids(4)};
}

// Values in the order of a pattern, `width` numbers an entry, as the type sums are kept in:
// out[p * width + i] = values[perm[p] * width + i]; perm null: as they are.
template <typename S, typename T>
void gather_values(const S* values, const int32_t* perm, int64_t nnz, int width, T* out) {
  const int64_t per_item = 8192;
  const int64_t items = (nnz + per_item - 1) / per_item;
  parallel_items(items, useful_threads(nnz * width), [&](int64_t item) {
    const int64_t first = item * per_item, last = std::min(nnz, first + per_item);
    if (perm == nullptr) {
      detail::copy_row<T>(values + first * width, out + first * width, (last - first) * width);
      return;
    }
    for (int64_t p = first; p < last; ++p) {
      for (int i = 0; i < width; ++i) {
        T value = static_cast<T>(values[perm[p] * static_cast<int64_t>(width) + i]);
        keep_scalar(value);
        out[p * width + i] = value;
      }
    }
  });
}

// The values as the type sums are kept in: the tensor's own where they may stay as they are and
// the types agree, else gathered in the order of a pattern into a buffer of the calling thread.
template <typename T, typename S>
const T* values_as(const S* values, const int32_t* perm, int64_t nnz, int width, bool stay) {
  if constexpr (std::is_same_v<S, T>) {
    if (stay) return values;
  }
  static thread_local Scratch scratch;
  T* gathered = scratch.get<T>(nnz * width);
  gather_values(values, perm, nnz, width, gathered);
  return gathered;
}

}  // namespace sparseq
