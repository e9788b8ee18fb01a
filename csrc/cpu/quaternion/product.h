// Blocked product of quaternion matrices, C = A (x) B; see hamilton.cpp for the formulas.
#pragma once

#include <array>
#include <string>
#include <type_traits>

#include "../../common/check.h"
#include "../tensors/parallel.h"
#include "../tiles/outer_product.h"
#include "../tiles/tiles.h"
#include "hamilton_table.h"

namespace sparseq::quaternion {

using namespace simd;
using namespace tiles;
using tensors::parallel_items;
using tensors::Scratch;
using tensors::useful_threads;

constexpr int kDepthBlock = 512;  // a tile's block of this depth stays in L2
constexpr int kRowBlock = 48;     // most rows of C per task; a multiple of both kernel heights

inline void check_algorithm(const char* op, const std::string& algorithm) {
  SPARSEQ_CHECK(algorithm == "auto" || algorithm == "8" || algorithm == "16", op, "algorithm",
                "must be auto, 8 or 16", algorithm);
}

// Whether the eight products serve, where the algorithm leaves it open by the depth of the sums.
inline bool use_eight(const std::string& algorithm, int64_t depth) {
  return algorithm == "8" || (algorithm != "16" && depth >= 16);
}

// One block product and what it adds to each component of C.
struct Product {
  int a, b;
  float to[4];
};

// Quaternion matrix in memory: entry (component, row, column) at data[...] of the strides.
template <typename S>
struct Operand {
  S* data;
  int64_t component, row, column;
  bool conjugate;
};

template <typename S>
struct Task {
  Operand<const S> a, b;
  Operand<S> c;
  const S* bias;  // (4 rows) or null
  int64_t rows, depth, lanes;
  bool eight;
};

inline int product_count(bool eight) { return eight ? 8 : 16; }
inline int block_count(bool eight) { return eight ? 8 : 4; }

// The block products; operand blocks 0-3 are the components, 4-7 their H transforms.
inline std::array<Product, 16> products_of(bool conjugate_a, bool conjugate_b, bool eight) {
  std::array<Product, 16> list{};
  const auto sign = [&](int a, int b) {
    return static_cast<float>(conjugate_sign(a, conjugate_a) * conjugate_sign(b, conjugate_b));
  };
  if (!eight) {
    for (int i = 0; i < 16; ++i) {
      const int c = i / 4, b = i % 4, a = kComponent[c][b];
      list[i] = {a, b, {}};
      list[i].to[c] = kSign[c][b] * sign(a, b);
    }
    return list;
  }
  for (int r = 0; r < 4; ++r) {
    list[r] = {4 + r, 4 + r, {}};
    for (int c = 0; c < 4; ++c) list[r].to[c] = static_cast<float>(c == 0 ? -kH[c][r] : kH[c][r]);
  }
  for (int c = 0; c < 4; ++c) {
    const int a = kPairA[c], b = kPairB[c];
    list[4 + c] = {a, b, {}};
    list[4 + c].to[c] = static_cast<float>(kPairFactor[c]) * sign(a, b);
  }
  return list;
}

// to[r] = scale * sum_i H[r, i] sign_i from[i], over `count` contiguous entries of each.
template <typename T>
void transform(const T* const (&from)[4], T* const (&to)[4], bool conjugate, T scale,
               int64_t count) {
  T s[4];
  for (int i = 0; i < 4; ++i) s[i] = scale * conjugate_sign(i, conjugate);
  const auto combine = [&](int64_t at, auto read, auto write) {
    decltype(read(from[0])) w[4];
    for (int i = 0; i < 4; ++i) w[i] = s[i] * read(from[i] + at);
    transform_four(w);
    for (int i = 0; i < 4; ++i) write(to[i] + at, w[i]);
  };
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    combine(i, [](const T* p) { return load(p); }, [](T* p, Vec<T> v) { store(p, v); });
  }
  for (; i < count; ++i) {
    combine(i, [](const T* p) { return *p; }, [](T* p, T v) { *p = v; });
  }
}

// The four blocks at blocks[i * step], `count` entries each, and their transforms behind them.
template <typename T>
void transform_blocks(T* blocks, int64_t step, int64_t count, bool conjugate, T scale) {
  const T* from[4];
  T* to[4];
  for (int i = 0; i < 4; ++i) {
    from[i] = blocks + i * step;
    to[i] = blocks + (4 + i) * step;
  }
  transform(from, to, conjugate, scale, count);
}

// Blocks of A (rows, depth), row-major: where they lie, and where they must be packed first.
template <typename T>
struct PackedA {
  const T* block[8];
  T* packed[8];  // null: used as it is
  int64_t stride;
};

// Blocks of `size` entries in `memory`, without the components where those are used as they lie, at
// `data`, `component` apart.
template <typename T>
PackedA<T> place_blocks(const T* data, int64_t component, T* memory, int64_t size, bool eight) {
  PackedA<T> a{};
  for (int i = 0; i < block_count(eight); ++i) {
    const bool lies = data != nullptr && i < 4;
    a.packed[i] = lies ? nullptr : memory + (data != nullptr ? i - 4 : i) * size;
    a.block[i] = lies ? data + i * component : a.packed[i];
  }
  return a;
}

// The transforms of `count` entries of packed components, from `offset` on.
template <typename T>
void transform_packed(const PackedA<T>& a, int64_t offset, int64_t count, bool conjugate) {
  const T* from[4];
  T* to[4];
  for (int i = 0; i < 4; ++i) {
    from[i] = a.block[i] + offset;
    to[i] = a.packed[4 + i] + offset;
  }
  transform(from, to, conjugate, T(0.25), count);
}

// Packs A rows first .. last - 1 where that is needed, then transforms.
template <typename S, typename T>
void pack_a(const Task<S>& task, const PackedA<T>& packed, int64_t first, int64_t last) {
  const Operand<const S>& a = task.a;
  const int64_t offset = first * task.depth, count = (last - first) * task.depth;
  for (int i = 0; i < 4; ++i) {
    if (packed.packed[i] == nullptr) continue;
    copy2d(a.data + i * a.component + first * a.row, a.row, a.column, packed.packed[i] + offset,
           task.depth, last - first, task.depth);
  }
  if (task.eight) transform_packed(packed, offset, count, a.conjugate);
}

// Packs one tile of B: blocks of (depth, width), each feature-major.
template <typename S, typename T>
void pack_b(const Task<S>& task, int64_t lane0, int64_t count, int width, T* tile) {
  const Operand<const S>& b = task.b;
  const int64_t block = task.depth * width;
  if (count < width) std::memset(tile, 0, 4 * block * sizeof(T));
  for (int i = 0; i < 4; ++i) {
    copy2d(b.data + i * b.component + lane0 * b.column, b.row, b.column, tile + i * block, width,
           task.depth, count);
  }
  if (task.eight) transform_blocks(tile, block, block, b.conjugate, T(1));
}

// Rows of sums, of four components.
template <typename T>
struct Components {
  T* data;
  int64_t row, component;
};

// Adds sums to rows of each component with the product's factors.
template <typename T, int MR, int NV>
SPARSEQ_INLINE void add_to_components(const Vec<T> (&sums)[MR][NV], const float (&to)[4],
                                      const Components<T>& c) {
  for (int component = 0; component < 4; ++component) {
    if (to[component] == 0.f) continue;
    const Vec<T> factor = broadcast(static_cast<T>(to[component]));
    T* out = c.data + component * c.component;
    for (int r = 0; r < MR; ++r) {
      for (int i = 0; i < NV; ++i) {
        T* at = out + r * c.row + i * kLanes<T>;
        store(at, fmadd(factor, sums[r][i], load(at)));
      }
    }
  }
}

// MR rows of A times a tile, added to the components' rows of c with the product's factors.
template <typename T, int MR, int NV>
SPARSEQ_INLINE void micro_kernel(const T* a, int64_t a_stride, const T* b, int64_t depth,
                                 const float (&to)[4], const Components<T>& c) {
  Vec<T> sums[MR][NV] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> row[NV];
    load_row<T>(b + k * NV * kLanes<T>, row);
    add_outer<T>(a + k, a_stride, row, sums);
  }
  add_to_components<T, MR, NV>(sums, to, c);
}

// The bias, or zeros, in `width` lanes of each of `rows` rows from row `first` on of every
// component; `component`: from one to the next.
template <typename T, typename S>
void start_rows(const S* bias, int64_t component, int64_t first, int64_t rows, int width, T* c) {
  for (int64_t i = 0; i < 4 * rows; ++i) {
    const int64_t at = i / rows * component + first + i % rows;
    const T start = bias == nullptr ? T(0) : static_cast<T>(bias[at]);
    for (int j = 0; j < width; ++j) c[i * width + j] = start;
  }
}

// A packed tile of B, `count` of its lanes from lane0 on.
template <typename T>
struct Tile {
  const T* data;
  int64_t lane0, count;
};

// Rows first .. first + rows - 1 of C over one packed tile.
template <typename S, typename T, int NV>
void compute_block(const Task<S>& task, const std::array<Product, 16>& products,
                   const PackedA<T>& a, const Tile<T>& tile, int64_t first, int64_t rows) {
  constexpr int width = NV * kLanes<T>;
  alignas(64) static thread_local T c[4 * kRowBlock * 4 * kLanes<T>];
  const int64_t component = rows * width;
  start_rows(task.bias, task.rows, first, rows, width, c);
  for (int64_t k = 0; k < task.depth; k += kDepthBlock) {
    const int64_t depth = std::min<int64_t>(kDepthBlock, task.depth - k);
    for (int p = 0; p < product_count(task.eight); ++p) {
      const Product& product = products[p];
      const T* rows_of_a = a.block[product.a] + first * a.stride + k;
      const T* b = tile.data + product.b * task.depth * width + k * width;
      over_row_blocks<kTileHeight<NV>>(0, rows, [&](int64_t r, auto height) {
        micro_kernel<T, height(), NV>(rows_of_a + r * a.stride, a.stride, b, depth, product.to,
                                      {c + r * width, width, component});
      });
    }
  }
  const Operand<S>& out = task.c;
  for (int i = 0; i < 4; ++i) {
    S* to = out.data + i * out.component + first * out.row + tile.lane0 * out.column;
    if (out.column == 1) {
      copy2d_inlined(c + i * component, width, 1, to, out.row, rows, tile.count);
    } else {
      copy2d_inlined(c + i * component, 1, width, to, out.column, tile.count, rows);
    }
  }
}

// Rows of C per task: where tasks are few, as many for each thread as for the others.
inline int64_t row_block(int64_t rows, int64_t tiles, int64_t threads) {
  int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
  if (threads == 1 || tiles * blocks >= 8 * threads) return kRowBlock;
  while (tiles * blocks % threads != 0) ++blocks;
  return ((rows + blocks - 1) / blocks + 1) / 2 * 2;
}

template <typename S, typename T>
void multiply(const Task<S>& task) {
  const int vectors = tile_vectors<T>(task.lanes);
  const int64_t width = vectors * kLanes<T>, tiles = (task.lanes + width - 1) / width;
  const bool direct = std::is_same_v<S, T> && task.a.column == 1;
  const int64_t a_block = task.rows * task.depth;
  const int64_t b_tile = block_count(task.eight) * task.depth * width;
  static thread_local Scratch a_scratch, b_scratch;
  T* a_memory = a_scratch.get<T>((direct ? 0 : 4 * a_block) + (task.eight ? 4 * a_block : 0));
  T* b_memory = b_scratch.get<T>(tiles * b_tile);
  const T* lying = direct ? reinterpret_cast<const T*>(task.a.data) : nullptr;
  PackedA<T> a = place_blocks(lying, task.a.component, a_memory, a_block, task.eight);
  a.stride = direct ? task.a.row : task.depth;
  const int64_t operations = product_count(task.eight) * a_block * tiles * vectors;
  const int64_t threads = useful_threads(operations);
  const int64_t block = row_block(task.rows, tiles, threads);
  const int64_t blocks = (task.rows + block - 1) / block;
  parallel_items(tiles + blocks, threads, [&](int64_t item) {
    if (item < tiles) {
      pack_b(task, item * width, std::min(width, task.lanes - item * width),
             static_cast<int>(width), b_memory + item * b_tile);
    } else {
      const int64_t first = (item - tiles) * block;
      pack_a(task, a, first, std::min(task.rows, first + block));
    }
  });
  const auto products = products_of(task.a.conjugate, task.b.conjugate, task.eight);
  parallel_items(tiles * blocks, threads, [&](int64_t item) {
    const int64_t lane0 = item / blocks * width, first = item % blocks * block;
    const int64_t rows = std::min(block, task.rows - first);
    const Tile<T> tile{b_memory + item / blocks * b_tile, lane0,
                       std::min(width, task.lanes - lane0)};
    const auto compute = vectors == 1   ? compute_block<S, T, 1>
                         : vectors == 2 ? compute_block<S, T, 2>
                                        : compute_block<S, T, 4>;
    compute(task, products, a, tile, first, rows);
  });
}

}  // namespace sparseq::quaternion
