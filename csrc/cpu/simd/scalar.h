// No instruction set assumed: the compiler lowers 16-byte vectors to what the platform always has.
#pragma once

namespace sparseq::simd {

constexpr int kVectorBytes = 16;
constexpr int kVectorRegisters = 16;
constexpr const char* kIsaName = "scalar";

}  // namespace sparseq::simd
