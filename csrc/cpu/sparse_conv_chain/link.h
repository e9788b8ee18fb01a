// One convolution of a chain, and what follows it before the next one.
#pragma once

#include <memory>

#include "../../common/csr.h"
#include "../conv/geometry.h"

namespace sparseq::sparse_conv_chain {

using conv::Sizes;

template <typename S, typename T>
struct Link {
  conv::Geometry g;
  Csr csr;
  const S* values;          // (nnz)
  const T* bias;            // (rows) or null
  const int32_t* order[3];  // starts, channels and places of the entries by taps, or null
  bool relu;
  int64_t pool;         // 1, or the side of the max pooling's squares
  Sizes in, conv, out;  // maps: read, before and after the pooling
  int64_t channels_in;  // of all groups
  std::shared_ptr<const int32_t[]> pattern, order_copy;  // where csr and order are copies

  int64_t channels() const { return csr.rows; }
  int64_t group_rows() const { return csr.rows / g.groups; }
  bool same_size() const { return g.unit_stride() && in == conv; }
  // Multiply-adds of one image, and the sums that are stored.
  int64_t operations() const { return (csr.nnz() + csr.rows) * conv[1] * conv[2]; }
};

}  // namespace sparseq::sparse_conv_chain
