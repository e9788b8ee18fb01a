// The one way a kernel complains: op, argument, rule, what came.
#pragma once

#include <torch/headeronly/util/Exception.h>

#define SPARSEQ_CHECK(condition, op, argument, rule, got) \
  STD_TORCH_CHECK(condition, op, ": ", argument, " ", rule, ", got ", got)
