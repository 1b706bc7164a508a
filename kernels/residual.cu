// y = drop(x) + residual: see src/ops/residual.rs. Constants: T (x, residual, y), G, R (gradients of x and
// residual), VEC (8 or 1), DX, DRES (which of them are wanted).

struct Params {
  Drop drop;
  u32 rows, cols;
  u32 add_x, add_residual;
};

// One thread a block of eight columns. x, residual (rows, cols), key (5) -> y (rows, cols)
KERNEL residual_forward(const T* __restrict__ x, const T* __restrict__ residual, const u32* __restrict__ key,
                        T* __restrict__ y, Params p) {
  const u32 blocks = ceil_div(p.cols, 8);
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 row = (u32)(i / blocks), first = (u32)(i % blocks) * 8;
  if (row >= p.rows) return;
  uint4 words = {};
  if (p.drop.threshold > 0) words = drop_words(p.drop, key, row, first / 8);
#pragma unroll
  for (u32 c = first; c < first + 8; c += VEC) {
    if (c >= p.cols) break;
    const u64 at = (u64)row * p.cols + c;
    float v[VEC], r[VEC];
    load(v, x + at);
    load(r, residual + at);
#pragma unroll
    for (u32 e = 0; e < VEC; e++) r[e] = fmaf(v[e], p.drop.threshold > 0 ? drop_factor(p.drop, words, c + e) : 1.f, r[e]);
    store(y + at, r);
  }
}

// dx = drop(dy), dresidual = dy. dy (rows, cols), key (5) -> dx, dresidual (rows, cols)
KERNEL residual_backward(const T* __restrict__ dy, const u32* __restrict__ key, G* __restrict__ dx,
                         R* __restrict__ dresidual, Params p) {
  const u32 blocks = ceil_div(p.cols, 8);
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 row = (u32)(i / blocks), first = (u32)(i % blocks) * 8;
  if (row >= p.rows) return;
  uint4 words = {};
  if (p.drop.threshold > 0) words = drop_words(p.drop, key, row, first / 8);
#pragma unroll
  for (u32 c = first; c < first + 8; c += VEC) {
    if (c >= p.cols) break;
    const u64 at = (u64)row * p.cols + c;
    float v[VEC];
    load(v, dy + at);
    if constexpr (DRES) put(dresidual + at, v, p.add_residual);
    if constexpr (DX) {
#pragma unroll
      for (u32 e = 0; e < VEC; e++) v[e] *= p.drop.threshold > 0 ? drop_factor(p.drop, words, c + e) : 1.f;
      put(dx + at, v, p.add_x);
    }
  }
}
