// A chain of convolutions with neighboring pixels in the lanes, for a few images.
//
// A map lies in memory as [channel][position]: the rows of all images one after another, with zeros
// behind each row and each image that serve the taps of both neighbors. A tap is then one shift,
// and the sums of a channel run through all positions at once; those that are no pixels are set to
// zero.
#pragma once

#include "../sparse_conv/epilogue.h"
#include "../sparse_conv/indirection.h"
#include "../sparse_conv/pack.h"
#include "link.h"

namespace sparseq::sparse_conv_chain {

using namespace simd;
using conv::Geometry;
using sparse_conv::Indirection;
using sparse_conv::IndirectionMemory;
using sparse_conv::kGroup;
using sparse_conv::Source;
using tensors::parallel_items;
using tensors::Scratch;

// Positions of one channel.
struct Lines {
  int64_t images, height, width, above, left;  // above, left: zero rows and columns of a map
  int64_t vector;

  int64_t pitch() const { return width + left; }
  int64_t image() const { return (height + above) * pitch(); }
  int64_t front() const { return above * pitch() + left; }
  int64_t run() const { return (images * image() + vector - 1) / vector * vector; }
  int64_t channel() const { return (2 * front() + run() + vector - 1) / vector * vector; }
  int64_t pixel(int64_t i, int64_t y, int64_t x) const { return i * image() + y * pitch() + x; }

  // Offset of a tap.
  int64_t shift(const Geometry& g, int64_t tap) const {
    const int64_t y = tap / g.kernel[2] * g.dilation[1] - g.padding[1];
    return y * pitch() + tap % g.kernel[2] * g.dilation[2] - g.padding[2];
  }

  // 1 at the pixels, 0 elsewhere.
  template <typename T>
  std::vector<T> mask() const {
    std::vector<T> ones(run(), T(0));
    for (int64_t i = 0; i < images * height; ++i) {
      std::fill_n(ones.begin() + pixel(i / height, i % height, 0), width, T(1));
    }
    return ones;
  }
};

template <typename S, typename T>
class PixelsInLanes {
 public:
  // Whether the taps of every link can be shifts: the maps keep their size but for the pooling.
  static bool fits(const std::vector<Link<S, T>>& links) {
    return std::all_of(links.begin(), links.end(),
                       [](const auto& link) { return link.same_size(); });
  }

  PixelsInLanes(const std::vector<Link<S, T>>& links, int64_t images)
      : links_(links), images_(images) {
    for (const Link<S, T>& link : links) {
      above_ = std::max(above_, link.g.padding[1]);
      left_ = std::max(left_, link.g.padding[2]);
    }
    for (const Link<S, T>& link : links) {
      const Lines lines = lines_of(link.in);
      size_ =
          std::max({size_, link.channels_in * lines.channel(), link.channels() * lines.channel()});
    }
    size_ = std::max(size_, links.back().channels() * lines_of(links.back().out).channel());
  }

  // All images, from image `at` on; a link's channels in `parts` parts.
  void run(const Source<S>& x, S* y, int64_t at, int64_t parts) const {
    static thread_local Scratch scratch;
    T* from = scratch.get<T>(3 * size_ + 2 * kLanes<T>);  // rows are pooled by whole vectors
    T *to = from + size_, *sums = to + size_;
    pack(x, at, from);
    for (const Link<S, T>& link : links_) {
      step(link, from, sums, to, parts);
      std::swap(link.pool > 1 ? from : sums, link.pool > 1 ? to : from);
    }
    unpack(from, y, at);
  }

 private:
  const std::vector<Link<S, T>>& links_;
  int64_t images_, above_ = 0, left_ = 0, size_ = 0;

  Lines lines_of(const Sizes& map) const {
    return {images_, map[1], map[2], above_, left_, kLanes<T>};
  }

  // One link: its sums to `sums`, and from there, where it pools, to `to`.
  void step(const Link<S, T>& link, const T* from, T* sums, T* to, int64_t parts) const {
    static thread_local IndirectionMemory memory;
    const Lines lines = lines_of(link.in);
    const std::vector<T> mask = lines.mask<T>();
    const Indirection<T> indirection = indirection_of(link, lines, memory);
    parallel_items(parts, parts, [&](int64_t part) {
      const int64_t first = balanced_row(link.csr, part, parts, kGroup);
      const int64_t last = balanced_row(link.csr, part + 1, parts, kGroup);
      convolve(link, indirection, lines, mask.data(), first, last, from, sums);
      if (link.pool > 1) pool(link, first, last, sums, to);
    });
  }

  Indirection<T> indirection_of(const Link<S, T>& link, const Lines& lines,
                                IndirectionMemory& memory) const {
    const int64_t taps = link.g.taps(), columns = link.csr.columns;
    int32_t* table = memory.table.get<int32_t>(columns);
    for (int64_t tap = 0; tap < taps; ++tap) {
      int64_t offset = lines.shift(link.g, tap);
      for (int64_t column = tap; column < columns; column += taps, offset += lines.channel()) {
        table[column] = static_cast<int32_t>(offset);
      }
    }
    const T* values = tensors::values_as<T>(link.values, nullptr, link.csr.nnz(), 1, true);
    const int64_t step = link.g.groups == 1 ? 0 : columns / taps * lines.channel();
    return {link.csr.row_ptr, link.csr.col_idx, values, table, link.bias, link.group_rows(), step};
  }

  void convolve(const Link<S, T>& link, const Indirection<T>& indirection, const Lines& lines,
                const T* mask, int64_t first, int64_t last, const T* from, T* to) const {
    constexpr int n = kLanes<T>;
    const int64_t vectors = lines.run() / n, step = sparse_conv::tile_step(vectors),
                  front = lines.front();
    for (int64_t v = 0; v < vectors; v += step) {
      const int64_t some = std::min(step, vectors - v), at = front + v * n;
      const sparse_conv::SumTile<T> kernel = sparse_conv::sum_tile_of<T, true>(1, some);
      for (int64_t o = first; o < last; o += kGroup) {
        const int64_t end = std::min(last, o + kGroup);
        T* out = to + o * lines.channel() + at;
        kernel(indirection, o, end, from + at, 0, out, lines.channel(), 0);
        finish(link.relu, mask + v * n, some, end - o, lines.channel(), out);
      }
    }
    for (int64_t o = first; o < last; ++o) {
      T* sums = to + o * lines.channel();
      std::fill(sums, sums + front, T(0));
      std::fill(sums + front + lines.run(), sums + lines.channel(), T(0));
    }
  }

  // ReLU of the pixels among some positions, zero for the others.
  static void finish(bool relu, const T* mask, int64_t vectors, int64_t channels, int64_t channel,
                     T* sums) {
    constexpr int n = kLanes<T>;
    for (int64_t c = 0; c < channels; ++c, sums += channel) {
      for (int64_t v = 0; v < vectors; ++v) {
        const Vec<T> sum = relu ? simd::relu(load(sums + v * n)) : load(sums + v * n);
        store(sums + v * n, load(mask + v * n) > Vec<T>{} ? sum : Vec<T>{});
      }
    }
  }

  void pool(const Link<S, T>& link, int64_t first, int64_t last, const T* from, T* to) const {
    const Lines big = lines_of(link.conv), small = lines_of(link.out);
    for (int64_t o = first; o < last; ++o) {
      const T* sums = from + o * big.channel() + big.front();
      T* out = to + o * small.channel();
      std::fill(out, out + small.channel(), T(0));
      for (int64_t i = 0; i < images_ * link.out[1]; ++i) {
        const int64_t image = i / link.out[1], y = i % link.out[1];
        pool_row(link.pool, sums + big.pixel(image, y * link.pool, 0), big.pitch(), link.out[2],
                 out + small.front() + small.pixel(image, y, 0));
      }
    }
  }

  static void pool_row(int64_t pool, const T* from, int64_t pitch, int64_t count, T* to) {
    constexpr int n = kLanes<T>;
    if (pool == 2) {
      for (int64_t x = 0; x < count; x += n) {
        const T* at = from + 2 * x;
        const Vec<T> left = maximum(load(at), load(at + pitch));
        const Vec<T> right = maximum(load(at + n), load(at + pitch + n));
        alignas(64) T most[n];
        store(most, maximum(every_second<T, 0>(left, right), every_second<T, 1>(left, right)));
        std::copy_n(most, std::min<int64_t>(n, count - x), to + x);
      }
      return;
    }
    for (int64_t x = 0; x < count; ++x) {
      T most = from[x * pool];
      for (int64_t i = 0; i < pool * pool; ++i) {
        most = maximum(most, from[i / pool * pitch + x * pool + i % pool]);
      }
      to[x] = most;
    }
  }

  void pack(const Source<S>& x, int64_t at, T* to) const {
    const Link<S, T>& link = links_.front();
    const Lines lines = lines_of(link.in);
    std::fill(to, to + link.channels_in * lines.channel(), T(0));
    for (int64_t i = 0; i < images_ * link.channels_in; ++i) {
      const int64_t image = i / link.channels_in, c = i % link.channels_in;
      const S* map = x.data + (at + image) * x.image + c * x.pixels();
      T* pixels = to + c * lines.channel() + lines.front();
      for (int64_t y = 0; y < lines.height; ++y) {
        copy_row<T>(map + y * lines.width, pixels + lines.pixel(image, y, 0), lines.width);
      }
    }
  }

  void unpack(const T* from, S* y, int64_t at) const {
    const Link<S, T>& link = links_.back();
    const Lines lines = lines_of(link.out);
    S* to = y + at * link.channels() * lines.height * lines.width;
    for (int64_t i = 0; i < images_ * link.channels(); ++i) {
      const int64_t image = i / link.channels(), c = i % link.channels();
      const T* pixels = from + c * lines.channel() + lines.front();
      for (int64_t row = 0; row < lines.height; ++row, to += lines.width) {
        copy_row<T>(pixels + lines.pixel(image, row, 0), to, lines.width);
      }
    }
  }
};

}  // namespace sparseq::sparse_conv_chain
