// sparse_conv: y[n, o, j] = b[o] + sum over entries (o; c, t) of value * x[n, c, s j + d t - P],
// its transpose, and sparse_conv_dv, the gradient of the values (sparseq/ops/sparse_conv.py).
//
// x and y are (N, channels, *spatial), contiguous; float, double, or 16-bit summed in float. A
// strip of the input is copied into zero-padded planes whose positions lie side by side: images in
// the lanes where the batch fills a vector, else pixels. A nonzero is then one broadcast against
// neighbors at its offset, and the sums of a tile of positions stay in registers over a whole
// output channel. Tiles are outermost and all channels pass over each, so that what a tile reads
// stays near. Every sum has one order, fixed by shapes and pattern: same bits on any threads.

#include <torch/csrc/stable/library.h>

#include <optional>

#include "dtypes.h"
#include "sparse_conv_forward.h"
#include "sparse_conv_program.h"
#include "sparse_conv_slices.h"
#include "sparse_conv_slices_dv.h"
#include "sparse_conv_values.h"

namespace sparseq {
namespace {

constexpr int64_t kPanelTiles = 8;      // from so many tiles on, putting entries in order pays
constexpr int64_t kPanelBytes = 16384;  // of input that a tile reads of one panel: half of L1
constexpr int64_t kPanelEntries = 12;   // fewest of a panel and channel, beside loading its sums

// Images laid out alike: `block` of them at a time, in `lanes` lanes.
struct Part {
  int64_t at, images, lanes, block;
};

// Whole vectors of images, then what is left: in lanes of its own if it fills half of them.
inline std::vector<Part> split_batch(int64_t batch, int64_t vector, int64_t pixels) {
  std::vector<Part> parts;
  const int64_t rest = batch % vector;
  const int64_t filled = batch - (2 * rest > vector ? 0 : rest);
  int64_t lanes = vector;
  while (lanes * pixels < kMostSums * vector && 2 * lanes <= filled) lanes *= 2;
  if (filled > 0) parts.push_back({0, filled, lanes, lanes});
  if (filled < batch) {
    const int64_t vectors = (pixels + vector - 1) / vector;
    const int64_t block = std::min(batch - filled, std::max<int64_t>(1, kMostSums / vectors));
    parts.push_back({filled, batch - filled, 1, block});
  }
  return parts;
}

Sizes spatial(const Geometry& g, const Tensor& x) {
  Sizes sizes = {1, 1, 1};
  for (int i = 0; i < g.dims; ++i) sizes[g.axis(i)] = x.size(2 + i);
  return sizes;
}

// What both directions and the gradient of the values need to know.
struct Call {
  Geometry g;
  Pattern pattern;
  Sizes in, out;
  int64_t in_channels, out_channels, batch;
};

// Panels of input channels, such that what a tile reads of one stays in L1 while the channels of a
// group pass; 0 where there are too few tiles to pay for putting the entries in that order.
template <typename T>
int64_t panels_of(const Axes& axes, const Layout& layout, const Csr& csr, int64_t images) {
  const int64_t positions = images * axes[0].places(0) * axes[1].places(0) * axes[2].places(0);
  if (positions < kPanelTiles * kMostSums * kLanes<T>) return 0;
  const int64_t pixels = std::max<int64_t>(1, kMostSums * kLanes<T> / layout.lanes);
  const int64_t wide = std::min(pixels, axes[2].places(0));
  const int64_t high = std::clamp<int64_t>(pixels / wide, 1, axes[1].places(0));
  const int64_t near = (wide + axes[2].reach) * (high + axes[1].reach) * (1 + axes[0].reach) *
                       layout.lanes * layout.planes[0] * layout.planes[1] * layout.planes[2];
  const int64_t entries = csr.nnz() / std::max<int64_t>(1, csr.rows);
  const int64_t by_cache = layout.channels * near * static_cast<int64_t>(sizeof(T)) / kPanelBytes;
  const int64_t by_entries = entries / kPanelEntries;
  return std::clamp<int64_t>(std::min(by_cache, by_entries), 1, layout.channels);
}

template <typename S>
Source<S> source_of(const Tensor& x, const Sizes& size) {
  const int64_t map = size[0] * size[1] * size[2];
  return {static_cast<const S*>(x.const_data_ptr()), x.size(0), x.size(1) * map, size};
}

template <typename S, typename T>
void run_part(const Call& call, const Part& part, bool transposed, const Tensor& x, const S* values,
              const T* bias, Tensor& y) {
  static thread_local ProgramMemory memory;
  constexpr int n = kLanes<T>;
  ConvJob<S, T> job;
  job.axes = conv_axes(call.g, call.in, call.out, transposed, part.lanes == 1);
  const int64_t read = transposed ? call.out_channels : call.in_channels;
  const Sizes size =
      strip_size(job.axes, part.lanes == 1 ? part.block : part.lanes, read, kStripBytes, sizeof(T));
  job.layout = make_layout(job.axes, size, part.lanes, read, n);
  job.x = source_of<S>(x, transposed ? call.out : call.in);
  job.y = static_cast<S*>(y.mutable_data_ptr());
  job.channels = y.size(1);
  const TapOffsets taps(job.axes, job.layout);
  const int64_t phases = job.axes[0].out_step * job.axes[1].out_step * job.axes[2].out_step;
  const int64_t panels = panels_of<T>(job.axes, job.layout, call.pattern.forward, part.images);
  job.programs = transposed ? transposed_programs<S, T>(call.pattern, values, call.g, taps, phases,
                                                        job.layout, panels, memory)
                            : forward_programs<S, T>(call.pattern.forward, values, call.g, taps,
                                                     job.layout, panels, memory);
  for (Program<T>& program : job.programs) program.bias = bias;
  job.kernel = job.programs[0].table ? sum_tile_of<T, true> : sum_tile_of<T, false>;
  const std::vector<Strip> strips = make_strips(job.axes, size);
  const int64_t blocks = (part.images + part.block - 1) / part.block;
  const int64_t items = blocks * static_cast<int64_t>(strips.size());
  const int64_t positions = part.images * size[0] * size[1] * size[2] / n + 1;
  const int64_t threads = useful_threads((call.pattern.forward.nnz() / phases + job.channels) *
                                         positions * strips.size());
  const int64_t parts = items % threads == 0 || items >= 4 * threads ? 1 : threads;
  parallel_items(items * parts, threads, [&](int64_t item) {
    const int64_t block = item / parts % blocks, at = part.at + block * part.block;
    const int64_t images = std::min(part.block, part.at + part.images - at);
    run_strip(job, strips[item / parts / blocks], at, images, item % parts, parts);
  });
}

// Whether entries are whole 3x3 slices that are read neighbor by neighbor, one way or the other.
bool has_slices(const Call& call) {
  if (call.g.dims != 2 || call.g.kernel[1] != kSide || call.g.kernel[2] != kSide) return false;
  const Axes axes = conv_axes(call.g, call.in, call.out, false, false);
  const Axes back = conv_axes(call.g, call.in, call.out, true, false);
  for (int i = 1; i < kAxes; ++i) {
    if (!three_neighbors(axes[i]) || !three_neighbors(back[i])) return false;
  }
  return whole_slices(call.pattern.forward, kSlice);
}

// How many images of a convolution by slices are laid out together: 1 where the rows of their maps
// fill vectors, some that take turns where the planes stay near, else 0.
template <typename T>
int64_t slice_images(const Call& call, const Sizes& in, const Sizes& out, int64_t channels,
                     bool dots) {
  if (fills_vectors<T>(out[2])) return 1;
  const int64_t place = channels * (in[1] + kSide - 1) * (in[2] + kSide - 1) * sizeof(T);
  const int64_t turns = turns_of<T>(in, out, call.batch, [&](int64_t turns) {
    return dots ? turns * place <= kSliceBytes : turns * out[1] * out[2] <= kSliceSums * kLanes<T>;
  });
  return turns * place <= kSliceBytes ? turns : 0;
}

// The parts of a batch, `images` of it together where that is not 0.
template <typename T>
std::vector<Part> parts_of(int64_t batch, const Sizes& map, int64_t images) {
  if (images > 0) return {{0, batch, images, images}};
  return split_batch(batch, kLanes<T>, map[0] * map[1] * map[2]);
}

// Places of a strip of the packed planes of slices.
template <typename T>
Sizes slice_strip(const Axes& axes, int64_t lanes, int64_t channels) {
  if (lanes > 1 && lanes < kLanes<T>) return {1, axes[1].out, axes[2].out};
  return strip_size(axes, lanes, channels, lanes == 1 ? kSliceBytes : kStripBytes, sizeof(T));
}

template <typename S, typename T>
void run_slices(const Call& call, const Part& part, bool transposed, const Tensor& x,
                const S* values, const T* bias, Tensor& y) {
  static thread_local ProgramMemory memory;
  constexpr int n = kLanes<T>;
  SliceJob<S, T> job;
  ConvJob<S, T>& conv = job.conv;
  conv.axes = conv_axes(call.g, call.in, call.out, transposed, false);
  const int64_t read = transposed ? call.out_channels : call.in_channels;
  const Sizes size = slice_strip<T>(conv.axes, part.lanes, read);
  conv.layout = make_layout(conv.axes, size, part.lanes, read, n);
  conv.x = source_of<S>(x, transposed ? call.out : call.in);
  conv.y = static_cast<S*>(y.mutable_data_ptr());
  conv.channels = y.size(1);
  job.edges =
      transposed
          ? transposed_edges<S, T>(call.pattern, values, call.g.groups, conv.layout, memory)
          : forward_edges<S, T>(call.pattern.forward, values, call.g.groups, conv.layout, memory);
  job.edges.bias = bias;
  const std::vector<Strip> strips = make_strips(conv.axes, size);
  const int64_t blocks = (part.images + part.block - 1) / part.block;
  const int64_t items = blocks * static_cast<int64_t>(strips.size());
  const int64_t positions = part.images * size[1] * size[2] / n + 1;
  const int64_t threads = useful_threads((call.pattern.forward.nnz() + conv.channels) * positions *
                                         static_cast<int64_t>(strips.size()));
  const int64_t parts = items % threads == 0 || items >= 4 * threads ? 1 : threads;
  parallel_items(items * parts, threads, [&](int64_t item) {
    const int64_t at = part.at + item / parts % blocks * part.block;
    const int64_t images = std::min(part.block, part.at + part.images - at);
    run_slice_strip(job, strips[item / parts / blocks], at, images, item % parts, parts);
  });
}

// Bias as sums are kept in, or null.
template <typename S, typename T>
const T* bias_as(const std::optional<Tensor>& bias, Scratch& memory) {
  const S* stored = data_or_null<S>(bias);
  if constexpr (std::is_same_v<S, T>) {
    return stored;
  } else {
    if (stored == nullptr) return nullptr;
    T* converted = memory.get<T>(bias->numel());
    detail::copy_row<T>(stored, converted, bias->numel());
    return converted;
  }
}

Call view_call(const char* op, const std::vector<Tensor>& pattern,
               const std::vector<int64_t>& geometry, const Tensor& x) {
  Call call{read_geometry(op, geometry), view_pattern(op, pattern), {}, {}, 0, 0, 0};
  const Csr& csr = call.pattern.forward;
  SPARSEQ_CHECK(csr.columns % call.g.taps() == 0 && csr.rows % call.g.groups == 0, op, "pattern",
                "must have rows for the groups and columns for the taps", csr.columns);
  SPARSEQ_CHECK(x.dim() == call.g.dims + 2, op, "x", "must be (N, channels, *spatial)", x.dim());
  call.out_channels = csr.rows;
  call.in_channels = csr.columns / call.g.taps() * call.g.groups;
  call.batch = x.size(0);
  return call;
}

Tensor sparse_conv(const Tensor& x, const Tensor& values, const std::optional<Tensor>& bias,
                   const std::vector<Tensor>& pattern, bool transposed,
                   const std::vector<int64_t>& geometry) {
  const char* op = "sparse_conv";
  Call call = view_call(op, pattern, geometry, x);
  (transposed ? call.out : call.in) = spatial(call.g, x);
  std::vector<int64_t> sizes = {call.batch, transposed ? call.in_channels : call.out_channels};
  for (int i = 0; i < call.g.dims; ++i) {
    const int axis = call.g.axis(i);
    int64_t& size = (transposed ? call.in : call.out)[axis];
    size = transposed ? call.g.input(axis, call.out[axis]) : call.g.output(axis, call.in[axis]);
    SPARSEQ_CHECK(size >= 1, op, "x", "must be large enough for the kernel", size);
    sizes.push_back(size);
  }
  for (int i = 0; i < kAxes; ++i) {
    if (call.in[i] == 0) call.in[i] = 1;
    if (call.out[i] == 0) call.out[i] = 1;
  }
  SPARSEQ_CHECK(x.size(1) == (transposed ? call.out_channels : call.in_channels), op, "x",
                "must have the channels of the pattern", x.size(1));
  SPARSEQ_CHECK(values.numel() == call.pattern.forward.nnz(), op, "values", "must fit the pattern",
                values.numel());
  check_same_type(op, "values", x, values);
  if (bias.has_value()) check_same_type(op, "bias", x, *bias);
  const Tensor input = as_contiguous(x), kept = as_contiguous(values);
  const std::optional<Tensor> offset = as_contiguous(bias);
  Tensor y = new_output(x, sizes);
  if (y.numel() == 0) return y;
  with_types(op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    static thread_local Scratch memory;
    const T* start = bias_as<S, T>(offset, memory);
    const Sizes& written = transposed ? call.in : call.out;
    const S* weights = static_cast<const S*>(kept.const_data_ptr());
    const Sizes& got = transposed ? call.out : call.in;
    const bool slices = has_slices(call);
    const int64_t near = slices ? slice_images<T>(call, got, written, x.size(1), false) : 0;
    for (const Part& part : parts_of<T>(call.batch, written, near)) {
      if (near > 0 || (slices && part.lanes > 1)) {
        run_slices<S, T>(call, part, transposed, input, weights, start, y);
      } else {
        run_part<S, T>(call, part, transposed, input, weights, start, y);
      }
    }
  });
  return y;
}

template <typename S, typename T>
void run_values(const Call& call, const Part& part, const Tensor& dy, const Tensor& x, bool start,
                T* dv) {
  static thread_local Scratch memory;
  constexpr int n = kLanes<T>;
  ValuesJob<S, T> job;
  job.axes = conv_axes(call.g, call.in, call.out, false, part.lanes == 1);
  for (int i = 0; i < kAxes; ++i) job.plain[i] = plain_axis(call.out[i]);
  const int64_t copies = part.lanes == 1 ? part.block : part.lanes;
  const Sizes size = strip_size(job.axes, copies, call.in_channels, kStripBytes, sizeof(T));
  job.layout = make_layout(job.axes, size, part.lanes, call.in_channels, n);
  job.dy_layout = make_layout(job.plain, size, part.lanes, call.out_channels, n);
  job.x = source_of<S>(x, call.in);
  job.dy = source_of<S>(dy, call.out);
  const Csr& csr = call.pattern.forward;
  const TapOffsets taps(job.axes, job.layout);
  const int32_t* table = column_table(taps, job.layout, csr.columns, memory);
  job.program = {csr.row_ptr,
                 csr.col_idx,
                 nullptr,
                 table,
                 nullptr,
                 csr.rows / call.g.groups,
                 csr.columns / call.g.taps() * job.layout.channel};
  job.rows = csr.rows;
  job.nnz = csr.nnz();
  dot_blocks(job, make_strips(job.axes, size), part.at, part.images, part.block, start, dv);
  for (int64_t p = 0; p < job.nnz && !taps.all_used(); ++p) {
    if (taps.offsets[csr.col_idx[p] % call.g.taps()] < 0) dv[p] = T(0);
  }
}

template <typename S, typename T>
void run_slice_values(const Call& call, const Part& part, const Tensor& dy, const Tensor& x,
                      bool start, T* dv) {
  static thread_local ProgramMemory memory;
  SliceDotJob<S, T> job;
  job.axes = conv_axes(call.g, call.in, call.out, false, false);
  for (int i = 0; i < kAxes; ++i) job.plain[i] = plain_axis(call.out[i]);
  const Sizes size = slice_strip<T>(job.axes, part.lanes, call.in_channels);
  job.layout = make_layout(job.axes, size, part.lanes, call.in_channels, kLanes<T>);
  job.dy_layout = make_layout(job.plain, size, part.lanes, call.out_channels, kLanes<T>);
  job.x = source_of<S>(x, call.in);
  job.dy = source_of<S>(dy, call.out);
  job.edges = forward_edges<T, T>(call.pattern.forward, nullptr, call.g.groups, job.layout, memory);
  job.rows = call.pattern.forward.rows;
  job.nnz = call.pattern.forward.nnz();
  dot_slice_blocks(job, make_strips(job.axes, size), part.at, part.images, start, dv);
}

Tensor sparse_conv_dv(const Tensor& dy, const Tensor& x, const std::vector<Tensor>& pattern,
                      const std::vector<int64_t>& geometry) {
  const char* op = "sparse_conv_dv";
  Call call = view_call(op, pattern, geometry, x);
  call.in = spatial(call.g, x);
  call.out = spatial(call.g, dy);
  for (int i = 0; i < call.g.dims; ++i) {
    const int axis = call.g.axis(i);
    SPARSEQ_CHECK(call.out[axis] == call.g.output(axis, call.in[axis]), op, "dy",
                  "must have the size that x gives", call.out[axis]);
  }
  SPARSEQ_CHECK(x.size(1) == call.in_channels, op, "x", "must have the pattern's channels",
                x.size(1));
  SPARSEQ_CHECK(dy.size(1) == call.out_channels && dy.size(0) == call.batch, op, "dy",
                "must have x's batch and the pattern's rows", dy.size(1));
  check_same_type(op, "x", dy, x);
  const Tensor rows = as_contiguous(dy), columns = as_contiguous(x);
  const int64_t nnz = call.pattern.forward.nnz();
  if (dy.numel() == 0 || x.numel() == 0) return torch::stable::new_zeros(dy, {nnz});
  Tensor dv = new_output(dy, {nnz});
  if (nnz == 0) return dv;
  with_types(op, dy, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    static thread_local Scratch scratch;
    S* out = static_cast<S*>(dv.mutable_data_ptr());
    T* sums = std::is_same_v<S, T> ? reinterpret_cast<T*>(out) : scratch.get<T>(nnz);
    bool start = true;
    const bool slices = has_slices(call);
    const int64_t channels = std::max(call.in_channels, call.out_channels);
    const int64_t near = slices ? slice_images<T>(call, call.in, call.out, channels, true) : 0;
    for (const Part& part : parts_of<T>(call.batch, call.out, near)) {
      if (near > 0 || (slices && part.lanes > 1)) {
        run_slice_values<S, T>(call, part, rows, columns, start, sums);
      } else {
        run_values<S, T>(call, part, rows, columns, start, sums);
      }
      start = false;
    }
    if constexpr (!std::is_same_v<S, T>) std::copy(sums, sums + nnz, out);
  });
  return dv;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("sparse_conv", TORCH_BOX(&sparse_conv));
  m.impl("sparse_conv_dv", TORCH_BOX(&sparse_conv_dv));
}

}  // namespace sparseq
