// A chain of convolutions with one image in each lane.
//
// Every map of a block of images lies in memory as [channel][place][lane]. Of a convolution that
// unpadded_map takes, the places are the pixels; else they are those of its padded planes. A
// layer's sums go through ReLU and pooling straight to the places that the next one reads.
#pragma once

#include <memory>

#include "../sparse_conv/indirection.h"
#include "../sparse_conv/pack.h"
#include "../sparse_conv/tile_walks.h"
#include "../sparse_conv/unpadded_3x3.h"
#include "link.h"

namespace sparseq::sparse_conv_chain {

using namespace simd;
using sparse_conv::Axes;
using sparse_conv::conv_axes;
using sparse_conv::EntriesByTap;
using sparse_conv::Epilogue;
using sparse_conv::Indirection;
using sparse_conv::IndirectionMemory;
using sparse_conv::kGroup;
using sparse_conv::PackPlan;
using sparse_conv::plain_axis;
using sparse_conv::PlaneLayout;
using sparse_conv::Source;
using sparse_conv::Strip;
using tensors::parallel_items;
using tensors::Scratch;
using tensors::useful_threads;

// How a map lies in memory.
struct Planes {
  Axes axes;
  PlaneLayout layout;
  PackPlan plan;  // places of its pixels, and what must be zero

  Planes(Axes of, int64_t lanes, int64_t channels) : axes(std::move(of)) {
    const Strip whole = {{0, 0, 0}, {axes[0].places(0), axes[1].places(0), axes[2].places(0)}};
    layout = sparse_conv::make_layout(axes, whole.count, lanes, channels, lanes);
    plan = sparse_conv::plan_pack(axes, layout, whole);
  }
};

inline Axes plain_axes(const Sizes& size) {
  return {plain_axis(size[0]), plain_axis(size[1]), plain_axis(size[2])};
}

// Memory of the indirections of one link, kept between calls.
struct LinkMemory {
  IndirectionMemory general;
  Scratch pointers, channels, values;
};

// A link with the layout of its input and the indirection that reads it.
template <typename S, typename T>
struct LaneLink {
  static constexpr int n = kLanes<T>;
  const Link<S, T>& link;
  bool unpadded;
  Planes planes;
  Planes sums;  // before the pooling, where that is another pass
  EntriesByTap<T> by_tap{};
  Indirection<T> indirection{};

  LaneLink(const Link<S, T>& of, LinkMemory& memory)
      : link(of),
        unpadded(sparse_conv::is_unpadded_3x3(of.g, of.in)),
        planes(unpadded ? plain_axes(of.in) : conv_axes(of.g, of.in, of.conv, false, false), n,
               of.channels_in),
        sums(plain_axes(of.conv), n, of.channels()) {
    if (unpadded) {
      sort(memory);
      return;
    }
    const sparse_conv::TapOffsets taps(planes.axes, planes.layout);
    indirection = sparse_conv::forward_indirections<S, T>(of.csr, of.values, of.g, taps,
                                                          planes.layout, 0, memory.general)[0];
    indirection.bias = of.bias;
  }

  void sort(LinkMemory& memory) {
    const Csr& csr = link.csr;
    const int64_t nnz = csr.nnz(), threads = useful_threads(nnz);
    T* values = memory.values.get<T>(nnz);
    by_tap = {link.order[0], link.order[1], values, link.bias, planes.layout.channel};
    if (link.order[0] != nullptr) {
      return tensors::gather_values(link.values, link.order[2], nnz, 1, values);
    }
    int32_t* pointers = memory.pointers.get<int32_t>(csr.rows * sparse_conv::kTaps + 1);
    int32_t* channels = memory.channels.get<int32_t>(nnz);
    parallel_items(threads, threads, [&](int64_t part) {
      sparse_conv::sort_by_tap<S, T>(
          csr, link.values, link.group_rows(), balanced_row(csr, part, threads),
          balanced_row(csr, part + 1, threads), pointers, channels, values);
    });
    by_tap.pointers = pointers;
    by_tap.channels = channels;
  }

  // Whether the tiles themselves pool.
  bool pools() const {
    return unpadded && link.pool == 2 && link.conv[1] % 2 == 0 && link.conv[2] % 2 == 0;
  }
  bool pools_apart() const { return link.pool > 1 && !pools(); }

  // Elements of the memory that `run` needs for itself.
  int64_t pooling_memory() const { return pools_apart() ? sums.layout.image() : 0; }

  // Channels first .. last - 1 of the next link's input, `to`, from this one's.
  void run(const T* from, const Planes& next, T* to, T* memory, int64_t first, int64_t last) const {
    for (int64_t c = first; c < last; ++c) {
      for (const int32_t hole : next.plan.holes) {
        store(to + c * next.layout.channel + hole, Vec<T>{});
      }
    }
    const bool apart = pools_apart();
    const Planes& written = apart ? sums : next;
    const Epilogue<T> epilogue = {apart ? memory : to,
                                  written.layout.channel,
                                  written.plan.places.data(),
                                  pools() ? link.out[2] : link.conv[2],
                                  link.relu,
                                  pools()};
    if (unpadded) {
      sparse_conv::unpadded_map(by_tap, first, last, from, link.in[1], link.in[2], epilogue);
    } else {
      convolve(from, first, last, epilogue);
    }
    for (int64_t c = first; apart && c < last; ++c) {
      pool(memory + c * written.layout.channel, next, to + c * next.layout.channel);
    }
  }

  void convolve(const T* from, int64_t first, int64_t last, const Epilogue<T>& epilogue) const {
    const int64_t height = link.conv[1], width = link.conv[2], step = sparse_conv::tile_step(width);
    for (int64_t h = 0; h < height;) {
      const int64_t rows = sparse_conv::tile_rows_of(step, height - h);
      for (int64_t w = 0; w < width; w += step) {
        tile(from, first, last, h, w, rows, std::min(step, width - w), epilogue);
      }
      h += rows;
    }
  }

  void tile(const T* from, int64_t first, int64_t last, int64_t h, int64_t w, int64_t rows,
            int64_t columns, const Epilogue<T>& epilogue) const {
    alignas(64) T buffer[kGroup * sparse_conv::kMostSums * n];
    const PlaneLayout& layout = planes.layout;
    const sparse_conv::SumTile<T> kernel = indirection.table != nullptr
                                               ? sparse_conv::sum_tile_of<T, true>(rows, columns)
                                               : sparse_conv::sum_tile_of<T, false>(rows, columns);
    const int64_t line = columns * n;
    const T* corner = from + layout.place(0, 0, h, w);
    for (int64_t o = first; o < last; o += kGroup) {
      const int64_t end = std::min(last, o + kGroup);
      kernel(indirection.panel(o, 0), o, end, corner, layout.row(), buffer, rows * line, line);
      for (int64_t i = 0; i < (end - o) * rows * columns; ++i) {
        const int64_t pixel = i % (rows * columns);
        const Vec<T> sum = load(buffer + i * n);
        epilogue.put(o + i / (rows * columns), h + pixel / columns, w + pixel % columns,
                     epilogue.relu ? relu(sum) : sum);
      }
    }
  }

  // One channel of the sums, pooled.
  void pool(const T* from, const Planes& next, T* to) const {
    for (int64_t y = 0; y < link.out[1]; ++y) {
      for (int64_t x = 0; x < link.out[2]; ++x) {
        const int32_t place = next.plan.places[y * link.out[2] + x];
        const T* corner = from + (y * link.conv[2] + x) * link.pool * n;
        Vec<T> most = load(corner);
        for (int64_t i = 0; i < link.pool * link.pool; ++i) {
          const int64_t pixel = i / link.pool * link.conv[2] + i % link.pool;
          most = maximum(most, load(corner + pixel * n));
        }
        if (place >= 0) store(to + place, most);
      }
    }
  }
};

// A chain laid out for images in the lanes: once a call, for all its blocks.
template <typename S, typename T>
class ImagesInLanes {
 public:
  ImagesInLanes(const std::vector<Link<S, T>>& links,
                std::vector<std::unique_ptr<LinkMemory>>& memory)
      : last_(plain_axes(links.back().out), n, links.back().channels()) {
    while (memory.size() < links.size()) memory.push_back(std::make_unique<LinkMemory>());
    for (size_t i = 0; i < links.size(); ++i) links_.emplace_back(links[i], *memory[i]);
    for (size_t i = 0; i <= links.size(); ++i) {
      sizes_[i % 2] = std::max(sizes_[i % 2], planes(i).layout.image());
      if (i < links.size()) pooling_ = std::max(pooling_, links_[i].pooling_memory());
    }
  }

  // Images at .. at + count - 1, at most one for each lane; a link's channels in `parts` parts.
  void run(const Source<S>& x, S* y, int64_t at, int64_t count, int64_t parts) const {
    static thread_local Scratch scratch;
    T* memory = scratch.get<T>(sizes_[0] + sizes_[1] + pooling_);
    T* maps[2] = {memory, memory + sizes_[0]};
    T* unpooled = memory + sizes_[0] + sizes_[1];
    const int64_t read = links_.front().link.channels_in;
    parallel_items(parts, parts, [&](int64_t part) {
      sparse_conv::pack_lanes(x, planes(0).plan, planes(0).layout, at, count, read * part / parts,
                              read * (part + 1) / parts, maps[0]);
    });
    for (size_t i = 0; i < links_.size(); ++i) {
      parallel_items(parts, parts, [&](int64_t part) {
        links_[i].run(maps[i % 2], planes(i + 1), maps[(i + 1) % 2], unpooled,
                      balanced_row(links_[i].link.csr, part, parts, kGroup),
                      balanced_row(links_[i].link.csr, part + 1, parts, kGroup));
      });
    }
    unpack(maps[links_.size() % 2], y, at, count);
  }

 private:
  static constexpr int n = kLanes<T>;
  std::vector<LaneLink<S, T>> links_;
  Planes last_;
  int64_t sizes_[2] = {0, 0}, pooling_ = 0;

  const Planes& planes(size_t i) const { return i < links_.size() ? links_[i].planes : last_; }

  void unpack(const T* from, S* y, int64_t at, int64_t count) const {
    const Link<S, T>& link = links_.back().link;
    const int64_t map = link.out[1] * link.out[2], image = link.channels() * map;
    for (int64_t c = 0; c < link.channels(); ++c) {
      sparse_conv::unpack_pixels(from + c * last_.layout.channel, n, map, count,
                                 y + at * image + c * map, image);
    }
  }
};

}  // namespace sparseq::sparse_conv_chain
