// sparse_conv_chain: sparse convolutions one after another, each with its bias and, where asked, a
// ReLU and a max pooling (sparseq/ops/sparse_conv_chain.py).
//
// x and y are (N, channels, height, width), contiguous; 16-bit types are computed in float
// throughout and rounded at the end. As many images as a vector has lanes go through all layers
// together, one in each lane; a few images left over have pixels in the lanes. What lies between
// two layers is never copied: sums go through ReLU and pooling to where the next layer reads. Which
// image goes which way depends on the sizes alone, so the bits do not depend on the threads.

#include <torch/csrc/stable/library.h>

#include "dtypes.h"
#include "sparse_conv_chain_lanes.h"
#include "sparse_conv_chain_lines.h"

namespace sparseq {
namespace {

using Tensors = std::vector<Tensor>;
using Numbers = std::vector<int64_t>;
constexpr const char* kOp = "sparse_conv_chain";
constexpr int64_t kNumbers = 11;  // of the geometry of two dimensions

template <typename S, typename T>
void run(const std::vector<Link<S, T>>& links, const Source<S>& x, S* y) {
  static thread_local std::vector<std::unique_ptr<LinkMemory>> memory;
  constexpr int64_t n = kLanes<T>;
  int64_t operations = 0;
  for (const Link<S, T>& link : links) operations += link.operations();
  const int64_t rest = x.images % n;
  const bool lines = rest > 0 && 3 * rest <= n && LineChain<S, T>::fits(links);
  const int64_t blocks = lines ? x.images / n : (x.images + n - 1) / n;
  const int64_t threads = useful_threads(operations * (x.images + n - 1) / n);
  if (blocks > 0) {
    const LaneChain<S, T> chain(links, memory);
    const int64_t together = blocks / threads * threads;  // one block for each thread at a time
    const auto block = [&](int64_t i, int64_t parts) {
      chain.run(x, y, i * n, std::min(n, x.images - i * n), parts);
    };
    parallel_items(together, threads, [&](int64_t i) { block(i, 1); });
    for (int64_t i = together; i < blocks; ++i) block(i, threads);
  }
  if (lines) LineChain<S, T>(links, rest).run(x, y, blocks * n, threads);
}

// Checked sizes of the convolution that takes `channels` maps of size `in`.
template <typename S, typename T>
Link<S, T> link_of(const Geometry& g, const Csr& csr, int64_t channels, const Sizes& in,
                   int64_t pool) {
  Link<S, T> link{g, csr, nullptr, nullptr, {}, false, pool, in, {1, 1, 1}, {1, 1, 1}, channels};
  SPARSEQ_CHECK(csr.columns * g.groups == channels * g.taps() && csr.rows % g.groups == 0, kOp,
                "patterns", "must take the channels that come in", csr.columns);
  SPARSEQ_CHECK(pool >= 1, kOp, "pool", "must be at least 1", pool);
  for (int axis = 1; axis < kAxes; ++axis) {
    link.conv[axis] = g.output(axis, in[axis]);
    link.out[axis] = link.conv[axis] / pool;
    SPARSEQ_CHECK(link.conv[axis] >= 1 && link.out[axis] >= 1, kOp, "x",
                  "must be large enough for every kernel and pooling", link.conv[axis]);
  }
  return link;
}

// Numbers of a tensor as sums are kept in: its own, or converted into `memory`.
template <typename S, typename T>
const T* bias_in(const Tensor& bias, std::vector<std::vector<T>>& memory) {
  if (bias.numel() == 0) return nullptr;
  const S* stored = static_cast<const S*>(bias.const_data_ptr());
  if constexpr (std::is_same_v<S, T>) {
    return stored;
  } else {
    memory.emplace_back(bias.numel());
    detail::copy_row<T>(stored, memory.back().data(), bias.numel());
    return memory.back().data();
  }
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
                    (a.orders.empty() || a.orders.size() == 3 * count) &&
                    a.geometry.size() == kNumbers * count,
                kOp, "values",
                "must be one tensor for each bias, relu and pool, five of patterns, three or none "
                "of orders and eleven numbers of geometry, at least one",
                count);
}

// The order by taps of link `index`, checked against its pattern.
template <typename S, typename T>
void take_order(const Tensors& orders, size_t index, Link<S, T>& link) {
  if (orders.empty()) return;
  const int64_t counts[3] = {link.csr.rows * link.g.taps() + 1, link.csr.nnz(), link.csr.nnz()};
  for (size_t i = 0; i < 3; ++i) {
    const Tensor& order = orders[3 * index + i];
    SPARSEQ_CHECK(order.scalar_type() == torch::headeronly::ScalarType::Int &&
                      order.is_contiguous() && order.numel() == counts[i],
                  kOp, "orders", "must be int32, contiguous and of the pattern's size",
                  order.numel());
    link.order[i] = static_cast<const int32_t*>(order.const_data_ptr());
  }
}

template <typename S, typename T>
std::vector<Link<S, T>> links_of(const Tensor& x, const Arguments& a,
                                 std::vector<std::vector<T>>& memory) {
  std::vector<Link<S, T>> links;
  Sizes in = {1, x.size(2), x.size(3)};
  int64_t channels = x.size(1);
  for (size_t i = 0; i < a.values.size(); ++i) {
    const Tensor &values = a.values[i], &bias = a.biases[i];
    const auto numbers = a.geometry.begin() + static_cast<std::ptrdiff_t>(kNumbers * i);
    const auto tensors = a.patterns.begin() + static_cast<std::ptrdiff_t>(5 * i);
    const Geometry g = read_geometry(kOp, Numbers(numbers, numbers + kNumbers));
    const Csr csr = view_pattern(kOp, Tensors(tensors, tensors + 5)).forward;
    Link<S, T> link = link_of<S, T>(g, csr, channels, in, a.pool[i]);
    SPARSEQ_CHECK(values.numel() == csr.nnz(), kOp, "values", "must fit the pattern",
                  values.numel());
    SPARSEQ_CHECK(bias.numel() == 0 || bias.numel() == csr.rows, kOp, "biases",
                  "must be empty or have an entry for each channel", bias.numel());
    check_same_type(kOp, "values", x, values);
    check_same_type(kOp, "biases", x, bias);
    link.values = static_cast<const S*>(values.const_data_ptr());
    link.bias = bias_in<S, T>(bias, memory);
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
  SPARSEQ_CHECK(x.dim() == 4, kOp, "x", "must be (N, channels, height, width)", x.dim());
  const Tensor input = as_contiguous(x);
  std::optional<Tensor> y;
  with_types(kOp, x, [&](auto types) {
    using S = typename decltype(types)::S;
    using T = typename decltype(types)::T;
    std::vector<std::vector<T>> memory;
    const std::vector<Link<S, T>> links = links_of<S, T>(x, arguments, memory);
    const Link<S, T>& last = links.back();
    y = new_output(x, {x.size(0), last.channels(), last.out[1], last.out[2]});
    if (y->numel() == 0) return;
    const Sizes size = {1, x.size(2), x.size(3)};
    const Source<S> source = {static_cast<const S*>(input.const_data_ptr()), x.size(0),
                              x.size(1) * size[1] * size[2], size};
    run(links, source, static_cast<S*>(y->mutable_data_ptr()));
  });
  return *y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseq, CPU, m) {
  m.impl("sparse_conv_chain", TORCH_BOX(&sparse_conv_chain));
}

}  // namespace sparseq
