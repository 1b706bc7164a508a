// y_i = sum_c u_ic v_ic: see src/ops/dot.rs. Constants: T (u, v, dy), G (y, dx).

struct Params {
  u32 rows, cols;
  u32 add;
};

// One warp a row. u, v (rows, cols) -> y (rows)
KERNEL dot_forward(const T* __restrict__ u, const T* __restrict__ v, G* __restrict__ y, Params p) {
  const u32 row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= p.rows) return;
  const u64 start = (u64)row * p.cols;
  float sum = 0.f;
  for (u32 c = lane; c < p.cols; c += 32) sum += widen(u[start + c]) * widen(v[start + c]);
  sum = warp_sum(sum);
  if (lane == 0) y[row] = narrow<G>(sum);
}

// dx = dy other. other (rows, cols), dy (rows) -> dx (rows, cols)
KERNEL dot_backward(const T* __restrict__ other, const T* __restrict__ dy, G* __restrict__ dx, Params p) {
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 row = (u32)(i / p.cols);
  if (row >= p.rows) return;
  const float d[1] = {widen(dy[row]) * widen(other[i])};
  put(dx + i, d, p.add);
}
