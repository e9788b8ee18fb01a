// Sums over a batch of quaternion features, four blocks of channels (n, 4, c, s), s contiguous.
//
// Where the positions s of a channel fill a vector, its lanes run along them ("planes"); else each
// (channel, position) is a channel by itself, of one position, and the lanes run along those
// ("rows"): components lie c * s apart in both. The batch is cut into chunks by its shape alone,
// and what chunks and lanes sum is put together in order, in double: same bits on any threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../simd/convert.h"
#include "../simd/shuffles.h"
#include "../tensors/parallel.h"

namespace sparseq::quaternion {

using namespace simd;
using tensors::parallel_items;
using tensors::Scratch;
using tensors::useful_threads;

// Positions of a chunk: long enough to make little of its end, short enough for sums in float.
constexpr int64_t kChunkPositions = 8192;
constexpr int64_t kChunkRows = 512;

// One vector of channels or positions, or a single one.
template <typename Sum>
struct Lanes {
  using T = Sum;
  using V = Vec<T>;
  static constexpr int width = kLanes<T>;
  template <typename S>
  SPARSEQ_INLINE static V get(const S* from) {
    return load_as<T>(from);
  }
  template <typename S>
  SPARSEQ_INLINE static void put(S* to, V v) {
    store_as<S, T>(to, v);
  }
  SPARSEQ_INLINE static V all(T value) { return broadcast(value); }
  SPARSEQ_INLINE static T lane(V v, int i) { return v[i]; }
  SPARSEQ_INLINE static void set(V& v, int i, T value) { v[i] = value; }
  // Sums over the lanes of `count` vectors.
  static void totals(const V* v, int count, double* out) {
    for (int first = 0; first < count; first += width) {
      V rows[width];
      for (int i = 0; i < width; ++i) rows[i] = v[std::min(first + i, count - 1)];
      const V sums = sum_each<T>(rows);
      for (int i = 0; i < std::min(width, count - first); ++i) {
        out[first + i] = static_cast<double>(sums[i]);
      }
    }
  }
  // v with its last `count` lanes kept, the others zero.
  SPARSEQ_INLINE static V last(V v, int64_t count) { return join<T>(V{}, v, count); }
};

template <typename Sum>
struct SingleLane {
  using T = Sum;
  using V = T;
  static constexpr int width = 1;
  template <typename S>
  SPARSEQ_INLINE static V get(const S* from) {
    return static_cast<T>(*from);
  }
  template <typename S>
  SPARSEQ_INLINE static void put(S* to, V v) {
    *to = static_cast<S>(v);
  }
  SPARSEQ_INLINE static V all(T value) { return value; }
  SPARSEQ_INLINE static T lane(V v, int) { return v; }
  SPARSEQ_INLINE static void set(V& v, int, T value) { v = value; }
  static void totals(const V* v, int count, double* out) { std::copy(v, v + count, out); }
  SPARSEQ_INLINE static V last(V v, int64_t) { return v; }
};

// How a batch is walked: `channels` sums of `positions` values in each of `batch` examples, the
// components `stride` apart, in chunks of whole examples, or of parts of one.
struct Walk {
  int64_t batch, channels, positions, stride;
  int64_t group, pieces, chunks;
  bool planes;

  template <typename T>
  static Walk of(int64_t batch, int64_t channels, int64_t positions) {
    Walk w{batch, channels, positions, channels * positions, 1, 1, 0, positions >= kLanes<T>};
    if (!w.planes) w.channels = w.stride, w.positions = 1;
    w.pieces = (w.positions + kChunkPositions - 1) / kChunkPositions;
    w.group = w.planes ? std::max<int64_t>(1, kChunkPositions / w.positions) : kChunkRows;
    w.chunks = w.pieces > 1 ? batch * w.pieces : (batch + w.group - 1) / w.group;
    return w;
  }

  int64_t first_example(int64_t chunk) const { return pieces > 1 ? chunk / pieces : chunk * group; }
  int64_t end_example(int64_t chunk) const {
    return pieces > 1 ? chunk / pieces + 1 : std::min(batch, (chunk + 1) * group);
  }
  int64_t first_position(int64_t chunk) const { return chunk % pieces * kChunkPositions; }
  int64_t end_position(int64_t chunk) const {
    return std::min(positions, (chunk % pieces + 1) * kChunkPositions);
  }
  // How many values of a channel a chunk has.
  double values(int64_t chunk) const {
    return static_cast<double>(end_example(chunk) - first_example(chunk)) *
           static_cast<double>(end_position(chunk) - first_position(chunk));
  }
};

// Count, means and sums of products about them, of four components.
struct Spread {
  double count, mean[4], product[10];

  // Add what other values gave (Chan, Golub & LeVeque 1979).
  void merge(const Spread& other) {
    if (other.count == 0) return;
    const double total = count + other.count, weight = other.count / total;
    double apart[4];
    for (int a = 0; a < 4; ++a) apart[a] = other.mean[a] - mean[a];
    for (int a = 0, k = 0; a < 4; ++a) {
      for (int b = 0; b <= a; ++b, ++k) {
        product[k] += other.product[k] + apart[a] * apart[b] * (count * weight);
      }
    }
    for (int a = 0; a < 4; ++a) mean[a] += apart[a] * weight;
    count = total;
  }
};

// Sums of x, a lane each: a first pass over a chunk, for the shift of the second.
template <typename L>
struct PlainSums {
  using V = typename L::V;
  V values[4] = {};

  template <typename S>
  SPARSEQ_INLINE void add(const S* x, int64_t stride, int64_t count) {
    for (int a = 0; a < 4; ++a) {
      const V in = L::get(x + a * stride);
      values[a] = values[a] + (count < L::width ? L::last(in, count) : in);
    }
  }
};

// Sums of x - shift and of its products, a lane each. The shift is about the chunk's mean, so that
// nothing cancels.
template <typename L>
struct MomentSums {
  using V = typename L::V;
  V shift[4], values[14] = {};  // four sums, then ten of products

  template <typename S>
  SPARSEQ_INLINE void add(const S* x, int64_t stride, int64_t count) {
    V in[4];
    for (int a = 0; a < 4; ++a) {
      in[a] = L::get(x + a * stride) - shift[a];
      if (count < L::width) in[a] = L::last(in[a], count);
      values[a] = values[a] + in[a];
    }
    for (int a = 0, k = 4; a < 4; ++a) {
      for (int b = 0; b <= a; ++b, ++k) values[k] = fmadd(in[a], in[b], values[k]);
    }
  }

  // What all lanes hold together, of `count` values about one shift.
  Spread together(double count) const {
    double sums[14];
    L::totals(values, 14, sums);
    return spread(sums, count, 0);
  }

  // What one lane holds, of `count` values.
  Spread alone(double count, int lane) const {
    double sums[14];
    for (int k = 0; k < 14; ++k) sums[k] = static_cast<double>(L::lane(values[k], lane));
    return spread(sums, count, lane);
  }

 private:
  Spread spread(const double* sums, double count, int lane) const {
    Spread out{count, {}, {}};
    for (int a = 0, k = 0; a < 4; ++a) {
      for (int b = 0; b <= a; ++b, ++k) out.product[k] = sums[4 + k] - sums[a] * sums[b] / count;
    }
    for (int a = 0; a < 4; ++a) {
      out.mean[a] = static_cast<double>(L::lane(shift[a], lane)) + sums[a] / count;
    }
    return out;
  }
};

// Sums of dy (4) and of dy_a (x_b - center_b) (16), a lane each.
constexpr int kCrossSums = 20;

template <typename L>
struct CrossSums {
  using V = typename L::V;
  V center[4], values[kCrossSums] = {};

  template <typename S>
  SPARSEQ_INLINE void add(const S* dy, const S* x, int64_t stride, int64_t count) {
    V in[4];
    for (int b = 0; b < 4; ++b) {
      in[b] = L::get(x + b * stride) - center[b];
      if (count < L::width) in[b] = L::last(in[b], count);
    }
    for (int a = 0; a < 4; ++a) {
      V out = L::get(dy + a * stride);
      if (count < L::width) out = L::last(out, count);
      values[a] = values[a] + out;
      for (int b = 0; b < 4; ++b) {
        V& sum = values[4 + 4 * a + b];
        sum = fmadd(out, in[b], sum);
      }
    }
  }
};

// Calls add(offset, count) for every vector of a channel in a chunk; a last, partial one starts
// early enough to be whole, and counts only its last `count` lanes.
template <typename L, typename Add>
SPARSEQ_INLINE void over_chunk(const Walk& w, int64_t chunk, int64_t channel, const Add& add) {
  const int64_t s0 = w.first_position(chunk), s1 = w.end_position(chunk);
  for (int64_t n = w.first_example(chunk); n < w.end_example(chunk); ++n) {
    const int64_t at = n * 4 * w.stride + channel * w.positions;
    int64_t s = s0;
    for (; w.planes && s + L::width <= s1; s += L::width) add(at + s, L::width);
    if (!w.planes) {
      add(at, L::width);
    } else if (s < s1) {
      add(at + s1 - L::width, s1 - s);
    }
  }
}

// Calls body(Lanes or SingleLane, chunk, channel) for all chunks and channels, as many channels at
// once as that has lanes where the lanes run along them.
template <typename T, typename Body>
void over_channels(const Walk& w, const Body& body) {
  const int64_t step = w.planes ? 1 : kLanes<T>;
  const int64_t blocks = (w.channels + step - 1) / step;
  const int64_t values = w.batch * w.channels * w.positions;
  const int64_t threads = useful_threads(values * 16 / kLanes<T>);
  parallel_items(blocks * w.chunks, threads, [&](int64_t item) {
    const int64_t chunk = item / blocks, channel = item % blocks * step;
    if (w.planes || channel + step <= w.channels) return body(Lanes<T>{}, chunk, channel);
    for (int64_t i = channel; i < w.channels; ++i) body(SingleLane<T>{}, chunk, i);
  });
}

// (5, 4, c): sums of dy, then of dy_a (x_b - s_b).
template <typename S, typename T>
void find_cross(const S* dy, const S* x, const T* center, const Walk& w, int64_t channels, T* out) {
  static thread_local Scratch scratch;
  const int64_t repeats = w.channels / channels;
  double* parts = scratch.get<double>(w.chunks * w.channels * kCrossSums);
  over_channels<T>(w, [&](auto lanes, int64_t chunk, int64_t channel) {
    using L = decltype(lanes);
    CrossSums<L> sums;
    for (int b = 0; b < 4; ++b) {
      T shift[L::width] = {};
      for (int i = 0; center != nullptr && i < L::width; ++i) {
        shift[i] = center[b * channels + (w.planes ? channel : (channel + i) / repeats)];
      }
      sums.center[b] = L::get(shift);
    }
    over_chunk<L>(w, chunk, channel,
                  [&](int64_t at, int64_t count) { sums.add(dy + at, x + at, w.stride, count); });
    double* to = parts + (chunk * w.channels + channel) * kCrossSums;
    if (w.planes) {
      L::totals(sums.values, kCrossSums, to);
      return;
    }
    for (int i = 0; i < L::width * kCrossSums; ++i) {
      to[i] = static_cast<double>(L::lane(sums.values[i % kCrossSums], i / kCrossSums));
    }
  });
  for (int64_t c = 0; c < channels; ++c) {
    double all[kCrossSums] = {};
    for (int64_t chunk = 0; chunk < w.chunks; ++chunk) {
      const double* from = parts + (chunk * w.channels + c * repeats) * kCrossSums;
      for (int64_t i = 0; i < repeats * kCrossSums; ++i) all[i % kCrossSums] += from[i];
    }
    for (int k = 0; k < kCrossSums; ++k) out[k * channels + c] = static_cast<T>(all[k]);
  }
}

}  // namespace sparseq::quaternion
