// Blocked product of quaternion matrices, C = A (x) B; see hamilton.cpp for the formulas.
#pragma once

#include <array>

#include "../common/parallel.h"
#include "quaternion.h"
#include "tiles.h"

namespace sparseq {

constexpr int kDepthBlock = 512;  // a tile's block of this depth stays in L2
constexpr int kRowBlock = 48;     // most rows of C per task; a multiple of both kernel heights

constexpr int kH[4][4] = {{1, 1, 1, 1}, {1, -1, 1, -1}, {1, 1, -1, -1}, {1, -1, -1, 1}};
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

  int sign(int c) const { return conjugate && c > 0 ? -1 : 1; }
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
template <typename S>
std::array<Product, 16> products_of(const Task<S>& task) {
  std::array<Product, 16> list{};
  const auto sign = [&](int a, int b) {
    return static_cast<float>(task.a.sign(a) * task.b.sign(b));
  };
  if (!task.eight) {
    for (int i = 0; i < 16; ++i) {
      const int c = i / 4, b = i % 4, a = kBlock[c][b];
      list[i] = {a, b, {}};
      list[i].to[c] = kSign[c][b] * sign(a, b);
    }
    return list;
  }
  for (int r = 0; r < 4; ++r) {
    list[r] = {4 + r, 4 + r, {}};
    for (int c = 0; c < 4; ++c) list[r].to[c] = static_cast<float>(c == 0 ? -kH[c][r] : kH[c][r]);
  }
  constexpr int pairs[4][2] = {{0, 0}, {3, 2}, {1, 3}, {2, 1}};
  for (int c = 0; c < 4; ++c) {
    const int a = pairs[c][0], b = pairs[c][1];
    list[4 + c] = {a, b, {}};
    list[4 + c].to[c] = (c == 0 ? 2.f : -2.f) * sign(a, b);
  }
  return list;
}

// to[r] = scale * sum_i H[r, i] sign_i from[i], over `count` contiguous entries of each.
template <typename T, typename S>
void transform(const T* const (&from)[4], T* const (&to)[4], const Operand<const S>& operand,
               T scale, int64_t count) {
  T s[4];
  for (int i = 0; i < 4; ++i) s[i] = scale * operand.sign(i);
  const auto combine = [&](int64_t at, auto read, auto write) {
    const auto w0 = s[0] * read(from[0] + at), w1 = s[1] * read(from[1] + at);
    const auto w2 = s[2] * read(from[2] + at), w3 = s[3] * read(from[3] + at);
    const auto even = w0 + w2, even_minus = w0 - w2, odd = w1 + w3, odd_minus = w1 - w3;
    write(to[0] + at, even + odd);
    write(to[1] + at, even - odd);
    write(to[2] + at, even_minus + odd_minus);
    write(to[3] + at, even_minus - odd_minus);
  };
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    combine(i, [](const T* p) { return load(p); }, [](T* p, Vec<T> v) { store(p, v); });
  }
  for (; i < count; ++i) {
    combine(i, [](const T* p) { return *p; }, [](T* p, T v) { *p = v; });
  }
}

// Packed A: blocks of (rows, depth), row-major.
template <typename T>
struct PackedA {
  const T* block[8];
  int64_t stride;
};

// Packs A rows first .. last - 1 where packing is needed (`own[i]` non-null), then transforms.
template <typename S, typename T>
void pack_a(const Task<S>& task, const PackedA<T>& packed, T* const (&own)[8], int64_t first,
            int64_t last) {
  const Operand<const S>& a = task.a;
  const int64_t offset = first * task.depth, count = (last - first) * task.depth;
  for (int i = 0; i < 4; ++i) {
    if (own[i] == nullptr) continue;
    copy2d(a.data + i * a.component + first * a.row, a.row, a.column, own[i] + offset, task.depth,
           last - first, task.depth);
  }
  if (!task.eight) return;
  const T* from[4];
  T* to[4];
  for (int i = 0; i < 4; ++i) {
    from[i] = packed.block[i] + offset;
    to[i] = own[4 + i] + offset;
  }
  transform(from, to, a, T(0.25), count);
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
  if (!task.eight) return;
  const T* from[4];
  T* to[4];
  for (int i = 0; i < 4; ++i) {
    from[i] = tile + i * block;
    to[i] = tile + (4 + i) * block;
  }
  transform(from, to, b, T(1), block);
}

// Adds sums to rows of c, `c_row` apart, of each component with the product's factors.
template <typename T, int MR, int NV>
SPARSEQ_INLINE void add_to_components(const Vec<T> (&sums)[MR][NV], const float (&to)[4], T* c,
                                      int64_t c_row, int64_t c_component) {
  for (int component = 0; component < 4; ++component) {
    if (to[component] == 0.f) continue;
    const Vec<T> factor = broadcast(static_cast<T>(to[component]));
    T* out = c + component * c_component;
    for (int r = 0; r < MR; ++r) {
      for (int i = 0; i < NV; ++i) {
        T* at = out + r * c_row + i * kLanes<T>;
        store(at, fmadd(factor, sums[r][i], load(at)));
      }
    }
  }
}

// MR rows of A times a tile, added to the components' rows of c with the product's factors.
template <typename T, int MR, int NV>
SPARSEQ_INLINE void micro_kernel(const T* a, int64_t a_stride, const T* b, int64_t depth,
                                 const float (&to)[4], T* c, int64_t c_component) {
  constexpr int n = kLanes<T>, width = NV * n;
  Vec<T> sums[MR][NV] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> column[NV];
    for (int i = 0; i < NV; ++i) column[i] = load(b + k * width + i * n);
    for (int r = 0; r < MR; ++r) {
      const Vec<T> entry = broadcast(a[r * a_stride + k]);
      for (int i = 0; i < NV; ++i) sums[r][i] = fmadd(entry, column[i], sums[r][i]);
    }
  }
  add_to_components<T, MR, NV>(sums, to, c, width, c_component);
}

template <typename T, int NV>
void block_product(const T* a, int64_t a_stride, const T* b, int64_t depth, const float (&to)[4],
                   T* c, int64_t c_component, int64_t rows) {
  constexpr int width = NV * kLanes<T>, height = kTileHeight<NV>;
  int64_t r = 0;
  for (; r + height <= rows; r += height) {
    micro_kernel<T, height, NV>(a + r * a_stride, a_stride, b, depth, to, c + r * width,
                                c_component);
  }
  for (; r + 2 <= rows; r += 2) {
    micro_kernel<T, 2, NV>(a + r * a_stride, a_stride, b, depth, to, c + r * width, c_component);
  }
  if (r < rows) {
    micro_kernel<T, 1, NV>(a + r * a_stride, a_stride, b, depth, to, c + r * width, c_component);
  }
}

// Rows first .. first + rows - 1 of C over one packed tile.
template <typename S, typename T, int NV>
void compute_block(const Task<S>& task, const std::array<Product, 16>& products,
                   const PackedA<T>& a, const T* tile, int64_t first, int64_t rows, int64_t lane0,
                   int64_t count) {
  constexpr int width = NV * kLanes<T>;
  alignas(64) static thread_local T c[4 * kRowBlock * 4 * kLanes<T>];
  const int64_t component = rows * width;
  for (int64_t i = 0; i < 4 * rows; ++i) {
    const int64_t at = i / rows * task.rows + first + i % rows;
    const T start = task.bias == nullptr ? T(0) : static_cast<T>(task.bias[at]);
    for (int j = 0; j < width; ++j) c[i * width + j] = start;
  }
  for (int64_t k = 0; k < task.depth; k += kDepthBlock) {
    const int64_t depth = std::min<int64_t>(kDepthBlock, task.depth - k);
    for (int p = 0; p < product_count(task.eight); ++p) {
      const Product& product = products[p];
      block_product<T, NV>(a.block[product.a] + first * a.stride + k, a.stride,
                           tile + product.b * task.depth * width + k * width, depth, product.to, c,
                           component, rows);
    }
  }
  const Operand<S>& out = task.c;
  for (int i = 0; i < 4; ++i) {
    S* to = out.data + i * out.component + first * out.row + lane0 * out.column;
    if (out.column == 1) {
      copy2d(c + i * component, width, 1, to, out.row, rows, count);
    } else {
      copy2d(c + i * component, 1, width, to, out.column, count, rows);
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
  const int64_t a_block = task.rows * task.depth,
                b_tile = block_count(task.eight) * task.depth * width;
  static thread_local Scratch a_scratch, b_scratch;
  T* a_memory = a_scratch.get<T>((direct ? 0 : 4 * a_block) + (task.eight ? 4 * a_block : 0));
  T* b_memory = b_scratch.get<T>(tiles * b_tile);
  PackedA<T> a{{}, direct ? task.a.row : task.depth};
  T* own[8] = {};
  for (int i = 0; i < block_count(task.eight); ++i) {
    if (i >= 4 || !direct) own[i] = a_memory + (direct ? i - 4 : i) * a_block;
    a.block[i] =
        own[i] != nullptr ? own[i] : reinterpret_cast<const T*>(task.a.data + i * task.a.component);
  }
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
      pack_a(task, a, own, first, std::min(task.rows, first + block));
    }
  });
  const auto products = products_of(task);
  parallel_items(tiles * blocks, threads, [&](int64_t item) {
    const int64_t tile = item / blocks, first = item % blocks * block;
    const int64_t rows = std::min(block, task.rows - first);
    const int64_t count = std::min(width, task.lanes - tile * width);
    const T* packed = b_memory + tile * b_tile;
    const auto run = [&](auto compute) {
      compute(task, products, a, packed, first, rows, tile * width, count);
    };
    if (vectors == 1) return run(compute_block<S, T, 1>);
    if (vectors == 2) return run(compute_block<S, T, 2>);
    run(compute_block<S, T, 4>);
  });
}

}  // namespace sparseq
