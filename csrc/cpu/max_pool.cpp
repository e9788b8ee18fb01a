// max_pool: y[.., i, j] = the largest of the 2x2 window at x[.., 2 i, 2 j], and max_pool_dx, its
// gradient: dy at the place of the largest, else zero (sparseq/ops/max_pool.py).
//
// x (..., h, w), y (..., h / 2, w / 2), contiguous, of any floating type; a last odd row or column
// of x is in no window. Of equal numbers the first counts, and a NaN more than any number. Pointers
// and strides count elements.
//
// A vector holds one corner of neighboring windows: of a row of them, or of several rows where
// whole ones fit into a vector. Each window is a thread's alone: same bits on any threads.

#include <torch/csrc/stable/library.h>

#include <vector>

#include "simd/convert.h"
#include "simd/shuffles.h"
#include "tensors/dtypes.h"
#include "tensors/parallel.h"

namespace sparseq::ops {
namespace {

using namespace simd;
using namespace tensors;

constexpr int64_t kItemVectors = 1024;  // of windows that a thread takes at a time

// Corners a, b of the upper rows of some windows, c, d of the lower.
template <typename T>
struct Corners {
  Vec<T> a, b, c, d;
};

template <typename T>
SPARSEQ_INLINE Vec<T> largest(const Corners<T>& x) {
  return maximum(maximum(maximum(x.a, x.b), x.c), x.d);
}

// dy at the corner that is the largest, zeros at the others.
template <typename T>
SPARSEQ_INLINE Corners<T> spread(const Corners<T>& x, Vec<T> dy) {
  const Vec<T> zero{};
  const auto second = exceeds(x.b, x.a);
  Vec<T> most = second ? x.b : x.a;
  const auto third = exceeds(x.c, most);
  most = third ? x.c : most;
  const auto fourth = exceeds(x.d, most);
  const Vec<T> three = fourth ? zero : dy, two = third ? zero : three;
  return {second ? zero : two, second ? two : zero, third ? three : zero, fourth ? dy : zero};
}

// Every second block of G lanes of a, then of b: the even ones, or the odd ones; and the inverse.
template <int N, int G, bool Odd, int... J>
SPARSEQ_INLINE auto blocks_of(const auto& a, const auto& b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, (J / G * 2 * G + J % G + (Odd ? G : 0))...);
}
template <int N, int G, bool Second, int... J>
SPARSEQ_INLINE auto merged(const auto& a, const auto& b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(
      a, b, (J / (2 * G) * G + J % G + (Second ? N / 2 : 0) + (J / G % 2 ? N : 0))...);
}

// Windows of rows that are whole vectors long, G = 0; or n windows of rows of G of them, side by
// side. `upper` and `lower`: the rows of the windows; with G the latter follows in memory.
template <typename T, int G>
struct Windows {
  static constexpr int n = kLanes<T>;
  using Lanes = std::make_integer_sequence<int, n>;

  template <typename S>
  static SPARSEQ_INLINE Corners<T> read(const S* upper, const S* lower) {
    Vec<T> top[2] = {load_as<T>(upper), load_as<T>(upper + n)};
    Vec<T> bottom[2] = {load_as<T>(lower), load_as<T>(lower + n)};
    separate<T, 2>(top);
    separate<T, 2>(bottom);
    if constexpr (G == 0) {
      return {top[0], top[1], bottom[0], bottom[1]};
    } else {
      return {blocks_of<n, G, false>(top[0], bottom[0], Lanes{}),
              blocks_of<n, G, false>(top[1], bottom[1], Lanes{}),
              blocks_of<n, G, true>(top[0], bottom[0], Lanes{}),
              blocks_of<n, G, true>(top[1], bottom[1], Lanes{})};
    }
  }

  template <typename S>
  static SPARSEQ_INLINE void write(const Corners<T>& x, S* upper, S* lower) {
    Vec<T> top[2] = {x.a, x.b}, bottom[2] = {x.c, x.d};
    if constexpr (G > 0) {
      top[0] = merged<n, G, false>(x.a, x.c, Lanes{});
      top[1] = merged<n, G, false>(x.b, x.d, Lanes{});
      bottom[0] = merged<n, G, true>(x.a, x.c, Lanes{});
      bottom[1] = merged<n, G, true>(x.b, x.d, Lanes{});
    }
    interleave<T, 2>(top);
    interleave<T, 2>(bottom);
    for (int i = 0; i < 2; ++i) {
      store_as<S, T>(upper + i * n, top[i]);
      store_as<S, T>(lower + i * n, bottom[i]);
    }
  }
};

// Rows of windows, all maps together, each of `width` windows from rows of `pixels` of x.
struct Maps {
  int64_t count, height, width, pixels_high, pixels;

  int64_t rows() const { return count * height; }
  // Where the upper row of a row of windows begins in x.
  int64_t row(int64_t r) const { return (r / height * pixels_high + r % height * 2) * pixels; }
};

// One window by itself, as the vectors have it.
template <typename T>
struct Single {
  int corner = 0;  // of the largest
  T most;

  template <typename S>
  Single(const S* upper, const S* lower) : most(static_cast<T>(upper[0])) {
    const T others[3] = {static_cast<T>(upper[1]), static_cast<T>(lower[0]),
                         static_cast<T>(lower[1])};
    for (int i = 0; i < 3; ++i) {
      corner = exceeds(others[i], most) ? i + 1 : corner;
      most = maximum(most, others[i]);
    }
  }
};

// Calls whole(i, upper, lower) for each vector of windows from window i on, and single(i, upper,
// lower) for each that is left; `flat` windows of x are side by side in memory.
template <typename T, int G, typename Whole, typename One>
void each_window(const Maps& maps, int64_t begin, int64_t end, const Whole& whole,
                 const One& single) {
  constexpr int64_t n = kLanes<T>;
  for (int64_t r = begin; r < end;) {
    const int64_t upper = maps.row(r), lower = upper + maps.pixels;
    int64_t j = 0;
    if constexpr (G > 0) {
      if (r + n / G <= end) {
        whole(r * maps.width, upper, upper + 2 * n);
        r += n / G;
        continue;
      }
    } else {
      for (; j + n <= maps.width; j += n) whole(r * maps.width + j, upper + 2 * j, lower + 2 * j);
    }
    for (; j < maps.width; ++j) single(r * maps.width + j, upper + 2 * j, lower + 2 * j);
    ++r;
  }
}

template <typename T, int G, typename S>
void pool_rows(const Maps& maps, const S* x, S* y, int64_t begin, int64_t end) {
  each_window<T, G>(
      maps, begin, end,
      [&](int64_t i, int64_t upper, int64_t lower) {
        store_as<S, T>(y + i, largest<T>(Windows<T, G>::read(x + upper, x + lower)));
      },
      [&](int64_t i, int64_t upper, int64_t lower) {
        y[i] = static_cast<S>(Single<T>(x + upper, x + lower).most);
      });
}

template <typename T, int G, typename S>
void spread_rows(const Maps& maps, const S* dy, const S* x, S* dx, int64_t begin, int64_t end) {
  each_window<T, G>(
      maps, begin, end,
      [&](int64_t i, int64_t upper, int64_t lower) {
        const Corners<T> corners = Windows<T, G>::read(x + upper, x + lower);
        Windows<T, G>::write(spread<T>(corners, load_as<T>(dy + i)), dx + upper, dx + lower);
      },
      [&](int64_t i, int64_t upper, int64_t lower) {
        const int largest = Single<T>(x + upper, x + lower).corner;
        S* const corners[4] = {dx + upper, dx + upper + 1, dx + lower, dx + lower + 1};
        for (int c = 0; c < 4; ++c) *corners[c] = c == largest ? dy[i] : static_cast<S>(T(0));
      });
}

// Calls body(constant G) for the maps: see Windows.
template <typename T, typename Body>
void with_row_width(const Maps& maps, const Body& body) {
  constexpr int n = kLanes<T>;
  if (maps.pixels == 2 * maps.width && maps.pixels_high == 2 * maps.height) {
    if constexpr (n >= 16) {
      if (maps.width == 8) return body(std::integral_constant<int, 8>{});
    }
    if constexpr (n >= 8) {
      if (maps.width == 4) return body(std::integral_constant<int, 4>{});
    }
    if constexpr (n >= 4) {
      if (maps.width == 2) return body(std::integral_constant<int, 2>{});
    }
    if (maps.width == 1) return body(std::integral_constant<int, 1>{});
  }
  body(std::integral_constant<int, 0>{});
}

// Calls body(begin, end) on rows of windows, on as many threads as pay.
template <typename T, typename Body>
void over_rows(const Maps& maps, const Body& body) {
  const int64_t vectors = maps.rows() * maps.width / kLanes<T> + 1;
  const int64_t items = std::min((vectors + kItemVectors - 1) / kItemVectors, maps.rows());
  parallel_items(items, useful_threads(8 * vectors), [&](int64_t item) {
    body(part_begin(maps.rows(), item, items), part_begin(maps.rows(), item + 1, items));
  });
}

Maps view_maps(const char* op, const Tensor& x) {
  const int64_t dims = x.dim();
  SPARSEQ_CHECK((dims == 3 || dims == 4) && x.size(-1) >= 2 && x.size(-2) >= 2, op, "x",
                "must be floating point maps (N, C, H, W) of at least 2x2 pixels",
                text(dtype_text(x), " ", shape_text(x)));
  const int64_t high = x.size(-2), wide = x.size(-1);
  return {x.numel() / size_product(op, "x", high, wide), high / 2, wide / 2, high, wide};
}

Tensor max_pool(const Tensor& x) {
  const char* op = "max_pool";
  const Maps maps = view_maps(op, x);
  const Tensor input = as_contiguous(x);
  std::vector<int64_t> sizes = with_last(x, maps.width);
  sizes[sizes.size() - 2] = maps.height;
  Tensor y = new_output(x, sizes);
  if (y.numel() == 0) return y;
  with_types(op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const S* from = data_of<S>(input);
    S* to = mutable_data_of<S>(y);
    with_row_width<T>(maps, [&](auto width) {
      over_rows<T>(maps, [&](int64_t begin, int64_t end) {
        pool_rows<T, width()>(maps, from, to, begin, end);
      });
    });
  });
  return y;
}

Tensor max_pool_dx(const Tensor& dy, const Tensor& x) {
  const char* op = "max_pool_dx";
  const Maps maps = view_maps(op, x);
  std::vector<int64_t> windows = with_last(x, maps.width);
  windows[windows.size() - 2] = maps.height;
  SPARSEQ_CHECK(sizes_of(dy) == windows, op, "dy", "must have a number for each window of x",
                shape_text(dy));
  check_dtype(op, {"dy", dy}, {"x", x});
  const Tensor gradient = as_contiguous(dy), input = as_contiguous(x);
  const bool whole = maps.pixels == 2 * maps.width && maps.pixels_high == 2 * maps.height;
  const std::vector<int64_t> sizes = sizes_of(x);
  Tensor dx = whole ? new_output(x, sizes) : torch::stable::new_zeros(x, sizes);
  if (x.numel() == 0) return dx;
  with_types(op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const S *from_dy = data_of<S>(gradient), *from = data_of<S>(input);
    S* to = mutable_data_of<S>(dx);
    with_row_width<T>(maps, [&](auto width) {
      over_rows<T>(maps, [&](int64_t begin, int64_t end) {
        spread_rows<T, width()>(maps, from_dy, from, to, begin, end);
      });
    });
  });
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("max_pool", TORCH_BOX(&max_pool));
  m.impl("max_pool_dx", TORCH_BOX(&max_pool_dx));
}

}  // namespace sparseq::ops
