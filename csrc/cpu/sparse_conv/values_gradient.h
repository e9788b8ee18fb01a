// The gradient of a sparse convolution's values: a dot product over positions for every entry.
#pragma once

#include "dot_tile.h"
#include "indirection.h"
#include "pack.h"

namespace sparseq::sparse_conv {

using tensors::parallel_items;
using tensors::Scratch;
using tensors::useful_threads;

constexpr int64_t kPackedBytes = 32 << 20;  // of strips that are packed before threads split rows
constexpr int64_t kChunkVectors = 32;       // of positions between two sums over the lanes

// Stretches of one width; `valid` lanes of the last vector count.
struct Run {
  int64_t vectors, valid;
  std::vector<Stretch> stretches;
};

// One call, for images that are laid out alike.
template <typename S, typename T>
struct ValuesJob {
  Axes axes, plain;  // of x, and of dy
  PlaneLayout layout, dy_layout;
  Source<S> x, dy;
  Indirection<T> indirection;
  int64_t rows, nnz;
};

inline void note_stretch(std::vector<Run>& runs, int64_t vectors, int64_t valid, Stretch stretch) {
  for (Run& run : runs) {
    if (run.vectors == vectors && run.valid == valid) return run.stretches.push_back(stretch);
  }
  runs.push_back({vectors, valid, {stretch}});
}

// `length` neighbors from the two offsets, in whole vectors and what is left of one.
template <typename T>
void add_length(std::vector<Run>& runs, int64_t length, Stretch from) {
  constexpr int n = kLanes<T>;
  const int64_t vectors = length / n;
  for (int64_t v = 0; v < vectors; v += kMostSums) {
    const int64_t some = std::min<int64_t>(kMostSums, vectors - v);
    note_stretch(runs, some, n, {from.dy + v * n, from.x + v * n});
  }
  if (length % n > 0) {
    note_stretch(runs, 1, length % n, {from.dy + vectors * n, from.x + vectors * n});
  }
}

// The stretches of a strip whose packed dy and x begin at `start`.
template <typename S, typename T>
void add_strip(const ValuesJob<S, T>& job, const Strip& strip, int64_t images, Stretch start,
               std::vector<Run>& runs) {
  const PlaneLayout &layout = job.layout, &flat = job.dy_layout;
  Sizes count;
  for (int i = 0; i < kAxes; ++i) {
    count[i] = places_in(job.axes[i], 0, strip.first[i], strip.count[i]);
  }
  const bool joined = layout.extent[2] == count[2];
  for (int64_t i = 0; i < (layout.lanes > 1 ? 1 : images); ++i) {
    for (int64_t d = 0; d < count[0]; ++d) {
      for (int64_t h = 0; h < (joined ? 1 : count[1]); ++h) {
        const Stretch from = {start.dy + i * flat.image() + flat.place(0, d, h, 0),
                              start.x + i * layout.image() + layout.place(0, d, h, 0)};
        add_length<T>(runs, (joined ? count[1] : 1) * count[2] * layout.lanes, from);
      }
    }
  }
}

template <typename T, int V>
void dot_run(const Indirection<T>& indirection, int64_t first, int64_t last,
             const PackedMaps<T>& packed, const Run& run, bool start, T* dv) {
  const int64_t step = std::max<int64_t>(1, kChunkVectors / V);
  const int64_t count = static_cast<int64_t>(run.stretches.size());
  const auto dot = V == 1 && run.valid < kLanes<T> ? dot_tile<T, 1, true> : dot_tile<T, V, false>;
  for (int64_t s = 0; s < count; s += step) {
    const Stretches some{run.stretches.data() + s, std::min(step, count - s), run.valid};
    dot(indirection, first, last, packed, some, start && s == 0, dv);
  }
}

template <typename T>
void dot_runs(const Indirection<T>& indirection, int64_t first, int64_t last,
              const PackedMaps<T>& packed, const std::vector<Run>& runs, bool start, T* dv) {
  using Dot =
      void (*)(const Indirection<T>&, int64_t, int64_t, const PackedMaps<T>&, const Run&, bool, T*);
  static constexpr Dot dots[] = {dot_run<T, 1>, dot_run<T, 2>, dot_run<T, 3>, dot_run<T, 4>,
                                 dot_run<T, 5>, dot_run<T, 6>, dot_run<T, 7>, dot_run<T, 8>};
  for (const Run& run : runs) {
    dots[run.vectors - 1](indirection, first, last, packed, run, start, dv);
    start = false;
  }
}

// One strip of one block of images, and where it begins when packed.
struct PackedStrip {
  Strip strip;
  int64_t at, images;
  Stretch start;
};

template <typename S, typename T>
void dot_strips(const ValuesJob<S, T>& job, const std::vector<PackedStrip>& strips, T* dy, T* x,
                bool start, T* dv) {
  std::vector<Run> runs;
  for (const PackedStrip& s : strips) add_strip(job, s.strip, s.images, s.start, runs);
  int64_t vectors = 0;
  for (const Run& run : runs) vectors += run.vectors * static_cast<int64_t>(run.stretches.size());
  const int64_t threads = useful_threads(job.nnz * vectors);
  const int64_t count = static_cast<int64_t>(strips.size());
  parallel_items(count, threads, [&](int64_t i) {
    const PackedStrip& s = strips[i];
    pack_strip(job.x, job.axes, job.layout, s.strip, s.at, s.images, x + s.start.x);
    pack_strip(job.dy, job.plain, job.dy_layout, s.strip, s.at, s.images, dy + s.start.dy);
  });
  const Csr csr = {job.indirection.pointers, nullptr, job.rows, 0};
  parallel_items(threads, threads, [&](int64_t part) {
    dot_runs(job.indirection, balanced_row(csr, part, threads),
             balanced_row(csr, part + 1, threads), {dy, job.dy_layout.channel, x}, runs, start, dv);
  });
}

// All strips of `images` images in blocks of `block`, as many at a time as kPackedBytes hold.
template <typename S, typename T>
void dot_blocks(const ValuesJob<S, T>& job, const std::vector<Strip>& strips, int64_t at,
                int64_t images, int64_t block, bool start, T* dv) {
  static thread_local Scratch scratch;
  const int64_t copies = job.layout.lanes > 1 ? 1 : block;
  const int64_t dy_size = copies * job.dy_layout.image(), x_size = copies * job.layout.image();
  const int64_t fit = kPackedBytes / static_cast<int64_t>((dy_size + x_size) * sizeof(T));
  const int64_t blocks = (images + block - 1) / block;
  const int64_t total = blocks * static_cast<int64_t>(strips.size());
  const int64_t most = std::clamp<int64_t>(fit, 1, total);
  T* dy = scratch.get<T>(most * (dy_size + x_size) + kLanes<T>);
  std::vector<PackedStrip> some;
  for (int64_t i = 0; i < total; ++i) {
    const int64_t from = at + i % blocks * block, place = static_cast<int64_t>(some.size());
    some.push_back({strips[i / blocks],
                    from,
                    std::min(block, at + images - from),
                    {place * dy_size, place * x_size}});
    if (place + 1 < most && i + 1 < total) continue;
    dot_strips(job, some, dy, dy + most * dy_size, start, dv);
    start = false;
    some.clear();
  }
}

}  // namespace sparseq::sparse_conv
