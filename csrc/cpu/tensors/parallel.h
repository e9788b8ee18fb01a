// Work on torch's own threads, and memory that outlives a call.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace sparseq::tensors {

// Below this many vector operations (about 10 us) waking a second thread costs more than it saves.
constexpr int64_t kForkOperations = 1 << 15;

// Threads worth using for `operations` vector operations.
inline int64_t useful_threads(int64_t operations) {
  if (operations < 2 * kForkOperations) return 1;
  const int64_t threads = torch::stable::get_num_threads();
  return std::min<int64_t>(threads, operations / kForkOperations);
}

// First of `count` things that part `part` of `parts` has, in whole multiples of `unit`.
inline int64_t part_begin(int64_t count, int64_t part, int64_t parts, int64_t unit = 1) {
  const int64_t units = (count + unit - 1) / unit;
  return std::min(count, units * part / parts * unit);
}

// Into how many parts to cut each of `items` equal tasks, so that all threads have work to the end.
// From `plenty` tasks for each thread on, whole ones do that; 0: only where they come out even.
inline int64_t parts_per_item(int64_t items, int64_t threads, int64_t plenty = 0) {
  const bool even = items % threads == 0 || (plenty > 0 && items >= plenty * threads);
  return even ? 1 : threads;
}

// Calls body(i) for i in 0 .. count - 1, on up to `threads` threads. Which thread runs which i
// must not change a result.
template <typename Body>
void parallel_items(int64_t count, int64_t threads, const Body& body) {
  const auto range = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  };
  if (threads <= 1 || count <= 1) {
    range(0, count);
    return;
  }
  torch::stable::parallel_for(0, count, (count + threads - 1) / threads, range);
}

// A buffer kept between calls: a fresh allocation of some megabytes costs a page fault each 4 KiB.
// It grows as asked, and gives back what one huge call needed at the next ordinary one.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  // `count` elements of T, 64-byte aligned, contents undefined.
  template <typename T>
  T* get(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64 + 64;
    const bool wasteful = size_ > kKeptBytes && bytes < size_ / 4;
    if (bytes > size_ || wasteful) {
      std::free(data_);
      size_ = 0;
      data_ = std::aligned_alloc(64, bytes);
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  static constexpr size_t kKeptBytes = size_t{64} << 20;
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace sparseq::tensors
