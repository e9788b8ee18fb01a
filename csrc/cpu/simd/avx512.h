// AVX-512 F, BW, DQ, VL.
#pragma once

namespace sparseq::simd {

constexpr int kVectorBytes = 64;
constexpr int kVectorRegisters = 32;
constexpr const char* kIsaName = "avx512";

}  // namespace sparseq::simd
