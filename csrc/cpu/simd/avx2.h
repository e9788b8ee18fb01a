// AVX2 and FMA.
#pragma once

namespace sparseq::simd {

constexpr int kVectorBytes = 32;
constexpr int kVectorRegisters = 16;
constexpr const char* kIsaName = "avx2";

}  // namespace sparseq::simd
