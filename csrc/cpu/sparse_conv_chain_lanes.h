// A chain of convolutions with one image in each lane.
//
// Every map of a block of images lies in memory as [channel][place][lane]. Of a convolution that
// bordered_map takes, the places are the pixels; else they are those of its padded planes. A
// layer's sums go through ReLU and pooling straight to the places that the next one reads.
#pragma once

#include <memory>

#include "sparse_conv_bordered.h"
#include "sparse_conv_chain_link.h"
#include "sparse_conv_forward.h"
#include "sparse_conv_pack.h"
#include "sparse_conv_program.h"

namespace sparseq {

// How a map lies in memory.
struct Planes {
  Axes axes;
  Layout layout;
  PackPlan plan;  // places of its pixels, and what must be zero

  Planes(Axes of, int64_t lanes, int64_t channels) : axes(std::move(of)) {
    const Strip whole = {{0, 0, 0}, {axes[0].places(0), axes[1].places(0), axes[2].places(0)}};
    layout = make_layout(axes, whole.count, lanes, channels, lanes);
    plan = plan_pack(axes, layout, whole);
  }
};

inline Axes plain_axes(const Sizes& size) {
  return {plain_axis(size[0]), plain_axis(size[1]), plain_axis(size[2])};
}

// Memory of the programs of one link, kept between calls.
struct LinkMemory {
  ProgramMemory general;
  Scratch pointers, channels, values;
};

// A link with the layout of its input and the program that reads it.
template <typename S, typename T>
struct LaneLink {
  static constexpr int n = kLanes<T>;
  const Link<S, T>& link;
  bool bordered;
  Planes planes;
  Planes sums;  // before the pooling, where that is a pass of its own
  TapProgram<T> by_tap{};
  Program<T> program{};

  LaneLink(const Link<S, T>& of, LinkMemory& memory)
      : link(of),
        bordered(is_bordered(of.g, of.in)),
        planes(bordered ? plain_axes(of.in) : conv_axes(of.g, of.in, of.conv, false, false), n,
               of.channels_in),
        sums(plain_axes(of.conv), n, of.channels()) {
    if (bordered) {
      sort(memory);
      return;
    }
    const TapOffsets taps(planes.axes, planes.layout);
    program =
        forward_programs<S, T>(of.csr, of.values, of.g, taps, planes.layout, 0, memory.general)[0];
    program.bias = of.bias;
  }

  void sort(LinkMemory& memory) {
    const Csr& csr = link.csr;
    const int64_t nnz = csr.nnz(), threads = useful_threads(nnz);
    T* values = memory.values.get<T>(nnz);
    by_tap = {link.order[0], link.order[1], values, link.bias, planes.layout.channel};
    if (link.order[0] != nullptr) return gather_values(link.values, link.order[2], nnz, 1, values);
    int32_t* pointers = memory.pointers.get<int32_t>(csr.rows * kBorderedTaps + 1);
    int32_t* channels = memory.channels.get<int32_t>(nnz);
    parallel_items(threads, threads, [&](int64_t part) {
      sort_by_tap<S, T>(csr, link.values, link.group_rows(), balanced_row(csr, part, threads),
                        balanced_row(csr, part + 1, threads), pointers, channels, values);
    });
    by_tap.pointers = pointers;
    by_tap.channels = channels;
  }

  // Whether the tiles themselves pool.
  bool pools() const {
    return bordered && link.pool == 2 && link.conv[1] % 2 == 0 && link.conv[2] % 2 == 0;
  }
  bool pools_apart() const { return link.pool > 1 && !pools(); }

  // Elements of the memory that `run` needs for itself.
  int64_t own() const { return pools_apart() ? sums.layout.image() : 0; }

  // Channels first .. last - 1 of the next link's input, `to`, from this one's.
  void run(const T* from, const Planes& next, T* to, T* memory, int64_t first, int64_t last) const {
    for (int64_t c = first; c < last; ++c) {
      for (const int32_t hole : next.plan.holes)
        store(to + c * next.layout.channel + hole, Vec<T>{});
    }
    const bool apart = pools_apart();
    const Planes& goal = apart ? sums : next;
    const Target<T> target = {apart ? memory : to,
                              goal.layout.channel,
                              goal.plan.places.data(),
                              pools() ? link.out[2] : link.conv[2],
                              link.relu,
                              pools()};
    if (bordered) {
      bordered_map(by_tap, first, last, from, link.in[1], link.in[2], target);
    } else {
      convolve(from, first, last, target);
    }
    for (int64_t c = first; apart && c < last; ++c) {
      pool(memory + c * goal.layout.channel, next, to + c * next.layout.channel);
    }
  }

  void convolve(const T* from, int64_t first, int64_t last, const Target<T>& target) const {
    const int64_t height = link.conv[1], width = link.conv[2], step = tile_step(width);
    for (int64_t h = 0; h < height;) {
      const int64_t rows = tile_rows_of(step, height - h);
      for (int64_t w = 0; w < width; w += step) {
        tile(from, first, last, h, w, rows, std::min(step, width - w), target);
      }
      h += rows;
    }
  }

  void tile(const T* from, int64_t first, int64_t last, int64_t h, int64_t w, int64_t rows,
            int64_t columns, const Target<T>& target) const {
    alignas(64) T buffer[kGroup * kMostSums * n];
    const Layout& layout = planes.layout;
    const SumTile<T> kernel = program.table != nullptr ? sum_tile_of<T, true>(rows, columns)
                                                       : sum_tile_of<T, false>(rows, columns);
    const int64_t line = columns * n;
    const T* corner = from + layout.place(0, 0, h, w);
    for (int64_t o = first; o < last; o += kGroup) {
      const int64_t end = std::min(last, o + kGroup);
      kernel(program.panel(o, 0), o, end, corner, layout.row(), buffer, rows * line, line);
      for (int64_t i = 0; i < (end - o) * rows * columns; ++i) {
        const int64_t pixel = i % (rows * columns);
        const Vec<T> sum = load(buffer + i * n);
        target.put(o + i / (rows * columns), h + pixel / columns, w + pixel % columns,
                   target.relu ? rectified<T>(sum) : sum);
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
          most = larger<T>(most, load(corner + pixel * n));
        }
        if (place >= 0) store(to + place, most);
      }
    }
  }
};

// A chain laid out for images in the lanes: once a call, for all its blocks.
template <typename S, typename T>
class LaneChain {
 public:
  LaneChain(const std::vector<Link<S, T>>& links, std::vector<std::unique_ptr<LinkMemory>>& memory)
      : last_(plain_axes(links.back().out), n, links.back().channels()) {
    while (memory.size() < links.size()) memory.push_back(std::make_unique<LinkMemory>());
    for (size_t i = 0; i < links.size(); ++i) links_.emplace_back(links[i], *memory[i]);
    for (size_t i = 0; i <= links.size(); ++i) {
      sizes_[i % 2] = std::max(sizes_[i % 2], planes(i).layout.image());
      if (i < links.size()) own_ = std::max(own_, links_[i].own());
    }
  }

  // Images at .. at + count - 1, at most one for each lane; a link's channels in `parts` parts.
  void run(const Source<S>& x, S* y, int64_t at, int64_t count, int64_t parts) const {
    static thread_local Scratch scratch;
    T* memory = scratch.get<T>(sizes_[0] + sizes_[1] + own_);
    T* maps[2] = {memory, memory + sizes_[0]};
    T* own = memory + sizes_[0] + sizes_[1];
    const int64_t read = links_.front().link.channels_in;
    parallel_items(parts, parts, [&](int64_t part) {
      pack_lanes(x, planes(0).plan, planes(0).layout, at, count, read * part / parts,
                 read * (part + 1) / parts, maps[0]);
    });
    for (size_t i = 0; i < links_.size(); ++i) {
      parallel_items(parts, parts, [&](int64_t part) {
        links_[i].run(maps[i % 2], planes(i + 1), maps[(i + 1) % 2], own,
                      first_channel(links_[i].link, part, parts),
                      first_channel(links_[i].link, part + 1, parts));
      });
    }
    unpack(maps[links_.size() % 2], y, at, count);
  }

 private:
  static constexpr int n = kLanes<T>;
  std::vector<LaneLink<S, T>> links_;
  Planes last_;
  int64_t sizes_[2] = {0, 0}, own_ = 0;

  const Planes& planes(size_t i) const { return i < links_.size() ? links_[i].planes : last_; }

  void unpack(const T* from, S* y, int64_t at, int64_t count) const {
    const Link<S, T>& link = links_.back().link;
    const int64_t map = link.out[1] * link.out[2], image = link.channels() * map;
    for (int64_t c = 0; c < link.channels(); ++c) {
      unpack_pixels(from + c * last_.layout.channel, n, map, count, y + at * image + c * map,
                    image);
    }
  }
};

}  // namespace sparseq
