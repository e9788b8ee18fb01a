// Contents of a pattern that comes from outside, and of an order by taps: each in one pass.
#pragma once

#include <cstdint>
#include <vector>

#include "../../common/csr.h"

namespace sparseq::tensors {

// Whether row_ptr rises from 0 to `nnz`.
inline bool has_row_pointers(const int32_t* row_ptr, int64_t rows, int64_t nnz) {
  if (row_ptr[0] != 0 || row_ptr[rows] != nnz) return false;
  bool rising = true;
  for (int64_t r = 0; r < rows; ++r) rising &= row_ptr[r] <= row_ptr[r + 1];
  return rising;
}

// Whether ids lie in 0 .. columns - 1 and rise within each row; row_ptr is checked.
inline bool has_column_ids(const Csr& csr) {
  bool valid = true;
  for (int64_t r = 0; r < csr.rows; ++r) {
    int32_t previous = -1;
    for (int64_t p = csr.row_ptr[r]; p < csr.row_ptr[r + 1]; ++p) {
      valid &= csr.col_idx[p] > previous && csr.col_idx[p] < csr.columns;
      previous = csr.col_idx[p];
    }
  }
  return valid;
}

// Whether `transposed` and `perm` are the transpose of a checked pattern, whose row pointers are
// checked too. An entry has one place: that behind the earlier ones of its column.
inline bool is_transpose(const Csr& csr, const Csr& transposed, const int32_t* perm) {
  std::vector<int32_t> next(transposed.row_ptr, transposed.row_ptr + transposed.rows);
  for (int64_t r = 0; r < csr.rows; ++r) {
    for (int64_t p = csr.row_ptr[r]; p < csr.row_ptr[r + 1]; ++p) {
      const int32_t column = csr.col_idx[p], place = next[column]++;
      if (place >= transposed.row_ptr[column + 1]) return false;
      if (transposed.col_idx[place] != r || perm[place] != p) return false;
    }
  }
  return true;
}

// The rule that a pattern and its transpose break; null for none.
inline const char* broken_rule(const Csr& csr, const Csr& transposed, const int32_t* perm,
                               int64_t nnz) {
  if (!has_row_pointers(csr.row_ptr, csr.rows, nnz)) {
    return "must have a row_ptr that rises from 0 to the number of column ids";
  }
  if (!has_column_ids(csr)) {
    return "must have column ids that lie inside the matrix and rise strictly within each row";
  }
  if (!has_row_pointers(transposed.row_ptr, transposed.rows, nnz) ||
      !is_transpose(csr, transposed, perm)) {
    return "must have the row_ptr_t, col_idx_t and perm of its own transpose";
  }
  return nullptr;
}

// An order by taps of a convolution's entries, see take_order in sparse_conv_chain.cpp.
struct TapOrder {
  const int32_t* starts;    // (rows * taps + 1)
  const int32_t* channels;  // (nnz)
  const int32_t* places;    // (nnz)
};

// Whether an order is that of a checked pattern, of `groups` groups with `taps` taps a channel.
inline bool is_tap_order(const TapOrder& order, const Csr& csr, int64_t taps, int64_t groups) {
  if (!has_row_pointers(order.starts, csr.rows * taps, csr.nnz())) return false;
  std::vector<int32_t> next(order.starts, order.starts + csr.rows * taps);
  for (int64_t r = 0; r < csr.rows; ++r) {
    const int64_t first = r / (csr.rows / groups) * (csr.columns / taps);
    for (int64_t p = csr.row_ptr[r]; p < csr.row_ptr[r + 1]; ++p) {
      const int64_t key = r * taps + csr.col_idx[p] % taps;
      const int32_t at = next[key]++;
      if (at >= order.starts[key + 1]) return false;
      if (order.places[at] != p || order.channels[at] != first + csr.col_idx[p] / taps)
        return false;
    }
  }
  return true;
}

}  // namespace sparseq::tensors
