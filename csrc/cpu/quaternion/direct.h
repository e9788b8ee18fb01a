// Quaternion linear maps of a few batch rows: the weight's bytes bound them, so each weight row is
// read once, where it lies, for the sixteen products. What is left after the whole vectors of a row
// is the end of one more vector, whose other lanes do not count; rows shorter than a vector go one
// by one.
#pragma once

#include <algorithm>
#include <string>

#include "../simd/convert.h"
#include "../tensors/parallel.h"
#include "hamilton_table.h"

namespace sparseq::quaternion {

using namespace simd;
using tensors::parallel_items;
using tensors::useful_threads;

constexpr int kDirectBatch = 4;
constexpr int64_t kDirectRows = 16;  // weight rows per task

inline bool direct_serves(int64_t batch, const std::string& algorithm) {
  return batch <= kDirectBatch && algorithm != "8";
}

// Calls body(first, last) on ranges of `count` that are whole vectors, but for the last one.
template <typename T, typename Body>
void direct_ranges(int64_t count, int64_t step, int64_t operations, const Body& body) {
  const int64_t items = (count + step - 1) / step;
  parallel_items(items, useful_threads(operations / kLanes<T>),
                 [&](int64_t item) { body(item * step, std::min(count, (item + 1) * step)); });
}

// sum = sum + sign * w * x, whole vectors or single numbers alike.
template <typename V>
SPARSEQ_INLINE void add_signed(int sign, const V& w, const V& x, V& sum) {
  sum = sign > 0 ? sum + w * x : sum - w * x;
}

// y (batch, 4 m) = W (x) x + bias.
template <typename T, typename S>
void direct_y(const S* x, const S* weight, const S* bias, S* y, int64_t batch, int64_t m,
              int64_t k) {
  constexpr int n = kLanes<T>;
  const auto one = [&](const S* in, int64_t r, S* out) {
    Vec<T> sums[4] = {};
    const auto add = [&](int64_t at, auto read) {
      Vec<T> w[4];
      for (int c = 0; c < 4; ++c) w[c] = read(weight + (c * m + r) * k + at);
      for (int b = 0; b < 4; ++b) {
        const Vec<T> value = read(in + b * k + at);
        for (int a = 0; a < 4; ++a) add_signed(kSign[a][b], w[kComponent[a][b]], value, sums[a]);
      }
    };
    int64_t at = 0;
    for (; at + n <= k; at += n) add(at, [](const S* p) { return load_as<T>(p); });
    if (at > 0 && at < k) {
      add(k - n, [&](const S* p) { return join<T>(Vec<T>{}, load_as<T>(p), k - at); });
      at = k;
    }
    for (int a = 0; a < 4; ++a) {
      T total = bias == nullptr ? T(0) : static_cast<T>(bias[a * m + r]);
      for (int j = 0; j < n; ++j) total += sums[a][j];
      for (int64_t i = at; i < k; ++i) {
        for (int b = 0; b < 4; ++b) {
          const T w = static_cast<T>(weight[(kComponent[a][b] * m + r) * k + i]);
          add_signed(kSign[a][b], w, static_cast<T>(in[b * k + i]), total);
        }
      }
      out[a * m + r] = static_cast<S>(total);
    }
  };
  direct_ranges<T>(m, kDirectRows, 16 * batch * m * k, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      for (int64_t row = 0; row < batch; ++row) one(x + row * 4 * k, r, y + row * 4 * m);
    }
  });
}

// dx (batch, 4 k) = W* (x) dy, columns in ranges, weight rows in order.
template <typename T>
void direct_dx(const T* dy, const T* weight, T* dx, int64_t batch, int64_t m, int64_t k) {
  constexpr int n = kLanes<T>;
  const auto add_row = [&](const T* in, int64_t r, int64_t first, int64_t last, T* out) {
    const auto add = [&](int64_t at, auto read, auto spread, auto write) {
      decltype(read(out)) w[4];
      for (int c = 0; c < 4; ++c) w[c] = read(weight + (c * m + r) * k + at);
      for (int b = 0; b < 4; ++b) {
        auto sum = read(out + b * k + at);
        for (int a = 0; a < 4; ++a) {
          add_signed(kSign[a][b], w[kComponent[a][b]], spread(in[a * m + r]), sum);
        }
        write(out + b * k + at, sum);
      }
    };
    const auto read = [](const T* p) { return load(p); };
    const auto spread = [](T v) { return broadcast(v); };
    int64_t at = first;
    for (; at + n <= last; at += n) add(at, read, spread, [](T* p, Vec<T> v) { store(p, v); });
    if (at > first && at < last) {
      const int64_t left = last - at;
      add(last - n, read, spread, [&](T* p, Vec<T> v) { store(p, join<T>(load(p), v, left)); });
      at = last;
    }
    for (; at < last; ++at) {
      add(at, [](const T* p) { return *p; }, [](T v) { return v; }, [](T* p, T v) { *p = v; });
    }
  };
  std::fill(dx, dx + batch * 4 * k, T(0));
  const int64_t half = ((k + 1) / 2 + n - 1) / n * n;  // two ranges: long reads matter more
  direct_ranges<T>(k, half, 16 * batch * m * k, [&](int64_t first, int64_t last) {
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t row = 0; row < batch; ++row) {
        add_row(dy + row * 4 * m, r, first, last, dx + row * 4 * k);
      }
    }
  });
}

// dw (4, m, k) = sum over the batch of dy (x) x*.
template <typename T>
void direct_dw(const T* dy, const T* x, T* dw, int64_t batch, int64_t m, int64_t k) {
  constexpr int n = kLanes<T>;
  const auto entry = [&](int64_t r, int64_t at, auto read, auto spread, auto write) {
    decltype(read(dw)) sums[4] = {};
    for (int64_t row = 0; row < batch; ++row) {
      for (int b = 0; b < 4; ++b) {
        const auto value = read(x + (row * 4 + b) * k + at);
        for (int a = 0; a < 4; ++a) {
          add_signed(kSign[a][b], value, spread(dy[(row * 4 + a) * m + r]), sums[kComponent[a][b]]);
        }
      }
    }
    for (int c = 0; c < 4; ++c) write(dw + (c * m + r) * k + at, sums[c]);
  };
  direct_ranges<T>(m, kDirectRows, 16 * batch * m * k, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const auto vector = [&](int64_t at) {
        entry(
            r, at, [](const T* p) { return load(p); }, [](T v) { return broadcast(v); },
            [](T* p, Vec<T> v) { store(p, v); });
      };
      int64_t at = 0;
      for (; at + n <= k; at += n) vector(at);
      if (at > 0 && at < k) {
        vector(k - n);  // lanes that are written twice get the same numbers
        at = k;
      }
      for (; at < k; ++at) {
        entry(
            r, at, [](const T* p) { return *p; }, [](T v) { return v; }, [](T* p, T v) { *p = v; });
      }
    }
  });
}

}  // namespace sparseq::quaternion
