// The Hamilton product as tables over the components r, i, j, k, by its sixteen products and by the
// eight of Howell & Lafon 1975 (hamilton.cpp).
#pragma once

#include "../simd/vec.h"

namespace sparseq::quaternion {

// C_a += kSign[a][b] * A_kComponent[a][b] * B_b. kComponent is its own inverse in each column: A_c
// meets B_b in C_kComponent[c][b].
constexpr int kComponent[4][4] = {{0, 1, 2, 3}, {1, 0, 3, 2}, {2, 3, 0, 1}, {3, 2, 1, 0}};
constexpr int kSign[4][4] = {{1, -1, -1, -1}, {1, 1, -1, 1}, {1, 1, 1, -1}, {1, -1, 1, 1}};

// Sign of component c of a quaternion, or of its conjugate.
constexpr int conjugate_sign(int c, bool conjugate) { return conjugate && c > 0 ? -1 : 1; }

// Sign with which A_c meets B_b, A conjugated or not.
constexpr int sign_of(int c, int b, bool conjugate) {
  return conjugate_sign(c, conjugate) * kSign[kComponent[c][b]][b];
}

// H of the eight products, and what is left to each component: C_c += kPairFactor[c] * A_kPairA[c]
// * B_kPairB[c].
constexpr int kH[4][4] = {{1, 1, 1, 1}, {1, -1, 1, -1}, {1, 1, -1, -1}, {1, -1, -1, 1}};
constexpr int kPairA[4] = {0, 3, 1, 2}, kPairB[4] = {0, 2, 3, 1};
constexpr int kPairFactor[4] = {2, -2, -2, -2};

// w = H w.
template <typename V>
SPARSEQ_INLINE void transform_four(V (&w)[4]) {
  const V even = w[0] + w[2], even_minus = w[0] - w[2], odd = w[1] + w[3], odd_minus = w[1] - w[3];
  w[0] = even + odd;
  w[1] = even - odd;
  w[2] = even_minus + odd_minus;
  w[3] = even_minus - odd_minus;
}

}  // namespace sparseq::quaternion
