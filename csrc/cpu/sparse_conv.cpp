// sparse_conv: y[n, o, j] = b[o] + sum over entries (o; c, t) of value * x[n, c, s j + d t - P],
// its transpose, and sparse_conv_dv, the gradient of the values (sparseq/ops/sparse_conv.py).
//
// x and y are (N, channels, *spatial), contiguous; values (nnz) in CSR order, b one number for each
// channel of y or none; float, double, or 16-bit summed in float. Pointers, strides and offsets
// count elements. A channel without entries is its bias; dv is zero for an empty batch.
//
// A strip of the input is copied into zero-padded planes whose positions lie side by side: images
// in the lanes where the batch fills a vector, else pixels. A nonzero is then one broadcast against
// neighbors at its offset, and the sums of a tile of positions stay in registers over a whole
// output channel. Tiles are outermost and all channels pass over each, so that what a tile reads
// stays near. Every sum has one order, fixed by shapes and pattern: same bits on any threads.

#include <torch/csrc/stable/library.h>

#include <optional>

#include "sparse_conv/indirection.h"
#include "sparse_conv/slices.h"
#include "sparse_conv/slices_gradient.h"
#include "sparse_conv/tile_walks.h"
#include "sparse_conv/values_gradient.h"
#include "tensors/dtypes.h"
#include "tensors/pattern.h"
#include "tensors/sum_type.h"

namespace sparseq::ops {
namespace {

using namespace simd;
using namespace sparseq::sparse_conv;
using namespace tensors;

constexpr int kHeight = 1;              // the axis of a lone dimension: strips can cut it
constexpr int64_t kPlentyItems = 4;     // for each thread: strips are not cut into channels then
constexpr int64_t kPanelTiles = 8;      // from so many tiles on, putting entries in order pays
constexpr int64_t kPanelBytes = 16384;  // of input that a tile reads of one panel: half of L1
constexpr int64_t kPanelEntries = 12;   // fewest of a panel and channel, beside loading its sums

// Images laid out alike: `block` of them at a time, in `lanes` lanes.
struct Part {
  int64_t at, images, lanes, block;
};

// Whole vectors of images, then what is left: in lanes of its own if it fills half of them.
std::vector<Part> split_batch(int64_t batch, int64_t vector, int64_t pixels) {
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

Sizes spatial(const Geometry& g, const Tensor& x) { return g.sizes(sizes_of(x).data() + 2); }

// What both directions and the gradient of the values need to know.
struct Call : conv::Shape {
  Pattern pattern;
};

// Panels of input channels, such that what a tile reads of one stays in L1 while the channels of a
// group pass; 0 where there are too few tiles to pay for putting the entries in that order.
template <typename T>
int64_t panels_of(const Axes& axes, const PlaneLayout& layout, const Csr& csr, int64_t images) {
  const int64_t positions = images * axes[0].places(0) * axes[1].places(0) * axes[2].places(0);
  if (positions < kPanelTiles * kMostSums * kLanes<T>) return 0;
  const int64_t pixels = std::max<int64_t>(1, kMostSums * kLanes<T> / layout.lanes);
  const int64_t wide = std::min(pixels, axes[2].places(0));
  const int64_t high = std::clamp<int64_t>(pixels / wide, 1, axes[1].places(0));
  const int64_t near = (wide + axes[2].reach) * (high + axes[1].reach) * (1 + axes[0].reach) *
                       layout.lanes * conv::volume(layout.planes);
  const int64_t entries = csr.nnz() / std::max<int64_t>(1, csr.rows);
  const int64_t by_cache = layout.channels * near * static_cast<int64_t>(sizeof(T)) / kPanelBytes;
  const int64_t by_entries = entries / kPanelEntries;
  return std::clamp<int64_t>(std::min(by_cache, by_entries), 1, layout.channels);
}

template <typename S>
Source<S> source_of(const Tensor& x, const Sizes& size) {
  return {data_of<S>(x), x.size(0), x.size(1) * conv::volume(size), size};
}

// Calls body(strip, at, images, i, parts) for part i of the channels over each strip, `size` places
// of it, of each block of `images` images from image `at` on. `work`: vector operations for each
// vector of places.
template <typename T, typename Body>
void over_strips(const Axes& axes, const Sizes& size, const Part& part, int64_t work,
                 const Body& body) {
  const std::vector<Strip> strips = make_strips(axes, size);
  const int64_t blocks = (part.images + part.block - 1) / part.block;
  const int64_t items = blocks * static_cast<int64_t>(strips.size());
  const int64_t vectors = part.images * conv::volume(size) / kLanes<T> + 1;
  const int64_t threads = useful_threads(work * vectors * static_cast<int64_t>(strips.size()));
  const int64_t parts = parts_per_item(items, threads, kPlentyItems);
  parallel_items(items * parts, threads, [&](int64_t item) {
    const int64_t at = part.at + item / parts % blocks * part.block;
    const int64_t images = std::min(part.block, part.at + part.images - at);
    body(strips[item / parts / blocks], at, images, item % parts, parts);
  });
}

template <typename S, typename T>
void run_part(const Call& call, const Part& part, bool transposed, const Tensor& x, const S* values,
              const T* bias, Tensor& y) {
  static thread_local IndirectionMemory memory;
  constexpr int n = kLanes<T>;
  ConvJob<S, T> job;
  job.axes = conv_axes(call.g, call.in, call.out, transposed, part.lanes == 1);
  const int64_t read = transposed ? call.out_channels : call.in_channels;
  const Sizes size =
      strip_size(job.axes, part.lanes == 1 ? part.block : part.lanes, read, kStripBytes, sizeof(T));
  job.layout = make_layout(job.axes, size, part.lanes, read, n);
  job.x = source_of<S>(x, transposed ? call.out : call.in);
  job.y = mutable_data_of<S>(y);
  job.channels = y.size(1);
  const TapOffsets taps(job.axes, job.layout);
  const int64_t phases = job.axes[0].out_step * job.axes[1].out_step * job.axes[2].out_step;
  const int64_t panels = panels_of<T>(job.axes, job.layout, call.pattern.forward, part.images);
  job.indirections = transposed ? transposed_indirections<S, T>(call.pattern, values, call.g, taps,
                                                                phases, job.layout, panels, memory)
                                : forward_indirections<S, T>(call.pattern.forward, values, call.g,
                                                             taps, job.layout, panels, memory);
  for (Indirection<T>& indirection : job.indirections) indirection.bias = bias;
  job.kernel = job.indirections[0].table ? sum_tile_of<T, true> : sum_tile_of<T, false>;
  over_strips<T>(job.axes, size, part, call.pattern.forward.nnz() / phases + job.channels,
                 [&](const Strip& strip, int64_t at, int64_t images, int64_t i, int64_t parts) {
                   run_strip(job, strip, at, images, i, parts);
                 });
}

// Whether entries are whole 3x3 slices that are read neighbor by neighbor, one way or the other.
bool has_slices(const Call& call) {
  if (call.g.dims != 2 || call.g.kernel[1] != kSide || call.g.kernel[2] != kSide) return false;
  const Axes axes = conv_axes(call.g, call.in, call.out, false, false);
  const Axes transposed = conv_axes(call.g, call.in, call.out, true, false);
  for (int i = 1; i < kAxes; ++i) {
    if (!three_neighbors(axes[i]) || !three_neighbors(transposed[i])) return false;
  }
  return whole_slices(call.pattern.forward, kSlice);
}

// How many images of a convolution by slices are laid out together: 1 where the rows of their maps
// fill vectors, some that are interleaved where the planes stay near, else 0.
template <typename T>
int64_t slice_images(const Call& call, const Sizes& in, const Sizes& out, int64_t channels,
                     bool dots) {
  if (fills_vectors<T>(out[2])) return 1;
  const int64_t image = channels * (in[1] + kSide - 1) * (in[2] + kSide - 1) * sizeof(T);
  const int64_t images = interleaved_images<T>(in, out, call.batch, [&](int64_t some) {
    return dots ? some * image <= kSliceBytes : some * out[1] * out[2] <= kSliceSums * kLanes<T>;
  });
  return images * image <= kSliceBytes ? images : 0;
}

// The parts of a batch, `images` of it together where that is not 0.
template <typename T>
std::vector<Part> parts_of(int64_t batch, const Sizes& map, int64_t images) {
  if (images > 0) return {{0, batch, images, images}};
  return split_batch(batch, kLanes<T>, conv::volume(map));
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
  static thread_local IndirectionMemory memory;
  constexpr int n = kLanes<T>;
  SliceJob<S, T> job;
  ConvJob<S, T>& conv = job.conv;
  conv.axes = conv_axes(call.g, call.in, call.out, transposed, false);
  const int64_t read = transposed ? call.out_channels : call.in_channels;
  const Sizes size = slice_strip<T>(conv.axes, part.lanes, read);
  conv.layout = make_layout(conv.axes, size, part.lanes, read, n);
  conv.x = source_of<S>(x, transposed ? call.out : call.in);
  conv.y = mutable_data_of<S>(y);
  conv.channels = y.size(1);
  job.edges =
      transposed
          ? transposed_edges<S, T>(call.pattern, values, call.g.groups, conv.layout, memory)
          : forward_edges<S, T>(call.pattern.forward, values, call.g.groups, conv.layout, memory);
  job.edges.bias = bias;
  over_strips<T>(conv.axes, size, part, call.pattern.forward.nnz() + conv.channels,
                 [&](const Strip& strip, int64_t at, int64_t images, int64_t i, int64_t parts) {
                   run_slice_strip(job, strip, at, images, i, parts);
                 });
}

Call view_call(const char* op, const std::vector<Tensor>& pattern,
               const std::vector<int64_t>& geometry) {
  Call call{{conv::read_geometry(op, geometry, kHeight), 0, 0, 0, {}, {}},
            view_pattern(op, pattern)};
  const Csr& csr = call.pattern.forward;
  SPARSEQ_CHECK(
      csr.columns % call.taps() == 0 && csr.rows % call.g.groups == 0, op, "pattern",
      text("must have ", call.g.groups, " groups of rows, and ", call.taps(), " taps a channel"),
      tuple_text({csr.rows, csr.columns}));
  call.out_channels = csr.rows;
  call.in_channels = size_product(op, "groups", csr.columns / call.taps(), call.g.groups);
  return call;
}

void check_maps(const char* op, const Named& x, int64_t channels, int dims) {
  SPARSEQ_CHECK(x.tensor.dim() == dims + 2 && x.tensor.size(1) == channels, op, x.name,
                text("must be (N, ", channels, ") with ", dims, " spatial dimensions"),
                shape_text(x.tensor));
}

// Completes a call with the sizes of x and of what it gives; returns those of y.
std::vector<int64_t> take_sizes(const char* op, const Tensor& x, bool transposed, Call& call) {
  Sizes &read = transposed ? call.out : call.in, &written = transposed ? call.in : call.out;
  call.batch = x.size(0);
  read = spatial(call.g, x);
  if (!transposed) conv::check_places(op, "x", call.g, read);
  for (int i = 0; i < kAxes; ++i) {
    SPARSEQ_CHECK(read[i] <= conv::kMostPlaces, op, "x", "must have sizes that fit in 32 bits",
                  shape_text(x));
    written[i] = transposed ? call.g.input(i, read[i]) : call.g.output(i, read[i]);
    SPARSEQ_CHECK(written[i] >= 1, op, "x", "must be large enough for the kernel", shape_text(x));
  }
  if (transposed) conv::check_places(op, "x", call.g, written);
  std::vector<int64_t> sizes = {call.batch, transposed ? call.in_channels : call.out_channels};
  for (int i = 0; i < call.g.dims; ++i) sizes.push_back(written[call.g.axis(i)]);
  return sizes;
}

Tensor sparse_conv(const Tensor& x, const Tensor& values, const std::optional<Tensor>& bias,
                   const std::vector<Tensor>& pattern, bool transposed,
                   const std::vector<int64_t>& geometry) {
  const char* op = "sparse_conv";
  Call call = view_call(op, pattern, geometry);
  check_maps(op, {"x", x}, transposed ? call.out_channels : call.in_channels, call.g.dims);
  check_values(op, "values", values, call.pattern.forward.nnz());
  if (bias.has_value()) {
    check_vector(op, {"bias", *bias}, transposed ? call.in_channels : call.out_channels);
    check_dtype(op, {"bias", *bias}, {"values", values});
  }
  check_dtype(op, {"x", x}, {"values", values});
  const std::vector<int64_t> sizes = take_sizes(op, x, transposed, call);
  const Tensor input = as_contiguous(x), contiguous = as_contiguous(values);
  const std::optional<Tensor> offset = as_contiguous(bias);
  Tensor y = new_output(x, sizes);
  if (y.numel() == 0) return y;
  with_types(op, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    static thread_local Scratch memory;
    const T* start = as_sum_type<T>(data_or_null<S>(offset), sizes[1], memory);
    const S* weights = data_of<S>(contiguous);
    const Sizes &read = transposed ? call.out : call.in, &written = transposed ? call.in : call.out;
    const bool slices = has_slices(call);
    const int64_t near = slices ? slice_images<T>(call, read, written, x.size(1), false) : 0;
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
  job.indirection = {csr.row_ptr,
                     csr.col_idx,
                     nullptr,
                     table,
                     nullptr,
                     csr.rows / call.g.groups,
                     csr.columns / call.taps() * job.layout.channel};
  job.rows = csr.rows;
  job.nnz = csr.nnz();
  dot_blocks(job, make_strips(job.axes, size), part.at, part.images, part.block, start, dv);
  for (int64_t p = 0; p < job.nnz && !taps.all_used(); ++p) {
    if (taps.offsets[csr.col_idx[p] % call.taps()] < 0) dv[p] = T(0);
  }
}

template <typename S, typename T>
void run_slice_values(const Call& call, const Part& part, const Tensor& dy, const Tensor& x,
                      bool start, T* dv) {
  static thread_local IndirectionMemory memory;
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
  Call call = view_call(op, pattern, geometry);
  check_maps(op, {"x", x}, call.in_channels, call.g.dims);
  check_maps(op, {"dy", dy}, call.out_channels, call.g.dims);
  call.batch = x.size(0);
  call.in = spatial(call.g, x);
  call.out = spatial(call.g, dy);
  conv::check_places(op, "x", call.g, call.in);
  SPARSEQ_CHECK(dy.size(0) == call.batch, op, "dy", "must have the batch of x", shape_text(dy));
  for (int i = 0; i < kAxes; ++i) {
    SPARSEQ_CHECK(call.out[i] == call.g.output(i, call.in[i]), op, "dy",
                  "must have the size that x gives", shape_text(dy));
  }
  check_dtype(op, {"x", x}, {"dy", dy});
  const Tensor rows = as_contiguous(dy), columns = as_contiguous(x);
  const int64_t nnz = call.pattern.forward.nnz();
  if (dy.numel() == 0 || x.numel() == 0) return torch::stable::new_zeros(dy, {nnz});
  Tensor dv = new_output(dy, {nnz});
  if (nnz == 0) return dv;
  with_types(op, dy, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    const bool slices = has_slices(call);
    const int64_t channels = std::max(call.in_channels, call.out_channels);
    const int64_t near = slices ? slice_images<T>(call, call.in, call.out, channels, true) : 0;
    with_sums<S, T>(mutable_data_of<S>(dv), nnz, [&](T* sums) {
      bool start = true;
      for (const Part& part : parts_of<T>(call.batch, call.out, near)) {
        if (near > 0 || (slices && part.lanes > 1)) {
          run_slice_values<S, T>(call, part, rows, columns, start, sums);
        } else {
          run_values<S, T>(call, part, rows, columns, start, sums);
        }
        start = false;
      }
    });
  });
  return dv;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("sparse_conv", TORCH_BOX(&sparse_conv));
  m.impl("sparse_conv_dv", TORCH_BOX(&sparse_conv_dv));
}

}  // namespace sparseq::ops
