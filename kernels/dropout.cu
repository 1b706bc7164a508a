// y = x m / (1 - p), and dx from dy by the same formula: see src/ops/dropout.rs.
// Constants: T (x), G (y), VEC (8 or 1).

struct Params {
  Drop drop;
  u32 rows, cols;
  u32 add;
};

// One thread a block of eight columns. x (rows, cols), key (5) -> y (rows, cols)
KERNEL dropout_apply(const T* __restrict__ x, const u32* __restrict__ key, G* __restrict__ y, Params p) {
  const u32 blocks = ceil_div(p.cols, 8);
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 row = (u32)(i / blocks), first = (u32)(i % blocks) * 8;
  if (row >= p.rows) return;
  const uint4 words = drop_words(p.drop, key, row, first / 8);
#pragma unroll
  for (u32 c = first; c < first + 8; c += VEC) {
    if (c >= p.cols) break;
    const u64 at = (u64)row * p.cols + c;
    float v[VEC];
    load(v, x + at);
#pragma unroll
    for (u32 e = 0; e < VEC; e++) v[e] *= drop_factor(p.drop, words, c + e);
    put(y + at, v, p.add);
  }
}
