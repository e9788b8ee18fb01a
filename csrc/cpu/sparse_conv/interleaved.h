// Planes of a whole number of rows for taps that are neighbors: pixels side by side, or the same
// pixel of a few images interleaved where a row is shorter than a vector.
//
// A channel is filled from its begin to its end in whole vectors: what one writes too much is
// written again by the next.
#pragma once

#include "pack.h"

namespace sparseq::sparse_conv {

// A row or a piece of one: it stands at `at`, and what is between `gap` and it is zero.
struct Piece {
  int32_t gap, at;
};

// `axes` have one plane and a step of 1.
inline Piece piece_at(const Axes& axes, const PlaneLayout& layout, const Strip& strip, int64_t h,
                      int64_t w, int64_t end) {
  const int64_t place =
      layout.place(0, 0, h - strip.first[1] - axes[1].bases[0], w - axes[2].bases[0]);
  return {static_cast<int32_t>(end), static_cast<int32_t>(place)};
}

template <typename T>
SPARSEQ_INLINE void fill_gap(T* to, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLanes<T>) store(to + i, Vec<T>{});
}

// One image: rows low .. of the input, `width` pixels each, and where they go.
struct LinePlan {
  int64_t low, width;
  std::vector<Piece> rows;
};

inline LinePlan plan_lines(const Axes& axes, const PlaneLayout& layout, const Strip& strip) {
  const int64_t first = strip.first[1] + axes[1].bases[0];
  const int64_t low = std::clamp<int64_t>(first, 0, axes[1].in);
  const int64_t high = std::clamp<int64_t>(first + layout.extent[1], low, axes[1].in);
  LinePlan plan{low, axes[2].in, {}};
  int64_t end = 0;
  for (int64_t h = low; h < high; ++h) {
    plan.rows.push_back(piece_at(axes, layout, strip, h, 0, end));
    end = plan.rows.back().at + axes[2].in;
  }
  plan.rows.push_back({static_cast<int32_t>(end), static_cast<int32_t>(layout.channel)});
  return plan;
}

// Writes up to a vector behind the last channel.
template <typename S, typename T>
void pack_lines(const Source<S>& x, const LinePlan& plan, const PlaneLayout& layout, int64_t image,
                T* to) {
  constexpr int n = kLanes<T>;
  const int64_t rows = static_cast<int64_t>(plan.rows.size()) - 1;
  for (int64_t c = 0; c < layout.channels; ++c, to += layout.channel) {
    const S* from = x.data + image * x.image + c * x.pixels() + plan.low * plan.width;
    for (int64_t h = 0; h < rows; ++h, from += plan.width) {
      const Piece& row = plan.rows[h];
      fill_gap(to, row.gap, row.at);
      for (int64_t q = 0; q < plan.width; q += n) {
        store(to + row.at + q, load_some<T>(from + q, x.end(), plan.width - q));
      }
    }
    fill_gap(to, plan.rows[rows].gap, plan.rows[rows].at);
  }
}

// How many images are interleaved in maps of these sizes, or 0: n / images pixels of a row make a
// vector. From the fewest that fill one, doubled as often as `more` says.
template <typename T, typename More>
int64_t interleaved_images(const Sizes& in, const Sizes& out, int64_t batch, const More& more) {
  constexpr int64_t n = kLanes<T>;
  const auto fit = [&](int64_t images) {
    const int64_t piece = n / images;
    return in[2] % piece == 0 && out[2] % piece == 0 && in[1] * in[2] % n == 0 &&
           out[1] * out[2] % n == 0 && images <= batch;
  };
  for (int64_t images = 2; images < n; images *= 2) {
    if (images * out[2] < n || !fit(images)) continue;
    while (2 * images < n && fit(2 * images) && more(2 * images)) images *= 2;
    return images;
  }
  return 0;
}

// Pieces of a vector's share of pixels each; a strip is the whole map.
template <typename T>
std::vector<Piece> plan_interleaved(const Axes& axes, const PlaneLayout& layout) {
  const Strip whole{{0, 0, 0}, {}};
  const int64_t share = kLanes<T> / layout.lanes;
  std::vector<Piece> pieces;
  int64_t end = 0;
  for (int64_t h = 0; h < axes[1].in; ++h) {
    for (int64_t w = 0; w < axes[2].in; w += share) {
      pieces.push_back(piece_at(axes, layout, whole, h, w, end));
      end = pieces.back().at + kLanes<T>;
    }
  }
  pieces.push_back({static_cast<int32_t>(end), static_cast<int32_t>(layout.channel)});
  return pieces;
}

// `images` images from image `at`. Writes up to a vector behind the last channel.
template <int Images, typename S, typename T>
void pack_interleaved(const Source<S>& x, const std::vector<Piece>& pieces,
                      const PlaneLayout& layout, int64_t at, int64_t images, T* to) {
  constexpr int n = kLanes<T>;
  const int64_t map = x.pixels();
  for (int64_t c = 0; c < layout.channels; ++c, to += layout.channel) {
    const S* from = x.data + at * x.image + c * map;
    const Piece* piece = pieces.data();
    for (int64_t f = 0; f < map; f += n) {
      Vec<T> rows[Images];
      for (int i = 0; i < Images; ++i) {
        rows[i] = i < images ? load_as<T>(from + i * x.image + f) : Vec<T>{};
      }
      interleave<T, Images>(rows);
      for (int i = 0; i < Images; ++i, ++piece) {
        fill_gap(to, piece->gap, piece->at);
        store(to + piece->at, rows[i]);
      }
    }
    fill_gap(to, piece->gap, piece->at);
  }
}

// The inverse for a map without gaps: `count` numbers of each of `images` images.
template <int Images, typename S, typename T>
void unpack_interleaved(const T* from, int64_t count, int64_t images, S* to, int64_t image) {
  constexpr int n = kLanes<T>;
  for (int64_t f = 0; f < count; f += n, from += Images * n) {
    Vec<T> rows[Images];
    for (int i = 0; i < Images; ++i) rows[i] = load(from + i * n);
    separate<T, Images>(rows);
    for (int i = 0; i < Images; ++i) {
      if (i < images) store_as<S, T>(to + i * image + f, rows[i]);
    }
  }
}

// Calls body(constant) with the number of interleaved images as a constant.
template <typename T, typename Body>
void with_image_count(int64_t images, const Body& body) {
  if constexpr (kLanes<T> > 8) {
    if (images == 8) return body(std::integral_constant<int, 8>{});
  }
  if constexpr (kLanes<T> > 4) {
    if (images == 4) return body(std::integral_constant<int, 4>{});
  }
  body(std::integral_constant<int, 2>{});
}

// `images` images from image `at`, laid out as rows side by side, interleaved, or one in each lane.
template <typename S, typename T>
void pack_neighbors(const Source<S>& x, const Axes& axes, const PlaneLayout& layout,
                    const Strip& strip, int64_t at, int64_t images, T* to) {
  if (layout.lanes >= kLanes<T>) return pack_strip(x, axes, layout, strip, at, images, to);
  if (layout.lanes == 1) return pack_lines(x, plan_lines(axes, layout, strip), layout, at, to);
  with_image_count<T>(layout.lanes, [&](auto count) {
    pack_interleaved<count()>(x, plan_interleaved<T>(axes, layout), layout, at, images, to);
  });
}

}  // namespace sparseq::sparse_conv
