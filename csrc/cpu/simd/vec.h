// The vector vocabulary of all CPU kernels: one type, one header per instruction set, no
// intrinsics anywhere else. Built on the vector extension of GCC and Clang, so that every
// operation exists for float and double on every instruction set.
#pragma once

#if defined(SPARSEQ_ISA_AVX512)
#include "avx512.h"
#elif defined(SPARSEQ_ISA_AVX2)
#include "avx2.h"
#else
#include "scalar.h"
#endif

#include <cstdint>
#include <cstring>
#include <utility>

#define SPARSEQ_INLINE inline __attribute__((always_inline))

namespace sparseq {

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};

template <typename T>
using Vec = typename VectorOf<T>::type;

// Elements of T in one vector.
template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <typename T>
SPARSEQ_INLINE Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <typename T>
SPARSEQ_INLINE void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof(v));
}

template <typename T>
SPARSEQ_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // minus zero keeps the sign of a zero, and compiles to one broadcast
}

// Unsigned numbers of `Bytes` bytes each, as many as a vector of 4-byte lanes has.
template <typename U>
using WordsOf __attribute__((vector_size(kVectorBytes / 4 * sizeof(U)))) = U;

// One vector of bfloat16, which are the high halves of floats, widened; and back, rounded to the
// nearest, ties to even, NaN kept quiet.
SPARSEQ_INLINE Vec<float> load_bfloat16(const void* from) {
  WordsOf<uint16_t> halves;
  std::memcpy(&halves, from, sizeof(halves));
  const WordsOf<uint32_t> bits = __builtin_convertvector(halves, WordsOf<uint32_t>) << 16;
  Vec<float> v;
  std::memcpy(&v, &bits, sizeof(v));
  return v;
}

SPARSEQ_INLINE void store_bfloat16(void* to, Vec<float> v) {
  WordsOf<uint32_t> bits;
  std::memcpy(&bits, &v, sizeof(v));
  const WordsOf<uint32_t> rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const WordsOf<uint32_t> kept = v == v ? rounded : rounded - rounded + 0x7fc0;
  const WordsOf<uint16_t> halves = __builtin_convertvector(kept, WordsOf<uint16_t>);
  std::memcpy(to, &halves, sizeof(halves));
}

// a * b + c; the compiler contracts it (-ffp-contract=fast).
template <typename V>
SPARSEQ_INLINE V fmadd(V a, V b, V c) {
  return a * b + c;
}

// The last `count` lanes of `last`, the lanes before them of `first`.
template <typename T>
SPARSEQ_INLINE Vec<T> join(Vec<T> first, Vec<T> last, int64_t count) {
  Vec<T> lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = static_cast<T>(i);
  return lane >= broadcast(static_cast<T>(kLanes<T> - count)) ? last : first;
}

// Keeps a loop over x scalar where the compiler would gather: on several CPUs that is slower.
template <typename T>
SPARSEQ_INLINE void keep_scalar(T& x) {
#if defined(__x86_64__)
  __asm__("" : "+x"(x));
#endif
}

// Keeps what several operations read in a register where the compiler would load it for each.
template <typename V>
SPARSEQ_INLINE void keep_loaded(V& x) {
#if defined(SPARSEQ_ISA_AVX512)
  __asm__("" : "+v"(x));
#elif defined(__x86_64__)
  __asm__("" : "+x"(x));
#endif
}

// Keeps a pointer that walks one register where the compiler would compute many.
template <typename T>
SPARSEQ_INLINE void keep_pointer(const T*& x) {
  __asm__("" : "+r"(x));
}

namespace detail {

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

// Every second lane of a and b, from lane First on.
template <int First, int... J>
SPARSEQ_INLINE auto every_second(const auto& a, const auto& b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, (2 * J + First)...);
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

// Lanes of a and b by turns: the first half of the result, or the second.
template <int N, bool Second, int... J>
SPARSEQ_INLINE auto zipped(const auto& a, const auto& b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, ((J % 2) * N + J / 2 + (Second ? N / 2 : 0))...);
}

// Every other lane of a, then of b, from the first or the second on.
template <bool Second, int... J>
SPARSEQ_INLINE auto unzipped(const auto& a, const auto& b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, (2 * J + (Second ? 1 : 0))...);
}

}  // namespace detail

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
      rows[2 * i] = detail::zipped<n, false>(even[i], odd[i], Lanes{});
      rows[2 * i + 1] = detail::zipped<n, true>(even[i], odd[i], Lanes{});
    }
  }
}

// The inverse of `interleave`.
template <typename T, int Count>
SPARSEQ_INLINE void separate(Vec<T> (&rows)[Count]) {
  constexpr int n = kLanes<T>;
  if constexpr (Count > 1) {
    Vec<T> even[Count / 2], odd[Count / 2];
    using Lanes = std::make_integer_sequence<int, n>;
    for (int i = 0; i < Count / 2; ++i) {
      even[i] = detail::unzipped<false>(rows[2 * i], rows[2 * i + 1], Lanes{});
      odd[i] = detail::unzipped<true>(rows[2 * i], rows[2 * i + 1], Lanes{});
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
  detail::transpose_steps<T, 1>(rows);
}

// The lanes First, First + 2, ... of a and then of b; First is 0 or 1.
template <typename T, int First>
SPARSEQ_INLINE Vec<T> every_second(Vec<T> a, Vec<T> b) {
  return detail::every_second<First>(a, b, std::make_integer_sequence<int, kLanes<T>>{});
}

// Lane i of the result is the sum over the lanes of rows[i]; destroys rows.
template <typename T>
SPARSEQ_INLINE Vec<T> sum_each(Vec<T> (&rows)[kLanes<T>]) {
  detail::sum_steps<T, 1>(rows);
  return rows[0];
}

}  // namespace sparseq
