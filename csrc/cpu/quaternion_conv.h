// Quaternion convolution as a product of quaternion matrices, C = A (x) B, whose B is read where it
// lies in a prepared image (conv_image.h): depth index k is (channel, tap).
#pragma once

#include "conv_image.h"

namespace sparseq {

constexpr int64_t kImageBytes = int64_t{6} << 20;  // of a prepared part of the batch: stays in L3

// Where results go: vector v of row r of component c at data[c * component + r * row + starts[v]],
// its first counts[v] lanes.
template <typename O>
struct Sink {
  O* data;
  int64_t component, row;
  std::vector<int64_t> starts;
  std::vector<int> counts;
};

template <typename T, typename O>
struct ConvTask {
  PackedA<T> a;
  const Image<T>& image;
  const Sink<O>& sink;
  const std::array<Product, 16>& products;
  const O* bias;  // component r's part of the group, `bias_step` from one component to the next
  int64_t bias_step, rows, depth;
  bool eight;
};

// MR rows of A times NV vectors at b + offsets[k], added to the components' rows of c.
template <typename T, int MR, int NV>
SPARSEQ_INLINE void conv_kernel(const T* a, int64_t a_stride, const T* const (&b)[NV],
                                const int32_t* offsets, int64_t depth, const float (&to)[4], T* c,
                                int64_t c_component) {
  constexpr int n = kLanes<T>, width = NV * n;
  Vec<T> sums[MR][NV] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const int64_t at = offsets[k];
    Vec<T> column[NV];
    for (int i = 0; i < NV; ++i) column[i] = load(b[i] + at);
    for (int r = 0; r < MR; ++r) {
      const Vec<T> entry = broadcast(a[r * a_stride + k]);
      for (int i = 0; i < NV; ++i) sums[r][i] = fmadd(entry, column[i], sums[r][i]);
    }
  }
  add_to_components<T, MR, NV>(sums, to, c, width, c_component);
}

template <typename T, int NV>
void conv_product(const T* a, int64_t a_stride, const T* const (&b)[NV], const int32_t* offsets,
                  int64_t depth, const float (&to)[4], T* c, int64_t c_component, int64_t rows) {
  constexpr int width = NV * kLanes<T>, height = kTileHeight<NV>;
  int64_t r = 0;
  for (; r + height <= rows; r += height) {
    conv_kernel<T, height, NV>(a + r * a_stride, a_stride, b, offsets, depth, to, c + r * width,
                               c_component);
  }
  for (; r + 2 <= rows; r += 2) {
    conv_kernel<T, 2, NV>(a + r * a_stride, a_stride, b, offsets, depth, to, c + r * width,
                          c_component);
  }
  if (r < rows) {
    conv_kernel<T, 1, NV>(a + r * a_stride, a_stride, b, offsets, depth, to, c + r * width,
                          c_component);
  }
}

// Rows first .. first + rows - 1 over the vectors from `vector` on.
template <typename T, typename O, int NV>
void conv_block(const ConvTask<T, O>& task, int64_t vector, int64_t first, int64_t rows) {
  constexpr int n = kLanes<T>, width = NV * n;
  alignas(64) static thread_local T c[4 * kRowBlock * 4 * kLanes<T>];
  const int64_t component = rows * width;
  const int64_t vectors = static_cast<int64_t>(task.image.starts.size());
  for (int64_t i = 0; i < 4 * rows; ++i) {
    const int64_t at = i / rows * task.bias_step + first + i % rows;
    const T start = task.bias == nullptr ? T(0) : static_cast<T>(task.bias[at]);
    for (int j = 0; j < width; ++j) c[i * width + j] = start;
  }
  for (int64_t k = 0; k < task.depth; k += kDepthBlock) {
    const int64_t depth = std::min<int64_t>(kDepthBlock, task.depth - k);
    for (int p = 0; p < product_count(task.eight); ++p) {
      const Product& product = task.products[p];
      const T* b[NV];
      for (int i = 0; i < NV; ++i) {
        const int64_t start = task.image.starts[std::min(vector + i, vectors - 1)];
        b[i] = task.image.data + product.b * task.image.block + start;
      }
      conv_product<T, NV>(task.a.block[product.a] + first * task.a.stride + k, task.a.stride, b,
                          task.image.offsets.data() + k, depth, product.to, c, component, rows);
    }
  }
  for (int i = 0; i < NV && vector + i < vectors; ++i) {
    O* to = task.sink.data + task.sink.starts[vector + i];
    const int count = task.sink.counts[vector + i];
    for (int64_t j = 0; j < 4 * rows; ++j) {
      detail::copy_row<T>(c + j * width + i * n,
                          to + j / rows * task.sink.component + (first + j % rows) * task.sink.row,
                          count);
    }
  }
}

template <typename T, typename O>
void conv_multiply(const ConvTask<T, O>& task, int64_t threads) {
  const int64_t vectors = static_cast<int64_t>(task.image.starts.size());
  const int wide = vectors >= 3 ? 4 : static_cast<int>(vectors);
  const int64_t tiles = (vectors + wide - 1) / wide;
  const int64_t block = row_block(task.rows, tiles, threads);
  const int64_t blocks = (task.rows + block - 1) / block;
  parallel_items(tiles * blocks, threads, [&](int64_t item) {
    const int64_t tile = item / blocks, first = item % blocks * block;
    const int64_t rows = std::min(block, task.rows - first);
    if (wide == 1) return conv_block<T, O, 1>(task, tile, first, rows);
    if (wide == 2) return conv_block<T, O, 2>(task, 2 * tile, first, rows);
    conv_block<T, O, 4>(task, 4 * tile, first, rows);
  });
}

// The weight of a forward pass, (4, out, depth) rows; or of a backward one, its conjugate transpose
// with the taps flipped, so that row c is (m, tap) of channel c.
template <typename S>
struct ConvWeight {
  const S* data;
  bool backward;
};

// Packs group `group` of the weight and its transforms; `shape` is that of the product.
template <typename S, typename T>
PackedA<T> pack_weight(const ConvShape& shape, const ConvWeight<S>& weight, int64_t group,
                       bool eight, Scratch& scratch, int64_t threads) {
  const int64_t rows = shape.group_out(), depth = shape.depth(), taps = shape.taps();
  const int64_t block = rows * depth, component = shape.out * depth;
  const bool direct = std::is_same_v<S, T> && !weight.backward;
  T* memory = scratch.get<T>((direct ? 4 : 8) * block);
  PackedA<T> packed{{}, depth};
  T* own[8] = {};
  for (int i = 0; i < 8; ++i) {
    own[i] = direct && i < 4 ? nullptr : memory + (direct ? i - 4 : i) * block;
    packed.block[i] = own[i];
    if (own[i] == nullptr) {
      packed.block[i] = reinterpret_cast<const T*>(weight.data) + i * component + group * block;
    }
  }
  const int64_t step = 8, parts = (rows + step - 1) / step;
  parallel_items(parts, threads, [&](int64_t part) {
    const int64_t first = part * step, last = std::min(rows, first + step);
    for (int i = 0; i < 4 && !direct; ++i) {
      for (int64_t r = first; r < last; ++r) {
        T* to = own[i] + r * depth;
        if (!weight.backward) {
          detail::copy_row<T>(weight.data + i * component + group * block + r * depth, to, depth);
          continue;
        }
        // rows and columns of the stored weight are channels of this product's input and output
        for (int64_t m = 0; m < shape.group_in(); ++m) {
          const int64_t at = (i * shape.in + group * shape.group_in() + m) * rows + r;
          for (int64_t t = 0; t < taps; ++t) {
            to[m * taps + t] = static_cast<T>(weight.data[at * taps + taps - 1 - t]);
          }
        }
      }
    }
    if (!eight) return;
    const T* from[4];
    T* to[4];
    for (int i = 0; i < 4; ++i) {
      from[i] = packed.block[i] + first * depth;
      to[i] = own[4 + i] + first * depth;
    }
    transform(from, to, Operand<const T>{nullptr, 0, 0, 0, weight.backward}, T(0.25),
              (last - first) * depth);
  });
  return packed;
}

// Best layout of the image for these sizes: the one that wastes fewest lanes.
template <typename T>
Layout layout_of(const ConvShape& shape) {
  constexpr int64_t n = kLanes<T>;
  const int64_t width = (shape.result[2] + n - 1) / n * n, lane = (shape.batch + n - 1) / n * n;
  if (5 * shape.result[2] >= 4 * width) return Layout::rows;
  if (5 * shape.batch >= 4 * lane) return Layout::batch;
  return Layout::gather;
}

template <typename T>
int64_t images_at_once(const ConvShape& shape, Layout layout) {
  const int64_t bytes = steps_of<T>(shape, layout, 1).total * static_cast<int64_t>(sizeof(T));
  const int64_t one = layout == Layout::batch ? bytes / kLanes<T> : bytes;
  const int64_t fit = std::max<int64_t>(1, kImageBytes / std::max<int64_t>(one, 1));
  const int64_t whole =
      layout == Layout::batch ? (fit + kLanes<T> - 1) / kLanes<T> * kLanes<T> : fit;
  return std::min(shape.batch, whole);
}

template <typename T>
std::array<Product, 16> signed_products(bool conjugate_a, bool conjugate_b = false,
                                        bool eight = true) {
  Task<T> signs{};
  signs.a.conjugate = conjugate_a;
  signs.b.conjugate = conjugate_b;
  signs.eight = eight;
  return products_of(signs);
}

// Results [channel][place][lane], or [channel][lane] where lanes are places, plus the bias to a
// group's channels of y (n, 4 out, pixels), from image `first` on.
template <typename S, typename T>
void unpack_lanes(const ConvShape& shape, const Steps& s, T* results, const S* bias, int64_t group,
                  int64_t first, S* y, int64_t threads) {
  const bool gather = s.layout == Layout::gather;
  const int64_t pixels = shape.pixels(), rows = shape.group_out();
  const int64_t row = gather ? s.lane : pixels * s.lane, image = 4 * shape.out * pixels;
  parallel_items(4 * rows, threads, [&](int64_t item) {
    const int64_t channel = item / rows * shape.out + item % rows;
    T* from = results + item * row;
    if (bias != nullptr) {
      const T start = static_cast<T>(bias[channel]);
      for (int64_t i = 0; i < row; ++i) from[i] += start;
    }
    S* to = y + first * image + (group * rows + channel) * pixels;
    if (gather) {
      copy2d(from, pixels, 1, to, image, s.images, pixels);
    } else {
      copy2d(from, 1, s.lane, to, image, s.images, pixels);
    }
  });
}

// y (n, 4 out, pixels) = the weight (x) x (n, 4 in, area), group by group, part by part.
template <typename S, typename T>
class Convolution {
 public:
  Convolution(const ConvShape& shape, const ConvWeight<S>& weight, bool eight)
      : shape_(shape), weight_(weight), eight_(eight), layout_(layout_of<T>(shape)) {
    products_ = signed_products<T>(weight.backward, false, eight);
    threads_ = useful_threads(shape.operations() / kLanes<T> / (eight ? 2 : 1));
  }

  void run(const S* x, const S* bias, S* y) const {
    static thread_local Scratch weights, images, results;
    const int64_t at_once = images_at_once<T>(shape_, layout_);
    for (int64_t group = 0; group < shape_.groups; ++group) {
      const PackedA<T> a = pack_weight<S, T>(shape_, weight_, group, eight_, weights, threads_);
      const S* offset = bias == nullptr ? nullptr : bias + group * shape_.group_out();
      for (int64_t first = 0; first < shape_.batch; first += at_once) {
        const Steps s = steps_of<T>(shape_, layout_, std::min(at_once, shape_.batch - first));
        Image<T> image{images.get<T>(s.total), s.block, {}, depth_offsets(shape_, s)};
        prepare_image<S, T>(shape_, s, x, first, group, eight_, false, image.data, threads_);
        if (layout_ == Layout::rows) {
          by_rows(a, image, s, offset, y + place_of(first, group));
        } else {
          by_lanes(a, image, s, offset, group, first, y, results);
        }
      }
    }
  }

 private:
  int64_t place_of(int64_t image, int64_t group) const {
    return (image * 4 * shape_.out + group * shape_.group_out()) * shape_.pixels();
  }

  template <typename O>
  void multiply(const PackedA<T>& a, const Image<T>& image, const Sink<O>& sink,
                const O* bias) const {
    conv_multiply(ConvTask<T, O>{a, image, sink, products_, bias, shape_.out, shape_.group_out(),
                                 shape_.depth(), eight_},
                  threads_);
  }

  void by_rows(const PackedA<T>& a, Image<T>& image, const Steps& s, const S* bias, S* y) const {
    Sink<S> sink{y, shape_.out * shape_.pixels(), shape_.pixels(), {}, {}};
    const int64_t width = shape_.result[2];
    for (int64_t i = 0; i < s.images; ++i) {
      ConvShape::each(
          {shape_.result[0], shape_.result[1], (width + kLanes<T> - 1) / kLanes<T>},
          [&](int64_t, int64_t z, int64_t row, int64_t v) {
            const int64_t x = v * kLanes<T>;
            image.starts.push_back(i * s.image + place_start(shape_, s, z, row, x));
            sink.starts.push_back(i * 4 * shape_.out * shape_.pixels() +
                                  (z * shape_.result[1] + row) * width + x);
            sink.counts.push_back(static_cast<int>(std::min<int64_t>(kLanes<T>, width - x)));
          });
    }
    multiply(a, image, sink, bias);
  }

  // Results go to lanes first, [channel][place][lane] or [channel][lane], then to their places.
  void by_lanes(const PackedA<T>& a, Image<T>& image, const Steps& s, const S* bias, int64_t group,
                int64_t first, S* y, Scratch& results) const {
    const bool gather = layout_ == Layout::gather;
    const int64_t row = gather ? s.lane : shape_.pixels() * s.lane, rows = shape_.group_out();
    Sink<T> sink{results.get<T>(4 * rows * row), rows * row, row, {}, {}};
    for (int64_t v = 0; v < row; v += kLanes<T>) sink.starts.push_back(v);
    sink.counts.assign(sink.starts.size(), kLanes<T>);
    if (gather) {
      image.starts = sink.starts;
    } else {
      ConvShape::each(shape_.result, [&](int64_t, int64_t z, int64_t at, int64_t x) {
        for (int64_t v = 0; v < s.lane; v += kLanes<T>) {
          image.starts.push_back(place_start(shape_, s, z, at, x) + v);
        }
      });
    }
    multiply<T>(a, image, sink, nullptr);
    unpack_lanes(shape_, s, sink.data, bias, group, first, y, threads_);
  }

  const ConvShape& shape_;
  ConvWeight<S> weight_;
  bool eight_;
  Layout layout_;
  std::array<Product, 16> products_;
  int64_t threads_;
};

}  // namespace sparseq
