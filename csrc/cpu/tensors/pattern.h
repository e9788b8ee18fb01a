// The five pattern tensors of an op call, as the kernels use them.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "../../common/check.h"
#include "../../common/csr.h"
#include "messages.h"
#include "pattern_check.h"
#include "tensors.h"
#include "trusted.h"

namespace sparseq::tensors {

constexpr size_t kPatternTensors = 5;

// A pattern whose contents are checked. It lies in tensors that only sparseq.formats.CSRPattern
// holds, or in `copy`.
struct Pattern {
  Csr forward;
  Csr transposed;
  const int32_t* perm;  // transposed order -> CSR order
  std::shared_ptr<const int32_t[]> copy = nullptr;
};

// Vectors of int32 tensors from outside, one after another, in memory of ours.
class PrivateCopy {
 public:
  PrivateCopy(const char* op, const char* name, std::span<const Tensor> tensors) {
    int64_t total = 0;
    for (const Tensor& tensor : tensors) {
      SPARSEQ_CHECK(tensor.is_cpu() && tensor.dim() == 1 &&
                        tensor.scalar_type() == torch::headeronly::ScalarType::Int,
                    op, name, "must be vectors of int32 on the CPU",
                    text(dtype_text(tensor), " ", shape_text(tensor)));
      begins_.push_back(total);
      total += tensor.numel();
    }
    std::shared_ptr<int32_t[]> memory(new int32_t[std::max<int64_t>(total, 1)]);
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Tensor contiguous = as_contiguous(tensors[i]);
      const size_t bytes = static_cast<size_t>(contiguous.numel()) * sizeof(int32_t);
      if (bytes > 0) std::memcpy(&memory[begins_[i]], contiguous.const_data_ptr(), bytes);
    }
    memory_ = std::move(memory);
  }

  const int32_t* at(size_t i) const { return memory_.get() + begins_[i]; }
  const std::shared_ptr<const int32_t[]>& memory() const { return memory_; }

 private:
  std::vector<int64_t> begins_;
  std::shared_ptr<const int32_t[]> memory_;
};

// A checked copy of a pattern from outside.
inline Pattern check_pattern(const char* op, std::span<const Tensor> tensors) {
  const int64_t m = tensors[0].numel() - 1, k = tensors[2].numel() - 1, nnz = tensors[1].numel();
  SPARSEQ_CHECK(m >= 0 && k >= 0 && std::max({m, k, nnz}) <= std::numeric_limits<int32_t>::max(),
                op, "pattern", "must have row pointers, and fit in 32-bit indices",
                text(m + 1, ", ", nnz, ", ", k + 1));
  SPARSEQ_CHECK(tensors[3].numel() == nnz && tensors[4].numel() == nnz, op, "pattern",
                "must have as many col_idx_t and perm as col_idx",
                text(nnz, ", ", tensors[3].numel(), " and ", tensors[4].numel()));
  const PrivateCopy copy(op, "pattern", tensors);
  const Pattern pattern = {
      {copy.at(0), copy.at(1), m, k}, {copy.at(2), copy.at(3), k, m}, copy.at(4), copy.memory()};
  const char* rule = broken_rule(pattern.forward, pattern.transposed, pattern.perm, nnz);
  SPARSEQ_CHECK(rule == nullptr, op, "pattern", rule == nullptr ? "" : rule, "other contents");
  return pattern;
}

inline int64_t address_of(const Tensor& x) {
  return static_cast<int64_t>(reinterpret_cast<intptr_t>(x.const_data_ptr()));
}

// Addresses, lengths and `more` of some tensors, as Python names them to trusted.h.
template <size_t N, size_t M>
std::array<int64_t, 2 * N + M> entry_of(std::span<const Tensor> tensors,
                                        const std::array<int64_t, M>& more) {
  std::array<int64_t, 2 * N + M> entry;
  for (size_t i = 0; i < N; ++i) {
    entry[i] = address_of(tensors[i]);
    entry[N + i] = tensors[i].numel();
  }
  std::copy(more.begin(), more.end(), entry.begin() + 2 * N);
  return entry;
}

// The pattern of an op call, or of a link of a chain, whose patterns follow each other.
inline Pattern view_pattern(const char* op, std::span<const Tensor> tensors) {
  SPARSEQ_CHECK(tensors.size() == kPatternTensors, op, "pattern", "must be five tensors",
                tensors.size());
  const auto entry = entry_of<kPatternTensors, 0>(tensors, {});
  if (!trusted().has(entry)) return check_pattern(op, tensors);
  const auto ids = [&](size_t i) { return reinterpret_cast<const int32_t*>(entry[i]); };
  const int64_t m = entry[kPatternTensors] - 1, k = entry[kPatternTensors + 2] - 1;
  return {{ids(0), ids(1), m, k}, {ids(2), ids(3), k, m}, ids(4)};
}

inline Pattern view_link(const char* op, const std::vector<Tensor>& patterns, size_t index) {
  return view_pattern(op, std::span(patterns).subspan(kPatternTensors * index, kPatternTensors));
}

// Checks the values and the bias of link `index` of a chain, which calls its links by `link`.
inline void check_link(const char* op, const char* link, size_t index, const Csr& csr,
                       const Tensor& x, const Tensor& values, const Tensor& bias) {
  if (values.dim() != 1 || values.numel() != csr.nnz()) {
    check_values(op, text("values[", index, "]").c_str(), values, csr.nnz());
  }
  SPARSEQ_CHECK(bias.numel() == 0 || (bias.dim() == 1 && bias.numel() == csr.rows), op,
                text("biases[", index, "]"), text("must be empty or have shape (", csr.rows, ",)"),
                shape_text(bias));
  const auto same = [&](const Tensor& y) { return y.scalar_type() == values.scalar_type(); };
  if (same(x) && (bias.numel() == 0 || same(bias))) return;
  const std::string name = text(op, ", ", link, " ", index);
  check_dtype(name.c_str(), {"x", x}, {"values", values});
  check_dtype(name.c_str(), {"bias", bias}, {"values", values});
}

}  // namespace sparseq::tensors
