// y = m w, where an element of m belongs to a block of w: see src/ops/mask.rs.
// Constants: T (w, m, dy), G (y, dw, dm), VEC (elements of an access, all of one block).

struct Params {
  // Rows and columns of w; columns of the mask; rows and columns of a block.
  u32 rows, cols, across;
  u32 block_rows, block_cols;
  u32 add;
};

// w (rows, cols), m (rows / block_rows, across) -> y (rows, cols). In the backward pass dy -> dw.
KERNEL mask_forward(const T* __restrict__ w, const T* __restrict__ m, G* __restrict__ y, Params p) {
  const u32 wide = p.cols / VEC;
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 row = (u32)(i / wide), c = (u32)(i % wide) * VEC;
  if (row >= p.rows) return;
  const float mask = widen(m[(u64)(row / p.block_rows) * p.across + c / p.block_cols]);
  float v[VEC];
  load(v, w + (u64)row * p.cols + c);
#pragma unroll
  for (u32 e = 0; e < VEC; e++) v[e] *= mask;
  put(y + (u64)row * p.cols + c, v, p.add);
}

// w, dy (rows, cols) -> dm (rows / block_rows, across): the sum of w dy over a block. A thread a block.
KERNEL mask_sum_few(const T* __restrict__ w, const T* __restrict__ dy, G* __restrict__ dm, Params p) {
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 down = (u32)(i / p.across), c = (u32)(i % p.across) * p.block_cols;
  if ((u64)down * p.block_rows >= p.rows) return;
  float sum = 0.f;
  for (u32 r = 0; r < p.block_rows; r++) {
    const u64 at = ((u64)down * p.block_rows + r) * p.cols + c;
    for (u32 e = 0; e < p.block_cols; e++) sum += widen(w[at + e]) * widen(dy[at + e]);
  }
  const float d[1] = {sum};
  put(dm + i, d, p.add);
}

// The same with a warp a block, whose elements its lanes take in turn.
KERNEL mask_sum_block(const T* __restrict__ w, const T* __restrict__ dy, G* __restrict__ dm, Params p) {
  const u64 i = (u64)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
  const u32 lane = threadIdx.x % 32;
  const u32 down = (u32)(i / p.across), c = (u32)(i % p.across) * p.block_cols;
  if ((u64)down * p.block_rows >= p.rows) return;
  const u32 count = p.block_rows * p.block_cols;
  float sum = 0.f;
  for (u32 e = lane; e < count; e += 32) {
    const u64 at = ((u64)down * p.block_rows + e / p.block_cols) * p.cols + c + e % p.block_cols;
    sum += widen(w[at]) * widen(dy[at]);
  }
  const float d[1] = {warp_sum(sum)};
  if (lane == 0) put(dm + i, d, p.add);
}
