// sparseq_host: helpers on plain buffers. Each has a NumPy twin in Python that gives the same
// answer; tensors never come here.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

namespace py = pybind11;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// Transpose of a CSR pattern with `columns` columns: (row_ptr_t, col_idx_t, perm), where entry p
// of the transpose is entry perm[p] of the pattern. A counting sort: O(nnz + rows + columns).
py::tuple transpose_csr(const Array<int32_t>& row_ptr, const Array<int32_t>& col_idx,
                        int64_t columns) {
  const int64_t rows = row_ptr.size() - 1, nnz = col_idx.size();
  Array<int32_t> row_ptr_t(columns + 1), col_idx_t(nnz), perm(nnz);
  const int32_t* from = row_ptr.data();
  const int32_t* ids = col_idx.data();
  int32_t *pointers = row_ptr_t.mutable_data(), *ids_t = col_idx_t.mutable_data();
  int32_t* order = perm.mutable_data();
  std::vector<int32_t> next(columns + 1, 0);
  for (int64_t p = 0; p < nnz; ++p) {
    if (ids[p] < 0 || ids[p] >= columns) throw std::out_of_range("transpose_csr: col_idx");
    ++next[ids[p] + 1];
  }
  for (int64_t c = 0; c < columns; ++c) next[c + 1] += next[c];
  std::copy(next.begin(), next.end(), pointers);
  for (int64_t r = 0; r < rows; ++r) {
    if (from[r] < 0 || from[r] > from[r + 1] || from[r + 1] > nnz) {
      throw std::out_of_range("transpose_csr: row_ptr");
    }
    for (int32_t p = from[r]; p < from[r + 1]; ++p) {
      const int32_t at = next[ids[p]]++;
      ids_t[at] = static_cast<int32_t>(r);
      order[at] = p;
    }
  }
  return py::make_tuple(row_ptr_t, col_idx_t, perm);
}

}  // namespace

PYBIND11_MODULE(sparseq_host, module) {
  module.doc() = "Buffer helpers of sparseq; every function has a NumPy twin.";
  module.def("transpose_csr", &transpose_csr, py::arg("row_ptr"), py::arg("col_idx"),
             py::arg("columns"));
}
