// Gradient of a quaternion convolution's weight: for each tap, a product of quaternion matrices
//
//     dW[:, :, tap] = sum over output places of dy (x) x*
//
// Entries of x come one by one from a prepared image (conv_image.h), rows are its channels; dy is
// packed with its channels in the lanes. Sums are kept as [component][channel, tap][lane].
#pragma once

#include "conv.h"

namespace sparseq::quaternion {

template <typename T>
struct GradientTask {
  const PaddedImage<T>& image;  // starts: of each place
  const T* tiles;               // [tile][8 blocks][place][lane]
  T* sums;
  const std::array<Product, 16>& products;
  std::vector<int64_t> taps;    // steps of the image
  std::vector<int32_t> places;  // of the image
  int64_t channel, channels;    // of the image
  int64_t lanes;                // a row of `sums`, a multiple of a tile
  bool eight;
};

// MR channels of x at a[offsets[k]] times a tile row b, added to the components' rows of c.
template <typename T, int MR, int NV>
SPARSEQ_INLINE void gradient_kernel(const T* a, int64_t a_row, const int32_t* offsets, const T* b,
                                    int64_t depth, const float (&to)[4], const Components<T>& c) {
  Vec<T> sums[MR][NV] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> row[NV];
    load_row<T>(b + k * NV * kLanes<T>, row);
    add_outer<T>(a + offsets[k], a_row, row, sums);
  }
  add_to_components<T, MR, NV>(sums, to, c);
}

// Channels first .. last - 1 of one tap, one tile of lanes.
template <typename T, int NV>
void gradient_block(const GradientTask<T>& task, int64_t tile, int64_t tap, int64_t first,
                    int64_t last) {
  constexpr int width = NV * kLanes<T>;
  const int64_t taps = static_cast<int64_t>(task.taps.size());
  const int64_t places = static_cast<int64_t>(task.places.size());
  const int64_t row = taps * task.lanes, component = task.channels * row;
  const T* tiles = task.tiles + tile * 8 * places * width;
  T* sums = task.sums + tap * task.lanes + tile * width;
  for (int64_t k = 0; k < places; k += kDepthBlock) {
    const int64_t depth = std::min<int64_t>(kDepthBlock, places - k);
    for (int p = 0; p < product_count(task.eight); ++p) {
      const Product& product = task.products[p];
      const T* a = task.image.data + product.b * task.image.block + task.taps[tap];
      const T* b = tiles + (product.a * places + k) * width;
      const int32_t* at = task.places.data() + k;
      over_row_blocks<kTileHeight<NV>>(first, last, [&](int64_t r, auto height) {
        gradient_kernel<T, height(), NV>(a + r * task.channel, task.channel, at, b, depth,
                                         product.to, {sums + r * row, row, component});
      });
    }
  }
}

// dW (4, out, depth) from dy (n, 4 out, pixels) and x (n, 4 in, area).
template <typename S, typename T>
class WeightGradient {
 public:
  WeightGradient(const ConvShape& shape, bool eight) : shape_(shape), eight_(eight) {
    products_ = products_of(false, true, eight);
    threads_ = useful_threads(shape.operations() / kLanes<T> / (eight ? 2 : 1));
    vectors_ = tile_vectors<T>(shape.group_out());
    width_ = vectors_ * kLanes<T>;
    tiles_ = (shape.group_out() + width_ - 1) / width_;
  }

  void run(const S* dy, const S* x, S* dw) const {
    static thread_local Scratch images, tiles, sums;
    const int64_t depth = shape_.depth(), lanes = tiles_ * width_;
    const int64_t at_once = images_at_once<T>(shape_, ImageLayout::rows);
    for (int64_t group = 0; group < shape_.g.groups; ++group) {
      T* total = sums.get<T>(4 * depth * lanes);
      std::fill(total, total + 4 * depth * lanes, T(0));
      for (int64_t first = 0; first < shape_.batch; first += at_once) {
        const ImageSteps s =
            steps_of<T>(shape_, ImageLayout::rows, std::min(at_once, shape_.batch - first));
        PaddedImage<T> image{images.get<T>(s.total), s.block, {}, {}};
        prepare_image<S, T>(shape_, s, x, {first, group}, eight_, true, image.data, threads_);
        T* packed = tiles.get<T>(8 * s.images * shape_.pixels() * lanes);
        pack_tiles(s.images, dy, first, group, packed);
        add_part(s, image, packed, total);
      }
      S* to = dw + group * shape_.group_out() * depth;
      for (int c = 0; c < 4; ++c) {
        copy2d(total + c * depth * lanes, 1, lanes, to + c * shape_.out_channels * depth, depth,
               shape_.group_out(), depth);
      }
    }
  }

 private:
  void pack_tiles(int64_t images, const S* dy, int64_t first, int64_t group, T* to) const {
    const int64_t pixels = shape_.pixels(), block = images * pixels * width_;
    parallel_items(tiles_ * images, threads_, [&](int64_t item) {
      const int64_t tile = item / images, i = item % images, lane = tile * width_;
      const int64_t count = std::min(width_, shape_.group_out() - lane);
      const S* from =
          dy + ((first + i) * 4 * shape_.out_channels + group * shape_.group_out() + lane) * pixels;
      T* blocks = to + tile * 8 * block + i * pixels * width_;
      for (int c = 0; c < 4; ++c) {
        T* part = blocks + c * block;
        if (count < width_) std::memset(part, 0, pixels * width_ * sizeof(T));
        copy2d(from + c * shape_.out_channels * pixels, 1, pixels, part, width_, pixels, count);
      }
      if (eight_) transform_blocks(blocks, block, pixels * width_, false, T(0.25));
    });
  }

  void add_part(const ImageSteps& s, const PaddedImage<T>& image, const T* packed, T* total) const {
    GradientTask<T> task{image,
                         packed,
                         total,
                         products_,
                         tap_steps(shape_, s),
                         {},
                         s.channel,
                         shape_.group_in(),
                         tiles_ * width_,
                         eight_};
    task.places.reserve(s.images * shape_.pixels());
    for (int64_t i = 0; i < s.images; ++i) {
      each_place(shape_.out, [&](int64_t, int64_t z, int64_t y, int64_t x) {
        task.places.push_back(static_cast<int32_t>(i * s.image + place_start(shape_, s, z, y, x)));
      });
    }
    const int64_t taps = shape_.taps(), channels = shape_.group_in();
    const int64_t block = row_block(channels, tiles_ * taps, threads_);
    const int64_t blocks = (channels + block - 1) / block;
    parallel_items(tiles_ * taps * blocks, threads_, [&](int64_t item) {
      const int64_t tile = item / (taps * blocks), tap = item / blocks % taps;
      const int64_t first = item % blocks * block, last = std::min(channels, first + block);
      if (vectors_ == 1) return gradient_block<T, 1>(task, tile, tap, first, last);
      if (vectors_ == 2) return gradient_block<T, 2>(task, tile, tap, first, last);
      gradient_block<T, 4>(task, tile, tap, first, last);
    });
  }

  const ConvShape& shape_;
  bool eight_;
  int vectors_;
  int64_t width_, tiles_, threads_;
  std::array<Product, 16> products_;
};

}  // namespace sparseq::quaternion
