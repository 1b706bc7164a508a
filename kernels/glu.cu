// y = act(a) b, where x is a beside b: see src/ops/glu.rs.
// Constants: T (x and y), G (dx), VEC (elements of an access), ACT (see the prelude).

struct Params {
  u32 rows, cols;
  u32 add;
};

// x (rows, 2 cols) -> y (rows, cols)
KERNEL glu_forward(const T* __restrict__ x, T* __restrict__ y, Params p) {
  const u32 wide = p.cols / VEC;
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 row = (u32)(i / wide), c = (u32)(i % wide) * VEC;
  if (row >= p.rows) return;
  const u64 at = (u64)row * 2 * p.cols + c;
  float a[VEC], b[VEC];
  load(a, x + at);
  load(b, x + at + p.cols);
#pragma unroll
  for (u32 e = 0; e < VEC; e++) a[e] = activation<ACT>(a[e]) * b[e];
  store(y + (u64)row * p.cols + c, a);
}

// da = dy b act'(a), db = dy act(a). x (rows, 2 cols), dy (rows, cols) -> dx (rows, 2 cols)
KERNEL glu_backward(const T* __restrict__ x, const T* __restrict__ dy, G* __restrict__ dx, Params p) {
  const u32 wide = p.cols / VEC;
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 row = (u32)(i / wide), c = (u32)(i % wide) * VEC;
  if (row >= p.rows) return;
  const u64 at = (u64)row * 2 * p.cols + c;
  float a[VEC], b[VEC], d[VEC];
  load(a, x + at);
  load(b, x + at + p.cols);
  load(d, dy + (u64)row * p.cols + c);
#pragma unroll
  for (u32 e = 0; e < VEC; e++) {
    const float z = a[e], y = activation<ACT>(z);
    a[e] = d[e] * b[e] * activation_gradient<ACT>(z, y);
    b[e] = d[e] * y;
  }
  put(dx + at, a, p.add);
  put(dx + at + p.cols, b, p.add);
}
