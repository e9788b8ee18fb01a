// Quaternion convolution as a product of quaternion matrices, C = A (x) B, whose B is read where it
// lies in a prepared image (conv_image.h): depth index k is (channel, tap).
#pragma once

#include "padded_image.h"

namespace sparseq::quaternion {

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
  const PaddedImage<T>& image;
  const Sink<O>& sink;
  const std::array<Product, 16>& products;
  const O* bias;  // component r's part of the group, `bias_step` from one component to the next
  int64_t bias_step, rows, depth;
  bool eight;
};

// MR rows of A times NV vectors at b + offsets[k], added to the components' rows of c.
template <typename T, int MR, int NV>
SPARSEQ_INLINE void conv_kernel(const T* a, int64_t a_stride, const T* const (&b)[NV],
                                const int32_t* offsets, int64_t depth, const float (&to)[4],
                                const Components<T>& c) {
  Vec<T> sums[MR][NV] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const int64_t at = offsets[k];
    Vec<T> column[NV];
    for (int i = 0; i < NV; ++i) column[i] = load(b[i] + at);
    add_outer<T>(a + k, a_stride, column, sums);
  }
  add_to_components<T, MR, NV>(sums, to, c);
}

// One block product over the vectors from `vector` on, rows first .. first + rows - 1, entries
// k .. k + depth - 1.
template <typename T, typename O, int NV>
void conv_product(const ConvTask<T, O>& task, const Product& product, int64_t vector, int64_t first,
                  int64_t rows, int64_t k, T* c) {
  constexpr int width = NV * kLanes<T>;
  const PaddedImage<T>& image = task.image;
  const int64_t vectors = static_cast<int64_t>(image.starts.size());
  const T* b[NV];
  for (int i = 0; i < NV; ++i) {
    const int64_t start = image.starts[std::min(vector + i, vectors - 1)];
    b[i] = image.data + product.b * image.block + start;
  }
  const int64_t depth = std::min<int64_t>(kDepthBlock, task.depth - k), stride = task.a.stride;
  const T* a = task.a.block[product.a] + first * stride + k;
  const int32_t* offsets = image.offsets.data() + k;
  over_row_blocks<kTileHeight<NV>>(0, rows, [&](int64_t r, auto height) {
    conv_kernel<T, height(), NV>(a + r * stride, stride, b, offsets, depth, product.to,
                                 {c + r * width, width, rows * width});
  });
}

// Rows first .. first + rows - 1 over the vectors from `vector` on.
template <typename T, typename O, int NV>
void conv_block(const ConvTask<T, O>& task, int64_t vector, int64_t first, int64_t rows) {
  constexpr int n = kLanes<T>, width = NV * n;
  alignas(64) static thread_local T c[4 * kRowBlock * 4 * kLanes<T>];
  const int64_t vectors = static_cast<int64_t>(task.image.starts.size());
  start_rows(task.bias, task.bias_step, first, rows, width, c);
  for (int64_t k = 0; k < task.depth; k += kDepthBlock) {
    for (int p = 0; p < product_count(task.eight); ++p) {
      conv_product<T, O, NV>(task, task.products[p], vector, first, rows, k, c);
    }
  }
  for (int i = 0; i < NV && vector + i < vectors; ++i) {
    O* to = task.sink.data + task.sink.starts[vector + i];
    const int count = task.sink.counts[vector + i];
    for (int64_t j = 0; j < 4 * rows; ++j) {
      copy_row<T>(c + j * width + i * n,
                  to + j / rows * task.sink.component + (first + j % rows) * task.sink.row, count);
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

// Row r of component i of a group's weight, as the product reads it.
template <typename S, typename T>
void pack_weight_row(const ConvShape& shape, const ConvWeight<S>& weight, int64_t group, int i,
                     int64_t r, T* to) {
  const int64_t rows = shape.group_out(), depth = shape.depth(), taps = shape.taps();
  if (!weight.backward) {
    return copy_row<T>(weight.data + ((i * shape.g.groups + group) * rows + r) * depth, to, depth);
  }
  // rows and columns of the stored weight are channels of this product's input and output
  for (int64_t m = 0; m < shape.group_in(); ++m) {
    const int64_t at = (i * shape.in_channels + group * shape.group_in() + m) * rows + r;
    for (int64_t t = 0; t < taps; ++t) {
      to[m * taps + t] = static_cast<T>(weight.data[at * taps + taps - 1 - t]);
    }
  }
}

// Packs group `group` of the weight and its transforms; `shape` is that of the product.
template <typename S, typename T>
PackedA<T> pack_weight(const ConvShape& shape, const ConvWeight<S>& weight, int64_t group,
                       bool eight, Scratch& scratch, int64_t threads) {
  const int64_t rows = shape.group_out(), depth = shape.depth(), block = rows * depth;
  const bool direct = std::is_same_v<S, T> && !weight.backward;
  T* memory = scratch.get<T>((direct ? 4 : 8) * block);
  const T* lying = direct ? reinterpret_cast<const T*>(weight.data) + group * block : nullptr;
  PackedA<T> a = place_blocks(lying, shape.out_channels * depth, memory, block, eight);
  a.stride = depth;
  const int64_t step = 8, parts = (rows + step - 1) / step;
  parallel_items(parts, threads, [&](int64_t part) {
    const int64_t first = part * step, last = std::min(rows, first + step);
    for (int i = 0; i < 4 && !direct; ++i) {
      for (int64_t r = first; r < last; ++r) {
        pack_weight_row(shape, weight, group, i, r, a.packed[i] + r * depth);
      }
    }
    if (eight) transform_packed(a, first * depth, (last - first) * depth, weight.backward);
  });
  return a;
}

// Best layout of the image for these sizes: the one that wastes fewest lanes.
template <typename T>
ImageLayout layout_of(const ConvShape& shape) {
  constexpr int64_t n = kLanes<T>;
  const int64_t width = (shape.out[2] + n - 1) / n * n, lane = (shape.batch + n - 1) / n * n;
  if (5 * shape.out[2] >= 4 * width) return ImageLayout::rows;
  if (5 * shape.batch >= 4 * lane) return ImageLayout::batch;
  return ImageLayout::gather;
}

template <typename T>
int64_t images_at_once(const ConvShape& shape, ImageLayout layout) {
  const int64_t bytes = steps_of<T>(shape, layout, 1).total * static_cast<int64_t>(sizeof(T));
  const int64_t one = layout == ImageLayout::batch ? bytes / kLanes<T> : bytes;
  const int64_t fit = std::max<int64_t>(1, kImageBytes / std::max<int64_t>(one, 1));
  const int64_t whole =
      layout == ImageLayout::batch ? (fit + kLanes<T> - 1) / kLanes<T> * kLanes<T> : fit;
  return std::min(shape.batch, whole);
}

// Results [channel][place][lane], or [channel][lane] where lanes are places, plus the bias to a
// group's channels of y (n, 4 out, pixels), from image `first` on.
template <typename S, typename T>
void unpack_lanes(const ConvShape& shape, const ImageSteps& s, T* results, const S* bias,
                  int64_t group, int64_t first, S* y, int64_t threads) {
  const bool gather = s.layout == ImageLayout::gather;
  const int64_t pixels = shape.pixels(), rows = shape.group_out();
  const int64_t row = gather ? s.lane : pixels * s.lane, image = 4 * shape.out_channels * pixels;
  parallel_items(4 * rows, threads, [&](int64_t item) {
    const int64_t channel = item / rows * shape.out_channels + item % rows;
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
    products_ = products_of(weight.backward, false, eight);
    threads_ = useful_threads(shape.operations() / kLanes<T> / (eight ? 2 : 1));
  }

  void run(const S* x, const S* bias, S* y) const {
    static thread_local Scratch weights, images, results;
    const int64_t at_once = images_at_once<T>(shape_, layout_);
    for (int64_t group = 0; group < shape_.g.groups; ++group) {
      const PackedA<T> a = pack_weight<S, T>(shape_, weight_, group, eight_, weights, threads_);
      const S* offset = bias == nullptr ? nullptr : bias + group * shape_.group_out();
      for (int64_t first = 0; first < shape_.batch; first += at_once) {
        const ImageSteps s = steps_of<T>(shape_, layout_, std::min(at_once, shape_.batch - first));
        PaddedImage<T> image{images.get<T>(s.total), s.block, {}, depth_offsets(shape_, s)};
        prepare_image<S, T>(shape_, s, x, {first, group}, eight_, false, image.data, threads_);
        if (layout_ == ImageLayout::rows) {
          by_rows(a, image, s, offset, y + place_of(first, group));
        } else {
          by_lanes(a, image, s, offset, group, first, y, results);
        }
      }
    }
  }

 private:
  int64_t place_of(int64_t image, int64_t group) const {
    return (image * 4 * shape_.out_channels + group * shape_.group_out()) * shape_.pixels();
  }

  template <typename O>
  void multiply(const PackedA<T>& a, const PaddedImage<T>& image, const Sink<O>& sink,
                const O* bias) const {
    conv_multiply(ConvTask<T, O>{a, image, sink, products_, bias, shape_.out_channels,
                                 shape_.group_out(), shape_.depth(), eight_},
                  threads_);
  }

  void by_rows(const PackedA<T>& a, PaddedImage<T>& image, const ImageSteps& s, const S* bias,
               S* y) const {
    Sink<S> sink{y, shape_.out_channels * shape_.pixels(), shape_.pixels(), {}, {}};
    const int64_t width = shape_.out[2];
    for (int64_t i = 0; i < s.images; ++i) {
      each_place({shape_.out[0], shape_.out[1], (width + kLanes<T> - 1) / kLanes<T>},
                 [&](int64_t, int64_t z, int64_t row, int64_t v) {
                   const int64_t x = v * kLanes<T>;
                   image.starts.push_back(i * s.image + place_start(shape_, s, z, row, x));
                   sink.starts.push_back(i * 4 * shape_.out_channels * shape_.pixels() +
                                         (z * shape_.out[1] + row) * width + x);
                   sink.counts.push_back(static_cast<int>(std::min<int64_t>(kLanes<T>, width - x)));
                 });
    }
    multiply(a, image, sink, bias);
  }

  // Results go to lanes first, [channel][place][lane] or [channel][lane], then to their places.
  void by_lanes(const PackedA<T>& a, PaddedImage<T>& image, const ImageSteps& s, const S* bias,
                int64_t group, int64_t first, S* y, Scratch& results) const {
    const bool gather = layout_ == ImageLayout::gather;
    const int64_t row = gather ? s.lane : shape_.pixels() * s.lane, rows = shape_.group_out();
    Sink<T> sink{results.get<T>(4 * rows * row), rows * row, row, {}, {}};
    for (int64_t v = 0; v < row; v += kLanes<T>) sink.starts.push_back(v);
    sink.counts.assign(sink.starts.size(), kLanes<T>);
    if (gather) {
      image.starts = sink.starts;
    } else {
      each_place(shape_.out, [&](int64_t, int64_t z, int64_t at, int64_t x) {
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
  ImageLayout layout_;
  std::array<Product, 16> products_;
  int64_t threads_;
};

}  // namespace sparseq::quaternion
