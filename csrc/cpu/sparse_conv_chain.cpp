// sparse_conv_chain: sparse convolutions one after another, each with its bias and, where asked, a
// ReLU and a max pooling (sparseq/ops/sparse_conv_chain.py).
//
//     x_0 = x,   x_l = pool_l(f_l(A_l x_(l-1) + b_l)),   y = x_L,   f_l the identity or max(0, .)
//
// x and y are (N, channels, height, width), contiguous; values (nnz) of each layer in CSR order, b
// one number for each channel or empty; 16-bit types are computed in float throughout and rounded
// at the end. Pointers, strides and offsets count elements. A channel without entries is its bias.
//
// As many images as a vector has lanes go through all layers together, one in each lane; a few
// images left over have pixels in the lanes. What lies between two layers is never copied: sums go
// through ReLU and pooling to where the next layer reads. Which image goes which way depends on the
// sizes alone, so the bits do not depend on the threads.

#include <torch/csrc/stable/library.h>

#include "sparse_conv_chain/images_in_lanes.h"
#include "sparse_conv_chain/pixels_in_lanes.h"
#include "tensors/dtypes.h"
#include "tensors/pattern.h"
#include "tensors/sum_type.h"

namespace sparseq::ops {
namespace {

using namespace simd;
using namespace sparseq::sparse_conv_chain;
using namespace tensors;
using sparse_conv::Source;

using Tensors = std::vector<Tensor>;
using Numbers = std::vector<int64_t>;
constexpr const char* kOp = "sparse_conv_chain";
constexpr int kHeight = 1;        // the axis of a lone dimension, of which there are none here
constexpr int64_t kNumbers = 11;  // of the geometry of two dimensions

template <typename S, typename T>
void run(const std::vector<Link<S, T>>& links, const Source<S>& x, S* y) {
  static thread_local std::vector<std::unique_ptr<LinkMemory>> memory;
  constexpr int64_t n = kLanes<T>;
  int64_t operations = 0;
  for (const Link<S, T>& link : links) operations += link.operations();
  const int64_t rest = x.images % n;
  const bool lines = rest > 0 && 3 * rest <= n && PixelsInLanes<S, T>::fits(links);
  const int64_t blocks = lines ? x.images / n : (x.images + n - 1) / n;
  const int64_t threads = useful_threads(operations * (x.images + n - 1) / n);
  if (blocks > 0) {
    const ImagesInLanes<S, T> chain(links, memory);
    const int64_t together = blocks / threads * threads;  // one block for each thread at a time
    const auto block = [&](int64_t i, int64_t parts) {
      chain.run(x, y, i * n, std::min(n, x.images - i * n), parts);
    };
    parallel_items(together, threads, [&](int64_t i) { block(i, 1); });
    for (int64_t i = together; i < blocks; ++i) block(i, threads);
  }
  if (lines) PixelsInLanes<S, T>(links, rest).run(x, y, blocks * n, threads);
}

// Sizes of the convolution of layer `index` that takes `channels` maps of size `in`, checked.
template <typename S, typename T>
Link<S, T> link_of(const conv::Geometry& g, const Pattern& pattern, size_t index, int64_t channels,
                   const Sizes& in, int64_t pool) {
  const Csr& csr = pattern.forward;
  Link<S, T> link{g, csr, nullptr, nullptr, {}, false, pool, in, {1, 1, 1}, {1, 1, 1}, channels};
  link.pattern = pattern.copy;
  SPARSEQ_CHECK(csr.columns % g.taps() == 0 && csr.rows % g.groups == 0, kOp, "pattern",
                text("must have ", g.groups, " groups of rows, and ", g.taps(), " taps a channel"),
                tuple_text({csr.rows, csr.columns}));
  const int64_t taken = size_product(kOp, "groups", csr.columns / g.taps(), g.groups);
  SPARSEQ_CHECK(taken == channels, kOp, "patterns",
                text("must take the ", channels, " channels that come to layer ", index), taken);
  conv::check_places(kOp, "x", g, in);
  SPARSEQ_CHECK(pool >= 1, kOp, text("pool[", index, "]"), "must be at least 1", pool);
  for (int axis = 1; axis < conv::kAxes; ++axis) {
    link.conv[axis] = g.output(axis, in[axis]);
    link.out[axis] = link.conv[axis] / pool;
    SPARSEQ_CHECK(link.conv[axis] >= 1 && link.out[axis] >= 1, kOp, "x",
                  text("must be large enough for the kernel and the pooling of layer ", index),
                  tuple_text({channels, in[1], in[2]}));
  }
  return link;
}

// The lists of a call, as they come.
struct Arguments {
  Tensors values, biases, patterns, orders;
  Numbers geometry, relu, pool;
};

void check_lengths(const Arguments& a) {
  const size_t count = a.values.size();
  SPARSEQ_CHECK(count > 0 && a.biases.size() == count && a.relu.size() == count &&
                    a.pool.size() == count && a.patterns.size() == 5 * count &&
                    a.geometry.size() == kNumbers * count,
                kOp, "values, biases, geometries, relu, pool, patterns",
                "must have an entry for each convolution, at least one, and five of patterns",
                text(count, ", ", a.biases.size(), ", ", a.geometry.size() / kNumbers, ", ",
                     a.relu.size(), ", ", a.pool.size(), " and ", a.patterns.size()));
  SPARSEQ_CHECK(a.orders.empty() || a.orders.size() == 3 * count, kOp, "orders",
                "must have three for each convolution, or none", a.orders.size());
}

// The order by taps of link `index`; a copy that is checked against its pattern, where it is not
// one that sparseq.formats.CSRPattern made for this pattern.
template <typename S, typename T>
void take_order(const Tensors& orders, size_t index, Link<S, T>& link) {
  if (orders.empty()) return;
  constexpr size_t count = 3;
  const auto tensors = std::span(orders).subspan(count * index, count);
  const int64_t taps = link.g.taps(), groups = link.g.groups;
  const int64_t row_ptr = static_cast<int64_t>(reinterpret_cast<intptr_t>(link.csr.row_ptr));
  const auto entry = entry_of<count, 3>(tensors, {row_ptr, taps, groups});
  for (size_t i = 0; i < count; ++i) link.order[i] = reinterpret_cast<const int32_t*>(entry[i]);
  if (link.pattern == nullptr && trusted().has(entry)) return;
  const int64_t starts = size_product(kOp, "orders", link.csr.rows, taps) + 1;
  SPARSEQ_CHECK(tensors[0].numel() == starts && tensors[1].numel() == link.csr.nnz() &&
                    tensors[2].numel() == link.csr.nnz(),
                kOp, "orders", "must be of the pattern's size", shape_text(tensors[0]));
  const PrivateCopy copy(kOp, "orders", tensors);
  for (size_t i = 0; i < count; ++i) link.order[i] = copy.at(i);
  link.order_copy = copy.memory();
  SPARSEQ_CHECK(is_tap_order({link.order[0], link.order[1], link.order[2]}, link.csr, taps, groups),
                kOp, "orders", text("must be the tap_order of the pattern of layer ", index),
                "other contents");
}

// The links of a chain; biases that must be converted for the sums go to `memory`.
template <typename S, typename T>
std::vector<Link<S, T>> links_of(const Tensor& x, const Arguments& a, T* memory) {
  std::vector<Link<S, T>> links;
  Sizes in = {1, x.size(2), x.size(3)};
  int64_t channels = x.size(1);
  for (size_t i = 0; i < a.values.size(); ++i) {
    const Tensor &values = a.values[i], &bias = a.biases[i];
    const auto numbers = a.geometry.begin() + static_cast<std::ptrdiff_t>(kNumbers * i);
    const conv::Geometry g =
        conv::read_geometry(kOp, Numbers(numbers, numbers + kNumbers), kHeight);
    Link<S, T> link = link_of<S, T>(g, view_link(kOp, a.patterns, i), i, channels, in, a.pool[i]);
    check_link(kOp, "layer", i, link.csr, x, values, bias);
    link.values = data_of<S>(values);
    const S* stored = bias.numel() == 0 ? nullptr : data_of<S>(bias);
    link.bias = as_sum_type<T>(stored, bias.numel(), memory);
    link.relu = a.relu[i] != 0;
    take_order(a.orders, i, link);
    links.push_back(link);
    in = link.out;
    channels = link.channels();
  }
  return links;
}

Tensor sparse_conv_chain(const Tensor& x, const Tensors& values, const Tensors& biases,
                         const Tensors& patterns, const Tensors& orders, const Numbers& geometry,
                         const Numbers& relu, const Numbers& pool) {
  const Arguments arguments = {
      as_contiguous(values), as_contiguous(biases), patterns, orders, geometry, relu, pool};
  check_lengths(arguments);
  SPARSEQ_CHECK(x.dim() == 4, kOp, "x", "must be (N, C, height, width)", shape_text(x));
  const Tensor input = as_contiguous(x);
  int64_t biased = 0;
  for (const Tensor& bias : biases) biased += bias.numel();
  std::optional<Tensor> y;
  with_types(kOp, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    static thread_local Scratch memory;
    const std::vector<Link<S, T>> links =
        links_of<S, T>(x, arguments, memory.get<T>(converted_size<S, T>(biased)));
    const Link<S, T>& last = links.back();
    y = new_output(x, {x.size(0), last.channels(), last.out[1], last.out[2]});
    if (y->numel() == 0) return;
    const Sizes size = {1, x.size(2), x.size(3)};
    const Source<S> source = {data_of<S>(input), x.size(0), x.size(1) * conv::volume(size), size};
    run(links, source, mutable_data_of<S>(*y));
  });
  return *y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("sparse_conv_chain", TORCH_BOX(&sparse_conv_chain));
}

}  // namespace sparseq::ops
