// 3x3 convolutions of stride 1 by Winograd's F(2x2, 3x3) (Lavin & Gray 2016) over the eight block
// products: both are bilinear, and the H transforms are linear in each component, so they commute.
// A tile of 2x2 outputs takes 16 products of 8 blocks instead of 36 of 16: 4.5x fewer.
//
//     V = B^T d B   (4x4 inputs d)      U = G g G^T   (3x3 weight g)      Y = A^T (U (x) V) A
//
// Images lie in the lanes (layout `batch` of conv_image.h); one task is one vector of tiles. The
// weight is packed as the kernel reads it, its blocks 0-3 times the factors of their products:
//
//     sums_r = S_r V_r,  r = 0..3;   sums <- (-G_0, G_1, G_2, G_3),  G = H sums
//     sums += (2 W_0 V_0, -2 W_3 V_2, -2 W_1 V_3, -2 W_2 V_1)
#pragma once

#include "conv.h"

namespace sparseq::quaternion {

constexpr int kPlaces = 16;  // of the 4x4 transformed tile
// Rows of the kernel: four sums each, and a vector of the image, in registers.
constexpr int kPanel = kVectorRegisters >= 32 ? 6 : 3;

// Rows r .. of a panel that starts there.
inline int panel_rows(int64_t left) { return left >= kPanel ? kPanel : (left >= 2 ? 2 : 1); }

inline bool is_3x3(const ConvShape& shape) {
  const auto plain = [&](int axis) {
    return shape.g.kernel[axis] == 3 && shape.g.stride[axis] == 1 && shape.g.dilation[axis] == 1;
  };
  return plain(1) && plain(2) && shape.g.kernel[0] == 1 && shape.in[0] == 1 &&
         shape.g.padding[0] == 0 && shape.g.stride[0] == 1;
}

// Four inputs at `step` to four of the transformed tile, in place of them.
template <typename V>
SPARSEQ_INLINE void input_line(V* d, int step) {
  const V d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step];
  d[0] = d0 - d2;
  d[step] = d1 + d2;
  d[2 * step] = d2 - d1;
  d[3 * step] = d1 - d3;
}

template <typename V>
SPARSEQ_INLINE void input_tile(V (&d)[kPlaces]) {
  for (int i = 0; i < 4; ++i) input_line(d + i, 4);
  for (int i = 0; i < 4; ++i) input_line(d + 4 * i, 1);
}

// Three of the weight to four of the transformed tile.
template <typename V>
SPARSEQ_INLINE void weight_line(const V* g, int from_step, V* u, int to_step) {
  const V outer = g[0] + g[2 * from_step], inner = g[from_step];
  u[0] = g[0];
  u[to_step] = (outer + inner) / 2;
  u[2 * to_step] = (outer - inner) / 2;
  u[3 * to_step] = g[2 * from_step];
}

template <typename V>
SPARSEQ_INLINE void weight_tile(const V (&g)[9], V (&u)[kPlaces]) {
  V half[12];  // 4 rows of 3
  for (int x = 0; x < 3; ++x) weight_line(g + x, 3, half + x, 3);
  for (int y = 0; y < 4; ++y) weight_line(half + 3 * y, 1, u + 4 * y, 1);
}

// The 4x4 products to 2x2 outputs, y[0], y[1] above y[2], y[3].
template <typename V>
SPARSEQ_INLINE void output_tile(const V (&m)[kPlaces], V (&y)[4]) {
  V half[8];  // 2 rows of 4
  for (int x = 0; x < 4; ++x) {
    half[x] = m[x] + m[4 + x] + m[8 + x];
    half[4 + x] = m[4 + x] - m[8 + x] - m[12 + x];
  }
  for (int i = 0; i < 2; ++i) {
    const V* h = half + 4 * i;
    y[2 * i] = h[0] + h[1] + h[2];
    y[2 * i + 1] = h[1] - h[2] - h[3];
  }
}

// MR rows of all four components over one vector of tiles.
//   a: [depth][S_0 .. S_3][MR], then [depth][factor * W_kPairA[c], c = 0..3][MR]
//   v: [depth][V_4 .. V_7 (the transforms)][lane], then [depth][V_kPairB[c]][lane]
template <typename T, int MR>
SPARSEQ_INLINE void winograd_kernel(const T* a, const T* v, int64_t depth, T* out, int64_t row,
                                    int64_t component) {
  constexpr int n = kLanes<T>;
  Vec<T> sums[4][MR] = {};
  const auto add = [&] {
    for (int64_t k = 0; k < depth; ++k, a += 4 * MR, v += 4 * n) {
      for (int c = 0; c < 4; ++c) {
        const Vec<T> column = load(v + c * n);
        for (int r = 0; r < MR; ++r) {
          sums[c][r] = fmadd(broadcast(a[c * MR + r]), column, sums[c][r]);
        }
      }
    }
  };
  add();
  for (int r = 0; r < MR; ++r) {
    Vec<T> g[4] = {sums[0][r], sums[1][r], sums[2][r], sums[3][r]};
    transform_four(g);
    for (int c = 0; c < 4; ++c) sums[c][r] = c == 0 ? -g[c] : g[c];
  }
  add();
  for (int c = 0; c < 4; ++c) {
    for (int r = 0; r < MR; ++r) store(out + c * component + r * row, sums[c][r]);
  }
}

// One place's panels of a transformed weight: `place` entries, 8 depth for each row.
template <typename T>
struct WinogradWeight {
  T* data;
  int64_t place;
};

// One row's transformed taps u[place][channel] of four components, to its place in the panels.
template <typename T>
void pack_row(const T* const (&u)[4], int64_t lanes, int64_t depth, bool conjugate, int64_t row,
              int64_t rows, WinogradWeight<T> to) {
  int64_t first = row / kPanel * kPanel;
  int height = panel_rows(rows - first);
  while (row >= first + height) {
    first += height;
    height = panel_rows(rows - first);
  }
  for (int p = 0; p < kPlaces; ++p) {
    T* panel = to.data + p * to.place + first * 8 * depth + (row - first);
    for (int64_t c = 0; c < depth; ++c, panel += 4 * height) {
      T w[4], s[4];
      for (int i = 0; i < 4; ++i) {
        w[i] = u[i][p * lanes + c] * static_cast<T>(conjugate_sign(i, conjugate));
        s[i] = w[i];
      }
      transform_four(s);
      T* second = panel + 4 * height * depth;
      for (int i = 0; i < 4; ++i) {
        panel[i * height] = s[i] / 4;
        second[i * height] = w[kPairA[i]] * static_cast<T>(kPairFactor[i]);
      }
    }
  }
}

template <typename S, typename T>
WinogradWeight<T> winograd_weight(const ConvShape& shape, const ConvWeight<S>& weight,
                                  int64_t group, Scratch& scratch, int64_t threads) {
  constexpr int n = kLanes<T>;
  const int64_t rows = shape.group_out(), depth = shape.group_in();
  const int64_t lanes = (depth + n - 1) / n * n, place = rows * 8 * depth;
  const WinogradWeight<T> packed{scratch.get<T>(kPlaces * place), place};
  parallel_items(rows, threads, [&](int64_t r) {
    static thread_local Scratch room;
    T* taps = room.get<T>((9 + 4 * kPlaces) * lanes);
    const T* parts[4];
    std::fill(taps, taps + 9 * lanes, T(0));
    for (int i = 0; i < 4; ++i) {
      T* u = taps + (9 + i * kPlaces) * lanes;
      parts[i] = u;
      for (int64_t c = 0; c < depth; ++c) {
        const int64_t at = weight.backward
                               ? (i * shape.in_channels + group * depth + c) * rows + r
                               : (i * shape.out_channels + group * rows + r) * depth + c;
        const S* g = weight.data + at * 9;
        for (int t = 0; t < 9; ++t) {
          taps[t * lanes + c] = static_cast<T>(g[weight.backward ? 8 - t : t]);
        }
      }
      for (int64_t c = 0; c < lanes; c += n) {
        Vec<T> g[9], out[kPlaces];
        for (int t = 0; t < 9; ++t) g[t] = load(taps + t * lanes + c);
        weight_tile(g, out);
        for (int p = 0; p < kPlaces; ++p) store(u + p * lanes + c, out[p]);
      }
    }
    pack_row(parts, lanes, depth, weight.backward, r, rows, packed);
  });
  return packed;
}

template <typename S, typename T>
class Winograd {
 public:
  Winograd(const ConvShape& shape, const ConvWeight<S>& weight) : shape_(shape), weight_(weight) {
    across_ = (shape.out[2] + 1) / 2;
    down_ = (shape.out[1] + 1) / 2;
    shape_.extra = {0, shape.out[1] % 2, shape.out[2] % 2};
    threads_ = useful_threads(shape.operations() / kLanes<T> / 4);
  }

  // Enough images to fill the lanes, channels to pay for the transforms, and a few tasks.
  static bool serves(const ConvShape& shape) {
    constexpr int64_t n = kLanes<T>;
    const int64_t lane = (shape.batch + n - 1) / n * n;
    const int64_t vectors = (shape.pixels() + 3) / 4 * (lane / n);
    return is_3x3(shape) && 5 * shape.batch >= 4 * lane && shape.group_in() >= 8 &&
           shape.group_out() >= 8 && vectors >= 8;
  }

  void run(const S* x, const S* bias, S* y) const {
    static thread_local Scratch weights, images, results;
    const int64_t at_once = images_at_once<T>(shape_, ImageLayout::batch),
                  rows = shape_.group_out();
    for (int64_t group = 0; group < shape_.g.groups; ++group) {
      const auto u = winograd_weight<S, T>(shape_, weight_, group, weights, threads_);
      const S* offset = bias == nullptr ? nullptr : bias + group * rows;
      for (int64_t first = 0; first < shape_.batch; first += at_once) {
        const ImageSteps s =
            steps_of<T>(shape_, ImageLayout::batch, std::min(at_once, shape_.batch - first));
        T* image = images.get<T>(s.total);
        prepare_image<S, T>(shape_, s, x, {first, group}, false, false, image, threads_);
        T* out = results.get<T>(4 * rows * shape_.pixels() * s.lane);
        const int64_t vectors = down_ * across_ * (s.lane / kLanes<T>);
        parallel_items(vectors, threads_,
                       [&](int64_t item) { task(u, s, image, place_of(s, item), out); });
        unpack_lanes(shape_, s, out, offset, group, first, y, threads_);
      }
    }
  }

 private:
  // Where a vector of tiles reads and writes.
  struct Place {
    int64_t y, x, lane;
  };

  Place place_of(const ImageSteps& s, int64_t vector) const {
    const int64_t parts = s.lane / kLanes<T>, tile = vector / parts;
    return {tile / across_ * 2, tile % across_ * 2, vector % parts * kLanes<T>};
  }

  void task(const WinogradWeight<T>& u, const ImageSteps& s, const T* image, const Place& at,
            T* out) const {
    constexpr int n = kLanes<T>;
    static thread_local Scratch room;
    // a line more than a power of two apart, or the places would share a few sets of the cache
    const int64_t depth = shape_.group_in(), rows = shape_.group_out();
    const int64_t in_place = 8 * depth * n + n, out_place = 4 * rows * n + n;
    T* v = room.get<T>(kPlaces * (in_place + out_place));
    T* m = v + kPlaces * in_place;
    const T* from = image + at.y * s.row + at.x * s.lane + at.lane;
    for (int64_t c = 0; c < depth; ++c) {
      transform_input(from + c * s.channel, s, in_place, v + 4 * c * n);
    }
    for (int p = 0; p < kPlaces; ++p) {
      const T* b = v + p * in_place;
      for (int64_t r = 0; r < rows;) {
        const int height = panel_rows(rows - r);
        const T* a = u.data + p * u.place + r * 8 * depth;
        T* to = m + p * out_place + r * n;
        if (height == kPanel) winograd_kernel<T, kPanel>(a, b, depth, to, n, rows * n);
        if (height == 2) winograd_kernel<T, 2>(a, b, depth, to, n, rows * n);
        if (height == 1) winograd_kernel<T, 1>(a, b, depth, to, n, rows * n);
        r += height;
      }
    }
    for (int64_t r = 0; r < 4 * rows; ++r) {
      transform_output(s, m + r * n, out_place, at, out + r * shape_.pixels() * s.lane);
    }
  }

  // One channel of one vector of tiles, to its eight places in each of the sixteen.
  void transform_input(const T* from, const ImageSteps& s, int64_t place, T* to) const {
    constexpr int n = kLanes<T>;
    const int64_t second = 4 * shape_.group_in() * n;
    Vec<T> d[4][kPlaces];
    for (int b = 0; b < 4; ++b, from += s.block) {
      for (int p = 0; p < kPlaces; ++p) {
        const T* at = from + p / 4 * s.row + p % 4 * s.lane;
        __builtin_prefetch(at + s.channel);
        d[b][p] = load(at);
      }
      input_tile(d[b]);
    }
    for (int p = 0; p < kPlaces; ++p, to += place) {
      Vec<T> v[4] = {d[0][p], d[1][p], d[2][p], d[3][p]};
      transform_four(v);
      for (int b = 0; b < 4; ++b) store(to + b * n, v[b]);
      for (int b = 0; b < 4; ++b) store(to + second + b * n, d[kPairB[b]][p]);
    }
  }

  void transform_output(const ImageSteps& s, const T* m, int64_t place, const Place& at,
                        T* out) const {
    Vec<T> tile[kPlaces], y[4];
    for (int p = 0; p < kPlaces; ++p) tile[p] = load(m + p * place);
    output_tile(tile, y);
    for (int j = 0; j < 4; ++j) {
      const int64_t row = at.y + j / 2, column = at.x + j % 2;
      if (row >= shape_.out[1] || column >= shape_.out[2]) continue;
      store(out + (row * shape_.out[2] + column) * s.lane + at.lane, y[j]);
    }
  }

  ConvShape shape_;
  ConvWeight<S> weight_;
  int64_t across_, down_, threads_;
};

}  // namespace sparseq::quaternion
