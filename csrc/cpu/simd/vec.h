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

#define SPARSEQ_INLINE inline __attribute__((always_inline))

namespace sparseq::simd {

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

// max(0, v); a NaN stays one.
template <typename V>
SPARSEQ_INLINE V relu(V v) {
  return v < V{} ? V{} : v;
}

// Whether `value` is larger than `most`, or a NaN: a NaN is kept, as in torch's max pooling.
template <typename V>
SPARSEQ_INLINE auto exceeds(V value, V most) {
  return (value > most) | (value != value);
}

// The larger of two; a NaN wins.
template <typename V>
SPARSEQ_INLINE V maximum(V a, V b) {
  return exceeds(b, a) ? b : a;
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

}  // namespace sparseq::simd
