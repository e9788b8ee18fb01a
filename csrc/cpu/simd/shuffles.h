// Moves of lanes within and between vectors: transposes, interleaving, sums over the lanes.
#pragma once

#include <utility>

#include "vec.h"

namespace sparseq::simd {

// Lane j of the first (second) result of one butterfly step over two vectors a, b.
template <int Step, int N, bool Second, int... J>
SPARSEQ_INLINE auto butterfly(const auto& a, const auto& b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(
      a, b, (Second ? ((J & Step) ? N + J : J + Step) : ((J & Step) ? N + J - Step : J))...);
}

template <typename T, int Step>
SPARSEQ_INLINE void transpose_steps(Vec<T> (&rows)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  if constexpr (Step < n) {
    using Lanes = std::make_integer_sequence<int, n>;
    for (int i = 0; i < n; ++i) {
      if (i & Step) continue;
      const Vec<T> low = rows[i], high = rows[i + Step];
      rows[i] = butterfly<Step, n, false>(low, high, Lanes{});
      rows[i + Step] = butterfly<Step, n, true>(low, high, Lanes{});
    }
    transpose_steps<T, 2 * Step>(rows);
  }
}

// Lane j of the result is that of lane j ^ Step.
template <int Step, int... J>
SPARSEQ_INLINE auto swapped(const auto& a, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, a, (J ^ Step)...);
}

// Lane j is that of a where j & Step is 0, else that of b.
template <int Step, int N, int... J>
SPARSEQ_INLINE auto blended(const auto& a, const auto& b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, ((J & Step) ? N + J : J)...);
}

// One shuffle for each sum of two vectors: a shuffle costs what several blends do.
template <typename T, int Step>
SPARSEQ_INLINE void sum_steps(Vec<T> (&rows)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  if constexpr (Step < n) {
    using Lanes = std::make_integer_sequence<int, n>;
    for (int i = 0; i < n; i += 2 * Step) {
      const Vec<T> low = rows[i], high = rows[i + Step];
      rows[i] = blended<Step, n>(low, high, Lanes{}) +
                swapped<Step>(blended<Step, n>(high, low, Lanes{}), Lanes{});
    }
    sum_steps<T, 2 * Step>(rows);
  }
}

// Lanes of a and b alternately: the first half of the result, or the second.
template <int N, bool Second, int... J>
SPARSEQ_INLINE auto zipped(const auto& a, const auto& b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, ((J % 2) * N + J / 2 + (Second ? N / 2 : 0))...);
}

template <int First, int... J>
SPARSEQ_INLINE auto alternate_lanes(const auto& a, const auto& b,
                                    std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, (2 * J + First)...);
}

// The lanes First, First + 2, ... of a and then of b; First is 0 or 1.
template <typename T, int First>
SPARSEQ_INLINE Vec<T> every_second(Vec<T> a, Vec<T> b) {
  return alternate_lanes<First>(a, b, std::make_integer_sequence<int, kLanes<T>>{});
}

// Of `Count` vectors, a power of two, lane 0 of all, then lane 1 of all, and so on.
template <typename T, int Count>
SPARSEQ_INLINE void interleave(Vec<T> (&rows)[Count]) {
  constexpr int n = kLanes<T>;
  if constexpr (Count > 1) {
    Vec<T> even[Count / 2], odd[Count / 2];
    for (int i = 0; i < Count / 2; ++i) {
      even[i] = rows[2 * i];
      odd[i] = rows[2 * i + 1];
    }
    interleave<T, Count / 2>(even);
    interleave<T, Count / 2>(odd);
    using Lanes = std::make_integer_sequence<int, n>;
    for (int i = 0; i < Count / 2; ++i) {
      rows[2 * i] = zipped<n, false>(even[i], odd[i], Lanes{});
      rows[2 * i + 1] = zipped<n, true>(even[i], odd[i], Lanes{});
    }
  }
}

// The inverse of `interleave`.
template <typename T, int Count>
SPARSEQ_INLINE void separate(Vec<T> (&rows)[Count]) {
  if constexpr (Count > 1) {
    Vec<T> even[Count / 2], odd[Count / 2];
    for (int i = 0; i < Count / 2; ++i) {
      even[i] = every_second<T, 0>(rows[2 * i], rows[2 * i + 1]);
      odd[i] = every_second<T, 1>(rows[2 * i], rows[2 * i + 1]);
    }
    separate<T, Count / 2>(even);
    separate<T, Count / 2>(odd);
    for (int i = 0; i < Count / 2; ++i) {
      rows[2 * i] = even[i];
      rows[2 * i + 1] = odd[i];
    }
  }
}

// Square transpose in registers: lane j of row i and lane i of row j change places.
template <typename T>
SPARSEQ_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
  transpose_steps<T, 1>(rows);
}

// Lane i of the result is the sum over the lanes of rows[i]; destroys rows.
template <typename T>
SPARSEQ_INLINE Vec<T> sum_each(Vec<T> (&rows)[kLanes<T>]) {
  sum_steps<T, 1>(rows);
  return rows[0];
}

// Writes, or adds, the first `count` lanes of `sums` to out.
template <typename T>
SPARSEQ_INLINE void put_sums(Vec<T> sums, int64_t count, bool start, T* out) {
  constexpr int n = kLanes<T>;
  if (count >= n) return store(out, start ? sums : load(out) + sums);
  alignas(64) T numbers[n];
  store(numbers, sums);
  for (int64_t j = 0; j < count; ++j) out[j] = start ? numbers[j] : out[j] + numbers[j];
}

}  // namespace sparseq::simd
