// t = 0 where a pruning mask is 0: see src/ops/zero_masked.rs.

struct Params {
  // Rows and columns of t; columns of the mask; rows and columns of a block.
  u32 rows, cols, across;
  u32 block_rows, block_cols;
};

// t (rows, cols), m (rows / block_rows, across) -> t
KERNEL zero_masked(float* __restrict__ t, const float* __restrict__ m, Params p) {
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 row = (u32)(i / p.cols), c = (u32)(i % p.cols);
  if (row >= p.rows) return;
  if (m[(u64)(row / p.block_rows) * p.across + c / p.block_cols] == 0.f) t[i] = 0.f;
}
