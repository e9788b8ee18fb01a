// The Hamilton product as tables over the components r, i, j, k.
#pragma once

namespace sparseq {

// kBlock[a][b], kSign[a][b]: C_a += sign * A_block * B_b
constexpr int kBlock[4][4] = {{0, 1, 2, 3}, {1, 0, 3, 2}, {2, 3, 0, 1}, {3, 2, 1, 0}};
constexpr int kSign[4][4] = {{1, -1, -1, -1}, {1, 1, -1, 1}, {1, 1, 1, -1}, {1, -1, 1, 1}};

}  // namespace sparseq
