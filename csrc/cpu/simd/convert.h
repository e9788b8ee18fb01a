// Between the type numbers are stored in, S, and the type they are computed in, T.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <type_traits>

#include "vec.h"

namespace sparseq::simd {

// One vector of T from numbers stored as S, and back.
template <typename T, typename S>
SPARSEQ_INLINE Vec<T> load_as(const S* from) {
  if constexpr (std::is_same_v<S, T>) {
    return load(from);
  } else if constexpr (std::is_same_v<S, torch::headeronly::BFloat16>) {
    return load_bfloat16(from);
  } else {
    T numbers[kLanes<T>];
    for (int i = 0; i < kLanes<T>; ++i) numbers[i] = static_cast<T>(from[i]);
    return load(numbers);
  }
}

template <typename S, typename T>
SPARSEQ_INLINE void store_as(S* to, Vec<T> v) {
  if constexpr (std::is_same_v<S, T>) {
    store(to, v);
  } else if constexpr (std::is_same_v<S, torch::headeronly::BFloat16>) {
    store_bfloat16(to, v);
  } else {
    for (int i = 0; i < kLanes<T>; ++i) to[i] = static_cast<S>(v[i]);
  }
}

// `count` numbers from one type to the other, T the wider of them.
template <typename T, typename S, typename D>
void copy_row(const S* src, D* dst, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) store_as<D, T>(dst + i, load_as<T>(src + i));
  for (; i < count; ++i) dst[i] = static_cast<D>(src[i]);
}

}  // namespace sparseq::simd
