// hamilton: Y = W (x) X, quaternion linear maps and their gradients, by one blocked product
//
//     C = A (x) B,   A (rows, depth), B (depth, lanes), C (rows, lanes), entries quaternions
//
// forward: A = W, B = x^T;   dx: A = W* (conjugate transpose), B = dy^T;   dW: A = dy^T, B = x*.
// The four components of an operand are four real matrices a fixed distance apart. "16" is the
// sixteen block products of the definition; "8" (Howell & Lafon 1975) forms with H = [[1,1,1,1],
// [1,-1,1,-1],[1,1,-1,-1],[1,-1,-1,1]]
//
//     S_r = 1/4 sum_i H[r,i] A_i,  V_r = sum_j H[r,j] B_j,  G = H (S_r V_r)
//     C_0 = 2 A_0 B_0 - G_0   C_1 = G_1 - 2 A_3 B_2   C_2 = G_2 - 2 A_1 B_3   C_3 = G_3 - 2 A_2 B_1
//
// B is packed in feature-major tiles, an A row is broadcast entry by entry, and each block product
// is added to the components it belongs to straight from registers. Sums over the depth run in one
// order whatever the threads.

#include <torch/csrc/stable/library.h>

#include <array>
#include <optional>
#include <string>

#include "../common/parallel.h"
#include "dtypes.h"
#include "pattern.h"
#include "tiles.h"

namespace sparseq {
namespace {

constexpr int kDepthBlock = 512;  // a tile's block of this depth stays in L2
constexpr int kRowBlock = 48;     // rows of C per task; a multiple of both kernel heights
constexpr int kDirectBatch = 4;   // up to here the weights' bytes bound the product

constexpr int kH[4][4] = {{1, 1, 1, 1}, {1, -1, 1, -1}, {1, 1, -1, -1}, {1, -1, -1, 1}};
// kBlock[a][b], kSign[a][b]: C_a += sign * A_block * B_b
constexpr int kBlock[4][4] = {{0, 1, 2, 3}, {1, 0, 3, 2}, {2, 3, 0, 1}, {3, 2, 1, 0}};
constexpr int kSign[4][4] = {{1, -1, -1, -1}, {1, 1, -1, 1}, {1, 1, 1, -1}, {1, -1, 1, 1}};

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

int product_count(bool eight) { return eight ? 8 : 16; }
int block_count(bool eight) { return eight ? 8 : 4; }

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

// blocks[4 + r] = scale * sum_i H[r, i] sign_i blocks[i], over `count` entries `stride` apart.
template <typename T, typename S>
void transform(const T* const (&from)[4], T* const (&to)[4], const Operand<const S>& operand,
               T scale, int64_t count) {
  T s[4];
  for (int i = 0; i < 4; ++i) s[i] = scale * operand.sign(i);
  for (int64_t i = 0; i < count; ++i) {
    const T w0 = s[0] * from[0][i], w1 = s[1] * from[1][i];
    const T w2 = s[2] * from[2][i], w3 = s[3] * from[3][i];
    const T even = w0 + w2, even_minus = w0 - w2, odd = w1 + w3, odd_minus = w1 - w3;
    to[0][i] = even + odd;
    to[1][i] = even - odd;
    to[2][i] = even_minus + odd_minus;
    to[3][i] = even_minus - odd_minus;
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
  for (int component = 0; component < 4; ++component) {
    if (to[component] == 0.f) continue;
    const Vec<T> factor = broadcast(static_cast<T>(to[component]));
    T* out = c + component * c_component;
    for (int r = 0; r < MR; ++r) {
      for (int i = 0; i < NV; ++i) {
        T* at = out + r * width + i * n;
        store(at, fmadd(factor, sums[r][i], load(at)));
      }
    }
  }
}

// Height of the register block: as many sums as the registers hold beside a tile row.
template <int NV>
constexpr int kHeight = NV == 4 ? (kVectorRegisters >= 32 ? 6 : 2)
                                : (NV == 2 ? (kVectorRegisters >= 32 ? 12 : 4)
                                           : (kVectorRegisters >= 32 ? 12 : 8));

template <typename T, int NV>
void block_product(const T* a, int64_t a_stride, const T* b, int64_t depth, const float (&to)[4],
                   T* c, int64_t c_component, int64_t rows) {
  constexpr int width = NV * kLanes<T>, height = kHeight<NV>;
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

template <typename S, typename T>
void multiply(const Task<S>& task) {
  const int vectors = tile_vectors<T>(task.lanes);
  const int64_t width = vectors * kLanes<T>, tiles = (task.lanes + width - 1) / width;
  const int64_t blocks = (task.rows + kRowBlock - 1) / kRowBlock;
  const bool direct = std::is_same_v<S, T> && task.a.column == 1;
  const int64_t a_block = task.rows * task.depth, b_tile = block_count(task.eight) * task.depth * width;
  static thread_local Scratch a_scratch, b_scratch;
  T* a_memory = a_scratch.get<T>((direct ? 0 : 4 * a_block) + (task.eight ? 4 * a_block : 0));
  T* b_memory = b_scratch.get<T>(tiles * b_tile);
  PackedA<T> a{{}, direct ? task.a.row : task.depth};
  T* own[8] = {};
  for (int i = 0; i < block_count(task.eight); ++i) {
    if (i >= 4 || !direct) own[i] = a_memory + (direct ? i - 4 : i) * a_block;
    a.block[i] = own[i] != nullptr
                     ? own[i]
                     : reinterpret_cast<const T*>(task.a.data + i * task.a.component);
  }
  const int64_t operations = product_count(task.eight) * a_block * tiles * vectors;
  const int64_t threads = useful_threads(operations);
  parallel_items(tiles + blocks, threads, [&](int64_t item) {
    if (item < tiles) {
      pack_b(task, item * width, std::min(width, task.lanes - item * width),
             static_cast<int>(width), b_memory + item * b_tile);
    } else {
      const int64_t first = (item - tiles) * kRowBlock;
      pack_a(task, a, own, first, std::min<int64_t>(task.rows, first + kRowBlock));
    }
  });
  const auto products = products_of(task);
  parallel_items(tiles * blocks, threads, [&](int64_t item) {
    const int64_t tile = item / blocks, first = item % blocks * kRowBlock;
    const int64_t rows = std::min<int64_t>(kRowBlock, task.rows - first);
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

// A few batch rows: each weight row is read once and meets every x row, in the 16-form.
template <typename S, typename T>
void multiply_direct(const S* x, const S* weight, const S* bias, S* y, int64_t batch, int64_t m,
                     int64_t k) {
  constexpr int n = kLanes<T>;
  const int64_t rows_per_item = 16, items = (m + rows_per_item - 1) / rows_per_item;
  const int64_t threads = useful_threads(16 * batch * m * (k / n + 1));
  parallel_items(items, threads, [&](int64_t item) {
    const int64_t last = std::min(m, (item + 1) * rows_per_item);
    for (int64_t r = item * rows_per_item; r < last; ++r) {
      for (int64_t row = 0; row < batch; ++row) {
        T total[4] = {};
        int64_t at = 0;
        if constexpr (std::is_same_v<S, T>) {
          Vec<T> sums[4] = {};
          for (; at + n <= k; at += n) {
            Vec<T> w[4];
            for (int c = 0; c < 4; ++c) w[c] = load(weight + (c * m + r) * k + at);
            for (int b = 0; b < 4; ++b) {
              const Vec<T> value = load(x + (row * 4 + b) * k + at);
              for (int a = 0; a < 4; ++a) {
                sums[a] = kSign[a][b] > 0 ? sums[a] + w[kBlock[a][b]] * value
                                          : sums[a] - w[kBlock[a][b]] * value;
              }
            }
          }
          for (int a = 0; a < 4; ++a) {
            for (int j = 0; j < n; ++j) total[a] += sums[a][j];
          }
        }
        for (; at < k; ++at) {
          for (int a = 0; a < 4; ++a) {
            for (int b = 0; b < 4; ++b) {
              total[a] += kSign[a][b] * static_cast<T>(weight[(kBlock[a][b] * m + r) * k + at]) *
                          static_cast<T>(x[(row * 4 + b) * k + at]);
            }
          }
        }
        for (int a = 0; a < 4; ++a) {
          const T start = bias == nullptr ? T(0) : static_cast<T>(bias[a * m + r]);
          y[(row * 4 + a) * m + r] = static_cast<S>(start + total[a]);
        }
      }
    }
  });
}

bool use_eight(const std::string& algorithm, int64_t depth) {
  return algorithm == "8" || (algorithm != "16" && depth >= 16);
}

void check_quaternion(const char* op, const char* argument, const Tensor& x, int64_t features) {
  SPARSEQ_CHECK(x.dim() > 0 && x.size(-1) == features, op, argument,
                "must have four features for each quaternion of the weight", x.numel());
}

Tensor hamilton(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                std::string algorithm) {
  SPARSEQ_CHECK(weight.dim() == 3 && weight.size(0) == 4, "hamilton", "weight",
                "must have shape (4, m, k)", weight.dim());
  const int64_t m = weight.size(1), k = weight.size(2);
  check_quaternion("hamilton", "x", x, 4 * k);
  check_same_type("hamilton", "weight", x, weight);
  const Tensor input = torch::stable::contiguous(x), matrix = torch::stable::contiguous(weight);
  std::optional<Tensor> offset;
  if (bias.has_value()) {
    check_same_type("hamilton", "bias", x, *bias);
    offset = torch::stable::contiguous(*bias);
  }
  Tensor y = torch::stable::new_empty(x, with_last(x, 4 * m));
  if (y.numel() == 0) return y;
  with_types("hamilton", x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const S* in = static_cast<const S*>(input.const_data_ptr());
    const S* w = static_cast<const S*>(matrix.const_data_ptr());
    const S* b = offset.has_value() ? static_cast<const S*>(offset->const_data_ptr()) : nullptr;
    S* out = static_cast<S*>(y.mutable_data_ptr());
    const int64_t batch = y.numel() / (4 * m);
    if (batch <= kDirectBatch && algorithm != "8") {
      return multiply_direct<S, T>(in, w, b, out, batch, m, k);
    }
    multiply<S, T>({{w, m * k, k, 1, false}, {in, k, 1, 4 * k, false}, {out, m, 1, 4 * m, false},
                    b, m, k, batch, use_eight(algorithm, k)});
  });
  return y;
}

Tensor hamilton_dx(const Tensor& dy, const Tensor& weight, std::string algorithm) {
  SPARSEQ_CHECK(weight.dim() == 3 && weight.size(0) == 4, "hamilton_dx", "weight",
                "must have shape (4, m, k)", weight.dim());
  const int64_t m = weight.size(1), k = weight.size(2);
  check_quaternion("hamilton_dx", "dy", dy, 4 * m);
  check_same_type("hamilton_dx", "weight", dy, weight);
  const Tensor input = torch::stable::contiguous(dy), matrix = torch::stable::contiguous(weight);
  Tensor dx = torch::stable::new_empty(dy, with_last(dy, 4 * k));
  if (dx.numel() == 0) return dx;
  with_types("hamilton_dx", dy, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    multiply<S, T>({{static_cast<const S*>(matrix.const_data_ptr()), m * k, 1, k, true},
                    {static_cast<const S*>(input.const_data_ptr()), m, 1, 4 * m, false},
                    {static_cast<S*>(dx.mutable_data_ptr()), k, 1, 4 * k, false},
                    nullptr, k, m, dx.numel() / (4 * k), use_eight(algorithm, m)});
  });
  return dx;
}

Tensor hamilton_dw(const Tensor& dy, const Tensor& x, std::string algorithm) {
  SPARSEQ_CHECK(dy.dim() > 0 && dy.size(-1) % 4 == 0, "hamilton_dw", "dy",
                "must have a multiple of 4 features", dy.numel());
  SPARSEQ_CHECK(x.dim() > 0 && x.size(-1) % 4 == 0, "hamilton_dw", "x",
                "must have a multiple of 4 features", x.numel());
  const int64_t m = dy.size(-1) / 4, k = x.size(-1) / 4;
  const int64_t batch = m == 0 ? 0 : dy.numel() / (4 * m);
  SPARSEQ_CHECK(m == 0 || x.numel() == batch * 4 * k, "hamilton_dw", "x", "must have dy's batch",
                x.numel());
  check_same_type("hamilton_dw", "x", dy, x);
  const Tensor left = torch::stable::contiguous(dy), right = torch::stable::contiguous(x);
  if (batch == 0) return torch::stable::new_zeros(dy, {4, m, k});
  Tensor dw = torch::stable::new_empty(dy, {4, m, k});
  if (dw.numel() == 0) return dw;
  with_types("hamilton_dw", dy, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    multiply<S, T>({{static_cast<const S*>(left.const_data_ptr()), m, 1, 4 * m, false},
                    {static_cast<const S*>(right.const_data_ptr()), k, 4 * k, 1, true},
                    {static_cast<S*>(dw.mutable_data_ptr()), m * k, k, 1, false},
                    nullptr, m, batch, k, use_eight(algorithm, batch)});
  });
  return dw;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("hamilton", TORCH_BOX(&hamilton));
  m.impl("hamilton_dx", TORCH_BOX(&hamilton_dx));
  m.impl("hamilton_dw", TORCH_BOX(&hamilton_dw));
}

}  // namespace sparseq
