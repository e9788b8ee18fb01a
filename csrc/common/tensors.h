// Tensors in and out of a kernel without a trip through the dispatcher where none is needed.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

namespace sparseq {

using torch::stable::Tensor;

// The tensor itself if it is contiguous, else a contiguous copy.
inline Tensor as_contiguous(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

inline std::optional<Tensor> as_contiguous(const std::optional<Tensor>& x) {
  return x.has_value() ? std::optional<Tensor>(as_contiguous(*x)) : std::nullopt;
}

inline std::vector<Tensor> as_contiguous(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> found;
  for (const Tensor& tensor : tensors) found.push_back(as_contiguous(tensor));
  return found;
}

// Data of a contiguous tensor, or null.
template <typename S>
const S* data_or_null(const std::optional<Tensor>& x) {
  return x.has_value() ? static_cast<const S*>(x->const_data_ptr()) : nullptr;
}

// Uninitialized contiguous CPU tensor of these sizes, with the dtype of `like`.
inline Tensor new_output(const Tensor& like, const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i > 1; --i) {
    strides[i - 2] = strides[i - 1] * (sizes[i - 1] > 0 ? sizes[i - 1] : 1);
  }
  int32_t dtype;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()),
                                                         sizes.data(), strides.data(), dtype,
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// The sizes of x with its last one replaced.
inline std::vector<int64_t> with_last(const Tensor& x, int64_t last) {
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = last;
  return sizes;
}

}  // namespace sparseq
