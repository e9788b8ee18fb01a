// Compressed sparse rows as the kernels see them: checked pointers, no tensors.
#pragma once

#include <algorithm>
#include <cstdint>

namespace sparseq {

// Pattern of a (rows, columns) matrix. Entries of row r are row_ptr[r] .. row_ptr[r + 1] - 1 of
// col_idx; ids rise within a row. Unit of all three: entries, not bytes.
struct Csr {
  const int32_t* row_ptr;
  const int32_t* col_idx;
  int64_t rows;
  int64_t columns;

  int64_t nnz() const { return row_ptr[rows]; }
};

// First row of part `part` of `parts` such that every part holds about the same number of entries
// (a row counts one more than its entries, since storing it costs too), and begins at a multiple of
// `unit` rows.
inline int64_t balanced_row(const Csr& csr, int64_t part, int64_t parts, int64_t unit = 1) {
  if (part >= parts) return csr.rows;
  const int64_t goal = (csr.nnz() + csr.rows) / parts * part;
  int64_t low = 0, high = csr.rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (csr.row_ptr[middle] + middle < goal) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low / unit * unit;
}

}  // namespace sparseq
