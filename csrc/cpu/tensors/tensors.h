// Tensors in and out of a kernel without a trip through the dispatcher where none is needed.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <optional>
#include <vector>

// the name that torch has had for it since 2.13; 2.11 and 2.12 have the other
#ifndef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

namespace sparseq::tensors {

using torch::stable::Tensor;

// The tensor itself if it is contiguous, else a contiguous copy.
inline Tensor as_contiguous(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

inline std::optional<Tensor> as_contiguous(const std::optional<Tensor>& x) {
  return x.has_value() ? std::optional<Tensor>(as_contiguous(*x)) : std::nullopt;
}

inline std::vector<Tensor> as_contiguous(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> contiguous;
  for (const Tensor& tensor : tensors) contiguous.push_back(as_contiguous(tensor));
  return contiguous;
}

// Data of a contiguous tensor, read or written as numbers of type S.
template <typename S>
const S* data_of(const Tensor& x) {
  return static_cast<const S*>(x.const_data_ptr());
}

template <typename S>
S* mutable_data_of(const Tensor& x) {
  return static_cast<S*>(x.mutable_data_ptr());
}

// Data of a contiguous tensor, or null.
template <typename S>
const S* data_or_null(const std::optional<Tensor>& x) {
  return x.has_value() ? data_of<S>(*x) : nullptr;
}

// Uninitialized contiguous tensor of these sizes on the device of `like`, with its dtype unless
// another is asked for.
inline Tensor new_output(const Tensor& like, const std::vector<int64_t>& sizes,
                         std::optional<int32_t> other_dtype = std::nullopt) {
  std::vector<int64_t> strides(sizes.size(), 1);
  bool fits = true;
  for (size_t i = sizes.size(); i > 1; --i) {
    const int64_t size = std::max<int64_t>(sizes[i - 1], 1);
    fits &= !__builtin_mul_overflow(strides[i - 1], size, &strides[i - 2]);
  }
  STD_TORCH_CHECK(fits, "sparseq: the sizes of a result must fit in 64 bits");
  int32_t dtype, device, index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  dtype = other_dtype.value_or(dtype);
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()),
                                                         sizes.data(), strides.data(), dtype,
                                                         device, index, &handle));
  return Tensor(handle);
}

// The sizes of x; with its last one replaced.
inline std::vector<int64_t> sizes_of(const Tensor& x) {
  return {x.sizes().begin(), x.sizes().end()};
}

inline std::vector<int64_t> with_last(const Tensor& x, int64_t last) {
  std::vector<int64_t> sizes = sizes_of(x);
  sizes.back() = last;
  return sizes;
}

}  // namespace sparseq::tensors
