// The epilogue of a convolution whose result another layer reads from the same memory: a ReLU and a
// max pooling on the way to the places that the next layer reads.
#pragma once

#include "../simd/vec.h"

namespace sparseq::sparse_conv {

using namespace simd;

// One vector per pixel: channel o and pixel i of a map `width` pixels wide go to
// data[o * channel + places[i]], unless the place is -1.
template <typename T>
struct Epilogue {
  T* data;
  int64_t channel;
  const int32_t* places;
  int64_t width;
  bool relu;
  bool pool;  // 2x2 pixels of the sums to their largest

  void put(int64_t o, int64_t h, int64_t w, Vec<T> v) const {
    const int32_t place = places[h * width + w];
    if (place >= 0) store(data + o * channel + place, v);
  }
};

// A tile of sums whose first pixel is (h, w); with pooling, h, w, H and W are even.
template <typename T, int H, int W>
SPARSEQ_INLINE void put_tile(const Epilogue<T>& epilogue, int64_t o, int64_t h, int64_t w,
                             Vec<T> (&sums)[H][W]) {
  if (epilogue.relu) {
    for (auto& line : sums) {
      for (Vec<T>& sum : line) sum = relu(sum);
    }
  }
  if (!epilogue.pool) {
    for (int i = 0; i < H; ++i) {
      for (int j = 0; j < W; ++j) epilogue.put(o, h + i, w + j, sums[i][j]);
    }
    return;
  }
  for (int i = 0; i < H; i += 2) {
    for (int j = 0; j < W; j += 2) {
      const Vec<T> upper = maximum(sums[i][j], sums[i][j + 1]);
      const Vec<T> lower = maximum(sums[i + 1][j], sums[i + 1][j + 1]);
      epilogue.put(o, (h + i) / 2, (w + j) / 2, maximum(upper, lower));
    }
  }
}

}  // namespace sparseq::sparse_conv
