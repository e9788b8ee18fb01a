// Between the type S a tensor stores and the type T that its sums are kept in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../simd/convert.h"
#include "parallel.h"

namespace sparseq::tensors {

// Values in the order of a pattern, `width` numbers an entry:
// out[p * width + i] = values[perm[p] * width + i]; perm null: as they are.
template <typename S, typename T>
void gather_values(const S* values, const int32_t* perm, int64_t nnz, int width, T* out) {
  const int64_t per_item = 8192;
  const int64_t items = (nnz + per_item - 1) / per_item;
  parallel_items(items, useful_threads(nnz * width), [&](int64_t item) {
    const int64_t first = item * per_item, last = std::min(nnz, first + per_item);
    if (perm == nullptr) {
      simd::copy_row<T>(values + first * width, out + first * width, (last - first) * width);
      return;
    }
    for (int64_t p = first; p < last; ++p) {
      for (int i = 0; i < width; ++i) {
        T value = static_cast<T>(values[perm[p] * static_cast<int64_t>(width) + i]);
        simd::keep_scalar(value);
        out[p * width + i] = value;
      }
    }
  });
}

// Elements of memory that `count` numbers take as T: none where they are stored as that.
template <typename S, typename T>
constexpr int64_t converted_size(int64_t count) {
  return std::is_same_v<S, T> ? 0 : count;
}

// The numbers themselves where the types agree, else converted into `memory`, which is advanced.
// Null stays null.
template <typename T, typename S>
const T* as_sum_type(const S* numbers, int64_t count, T*& memory) {
  if constexpr (std::is_same_v<S, T>) {
    return numbers;
  } else {
    if (numbers == nullptr) return nullptr;
    T* converted = memory;
    gather_values(numbers, nullptr, count, 1, converted);
    memory += count;
    return converted;
  }
}

template <typename T, typename S>
const T* as_sum_type(const S* numbers, int64_t count, Scratch& memory) {
  T* converted = memory.get<T>(converted_size<S, T>(count));
  return as_sum_type(numbers, count, converted);
}

// Values in the order of a pattern: the tensor's where they may `stay` as they are, else gathered.
template <typename T, typename S>
const T* values_as(const S* values, const int32_t* perm, int64_t nnz, int width, bool stay) {
  static thread_local Scratch scratch;
  if (stay) return as_sum_type<T>(values, nnz * width, scratch);
  T* gathered = scratch.get<T>(nnz * width);
  gather_values(values, perm, nnz, width, gathered);
  return gathered;
}

// Calls fill(T* sums) with `out` itself, or where sums are kept in a wider type with a buffer
// that is then rounded to it.
template <typename S, typename T, typename Fill>
void with_sums(S* out, int64_t count, const Fill& fill) {
  if constexpr (std::is_same_v<S, T>) {
    fill(out);
  } else {
    static thread_local Scratch scratch;
    T* sums = scratch.get<T>(count);
    fill(sums);
    std::copy(sums, sums + count, out);
  }
}

}  // namespace sparseq::tensors
