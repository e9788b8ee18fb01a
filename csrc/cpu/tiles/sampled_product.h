// Gradients at the kept entries only: what the kernels of all patterns share.
#pragma once

#include "../tensors/operands.h"
#include "../tensors/parallel.h"
#include "tiles.h"

namespace sparseq::tiles {

using tensors::GradientData;

// One tile of the batch, packed: feature f of dy at dy + f * lanes, of x at x + f * lanes.
template <typename T>
struct PackedPair {
  const T* dy;
  const T* x;
  int vectors;
  bool start;  // the first tile: sums are written, not added
};

// How rows of a pattern lie among dy's features: row r is features r * height .. of each of
// `blocks` equal blocks.
struct RowLayout {
  int64_t blocks;
  int64_t height;
};

// Calls body(PackedPair, first, last) tile by tile for the rows of each thread, which are
// begins(part, parts) .. begins(part + 1, parts) - 1. A thread packs what it reads: what another
// one packed would come from that one's cache. An entry's sum runs over the tiles in order,
// whatever the threads. `work`: vector operations for each vector of the batch.
template <typename T, typename S, typename Begins, typename Body>
void over_packed_pairs(const GradientData<S>& data, const RowLayout& layout, int most_vectors,
                       int64_t work, const Begins& begins, const Body& body) {
  const int64_t m = data.m, k = data.k;
  const int64_t width = tile_vectors<T>(data.batch, most_vectors) * kLanes<T>;
  const int64_t tiles = (data.batch + width - 1) / width;
  const int64_t parts = tensors::useful_threads((work + m + k) * tiles * width / kLanes<T>);
  tensors::parallel_items(parts, parts, [&](int64_t part) {
    static thread_local tensors::Scratch scratch;
    T* packed = scratch.get<T>(width * (m + k));
    const int64_t first = begins(part, parts), last = begins(part + 1, parts);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t row0 = tile * width, count = std::min(width, data.batch - row0);
      const int vectors = tile_vectors<T>(count, most_vectors);
      const int lanes = vectors * kLanes<T>;
      for (int64_t block = 0; block < layout.blocks; ++block) {
        const int64_t feature = block * (m / layout.blocks) + first * layout.height;
        pack_tile(data.dy + row0 * m + feature, m, (last - first) * layout.height, count, lanes,
                  packed + feature * lanes);
      }
      T* x = packed + m * lanes;
      pack_tile(data.x + row0 * k, k, k, count, lanes, x);
      body(PackedPair<T>{packed, x, vectors, tile == 0}, first, last);
    }
  });
}

}  // namespace sparseq::tiles
